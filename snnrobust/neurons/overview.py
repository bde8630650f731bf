"""`table`: the presets, their equations, and what computes them."""

from __future__ import annotations

from dataclasses import dataclass

from spikingjelly.activation_based import neuron

from snnrobust.neurons.presets import PRESETS
from snnrobust.neurons.variants import Variant


@dataclass(frozen=True)
class Row:
    """A preset: its equation, the class of its node, what computes it, and the step modes that it takes."""

    preset: str
    equation: str
    node: str
    runs_on: str
    step_modes: tuple[str, ...]


def table() -> list[Row]:
    """One row a preset, in the order of `PRESETS`.

    A node "on an operator" uses SpikingJelly's CUDA kernels if its surrogate is one that they know (ATan, Sigmoid and
    other built-in ones) and its state is float32; any other surrogate or type takes SpikingJelly's Python loop.

        >>> [row.preset for row in table() if "operator" in row.runs_on]
        ['vanilla', 'no-leak']
    """
    return [
        Row(preset, variant.equation, variant.node_class.__name__, _runs_on(variant), ("s", "m"))
        for preset, variant in PRESETS.items()
    ]


def _runs_on(variant: Variant) -> str:
    operators = {neuron.LIFNode: "LIF", neuron.IFNode: "IF", neuron.ParametricLIFNode: "PLIF"}
    if variant.node_class in operators:
        return f"SpikingJelly {operators[variant.node_class]} operator (CUDA native/Triton, CPU reference)"
    return "documented loop in PyTorch"
