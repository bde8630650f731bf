"""The accelerated model: a faster computation of a model's outputs, with the user's parameters, for searches only.

What a search finds with it counts only after the user's own net, eager and freshly reset, has confirmed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, fx, nn

from snnrobust.acceleration.batch_rows import least_rows
from snnrobust.acceleration.graph import called_modules, rewritten, rewritten_loop
from snnrobust.acceleration.node import FastNode
from snnrobust.acceleration.node_choice import (
    NO_KNOWN_NODES,
    SINGLE_STEP,
    NodeChoice,
    NotAccelerated,
    choose_nodes,
    described,
)
from snnrobust.acceleration.tracing import NotTraced, TimeAxis
from snnrobust.acceleration.unrolled import NotMerged
from snnrobust.common.batching import even_parts, out_of_memory
from snnrobust.common.session_cache import CacheKey
from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.backends import backends
from snnrobust.plugin.protocols import AnyEstimator
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.spike_gradients.patched_module import put_forward
from snnrobust.spike_gradients.swap import Own, spike_gradient_contexts
from snnrobust.wrapping.model import AT_ONCE, SpikingModel
from snnrobust.wrapping.net_output import chosen_output

__all__ = ["AGREEING", "COMPARED", "REUSED", "AcceleratedModel", "NotAccelerated", "accelerated_model"]

#: Samples on which it is compared with the net.
COMPARED = 16
#: Least share of compared samples with equal outputs; all of these need equal gradients. A membrane potential next to
#: the threshold may fall on either side of it where a sum is rounded otherwise.
AGREEING = 0.75
#: Bytes above which glibc gets fresh memory from the system each time, which is cleared page by page.
REUSED = 32 * 2**20

_DIFFER = "differ from the net's own: the rewritten graph does not reproduce the forward pass"


class AcceleratedModel:
    """Computes a model's outputs with its spiking nodes in fast kernels, and the derivatives that an estimator gives.

    Weights stay the user's own tensors. The numbers of each node and of batch normalisation are read once in a session
    of the model, and again where a change shows: a net may set a threshold in its own forward pass.

    Args:
        model: The model.
        estimator: How a gradient passes a spike: the net's own surrogates, or estimators with a `derivative`.
        read_once: False to read the numbers at each pass, for a caller that moves the weights through `.data`: such a
            change does not show.

    Attributes:
        fast: Fast nodes by the name of the node that they compute.

    Raises:
        NotAccelerated: If there is nothing to accelerate, or the estimator is more than a derivative.
    """

    def __init__(self, model: SpikingModel, estimator: AnyEstimator, *, read_once: bool = True) -> None:
        self.model = model
        self.net = model.net
        self.device, self.dtype = model.device, model.dtype
        self._refusal: NotAccelerated | None = None
        self._compared = False
        self._estimator = estimator
        adapter = model.adapter
        if adapter is None:
            raise NotAccelerated(NO_KNOWN_NODES)
        if model.foreign_randomness:
            raise NotAccelerated("the net draws random numbers")
        choice = choose_nodes(model, adapter, estimator)
        kernels, reason = backends(model.device.type)
        if not kernels:
            raise NotAccelerated(reason)
        self.fast = {
            name: FastNode(node, adapter, derivative, kernels, read_once=read_once)
            for name, (node, derivative) in choice.chosen.items()
        }
        fixed = model.layout in ("TN", "step") and model.encoder == "repeat"
        #: Whether the net is called step by step: its other layers take all steps of all samples at once, [T N, *].
        self._merged = model.layout == "step"
        #: T of the net's own loop over single-step nodes, if it has one; and where its input was taken to have time.
        self._loop: int | None = None
        self._time: TimeAxis | None = None
        with model.session():  # in eval mode and freshly reset, as each pass will be
            model.reset()
            graph = self._rewritten_loop(adapter, choice) if choice.looped else None
            if graph is None:
                steps = model.steps if fixed else None
                graph = rewritten(model.net, adapter, self.fast, steps, merged=self._merged)
        # The input is the same at each step: what comes before the first spiking node is computed for one step.
        self._one_step = graph is not None and fixed and self._loop is None
        if self._merged and graph is None:
            raise NotAccelerated("it is called step by step and can't be traced")
        if not self.fast and not self._one_step:
            raise NotAccelerated("its nodes run on operators of their framework, and no input is the same at each step")
        self._graph: nn.Module = model.net if graph is None else graph
        by_sample = self._loop is not None or self._one_step or model.layout in ("N", "NT")
        self._least_rows = least_rows(graph, one_step=by_sample)
        called = set() if graph is None else called_modules(graph)
        nodes = adapter.nodes(model.net)
        self._nodes = len(nodes)
        left = [name for name in self.fast if nodes[name] in called]
        for name in left:
            del self.fast[name]
        if left and (self._merged or not (self.fast and isinstance(estimator, Own))):
            raise NotAccelerated(f"nodes {left} are called more than once a pass")
        if self._merged and (others := sorted(set(nodes) - set(self.fast))):
            why = "".join(f": {choice.reasons[name]}" for name in others[:1] if name in choice.reasons)
            raise NotAccelerated(f"nodes {others} keep their state from call to call{why}")
        #: Fast nodes of a net that could not be traced: patched into it for each pass.
        self._patched = [(nodes[name], each) for name, each in self.fast.items() if each not in called]

    def _rewritten_loop(self, adapter: Adapter, choice: NodeChoice) -> fx.GraphModule | None:
        """The net with the steps of its own loop merged; None, without its single-step nodes, if that fails and there
        are others.

        Raises:
            NotAccelerated: If that fails, and there are no others.
        """
        axis = sequence_axis(self.model)
        time = None if axis is None or self.model.steps is None else TimeAxis(axis, self.model.steps)
        static = axis if self.model.encoder == "repeat" else None
        try:
            graph, self._loop = rewritten_loop(self.net, adapter, self.fast, choice.looped, time, static)
        except (NotTraced, NotMerged) as error:
            reason = self._why_no_loop(error, choice, time)
        else:
            self._time = time
            placed = called_modules(graph)
            lost = [name for name in choice.looped if self.fast[name] not in placed]
            if not lost or isinstance(self._estimator, Own):
                for name in lost:
                    del self.fast[name]
                return graph
            reason = f"{described(lost[0], choice.chosen[lost[0]][0])} is called by a layer of the framework"
        self._loop = None
        others = set(choice.chosen) - set(choice.looped)
        if not isinstance(self._estimator, Own) or not (others or choice.own_operator):
            raise NotAccelerated(reason)
        for name in choice.looped:
            del self.fast[name]
        return None

    def _why_no_loop(self, error: NotTraced | NotMerged, choice: NodeChoice, time: TimeAxis | None) -> str:
        name = choice.looped[0]
        node = described(name, choice.chosen[name][0])
        if isinstance(error, NotTraced):
            unknown = time is None and sequence_axis(self.model) is not None
            advice = "; if it loops over the steps of its input, pass steps= to wrap" if unknown else ""
            return f"{node} {SINGLE_STEP}; a loop over it can't be traced: {error}{advice}"
        if not str(error):
            return f"{node} {SINGLE_STEP}"
        return choice.reasons.get(error.module, str(error))

    @property
    def path(self) -> ExecutionPath:
        """Which kernels it ran on, for the record."""
        kernels = Counter(each.kernel for each in self.fast.values())
        return ExecutionPath(True, kernels=dict(kernels), nodes=self._nodes)

    def compare(self, x: Tensor, keys: Tensor) -> None:
        """Compares outputs and their gradients with those of the user's net, for a few samples x [N, *].

        Raises:
            NotAccelerated: If they differ: the net does something that the rewriting does not understand.
        """
        some = torch.arange(COMPARED) % len(x)
        x, keys = x.detach()[some].to(device=self.device, dtype=self.dtype), keys[some]
        for fast in self.fast.values():
            fast.calls = 0
        # First: it finds the axes of its outputs.
        with spike_gradient_contexts(self.model, self._estimator)[0].at(keys):
            theirs, gradient = _outputs_and_gradient(self.model, x, keys)
        try:
            ours, our_gradient = _outputs_and_gradient(self, x, keys)
        except Exception as error:  # the forward pass is the user's code: it may rely on what a fast node leaves out
            if out_of_memory(error):
                raise
            raise NotAccelerated(f"it fails with {type(error).__name__}: {error}") from error
        if again := [name for name, fast in self.fast.items() if fast.calls > 1]:
            raise NotAccelerated(f"nodes {again} are called more than once a pass")
        same = _close(ours, theirs)
        if same.float().mean() < AGREEING:
            raise NotAccelerated(f"its outputs {_DIFFER}")
        if not _close(our_gradient, gradient)[same].all():
            raise NotAccelerated(f"its gradients {_DIFFER}")

    def compare_once(self, x: Tensor, keys: Tensor) -> None:
        """As `compare`, the first time; later calls repeat its result."""
        if not self._compared:
            try:
                self.compare(x, keys)
            except NotAccelerated as reason:
                self._refusal = reason
            self._compared = True
        if self._refusal is not None:
            raise self._refusal

    def parts(self, count: int) -> list[slice]:
        """`count` samples in about equal parts whose largest activation the C library still keeps for reuse."""
        if self.device.type != "cpu":
            return [slice(0, count)]
        largest = max((each.largest for each in self.fast.values()), default=0)
        return even_parts(count, max(2 * COMPARED, REUSED // largest) if largest else AT_ONCE)

    def least_batch(self, x: Tensor) -> int:
        """From how many samples on, like those of x [N, *], rounding does not depend on their number."""
        return self._least_rows.samples(self._steps(x))

    def _steps(self, x: Tensor) -> int:
        """T, for inputs like x [N, *]."""
        if self._loop is not None:
            return self._loop
        if self.model.steps is not None:
            return self.model.steps
        if self.model.layout in ("TN", "step"):
            return x.shape[1]
        # The net repeats its input itself.
        return min((each.steps for each in self.fast.values() if each.steps), default=1)

    def outputs(self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0) -> Tensor:
        """As `SpikingModel.outputs`, [N, T, K], whatever the size of the batch. No gradient reaches the weights.

        Few samples are filled up with copies of the first, so that rounding does not depend on how many there are.
        """
        model, count = self.model, len(x)
        x = model.own_input(x)
        keys = torch.arange(count) if keys is None else keys
        least = self.least_batch(x)
        if count < least:
            rows = torch.cat([torch.arange(count), torch.zeros(least - count, dtype=torch.long)])
            draw = draw[rows] if isinstance(draw, Tensor) else draw
            x, keys = x[rows], keys[rows]
        with model.session(), _frozen_weights(self.net), ExitStack() as undo:
            model.reset()  # what runs beside the fast nodes
            for node, fast in self._patched:
                undo.callback(put_forward, node, vars(node).get("forward"))
                put_forward(node, fast)
            sequence = x.unsqueeze(1) if self._one_step else model.encode(x, keys, draw)
            # A matrix product of transposed memory is divided into one for each step, with as many rows as samples.
            inputs = model.arrange(sequence).contiguous()
            if self._time is not None and inputs.shape[self._time.axis] != self._time.steps:
                raise InputError(
                    f"expected sequences of {self._time.steps} steps, as steps= says, got "
                    f"{inputs.shape[self._time.axis]}; wrap the net with their number"
                )
            if not self._merged:
                out = chosen_output(self._graph(inputs), model.output, len(x))
            else:
                for fast in self.fast.values():
                    fast.samples = len(x)
                merged = inputs.flatten(0, 1)
                out = chosen_output(self._graph(merged), model.output, self._steps(x) * len(x))
                out = out.reshape(-1, len(x), *out.shape[1:])
            return model.batch_first(out, len(x))[:count]

    def logits(
        self, x: Tensor, *, keys: Tensor | None = None, draw: int | Tensor = 0, lengths: Tensor | None = None
    ) -> Tensor:
        """As `SpikingModel.logits`, [N, K]."""
        return self.model.read(self.outputs(x, keys=keys, draw=draw), lengths)


def sequence_axis(model: SpikingModel) -> int | None:
    """The time axis of what the net takes; None where it takes one step for all."""
    if model.layout == "N":
        return None if model.static else 1
    return 1 if model.layout == "NT" else 0


@contextmanager
def _frozen_weights(net: nn.Module) -> Iterator[None]:
    """Weights require no gradient inside: autograd keeps nothing for them."""
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
    scale = real.nan_to_num(posinf=0.0, neginf=0.0).flatten(1).abs().amax(dim=1)
    difference = torch.where(mine == real, torch.zeros_like(real), mine - real)  # of equal infinities, too
    return difference.flatten(1).abs().amax(dim=1) <= 1e-3 * scale + 1e-12


def _outputs_and_gradient(model: SpikingModel | AcceleratedModel, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [N, T, K] and the gradient [N, *] of a weighted sum of them."""
    at = x.clone().requires_grad_()
    with torch.enable_grad():
        out = model.outputs(at, keys=keys)
        weights = torch.linspace(-1, 1, out[0].numel(), device=out.device, dtype=out.dtype).reshape(out[0].shape)
        total = (out * weights).sum()
        gradient = torch.autograd.grad(total, at, allow_unused=True)[0] if total.requires_grad else None
    return out.detach(), torch.zeros_like(x) if gradient is None else gradient


def accelerated_model(model: SpikingModel, estimator: AnyEstimator, *, read_once: bool = True) -> AcceleratedModel:
    """An accelerated model; within a session of the model the same one for equal arguments.

    Raises:
        NotAccelerated: If there can be none.
    """

    def made() -> AcceleratedModel | NotAccelerated:
        try:
            return AcceleratedModel(model, estimator, read_once=read_once)
        except NotAccelerated as reason:
            return reason

    found = model.cache.get(
        CacheKey[AcceleratedModel | NotAccelerated]("accelerated model", (repr(estimator), read_once)), made
    )
    if isinstance(found, NotAccelerated):
        raise found
    return found
