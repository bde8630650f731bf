"""Finds where a net spikes, by two forward passes with gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from snnrobust.frameworks.functions.call_pattern import Token, layers_of
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
    """The site of each call of a step, or of the pass where steps do not repeat."""
    spiking = [isinstance(kind, SpikeCall) for kind in kinds]
    tokens = [
        Token(
            call.function,
            call.output.shape if isinstance(call.output, Tensor) else torch.Size(),
            upstream.parameters(call.node) if spikes else None,
        )
        for call, spikes in zip(calls, spiking, strict=True)
    ]
    layers = layers_of(tokens, shapes.steps)
    several = len(set(layers) - {None}) > 1
    sites: dict[int, Site] = {}
    for k, (call, kind) in enumerate(zip(calls, kinds, strict=True)):
        layer = layers[k % len(layers)]
        if layer is not None and isinstance(kind, SpikeCall) and layer not in sites:
            title = (name or call.function.__name__) + (f":{layer}" if several else "")
            sites[layer] = Site(title, call.function, kind.argument, kind.levels, kind.axes, kind.threshold_learns)
    return tuple(None if layer is None else sites[layer] for layer in layers)
