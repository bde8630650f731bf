"""Nets with single-step nodes, with acceleration and without: called step by step, or looping over T themselves.

    python scripts/bench/bench_loops.py            # a few minutes on two cores
    python scripts/bench/bench_loops.py --quick    # under a minute: fewer samples and turns

The same trained net, convolutions of 16 and 32 channels with T = 8, is timed as a copy in step mode "s" that is called
once a step, as a Python loop over T in its own forward pass, and as that loop over layers of torch.nn. Prints Markdown
tables: the whole call of `sr.evaluate` with PGD-20 at three radii on digits, and one gradient query. Medians of
interleaved runs in one process.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_nets import Setting, conv
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import layer
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data.batch import Batch
from snnrobust.search.queries import ModelQueries

STEPS, RADII, SAMPLES = 8, (0.05, 0.1, 0.2), (1, 8, 64)
SETTING = Setting("conv-16-32", "conv 16-32 on 1x28x28, T=8", STEPS, RADII, 32, partial(conv, (1, 16, 32), 28))
#: Layers of SpikingJelly, and of torch with the same arguments.
PLAIN = {layer.Conv2d: nn.Conv2d, layer.BatchNorm2d: nn.BatchNorm2d, layer.AvgPool2d: nn.AvgPool2d}


class Loop(nn.Module):
    """A net in step mode "s" as most people write one: static images [N, *] to the mean output [N, K] over T steps."""

    def __init__(self, net: nn.Module, steps: int) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, x: Tensor) -> Tensor:
        """The mean over T calls of the net."""
        out: Any = 0
        for _ in range(self.steps):
            out = out + self.net(x)
        mean: Tensor = out / self.steps
        return mean


def single_step(net: nn.Module) -> nn.Sequential:
    """A copy of a net for one step, [N, *]."""
    copy = deepcopy(net)
    spiking.set_step_mode(copy, "s")
    return nn.Sequential(*(nn.Flatten() if isinstance(each, nn.Flatten) else each for each in copy.children()))


def with_torch_layers(net: nn.Sequential) -> nn.Sequential:
    """The net with layers of torch.nn in place of SpikingJelly's, which derive from them."""
    copy = deepcopy(net)
    for each in copy.modules():
        if type(each) in PLAIN:
            each.__class__ = PLAIN[type(each)]
    return copy


def models(net: nn.Module) -> dict[str, Callable[[bool], sr.SpikingModel]]:
    """Makers of the wrapped nets, with acceleration or without."""
    one = single_step(net)
    loop, plain = Loop(one, STEPS), Loop(with_torch_layers(one), STEPS)
    multi = {
        "multi-step": partial(sr.wrap, net, name="net", steps=STEPS),
        "called step by step": partial(sr.wrap, one, name="net", steps=STEPS, layout="step"),
        "loop over T": partial(sr.wrap, loop, name="net", layout="N"),
        "loop over T, torch.nn": partial(sr.wrap, plain, name="net", layout="N"),
    }
    return {name: lambda accelerate, make=make: make(accelerate=accelerate) for name, make in multi.items()}


def evaluations(net: nn.Module, data: sr.data.Dataset, turns: int) -> None:
    """Prints a table of whole evaluations."""
    task = [sr.load("pgd", epsilon=list(RADII), steps=20)]
    print("| net | samples | accelerated, s | without, s | times faster |\n| --- | --- | --- | --- | --- |")
    for name, make in models(net).items():
        taken: dict[bool, list[float]] = {True: [], False: []}
        found = {}
        for turn in range(-1, turns):
            part = data if turn >= 0 else data.take(4)  # the first one fills caches
            for accelerate in (True, False) if turn % 2 else (False, True):
                start = time.perf_counter()
                report = sr.evaluate(make(accelerate), (part.x, part.y), task, progress=False)
                taken[accelerate].append(time.perf_counter() - start)
                found[accelerate] = report.curve("pgd").value
                (path,) = report.execution_paths("net")["pgd"]
                if path.accelerated is not accelerate:
                    raise SystemExit(f"{name} ran as: {path}")
        if found[True] != found[False]:
            raise SystemExit(f"{name}: the curves differ, {found[True]} and {found[False]}")
        fast, plain = (statistics.median(taken[accelerate][1:]) for accelerate in (True, False))
        print(f"| {name} | {len(data)} | {fast:.2f} | {plain:.2f} | {plain / fast:.1f} |", flush=True)
    print(f"\nRobust accuracy at {RADII}: {', '.join(f'{each:.1%}' for each in found[True])}, equal for all of them.\n")


def queries(net: nn.Module, data: sr.data.Dataset, turns: int) -> None:
    """Prints a table of single gradient queries."""
    attack = sr.load("pgd", epsilon=0.1).attack
    print("| net | samples | accelerated, ms | without, ms | times faster |\n| --- | --- | --- | --- | --- |")
    for name, make in models(net).items():
        for count in SAMPLES:
            batch = Batch(data.x[:count], data.y[:count], torch.arange(count))
            taken: list[list[float]] = [[], []]
            with ExitStack() as sessions:
                both = [make(True), make(False)]
                for model in both:
                    sessions.enter_context(model.session())
                asked = [ModelQueries(model, attack.objective, attack.gradient) for model in both]
                for _ in range(3 * turns + 1):
                    for times, each in zip(taken, asked, strict=True):
                        start = time.perf_counter()
                        each.gradient(batch)
                        times.append(time.perf_counter() - start)
            fast, plain = (1e3 * statistics.median(each[1:]) for each in taken)
            print(f"| {name} | {count} | {fast:.1f} | {plain:.1f} | {plain / fast:.1f} |", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples and turns")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="for weights")
    given = parser.parse_args()
    splits = SETTING.data(given.quick)
    net = SETTING.net(given.folder, splits.train, given.quick)
    data, turns = splits.test.take(16 if given.quick else SETTING.samples), 1 if given.quick else 3
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    evaluations(net, data, turns)
    queries(net, data, turns)


if __name__ == "__main__":
    main()
