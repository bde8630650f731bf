"""How long attacks on events take: whole `sr.evaluate` calls on a convolutional net of 16 and 32 channels.

    python scripts/bench/bench_events.py [--quick]

The net is trained for a few epochs on `saccades` (events simulated from MNIST, [N, 10, 2, 34, 34], binary). Retiming
runs 30 steps on 100 test samples that it gets right, SDA runs on 20. The second table is the time of retiming against
the number of events a sample, on random events. All samples run all steps (mode="exhaustive"). Times are wall clock,
checks of every example included; the kernel is built before.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.threat_models.threat_model import Norm

SHAPE = (10, 2, 34, 34)
BUDGETS: tuple[tuple[Norm, float, dict[str, float]], ...] = (
    ("shift-linf", 2, {}),
    ("shift-l1", 200, {}),
    ("shift-l0", 100, {}),
    ("shift-linf", 2, {"shift-l0": 100}),
)
EVENTS = (250, 500, 1000, 2000)


def trained(samples: int, epochs: int) -> tuple[sr.SpikingModel, Tensor, Tensor]:
    """The net, with the test samples that it gets right and their classes."""
    splits = sr.data.load("saccades", sizes=(samples, 1, min(samples, 300)))
    torch.manual_seed(0)

    def lif() -> neuron.LIFNode:
        function = surrogate.ATan(alpha=2.0)
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=function, step_mode="m")

    net = nn.Sequential(
        *(layer.Conv2d(2, 16, 3, padding=1, step_mode="m"), lif(), layer.MaxPool2d(2, step_mode="m")),
        *(layer.Conv2d(16, 32, 3, padding=1, step_mode="m"), lif(), layer.MaxPool2d(2, step_mode="m")),
        *(nn.Flatten(2), nn.Linear(32 * 64, 10), lif()),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)  # with the initial weights of torch the output is silent
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    x, y = splits.train.x.clamp_max(1), splits.train.y
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            functional.reset_net(net)
            loss = nn.functional.cross_entropy(8 * net(x[rows].transpose(0, 1)).mean(dim=0), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    functional.reset_net(net)
    model = sr.wrap(net.eval().requires_grad_(False), encoder=None, domain="binary", name="conv")
    x, y = splits.test.x.clamp_max(1), splits.test.y
    with torch.no_grad():
        right = model.predict(model.logits(x)) == y
    return model, x[right], y[right]


def events(count: int, number: int) -> Tensor:
    """Inputs [N, T, C, H, W] with this number of events each, on half as many lines."""
    generator = torch.Generator().manual_seed(1)
    lines = SHAPE[1] * SHAPE[2] * SHAPE[3]
    x = torch.zeros(count, SHAPE[0], lines)
    for sample in x:
        chosen = torch.randperm(lines, generator=generator)[: max(1, number // 2)]
        places = torch.randperm(SHAPE[0] * len(chosen), generator=generator)[:number]
        sample[places // len(chosen), chosen[places % len(chosen)]] = 1
    return x.reshape(count, *SHAPE)


def seconds(net: sr.SpikingModel, x: Tensor, y: Tensor, task: sr.Task) -> float:
    """Wall time of one attack."""
    start = time.perf_counter()
    sr.evaluate(net, (x, y), [task], evidence="none", mode="exhaustive", progress=False)
    return time.perf_counter() - start


def main() -> None:
    """Prints the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples and steps, to see that it runs")
    quick = parser.parse_args().quick
    samples, few, steps = (4, 2, 3) if quick else (100, 20, 30)
    net, x, y = trained(*((200, 3) if quick else (1500, 4)))
    x, y = x[:samples], y[:samples]
    seconds(net, x[:1], y[:1], sr.load("retiming", norm="shift-linf", epsilon=1, steps=1))  # builds the kernel
    processor = platform.processor() or platform.machine()
    print(f"{processor}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{len(x)} samples of {float(x.sum()) / max(1, len(x)):.0f} events on average\n")
    print("| attack | budget | samples | seconds |\n| --- | --- | --- | --- |")
    for norm, epsilon, limits in BUDGETS:
        task = sr.load("retiming", norm=norm, epsilon=epsilon, limits=limits, steps=steps)
        budget = ", ".join(f"{name} <= {most:g}" for name, most in ((norm, epsilon), *limits.items()))
        print(f"| `retiming`, {steps} steps | {budget} | {len(x)} | {seconds(net, x, y, task):.1f} |", flush=True)
    task = sr.load("sda", norm="l0", epsilon=200, **({"steps": 2} if quick else {}))
    print(f"| `sda` | l0 <= 200 | {len(x[:few])} | {seconds(net, x[:few], y[:few], task):.1f} |\n", flush=True)
    print("| events a sample | seconds, `retiming` under shift-linf <= 2 |\n| --- | --- |")
    for number in EVENTS[: 2 if quick else None]:
        task, x = sr.load("retiming", norm="shift-linf", epsilon=2, steps=steps), events(samples, number)
        with torch.no_grad():
            y = net.predict(net.logits(x)).clamp_min(0)
        print(f"| {number} | {seconds(net, x, y, task):.1f} |", flush=True)


if __name__ == "__main__":
    main()
