"""Infinite logits are judged by argmax; NaN is never a success; a gradient that is not finite stops nobody else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.objectives.logits import margin
from snnrobust.wrapping.decision import predict

NAN, INF = torch.nan, torch.inf


class LogCounts(nn.Module):
    """Log of the spike counts of two output neurons, one driven by x and one by 1 - x, [T, N, 1] -> [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(1, 2, bias=False)
        self.up.weight.data = torch.tensor([[1.0], [-1.0]])
        self.node = neuron.IFNode(step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.node(self.up(x) + torch.tensor([0.0, 1.0])).sum(0).log()
        return out


def log_counts() -> tuple[sr.SpikingModel, Dataset]:
    x = torch.linspace(0.55, 0.95, 21)[:, None]
    return sr.wrap(LogCounts(), name="log counts", steps=8), Dataset.of(x, torch.zeros(21, dtype=torch.long))


ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("fgsm", {}),
    ("pgd", {"steps": 5}),
    ("pgd", {"steps": 5, "objective": "margin"}),
    ("apgd", {"steps": 6}),
    ("apgd", {"steps": 6, "objective": "dlr"}),
    ("sa-pgd", {"steps": 5}),
    ("square", {"steps": 20}),
    ("random-search", {"steps": 20}),
    ("minimum-norm", {"steps": 8}),
    ("torchattacks:PGD", {"steps": 4}),
    ("standard", {}),
]


@pytest.mark.parametrize(("name", "settings"), ATTACKS, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("epsilon", [0.2, 0.5])
def test_every_success_is_one_by_argmax_and_no_attack_stops(
    name: str, settings: dict[str, Any], epsilon: float
) -> None:
    model, data = log_counts()
    if name.startswith("torchattacks"):
        pytest.importorskip("torchattacks")
    found = sr.attack(model, data, sr.load(name, epsilon=epsilon, **settings), progress=False)
    with torch.no_grad():
        logits = torch.cat([model.logits(row[None]) for row in found.x])
    assert torch.equal(predict(logits) != found.y, found.success)
    # A minimum-norm attack stays close; the others reach the infinity, or this would test nothing.
    assert bool(logits.isinf().any()) or epsilon < 0.5 or name == "minimum-norm"


def test_robust_accuracy_of_log_counts_is_that_by_hand() -> None:
    """The count of class 0 at x is floor(8 x); the least x within epsilon decides."""
    model, data = log_counts()
    report = sr.evaluate(model, data, [sr.load("fgsm", epsilon=[0.05, 0.2, 0.5])], mode="exhaustive", evidence="basic")
    assert report.clean()["correct"].all()
    for k, epsilon in enumerate((0.05, 0.2, 0.5)):
        with torch.no_grad():
            worst = predict(model.logits((data.x - epsilon).clamp(0, 1))) == 0
        moved = report.cell("log counts", "fgsm", k)["unchanged"] == 0
        robust = report.robust("fgsm")[k]
        assert np.array_equal(robust[moved], worst.numpy()[moved])
    assert report.robust("fgsm")[2].sum() < report.robust("fgsm")[0].sum()
    assert "finite-outputs" not in [each.name for each in report.findings if each.passed is False]


def test_noise_and_clean_accuracy_use_the_same_rule() -> None:
    model, _ = log_counts()
    far = Dataset.of(torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0]))  # -inf at class 1, and at class 0
    report = sr.evaluate(model, far, [sr.load("gaussian", severity=0.0, draws=1)], evidence="none")
    assert report.clean()["correct"].tolist() == [True, False]
    assert report.cell("log counts", "gaussian", 0)["fraction"].tolist() == [1.0, 0.0]


def test_margins_of_infinities() -> None:
    logits = torch.tensor([[-INF, 1.0], [1.0, -INF], [INF, 1.0], [INF, INF], [-INF, -INF], [1.0, 1.0]])
    assert margin(logits, torch.zeros(6, dtype=torch.long)).tolist() == [-INF, INF, INF, 0.0, 0.0, 0.0]
    tied = torch.tensor([[1.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(tied, torch.tensor([0])).sum(), tied)
    assert gradient.tolist() == [[1.0, -1.0]]  # a finite tie still shows the way


class Bad(nn.Module):
    """A linear net whose logits (or gradients) are NaN for samples that begin with a value above 1/2."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        bad = x[:, :1] > 0.5
        logits: Tensor = self.linear(x)
        if self.how == "logits":
            return torch.where(bad, torch.full_like(logits, NAN), logits)
        # The value is zero, the gradient of the root at zero infinite, and NaN behind the product with zero.
        root = torch.where(bad, 0.0 * x[:, :1], torch.ones_like(x[:, :1])).sqrt()
        return logits + torch.where(bad, root, torch.zeros_like(root))


def halves(how: str) -> tuple[sr.SpikingModel, Dataset, Tensor]:
    """Samples of which every third has the value that spoils it; the first entry is out of an attack's reach."""
    torch.manual_seed(0)
    model = sr.wrap(Bad(how), name="bad", layout="N")
    x = 0.3 + 0.4 * torch.rand(30, 6)
    bad = torch.arange(30) % 3 == 0
    x[:, 0] = torch.where(bad, 0.95, 0.05)
    with torch.no_grad():
        y = model.net.linear(x).argmax(dim=1)  # type: ignore[operator, union-attr]  # the net above
    return model, Dataset.of(x, y), bad


@pytest.mark.parametrize("name", ["pgd", "apgd", "momentum", "sa-pgd", "minimum-norm", "torchattacks:PGD"])
def test_a_gradient_that_is_not_finite_ends_its_own_search_alone(name: str) -> None:
    if name.startswith("torchattacks"):
        pytest.importorskip("torchattacks")
    model, data, bad = halves("gradients")
    task = sr.load(name, epsilon=0.2, steps=5)
    report = sr.evaluate(model, data, [task], evidence="basic", batch_size=30, progress=False)
    others = Dataset(data.x[~bad], data.y[~bad], data.index[~bad])
    alone = sr.evaluate(model, others, [task], evidence="none", batch_size=30, progress=False)
    cell, expected = report.cell("bad", name, 0), alone.cell("bad", name, 0)
    assert np.array_equal(cell["correct"][~bad.numpy()], expected["correct"])
    assert (expected["correct"] == 0).sum() > 0
    undefined = cell["undefined"] > 0
    assert not undefined[~bad.numpy()].any()
    # One that breaks at the random start needs no gradient.
    assert undefined[bad.numpy() & (cell["correct"] == 1)].all()
    assert undefined.sum() > 5
    assert "undefined" not in expected
    (finding,) = [each for each in report.findings if each.name == "defined-under-attack"]
    assert (finding.passed, finding.value) == (False, pytest.approx(undefined.mean()))


def test_nan_logits_are_no_success_and_a_finding() -> None:
    model, data, _ = halves("logits")
    x = data.x.clone()
    x[:, 0] = 0.45  # an attack can reach 1/2
    with torch.no_grad():
        y = model.predict(model.logits(x))
    data = Dataset.of(x, y)
    report = sr.evaluate(model, data, [sr.load("square", epsilon=0.2, steps=30)], evidence="basic", progress=False)
    cell = report.cell("bad", "square", 0)
    undefined = np.isnan(cell["margin"]) & (cell["correct"] >= 0)
    assert (cell["correct"][undefined] == 1).all()
    found = [each.value for each in report.findings if each.name == "defined-under-attack"]
    assert found == ([pytest.approx(undefined.mean())] if undefined.any() else [])


def test_a_sound_net_has_no_such_finding() -> None:
    model, data = log_counts()
    report = sr.evaluate(model, data, [sr.load("square", epsilon=0.2, steps=5)], evidence="basic", progress=False)
    assert not [each for each in report.findings if each.name == "defined-under-attack"]
