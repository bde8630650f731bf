"""`lif`: one spiking node for any leak x reset x recurrence; `Variant`: such a combination as a value."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypedDict, Unpack, get_args

from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from snnrobust.common.validate import check_choice, check_flag, check_real
from snnrobust.errors import InputError, InputTypeError
from snnrobust.kernels.dynamics import Reset
from snnrobust.neurons.node import Leak, LoopNode, StepMode, Surrogate


class NodeOptions(TypedDict, total=False):
    """The options of a node besides its variant; see `lif`."""

    k: float
    threshold: float
    surrogate: Surrogate | None
    detach_reset: bool
    step_mode: StepMode
    features: int | None


@dataclass(frozen=True)
class Variant:
    """A combination of modelling components.

    Args:
        leak: "normal" (a fixed k), "none" (k = 1), "complete" (k = 0, no memory) or "learnable" (a trained k).
        reset: "hard" (to 0), "soft" (minus the threshold) or "none".
        recurrent: with a lateral term V o[t-1].

    Raises:
        InputError: an unknown leak or reset.
        InputTypeError: a value of the wrong type.

        >>> Variant(leak="none", recurrent=True).equation
        'u[t] = u[t-1] (1 - o[t-1]) + x[t] + V o[t-1]'
    """

    leak: Leak = "normal"
    reset: Reset = "hard"
    recurrent: bool = False

    def __post_init__(self) -> None:
        check_choice("leak", self.leak, get_args(Leak))
        check_choice("reset", self.reset, get_args(Reset))
        check_flag("recurrent", self.recurrent)

    @property
    def equation(self) -> str:
        """The equation of the membrane potential u as text, with o[t] = H(u[t] - threshold)."""
        kept = {
            "hard": "u[t-1] (1 - o[t-1])",
            "soft": "(u[t-1] - threshold o[t-1])",
            "none": "u[t-1]",
        }[self.reset]
        memory = {"normal": f"k {kept} + ", "none": f"{kept} + ", "complete": "", "learnable": f"k {kept} + "}[
            self.leak
        ]
        return f"u[t] = {memory}x[t]" + (" + V o[t-1]" if self.recurrent else "")

    @property
    def node_class(self) -> type[nn.Module]:
        """SpikingJelly's own node, with its CUDA operators, where its equation is exactly this one; else `LoopNode`."""
        if self.recurrent or self.reset == "none" or self.leak == "complete":
            return LoopNode
        own: dict[str, type[nn.Module]] = {
            "normal": neuron.LIFNode,
            "none": neuron.IFNode,
            "learnable": neuron.ParametricLIFNode,
        }
        return own[self.leak]

    def build(self, **options: Unpack[NodeOptions]) -> nn.Module:
        """A node of this variant; the options and errors are those of `lif`."""
        return lif(self.leak, self.reset, self.recurrent, **options)


def lif(
    leak: Leak = "normal",
    reset: Reset = "hard",
    recurrent: bool = False,
    *,
    k: float = 0.5,
    threshold: float = 1.0,
    surrogate: Surrogate | None = None,
    detach_reset: bool = False,
    step_mode: StepMode = "m",
    features: int | None = None,
) -> nn.Module:
    """A leaky integrate-and-fire node, as a SpikingJelly `neuron.BaseNode`.

    With o[t] = H(u[t] - threshold), the input x not scaled by 1 - k:

        hard reset   u[t] = k u[t-1] (1 - o[t-1]) + x[t]
        soft reset   u[t] = k (u[t-1] - threshold o[t-1]) + x[t]
        no reset     u[t] = k u[t-1] + x[t]
        recurrent    ... + V o[t-1],  V [features, features], learned, without bias

    Source: Yin et al. 2024, arXiv 2403.16674. Code of the same group fires at >; here, as in SpikingJelly, it is >=.

    The node is SpikingJelly's LIFNode, IFNode or ParametricLIFNode where that is exactly the equation, else a
    `LoopNode`. State is cleared by SpikingJelly's `functional.reset_net`. V starts as torch's `nn.Linear` does, from
    torch's default generator: seed it with `torch.manual_seed`, as for every other layer.

    Args:
        leak: "normal" (a fixed k), "none" (k = 1), "complete" (k = 0) or "learnable" (k is trained, starting at `k`).
        reset: "hard" (to 0), "soft" (minus the threshold) or "none".
        recurrent: add the lateral term; needs `features`, and inputs whose last dimension is `features`.
        k: the share of the membrane potential that a step keeps, strictly between 0 and 1; the leaks "none" and
            "complete" don't use it.
        threshold: the membrane potential at which a spike is fired, positive.
        surrogate: maps u - threshold to spikes and defines their gradient; copied, so that no two nodes share one.
            None: SpikingJelly's `surrogate.ATan()`.
        detach_reset: no gradient passes through the reset.
        step_mode: "m" takes [T, N, *], "s" takes [N, *] a call; both return spikes of the input's shape.
        features: the number of neurons of a recurrent layer.

    Raises:
        InputError: a name, number or combination that can't be used.
        InputTypeError: a value of the wrong type.

        >>> import torch
        >>> node = lif(k=0.5)
        >>> node(torch.full((4, 1, 1), 0.6)).flatten().tolist()  # u: 0.6, 0.9, 1.05 (spike, reset), 0.6
        [0.0, 0.0, 1.0, 0.0]
    """
    variant = Variant(leak, reset, recurrent)
    k, threshold = _check_k(k), _check_threshold(threshold)
    check_flag("detach_reset", detach_reset)
    check_choice("step_mode", step_mode, get_args(StepMode))
    _check_features(features, recurrent)
    spike = _own_surrogate(surrogate)
    if variant.node_class is LoopNode:
        return LoopNode(
            leak,
            reset,
            k=k,
            threshold=threshold,
            surrogate_function=spike,
            detach_reset=detach_reset,
            step_mode=step_mode,
            features=features,
        )
    tau = 1.0 / (1.0 - k)
    leakage: dict[str, dict[str, object]] = {
        "normal": {"tau": tau, "decay_input": False},
        "none": {},
        "learnable": {"init_tau": tau, "decay_input": False},
    }
    return variant.node_class(
        v_threshold=threshold,
        v_reset=0.0 if reset == "hard" else None,
        surrogate_function=spike,
        detach_reset=detach_reset,
        step_mode=step_mode,
        **leakage[leak],
    )


def _check_k(k: float) -> float:
    value = check_real("k", k)
    # Asked of 1 - k, so that a k lost to rounding (SpikingJelly needs tau = 1 / (1 - k) > 1) and NaN fail as well.
    if not 0.0 < 1.0 - value < 1.0:
        raise InputError(
            f"expected k strictly between 0 and 1, got {value}; "
            "for k = 1 use leak='none', for k = 0 use leak='complete'"
        )
    return value


def _check_threshold(threshold: float) -> float:
    value = check_real("threshold", threshold)
    if not 0.0 < value < math.inf:
        raise InputError(f"expected a positive, finite threshold, got {value}; pass a value above 0")
    return value


def _check_features(features: int | None, recurrent: bool) -> None:
    if not recurrent:
        if features is not None:
            raise InputError(
                f"expected no features without recurrence, got {features!r}; leave it out, or set recurrent=True"
            )
        return
    if features is None:
        raise InputError("expected features for a recurrent node, got None; pass the size of the layer before it")
    if isinstance(features, bool) or not isinstance(features, int):
        raise InputTypeError(
            f"expected features to be an int, got {features!r} ({type(features).__name__}); pass a positive int"
        )
    if features < 1:
        raise InputError(f"expected features of at least 1, got {features}; pass a positive int")


def _own_surrogate(given: Surrogate | None) -> Surrogate:
    # SpikingJelly's default is one object for all nodes of a process: changing it in one would change it in all.
    if given is None:
        fresh: Surrogate = surrogate.ATan()
        return fresh
    if not callable(given):
        raise InputTypeError(
            f"expected surrogate to be a callable or None, got {given!r} ({type(given).__name__}); "
            "pass e.g. spikingjelly.activation_based.surrogate.ATan()"
        )
    return copy.deepcopy(given)
