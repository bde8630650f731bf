"""What corruptions of images share: checks, and torchvision's operations, which take values in [0, 1]."""

from __future__ import annotations

import importlib
import math
from types import ModuleType

from torch import Tensor

from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, MissingExtraError
from snnrobust.wrapping.model import SpikingModel


def torchvision_functional(noise: str) -> ModuleType:
    """`torchvision.transforms.v2.functional`; raises a `MissingExtraError` without torchvision."""
    try:
        return importlib.import_module("torchvision.transforms.v2.functional")
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "data", f"the corruption '{noise}'") from error


def check_images(
    model: SpikingModel,
    data: EvaluationData,
    noise: str,
    bounds: tuple[float, float] | None = None,
    *,
    colours: bool = False,
) -> None:
    """Raises an `InputError` unless inputs are real-valued images [N, C, H, W].

    Args:
        model: The model.
        data: The data.
        noise: What the corruption is called.
        bounds: The range of values that it works in, which must be the model's; None: any.
        colours: Whether it needs 1 or 3 channels.
    """
    torchvision_functional(noise)
    shape = tuple(data.test.x.shape)
    if not model.static or model.domain != "real" or len(shape) != 4:
        raise InputError(
            f"expected images [N, C, H, W] of domain 'real' for {noise}, got "
            f"{'static' if model.static else 'temporal'} data {shape} of domain '{model.domain}' of model "
            f"'{model.name}'; for events use 'drop-area', 'spike-deletion' or 'spatial-jitter'"
        )
    if bounds is not None and bounds != model.bounds:
        raise InputError(
            f"expected low and high to be the bounds {model.bounds} of model '{model.name}' for {noise}, got {bounds}; "
            f"pass low={model.bounds[0]:g}, high={model.bounds[1]:g}"
        )
    if colours and shape[1] not in (1, 3):
        raise InputError(
            f"expected 1 or 3 channels for {noise}, got {shape[1]} in images {shape}; use 'blur', 'rotation' or "
            f"'occlusion', which take any number"
        )


def check_range(low: float, high: float) -> None:
    """Raises an `InputError` unless `low` is below `high`."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"expected finite low < high, got {low!r} and {high!r}; give the model's bounds")


def to_unit(x: Tensor, low: float, high: float) -> Tensor:
    """Values in [low, high] as values in [0, 1]."""
    return (x - low) / (high - low)


def from_unit(x: Tensor, low: float, high: float) -> Tensor:
    """Values in [0, 1] as values in [low, high]."""
    return low + (high - low) * x
