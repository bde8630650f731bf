"""Checks of corruptions."""

from __future__ import annotations

import torch

from snnrobust.common.random import Draws
from snnrobust.plugin.protocols import Corruption
from snnrobust.testing.checks import accepted_model_and_data, check_promise


def check_corruption(name: str, plugin: Corruption) -> None:
    """Shape kept, nothing changed at severity 0, keyed randomness, or none with `deterministic = True`."""
    _, data = accepted_model_and_data(name, plugin)
    rng, index = Draws(0, name), data.index
    check_promise(
        name, torch.equal(plugin.apply(data.x, 0.0, rng, index), data.x), "unchanged inputs at severity 0", "changes"
    )
    noisy = plugin.apply(data.x, 0.5, rng, index)
    check_promise(name, noisy.shape == data.x.shape, f"shape {tuple(data.x.shape)}", f"{tuple(noisy.shape)}")
    check_promise(name, bool(torch.isfinite(noisy).all()), "finite inputs", "NaN or infinity")
    check_promise(
        name,
        torch.equal(noisy, plugin.apply(data.x, 0.5, rng, index)),
        "the same noise for the same keys",
        "other noise",
    )
    alone = torch.cat([plugin.apply(data.x[[i]], 0.5, rng, index[[i]]) for i in range(len(data))])
    check_promise(name, torch.equal(noisy, alone), "noise that does not depend on the batch", "different noise alone")
    same = torch.equal(noisy, plugin.apply(data.x, 0.5, rng.sub("other"), index))
    if getattr(plugin, "deterministic", False):
        check_promise(name, same, "the same inputs for another stream, since deterministic = True", "other ones")
    else:
        check_promise(name, not same, "other noise for another stream, or deterministic = True", "the same")
