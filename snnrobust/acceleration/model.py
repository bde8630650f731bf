"""An accelerated stand-in of a model: shares the user's parameters, and only ever searches.

What it finds counts only after the user's own net, eager and freshly reset, has agreed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from snnrobust.acceleration.graph import called_modules, has_hooks, rewritten
from snnrobust.acceleration.node import FastNode
from snnrobust.common.batching import even_parts, out_of_memory
from snnrobust.errors import InputError, SnnRobustError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.backends import backends
from snnrobust.plugin.protocols import AnyEstimator, PerModule, Pointwise
from snnrobust.spike_gradients.patched_module import put_forward
from snnrobust.spike_gradients.swap import Own, passes
from snnrobust.wrapping.model import AT_ONCE, SpikingModel

#: Matrix products of fewer than 8 rows and 1 x 1 convolutions of fewer than 16 take other paths, with other rounding
#: (measured on x86-64). Smaller batches are filled up to this, so that a sample's search does not depend on how many
#: are left beside it; and a new twin is checked on so many.
ROWS = 16
#: The share of them whose outputs must agree, and of these all gradients. A spike on the threshold may fall either
#: way where a sum is rounded otherwise.
AGREEING = 0.75


#: Under which a session keeps inputs [N, *] and ids [N] of a few samples, for twins to be checked on.
FIRST = "first samples"
#: Bytes above which glibc asks the system for fresh memory each time, to be cleared page by page.
REUSED = 32 * 2**20


class NotAccelerated(SnnRobustError):
    """A model or estimator that can't be accelerated; the message says why."""


class AcceleratedModel(SpikingModel):
    """A model whose spiking nodes run in fast kernels, with the derivatives that an estimator gives.

    It holds no values of its own: parameters, buffers and the numbers of each node are read at each pass.

    Args:
        model: The model.
        estimator: How a gradient passes a spike: the net's own surrogates, or estimators with a `derivative`.

    Raises:
        NotAccelerated: If there is nothing to accelerate, or the estimator is more than a derivative.
    """

    def __init__(self, model: SpikingModel, estimator: AnyEstimator) -> None:
        vars(self).update(vars(model))
        self._original = model
        self._refusal: NotAccelerated | None = None
        self._checked = False
        self._estimator = estimator
        adapter = model.adapter
        if adapter is None:
            raise NotAccelerated("the net is of no known framework")
        if model.foreign_randomness:
            raise NotAccelerated("the net draws random numbers")
        chosen = _derivatives(model, adapter, estimator)
        self._backends, reason = backends(model.device.type)
        if not self._backends:
            raise NotAccelerated(reason)
        self.fast = {
            name: FastNode(node, adapter, derivative, self._backends) for name, (node, derivative) in chosen.items()
        }
        fixed = model.layout == "TN" and model.encoder == "repeat"
        with model.session():  # in eval mode and freshly reset, as each pass will be
            model.reset()
            graph = rewritten(model.net, adapter, self.fast, model.steps if fixed else None)
        self._hoisted = graph is not None and fixed
        if not chosen and not self._hoisted:
            raise NotAccelerated("its nodes run on operators of their framework, and nothing is the same at each step")
        self._graph: nn.Module = model.net if graph is None else graph
        called = set() if graph is None else called_modules(graph)
        nodes = adapter.nodes(model.net)
        left = [name for name in self.fast if nodes[name] in called]
        for name in left:
            del self.fast[name]
        if left and not (self.fast and isinstance(estimator, Own)):
            raise NotAccelerated(f"nodes {left} are called more than once a pass")
        #: Fast nodes where the net was not looked into, put in place for each pass.
        self._placed = {name: each for name, each in self.fast.items() if each not in called}

    def session(self) -> AbstractContextManager[None]:
        """That of the original: it is one net."""
        return self._original.session()

    def reset(self) -> None:
        """Resets what runs as it is beside the fast nodes."""
        self._original.reset()

    def summary(self) -> str:
        """Which kernels it ran on, for the record."""
        nodes = len(self._original.adapter.nodes(self.net)) if self._original.adapter is not None else 0
        counts = Counter(each.kernel for each in self.fast.values())
        ran = " and ".join(f"{kernel} kernels at {count}" for kernel, count in counts.items())
        return f"{ran or 'no kernels at any'} of {nodes} spiking nodes"

    def check(self, x: Tensor, keys: Tensor) -> None:
        """Compares outputs and their gradients with those of the user's net, for a few samples x [N, *].

        Raises:
            NotAccelerated: If they differ: the net does something that the rewriting does not understand.
        """
        some = torch.arange(ROWS) % len(x)
        x, keys = x.detach()[some], keys[some]
        for fast in self.fast.values():
            fast.calls = 0
        try:
            ours, our_gradient = _outputs_and_gradient(self, x, keys)
        except Exception as error:  # the forward pass is the user's code: it may rely on what a fast node leaves out
            if out_of_memory(error):
                raise
            raise NotAccelerated(f"it fails with {type(error).__name__}: {error}") from error
        if again := [name for name, fast in self.fast.items() if fast.calls > 1]:
            raise NotAccelerated(f"nodes {again} are called more than once a pass")
        with passes(self.net, self._estimator)[0].at(keys):
            theirs, gradient = _outputs_and_gradient(self._original, x, keys)
        same = _close(ours, theirs)
        if same.float().mean() < AGREEING:
            raise NotAccelerated(
                "its outputs differ from the net's own: the forward pass does more than was understood"
            )
        if not _close(our_gradient, gradient)[same].all():
            raise NotAccelerated(
                "its gradients differ from the net's own: the forward pass does more than was understood"
            )

    def check_once(self, x: Tensor, keys: Tensor) -> None:
        """As `check`, the first time; on the inputs that the session names, if it does, so that it does not depend on
        the batch, the order or an interruption what searches run on."""
        if not self._checked:
            x, keys = self._original.kept.get(FIRST, (x, keys))
            try:
                self.check(x.to(device=self.device, dtype=self.dtype), keys)
            except NotAccelerated as reason:
                self._refusal = reason
            self._checked = True
        if self._refusal is not None:
            raise self._refusal

    def parts(self, count: int) -> list[slice]:
        """`count` samples in about equal parts whose largest activation the C library still keeps for reuse."""
        if self.device.type != "cpu":
            return [slice(0, count)]
        largest = max((each.largest for each in self.fast.values()), default=0)
        return even_parts(count, max(2 * ROWS, REUSED // largest) if largest else AT_ONCE)

    def outputs(
        self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0, lengths: Tensor | None = None
    ) -> Tensor:
        """As `SpikingModel.outputs`, whatever the size of the batch."""
        keys = torch.arange(len(x)) if keys is None else keys
        filler = torch.zeros(max(0, ROWS - len(x)), dtype=torch.long)  # more of the first sample
        if len(filler):
            rows = torch.cat([torch.arange(len(x)), filler])
            draw = draw[rows] if isinstance(draw, Tensor) else draw
            return super().outputs(x[rows], keys=keys[rows], draw=draw)[: len(x)]
        return super().outputs(x, keys=keys, draw=draw)

    def _sequence(self, x: Tensor, keys: Tensor, draw: int | Tensor) -> Tensor:
        # One step for all, [N, 1, *]: what is the same at each step is computed once.
        return x.unsqueeze(1) if self._hoisted else super()._sequence(x, keys, draw)

    def _call(self, x: Tensor) -> Tensor:
        nodes = self._original.net.get_submodule
        with _without_weights(self.net), ExitStack() as undo:
            for name, fast in self._placed.items():
                undo.callback(put_forward, nodes(name), vars(nodes(name)).get("forward"))
                put_forward(nodes(name), fast)
            out: Tensor = self._graph(x)
            return out


def _derivatives(
    model: SpikingModel, adapter: Adapter, estimator: AnyEstimator
) -> dict[str, tuple[nn.Module, Callable[[], Callable[[Tensor], Tensor] | None]]]:
    """The nodes that can be accelerated, by name, with what a spike's derivative is.

    A node stays as it is where its framework's own operator is fast already, so that there may be none.
    """
    nodes = adapter.nodes(model.net)
    named: Mapping[str, AnyEstimator]
    named = estimator.modules if isinstance(estimator, PerModule) else dict.fromkeys(nodes, estimator)
    if others := sorted(set(named) - set(nodes)):
        raise NotAccelerated(f"{others} are no spiking nodes")
    chosen: dict[str, tuple[nn.Module, Callable[[], Callable[[Tensor], Tensor] | None]]] = {}
    kept = []
    for name, node in nodes.items():
        each = named.get(name, Own())
        derivative: Callable[[Tensor], Tensor] | None
        if isinstance(each, Own) and adapter.has_operator(node, model.device):
            kept.append(name)
            continue
        if isinstance(each, Own):
            derivative = adapter.derivative(node)
        elif isinstance(each, Pointwise):
            derivative = each.derivative
        else:
            raise NotAccelerated(f"{each!r} is no derivative that the fast kernels know")
        if derivative is not None and _fits(node, adapter):
            # Read at each pass, as all numbers of a node are.
            chosen[name] = node, partial(adapter.derivative, node) if isinstance(each, Own) else _always(derivative)
        elif not isinstance(each, Own):
            raise NotAccelerated(f"node '{name}' ({type(node).__name__}) has no fast kernel")
    if not chosen and not kept:
        raise NotAccelerated(
            "none of the nodes is multi-step, of the leaky integrate-and-fire family, with a known surrogate"
        )
    return chosen


def _always(derivative: Callable[[Tensor], Tensor]) -> Callable[[], Callable[[Tensor], Tensor]]:
    return lambda: derivative


def _fits(node: nn.Module, adapter: Adapter) -> bool:
    try:
        adapter.dynamics(node)
    except InputError:
        return False
    return adapter.multi_step(node) and not adapter.keeps_voltages(node) and not has_hooks(node)


@contextmanager
def _without_weights(net: nn.Module) -> Iterator[None]:
    """The gradient goes to the input only: nothing is kept for that of the weights."""
    learnt = [each for each in net.parameters() if each.requires_grad]
    for each in learnt:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in learnt:
            each.requires_grad_(True)


def _close(mine: Tensor, real: Tensor) -> Tensor:
    """Which samples of two tensors [N, *] are equal up to rounding, [N]."""
    if mine.shape != real.shape:
        return torch.zeros(len(real), dtype=torch.bool, device=real.device)
    scale = real.flatten(1).abs().amax(dim=1)
    return (mine - real).flatten(1).abs().amax(dim=1) <= 1e-3 * scale + 1e-12


def _outputs_and_gradient(model: SpikingModel, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [N, T, K] and the gradient [N, *] of a weighted sum of them."""
    at = x.clone().requires_grad_()
    with torch.enable_grad():
        out = model.outputs(at, keys=keys)
        weights = torch.linspace(-1, 1, out[0].numel(), device=out.device, dtype=out.dtype).reshape(out[0].shape)
        total = (out * weights).sum()
        gradient = torch.autograd.grad(total, at, allow_unused=True)[0] if total.requires_grad else None
    return out.detach(), torch.zeros_like(x) if gradient is None else gradient


def accelerated_model(model: SpikingModel, estimator: AnyEstimator) -> AcceleratedModel:
    """A twin; within a session of the model the same one for equal estimators.

    Raises:
        NotAccelerated: If there can be none.
    """
    key = AcceleratedModel, repr(estimator)
    if key in model.kept:
        found: AcceleratedModel | NotAccelerated = model.kept[key]
        if isinstance(found, NotAccelerated):
            raise found
        return found
    try:
        found = AcceleratedModel(model, estimator)
    except NotAccelerated as reason:
        found = reason
    if model.in_session:
        model.kept[key] = found
    if isinstance(found, NotAccelerated):
        raise found
    return found
