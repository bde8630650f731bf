"""Nets of snnTorch, Norse and sinabs as their users write them, and each framework's own way to run and reset them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import by_hand
import norse.torch as norse
import sinabs
import sinabs.activation as sa
import sinabs.layers as sl
import snntorch as snn
import torch
from case import CLASSES, Case, hooked, of_types
from norse.torch.functional.superspike import SuperSpike
from snntorch import surrogate, utils
from torch import Tensor, nn

STEPS = 6
INPUTS, FIRST, SECOND = 8, 12, 10
IMAGE = (1, 12, 12)


# ------------------------------------------------------------------------------------------------------------- snnTorch
_BETA = 0.8


def _leaky(**more: Any) -> Callable[[], nn.Module]:
    return lambda: snn.Leaky(beta=_BETA, init_hidden=True, **more)


def _sequential(node: Callable[[], nn.Module], last: Callable[[], nn.Module]) -> nn.Module:
    """The feed-forward net of snnTorch's tutorials: the last neuron gives (spikes, membrane potential)."""
    return nn.Sequential(
        nn.Linear(INPUTS, FIRST), node(), nn.Linear(FIRST, SECOND), node(), nn.Linear(SECOND, CLASSES), last()
    )


def _reset_snntorch(net: nn.Module) -> None:
    """Resets neurons wherever they are: `utils.reset` looks at the net's direct children only."""
    utils.reset(net)
    for module in net.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()


def _stepwise(net: nn.Module, x: Tensor) -> Tensor:
    """Reset, one call a step, and the sum of the spikes that the last neuron gives."""
    _reset_snntorch(net)
    return torch.stack([_first(net(x)) for _ in range(STEPS)]).sum(0)


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


class _Explicit(nn.Module):
    """State as local variables, made anew in each forward pass, which repeats its input over time."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, FIRST), snn.Leaky(beta=_BETA, **more)
        self.fc2, self.lif2 = nn.Linear(FIRST, CLASSES), snn.Leaky(beta=_BETA, **more)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def _once(net: nn.Module, x: Tensor) -> Tensor:
    """For nets that repeat the input themselves: the sum of their spikes over time."""
    return _first(net(x)).sum(0)


def _rleaky(**more: Any) -> Callable[[int], nn.Module]:
    return lambda features: snn.RLeaky(beta=_BETA, linear_features=features, init_hidden=True, **more)


def _recurrent_snntorch() -> nn.Module:
    net = _sequential(_leaky(), _leaky(output=True))
    net[1], net[3] = _rleaky()(FIRST), _rleaky()(SECOND)
    return net


def _conv_snntorch() -> nn.Module:
    spike_grad = surrogate.fast_sigmoid(slope=25)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), _leaky(spike_grad=spike_grad)()),
        *(nn.Conv2d(4, 6, 2), nn.MaxPool2d(2), _leaky(spike_grad=spike_grad)()),
        *(nn.Flatten(), nn.Linear(24, CLASSES), _leaky(spike_grad=spike_grad, output=True)()),
    )


class _Nested(nn.Module):
    """Neurons in containers, which `utils.reset` does not find."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(INPUTS, FIRST), _leaky()()), nn.Sequential(nn.Linear(FIRST, SECOND), _leaky()())]
        )
        self.head = nn.ModuleDict({"fc": nn.Linear(SECOND, CLASSES)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head["fc"](x)


def _snntorch_by_hand(net: nn.Module) -> AbstractContextManager[None]:
    neurons = [module for module in net.modules() if isinstance(module, snn.SpikingNeuron)]
    return by_hand.replaced([(each, "spike_grad", by_hand.strict_step) for each in neurons])


def _snntorch_row(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...] = (INPUTS,), **more: Any) -> Case:
    plain = more.pop("plain", _stepwise)
    settings = {"layout": "step", "steps": STEPS, "readout": "sum"} | more.pop("settings", {"output": 0})
    count = hooked(plain, of_types(snn.SpikingNeuron))
    return Case(f"snnTorch: {name}", build, shape, plain, count, _snntorch_by_hand, settings, **more)


def _snntorch_rows() -> list[Case]:
    in_layout_n = {"layout": "N", "steps": None, "output": 0}
    return [
        _snntorch_row("Leaky, init_hidden", lambda: _sequential(_leaky(), _leaky(output=True))),
        _snntorch_row("Leaky, explicit state", _Explicit, plain=_once, settings=in_layout_n),
        _snntorch_row("Leaky, reset_delay=False", lambda: _sequential(*[_leaky(reset_delay=False)] * 2), settings={}),
        _snntorch_row("Leaky, reset to zero", lambda: _sequential(*[_leaky(reset_mechanism="zero")] * 2), settings={}),
        _snntorch_row(
            "Synaptic",
            lambda: _sequential(*[lambda: snn.Synaptic(alpha=0.7, beta=_BETA, init_hidden=True)] * 2),
            settings={},
        ),
        _snntorch_row("RLeaky", _recurrent_snntorch),
        _snntorch_row(
            "Lapicque", lambda: _sequential(*[lambda: snn.Lapicque(beta=_BETA, init_hidden=True)] * 2), settings={}
        ),
        _snntorch_row("convolutional, fast sigmoid", _conv_snntorch, IMAGE),
        _snntorch_row("neurons in containers", _Nested, settings={}),
    ]


# ---------------------------------------------------------------------------------------------------------------- Norse
def _norse_sequence(net: nn.Module, x: Tensor) -> Tensor:
    """One call with all steps, [T, N, *]; without a state to go on from, it starts anew."""
    return net(x.unsqueeze(0).repeat(STEPS, *[1] * x.ndim))[0].mean(0)


def _norse_static(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).mean(0)


class _Cells(nn.Module):
    """A loop over time that hands each cell its state on; the net repeats its input."""

    def __init__(self, cell: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc1, self.cell1, self.fc2, self.cell2 = nn.Linear(INPUTS, FIRST), cell(), nn.Linear(FIRST, SECOND), cell()
        self.head = nn.Linear(SECOND, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = second = None
        out = []
        for _ in range(STEPS):
            spikes, first = self.cell1(self.fc1(x), first)
            spikes, second = self.cell2(self.fc2(spikes), second)
            out.append(self.head(spikes))
        return torch.stack(out)


class _StatePassed(nn.Module):
    """A `SequentialState` of single-step modules, as in Norse's MNIST example, called once a step with its state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norse.SequentialState(
            *(nn.Conv2d(1, 4, 3), norse.LIFCell(p=norse.LIFParameters(method="super", alpha=torch.tensor(100.0)))),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, SECOND), norse.LIFCell()),
            norse.LILinearCell(SECOND, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        state, out = None, []
        for _ in range(STEPS):
            y, state = self.net(x, state)
            out.append(y)
        return torch.stack(out)


def _between(*nodes: nn.Module) -> nn.Module:
    return norse.SequentialState(
        nn.Linear(INPUTS, FIRST), nodes[0], nn.Linear(FIRST, SECOND), nodes[1], nn.Linear(SECOND, CLASSES)
    )


def _recurrent_norse(layer: Callable[..., nn.Module]) -> nn.Module:
    return norse.SequentialState(layer(INPUTS, FIRST), layer(FIRST, SECOND), nn.Linear(SECOND, CLASSES))


def _recurrent_knobs(net: nn.Module) -> dict[str, list[list[Tensor]]]:
    return {name: [[net.get_submodule(name).input_weights]] for name in ("0", "1")}


def _norse_by_hand(net: nn.Module) -> AbstractContextManager[None]:
    """Its spikes are of one Function, which all nets share."""
    return by_hand.function((SuperSpike, lambda ctx, grad: (grad * by_hand.slope(ctx.saved_tensors[0]), None)))


_NORSE_NODES = of_types(
    *(norse.LIF, norse.LIFCell, norse.LIFRecurrent, norse.IAF, norse.IAFCell, norse.LSNN, norse.LSNNRecurrent)
)


def _norse_row(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...] = (INPUTS,), **more: Any) -> Case:
    plain = more.pop("plain", _norse_sequence)
    settings = more.pop("settings", {"layout": "TN", "steps": STEPS, "output": 0})
    return Case(f"Norse: {name}", build, shape, plain, hooked(plain, _NORSE_NODES), _norse_by_hand, settings, **more)


def _norse_rows() -> list[Case]:
    static = {"plain": _norse_static, "settings": {"layout": "N"}}
    return [
        _norse_row("SequentialState of LIF", lambda: _between(norse.LIF(), norse.LIF())),
        _norse_row("LIFCell in a loop", lambda: _Cells(norse.LIFCell), **static),
        _norse_row("LIFRecurrent", lambda: _recurrent_norse(norse.LIFRecurrent), knobs=_recurrent_knobs),
        _norse_row("IAF", lambda: _between(norse.IAF(), norse.IAF())),
        _norse_row("LSNN", lambda: _between(norse.LSNN(), norse.LSNN())),
        _norse_row("LSNNRecurrent", lambda: _recurrent_norse(norse.LSNNRecurrent), knobs=_recurrent_knobs),
        _norse_row("convolutional, state handed on", _StatePassed, IMAGE, **static),
    ]


# --------------------------------------------------------------------------------------------------------------- sinabs
def _sinabs_sequence(net: nn.Module, x: Tensor) -> Tensor:
    """Reset, one call with all steps, [N, T, *]."""
    for module in net.modules():  # sinabs.reset_states passes over a layer with children, as recurrent ones are
        if isinstance(module, sl.StatefulLayer):
            module.reset_states()
    return net(x.unsqueeze(1).repeat(1, STEPS, *[1] * (x.ndim - 1))).mean(1)


def _around(make: Callable[[int], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(INPUTS, FIRST), make(FIRST), nn.Linear(FIRST, SECOND), make(SECOND), nn.Linear(SECOND, CLASSES)
    )


class _Flattened(nn.Module):
    """A convolutional net on [N T, C, H, W] as in sinabs's N-MNIST example; its layers know T."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _conv_sinabs() -> nn.Module:
    return _Flattened(
        nn.Sequential(
            *(nn.Conv2d(1, 4, 3, bias=False), sl.IAFSqueeze(num_timesteps=STEPS, min_v_mem=-1.0), nn.AvgPool2d(2)),
            *(nn.Conv2d(4, 6, 2, bias=False), sl.IAFSqueeze(num_timesteps=STEPS, min_v_mem=-1.0), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(24, CLASSES, bias=False)),
        )
    )


def _converted() -> nn.Module:
    ann = nn.Sequential(
        nn.Linear(INPUTS, FIRST), nn.ReLU(), nn.Linear(FIRST, SECOND), nn.ReLU(), nn.Linear(SECOND, CLASSES)
    )
    return _Flattened(sinabs.from_torch.from_model(ann, num_timesteps=STEPS).spiking_model)


def _sinabs_slope(v: Tensor, threshold: Any) -> Tensor:
    return by_hand.slope(v - threshold)


def _sinabs_count_slope(v: Tensor, threshold: Any) -> Tensor:
    return by_hand.slope(v - by_hand.nearest_level(v, spacing=threshold))


def _sinabs_by_hand(net: nn.Module) -> AbstractContextManager[None]:
    layers = [module for module in net.modules() if isinstance(module, sl.StatefulLayer)]
    return by_hand.replaced(
        [
            (each, "surrogate_grad_fn", _sinabs_slope if each.spike_fn is sa.SingleSpike else _sinabs_count_slope)
            for each in layers
        ]
    )


def _sinabs_row(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...] = (INPUTS,), **more: Any) -> Case:
    count = hooked(_sinabs_sequence, of_types(sl.StatefulLayer))
    settings = {"layout": "NT", "steps": STEPS, "domain": "binary" if more.get("binary") else "real"}
    return Case(f"sinabs: {name}", build, shape, _sinabs_sequence, count, _sinabs_by_hand, settings, **more)


def _sinabs_rows() -> list[Case]:
    single = {"spike_fn": sa.SingleSpike}
    return [
        _sinabs_row("IAF, MultiSpike", _around(lambda n: sl.IAF())),
        _sinabs_row("LIF, MultiSpike", _around(lambda n: sl.LIF(tau_mem=5.0))),
        _sinabs_row("LIF, SingleSpike", _around(lambda n: sl.LIF(tau_mem=5.0, tau_syn=2.0, **single))),
        _sinabs_row("ALIF", _around(lambda n: sl.ALIF(tau_mem=5.0, tau_adapt=10.0))),
        _sinabs_row("LIFRecurrent", _around(lambda n: sl.LIFRecurrent(tau_mem=5.0, rec_connect=nn.Linear(n, n)))),
        _sinabs_row("convolutional, IAFSqueeze", _conv_sinabs, IMAGE, binary=True),
        _sinabs_row("converted by from_torch", _converted),
    ]


def rows() -> list[Case]:
    """A row for each net."""
    return [*_snntorch_rows(), *_norse_rows(), *_sinabs_rows()]
