"""Checks of corruptions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.plugin.protocols import Corruption
from snnrobust.testing.cases import cases
from snnrobust.testing.checks import accepted_model_and_data, check_promise, model_state, same_state, task_of
from snnrobust.wrapping.model import SpikingModel

#: The severity that corruptions are checked at: also a probability.
SEVERITY = 0.5


def check_corruption(name: str, plugin: Corruption) -> None:
    """Shape kept, nothing changed at severity 0, keyed randomness, or none with `deterministic = True`.

    Checked on every kind of data that the plugin accepts: images, sequences [N, T, F] and frames [N, T, 2, H, W],
    binary and integer; one without a `check` on images alone. For spikes and events the result must be whole numbers
    within the bounds. With `changes_steps` the number of steps may change. A plugin with `on` adds its noise inside the
    net, whose outputs are then compared.
    """
    chooses = hasattr(plugin, "check")
    accepted = [case for case in cases() if _accepts(name, plugin, *case)] if chooses else []
    for model, data in accepted or [accepted_model_and_data(name, plugin)]:
        _check_on(name, plugin, model, data)


def _check_on(name: str, plugin: Corruption, model: SpikingModel, data: Dataset) -> None:
    rng, index = Draws(0, name), data.index
    before, state = data.x.clone(), model_state(model)
    clean = _seen(plugin, model, data.x, None, rng, index)
    same = torch.equal(clean, _seen(plugin, model, data.x, 0.0, rng, index))
    check_promise(name, same, "unchanged inputs at severity 0", "changes")
    noisy = plugin.apply(data.x, SEVERITY, rng, index)
    check_promise(name, torch.equal(data.x, before), "inputs that are not changed in place", "changed ones")
    _check_inputs(name, plugin, model, noisy, data.x)
    seen = _seen(plugin, model, data.x, SEVERITY, rng, index)
    check_promise(
        name,
        torch.equal(seen, _seen(plugin, model, data.x, SEVERITY, rng, index)),
        "the same noise for the same keys",
        "other noise",
    )
    alone = torch.cat([_seen(plugin, model, data.x[[i]], SEVERITY, rng, index[[i]]) for i in range(len(data))])
    check_promise(name, torch.equal(seen, alone), "noise that does not depend on the batch", "different noise alone")
    same = torch.equal(seen, _seen(plugin, model, data.x, SEVERITY, rng.sub("other"), index))
    if getattr(plugin, "deterministic", False):
        check_promise(name, same, "the same inputs for another stream, since deterministic = True", "other ones")
    else:
        check_promise(name, not same, "other noise for another stream, or deterministic = True", "the same")
    check_promise(name, same_state(state, model_state(model)), "the model unchanged", "another state of it")


def _seen(
    plugin: Corruption, model: SpikingModel, x: Tensor, severity: float | None, rng: Draws, index: Tensor
) -> Tensor:
    """Corrupted inputs, or of a plugin with `on` the outputs of the net; None: without noise."""
    inputs = x if severity is None else plugin.apply(x, severity, rng, index)
    on = getattr(plugin, "on", None)
    if on is None:
        return inputs
    with torch.no_grad(), nullcontext() if severity is None else on(model, severity, rng, index):
        return model.outputs(inputs, keys=index)


def _check_inputs(name: str, plugin: Corruption, model: SpikingModel, noisy: Tensor, x: Tensor) -> None:
    expected, shape = tuple(x.shape), tuple(noisy.shape)
    if getattr(plugin, "changes_steps", False):
        expected = (*expected[:1], *shape[1:2], *expected[2:])
    check_promise(name, shape == expected, f"shape {expected}", f"{shape}")
    check_promise(name, bool(torch.isfinite(noisy).all()), "finite inputs", "NaN or infinity")
    if model.domain == "real":  # the core clips real numbers to the bounds
        return
    check_promise(
        name, torch.equal(noisy, noisy.round()), f"whole numbers in domain '{model.domain}'", "fractions of an event"
    )
    least, most = float(noisy.min()), float(noisy.max())
    check_promise(
        name,
        model.bounds[0] <= least and most <= model.bounds[1],
        f"counts within {model.bounds} in domain '{model.domain}'",
        f"counts in {(least, most)}",
    )


def _accepts(name: str, plugin: Corruption, model: SpikingModel, data: Dataset) -> bool:
    check: Any = getattr(plugin, "check")  # noqa: B009  # no part of the protocol
    try:
        check(model, EvaluationData(data, data, data, 4), task_of(name, plugin))
    except InputError:
        return False
    return True
