"""Finds where a net spikes, by two forward passes with gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from snnrobust.frameworks.functions.calls import Call, FunctionClass, watched
from snnrobust.frameworks.functions.sites import Site, Sites, Unsupported
from snnrobust.frameworks.functions.spike_calls import Shapes, SpikeCall, kinds_of
from snnrobust.frameworks.functions.upstream import Upstream, functions_in


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
    candidates = functions_in(forward()) | set(named)
    tracker = _Tracker(net, set(known), is_spike_function)
    with ExitStack() as undo:
        undo.enter_context(tracker.tracking())
        for function in candidates:
            undo.enter_context(watched(function, tracker.see_call))
        outputs = forward()
    upstream = Upstream(outputs)
    patterns: dict[nn.Module, tuple[Site | None, ...]] = {}
    unsupported: list[Unsupported] = []
    for owner, calls in tracker.calls.items():
        shapes = Shapes(samples, steps, len(calls))
        kinds = kinds_of(calls, upstream, shapes, named)
        spiking = [call for call, kind in zip(calls, kinds, strict=True) if isinstance(kind, SpikeCall)]
        for call, kind in zip(calls, kinds, strict=True):
            if isinstance(kind, str) and all(each.what != call.function.__name__ for each in unsupported):
                unsupported.append(Unsupported(tracker.names[owner], call.function.__name__, kind))
        if spiking:
            patterns[owner] = _pattern(tracker.names[owner], calls, kinds, shapes, upstream)
    return Sites(patterns, tuple(unsupported))


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
    kinds: Sequence[SpikeCall | str | None],
    shapes: Shapes,
    upstream: Upstream,
) -> tuple[Site | None, ...]:
    """The site of each call of a step; one that is in no step before is named by its place among them."""
    tokens: list[_Token] = [
        (call.function, call.args[kind.argument].shape, upstream.parameters(call.node))
        if isinstance(kind, SpikeCall)
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
        if layer is None or not isinstance(kind, SpikeCall):
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
