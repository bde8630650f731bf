"""The places in a net where an `autograd.Function` spikes, found by one forward pass with gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.functions.calls import Call, FunctionClass, replayed, watched
from snnrobust.frameworks.functions.levels import Levels, Position, find_levels

#: How a call's tensors are arranged: one step [N, *], all steps [T, N, *] or [N, T, *], [T N, *], or [T, N features].
Axes = Literal["N", "TN", "NT", "merged", "flat"]


@dataclass(frozen=True)
class Site:
    """A place where a Function spikes.

    Attributes:
        name: The module whose forward pass calls it, numbered "module:0", "module:1" if it calls several; the class of
            the Function for calls outside of submodules.
        function: The Function's class.
        argument: Position of the argument that is compared.
        levels: What it emits.
        axes: How its tensors are arranged.
        threshold_learns: Whether the Function passes a gradient to its threshold as well, an argument.
    """

    name: str
    function: FunctionClass
    argument: int
    levels: Levels
    axes: Axes
    threshold_learns: bool = False

    def distance(self, call: Call) -> Tensor:
        """Membrane potential minus threshold, or minus the nearest level of a count."""
        return self.levels.distance(call.args[self.argument], call.args)

    def own(self, call: Call) -> Callable[[Tensor], Tensor]:
        """The Function's own output and gradient as a function of the distance to the threshold of this call."""
        detached = tuple(each.detach() if isinstance(each, Tensor) else each for each in call.args)
        offset = detached[self.argument] - self.levels.distance(detached[self.argument], detached)
        return lambda u: replayed(call, {**dict(enumerate(detached)), self.argument: u + offset})

    def own_over_time(self, calls: Sequence[Call], u: Tensor) -> Tensor:
        """As `own`, for the distances u [N, T, *] of all calls of a pass."""
        if self.axes == "N":
            return torch.stack([self.own(call)(u[:, t]) for t, call in enumerate(calls)], dim=1)
        if self.axes == "NT":
            return self.own(calls[0])(u)
        steps_first, shape = u.transpose(0, 1), calls[0].args[self.argument].shape
        return self.own(calls[0])(steps_first.reshape(shape)).reshape(steps_first.shape).transpose(0, 1)

    @property
    def sample_axis(self) -> int | None:
        """The axis that counts samples."""
        return {"N": 0, "TN": 1, "NT": 0}.get(self.axes or "")

    def batch_first(self, calls: Sequence[Tensor], samples: int, steps: int) -> Tensor | None:
        """The values of all calls of a pass as [N, T, *]; None if there are several with all steps."""
        if self.axes == "N":
            return torch.stack(list(calls), dim=1)
        if len(calls) != 1:
            return None
        if self.axes == "NT":
            return calls[0]
        if self.axes == "TN":
            return calls[0].transpose(0, 1)
        shape = (steps, -1, *calls[0].shape[1:]) if self.axes == "merged" else (steps, samples, -1)
        return calls[0].reshape(shape).transpose(0, 1)


@dataclass(frozen=True)
class Unsupported:
    """A place that spikes but whose gradient can't be swapped.

    Attributes:
        name: As of a `Site`.
        what: The class of the Function or module.
        why: The reason.
    """

    name: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"'{self.name}' ({self.what}: {self.why})"


@dataclass(frozen=True)
class Sites:
    """What a forward pass of a net showed.

    Attributes:
        patterns: By the module that runs: the site of each of its calls in a step, in order; None for calls of a
            watched Function that no gradient passes.
        unsupported: Places that spike but can't be swapped.
    """

    patterns: dict[nn.Module, tuple[Site | None, ...]] = field(default_factory=dict)
    unsupported: tuple[Unsupported, ...] = ()

    @property
    def by_name(self) -> dict[str, Site]:
        """All sites."""
        return {site.name: site for pattern in self.patterns.values() for site in pattern if site is not None}

    @property
    def functions(self) -> set[FunctionClass]:
        """The classes to be watched."""
        return {site.function for site in self.by_name.values()}

    @contextmanager
    def followed(
        self, net: nn.Module, see: Callable[[Site, Call], object], passes: Callable[[], int] = lambda: 0
    ) -> Iterator[None]:
        """Shows each spike of `net` to `see` inside, with its site.

        Args:
            net: The net.
            see: Called at each spike.
            passes: The number of the forward pass: when it changes, the calls of a step begin anew.
        """
        follower = _Follower(self.patterns, see, passes)
        with ExitStack() as undo:
            for module in self.patterns:
                undo.callback(module.register_forward_pre_hook(follower.enter).remove)
                undo.callback(module.register_forward_hook(follower.leave, always_call=True).remove)
            for function in self.functions:
                undo.enter_context(watched(function, follower.see_call))
            yield


class _Follower:
    """Knows which module of a net runs, and thereby which site a call belongs to."""

    def __init__(
        self,
        patterns: dict[nn.Module, tuple[Site | None, ...]],
        see: Callable[[Site, Call], object],
        passes: Callable[[], int],
    ) -> None:
        self._patterns = patterns
        self._see = see
        self._passes = passes
        self._pass = -1
        self._running: list[nn.Module] = []
        self._calls: dict[nn.Module, int] = {}

    def enter(self, module: nn.Module, args: object) -> None:
        """Forward pre-hook."""
        self._running.append(module)

    def leave(self, module: nn.Module, args: object, out: object) -> None:
        """Forward hook; after an exception there is no output."""
        self._running.pop()
        calls, step = self._calls.get(module, 0), len(self._patterns[module])
        if out is not None and calls % step:
            raise InputError(
                f"expected {step} spikes in each step of {type(module).__name__}, as in its first pass, got {calls} in "
                f"all; keep the number of time steps, or use gradient='own'"
            )

    def see_call(self, call: Call) -> bool:
        """A `Watcher`: whether the call belongs to the net."""
        if not self._running:
            return False
        if (now := self._passes()) != self._pass:
            self._pass, self._calls = now, {}
        owner = self._running[-1]
        pattern, count = self._patterns[owner], self._calls.get(owner, 0)
        self._calls[owner] = count + 1
        site = pattern[count % len(pattern)]
        if site is not None:
            if site.function is not call.function:
                raise InputError(
                    f"expected the spikes of a pass in the same order as in the first one, got "
                    f"{call.function.__name__} where '{site.name}' calls {site.function.__name__}; use gradient='own'"
                )
            self._see(site, call)
        return True


def find_sites(
    net: nn.Module,
    forward: Callable[[], Tensor],
    *,
    samples: int,
    steps: int | None,
    known: Collection[nn.Module] = (),
    is_spike_function: Callable[[nn.Module], bool] = lambda module: False,
    named: Iterable[FunctionClass] = (),
) -> Sites:
    """Finds the spikes of a net.

    Args:
        net: The net, in eval mode and freshly reset before each call of `forward`.
        forward: Runs it with gradient for `samples` different samples, and returns its outputs.
        samples: How many samples N; a number that no other axis has.
        steps: T, if it is known.
        known: Modules whose spikes are known otherwise; what is called in them is left out.
        is_spike_function: Whether a module is only the spike function of the module that calls it.
        named: Functions that the user names as spikes: any output is taken for H(first floating-point argument).
    """
    named = tuple(named)
    candidates = _functions(forward()) | set(named)
    tracker = _Tracker(net, set(known), is_spike_function)
    with ExitStack() as undo:
        undo.enter_context(tracker.tracking())
        for function in candidates:
            undo.enter_context(watched(function, tracker.see_call))
        outputs = forward()
    upstream = _Upstream(outputs)
    patterns: dict[nn.Module, tuple[Site | None, ...]] = {}
    unsupported: list[Unsupported] = []
    for owner, calls in tracker.calls.items():
        shapes = _Shapes(samples, steps, len(calls))
        kinds = _kinds(calls, upstream, shapes, named)
        spiking = [call for call, kind in zip(calls, kinds, strict=True) if isinstance(kind, _Spike)]
        for call, kind in zip(calls, kinds, strict=True):
            if isinstance(kind, str) and all(each.what != call.function.__name__ for each in unsupported):
                unsupported.append(Unsupported(tracker.names[owner], call.function.__name__, kind))
        if spiking:
            patterns[owner] = _pattern(tracker.names[owner], calls, kinds, shapes, upstream)
    return Sites(patterns, tuple(unsupported))


@dataclass(frozen=True)
class _Shapes:
    """Sizes of axes: samples N, steps T if known, and how many calls of all Functions a pass makes in a module."""

    samples: int
    steps: int | None
    calls: int

    def axes(self, shape: torch.Size) -> Axes | None:
        """How a tensor is arranged; None if it has no axis of samples."""
        if self.steps is not None and self.steps > 1 and self.calls < self.steps:
            if shape[:2] == (self.samples, self.steps):
                return "NT"
            if shape[:1] == (self.steps * self.samples,):
                return "merged"
        if shape[:1] == (self.samples,):
            return "N"
        if len(shape) > 1 and shape[1] == self.samples:
            return "TN"
        flat = self.steps is not None and shape[:1] == (self.steps,) and len(shape) == 2
        return "flat" if flat and shape[1] % self.samples == 0 else None


@dataclass(frozen=True)
class _Spike:
    argument: int
    levels: Levels
    axes: Axes
    threshold_learns: bool


def _kinds(
    calls: Sequence[Call], upstream: _Upstream, shapes: _Shapes, named: Collection[FunctionClass]
) -> list[_Spike | str | None]:
    """What each call in a module is: a spike if any call of its Function there is one.

    A single call may not show it: at the first step all membrane potentials may be whole numbers.
    """
    kinds = [_kind(call, upstream, shapes, call.function in named) for call in calls]
    spikes = {
        call.function: kind for call, kind in reversed(list(zip(calls, kinds, strict=True))) if isinstance(kind, _Spike)
    }
    return [
        spikes.get(call.function, kind) if call.node in upstream else None
        for call, kind in zip(calls, kinds, strict=True)
    ]


def _kind(call: Call, upstream: _Upstream, shapes: _Shapes, named: bool) -> _Spike | str | None:
    """A spike; or why what looks like one can't be swapped; or None for what is no spike or passes no gradient."""
    if call.node not in upstream:
        return None
    if not isinstance(call.output, Tensor):
        several = isinstance(call.output, tuple) and any(
            isinstance(each, Tensor) and shapes.axes(each.shape) and _whole(each) for each in call.output
        )
        return "it returns several tensors, spikes among them, from one Function" if several else None
    axes = shapes.axes(call.output.shape)
    if axes is None:
        return None  # e.g. quantised weights
    inputs = {i: each for i, each in enumerate(call.args) if isinstance(each, Tensor) and each.is_floating_point()}
    same = {i: each for i, each in inputs.items() if each.shape == call.output.shape}
    if not named and (not _spikes(call.output) or any(_whole(each) for each in same.values())):
        return None  # neither what emits other values, nor what hands spikes on
    for at, v in same.items():
        levels = find_levels(_emitter(call, at), v, call.args, at)
        if levels is not None or named:
            return _Spike(at, levels or Levels(), axes, levels is not None and _threshold_learns(call, levels))
    return "its output is no step of one of its arguments"


def _spikes(values: Tensor) -> bool:
    """Whether values are whole numbers, or whole multiples of one size."""
    return _whole(values) or _whole(values / (values.abs().max() or 1.0))


def _threshold_learns(call: Call, levels: Levels) -> bool:
    if not isinstance(levels.first, Position) or not isinstance(call.args[levels.first.of], Tensor):
        return False
    with torch.enable_grad():
        threshold = call.args[levels.first.of].detach().clone().requires_grad_()
        spikes = replayed(call, {levels.first.of: threshold})
        found = torch.autograd.grad(spikes.sum(), threshold, allow_unused=True)[0] if spikes.requires_grad else None
    return found is not None and bool((found != 0).any())


def _emitter(call: Call, at: int) -> Callable[[Tensor], Tensor]:
    def emit(v: Tensor) -> Tensor:
        with torch.no_grad():
            return replayed(call, {at: v}).detach()

    return emit


def _whole(values: Tensor) -> bool:
    return not values.is_complex() and bool((values == values.round()).all())


def _functions(outputs: Tensor) -> set[FunctionClass]:
    """The classes of all custom Functions in the graph of a tensor."""
    found: set[FunctionClass] = set()
    for node in _graph(outputs):
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and not function.__module__.startswith(("torch.", "snnrobust.")):
            found.add(function)
    return found


def _graph(outputs: Tensor) -> Iterator[Any]:
    """All nodes of an autograd graph."""
    waiting, seen = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [each for each, _ in node.next_functions]


class _Upstream:
    """Which parameters a spike's argument depends on without another spike between: what tells layers apart."""

    def __init__(self, outputs: Tensor) -> None:
        self._nodes = set(_graph(outputs))
        self._found: dict[Any, frozenset[int]] = {}

    def __contains__(self, node: Any) -> bool:
        return node in self._nodes

    def parameters(self, node: Any) -> frozenset[int]:
        """Identities of the leaves that the node of a call reads."""
        return frozenset().union(*(self._leaves(each) for each, _ in node.next_functions if each is not None))

    def _leaves(self, node: Any) -> frozenset[int]:
        """Iterative, since a graph over time is deeper than Python's stack."""
        waiting = [node]
        while waiting:
            here = waiting[-1]
            if here in self._found:
                waiting.pop()
                continue
            if hasattr(here, "variable"):
                self._found[here] = frozenset([id(here.variable)])
                continue
            if getattr(type(here), "_forward_cls", None) is not None:
                self._found[here] = frozenset()
                continue
            behind = [each for each, _ in here.next_functions if each is not None]
            missing = [each for each in behind if each not in self._found]
            if missing:
                waiting += missing
                continue
            self._found[here] = frozenset().union(*(self._found[each] for each in behind))
        return self._found[node]


class _Tracker:
    """Which module runs, and what it calls."""

    def __init__(self, net: nn.Module, known: set[nn.Module], is_spike_function: Callable[[nn.Module], bool]) -> None:
        self.names = {module: name for name, module in net.named_modules()}
        self.calls: dict[nn.Module, list[Call]] = {}
        self._known = known
        self._is_spike_function = is_spike_function
        self._running: list[nn.Module] = []

    @contextmanager
    def tracking(self) -> Iterator[None]:
        with ExitStack() as undo:
            for module in self.names:
                undo.callback(module.register_forward_pre_hook(lambda m, _: self._running.append(m)).remove)
                leave = module.register_forward_hook(lambda *_: self._running.pop() and None, always_call=True)
                undo.callback(leave.remove)
            yield

    def see_call(self, call: Call) -> bool:
        if not self._running:
            return False
        if not any(module in self._known for module in self._running):
            owner = next(each for each in reversed(self._running) if not self._is_spike_function(each))
            self.calls.setdefault(owner, []).append(call)
        return True


def _pattern(
    name: str,
    calls: Sequence[Call],
    kinds: Sequence[_Spike | str | None],
    shapes: _Shapes,
    upstream: _Upstream,
) -> tuple[Site | None, ...]:
    """The site of each call of a step; one that is in no step before is named by its place among them."""
    tokens: list[_Token] = [
        (call.function, call.args[kind.argument].shape, upstream.parameters(call.node))
        if isinstance(kind, _Spike)
        else None
        for call, kind in zip(calls, kinds, strict=True)
    ]
    period = _period(tokens, shapes.steps)
    whole_pass = period == len(tokens)  # then a layer may take all steps before the next one begins
    layers: list[int | None] = []
    before: _Token = None
    for token in tokens[:period]:
        known = [each for each in layers if each is not None]
        again = whole_pass and before is not None and token is not None and _same_layer(before, token)
        layers.append(None if token is None else known[-1] if again else len(set(known)))
        before = token or before
    several = len(set(layers) - {None}) > 1
    found: list[Site | None] = []
    for layer, call, kind in zip(layers, calls, kinds, strict=False):
        if layer is None or not isinstance(kind, _Spike):
            found.append(None)
            continue
        title = (name or call.function.__name__) + (f":{layer}" if several else "")
        found.append(Site(title, call.function, kind.argument, kind.levels, kind.axes, kind.threshold_learns))
    return tuple(found)


#: What tells two calls apart: Function, shape, and the parameters that are read; None for calls without a gradient.
_Token = tuple[FunctionClass, torch.Size, frozenset[int]] | None


def _period(tokens: Sequence[_Token], steps: int | None) -> int:
    """How many calls make a step: the smallest number after which they repeat; all where they don't."""
    fitting = [period for period in range(1, len(tokens) + 1) if len(tokens) % period == 0 and _repeats(tokens, period)]
    if steps is not None and len(tokens) % steps == 0 and len(tokens) // steps in fitting:
        return len(tokens) // steps
    return fitting[0]


def _repeats(tokens: Sequence[_Token], period: int) -> bool:
    return all(_same_layer(tokens[k - period], tokens[k]) for k in range(period, len(tokens)))


def _same_layer(earlier: _Token, later: _Token) -> bool:
    """Whether two calls may be one layer at two steps: a later step may also read what feeds spikes back."""
    if earlier is None or later is None:
        return earlier is later
    return earlier[:2] == later[:2] and earlier[2] <= later[2]
