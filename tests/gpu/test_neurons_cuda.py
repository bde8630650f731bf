"""CUDA against CPU: the same spikes and gradients for every preset, whatever implementation SpikingJelly picks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from snnrobust.neurons import PRESETS, Variant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VARIANTS = {**PRESETS, "learnable": Variant("learnable"), "learnable-no-reset": Variant("learnable", "none")}
FEATURES = 8


def run(node: nn.Module, x: Tensor, weights: Tensor, device: str) -> tuple[Tensor, list[Tensor]]:
    """Spikes, and the gradients of a weighted sum of them for the input and the parameters; all on the CPU."""
    node = copy.deepcopy(node).to(device)
    x = x.to(device).requires_grad_()
    steps = node(x) if node.step_mode == "m" else torch.stack([node(step) for step in x])
    gradients = torch.autograd.grad((steps * weights.to(device)).sum(), [x, *node.parameters()])
    return steps.detach().cpu(), [gradient.cpu() for gradient in gradients]


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_cuda_gives_the_spikes_and_gradients_of_the_cpu(variant: Variant, step_mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    # Multiples of 1/8 add up exactly in float32 and k = 0.5 halves exactly, so that no membrane near the threshold is
    # rounded to its other side; the lateral weights are put on the same grid.
    x = torch.randint(-12, 16, (10, 16, FEATURES), generator=generator) / 8
    weights = torch.randn(x.shape, generator=generator)
    node = variant.build(step_mode=step_mode, features=FEATURES if variant.recurrent else None)
    if variant.recurrent:
        with torch.no_grad():
            node.lateral.weight.copy_(torch.randint(-4, 5, (FEATURES, FEATURES), generator=generator) / 8)

    spikes, gradients = run(node, x, weights, "cpu")
    cuda_spikes, cuda_gradients = run(node, x, weights, "cuda")

    assert 0 < spikes.mean() < 1
    assert torch.equal(cuda_spikes, spikes)
    for cuda_gradient, gradient in zip(cuda_gradients, gradients, strict=True):
        torch.testing.assert_close(cuda_gradient, gradient, rtol=1e-4, atol=1e-5)
