"""The curves and tables of docs/corruptions.md: accuracy against severity of two trained nets on real sequences.

    python -m snnrobust.data.fetch braille           # once
    python -m snnrobust.data.fetch spoken-digits
    python scripts/studies/corruption_curves.py      # minutes on one core; nets are kept in FOLDER

Pictures go to docs/figures; the tables are printed.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional as torch_functional

import snnrobust as sr
from snnrobust.data import Dataset, Splits
from snnrobust.report.plots import COLOURS
from snnrobust.training import trainer as training

FOLDER = Path("corruption-curves")
FIGURES = Path("docs") / "figures"
DRAWS, COLUMNS = 3, 6


@dataclass(frozen=True)
class Case:
    """A data set and the net for it.

    Attributes:
        data: Name of the data.
        options: Options of `sr.data.load`.
        sizes: Inputs, hidden neurons and classes.
        tau: Time constant of the hidden neurons, in steps.
        epochs: Passes over the training data.
        event_like: Whether inputs are spikes.
    """

    data: str
    options: Mapping[str, Any]
    sizes: tuple[int, int, int]
    tau: float
    epochs: int
    event_like: bool


CASES = (
    Case("braille", {}, (12, 128, 7), 30.0, 25, True),
    Case("spoken-digits", {"standardise": True}, (13, 128, 10), 10.0, 20, False),
)


def build(case: Case) -> nn.Sequential:
    """One hidden layer of LIF neurons, and a linear read-out without spikes, averaged over time."""
    inputs, hidden, classes = case.sizes
    node = neuron.LIFNode(
        tau=case.tau, decay_input=False, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
    )
    return nn.Sequential(nn.Linear(inputs, hidden), node, nn.Linear(hidden, classes))


def logits(net: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean output [N, K] over the valid steps of sequences x [N, T, F]."""
    functional.reset_net(net)
    outputs: Tensor = net(x.transpose(0, 1))  # (T, N, K)
    if lengths is None:
        return outputs.mean(dim=0)
    valid = (torch.arange(len(outputs))[:, None] < lengths).unsqueeze(2)  # (T, N, 1)
    return (outputs * valid).sum(dim=0) / lengths[:, None]


def trained(case: Case, train: Dataset) -> nn.Module:
    """The net of a case, from FOLDER or trained here."""
    net = training.initialised(lambda: build(case), seed=0)
    path = FOLDER / f"{case.data}.pt"
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    batch, shuffle = 50, torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    total = case.epochs * math.ceil(len(train) / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    for epoch in range(case.epochs):
        right = 0
        for at in torch.split(torch.randperm(len(train), generator=shuffle), batch):
            lengths = None if train.lengths is None else train.lengths[at]
            found = logits(net, train.x[at], lengths)
            optimiser.zero_grad()
            torch.autograd.backward(torch_functional.cross_entropy(found, train.y[at]))
            optimiser.step()
            schedule.step()
            right += int((found.argmax(dim=1) == train.y[at]).sum())
        if epoch % 5 == 4:
            print(f"{case.data}: epoch {epoch + 1}, training accuracy {right / len(train):.3f}")
    functional.reset_net(net)
    FOLDER.mkdir(exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def tasks(case: Case) -> dict[str, list[sr.Task]]:
    """All corruptions that fit, by their unit of severity."""

    def load(name: str, severity: Sequence[float], label: str = "", **settings: Any) -> sr.Task:
        return sr.load(name, label=label or name, severity=[0.0, *severity], draws=DRAWS, **settings)

    shares = (0.05, 0.1, 0.2, 0.4)
    both = {
        "share of steps": [load("drop-window", shares), load("truncation", shares)],
        "share of channels": [load("drop-area", (0.1, 0.2, 0.4)), load("dead-pixels", shares)],
        "probability": [
            load("hidden-noise", shares, "hidden spikes lost", layer="1"),
            load("hidden-noise", shares, "hidden spikes added", layer="1", kind="insertion"),
        ],
        "standard deviation": [
            load("hidden-noise", (0.1, 0.2, 0.5, 1.0), "hidden membranes", layer="1", kind="membrane")
        ],
    }
    if not case.event_like:
        amounts = (0.1, 0.2, 0.5, 1.0)
        both["standard deviation"] += [load("gaussian", amounts)]
        both["largest change"] = [load("uniform", amounts)]
    else:
        both["probability"] += [
            load("spike-deletion", (0.1, 0.2, 0.4, 0.6)),
            load("hot-pixels", shares),
            load("flicker", (0.25, 0.5, 1.0), period=16),
            load("burst", (0.25, 0.5, 1.0), width=16),
        ]
        rates = (0.01, 0.02, 0.05, 0.1, 0.2)
        both["events an entry"] = [load("spike-insertion", rates), load("background-activity", rates, spread=0.5)]
        changes = (0.1, 0.25, 0.5, 1.0)
        both["relative change"] = [
            load("time-scaling", changes, "slower"),
            load("time-scaling", changes, "faster", direction="compress"),
        ]
        both["steps"] = [
            load("time-jitter", (1.0, 2.0, 5.0, 10.0, 20.0)),
            load("refractory", (1.0, 2.0, 4.0, 8.0)),
            load("bin-width", (2.0, 4.0, 8.0), "wider bins, same T"),
            load("bin-width", (2.0, 4.0, 8.0), "wider bins, fewer steps", keep_steps=False),
        ]
        both["channels"] = [load("spatial-jitter", (0.25, 0.5, 1.0))]
        both["preset"] = [
            load("sensor-noise", (0.5, 1.0, 2.0, 4.0), f"sensor noise, {preset}", preset=preset, step_ms=5.0)
            for preset in ("clean", "noisy")
        ]
    return both


def wrapped(case: Case, net: nn.Module, splits: Splits) -> sr.SpikingModel:
    """The net as a model; real-valued inputs stay in the range of the data."""
    if case.event_like:
        return sr.wrap(net, name=case.data, encoder=None, domain="binary")
    parts = (splits.train, splits.validation, splits.test)
    bounds = min(float(each.x.min()) for each in parts), max(float(each.x.max()) for each in parts)
    return sr.wrap(net, name=case.data, encoder=None, bounds=bounds)


def draw(case: Case, report: sr.Report, units: Mapping[str, str]) -> None:
    """A panel for each corruption."""
    rows = math.ceil(len(units) / COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 1.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (label, unit) in enumerate(units.items()):
        curve = report.curve(label)
        panel = figure.add_subplot(rows, COLUMNS, k + 1)
        panel.plot(curve.strength, curve.value, marker="o", markersize=3, color=COLOURS[0])
        panel.fill_between(curve.strength, curve.low, curve.high, color=COLOURS[0], alpha=0.2)
        panel.axhline(1 / case.sizes[2], color="grey", linestyle=":", linewidth=1)
        panel.set_ylim(0, 1)
        panel.set_title(label, fontsize=8)
        panel.set_xlabel(unit, fontsize=7)
        if k % COLUMNS == 0:
            panel.set_ylabel("accuracy", fontsize=7)
        panel.tick_params(labelsize=6)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"corruptions-{case.data}.png")


def main() -> None:
    """Trains, evaluates, draws and prints."""
    for case in CASES:
        splits = sr.data.load(case.data, **case.options)
        model = wrapped(case, trained(case, splits.train), splits)
        units = {task.label: unit for unit, found in tasks(case).items() for task in found}
        chosen = [task for found in tasks(case).values() for task in found]
        report = sr.evaluate(model, {"test": splits.test, "train": splits.train}, chosen, evidence="none")
        draw(case, report, units)
        clean = float(report.clean(case.data)["correct"].mean())
        print(f"\n## {case.data}: {clean:.1%} of {len(splits.test)} test samples without noise\n")
        print("| corruption | unit of severity | accuracy in percent at each severity |\n| --- | --- | --- |")
        for label, unit in units.items():
            curve = report.curve(label)
            points = zip(curve.strength[1:], curve.value[1:], strict=True)
            shown = ", ".join(f"{strength:g}: {100 * value:.0f}" for strength, value in points)
            print(f"| {label} | {unit} | {shown} |")
        widest = max(
            high - low
            for label in units
            for low, high in zip(report.curve(label).low, report.curve(label).high, strict=True)
        )
        print(f"\n{DRAWS} draws a sample; 95 % intervals over samples are at most {50 * widest:.0f} points to a side.")
    print(f"{platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
