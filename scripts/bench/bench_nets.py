"""The nets and data of `bench.py`: four kinds of net on real digits, and two with masked gradients.

Weights are trained briefly from fixed seeds, and kept in a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust.data import Dataset, Splits
from snnrobust.training import trainer as training

#: Positions of a digit in each event frame, and the intensity change that makes an event.
MOVES, CONTRAST = 4, 0.1
#: Corners of the moving digit's path in pixels (right, down), three saccades in a triangle.
PATH = ((-3.0, -3.0), (0.0, 3.0), (3.0, -3.0), (-3.0, -3.0))
#: Samples to train on, to validate and to test under `quick`.
FEW = (400, 16, 16)


@dataclass(frozen=True)
class Setting:
    """A net, its data and its attack.

    Attributes:
        name: Its name on the command line and in the tables.
        about: The net in words.
        steps: T.
        epsilons: Six L-inf radii, from most samples robust to few.
        samples: Attacked samples, unless given on the command line.
        build: Builds the untrained net, [T, N, *] to [T, N, 10].
        view: Maps digits [N, 1, 28, 28] to static data or sequences [N, T, *].
        temporal: Whether these are sequences.
        sharpening: Slope of the surrogates at the start of training; it grows to their own. None: their own throughout.
        epochs: Of training.
    """

    name: str
    about: str
    steps: int
    epsilons: tuple[float, ...]
    samples: int
    build: Callable[[], nn.Module]
    view: Callable[[Tensor], Tensor] = lambda x: x
    temporal: bool = False
    sharpening: float | None = None
    epochs: int = 1

    def data(self, quick: bool) -> Splits:
        """Digits as this net sees them, 3500 to train and 1000 to test."""
        splits = sr.data.load("mnist5k")
        parts = [splits.train, splits.validation, splits.test]
        if quick:
            parts = [each.take(count) for each, count in zip(parts, FEW, strict=True)]
        train, validation, test = (replace(each, x=self.view(each.x)) for each in parts)
        return Splits(train, validation, test, self.about)

    def net(self, folder: Path, train: Dataset, quick: bool) -> nn.Module:
        """The trained net, from its weights in `folder`; trained and saved there on first use."""
        file = folder / f"{self.name}{'-quick' if quick else ''}.pt"
        net = training.initialised(self.build, seed=0)
        if file.is_file():
            net.load_state_dict(torch.load(file, weights_only=True))
        else:
            self._fit(net, train, batch_size=10 if quick else 50)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(net.state_dict(), file)
        return net.eval()

    def wrap(self, net: nn.Module, *, accelerate: bool = True) -> sr.SpikingModel:
        """The net as this package evaluates it."""
        encoder, steps = (None, None) if self.temporal else ("repeat", self.steps)
        return sr.wrap(net, name=self.name, steps=steps, encoder=encoder, accelerate=accelerate)

    def _fit(self, net: nn.Module, train: Dataset, batch_size: int) -> None:
        shown, steps = (_Sequences(net), 1) if self.temporal else (net, self.steps)
        nodes = [each for each in net.modules() if isinstance(each, surrogate.SurrogateFunctionBase)]
        ends = [each.alpha for each in nodes]

        def sharpen(epoch: int) -> None:
            done = epoch / max(1, self.epochs - 1)
            for node, end in zip(nodes, ends, strict=True):
                node.alpha = end if self.sharpening is None or done >= 1 else end**done * self.sharpening ** (1 - done)

        sharpen(0)
        training.train(
            shown,
            train,
            steps=steps,
            epochs=self.epochs,
            batch_size=batch_size,
            progress=lambda epoch, *_: sharpen(epoch),
        )
        sharpen(self.epochs)


class ResetInForward(nn.Module):
    """A SpikingJelly net for torchattacks: reset, repeat or transpose, mean over time."""

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.net = net
        self._steps = None if setting.temporal else setting.steps
        self.train(net.training)  # torchattacks restores this mode after an attack, also in the net

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] for static x [N, *] or sequences [N, T, *]."""
        spiking.reset_net(self.net)
        sequence = x.transpose(0, 1) if self._steps is None else x.expand(self._steps, *x.shape)
        out: Tensor = self.net(sequence)
        return out.mean(0)


class _Sequences(nn.Module):
    """Sequences [1, N, T, *] to outputs [1, N, K], as the trainer for static data takes them for one step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The mean output over time."""
        out: Tensor = self.net(x[0].transpose(0, 1))
        return out.mean(0, keepdim=True)


def node(function: Callable[[], nn.Module]) -> nn.Module:
    """SpikingJelly's leaky integrate-and-fire node; half of the membrane potential is kept per step."""
    built: nn.Module = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=function(), step_mode="m")
    return built


def conv(channels: tuple[int, ...], side: int, function: Callable[[], nn.Module] = surrogate.ATan) -> nn.Module:
    """3x3 convolution, batch norm, node and 2x2 pooling for each pair of channels; a linear output."""
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels):
        modules += [
            layer.Conv2d(fan_in, fan_out, 3, padding=1, bias=False, step_mode="m"),
            layer.BatchNorm2d(fan_out, step_mode="m"),
            node(function),
            layer.AvgPool2d(2, step_mode="m"),
        ]
    features = channels[-1] * (side >> (len(channels) - 1)) ** 2
    return nn.Sequential(*modules, nn.Flatten(2), nn.Linear(features, 10))


def dense(features: tuple[int, ...]) -> nn.Module:
    """Linear layers with nodes between them; a linear output."""
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(features):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")  # with torch's default, nodes hardly spike
        modules += [linear, node(surrogate.ATan)]
    return nn.Sequential(nn.Flatten(2), *modules[:-1])


def rows(x: Tensor) -> Tensor:
    """Digits [N, 1, 28, 28] read row by row: sequences [N, 28, 28] of 28 steps with 28 features."""
    return x[:, 0]


def saccades(x: Tensor, frames: int = 10) -> Tensor:
    """Digits [N, 1, 28, 28] as event frames [N, T, 2, 34, 34] in [0, 1].

    Each digit moves over a dark field of 34 x 34 pixels along a triangle of three straight legs at constant pace, as
    the sensor did before N-MNIST (Orchard et al. 2015, Frontiers in Neuroscience 9:437), with bilinear interpolation.
    A move that brightens a pixel by at least `CONTRAST` is an event of the first channel, one that darkens it of the
    second. A frame is the mean of `MOVES` moves.
    """
    count = frames * MOVES
    field = functional.pad(x, (3, 3, 3, 3))  # [N, 1, 34, 34]
    corners, where = torch.tensor(PATH), torch.linspace(0, len(PATH) - 1, count + 1)
    leg = where.long().clamp(max=len(PATH) - 2)  # [M + 1]
    at = corners[leg] + (where - leg)[:, None] * (corners[leg + 1] - corners[leg])  # [M + 1, 2]
    seen = torch.zeros(len(x), frames, 2, *field.shape[-2:])
    before = _moved(field, at[0])
    for move in range(count):
        now = _moved(field, at[move + 1])
        change = (now - before)[:, 0]  # [N, 34, 34]
        seen[:, move // MOVES, 0] += (change >= CONTRAST) / MOVES
        seen[:, move // MOVES, 1] += (change <= -CONTRAST) / MOVES
        before = now
    return seen


def _moved(field: Tensor, by: Tensor) -> Tensor:
    """Images [N, 1, H, W] moved by `by` pixels (right, down)."""
    size = field.shape[-1] - 1
    theta = torch.tensor([[1.0, 0.0, -2 * by[0] / size], [0.0, 1.0, -2 * by[1] / size]])
    grid = functional.affine_grid(theta.expand(len(field), 2, 3), list(field.shape), align_corners=True)
    return functional.grid_sample(field, grid, align_corners=True)


SIGMOID, QUADRATIC = partial(surrogate.Sigmoid, 25.0), partial(surrogate.PiecewiseQuadratic, 4.0)
RADII = (0.01, 0.02, 0.04, 0.06, 0.08, 0.12)
#: Convolutional nets on static digits are more robust: the usual radii for MNIST.
WIDE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def settings(quick: bool) -> dict[str, Setting]:
    """The settings by name; `quick`: nets of the same kinds that are small."""
    width, hidden, samples = (4, 128, 8) if quick else (32, 512, 120)
    victims, around = (1, 2, 4) if quick else (1, 8, 16), partial(_words, quick)
    listed = (
        Setting(
            "a",
            around("conv 1x28x28", (width, 2 * width), 8),
            8,
            WIDE,
            samples,
            partial(conv, (1, width, 2 * width), 28),
        ),
        Setting("b", around("MLP", (784, hidden, 10), 8), 8, RADII, 4 * samples, partial(dense, (784, hidden, 10))),
        Setting(
            "c",
            around("rows of digits, MLP", (28, hidden // 2, hidden // 2, 10), 28),
            28,
            RADII,
            2 * samples,
            partial(dense, (28, hidden // 2, hidden // 2, 10)),
            view=rows,
            temporal=True,
            epochs=3,
        ),
        Setting(
            "d",
            around("event frames 2x34x34, conv", (width // 2, width), 10),
            10,
            RADII,
            2 * samples // 3,
            partial(conv, (2, width // 2, width), 34),
            view=saccades,
            temporal=True,
        ),
        Setting(
            "a-sigmoid",
            around("as (a), Sigmoid(25)", victims[1:], 8),
            8,
            WIDE,
            samples,
            partial(conv, victims, 28, SIGMOID),
            epochs=2,
        ),
        Setting(
            "a-quadratic",
            around("as (a), PiecewiseQuadratic 1 to 4", victims[1:], 8),
            8,
            WIDE,
            samples,
            partial(conv, victims, 28, QUADRATIC),
            sharpening=1.0,
            epochs=4,
        ),
    )
    return {each.name: each for each in listed}


def _words(quick: bool, kind: str, sizes: tuple[int, ...], steps: int) -> str:
    return f"{kind} {'-'.join(map(str, sizes))}, T={steps}{' (quick)' if quick else ''}"
