"""What a corruption promises."""

from __future__ import annotations

import torch

from snnrobust.common.random import Draws
from snnrobust.plugin.protocols import Corruption
from snnrobust.testing.setting import require, setting


def check_corruption(name: str, plugin: Corruption) -> None:
    """Shape kept, nothing changed at severity 0, keyed randomness, or none where it says that it is deterministic."""
    _, data = setting(name, plugin)
    rng, index = Draws(0, name), data.index
    require(
        name, torch.equal(plugin.apply(data.x, 0.0, rng, index), data.x), "unchanged inputs at severity 0", "changes"
    )
    noisy = plugin.apply(data.x, 0.5, rng, index)
    require(name, noisy.shape == data.x.shape, f"shape {tuple(data.x.shape)}", f"{tuple(noisy.shape)}")
    require(name, bool(torch.isfinite(noisy).all()), "finite inputs", "NaN or infinity")
    require(
        name,
        torch.equal(noisy, plugin.apply(data.x, 0.5, rng, index)),
        "the same noise for the same keys",
        "other noise",
    )
    alone = torch.cat([plugin.apply(data.x[[i]], 0.5, rng, index[[i]]) for i in range(len(data))])
    require(name, torch.equal(noisy, alone), "noise that does not depend on the batch", "different noise alone")
    same = torch.equal(noisy, plugin.apply(data.x, 0.5, rng.sub("other"), index))
    if getattr(plugin, "deterministic", False):
        require(name, same, "the same inputs for another stream, as it says that it is deterministic", "other ones")
    else:
        require(name, not same, "other noise for another stream, or deterministic = True", "the same")
