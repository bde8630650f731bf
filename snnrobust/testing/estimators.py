"""Checks of gradient estimators."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from snnrobust.data.dataset import Dataset
from snnrobust.errors import PluginError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin.protocols import Estimator, Pointwise, Relaxation
from snnrobust.spike_gradients.swap import spike_gradient_contexts
from snnrobust.testing.checks import check_promise, model_state, same_state
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel


def check_estimator(name: str, plugin: Any) -> None:
    """Finite derivatives and gradients, unchanged forward values except for a relaxation, independent samples."""
    u = torch.arange(-30, 31).reshape(1, 61) / 10  # the threshold itself among them
    if isinstance(plugin, Estimator):
        _check_slope(name, u, plugin.backward(u, {"surrogate": surrogate.ATan()}), "a derivative")
    if isinstance(plugin, Pointwise):
        _check_pointwise(name, plugin, torch.cat([u, torch.tensor([[-torch.inf, torch.inf]])], dim=1))
    if isinstance(plugin, Relaxation):
        at = u.clone().requires_grad_()
        primitive = plugin.primitive(at, {"surrogate": surrogate.ATan()})
        _check_slope(name, u, primitive.detach(), "a primitive")
        check_promise(name, primitive.requires_grad, "a differentiable primitive", "one without a gradient")
        _check_slope(name, u, torch.autograd.grad(primitive.sum(), at)[0], "a slope")
    model, data = tiny_model(), tiny_data()
    before = model_state(model)
    with model.session():
        plain = model.logits(data.x)
        for swap in spike_gradient_contexts(model, plugin):
            with swap:
                swapped = model.logits(data.x)
            same = torch.equal(plain, swapped)
            check_promise(name, same or not swap.exact, "unchanged forward values", "changed ones")
        batches = [list(range(len(data)))], [[i] for i in reversed(range(len(data)))]
        together, alone = (_estimated(plugin, model, data, batch) for batch in batches)
    check_promise(
        name, same_state(before, model_state(model)), "the model and torch's random state unchanged", "changed ones"
    )
    check_promise(name, bool(torch.isfinite(together).all()), "finite input gradients", "NaN or infinity")
    if not getattr(plugin, "batch_dependent", False):
        same = bool((together - alone).abs().max() <= 1e-5 * together.abs().max().clamp(min=1))
        check_promise(
            name,
            same,
            "gradients that do not depend on the batch",
            "others alone; store values of a sample in state['memory'], or set batch_dependent = True",
        )


def _check_pointwise(name: str, plugin: Any, u: Tensor) -> None:
    """`derivative`, which fast kernels use, equals `backward`, also at infinite membrane potentials."""
    try:
        ours, fast = plugin.backward(u, {}), plugin.derivative(u)
    except (AttributeError, KeyError) as error:
        raise PluginError(
            f"expected `derivative` of '{name}' to equal its `backward`, a function of u alone, got one that needs "
            f"{error}; leave `derivative` out"
        ) from error
    check_promise(name, fast.shape == u.shape, f"`derivative` of shape {tuple(u.shape)}", f"{tuple(fast.shape)}")
    off = ~torch.isclose(fast, ours, rtol=1e-5, atol=1e-7)
    for at, got, expected in zip(u[off].tolist(), fast[off].tolist(), ours[off].tolist(), strict=True):
        check_promise(name, False, f"`derivative` to be {expected:g} at {at:g}, as `backward` is,", f"{got:g}")


def _check_slope(name: str, u: Tensor, value: Tensor, what: str) -> None:
    check_promise(name, value.shape == u.shape, f"{what} of shape {tuple(u.shape)}", f"{tuple(value.shape)}")
    check_promise(name, bool(torch.isfinite(value).all()), f"{what} that is finite", "NaN or infinity")


def _estimated(plugin: Any, model: SpikingModel, data: Dataset, batches: list[list[int]]) -> Tensor:
    """Input gradients at the second of two iterates, in batches."""
    swaps, gradients = spike_gradient_contexts(model, plugin), torch.zeros_like(data.x)
    for iterate in (data.x, 1 - data.x):
        for rows in batches:
            total = torch.zeros_like(data.x[rows])
            for swap in swaps:
                at = iterate[rows].requires_grad_()
                with swap.at(data.index[rows]):
                    loss = CrossEntropy()(model.logits(at, keys=data.index[rows]), data.y[rows]).sum()
                    total += torch.autograd.grad(loss, at)[0] / len(swaps)
            gradients[rows] = total
    return gradients
