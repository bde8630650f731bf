"""Ready-made nets of SpikingJelly run on fast kernels."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from spikingjelly.activation_based.model import ms_resnet

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.kernels.backends import backends
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.rectangle import Rectangle

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")


def small_ms_resnet(own: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    net: torch.nn.Module = ms_resnet.MSResNet(
        T=2, in_channels=3, num_classes=3, layers=(1, 1, 1), base_channels=4, stem_kernel_size=3, stem_stride=1
    )
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # some start at 0, and would hide what lies before them
        if isinstance(module, neuron.LIFNode):
            assert isinstance(module.surrogate_function, surrogate.Rect)  # its default
            module.surrogate_function = own
    return net.eval()


def test_an_ms_resnet_with_rectangles_runs_on_kernels() -> None:
    net, x = small_ms_resnet(surrogate.Rect(alpha=0.5)), torch.rand(8, 3, 8, 8)
    accelerated = AcceleratedModel(sr.wrap(net, layout="N"), Own())
    accelerated.compare(x, torch.arange(8))
    assert str(accelerated.path) == "native kernels at 7 of 7 spiking nodes"
    at = x.requires_grad_()
    assert torch.autograd.grad(accelerated.outputs(at).square().sum(), at)[0].any()


def test_the_comparison_refuses_another_width() -> None:
    net, x = small_ms_resnet(surrogate.Rect(alpha=0.5)), torch.rand(8, 3, 8, 8)
    accelerated = AcceleratedModel(sr.wrap(net, layout="N"), Rectangle(gamma=1.0))
    accelerated._estimator = Own()  # of width 2
    with pytest.raises(NotAccelerated, match="its gradients differ"):
        accelerated.compare(x, torch.arange(8))
