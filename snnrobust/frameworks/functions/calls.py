"""Watches the calls of a `torch.autograd.Function` in a scope: what it computes, and how a gradient passes it.

A net may have taken `MyFunction.apply` long before, so that it can't be replaced. But torch looks up `forward` and
`setup_context` on the class at each call: they are replaced there while anyone watches, and put back as they were.
A call that no watcher of its thread claims runs as it is, so that other threads and other nets notice nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: A subclass of `torch.autograd.Function`.
FunctionClass = type[torch.autograd.Function]
#: The gradient of the argument, or of several by position, from that of the output and all arguments of the call.
Backward = Callable[[Tensor, tuple[Any, ...]], dict[int, Tensor]]


@dataclass
class Call:
    """One call of a Function.

    Attributes:
        function: Its class.
        args: The arguments.
        output: What its forward pass returned; a watcher may put another value in its place.
        backward: The gradient in place of the Function's own; None leaves it.
        node: The node of the call in the autograd graph.
    """

    function: FunctionClass
    args: tuple[Any, ...]
    output: Any
    backward: Backward | None = None
    node: Any = None


#: Returns whether the call is one of the watcher's; calls of the same Function elsewhere are not.
Watcher = Callable[[Call], bool]


@contextmanager
def watched(function: FunctionClass, watcher: Watcher) -> Iterator[None]:
    """Shows each call of `function` in this thread to `watcher`, of several the one that came last first.

    The class is as before afterwards, whatever happens inside. A scope may be entered within another one of the same
    or of another net, and in several threads at once. Code outside this package that replaces `forward` of the same
    class inside the scope must put it back before the scope ends.
    """
    with _lock:
        patch = _patches.get(function)
        if patch is None:
            patch = _patches[function] = _Patch(function)
        patch.scopes += 1
    watchers = _thread.watchers.setdefault(function, [])
    watchers.append(watcher)
    try:
        yield
    finally:
        del watchers[_last(watchers, watcher)]
        with _lock:
            patch.scopes -= 1
            if not patch.scopes:
                patch.remove()
                del _patches[function]


def replayed(call: Call, at: dict[int, Any]) -> Tensor:
    """The Function's own output and gradient, with other arguments `at` some positions; no watcher sees it."""
    args = tuple(at.get(position, each) for position, each in enumerate(call.args))
    with _unwatched():
        output: Tensor = call.function.apply(*args)
    return output


class _Thread(threading.local):
    def __init__(self) -> None:
        self.watchers: dict[FunctionClass, list[Watcher]] = {}
        self.waiting: list[Call] = []  # between forward and setup_context
        self.unwatched = 0


_thread = _Thread()
_lock = threading.Lock()
_patches: dict[FunctionClass, _Patch] = {}


@contextmanager
def _unwatched() -> Iterator[None]:
    _thread.unwatched += 1
    try:
        yield
    finally:
        _thread.unwatched -= 1


@dataclass
class _Patch:
    """A class whose calls are watched, with what it held before.

    Attributes:
        scopes: How many scopes of all threads watch it.
    """

    function: FunctionClass
    scopes: int = 0
    _before: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        function: Any = self.function
        forward, setup = function.forward, function.setup_context
        separate = setup is not torch.autograd.Function.setup_context
        self._put("forward", _separate_forward(function, forward) if separate else _forward(function, forward))
        if separate:
            self._put("setup_context", _setup(function, setup))

    def _put(self, name: str, replacement: Callable[..., Any]) -> None:
        self._before[name] = vars(self.function).get(name)  # the staticmethod itself; None where it is inherited
        setattr(self.function, name, staticmethod(replacement))

    def remove(self) -> None:
        for name, before in self._before.items():
            if before is None:
                delattr(self.function, name)
            else:
                setattr(self.function, name, before)


def _forward(function: FunctionClass, own: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a Function whose `forward` takes the node."""

    def forward(ctx: Any, *args: Any) -> Any:
        call = _shown(Call(function, args, own(ctx, *args), node=ctx))
        _replace_backward(call)
        return call.output

    return forward


def _separate_forward(function: FunctionClass, own: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass of a Function with `setup_context`, which is called right after it."""

    def forward(*args: Any) -> Any:
        call = Call(function, args, own(*args))
        _thread.waiting.append(call)
        # Its node is not known yet: watchers that need it look at it later.
        return _shown(call).output

    return forward


def _setup(function: FunctionClass, own: Callable[..., Any]) -> Callable[..., Any]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        own(ctx, inputs, output)
        call = _thread.waiting.pop()
        call.node = ctx
        _replace_backward(call)

    return setup_context


def _shown(call: Call) -> Call:
    if not _thread.unwatched:
        for watcher in reversed(_thread.watchers.get(call.function, ())):
            if watcher(call):
                break
    return call


def _replace_backward(call: Call) -> None:
    """Gives this one node of the graph another backward pass, which holds after the scope as well.

    Arguments are saved by torch, so that second derivatives see their graph.
    """
    if call.backward is None:
        return
    backward = call.backward
    node: Callable[[], Any] = weakref.ref(call.node)  # a cycle would keep activations; the node lives while it runs
    places = [i for i, each in enumerate(call.args) if isinstance(each, Tensor)]
    others = [None if i in places else each for i, each in enumerate(call.args)]
    call.node.save_for_backward(*(call.args[i] for i in places))

    def apply(*gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None] * len(others)
        if gradients[0] is not None:
            args = list(others)
            for i, each in zip(places, node().saved_tensors, strict=True):
                args[i] = each
            for i, gradient in backward(gradients[0], tuple(args)).items():
                found[i] = gradient
        return tuple(found)

    call.node.apply = apply


def _last(watchers: list[Watcher], watcher: Watcher) -> int:
    return next(i for i in reversed(range(len(watchers))) if watchers[i] is watcher)
