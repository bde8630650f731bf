"""What tests of the audit share: names of failed findings, nets of one layer, and runs with all evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.report import Report
from snnrobust.results.records import Claim, Finding
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE, Store

COUNT, FEW = 1000, 48

Kept = float | np.ndarray  # a share of the samples, the first ones, or which [sample]


class OneLayer(nn.Module):
    """A linear layer from 16 values to 3 classes, of which a function of it and the flat inputs [N, 16] is the net."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.layer, x.flatten(1))


def stand(kept: Kept) -> np.ndarray:
    """Which samples withstand, [sample]."""
    return np.arange(COUNT) < round(kept * COUNT) if isinstance(kept, float) else np.asarray(kept)


def cell(kept: list[np.ndarray], sighted: list[bool], clean: np.ndarray, epsilon: float, mark: float) -> dict[str, Any]:
    """Outcomes where each member, tried on all samples that are right when clean, leaves its part standing."""
    tried = np.where(clean, np.stack(kept).astype(np.int8), -1).astype(np.int8)  # [member, sample]
    correct = tried.min(axis=0)
    zeros = np.zeros(len(clean), dtype=np.int32)
    spent = np.outer(sighted, tried[0] >= 0).astype(np.int32) * 20
    return {
        "correct": correct,
        "voted": correct,
        "last_correct": correct,
        "margin": np.where(correct == 1, 0.5, -0.5) + mark,
        "distance": np.where(correct == 0, epsilon, np.nan),
        "unchanged": np.zeros(len(clean), dtype=np.int8),
        "forwards": zeros + 20,
        "backwards": spent.sum(axis=0),
        "disagreements": zeros,
        "member": np.where(correct == 0, tried.argmin(axis=0), -1),
        "member_correct": tried,
        "member_forwards": np.tile(zeros + 20, (len(kept), 1)),
        "member_backwards": spent,
    }


@dataclass
class Standing:
    """An attack, or a variant of it: what each of its members leaves standing at each radius."""

    label: str
    kept: list[list[Kept]]  # [radius][member]
    radii: tuple[float, ...] = (0.1,)
    sighted: list[bool] = field(default_factory=lambda: [True])
    #: What is recorded of it; `members` makes it an ensemble.
    factors: dict[str, Any] = field(default_factory=dict)
    #: What to change in the cell at a radius.
    doctor: Callable[[dict[str, Any]], None] = lambda _: None

    def cells(self, clean: np.ndarray, rows: np.ndarray, mark: float = 0.0) -> list[dict[str, Any]]:
        made = []
        for radius, kept in zip(self.radii, self.kept, strict=True):
            at = [stand(each)[rows] for each in kept]
            made.append(cell(at, self.sighted, clean[rows], radius, mark))
            self.doctor(made[-1])
        return made


def plain_attack(label: str, *shares: Kept, radii: tuple[float, ...] = (0.1,), **more: Any) -> Standing:
    """An attack without members, with a share for each radius."""
    sighted = [more.pop("sighted", True)]
    return Standing(label, [[share] for share in shares], radii, sighted, **more)


def ensemble_of(settings: Callable[..., Any], label: str, *members: tuple[str, str | None, Kept]) -> Standing:
    """An ensemble of (label, estimator or None for none, share)."""
    parts = [settings(name, [0.1], gradient=gradient or "Own()") for name, gradient, _ in members]
    sighted = [gradient is not None for _, gradient, _ in members]
    return Standing(label, [[share for _, _, share in members]], sighted=sighted, factors={"members": parts})


@dataclass
class Shown:
    """An exhibit."""

    kind: str
    about: str
    attack: Standing
    samples: int = COUNT
    reverse: bool = False


class Bench:
    """A run with all the evidence that one can wish for, of which a test changes what it is about."""

    count: ClassVar[int] = COUNT
    few: ClassVar[int] = FEW
    #: The audit's samples, in an order of their own: all of the data, so that a share is a share of either.
    rows: ClassVar[np.ndarray] = np.random.default_rng(0).permutation(COUNT)
    stand = staticmethod(stand)

    def __init__(
        self, made: Any, *attacks: Standing, radii: tuple[float, ...] = (0.1,), stochastic: bool = False
    ) -> None:
        self.made = made
        self.settings = partial(made.attack, name="test", plugin="Test()", objective="CrossEntropy()")
        self.attacks = list(attacks) or [plain_attack("pgd", *[0.5] * len(radii), radii=radii)]
        self.radii, self.stochastic = radii, stochastic
        self.clean: dict[str, np.ndarray] = {"m": np.ones(COUNT, dtype=bool)}
        self.quoted = [self.attacks[0].label]
        self.noise: Kept = 0.9
        self.swapped: np.ndarray = np.zeros(COUNT, dtype=np.int8)
        self.evidence = "full"
        self.skipped: dict[str, str] = {}
        self.probed: list[Finding] = []
        self.shown: dict[str, Shown] = {}
        times = len(radii)
        own = self.attacks[0]
        pgd = own.label
        for kind in ("steps-50", "steps-100", *(["eot"] if stochastic else [])):
            self.show(kind, pgd, replace(own, label=f"{pgd}/{kind}", kept=[[0.5] * len(own.sighted)] * times))
        self.show("epsilon-zero", pgd, plain_attack(f"{pgd}/epsilon-zero", 1.0, radii=(0.0,)))
        self.show("full-range", pgd, plain_attack(f"{pgd}/full-range", 0.0, radii=(1.0,)), samples=FEW)
        self.show("order", pgd, plain_attack(f"{pgd}/order", 0.5, radii=radii[-1:]), samples=FEW)
        turned = plain_attack(f"{pgd}/reversed", 0.5, radii=radii[-1:])
        self.show("reversed", pgd, turned, samples=FEW, reverse=True)
        members = [("own", "Own()", 0.5), ("atan", "ATan()", 0.5), ("square", None, 0.6)]
        rivals = ensemble_of(self.settings, "linf/estimators", *members)
        self.show("estimators", "linf", replace(rivals, radii=radii, kept=rivals.kept * times))

    def show(self, kind: str, about: str, attack: Standing, samples: int = COUNT, reverse: bool = False) -> None:
        self.shown[kind] = Shown("order" if kind == "reversed" else kind, about, attack, samples, reverse)

    def variant(self, kind: str, *shares: Kept) -> None:
        """Sets what a plain variant leaves standing at each radius."""
        self.shown[kind].attack.kept = [[share] for share in shares]

    def rival(self, member: str, *shares: Kept) -> None:
        """Sets what a member of the audit's ensemble leaves standing at each radius."""
        at = ["own", "atan", "square"].index(member)
        kept = self.shown["estimators"].attack.kept = [list(row) for row in self.shown["estimators"].attack.kept]
        for row, share in zip(kept, shares, strict=True):
            row[at] = share

    def task(self, attack: Standing) -> dict[str, Any]:
        """What a run records of an attack."""
        return dict(self.settings(attack.label, attack.radii, **attack.factors))

    def exhibits(self) -> list[dict[str, Any]]:
        """What a run records of its exhibits."""
        if self.evidence != "full":
            return []
        described = [
            {
                "kind": each.kind,
                "about": each.about,
                "task": self.task(each.attack),
                "samples": each.samples,
                "reverse": each.reverse,
            }
            for each in self.shown.values()
        ]
        if isinstance(self.noise, float) and math.isnan(self.noise):  # no noise was tried
            return described
        noise = self.settings("linf/noise", self.radii) | {"kind": "noise", "attack": None}
        return [*described, {"kind": "noise", "about": "linf", "task": noise, "samples": COUNT, "reverse": False}]

    def report(self) -> Report:
        described = self.exhibits()
        run = self.made.run(
            [self.made.model(name, stochastic=self.stochastic) for name in self.clean],
            [self.task(each) for each in self.attacks],
            COUNT,
            evidence=self.evidence,
            exhibits=dict.fromkeys(self.clean, described),
            rows=self.rows.tolist(),
            skipped=dict.fromkeys(self.clean, self.skipped),
            quoted=self.quoted,
        )
        store = Store(None, run)
        for name, right in self.clean.items():
            store.save_findings(name, [replace(each, model=name) for each in self.probed])
            margins = np.where(right, 1.0, -1.0)
            store.save_cell(name, "clean", 0, {"correct": right, "voted": right, "margin": margins}, 0.0)
            for mark, attack in enumerate(self.attacks):
                for k, made in enumerate(attack.cells(right, np.arange(COUNT), 0.01 * mark)):
                    store.save_cell(name, attack.label, k, made, 0.0)
            if not described:
                continue
            for each in self.shown.values():
                rows = self.rows[: each.samples][::-1] if each.reverse else self.rows[: each.samples]
                for k, made in enumerate(each.attack.cells(right, rows)):
                    store.save_cell(name, EVIDENCE + each.attack.label, k, made, 0.0)
            shares = np.full(COUNT, self.noise, dtype=np.float32) if isinstance(self.noise, float) else self.noise
            for k in range(len(self.radii)):
                store.save_cell(name, EVIDENCE + "linf/noise", k, {"fraction": shares[self.rows]}, 0.0)
            store.save_cell(name, ANOTHER_CLASS, 0, {"correct": self.swapped}, 0.0)
        return Report(store)

    @staticmethod
    def finding_in(found: Report, name: str, label: str = "pgd", strength: float = 0.1) -> Finding:
        """The finding of this name about one claim (or about all claims of the attack, or the model)."""
        (one,) = [
            each
            for each in found.findings
            if each.name == name
            and each.label in ("", label)
            and each.strength in (strength,) + (each.strength,) * math.isnan(each.strength)
        ]
        return one

    @staticmethod
    def claim_in(found: Report, label: str = "pgd", strength: float = 0.1) -> Claim:
        (one,) = [each for each in found.claims if (each.label, each.strength) == (label, strength)]
        return one

    def finding(self, name: str, label: str = "pgd", strength: float = 0.1) -> Finding:
        return self.finding_in(self.report(), name, label, strength)

    def check(self, name: str, passed: bool | None, value: float, verdict: str) -> None:
        """One finding is as expected, all others pass, and the claim's verdict follows from it."""
        found = self.report()
        made = self.finding_in(found, name)
        assert made.passed is passed
        assert made.value == pytest.approx(value, rel=3e-5)  # `budget` takes float rounding off
        others = {each.name for each in found.findings if each.passed is not True and each.name != name}
        assert others == set()
        assert self.claim_in(found).verdict == verdict


@pytest.fixture(scope="session")
def failed() -> Callable[..., set[str]]:
    """Names the failed findings of a report, those about one attack if its label is given."""

    def names(report: sr.Report, label: str = "") -> set[str]:
        return {each.name for each in report.findings if each.passed is False and label in ("", each.label)}

    return names


@pytest.fixture(scope="session")
def one_layer() -> type[OneLayer]:
    """The class of nets of one linear layer, used as a function says."""
    return OneLayer


@pytest.fixture(scope="session")
def plain() -> Callable[..., Standing]:
    """Makes attacks without members for a bench: a label, and the share that stands at each radius."""
    return plain_attack


@pytest.fixture(scope="session")
def make_bench(made: Any) -> Callable[..., Bench]:
    """Makes runs with all evidence of some attacks, by default one whose robust accuracy is .5."""
    return partial(Bench, made)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A run of one attack with all evidence, whose robust accuracy of .5 is trusted."""
    return make_bench()


@pytest.fixture(scope="session")
def ensemble(make_bench: Callable[..., Bench]) -> Callable[..., Standing]:
    """Makes ensembles for a bench: a label, and (label, estimator or None for none, share) of each member."""
    return partial(ensemble_of, make_bench().settings)
