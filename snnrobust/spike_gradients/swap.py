"""Replaces how gradients pass spikes in a net for a while, and restores it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError, PluginError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.find import (
    LIKE_IN_EVAL,
    find_adapter,
    listed,
    refuse_unsupported_spikes,
    unsupported_spikes,
)
from snnrobust.frameworks.functions.sites import Sites
from snnrobust.plugin.protocols import AnyEstimator, Estimator, Mixture, NodeEstimator, PerModule, Relaxation
from snnrobust.spike_gradients.patched import PassContext, Patched
from snnrobust.spike_gradients.patched_functions import PatchedFunctions
from snnrobust.spike_gradients.patched_module import PatchedModule
from snnrobust.spike_gradients.sample_memory import SampleMemory
from snnrobust.wrapping.model import SpikingModel


@dataclass(frozen=True)
class Own:
    """The model's own surrogate gradient: nothing is swapped."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The derivative that the node's own surrogate gives at u."""
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(state["surrogate"](at).sum(), at)
        return gradient


class SpikeGradient:
    """A reusable context that sets how gradients pass spikes in a net; forward values stay the same if it is `exact`.

    Everything is restored on leaving, also after an exception. What an estimator keeps in its state lives as long as
    this object, over any number of times it is entered; its memory of single samples only inside `at`.

    Args:
        net: A model; or a net of SpikingJelly, whose nodes are known without a forward pass. Of a model, spikes that
            are `torch.autograd.Function`s are swapped as well, in any net, once it was called (see
            `SpikingModel.find_spikes`).
        estimator: One for all nodes, or a mapping from module name to estimator; nodes left out keep their own. For a
            `Mixture`, which needs several passes, see `spike_gradient_contexts`.

    Attributes:
        memory: What the estimator keeps of single samples.

    Raises:
        InputError: If `net` has no spike whose gradient can be swapped, a name is not among its nodes, a node to be
            swapped emits other values than spikes 0 and 1 or ignores its surrogate in eval mode, one estimator for all
            nodes leaves some out that can't be swapped, or a `NodeEstimator` is used for a node that is called step by
            step.
        PluginError: On leaving, if a node ran without the estimator because it computes its gradient elsewhere.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import neuron
        >>> from snnrobust_attacks.estimators.atan import ATan
        >>> net = nn.Sequential(nn.Linear(4, 3), neuron.IFNode())
        >>> with SpikeGradient(net, ATan(alpha=4.0)):
        ...     spikes = net(torch.rand(2, 4))
        >>> type(net[1].surrogate_function).__name__
        'Sigmoid'
    """

    def __init__(self, net: nn.Module | SpikingModel, estimator: AnyEstimator | Mapping[str, AnyEstimator]) -> None:
        self._estimator = estimator
        self.memory = SampleMemory()
        self._entered: list[ExitStack] = []
        self._context: PassContext | None = None
        self._patched: list[PatchedModule] = []
        self._functions: PatchedFunctions | None = None
        if not isinstance(estimator, Own):
            self._patched, self._functions = _patched_places(net, estimator)
            for each in self._places:
                each.among([place.name for place in self._places])

    @property
    def _places(self) -> list[Patched]:
        sites = self._functions.places.values() if self._functions is not None else ()
        return [*self._patched, *sites]

    @property
    def exact(self) -> bool:
        """Whether forward values are the net's own: they are, unless a `Relaxation` is in place."""
        return not any(isinstance(each.estimator, Relaxation) for each in self._places)

    @property
    def over_time(self) -> bool:
        """Whether an estimator sees a node's whole sequence, of which it may take means over all steps."""
        return any(isinstance(each.estimator, NodeEstimator) for each in self._patched)

    @contextmanager
    def at(self, index: Tensor, frozen: bool = False) -> Iterator[Self]:
        """Context for one forward and backward pass of the samples `index` [N].

        Args:
            index: Sample ids, whatever batch they come in; what an estimator remembers of each is kept in between.
            frozen: Whether this is a further draw at the same iterates, which leaves what is remembered alone.
        """
        outer, self._context = self._context, PassContext(index, frozen, self.memory)
        try:
            with self:
                yield self
        finally:
            self._context = outer

    def forget(self, index: Tensor | None = None) -> None:
        """Drops what is remembered of the samples `index` [N], or of all."""
        self.memory.forget(index)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for each in self._patched:
                stack.enter_context(each.place(self._context))
            if self._functions is not None:
                stack.enter_context(self._functions.place(self._context))
            self._entered.append(stack.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)
        idle = sorted(each.name for each in self._places if each.ran and not each.used)
        if kind is None and idle:
            raise PluginError(
                f"expected every node to take its gradient from {self._estimator!r}, got nodes {idle} that never "
                f"used it; name only the other nodes: gradient={{'name': 'per-module', 'entries': (('NODE', "
                f"estimator), ...)}}, or a mapping in SpikeGradient; or use gradient='own'"
            )


def spike_gradient_contexts(net: nn.Module | SpikingModel, estimator: AnyEstimator) -> list[SpikeGradient]:
    """One `SpikeGradient` per part of a (nested) mixture, else one; the gradient is the mean over them.

    Raises:
        InputError: As `SpikeGradient`; also for a mixture of nothing.
    """
    return [SpikeGradient(net, part) for part in _parts(estimator)]


def batch_dependent(estimator: AnyEstimator) -> bool:
    """Whether an estimator, or a part of it, declares that a sample's gradient depends on its batch mates."""
    if isinstance(estimator, Mixture):
        return any(batch_dependent(part) for part in estimator.parts)
    if isinstance(estimator, PerModule):
        return any(batch_dependent(each) for each in estimator.modules.values())
    return bool(getattr(estimator, "batch_dependent", False))


_NAME_OTHERS = (
    "name the nodes to swap: gradient={'name': 'per-module', 'entries': (('NODE', estimator), ...)}, or a mapping in "
    "SpikeGradient; or use gradient='own'"
)


def _parts(estimator: AnyEstimator) -> list[AnyEstimator]:
    if not isinstance(estimator, Mixture):
        return [estimator]
    if not estimator.parts:
        raise InputError(f"expected a mixture of at least one estimator, got {estimator!r}; name its parts")
    return [part for each in estimator.parts for part in _parts(each)]


def _patched_places(
    net: nn.Module | SpikingModel, estimator: AnyEstimator | Mapping[str, AnyEstimator]
) -> tuple[list[PatchedModule], PatchedFunctions | None]:
    """Where estimators are put: modules, and sites of Functions; what is left out, or has `Own`, is not among them."""
    model, net = (net, net.net) if isinstance(net, SpikingModel) else (None, net)
    adapter = find_adapter(net)
    nodes = adapter.nodes(net) if adapter is not None else {}
    found = None if model is None else model.sites
    sites = [] if found is None else list(found.by_name)
    named = estimator.modules if isinstance(estimator, PerModule) else estimator
    if isinstance(named, Mapping):
        modules = dict(net.named_modules())
        others = [name for name, each in named.items() if name not in nodes and isinstance(each, NodeEstimator)]
        if unknown := sorted(set(named) - set(nodes) - set(sites) - (set(others) & set(modules))):
            raise InputError(
                f"expected node names among {sorted({*nodes, *sites})}, got {unknown}; name nodes of this net, or "
                f"any module of it with an estimator of whole modules (NodeEstimator)"
            )
        chosen = {name: each for name, each in named.items() if not isinstance(each, Own)}
    elif nodes or sites:
        refuse_unsupported_spikes(net, found, "swapped", f"they would keep their own gradient: {_NAME_OTHERS}")
        modules, chosen = dict(nodes), dict.fromkeys([*nodes, *sites], named)
    else:
        raise InputError(
            f"expected a net with spikes that can be swapped for gradient={estimator!r}, "
            f"got {type(net).__name__}{_without(net, found)}; use gradient='own'"
        )
    _check_kinds(chosen)
    at_sites = {name: each for name, each in chosen.items() if name in sites and name not in nodes}
    whole = [name for name, each in at_sites.items() if isinstance(each, NodeEstimator)]
    if whole:
        raise InputError(
            f"expected nodes with a known equation for {at_sites[whole[0]]!r}, got {whole}, which are Functions inside "
            f"code that this package does not know; use an estimator of single spikes, e.g. gradient='atan'"
        )
    patched = [
        PatchedModule(name, modules[name], each, adapter if name in nodes else None)
        for name, each in chosen.items()
        if name not in at_sites
    ]
    _check(patched, nodes, adapter)
    if model is None or found is None or not at_sites:
        return patched, None
    return patched, PatchedFunctions(model, found, at_sites)


def _without(net: nn.Module, sites: Sites | None) -> str:
    """What spikes in a net without nodes that can be swapped, for an error."""
    if others := unsupported_spikes(net, sites):
        return f" with {listed(others)}, which can't be swapped"
    if sites is not None:
        return ""
    return "; a wrapped model finds spikes by a forward pass, which model.find_spikes(x) does"


def _check_kinds(chosen: Mapping[str, AnyEstimator]) -> None:
    for name, each in chosen.items():
        if isinstance(each, Mixture | PerModule):
            raise InputError(
                f"expected one estimator for module '{name}', got {each!r}; make the mixture the outer estimator, with "
                f"mappings as its parts"
            )
        if not isinstance(each, Estimator | NodeEstimator | Relaxation):
            raise InputError(f"expected an estimator for '{name}', got {each!r}; see snnrobust.plugin.Estimator")


def _check(patched: list[PatchedModule], nodes: Mapping[str, nn.Module], adapter: Adapter | None) -> None:
    comparing = [each.name for each in patched if isinstance(each.estimator, Estimator | Relaxation)]
    smooth = sorted(
        name
        for name in set(comparing) & set(nodes)
        if not getattr(nodes[name].get_submodule("surrogate_function"), "spiking", True)
    )
    if smooth:
        raise InputError(
            f"expected nodes that emit spikes, got {smooth} whose surrogate has spiking=False and emits smooth "
            f"values, which a swap would change; set spiking=True, or leave these nodes out"
        )
    for each in patched:
        if each.name in comparing and each.name in nodes:
            each.check_surrogate()
    deaf = {
        name: nodes[name]
        for name in comparing
        if name in nodes and adapter is not None and adapter.ignores_surrogate(nodes[name]) and not nodes[name].training
    }
    if deaf:
        raise InputError(
            f"expected nodes that call their surrogate in eval mode, got {listed(deaf)}; {LIKE_IN_EVAL}, or attack "
            f"without gradients: 'square' (linf, l2), 'random-search' (l1, l0)"
        )
    whole = [each for each in patched if isinstance(each.estimator, NodeEstimator) and each.name in nodes]
    stepwise = [each.name for each in whole if adapter is not None and not adapter.is_multi_step(nodes[each.name])]
    if stepwise:
        raise InputError(
            f"expected nodes that are called with all steps for {whole[0].estimator!r}, got {stepwise} which take one "
            f"step a call; set step_mode 'm' (functional.set_step_mode) and wrap the net with layout='TN'"
        )
