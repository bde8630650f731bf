"""The families of SpikingJelly's model zoo, each at a small configuration (images of 32 x 32 at most)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import by_hand
import numpy as np
import torch
from case import CLASSES, Case, Plain, hooked, of_types
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import (
    masnn,
    maxformer,
    ms_resnet,
    parametric_lif_net,
    qkformer,
    sew_resnet,
    snas_net,
    spike_dhs,
    spike_driven_transformer,
    spikformer,
    spiking_resnet,
    spiking_vgg,
    spiking_vggws_ottt,
)
from torch import Tensor, nn

STEPS = 4
#: Nodes that spike; the zoo's nets use no others.
_LAYERS = of_types(neuron.BaseNode)
_LIF: dict[str, Any] = {"surrogate_function": surrogate.ATan(), "detach_reset": True}


def repeated(net: nn.Module, x: Tensor) -> Tensor:
    """For nets of [T, N, *]: reset, the input repeated, the mean over time."""
    functional.reset_net(net)
    return net(x.unsqueeze(0).repeat(STEPS, *[1] * x.ndim)).mean(0)


def images(net: nn.Module, x: Tensor) -> Tensor:
    """For nets that repeat the image themselves; some return a sequence, some (logits, auxiliary logits)."""
    functional.reset_net(net)
    out = net(x)
    out = out[0] if isinstance(out, tuple) else out
    return out.mean(0) if out.ndim == 3 else out


def stepwise(net: nn.Module, x: Tensor) -> Tensor:
    """For single-step nets: reset, one call a step, the mean over time."""
    functional.reset_net(net)
    return torch.stack([net(x) for _ in range(STEPS)]).mean(0)


_SEQUENCE = {"layout": "TN", "steps": STEPS}
_IMAGE = {"layout": "N"}


def multi_step(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The net with all its modules in step mode "m"."""

    def build() -> nn.Module:
        net = make()
        functional.set_step_mode(net, "m")
        return net

    return build


def _vgg() -> nn.Module:
    net = spiking_vgg.SpikingVGG(
        [8, "M", 16, "M"], batch_norm=True, num_classes=CLASSES, spiking_neuron=neuron.LIFNode, **_LIF
    )
    net.avgpool = layer.AdaptiveAvgPool2d((2, 2))  # the classifier for ImageNet has 120 million weights
    net.classifier = nn.Sequential(
        layer.Linear(64, 32), neuron.LIFNode(**_LIF), layer.Dropout(), layer.Linear(32, CLASSES)
    )
    return net


def _resnet() -> nn.Module:
    return spiking_resnet.SpikingResNet(
        spiking_resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES, spiking_neuron=neuron.LIFNode, **_LIF
    )


def _sew() -> nn.Module:
    return sew_resnet.SEWResNet(
        sew_resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES, cnf="ADD", spiking_neuron=neuron.IFNode, **_LIF
    )


def _plif(net: Callable[..., nn.Module]) -> nn.Module:
    made = net(channels=4, spiking_neuron=neuron.ParametricLIFNode, **_LIF)
    made.conv_fc[-1] = nn.Identity()  # its vote over ten outputs each: the head below has one output a class
    made.conv_fc[-3] = layer.Linear(2048, CLASSES)
    return made


def _ms(net: Callable[..., nn.Module], **more: Any) -> nn.Module:
    return net(T=STEPS, num_classes=CLASSES, layers=(1, 1, 1), base_channels=8, stem_kernel_size=3, **more)


def _masnn() -> nn.Module:
    return masnn.MASNN(
        T=STEPS, num_classes=CLASSES, input_size=(8, 8), channels=(16, 16), pools=(1, 2), fc_hidden=16, reduction_t=2
    )


def _spikformer() -> nn.Module:
    return spikformer.Spikformer(
        T=STEPS, img_size_h=32, img_size_w=32, patch_size=4, embed_dims=32, num_heads=4, depths=1, num_classes=CLASSES
    )


def _qkformer() -> nn.Module:
    return qkformer.QKFormer(T=STEPS, num_classes=CLASSES, embed_dims=32, num_heads=(1, 2, 2), depths=(1, 1, 1))


def _transformer() -> nn.Module:
    return spike_driven_transformer.SpikeDrivenTransformer(
        T=STEPS, num_classes=CLASSES, embed_dims=32, num_heads=2, depths=1, pooling_stat="1100"
    )


def _maxformer(cifar: bool) -> nn.Module:
    return maxformer.MaxFormer(T=STEPS, num_classes=CLASSES, embed_dims=32, depths=(1, 1, 1), cifar=cifar)


def _snas() -> nn.Module:
    settings = SimpleNamespace(
        timestep=2, second_avgpooling=8, dataset="cifar10", celltype="forward", threshold=1.0, tau=4 / 3
    )
    cell = np.zeros((4, 4), dtype=int)
    cell[0, 1], cell[0, 2], cell[1, 2], cell[0, 3], cell[1, 3], cell[2, 3] = 2, 0, 1, 4, 0, 1
    net = snas_net.SNASNet(settings, cell)
    net.classifier[-1] = nn.Linear(1024, 10 * CLASSES)
    return net


def _dhs() -> nn.Module:
    settings = SimpleNamespace(fea_step=3, fea_num_layers=8, fea_block_multiplier=3, fea_filter_multiplier=48)
    net = spike_dhs.SpikeDHS(args=settings)
    net.classifier = spike_dhs.SpikingLinear(576, CLASSES, spiking=False)
    net._time_step = 2
    return net


def _ottt() -> nn.Module:
    return spiking_vggws_ottt.OTTTSpikingVGG(
        [16, "A", 512], num_classes=CLASSES, spiking_neuron=neuron.OTTTLIFNode, **_LIF
    )


def _row(
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    plain: Plain,
    settings: dict[str, Any],
    **more: Any,
) -> Case:
    more = {"by_hand": by_hand.spikingjelly} | more
    return Case(name, build, shape, plain, hooked(plain, _LAYERS), settings=settings, **more)


def rows() -> list[Case]:
    """A row for each family."""
    sequence = [
        ("spiking VGG", _vgg, (3, 16, 16)),
        ("spiking ResNet", _resnet, (3, 32, 32)),
        ("SEW ResNet", _sew, (3, 32, 32)),
        ("PLIF MNISTNet", lambda: _plif(parametric_lif_net.MNISTNet), (1, 28, 28)),
        ("PLIF CIFAR10Net", lambda: _plif(parametric_lif_net.CIFAR10Net), (3, 32, 32)),
    ]
    image = [
        ("MS-ResNet", lambda: _ms(ms_resnet.MSResNet), (3, 16, 16)),
        ("Max-ResNet", lambda: _ms(ms_resnet.MaxResNet), (3, 16, 16)),
        ("Att-MS-ResNet", lambda: _ms(masnn.AttMSResNet), (3, 16, 16)),
        ("Spikformer", _spikformer, (3, 32, 32)),
        ("QKFormer", _qkformer, (3, 32, 32)),
        ("Spike-driven Transformer", _transformer, (3, 16, 16)),
        ("MaxFormer", lambda: _maxformer(False), (3, 32, 32)),
        ("MaxFormer (CIFAR)", lambda: _maxformer(True), (3, 16, 16)),
        ("SpikeDHS", multi_step(_dhs), (3, 8, 8)),
    ]
    return [
        *(_row(name, multi_step(make), shape, repeated, _SEQUENCE) for name, make, shape in sequence),
        *(_row(name, make, shape, images, _IMAGE) for name, make, shape in image),
        _row("MA-SNN", _masnn, (2, 8, 8), images, _IMAGE | {"domain": "binary"}, binary=True),
        _row("SNASNet", _snas, (3, 32, 32), images, _IMAGE, samples=2),
        _row(
            "OTTT VGG",
            _ottt,
            (3, 16, 16),
            stepwise,
            {"layout": "step", "steps": STEPS},
            by_hand=None,
            note="its neurons call no surrogate in eval mode",
        ),
    ]


def modules() -> list[str]:
    """The files of the zoo that these rows cover."""
    return sorted(
        each.__name__.rpartition(".")[2]
        for each in (
            *(masnn, maxformer, ms_resnet, parametric_lif_net, qkformer, sew_resnet, snas_net, spike_dhs),
            *(spike_driven_transformer, spikformer, spiking_resnet, spiking_vgg, spiking_vggws_ottt),
        )
    )
