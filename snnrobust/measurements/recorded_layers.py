"""What a measurement needs to record of a net: checked on two samples before it starts."""

from __future__ import annotations

from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError
from snnrobust.frameworks.find import listed
from snnrobust.wrapping.model import SpikingModel


def check_recorded(model: SpikingModel, test: Dataset, measurement: str, *, comparisons: bool = False) -> None:
    """Raises an `InputError` unless the spikes of a model can be recorded.

    Args:
        model: A model.
        test: The data.
        measurement: The measurement that needs them, for errors.
        comparisons: Whether it also needs the membrane potentials that are compared with the threshold.
    """
    few = test.take(min(2, len(test)))
    try:
        found = model.record(few.x, keys=few.index)
    except InputError as error:
        raise InputError(f"{error}; {measurement} needs them (model '{model.name}')") from error
    graded = {name: model.net.get_submodule(name) for name in found.spikes if name not in found.distances}
    if comparisons and graded:
        raise InputError(
            f"expected layers that emit spikes 0 and 1, or counts of them, by one comparison each in model "
            f"'{model.name}', got {listed(graded)}; leave {measurement} out for this net"
        )
