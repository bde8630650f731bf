"""Checks of objectives."""

from __future__ import annotations

from typing import Any

import torch

from snnrobust.testing.checks import check_promise


def check_objective(name: str, plugin: Any) -> None:
    """Finite values and gradients for two to five classes: random logits, ties, and all-zero outputs."""
    for classes in (2, 3, 4, 5):
        ties = [[0.0] * classes, [1.0] * classes, [0.5, 0.5, *[0.0] * (classes - 2)], [0.0, *[0.5] * (classes - 1)]]
        spread = torch.rand(2, classes, generator=torch.Generator().manual_seed(classes))
        seen = torch.cat([torch.tensor(ties), spread])  # [6, K]
        if getattr(plugin, "of", "logits") != "logits":
            seen = torch.stack([seen, torch.zeros_like(seen), seen.flip(1)], dim=1)  # [6, T, K]
        y = torch.arange(len(seen)) % classes
        target = ((y + 1) % classes,) if getattr(plugin, "targeted", False) else ()
        seen.requires_grad_()
        value = plugin(seen, y, *target)
        shape = tuple(value.shape)
        check_promise(name, shape == (len(seen),), f"one value per sample, ({len(seen)},)", f"shape {shape}")
        (gradient,) = torch.autograd.grad(value.sum(), seen)
        finite = bool(torch.isfinite(value).all() and torch.isfinite(gradient).all())
        check_promise(name, finite, "finite values and gradients at ties and for silent outputs", "NaN or infinity")
        alone = torch.cat([plugin(seen[[i]], y[[i]], *(each[[i]] for each in target)) for i in range(len(seen))])
        same = torch.allclose(value, alone, atol=1e-6)
        check_promise(name, same, "values that do not depend on the batch", "different ones alone")
