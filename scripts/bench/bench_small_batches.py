"""One gradient query of a search with acceleration, against the same without: from one sample to 64.

    python scripts/bench/bench_small_batches.py

Prints a Markdown table of CPU times and ratios, medians of interleaved calls in one process with one thread.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from bench_nets import conv
from spikingjelly.activation_based import functional as spiking
from spikingjelly.activation_based import neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet
from torch import nn

import snnrobust as sr
from snnrobust.data.batch import Batch
from snnrobust.search.queries import ModelQueries

SAMPLES = (1, 2, 4, 8, 16, 64)


def sew_resnet18() -> nn.Module:
    """SpikingJelly's spike-element-wise ResNet-18, untrained."""
    net = sew_resnet.sew_resnet18(
        cnf="ADD",
        spiking_neuron=neuron.LIFNode,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        num_classes=10,
    )
    spiking.set_step_mode(net, "m")
    return net.eval()


NETS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "conv 16-32 on 1x28x28, T=8": (lambda: conv((1, 16, 32), 28).eval(), 8, (1, 28, 28)),
    "SEW-ResNet-18 on 3x32x32, T=4": (sew_resnet18, 4, (3, 32, 32)),
}


def seconds(queries: list[ModelQueries], batch: Batch, repeats: int) -> list[float]:
    """Median CPU time of a gradient query of each."""
    taken: list[list[float]] = [[] for _ in queries]
    for _ in range(repeats + 1):
        for times, each in zip(taken, queries, strict=True):
            start = time.process_time()
            each.gradient(batch)
            times.append(time.process_time() - start)
    return [statistics.median(times[1:]) for times in taken]


def main() -> None:
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| net | samples | accelerated, ms | without, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for name, (build, steps, shape) in NETS.items():
        torch.manual_seed(0)
        net, attack = build(), sr.load("pgd", epsilon=0.1).attack
        with ExitStack() as sessions:
            queries = []
            for accelerate in (True, False):
                model = sr.wrap(net, steps=steps, accelerate=accelerate)
                sessions.enter_context(model.session())
                queries.append(ModelQueries(model, attack.objective, attack.gradient))
            for count in SAMPLES:
                batch = Batch(torch.rand(count, *shape), torch.arange(count) % 10, torch.arange(count))
                fast, plain = seconds(queries, batch, 9 if count < 64 else 5)
                figures = f"{1e3 * fast:.1f} | {1e3 * plain:.1f} | {fast / plain:.2f}"
                print(f"| {name} | {count} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
