"""Every neuron class of SpikingJelly that can be made, and its recurrent cells, each in a tiny net."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import by_hand
import torch
from case import CLASSES, Case, Counted, hooked, of_types
from spikingjelly.activation_based import functional, layer, neuron, rnn
from spikingjelly_zoo import repeated, stepwise
from torch import Tensor, nn

STEPS = 4
INPUTS, FIRST, SECOND = 8, 12, 10
Make = Callable[[int], nn.Module]

#: Classes that are no neurons, or that others are derived from.
ABSTRACT = {
    "AdaptBaseNode": "abstract: no dynamics of its own",
    "BaseNode": "abstract: no dynamics of its own",
    "SimpleBaseNode": "abstract: no dynamics of its own",
    "NonSpikingBaseNode": "abstract: no dynamics of its own",
    "ILCBaseNode": "abstract: no dynamics of its own",
    "MPBNBaseNode": "abstract: no dynamics of its own",
    "NoisyBaseNode": "abstract: no dynamics of its own",
    "NoisyILCBaseNode": "abstract: no dynamics of its own",
    "NoisyNonSpikingBaseNode": "abstract: no dynamics of its own",
    "FewSpikeTable": "no neuron: the thresholds of FewSpikeNode",
}

_TABLE = neuron.FewSpikeTable(theta=[2.0, 1.0, 0.5, 0.25], h=[2.0, 1.0, 0.5, 0.25], d=[2.0, 1.0, 0.5, 0.25])
_COARSE = neuron.FewSpikeTable(theta=[8.0, 4.0, 2.0, 1.0], h=[8.0, 4.0, 2.0, 1.0], d=[8.0, 4.0, 2.0, 1.0])


class _FlexSpike(torch.autograd.Function):
    """The spike of the FlexSN row, which brings its own."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0).to(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.sigmoid(4 * ctx.saved_tensors[0]) * (1 - torch.sigmoid(4 * ctx.saved_tensors[0])) * 4


def _flex_core(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    v = v + (x - v) / 2
    spike = _FlexSpike.apply(v - 1)
    return spike, v * (1 - spike)


def _flex_by_hand(net: nn.Module) -> Any:
    return by_hand.function((_FlexSpike, lambda ctx, grad: grad * by_hand.slope(ctx.saved_tensors[0])))


def _liaf(features: int) -> nn.Module:
    return neuron.LIAFNode(torch.relu, True)


#: How a class is made for a number of features.
MAKE: dict[str, Make] = {
    "ActivationAwareIFNode": lambda n: neuron.ActivationAwareIFNode(),
    "CUBALIFNode": lambda n: neuron.CUBALIFNode(),
    "ComplementaryLIFNode": lambda n: neuron.ComplementaryLIFNode(),
    "EIFNode": lambda n: neuron.EIFNode(),
    "HalfThresholdIFNode": lambda n: neuron.HalfThresholdIFNode(),
    "IFNode": lambda n: neuron.IFNode(),
    "ILIFNode": lambda n: neuron.ILIFNode(),
    "IzhikevichNode": lambda n: neuron.IzhikevichNode(a=0.1, b=0.1),
    "KLIFNode": lambda n: neuron.KLIFNode(),
    "LIAFNode": _liaf,
    "LIFNode": lambda n: neuron.LIFNode(),
    "MPBNLIFNode": lambda n: neuron.MPBNLIFNode(out_features=n),
    "MaskedPSN": lambda n: neuron.MaskedPSN(k=2, T=STEPS, lambda_init=1.0),
    "PSN": lambda n: neuron.PSN(STEPS),
    "ParametricLIFNode": lambda n: neuron.ParametricLIFNode(),
    "QIFNode": lambda n: neuron.QIFNode(),
    "RAFNode": lambda n: neuron.RAFNode(),
    "SimpleIFNode": lambda n: neuron.SimpleIFNode(),
    "SimpleLIFNode": lambda n: neuron.SimpleLIFNode(tau=2.0, decay_input=True),
    "SlidingPSN": lambda n: neuron.SlidingPSN(k=2),
    "TernaryIFNode": lambda n: neuron.TernaryIFNode(),
    "TernaryLIFNode": lambda n: neuron.TernaryLIFNode(),
    "FewSpikeNode": lambda n: neuron.FewSpikeNode(_TABLE),
    "OutlierAwareThresholdNode": lambda n: neuron.OutlierAwareThresholdNode(_TABLE, _COARSE, split_threshold=4.0),
    "HGNode": lambda n: neuron.HGNode([_TABLE, _COARSE], [4.0]),
    "DSRIFNode": lambda n: neuron.DSRIFNode(T=STEPS, v_threshold=1.0),
    "DSRLIFNode": lambda n: neuron.DSRLIFNode(T=STEPS, v_threshold=0.2),
    "STBIFNode": lambda n: neuron.STBIFNode(0.5, level=8, sym=True),
    "ILCIFNode": lambda n: neuron.ILCIFNode(n // 2, 2),
    "ILCLIFNode": lambda n: neuron.ILCLIFNode(n // 2, 2),
    "ILCCUBALIFNode": lambda n: neuron.ILCCUBALIFNode(n // 2, 2),
    "NoisyCUBALIFNode": lambda n: neuron.NoisyCUBALIFNode(n, is_training=False, T=STEPS),
    "NoisyILCCUBALIFNode": lambda n: neuron.NoisyILCCUBALIFNode(n // 2, 2, is_training=False, T=STEPS),
    "FlexSN": lambda n: neuron.FlexSN(_flex_core, num_states=1),
}

#: Neurons whose spikes have no derivative that could be replaced.
UNSWAPPABLE = {
    "DSRIFNode": "its gradient is one of rates over the whole sequence",
    "DSRLIFNode": "its gradient is one of rates over the whole sequence",
    "STBIFNode": "it is made for inference, and passes no gradient",
}
NOTES = {
    "LIAFNode": "its output is relu(membrane potential - threshold); spikes only reset it",
    "NoisyCUBALIFNode": "is_training=False: no noise",
    "NoisyILCCUBALIFNode": "is_training=False: no noise",
    "ComplementaryLIFNode": "it calls no surrogate in eval mode",
}


def _tiny(make: Make) -> nn.Module:
    net = nn.Sequential(
        layer.Linear(INPUTS, FIRST),
        make(FIRST),
        layer.Linear(FIRST, SECOND),
        make(SECOND),
        layer.Linear(SECOND, CLASSES),
    )
    functional.set_step_mode(net, "m")
    return net


def _nodes(net: nn.Module) -> dict[str, nn.Module]:
    return {name: net.get_submodule(name) for name in ("1", "3")}


def _row(name: str, make: Make) -> Case:
    own = _flex_by_hand if name == "FlexSN" else by_hand.spikingjelly
    return Case(
        name,
        lambda: _tiny(make),
        (INPUTS,),
        repeated,
        hooked(repeated, _nodes),
        by_hand=None if name in UNSWAPPABLE else own,
        settings={"layout": "TN", "steps": STEPS},
        differentiable=name != "STBIFNode",
        note=UNSWAPPABLE.get(name, NOTES.get(name, "")),
    )


def _gated() -> nn.Module:
    def node(channels: int) -> nn.Module:
        return neuron.GatedLIFNode(T=STEPS, inplane=channels)

    net = nn.Sequential(
        *(layer.Conv2d(1, 3, 3), node(3), layer.Conv2d(3, 4, 3), node(4), layer.Flatten(), layer.Linear(64, CLASSES))
    )
    functional.set_step_mode(net, "m")
    return net


def _non_spiking(read_out: nn.Module) -> nn.Module:
    net = nn.Sequential(layer.Linear(INPUTS, FIRST), neuron.LIFNode(), layer.Linear(FIRST, CLASSES), read_out)
    functional.set_step_mode(net, "m")
    return net


def _read_out_at_once(net: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(net)
    return net(x.unsqueeze(0).repeat(STEPS, *[1] * x.ndim))


def _online(node: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        layer.Linear(INPUTS, FIRST), node(), layer.Linear(FIRST, SECOND), node(), layer.Linear(SECOND, CLASSES)
    )


class _Recurrent(nn.Module):
    """A recurrent layer and a linear read-out of its outputs over time."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn = cell(INPUTS, FIRST, num_layers=1)
        self.head = nn.Linear(FIRST, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def _surrogates(net: nn.Module) -> dict[str, nn.Module]:
    """The surrogate of the only cell: what it returns are the spikes of all gates."""
    name = next(name for name, _ in net.named_modules() if name.startswith("rnn.cells.0.surrogate_function"))
    return {name: net.get_submodule(name)}


def _recurrent_row(name: str, cell: Callable[..., nn.Module], note: str) -> Case:
    settings = {"layout": "TN", "steps": STEPS}
    count = hooked(repeated, _surrogates)
    return Case(
        *(name, lambda: _Recurrent(cell), (INPUTS,), repeated, count, by_hand.spikingjelly, settings), note=note
    )


def rows() -> list[Case]:
    """A row for each class that runs on a CPU."""
    conv, sequence = hooked(repeated, _nodes), {"layout": "TN", "steps": STEPS}
    at_once: Counted = hooked(_read_out_at_once, lambda net: {"1": net.get_submodule("1")})
    single: Counted = hooked(stepwise, of_types(neuron.BaseNode))
    return [
        *(_row(name, make) for name, make in sorted(MAKE.items())),
        Case(
            "GatedLIFNode",
            _gated,
            (1, 8, 8),
            repeated,
            conv,
            by_hand.spikingjelly,
            sequence,
            note="in a convolutional net: it takes [T, N, C, H, W] only",
        ),
        *(
            Case(
                *(name, lambda made=made: _non_spiking(made()), (INPUTS,), _read_out_at_once, at_once),
                *(by_hand.spikingjelly, sequence),
                note="as read-out behind one LIFNode",
            )
            for name, made in {
                "NonSpikingIFNode": lambda: neuron.NonSpikingIFNode(decode="max-mem"),
                "NonSpikingLIFNode": lambda: neuron.NonSpikingLIFNode(decode="mean-mem"),
                "NoisyNonSpikingIFNode": lambda: neuron.NoisyNonSpikingIFNode(CLASSES, False, STEPS, decode="mean-mem"),
            }.items()
        ),
        *(
            Case(
                *(name, lambda node=node: _online(node), (INPUTS,), stepwise, single, None),
                settings={"layout": "step", "steps": STEPS},
                note="it calls no surrogate in eval mode",
            )
            for name, node in {"OTTTLIFNode": neuron.OTTTLIFNode, "SLTTLIFNode": neuron.SLTTLIFNode}.items()
        ),
        _recurrent_row("SpikingLSTM", rnn.SpikingLSTM, "all gates spike"),
        _recurrent_row("SpikingGRU", rnn.SpikingGRU, "all gates spike"),
        _recurrent_row("SpikingVanillaRNN", rnn.SpikingVanillaRNN, ""),
    ]


def classes() -> set[str]:
    """All classes of SpikingJelly's package of neurons."""
    return {name for name, each in vars(neuron).items() if inspect.isclass(each) and not name.startswith("_")}
