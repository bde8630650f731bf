"""Which calls in a module are one layer: those that repeat from step to step, or follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from snnrobust.frameworks.functions.calls import FunctionClass


@dataclass(frozen=True)
class Token:
    """What tells two calls apart.

    Attributes:
        function: The Function.
        shape: Shape of its output.
        parameters: Identities of the parameters that it reads without another spike between; None for a call that no
            gradient passes: a copy for the reset, or a first step whose membrane potential does not depend on anything.
    """

    function: FunctionClass
    shape: torch.Size
    parameters: frozenset[int] | None


def layers_of(tokens: Sequence[Token], steps: int | None) -> list[int | None]:
    """The layer of each call of a step, numbered from 0; of each call of the pass, where steps do not repeat.

    None for calls that belong to no layer: no gradient passes them at any step.

    Args:
        tokens: All calls of a pass, in order.
        steps: T, if it is known.
    """
    period = _period(tokens, steps)
    if period < len(tokens):
        return _numbered([tokens[k::period] for k in range(period)])
    if steps is not None and len(tokens) % steps == 0:
        blocks = [tokens[k : k + steps] for k in range(0, len(tokens), steps)]
        if all(map(_one_layer, blocks)):  # one layer after the other, each with all steps
            return [layer for layer in _numbered(blocks) for _ in range(steps)]
    return _layers_of_a_pass(tokens)


def _numbered(groups: Sequence[Sequence[Token]]) -> list[int | None]:
    """Numbers of the groups of calls that are a layer; None for a group that no gradient passes."""
    passed = [any(token.parameters is not None for token in group) for group in groups]
    return [sum(passed[:k]) if each else None for k, each in enumerate(passed)]


def _period(tokens: Sequence[Token], steps: int | None) -> int:
    """How many calls make a step: the smallest number after which they repeat; all where they don't."""
    fitting = [
        period
        for period in range(1, len(tokens) + 1)
        if len(tokens) % period == 0 and all(_one_layer(tokens[k::period]) for k in range(period))
    ]
    if steps is not None and len(tokens) % steps == 0 and len(tokens) // steps in fitting:
        return len(tokens) // steps
    return fitting[0]


def _one_layer(tokens: Sequence[Token]) -> bool:
    """Whether calls may be one layer, step after step.

    First steps may pass no gradient, nor last ones, whose spikes reach no output; a later step may also read what feeds
    spikes back.
    """
    passed = [k for k, token in enumerate(tokens) if token.parameters is not None]
    same = all((token.function, token.shape) == (tokens[0].function, tokens[0].shape) for token in tokens)
    together = not passed or passed[-1] - passed[0] == len(passed) - 1
    return same and together and all(_grown(tokens[a], tokens[b]) for a, b in pairwise(passed))


def _grown(before: Token, after: Token) -> bool:
    return before.parameters is not None and after.parameters is not None and before.parameters <= after.parameters


def _layers_of_a_pass(tokens: Sequence[Token]) -> list[int | None]:
    """Layers that take all their steps one after the other, or begin at different steps."""
    layers: list[int | None] = []
    known: list[Token] = []  # the last call of each layer
    for token in tokens:
        layers.append(None if token.parameters is None else _layer(token, known, layers))
    for k in reversed(range(len(tokens) - 1)):  # first steps without a gradient belong to the layer that follows
        before = next((each for each in reversed(layers[:k]) if each is not None), None)
        if layers[k] is None and layers[k + 1] != before:
            layers[k] = layers[k + 1]
    return layers


def _layer(token: Token, known: list[Token], layers: Sequence[int | None]) -> int:
    """The layer of a call, which is added to the known ones."""
    found = next((k for k, each in enumerate(known) if each == token), None)
    last = next((each for each in reversed(layers) if each is not None), None)
    if found is None and last is not None and _one_layer([known[last], token]):
        found = last
    if found is None:
        known.append(token)
        return len(known) - 1
    known[found] = token
    return found
