"""APGD: Algorithm 1 line by line, its schedule, plateaus, and torchattacks' APGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.errors import InputError, InputTypeError
from snnrobust.plugin import State
from snnrobust.testing import check_plugin
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust_attacks.optimisers.apgd import APGD

Objective = Callable[[Tensor], Tensor]


def evaluate(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """Objective [N] and its gradient [N, *]."""
    at = x.detach().requires_grad_()
    value = objective(at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), gradient


def states(optimiser: APGD, objective: Objective, x0: Tensor, threat: ThreatModel) -> list[State]:
    """The states from the start to the last iterate."""
    index, rng = torch.arange(len(x0)), Draws(0, "t")
    found = [optimiser.init(x0, threat, rng, index)]
    for k in range(optimiser.steps):
        loss, gradient = evaluate(objective, found[-1]["x"])
        found.append(optimiser.step(found[-1], gradient, loss, x0, torch.full_like(index, k), threat, rng, index))
    return found


def bumpy(features: int) -> Objective:
    """A smooth objective with many maxima."""
    w = torch.randn((3, features), generator=torch.Generator().manual_seed(2)).double()
    return lambda x: (3 * x @ w.T).sin().sum(dim=1)


def algorithm(objective: Objective, x0: Tensor, threat: ThreatModel, steps: int) -> tuple[list[Tensor], list[float]]:
    """Algorithm 1 of Croce & Hein 2020 for one sample [1, D], line by line: iterates and step sizes."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = sorted({math.ceil(round(each * steps, 6)) for each in p if each <= 1 + 1e-9})

    def f(x: Tensor) -> float:
        return float(evaluate(objective, x)[0])

    def plain(x: Tensor) -> Tensor:
        return threat.project(x + eta * threat.steepest(evaluate(objective, x)[1]), x0)

    eta = 2 * threat.epsilon
    x = [x0, plain(x0)]
    etas, values = [eta], [f(x[0]), f(x[1])]
    x_max = x[int(values[1] > values[0])]
    f_max = [values[0], max(values)]  # after each iterate
    eta_at = {0: eta}
    for k in range(1, steps):
        # The paper looks at the checkpoint after it made x[k+1]; here before, at the same iterate.
        if k in w:
            before = w[w.index(k) - 1] if k != w[0] else 0
            eta_at[k] = eta
            raised = sum(values[i + 1] > values[i] for i in range(before, k))
            first = raised < 0.75 * (k - before)
            second = eta_at[before] == eta and f_max[before] == f_max[k]
            if first or second:
                eta /= 2
                x[k], values[k] = x_max, f_max[k]
        etas.append(eta)
        z = plain(x[k])
        x.append(threat.project(x[k] + 0.75 * (z - x[k]) + 0.25 * (x[k] - x[k - 1]), x0))
        values.append(f(x[-1]))
        if values[-1] > f_max[-1]:
            x_max = x[-1]
        f_max.append(max(f_max[-1], values[-1]))
    return x, etas


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.2), ("linf", 1.0), ("l2", 0.5), ("l2", 2.0)])
def test_algorithm_one(norm: Norm, epsilon: float) -> None:
    """A batch of samples, against the paper's algorithm on each alone."""
    steps, objective = 40, bumpy(10)
    x0 = torch.rand((6, 10), generator=torch.Generator().manual_seed(5)).double()
    threat = ThreatModel(norm, epsilon)
    found = states(APGD(steps=steps, random_start=False, ties=False), objective, x0, threat)
    halvings = set()
    for sample in range(6):
        iterates, etas = algorithm(objective, x0[[sample]], threat, steps)
        sizes = [float(each["size"][sample]) * epsilon for each in found[1:]]
        assert np.allclose(sizes, etas)
        assert torch.allclose(found[-1]["x"][sample], iterates[-1][0], atol=1e-9)
        halvings.add(tuple(np.flatnonzero(np.diff(etas))))
    assert len(halvings) > 1  # samples are halved at different steps


def test_a_long_step_is_halved_and_the_search_goes_on_from_the_best() -> None:
    """On -|x - c|^2 steps of 2 epsilon jump to and fro around the maximum."""
    center = torch.full((1, 3), 0.5).double() + torch.tensor([[0.03, -0.05, 0.01]])
    x0 = torch.full((1, 3), 0.5).double()
    threat = ThreatModel("linf", 0.4)
    found = states(APGD(steps=100, random_start=False), lambda x: -(x - center).square().sum(dim=1), x0, threat)
    sizes = [float(each["size"]) for each in found]
    changed = [k for k, (a, b) in enumerate(pairwise(sizes)) if a != b]
    assert changed[0] == 22
    assert set(changed) <= {22, 41, 57, 70, 80, 87, 93, 99}
    assert sizes[-1] <= 2 / 2**5
    assert float((found[-1]["best"] - center).abs().max()) < 0.03
    assert torch.equal(found[23]["previous"], found[22]["best"])


@pytest.mark.parametrize("ties", [True, False])
def test_on_a_plateau_the_best_drifts_if_ties_count(ties: bool) -> None:
    x0 = torch.full((1, 8), 0.5).double()

    def flat(x: Tensor) -> Tensor:  # a constant with a gradient, as a surrogate gives
        return (x - x.detach()).sum(dim=1)

    found = states(APGD(steps=10, random_start=False, ties=ties), flat, x0, ThreatModel("linf", 0.1))
    assert torch.equal(found[-1]["best"], x0) != ties
    assert float(found[-1]["size"]) < 2  # a plateau is no progress


def test_l1_grows_sparse_and_adapts() -> None:
    """The number of moving entries falls by 1.5 at each checkpoint while sparser is better."""
    w = torch.linspace(0.1, 1, 60).double()
    x0 = torch.full((1, 60), 0.5).double()
    found = states(APGD(steps=100, random_start=False), lambda x: x @ w, x0, ThreatModel("l1", 0.4))
    moving = [float(each["moving"]) for each in found]
    assert moving[4] == 12  # a fifth of the entries until the first checkpoint, after .04 of the steps
    assert moving[5] == pytest.approx(12 / 1.5)
    assert moving[-1] < 1
    assert float(found[-1]["best"][0, -1] - 0.5) == pytest.approx(0.4, rel=1e-3)
    assert min(float(each["size"]) for each in found) == pytest.approx(0.1)


def test_it_is_no_weaker_than_torchattacks() -> None:
    """A smooth net: cross entropies of the best iterates, each with its own starts."""
    torchattacks: Any = pytest.importorskip("torchattacks", reason="the extra 'torchattacks' is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).eval()
        for layer in (net[1], net[3]):
            layer.weight.data *= 4
        x0 = torch.rand(40, 1, 8, 8)
        y = net(x0).argmax(dim=1)

        def loss(x: Tensor) -> Tensor:
            return nn.functional.cross_entropy(net(x), y, reduction="none")

        for norm, epsilon in (("linf", 0.05), ("l2", 0.3)):
            theirs = torchattacks.APGD(net, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, steps=40)
            best = theirs.attack_single_run(x0, y)[0]
            optimiser = APGD(steps=40)
            mine = states(optimiser, loss, x0, ThreatModel(norm, epsilon))[-1]["best_loss"]
            start = states(replace(optimiser, steps=1), loss, x0, ThreatModel(norm, epsilon))[-1]["best_loss"]
            reference = loss(best).detach()
            assert float(reference.mean()) > 1.5 * float(start.mean())
            assert float(mine.mean()) > 0.99 * float(reference.mean())
            assert float((mine - reference).abs().median()) < 0.01 * float(reference.mean())


@pytest.mark.parametrize("steps", [1, 12])
def test_it_conforms(steps: int) -> None:
    check_plugin("apgd", steps=steps)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"rho": 1.5}], ids=repr)
def test_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        APGD(**setting)


@pytest.mark.parametrize("setting", [{"ties": 1}, {"random_start": None}], ids=repr)
def test_a_flag_is_a_bool(setting: dict[str, Any]) -> None:
    with pytest.raises(InputTypeError, match=next(iter(setting))):
        APGD(**setting)
