"""The places in a net where `autograd.Function`s spike, and which of them a call belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.functions.calls import Call, FunctionClass, replayed, watched
from snnrobust.frameworks.functions.levels import Levels

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
            follower.check_order()


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
        """Forward hook."""
        self._running.pop()

    def check_order(self) -> None:
        """Raises an `InputError` if the last pass was no whole number of steps like those of the first pass ever."""
        for module, calls in self._calls.items():
            if calls % (step := len(self._patterns[module])):
                raise InputError(
                    f"expected {step} spikes in each step of {type(module).__name__}, as in its first pass, got "
                    f"{calls} in all; keep the number of time steps, or use gradient='own'"
                )

    def see_call(self, call: Call) -> bool:
        """A `Watcher`: whether the call belongs to the net."""
        if not self._running:
            return False
        if (now := self._passes()) != self._pass:
            self.check_order()
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
