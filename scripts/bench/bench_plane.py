"""A 51 x 51 plane of the training loss, against a loop over `load_state_dict` on SpikingJelly's own net.

OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python scripts/bench/bench_plane.py [--points 51] [--samples 256] [--quick]

Each point is computed by both in turn, in one process and in changing order, with the same weights and the same chunks:
only ratios are meant. Both have the weights to work out, and memory is kept for reuse, without which the loop loses up
to a third of its time to page faults, or none, by where its blocks happen to lie. "Cold" is the first point in a
process of its own with no kernel built yet.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional

import snnrobust as sr
from snnrobust import networks
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Surface
from snnrobust.training import trainer as training
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.measurements.plane import Plane

STEPS, CHUNK = 8, 64
LABEL = "plane"
#: glibc keeps freed blocks up to this size instead of returning them to the system (`mallopt`).
REUSED = 31 * 2**20


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the measurements as JSON, and returns them."""
    options = arguments(given)
    splits = sr.data.load("mnist5k")
    train = splits.train.take(500 if options.quick else 2000)
    net = training.initialised(lambda: conv(options.channels), seed=0)
    torch.empty(REUSED, dtype=torch.uint8)
    if options.cold:
        found = cold(net, train.take(options.samples))
    else:
        training.train(net, train, steps=STEPS, epochs=1, batch_size=50)
        found = compared(net.eval(), train.take(options.samples), options.points)
        found["cold_seconds"] = _cold_seconds(options)
        whole = sum(found["theirs"])
        found["ratio_cold"] = whole / (found["plane_seconds"] + found["cold_seconds"])
        found = {name: each for name, each in found.items() if name not in ("ours", "theirs")}
    print(json.dumps(found, indent=1))
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=51, help="grid points along each direction")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--channels", type=int, nargs=2, default=(8, 16), help="of the two convolutions")
    parser.add_argument("--quick", action="store_true", help="3 x 3 points of a tiny net")
    parser.add_argument("--cold", action="store_true", help="only the first point, and how long it takes")
    options = parser.parse_args(given)
    if options.quick:
        options.points, options.samples, options.channels = 3, 96, (2, 4)
    return options


def conv(channels: Sequence[int]) -> nn.Module:
    """Two convolutions with batch norm, SpikingJelly's LIF nodes and pooling, and a spiking output layer."""
    return networks.conv(
        lambda features: neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m"),
        channels=channels,
    )


class Loop:
    """The usual loop: weights set with `load_state_dict`, state reset in the forward pass, no gradients."""

    def __init__(self, net: nn.Module, train: Dataset) -> None:
        self._net = copy.deepcopy(net)
        self._buffers = dict(self._net.named_buffers())
        self._x, self._y = torch.split(train.x, CHUNK), torch.split(train.y, CHUNK)

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """The mean cross entropy at these parameters."""
        self._net.load_state_dict(weights | self._buffers)
        total = 0.0
        for x, y in zip(self._x, self._y, strict=True):
            spiking.reset_net(self._net)
            logits = self._net(x.expand(STEPS, *x.shape)).mean(0)
            total += float(functional.cross_entropy(logits, y, reduction="sum"))
        return total / sum(map(len, self._y))


def compared(net: nn.Module, train: Dataset, points: int) -> dict[str, Any]:
    """Seconds per point of both, and the largest difference of their losses."""
    model, loop, rng = sr.wrap(net, steps=STEPS), Loop(net, train), Draws(0, LABEL)
    plugin, data = Plane(points=points, samples=len(train), chunk=CHUNK), EvaluationData(train, train, train, 256)
    began = time.perf_counter()
    surface = next(iter(plugin.measure(model, data, rng)))
    plane_seconds = time.perf_counter() - began
    if not isinstance(surface, Surface):
        raise TypeError(f"expected a surface first, got {type(surface).__name__}")
    ours: list[float] = []
    theirs: list[float] = []
    apart = 0.0
    with model.session():
        landscape = WeightLandscape(model, train, chunk=CHUNK)
        first, second = (landscape.direction(rng.sub(f"{each} direction")) for each in ("first", "second"))
        landscape.loss(0 * first)  # the accelerated model is built and checked once
        loop.loss(landscape.moved(0 * first))
        for row, b in enumerate(surface.y):
            for column, a in enumerate(surface.x):
                offset = a * first + b * second
                for turn in range(2):
                    began = time.perf_counter()
                    if (turn + column) % 2:
                        landscape.loss(offset)
                        ours.append(time.perf_counter() - began)
                    else:
                        loss = loop.loss(landscape.moved(offset))
                        theirs.append(time.perf_counter() - began)
                apart = max(apart, abs(loss - float(surface.values["loss"][row, column])))
    ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "samples": len(train),
        "points": points**2,
        "threads": torch.get_num_threads(),
        "milliseconds_ours": 1e3 * statistics.median(ours),
        "milliseconds_theirs": 1e3 * statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "plane_seconds": plane_seconds,
        "loop_seconds": sum(theirs),
        "largest_difference": apart,
        "spread_of_the_loss": float(surface.values["loss"].max() - surface.values["loss"].min()),
        "ours": ours,
        "theirs": theirs,
    }


def cold(net: nn.Module, train: Dataset) -> dict[str, Any]:
    """Seconds of the first point, including building the kernel and the accelerated model, and its check."""
    model = sr.wrap(net.eval(), steps=STEPS)
    began = time.perf_counter()
    with model.session():
        landscape = WeightLandscape(model, train, chunk=CHUNK)
        landscape.loss(torch.zeros(landscape.size, dtype=torch.float64))
    return {"seconds": time.perf_counter() - began}


def _cold_seconds(options: argparse.Namespace) -> float:
    sizes = [str(each) for each in options.channels]
    command = [sys.executable, __file__, "--cold", "--samples", str(options.samples), "--channels", *sizes]
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "XDG_CACHE_HOME": empty}
        out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(json.loads(out)["seconds"])


if __name__ == "__main__":
    main()
