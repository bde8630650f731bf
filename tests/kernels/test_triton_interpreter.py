"""SpikingJelly's CUDA kernels in Triton, run by Triton's interpreter on the CPU, against ours: no GPU needed.

Triton decides on the interpreter when a kernel is defined, so the kernels run in a process of their own: this file as a
script, which knows nothing of this package.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

STEPS, NEURONS, BLOCK = 5, 300, 256  # two programs, the second of them masked
TAU, RATE, THRESHOLD = 2.3, 0.43, 1.0
#: By SpikingJelly's number for it. A sharpness that no float holds exactly.
SURROGATES = ("Sigmoid", "ATan", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "SuperSpike", "Erf")
ALPHA = 1.7
#: Package, its surrogates, decay of the input, value of the hard reset (None: soft), detached.
Case = tuple[str, str, bool, float | None, bool]
CASES: list[Case] = [
    *itertools.product(["lif"], SURROGATES, (False, True), (None, 0.0), (False, True)),
    *itertools.product(["lif"], ["ATan"], (False, True), (-0.2,), (False, True)),
    *itertools.product(["plif"], ["ATan"], (False, True), (None, 0.0, -0.2), (False, True)),
    *itertools.product(["if_"], ["ATan"], (False,), (None, 0.0, -0.2), (False, True)),
]


def inputs() -> tuple[Tensor, Tensor]:
    """Currents, a third of them in eighths, and gradients to the spikes: [T, N] each."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, STEPS, NEURONS, generator=generator).unbind()
    x = 2 * x + 0.5
    x[:, ::3] = (x[:, ::3] * 8).round() / 8
    return x, gradient


def launched(case: Case) -> tuple[Tensor, Tensor]:
    """Spikes and gradients to the currents by SpikingJelly's kernels, [T, N] each; needs TRITON_INTERPRET=1."""
    package, name, decay, v_reset, detach = case
    kernels: Any = importlib.import_module(f"spikingjelly._ops.{package}.triton")
    x, gradient = inputs()
    spikes, charged, to_x = (torch.full_like(x, torch.nan) for _ in range(3))
    voltages, to_start, none = torch.empty(NEURONS), torch.empty(NEURONS), torch.zeros(NEURONS)
    start = torch.full((NEURONS,), v_reset or 0.0)
    rate = {"lif": (TAU,), "plif": (torch.tensor(RATE),), "if_": ()}[package]
    leak = () if package == "if_" else (decay,)
    shape, numbers = (STEPS, NEURONS), (*rate, THRESHOLD, v_reset or 0.0)
    grid = (-(-NEURONS // BLOCK),)
    kernels._forward_kernel[grid](
        *(x, start, spikes, voltages, charged), *shape, *numbers, *leak, v_reset is None, False, BLOCK, None
    )
    before = (gradient, none, x, start, charged) if package == "plif" else (gradient, none, charged)
    after = (to_x, to_start, torch.empty(NEURONS)) if package == "plif" else (to_x, to_start)
    unroll = (1,) if package == "lif" else ()
    rules = (*leak, v_reset is None, detach, SURROGATES.index(name), False, *unroll, BLOCK, None)
    kernels._backward_kernel[grid](*before, *after, *shape, *numbers, ALPHA, *rules)
    return spikes, to_x


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, tuple[Tensor, Tensor]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton, which is not installed")
    path = tmp_path_factory.mktemp("triton") / "launched.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(Path(__file__)), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[Case, tuple[Tensor, Tensor]] = torch.load(path)
    return found


def our_unit(case: Case) -> Any:
    """Ours, read by the adapter from SpikingJelly's node."""
    from snnrobust.frameworks.spikingjelly import SpikingJelly
    from snnrobust.kernels.dynamics import Dynamics
    from snnrobust.kernels.unit import Unit

    package, name, decay, v_reset, detach = case
    node = neuron.LIFNode(surrogate_function=getattr(surrogate, name)(alpha=ALPHA))
    derivative = SpikingJelly().derivative(node)
    assert derivative is not None
    charge, rate = {"lif": ("divide", TAU), "plif": ("multiply", RATE), "if_": ("keep", 1.0)}[package]
    reset = "soft" if v_reset is None else "hard"
    return Unit(Dynamics(charge, rate, THRESHOLD, reset, v_reset or 0.0, decay, detach), derivative, STEPS)


@pytest.mark.parametrize("path", ["eager", "native"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_spikes_are_equal_and_gradients_agree(
    case: Case, path: str, theirs: dict[Case, tuple[Tensor, Tensor]], rounding_scale: Any, request: Any
) -> None:
    from snnrobust.kernels.fast import run_unit

    unit = our_unit(case)
    x, gradient = inputs()
    x.requires_grad_()
    spikes = run_unit((request.getfixturevalue("native"),), unit, x) if path == "native" else unit.eager(x)
    (to_x,) = torch.autograd.grad(spikes, x, gradient)
    assert torch.equal(spikes, theirs[case][0])
    assert 0.1 < spikes.mean() < 0.9
    assert ((to_x - theirs[case][1]).abs() <= 1e-5 * rounding_scale(unit, x, gradient, None)).all()


def test_another_rule_would_be_noticed(theirs: dict[Case, tuple[Tensor, Tensor]], rounding_scale: Any) -> None:
    # The control: of two cases that differ in one rule, gradients or spikes differ by far more than the tolerance.
    x, gradient = inputs()
    case: Case = ("lif", "ATan", True, 0.0, False)
    size = rounding_scale(our_unit(case), x, gradient, None)
    others: list[Case] = [
        ("plif", "ATan", True, 0.0, False),
        ("lif", "SoftSign", True, 0.0, False),
        ("lif", "ATan", False, 0.0, False),
        ("lif", "ATan", True, None, False),
        ("lif", "ATan", True, -0.2, False),
        ("lif", "ATan", True, 0.0, True),
    ]
    for other in others:
        assert ((theirs[case][1] - theirs[other][1]).abs() > 1e-3 * size).sum() > NEURONS


if __name__ == "__main__":
    torch.save({case: launched(case) for case in CASES}, sys.argv[1])
