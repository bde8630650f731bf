"""A raised threshold in the penultimate layer while the gradient is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from snnrobust.common.validate import check_positive
from snnrobust.errors import InputError, InputTypeError
from snnrobust.kernels.straight_through import straight_through


@dataclass(frozen=True)
class RaisedThreshold:
    """The gradient of a net whose penultimate spiking layer fires later (Liang et al. 2021, arXiv 2001.01587).

    In the pass that the gradient is taken from, the layer spikes where u = v - threshold is at least `by`, in place of
    0: its sparser spikes reach the layers after it, its reset and the objective. Only the gradient of this pass is
    used; outputs, and so every success, are those of the net itself. Each spike passes the gradient of the node's own
    surrogate at u, the distance to the threshold that is not raised, as in the authors' code, which raises .3 to 1.0.
    All other nodes stay as they are.

    A reset that subtracts the threshold subtracts the one that is not raised; the authors' reset is to zero.

    Attributes:
        by: By how much the threshold is raised, in units of the membrane potential.
        layer: Name of the layer, or "" for the last but one of the spiking layers (the only one, if there is one). Name
            it where the output layer does not spike but two layers do, since then it is the last of these.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based import surrogate
        >>> RaisedThreshold().primitive(torch.tensor([-0.1, 0.1, 0.8]), {"surrogate": surrogate.ATan()})
        tensor([0., 0., 1.])
    """

    by: float = 0.7
    layer: str = ""

    def __post_init__(self) -> None:
        check_positive("by", self.by, "give a rise in units of the membrane potential")
        if not isinstance(self.layer, str):
            raise InputTypeError(f"expected layer as the name of a spiking layer, got {self.layer!r}; give its text")

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The node's own spikes, or in the chosen layer those of a raised threshold; of the shape of u."""
        own: Tensor = state["surrogate"](u)
        layers = state.get("layers", ("",))
        if self.layer and self.layer not in layers:
            raise InputError(f"expected layer to name a spiking layer, got {self.layer!r}; name one of {list(layers)}")
        if state.get("layer", "") != (self.layer or layers[-2:][0]):
            return own
        return straight_through(own, (u.detach() >= self.by).to(u))
