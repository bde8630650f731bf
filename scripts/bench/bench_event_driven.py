"""How long exact event-driven layers take: the native kernel, the eager form, and packages with the same equations.

    python scripts/bench/bench_event_driven.py [--quick]

A layer of 784 inputs and 800 neurons, batch 50, with latency-coded digits-like inputs (a fifth of the pixels are not
black), K = 1 and K = 30 as in Bacho & Chu 2023. Whole calls of the layer, checks and sorting included, interleaved,
medians. If `exact-event-adjoint` is installed (pip install exact-event-adjoint) it is timed on a smaller layer and its
spike times are compared: with tau_m = 2 tau_s its equations are ours. `exact-snn-nn` adds a bias input to every neuron
and is left out. The last table is the time against K, inputs and width. Peak memory is that above the process's before
the call (Linux alone); memory that earlier calls left to the process and that is used again is not seen.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnrobust.neurons import EventDriven, latency

DURATION = {1: 1.0, 30: 0.2}
THRESHOLD = {1: 0.7, 30: 0.2}
INIT = {1: (0.0, 1.0), 30: (-1.0, 1.0)}


def inputs(batch: int, count: int) -> Tensor:
    """Spike times [N, I, 1] of random pixels, four fifths of them black."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, count, generator=generator)
    return latency(torch.where(torch.rand(batch, count, generator=generator) < 0.8, 0.0, x))


def layer(count: int, width: int, spikes: int, backend: Any) -> EventDriven:
    """A layer with the published constants for K = 1, else those for K = 30."""
    kind = 1 if spikes == 1 else 30
    torch.manual_seed(0)
    return EventDriven(
        count, width, spikes, threshold=THRESHOLD[kind], duration=DURATION[kind], init=INIT[kind], backend=backend
    )


def total(times: Tensor) -> Tensor:
    """The sum of all spike times."""
    return torch.where(times.isfinite(), times, 0.0).sum()


@torch.no_grad()
def forward(net: EventDriven, times: Tensor) -> None:
    """Spike times without a graph."""
    net(times)


def both(net: EventDriven, times: Tensor) -> None:
    """Forward and backward pass."""
    total(net(times)).backward()


def peer_both(net: Any, times: Tensor) -> None:
    """Forward and backward pass of a peer, whose silent neurons spike at the end of the window."""
    net(times).sum().backward()


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, interleaved; the first round is not counted."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in took.items()}


def peak_mib(call: Callable[[], object]) -> float:
    """MiB that a call takes above what the process has; NaN where the system doesn't tell."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return math.nan

    def peak() -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    clear.write_text("5")
    before = peak()
    call()
    return peak() - before


def compare_forms(repeats: int, batch: int, count: int, width: int) -> None:
    """Eager against native."""
    print("| K | form | forward, ms | forward + backward, ms | peak, MiB |\n| --- | --- | --- | --- | --- |")
    for spikes in (1, 30):
        times, calls = inputs(batch, count), {}
        for backend in ("native", "eager"):
            net = layer(count, width, spikes, backend)
            calls |= {f"{backend} forward": partial(forward, net, times), f"{backend} both": partial(both, net, times)}
        took = seconds(calls, repeats)
        for backend in ("native", "eager"):
            one, two = 1e3 * took[f"{backend} forward"], 1e3 * took[f"{backend} both"]
            print(f"| {spikes} | {backend} | {one:.1f} | {two:.1f} | {peak_mib(calls[f'{backend} both']):.0f} |")
        ratios = [took[f"eager {what}"] / took[f"native {what}"] for what in ("forward", "both")]
        print(f"| {spikes} | ratio | {ratios[0]:.0f} | {ratios[1]:.0f} | |", flush=True)


def compare_peer(repeats: int, batch: int, count: int, width: int) -> None:
    """Against exact-event-adjoint, where it is installed."""
    if importlib.util.find_spec("exact_event_adjoint") is None:
        print("\nexact-event-adjoint is not installed")
        return
    peer: Any = importlib.import_module("exact_event_adjoint")
    times = inputs(batch, count)
    kept = times[..., 0].clamp_max(DURATION[1])  # a silent input is one at the window's end there
    print(f"\n| K | {batch} x {count} -> {width} | forward + backward, ms | largest difference |")
    print("| --- | --- | --- | --- |")
    for spikes in (1, 3):
        net = layer(count, width, spikes, "native")
        settings = {"tau_m": 0.26, "tau_s": 0.13, "theta": net.dynamics.threshold, "t_max": net.dynamics.duration}
        other = peer.ExactAdjointMultiSpike(count, width, max_spikes=spikes, **settings)
        with torch.no_grad():
            other.weight.copy_(net.weight)
        took = seconds({"snnrobust": partial(both, net, times), "peer": partial(peer_both, other, kept)}, repeats)
        ours, found = net(times).detach(), other(kept).detach().transpose(0, 1)
        alike = ours.isfinite() & (found < net.dynamics.duration)
        gap = float((ours - found)[alike].abs().max()) if bool(alike.any()) else math.nan
        same = float((ours.isfinite() == (found < net.dynamics.duration)).float().mean())
        for name, each in took.items():
            print(f"| {spikes} | {name} | {1e3 * each:.1f} | {gap:.1e} s, {same:.4f} fire alike |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small layer, to see that it runs")
    quick = parser.parse_args().quick
    repeats, batch, count, width = (1, 4, 30, 20) if quick else (7, 50, 784, 800)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    compare_forms(repeats, batch, count, width)
    compare_peer(repeats, min(batch, 10), min(count, 100), min(width, 50))
    print("\n| inputs | width | K | forward + backward, ms |\n| --- | --- | --- | --- |")
    for scale, spikes in ((1, 1), (2, 1), (4, 1), (1, 4), (1, 16), (1, 64)):
        net, times = layer(scale * count, width, spikes, "native"), inputs(batch, scale * count)
        took = seconds({"": partial(both, net, times)}, repeats)
        print(f"| {scale * count} | {width} | {spikes} | {1e3 * took['']:.1f} |", flush=True)
    for scale in (2, 4):
        net, times = layer(count, scale * width, 1, "native"), inputs(batch, count)
        took = seconds({"": partial(both, net, times)}, repeats)
        print(f"| {count} | {scale * width} | 1 | {1e3 * took['']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
