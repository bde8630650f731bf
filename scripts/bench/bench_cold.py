"""The first PGD step of a process, for `bench.py`: prints the seconds of its parts as JSON.

python scripts/bench/bench_cold.py SETTING FOLDER [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import bench_nets
import torch
from torch import nn

from snnrobust.data.batch import Batch
from snnrobust.kernels.backends import backends
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own

#: Samples of a step.
BATCH = 64


def main() -> None:
    """Prints how long building the kernel takes, and the first steps of SpikingJelly and of the accelerated model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("setting")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    setting = bench_nets.settings(given.quick)[given.setting]
    splits = setting.data(quick=True)  # a few samples are enough
    net = setting.net(given.folder, splits.train, given.quick)
    few = splits.train.take(BATCH)
    x, y, index = few.x, few.y, few.index
    seconds: dict[str, float] = {}

    began = time.perf_counter()
    theirs, at = bench_nets.ResetInForward(net, setting), x.clone().requires_grad_()
    torch.autograd.grad(nn.functional.cross_entropy(theirs(at), y), at)
    seconds["spikingjelly"] = time.perf_counter() - began

    began = time.perf_counter()
    backends("cpu")
    seconds["kernel"] = time.perf_counter() - began

    queries = ModelQueries(setting.wrap(net), CrossEntropy(), Own())
    for part in ("first_step", "second_step"):  # the first builds the accelerated model and compares it with the net
        began = time.perf_counter()
        queries.gradient(Batch(x, y, index))
        seconds[part] = time.perf_counter() - began
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
