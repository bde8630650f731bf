"""Noise on the spikes or membrane potentials of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.common.validate import check_choice
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust_attacks.corruptions.probability import check_probability
from snnrobust_attacks.corruptions.shared import check_severity

KINDS = ("deletion", "insertion", "membrane")
#: Steps that numbers are drawn for at once: a generator for each sample and step takes longer than the net.
BLOCK = 8

#: Noise on the values [N, *] of one step, numbered from 0.
StepNoise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class HiddenNoise:
    """Noise inside the net, at one layer; its inputs stay as they are.

    Severity depends on the kind:

    - "deletion": the probability in [0, 1] that a spike of the layer is lost.
    - "insertion": the probability in [0, 1] that a neuron without a spike at a step emits one of size 1.
    - "membrane": the standard deviation of a normal number that is added to each membrane potential where it is
      compared with the threshold, in its units. It decides about the spike and thus the reset, and is not kept in the
      membrane.

    Numbers are drawn anew for each sample, step and neuron. They don't depend on whether the layer is called once a
    step or for all steps at once.

    Attributes:
        layer: The layer's name in the net, as in `net.named_modules()`. Empty: the first layer that spikes, of a
            framework that is known.
        kind: "deletion", "insertion" or "membrane".

    Raises:
        InputError: For an unknown kind, a layer that the net does not have, or a severity out of range.
    """

    layer: str = ""
    kind: Literal["deletion", "insertion", "membrane"] = "deletion"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless the net has the layer, with a membrane if needed, and severities fit."""
        self._module(model)
        for severity in task.strengths:
            self._check_severity(severity)

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """The inputs x [N, *] themselves: the noise is in the net, see `on`."""
        return x

    @contextmanager
    def on(self, model: SpikingModel, severity: float, rng: Draws, index: Tensor) -> Iterator[None]:
        """Inside, one forward pass of the samples `index` [N] through `model` has noise; the net is left as it was."""
        self._check_severity(severity)
        layer = self._module(model)
        if severity == 0:
            yield
            return
        with ExitStack() as undo:
            undo.enter_context(model.single_passes())
            if self.kind == "membrane":
                _swap_surrogate(undo, model, layer, self._noise(severity, rng, index), len(index))
            else:
                calls = _Calls(self._noise(severity, rng, index), len(index), _time_first(model, layer), self.layer)
                undo.callback(layer.register_forward_hook(calls.on_output).remove)
            yield

    def _noise(self, severity: float, rng: Draws, index: Tensor) -> StepNoise:
        shares = self.kind != "membrane"
        numbers = _Numbers(rng.uniform if shares else rng.normal, index)

        def noisy(values: Tensor, step: int) -> Tensor:
            drawn = numbers.at(step, values)
            if self.kind == "deletion":
                return values * (drawn >= severity)
            if self.kind == "insertion":
                return torch.where((drawn < severity) & (values == 0), 1.0, values)
            return values + severity * drawn

        return noisy

    def _check_severity(self, severity: float) -> None:
        if self.kind == "membrane":
            check_severity(severity, "noise on membrane potentials", "a standard deviation")
        else:
            check_probability(severity, f"{self.kind} of hidden spikes")

    def _module(self, model: SpikingModel) -> nn.Module:
        """The layer itself."""
        adapter = model.adapter
        modules: dict[str, nn.Module] = dict(model.net.named_modules())
        nodes = adapter.nodes(model.net) if adapter is not None else {}
        spiking = adapter.spiking_layers(model.net) if adapter is not None else {}
        fitting = nodes if self.kind == "membrane" else spiking
        if self.kind == "membrane" and not nodes:
            raise InputError(
                f"expected spiking nodes of a known framework for noise on membrane potentials, got none in "
                f"{type(model.net).__name__} of model '{model.name}'; use kind='deletion' or 'insertion'"
            )
        if fitting and not self.layer:
            return next(iter(fitting.values()))
        if self.layer and self.layer in modules and self.kind != "membrane":
            return modules[self.layer]  # also one that only holds others, or a layer of a framework that is not known
        return modules[check_choice("layer", self.layer, fitting or [name for name in modules if name])]


class _Numbers:
    """Random numbers of each sample by step, drawn for several steps at once."""

    def __init__(self, draw: Callable[[Tensor, tuple[int, ...], int], Tensor], index: Tensor) -> None:
        self._draw = draw
        self._index = index
        self._block = -1
        self._numbers = torch.empty(0)

    def at(self, step: int, like: Tensor) -> Tensor:
        """Those of a step, [N, *] like the values there."""
        block, row = divmod(step, BLOCK)
        if block != self._block:
            self._block, self._numbers = block, self._draw(self._index, (BLOCK, *like.shape[1:]), block)
        return self._numbers[:, row].to(like)


class _Calls:
    """Adds noise to what is called once a step with [N, *], or for all steps with [T, N, *], in one forward pass."""

    def __init__(self, noise: StepNoise, count: int, time_first: bool, name: str) -> None:
        self._noise = noise
        self._count = count
        self._time_first = time_first
        self._name = name
        self._step = 0

    def on_output(self, module: nn.Module, args: object, out: Any) -> Any:
        """A forward hook."""
        return (self.of(out[0]), *out[1:]) if isinstance(out, tuple) else self.of(out)

    def of(self, values: Tensor) -> Tensor:
        """The values [N, *] or [T, N, *] with noise."""
        if self._time_first and values.ndim > 1 and values.shape[1] == self._count:
            return torch.stack([self._next(step) for step in values])
        if not self._time_first and values.ndim and values.shape[0] == self._count:
            return self._next(values)
        axes = "[T, N, *]" if self._time_first else "[N, *]"
        raise InputError(
            f"expected values {axes} with N = {self._count} at layer '{self._name}', got {tuple(values.shape)}; "
            f"name another layer"
        )

    def _next(self, values: Tensor) -> Tensor:
        self._step += 1
        return self._noise(values, self._step - 1)


class _NoisySurrogate(nn.Module):
    """A surrogate function of membrane potentials with noise."""

    #: Not the net's own surrogate.
    stands_in = True
    #: CLIF reads it: in eval mode it calls no surrogate that says it spikes.
    spiking = False

    def __init__(self, own: nn.Module, calls: _Calls) -> None:
        super().__init__()
        self._own = [own]  # in a list: registers no submodule
        self._calls = calls

    def forward(self, u: Tensor) -> Tensor:
        """The spikes of distances to the threshold, one step [N, *] or all of them."""
        spikes: Tensor = self._own[0](self._calls.of(u))
        return spikes


def _time_first(model: SpikingModel, layer: nn.Module) -> bool:
    """Whether a call of the layer takes all steps, [T, N, *]."""
    adapter = model.adapter
    if adapter is not None and (hasattr(layer, "step_mode") or layer in adapter.spiking_layers(model.net).values()):
        return adapter.is_multi_step(layer)
    return model.layout == "TN"


def _swap_surrogate(undo: ExitStack, model: SpikingModel, layer: nn.Module, noise: StepNoise, count: int) -> None:
    adapter = model.adapter
    if adapter is None:
        return
    # A node compares step by step, whatever its step mode is.
    own = layer.get_submodule("surrogate_function")
    undo.callback(adapter.swap_surrogate, layer, own)
    adapter.swap_surrogate(layer, _NoisySurrogate(own, _Calls(noise, count, False, "membrane")))
