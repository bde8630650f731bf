"""The ensemble `standard` on spikes against attacks that are no members of it, on two trained event nets.

    python -m snnrobust.data.fetch braille                       # once
    python scripts/studies/binary_rivals.py braille OUT.md       # an hour or two on one core each
    python scripts/studies/binary_rivals.py saccades OUT.md

100 test samples that the net gets right are attacked under norm "l0". `standard` and its members are bisected over all
budgets from one flip to the largest. Rivals: the published attacks (SDA, spike-flip, greedy flips) with ten times their
effort, `standard` with another seed, and simulated annealing that starts from what `standard` found. An attack that
does not break a sample within the largest budget is counted with that budget, so its mean is a lower bound: its success
rate stands beside it. Strict success counts ties as no success.

Each attack's result is kept in the folder OUT.rows; a run that was stopped goes on from there. Delete the folder after
a change of an attack.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.files import slug
from snnrobust.data import Dataset
from snnrobust.plugin.task import Task

SAMPLES, ANNEALING = 100, 3000
ESTIMATOR = {"name": "fast-sigmoid", "alpha": 8.0}


@dataclass(frozen=True)
class Study:
    """A data set with its net.

    Attributes:
        hidden: Hidden neurons.
        tau: Time constant of the neurons, in steps.
        epochs: Passes over the training data.
        budgets: Numbers of flips.
    """

    hidden: int
    tau: float
    epochs: int
    budgets: tuple[int, ...]


STUDIES = {
    "braille": Study(64, 20.0, 25, (2, 4, 8, 16, 32)),
    "saccades": Study(64, 2.0, 6, (2, 4, 8, 16, 32)),
}


def data_and_net(name: str, study: Study) -> tuple[sr.SpikingModel, Dataset]:
    """A trained net and the first test samples that it gets right."""
    splits = sr.data.load(name, sizes=(1500, 300, 400)) if name == "saccades" else sr.data.load(name)
    torch.manual_seed(0)
    x, y = splits.train.x.clamp_max(1), splits.train.y
    features, classes = x[0, 0].numel(), int(y.max()) + 1

    def lif() -> neuron.LIFNode:
        function = surrogate.ATan(alpha=2.0)
        return neuron.LIFNode(tau=study.tau, decay_input=False, surrogate_function=function, step_mode="m")

    net = nn.Sequential(
        nn.Flatten(2), nn.Linear(features, study.hidden), lif(), nn.Linear(study.hidden, classes), lif()
    )
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(study.epochs):
        for rows in torch.randperm(len(x)).split(50):
            functional.reset_net(net)
            loss = nn.functional.cross_entropy(8 * net(x[rows].transpose(0, 1)).mean(dim=0), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    functional.reset_net(net)
    net.eval().requires_grad_(False)
    model = sr.wrap(net, name=name, encoder=None, domain="binary")
    x, y = splits.test.x.clamp_max(1), splits.test.y
    with torch.no_grad():
        right = model.predict(model.logits(x)) == y
    print(f"{name}: {float(right.float().mean()):.1%} of {len(y)} test samples right", flush=True)
    chosen = right.nonzero()[:SAMPLES, 0]
    return model, Dataset.of(x[chosen], y[chosen], name=f"{name}, {len(chosen)} clean-correct test samples")


@dataclass
class Result:
    """What an attack found: flips of the closest example [N] (infinite without one), whether it is strict, passes."""

    flips: np.ndarray
    strict: np.ndarray
    passes: tuple[float, float]
    seconds: float


def closest(model: sr.SpikingModel, data: Dataset, task: Task, seed: int = 0) -> tuple[Result, Tensor]:
    """The closest example over all budgets of a task, with the inputs [N, *] (the originals where there is none)."""
    start = time.perf_counter()
    kept = len(data)
    report = sr.evaluate(model, data, [task], evidence="none", mode="bisect", seed=seed, examples=kept, progress=False)
    flips, best = np.full(kept, np.inf), data.x.clone()
    for radius in task.strengths:
        found = report.examples(task.label, radius)
        distance = np.where(found.success.numpy(), (found.x != found.original).flatten(1).sum(dim=1).numpy(), np.inf)
        closer = torch.from_numpy(distance < flips)
        flips, best = (
            np.minimum(flips, distance),
            torch.where(closer.reshape(-1, *[1] * (data.x.ndim - 1)), found.x, best),
        )
    frame = report.to_frame()
    rows = frame[(frame["label"] == task.label) & (frame["metric"] == "robust_accuracy")]
    passes = float(rows["forwards"].sum()) / kept, float(rows["backwards"].sum()) / kept
    return Result(flips, strict(model, best, data.y), passes, time.perf_counter() - start), best


@torch.no_grad()
def strict(model: sr.SpikingModel, x: Tensor, y: Tensor) -> np.ndarray:
    """Whether another class has a strictly larger logit than the true one."""
    logits = model.logits(x)
    true = logits.gather(1, y[:, None])[:, 0]
    return (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) > true).numpy()


@torch.no_grad()
def anneal(
    model: sr.SpikingModel, data: Dataset, start: Tensor, broken: np.ndarray, steps: int
) -> tuple[Result, Tensor]:
    """Simulated annealing on the number of flips: takes flips back, or exchanges one, and stays where the net is wrong.

    A proposal that loses a flip is taken if the net is still wrong; one that exchanges a flip, too, and one that adds
    a flip with a probability that falls from 10 % to 0.
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(5)
    rows = torch.from_numpy(np.flatnonzero(broken))
    x0, y = data.x[rows].flatten(1), data.y[rows]
    x = start[rows].flatten(1).clone()
    best = (x != x0).sum(dim=1)
    for step in range(steps):
        flipped = x != x0
        kind = torch.rand(len(rows), generator=generator)
        leave = torch.where(flipped, torch.rand(x.shape, generator=generator), -1.0).argmax(dim=1)
        enter = torch.where(flipped, -1.0, torch.rand(x.shape, generator=generator)).argmax(dim=1)
        proposal = x.clone()
        take, make = kind < 0.7, kind >= 0.4  # .4 take back alone, .3 exchange, .3 add alone
        proposal[take] = proposal[take].scatter(1, leave[take, None], x0[take].gather(1, leave[take, None]))
        proposal[make] = proposal[make].scatter(1, enter[make, None], 1 - x0[make].gather(1, enter[make, None]))
        wrong = model.predict(model.logits(proposal.reshape(-1, *data.x.shape[1:]))) != y
        uphill = (proposal != x0).sum(dim=1) > flipped.sum(dim=1)
        allowed = ~uphill | (torch.rand(len(rows), generator=generator) < 0.1 * (1 - step / steps))
        x = torch.where((wrong & allowed)[:, None], proposal, x)
        best = torch.minimum(best, (x != x0).sum(dim=1))
    flips = np.full(len(data), np.inf)
    flips[rows.numpy()] = best.numpy()
    return Result(flips, np.zeros(len(data), bool), (steps, 0.0), time.perf_counter() - began), x


def kept(folder: Path, label: str, search: Callable[[], tuple[Result, Tensor]]) -> tuple[Result, Tensor]:
    """What a search returns, from the file of an earlier run if there is one."""
    path = folder / f"{slug(label)}.npz"
    if not path.exists():
        result, examples = search()
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, examples=examples.numpy(), **asdict(result))
    with np.load(path, allow_pickle=False) as held:
        forwards, backwards = held["passes"].tolist()
        result = Result(held["flips"], held["strict"], (forwards, backwards), float(held["seconds"]))
        return result, torch.from_numpy(held["examples"])


def row(name: str, result: Result, budgets: tuple[int, ...]) -> str:
    """A line of the table: success at each budget, strict success at the largest, censored mean flips, passes."""
    shares = [f"{float((result.flips <= budget).mean()):.2f}" for budget in budgets]
    mean = np.minimum(result.flips, budgets[-1]).mean()
    censored = ">= " if (result.flips > budgets[-1]).any() else ""
    passes = " / ".join(f"{each:.0f}" for each in result.passes)
    held = float((result.strict & (result.flips <= budgets[-1])).mean())
    return f"| {name} | {' | '.join(shares)} | {held:.2f} | {censored}{mean:.2f} | {passes} |"


def main(name: str, out: Path) -> None:
    """Runs the study of one data set and writes its table."""
    study = STUDIES[name]
    model, data = data_and_net(name, study)
    budgets = list(study.budgets)
    every = list(range(1, budgets[-1] + 1))

    folder, lines = out.with_suffix(".rows"), list[str]()

    def rival(attack: str, epsilon: list[int], **more: object) -> Callable[[], tuple[Result, Tensor]]:
        settings = {"norm": "l0", "epsilon": epsilon, "objective": "margin", "gradient": ESTIMATOR, **more}
        return lambda: closest(model, data, sr.load(attack, **settings))

    def note(label: str, search: Callable[[], tuple[Result, Tensor]]) -> tuple[Result, Tensor]:
        result, x = kept(folder, label, search)
        lines.append(row(label, result, study.budgets))
        print(lines[-1], f"{result.seconds:.0f} s", flush=True)
        return result, x

    standard = sr.load("standard", norm="l0", epsilon=every)
    found, examples = note("`standard`", lambda: closest(model, data, standard))
    # SDA and greedy flips add flips until the net is wrong: one search serves all budgets.
    rivals = {
        "annealing from `standard`": lambda: anneal(model, data, examples, np.isfinite(found.flips), ANNEALING),
        "sda, ten times the candidates": rival("sda", every[-1:], steps=5000, candidates=100),
        "spike-flip, 250 steps": rival("spike-flip", budgets, steps=250),
        "random-flips": rival("random-flips", budgets, steps=100),
        "`standard`, another seed": lambda: closest(model, data, standard, seed=1),
        "greedy-flips, 2560 candidates": rival("greedy-flips", every[-1:], candidates=2560),
    }
    joined = np.full(len(data), np.inf)
    for label, search in rivals.items():
        joined = np.minimum(joined, note(label, search)[0].flips)
    lines.append(row("all rivals joined", Result(joined, found.strict, (0, 0), 0.0), study.budgets))
    for position, (member, _) in enumerate(standard.attacks):
        alone = sr.load("union", f"member {position}", norm="l0", epsilon=every, adaptive=[member])
        note(f"member alone: {member.label}", lambda alone=alone: closest(model, data, alone))
    both = np.minimum(joined, found.flips)
    top = study.budgets[-1]
    lower = 1 - np.minimum(both, top).mean() / np.minimum(found.flips, top).mean()
    survivors = [float(((found.flips > b) & (joined <= b)).sum() / max(1, (found.flips > b).sum())) for b in budgets]
    summary = (
        f"The rivals together lower the mean number of flips of `standard` by {lower:.1%}, and break "
        f"{', '.join(f'{share:.1%}' for share in survivors)} of its survivors at {', '.join(map(str, budgets))} flips."
    )
    header = f"| attack | {' | '.join(f'{b} flips' for b in budgets)} | strict | mean flips | forwards / backwards |"
    rule = "| --- " * (len(budgets) + 4) + "|"
    out.write_text("\n".join([f"{data.name}.", "", header, rule, *lines, "", summary, ""]))
    print(summary)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
