"""Fixtures for tests of the audit: names of failed findings, nets of one layer, and runs with all evidence."""

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

Robust = float | np.ndarray  # the share of the samples (the first ones) that are robust, or which are, [sample]


class OneLayer(nn.Module):
    """A linear layer from 16 values to 3 classes; `use` computes the logits from it and the flat inputs [N, 16]."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.layer, x.flatten(1))


def robust_samples(robust: Robust) -> np.ndarray:
    """Which samples are robust, [sample]."""
    return np.arange(COUNT) < round(robust * COUNT) if isinstance(robust, float) else np.asarray(robust)


def cell(
    robust: list[np.ndarray], uses_gradients: list[bool], clean: np.ndarray, epsilon: float, mark: float
) -> dict[str, Any]:
    """Outcomes of members that all attack all samples that are correct when clean; `mark` shifts the margins."""
    tried = np.where(clean, np.stack(robust).astype(np.int8), -1).astype(np.int8)  # [member, sample]
    correct = tried.min(axis=0)
    zeros = np.zeros(len(clean), dtype=np.int32)
    spent = np.outer(uses_gradients, tried[0] >= 0).astype(np.int32) * 20
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
        "member_forwards": np.tile(zeros + 20, (len(robust), 1)),
        "member_backwards": spent,
    }


@dataclass
class MadeAttack:
    """An attack, or a variant of it: which samples are robust to each of its members at each radius."""

    label: str
    robust: list[list[Robust]]  # [radius][member]
    radii: tuple[float, ...] = (0.1,)
    uses_gradients: list[bool] = field(default_factory=lambda: [True])
    #: Recorded settings; `members` makes it an ensemble.
    factors: dict[str, Any] = field(default_factory=dict)
    #: Changes the cell at each radius.
    modify: Callable[[dict[str, Any]], None] = lambda _: None

    def cells(self, clean: np.ndarray, rows: np.ndarray, mark: float = 0.0) -> list[dict[str, Any]]:
        made = []
        for radius, robust in zip(self.radii, self.robust, strict=True):
            at = [robust_samples(each)[rows] for each in robust]
            made.append(cell(at, self.uses_gradients, clean[rows], radius, mark))
            self.modify(made[-1])
        return made


def plain_attack(label: str, *shares: Robust, radii: tuple[float, ...] = (0.1,), **more: Any) -> MadeAttack:
    """An attack without members, with a share for each radius."""
    uses_gradients = [more.pop("uses_gradients", True)]
    return MadeAttack(label, [[share] for share in shares], radii, uses_gradients, **more)


def ensemble_of(settings: Callable[..., Any], label: str, *members: tuple[str, str | None, Robust]) -> MadeAttack:
    """An ensemble of (label, estimator or None for none, share)."""
    parts = [settings(name, [0.1], gradient=gradient or "Own()") for name, gradient, _ in members]
    uses_gradients = [gradient is not None for _, gradient, _ in members]
    return MadeAttack(
        label, [[share for _, _, share in members]], uses_gradients=uses_gradients, factors={"members": parts}
    )


@dataclass
class MadeEvidence:
    """An evidence task."""

    kind: str
    about: str
    attack: MadeAttack
    samples: int = COUNT
    reverse: bool = False


class Bench:
    """A run with complete evidence, of which a test changes one part."""

    count: ClassVar[int] = COUNT
    few: ClassVar[int] = FEW
    #: The audit's samples: all of the data in another order, so that shares are the same.
    rows: ClassVar[np.ndarray] = np.random.default_rng(0).permutation(COUNT)
    robust_samples = staticmethod(robust_samples)

    def __init__(
        self, made: Any, *attacks: MadeAttack, radii: tuple[float, ...] = (0.1,), stochastic: bool = False
    ) -> None:
        self.made = made
        self.settings = partial(made.attack, name="test", plugin="Test()", objective="CrossEntropy()")
        self.attacks = list(attacks) or [plain_attack("pgd", *[0.5] * len(radii), radii=radii)]
        self.radii, self.stochastic = radii, stochastic
        self.clean: dict[str, np.ndarray] = {"m": np.ones(COUNT, dtype=bool)}
        self.quoted = [self.attacks[0].label]
        self.noise: Robust = 0.9
        self.class_swap: np.ndarray = np.zeros(COUNT, dtype=np.int8)
        self.evidence = "full"
        self.skipped: dict[str, str] = {}
        self.probed: list[Finding] = []
        self.evidence_tasks: dict[str, MadeEvidence] = {}
        times = len(radii)
        own = self.attacks[0]
        pgd = own.label
        for kind in ("steps-50", "steps-100", *(["eot"] if stochastic else [])):
            self.add_evidence(
                kind, pgd, replace(own, label=f"{pgd}/{kind}", robust=[[0.5] * len(own.uses_gradients)] * times)
            )
        self.add_evidence("epsilon-zero", pgd, plain_attack(f"{pgd}/epsilon-zero", 1.0, radii=(0.0,)))
        self.add_evidence("full-range", pgd, plain_attack(f"{pgd}/full-range", 0.0, radii=(1.0,)), samples=FEW)
        self.add_evidence("order", pgd, plain_attack(f"{pgd}/order", 0.5, radii=radii[-1:]), samples=FEW)
        turned = plain_attack(f"{pgd}/reversed", 0.5, radii=radii[-1:])
        self.add_evidence("reversed", pgd, turned, samples=FEW, reverse=True)
        members = [("own", "Own()", 0.5), ("atan", "ATan()", 0.5), ("square", None, 0.6)]
        estimators = ensemble_of(self.settings, "linf/estimators", *members)
        self.add_evidence("estimators", "linf", replace(estimators, radii=radii, robust=estimators.robust * times))

    def add_evidence(
        self, kind: str, about: str, attack: MadeAttack, samples: int = COUNT, reverse: bool = False
    ) -> None:
        self.evidence_tasks[kind] = MadeEvidence(
            "order" if kind == "reversed" else kind, about, attack, samples, reverse
        )

    def variant(self, kind: str, *shares: Robust) -> None:
        """Sets the robust share under a variant without members at each radius."""
        self.evidence_tasks[kind].attack.robust = [[share] for share in shares]

    def set_member(self, member: str, *shares: Robust) -> None:
        """Sets the robust share under a member of the audit's ensemble at each radius."""
        at = ["own", "atan", "square"].index(member)
        attack = self.evidence_tasks["estimators"].attack
        attack.robust = [list(row) for row in attack.robust]
        for row, share in zip(attack.robust, shares, strict=True):
            row[at] = share

    def task(self, attack: MadeAttack) -> dict[str, Any]:
        """The recorded settings of an attack."""
        return dict(self.settings(attack.label, attack.radii, **attack.factors))

    def recorded_evidence(self) -> list[dict[str, Any]]:
        """The recorded evidence tasks of a run."""
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
            for each in self.evidence_tasks.values()
        ]
        if isinstance(self.noise, float) and math.isnan(self.noise):  # no noise was tried
            return described
        noise = self.settings("linf/noise", self.radii) | {"kind": "noise", "attack": None}
        return [*described, {"kind": "noise", "about": "linf", "task": noise, "samples": COUNT, "reverse": False}]

    def report(self) -> Report:
        described = self.recorded_evidence()
        run = self.made.run(
            [self.made.model(name, stochastic=self.stochastic) for name in self.clean],
            [self.task(each) for each in self.attacks],
            COUNT,
            evidence=self.evidence,
            evidence_tasks=dict.fromkeys(self.clean, described),
            rows=self.rows.tolist(),
            skipped=dict.fromkeys(self.clean, self.skipped),
            quoted=self.quoted,
        )
        store = Store(None, run)
        for name, right in self.clean.items():
            store.save_findings(name, [replace(each, model=name) for each in self.probed])
            margins = np.where(right, 1.0, -1.0)
            never = np.zeros_like(right)
            clean = {"correct": right, "voted": right, "tied": never, "silent": never, "margin": margins}
            store.save_cell(name, "clean", 0, clean, 0.0)
            for mark, attack in enumerate(self.attacks):
                for k, made in enumerate(attack.cells(right, np.arange(COUNT), 0.01 * mark)):
                    store.save_cell(name, attack.label, k, made, 0.0)
            if not described:
                continue
            for each in self.evidence_tasks.values():
                rows = self.rows[: each.samples][::-1] if each.reverse else self.rows[: each.samples]
                for k, made in enumerate(each.attack.cells(right, rows)):
                    store.save_cell(name, EVIDENCE + each.attack.label, k, made, 0.0)
            shares = np.full(COUNT, self.noise, dtype=np.float32) if isinstance(self.noise, float) else self.noise
            for k in range(len(self.radii)):
                passes = np.ones(len(self.rows), dtype=np.int32)
                noise = {"fraction": shares[self.rows], "forwards": passes, "backwards": 0 * passes}
                store.save_cell(name, EVIDENCE + "linf/noise", k, noise, 0.0)
            store.save_cell(name, ANOTHER_CLASS, 0, {"correct": self.class_swap}, 0.0)
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
    """The class of nets with one linear layer."""
    return OneLayer


@pytest.fixture(scope="session")
def plain() -> Callable[..., MadeAttack]:
    """Makes attacks without members for a bench: a label, and the robust share at each radius."""
    return plain_attack


@pytest.fixture(scope="session")
def make_bench(made: Any) -> Callable[..., Bench]:
    """Makes runs with complete evidence about some attacks, by default one with robust accuracy .5."""
    return partial(Bench, made)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A run of one attack with complete evidence, whose robust accuracy of .5 is trusted."""
    return make_bench()


@pytest.fixture(scope="session")
def ensemble(make_bench: Callable[..., Bench]) -> Callable[..., MadeAttack]:
    """Makes ensembles for a bench: a label, and (label, estimator or None for none, share) of each member."""
    return partial(ensemble_of, make_bench().settings)
