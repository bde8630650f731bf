"""Which spiking nodes of a net can run on fast kernels, and why the others can't."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from snnrobust.acceleration.tracing import has_hooks
from snnrobust.errors import InputError, SnnRobustError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.plugin.protocols import AnyEstimator, PerModule, Pointwise
from snnrobust.spike_gradients.heaviside import emits_heaviside
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel

_MULTI_STEP = "is multi-step in a net that is called step by step; set step_mode='s'"
SINGLE_STEP = (
    "is single-step; set step_mode='m', and call it with all steps, [T, N, *], or wrap the net with layout='step'"
)
#: The derivative of a spike at u, or None where it is of no known family.
DerivativeSource = Callable[[], Callable[[Tensor], Tensor] | None]


class NotAccelerated(SnnRobustError):
    """A model or estimator that can't be accelerated; the message has the reason."""


#: Of nets whose spikes are Functions in code of other frameworks, or of the user.
NO_KNOWN_NODES = "it has no spiking nodes of SpikingJelly, whose equations the fast kernels know"


@dataclass
class NodeChoice:
    """The nodes of a net that may run on fast kernels, and the others.

    Attributes:
        chosen: Nodes with a fast kernel, by name, with the derivative of their spikes.
        looped: The names of those that are single-step in a net that takes all steps: it has to loop over them.
        own_operator: Nodes that stay as they are because their framework has a fused operator for them.
        reasons: Why the others have no fast kernel, by name.
    """

    chosen: dict[str, tuple[nn.Module, DerivativeSource]] = field(default_factory=dict)
    looped: list[str] = field(default_factory=list)
    own_operator: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def choose_nodes(model: SpikingModel, adapter: Adapter, estimator: AnyEstimator) -> NodeChoice:
    """The nodes that can be accelerated with an estimator.

    Raises:
        NotAccelerated: If there are none, or the estimator needs others.
    """
    nodes = adapter.nodes(model.net)
    named: Mapping[str, AnyEstimator]
    named = estimator.modules if isinstance(estimator, PerModule) else dict.fromkeys(nodes, estimator)
    if others := sorted(set(named) - set(nodes)):
        raise NotAccelerated(f"{others} are no spiking nodes")
    choice = NodeChoice()
    for name, node in nodes.items():
        each = named.get(name, Own())
        own = isinstance(each, Own)
        if own and adapter.has_operator(node, model.device):
            choice.own_operator.append(name)
            continue
        source: DerivativeSource = partial(adapter.derivative, node)
        if isinstance(each, Pointwise):
            source = partial(_same, each.derivative)
        elif not own:
            raise NotAccelerated(f"the estimator {each!r} is not a pointwise derivative")
        reason = why_not(node, adapter, model, own_surrogate=own)
        if reason:
            choice.reasons[name] = f"{described(name, node)} {reason}"
            if not own:
                raise NotAccelerated(choice.reasons[name])
            continue
        surrogate = node.get_submodule("surrogate_function")
        if (emits := emits_heaviside(surrogate)) != "yes":
            differs = "emits other values than 0 and 1" if emits == "no" else "may not spike at the threshold"
            raise NotAccelerated(f"the surrogate {type(surrogate).__name__} of {described(name, node)} {differs}")
        choice.chosen[name] = node, source
        if model.layout != "step" and not adapter.is_multi_step(node):
            choice.looped.append(name)
    if not choice.chosen and not choice.own_operator:
        raise NotAccelerated("; ".join(list(choice.reasons.values())[:1]) or NO_KNOWN_NODES)
    return choice


def described(name: str, node: nn.Module) -> str:
    """A node in a message."""
    return f"node '{name}' ({type(node).__name__})"


def why_not(node: nn.Module, adapter: Adapter, model: SpikingModel, *, own_surrogate: bool) -> str:
    """Why a node has no fast kernel, to be read behind its name; empty where it has one.

    A single-step node in a net that takes all steps may have one: whether the net loops over it, its graph will tell.
    """
    if model.layout == "step" and adapter.is_multi_step(node):
        return _MULTI_STEP
    try:
        adapter.dynamics(node)
    except InputError:
        return "is not of the leaky integrate-and-fire family with one threshold, reset and leak for all neurons"
    if own_surrogate and adapter.derivative(node) is None:
        surrogate = node.get_submodule("surrogate_function")
        if not getattr(surrogate, "spiking", True):
            return f"emits the smooth values of its surrogate {type(surrogate).__name__}; set spiking=True"
        return f"has the surrogate {type(surrogate).__name__}, for which there is no fast kernel with its settings"
    if adapter.records_membrane(node):
        return "stores its membrane potentials; set store_v_seq=False"
    return "has hooks, which are to be called with its own values; remove them" if has_hooks(node) else ""


def _same(derivative: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return derivative
