"""Findings from stored outcomes: each passes on good evidence, fails on bad, and is missing without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust import audit
from snnrobust.audit import exhibits as opened
from snnrobust.audit.gaps import Gap
from snnrobust.report import Report
from snnrobust.results.records import Claim, Finding
from snnrobust.results.store import ANOTHER_CLASS, EVIDENCE, FORMAT, Store

COUNT, FEW = 1000, 48
#: The audit's samples, in an order of their own: all of the data, so that a share is a share of either.
ROWS = np.random.default_rng(0).permutation(COUNT)

Kept = float | np.ndarray  # a share of the samples, the first ones, or which [sample]


def stand(kept: Kept, clean: np.ndarray | None = None) -> np.ndarray:
    """Which samples withstand, [sample]."""
    found = np.arange(COUNT) < round(kept * COUNT) if isinstance(kept, float) else np.asarray(kept)
    return found if clean is None else found & clean


def settings(label: str, radii: Iterable[float], **factors: Any) -> dict[str, Any]:
    """The recorded settings of an attack; `members` makes it an ensemble."""
    members = factors.pop("members", [])
    own = {"norm": "linf", "objective": "CrossEntropy()", "gradient": "Own()", "restarts": 1, "eot": 1, "source": None}
    return {
        "name": "test",
        "label": label,
        "kind": "attack",
        "origin": "test",
        "plugin": "Test()",
        "strengths": list(radii),
        "attack": own | factors,
        "members": members,
        "draws": 1,
    }


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
class Attack:
    """An attack, or a variant of it: what each of its members leaves standing at each radius."""

    label: str
    kept: list[list[Kept]]  # [radius][member]
    radii: tuple[float, ...] = (0.1,)
    sighted: list[bool] = field(default_factory=lambda: [True])
    factors: dict[str, Any] = field(default_factory=dict)
    #: What to change in the cell at a radius.
    doctor: Callable[[dict[str, Any]], None] = lambda _: None

    def settings(self) -> dict[str, Any]:
        return settings(self.label, self.radii, **self.factors)

    def cells(self, clean: np.ndarray, rows: np.ndarray, mark: float = 0.0) -> list[dict[str, Any]]:
        made = []
        for radius, kept in zip(self.radii, self.kept, strict=True):
            at = [stand(each)[rows] for each in kept]
            made.append(cell(at, self.sighted, clean[rows], radius, mark))
            self.doctor(made[-1])
        return made


def plain(label: str, *shares: Kept, radii: tuple[float, ...] = (0.1,), **more: Any) -> Attack:
    """An attack without members, with a share for each radius."""
    sighted = [more.pop("sighted", True)]
    return Attack(label, [[share] for share in shares], radii, sighted, **more)


def ensemble(label: str, *members: tuple[str, str | None, Kept], **more: Any) -> Attack:
    """An ensemble of (label, estimator or None for none, share)."""
    parts = [settings(name, [0.1], gradient=gradient or "Own()") for name, gradient, _ in members]
    sighted = [gradient is not None for _, gradient, _ in members]
    return Attack(label, [[share for _, _, share in members]], sighted=sighted, factors={"members": parts}, **more)


@dataclass
class Shown:
    """An exhibit."""

    kind: str
    about: str
    attack: Attack
    samples: int = COUNT
    reverse: bool = False


class Bench:
    """A run with all the evidence that one can wish for, of which a test changes what it is about."""

    def __init__(self, *attacks: Attack, radii: tuple[float, ...] = (0.1,), stochastic: bool = False) -> None:
        self.attacks = list(attacks) or [plain("pgd", *[0.5] * len(radii), radii=radii)]
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
        self.show("epsilon-zero", pgd, plain(f"{pgd}/epsilon-zero", 1.0, radii=(0.0,)))
        self.show("full-range", pgd, plain(f"{pgd}/full-range", 0.0, radii=(1.0,)), samples=FEW)
        self.show("order", pgd, plain(f"{pgd}/order", 0.5, radii=radii[-1:]), samples=FEW)
        self.show("reversed", pgd, plain(f"{pgd}/reversed", 0.5, radii=radii[-1:]), samples=FEW, reverse=True)
        rivals = ensemble("linf/estimators", ("own", "Own()", 0.5), ("atan", "ATan()", 0.5), ("square", None, 0.6))
        self.show("estimators", "linf", replace(rivals, radii=radii, kept=rivals.kept * times))

    def show(self, kind: str, about: str, attack: Attack, samples: int = COUNT, reverse: bool = False) -> None:
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

    def report(self) -> Report:
        noise = settings("linf/noise", self.radii) | {"kind": "noise", "attack": None}
        described = [
            {
                "kind": each.kind,
                "about": each.about,
                "task": each.attack.settings(),
                "samples": each.samples,
                "reverse": each.reverse,
            }
            for each in self.shown.values()
        ]
        silent = isinstance(self.noise, float) and math.isnan(self.noise)  # no noise was tried
        if not silent:
            described.append({"kind": "noise", "about": "linf", "task": noise, "samples": COUNT, "reverse": False})
        described = described if self.evidence == "full" else []
        clean_task = settings("clean", []) | {"kind": "clean", "attack": None}
        model = {"bounds": [0.0, 1.0], "domain": "real", "stochastic": self.stochastic}
        run = {
            "format": FORMAT,
            "fingerprint": "",
            "models": dict.fromkeys(self.clean, model),
            "data": {"name": "made up"},
            "tasks": [clean_task, *(each.settings() for each in self.attacks)],
            "seed": 0,
            "mode": "nested",
            "evidence": self.evidence,
            "exhibits": dict.fromkeys(self.clean, described),
            "rows": ROWS.tolist(),
            "skipped": dict.fromkeys(self.clean, self.skipped),
            "quoted": self.quoted,
        }
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
                rows = ROWS[: each.samples][::-1] if each.reverse else ROWS[: each.samples]
                for k, made in enumerate(each.attack.cells(right, rows)):
                    store.save_cell(name, EVIDENCE + each.attack.label, k, made, 0.0)
            shares = np.full(COUNT, self.noise, dtype=np.float32) if isinstance(self.noise, float) else self.noise
            for k in range(len(self.radii)):
                store.save_cell(name, EVIDENCE + "linf/noise", k, {"fraction": shares[ROWS]}, 0.0)
            store.save_cell(name, ANOTHER_CLASS, 0, {"correct": self.swapped}, 0.0)
        return Report(store)

    def finding(self, name: str, label: str = "pgd", strength: float = 0.1) -> Finding:
        return finding(self.report(), name, label, strength)


def finding(found: Report, name: str, label: str = "pgd", strength: float = 0.1) -> Finding:
    """The finding of this name about one claim (or about all claims of the attack, or the model)."""
    (one,) = [
        each
        for each in found.findings
        if each.name == name
        and each.label in ("", label)
        and each.strength in (strength,) + (each.strength,) * math.isnan(each.strength)
    ]
    return one


def claim(found: Report, label: str = "pgd", strength: float = 0.1) -> Claim:
    (one,) = [each for each in found.claims if (each.label, each.strength) == (label, strength)]
    return one


def test_good_evidence_is_trusted() -> None:
    found = Bench().report()
    assert [each.name for each in found.findings if each.passed is not True] == []
    assert claim(found).verdict == found.verdict == "trusted"
    assert claim(found).value == 0.5


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("estimators", {"surrogate-gap", "black-box-not-stronger"}),
        ("steps-50", {"steps-converged"}),
        ("steps-100", {"steps-converged", "monotone"}),
        ("epsilon-zero", {"epsilon-zero"}),
        ("full-range", {"full-range", "full-range-attack"}),
        ("order", {"attack-order"}),
        ("reversed", {"attack-order"}),
        ("eot", {"eot-plateau"}),
        ("noise", {"noise-not-stronger"}),
    ],
)
def test_without_a_piece_of_evidence_its_findings_are_missing(left_out: str, missing: set[str]) -> None:
    bench = Bench(plain("pgd", 0.5, factors={"eot": 10}), stochastic=left_out == "eot")
    assert bench.report().verdict == "trusted"
    if left_out == "noise":
        bench.noise = math.nan
    else:
        del bench.shown[left_out]
    found = bench.report()
    assert set(claim(found).missing) == missing
    assert claim(found).failed == ()
    assert claim(found).verdict == found.verdict == "doubtful"


def test_basic_evidence_is_never_trusted() -> None:
    bench = Bench()
    bench.evidence = "basic"
    found = bench.report()
    assert found.verdict == "doubtful"
    assert {"surrogate-gap", "black-box-not-stronger", "steps-converged", "full-range"} <= set(claim(found).missing)


def check(bench: Bench, name: str, passed: bool | None, value: float, verdict: str) -> None:
    """One finding is as expected, all others pass, and the claim's verdict follows from it."""
    found = bench.report()
    made = finding(found, name)
    assert made.passed is passed
    assert made.value == pytest.approx(value, rel=3e-5)  # `budget` takes float rounding off
    others = {each.name for each in found.findings if each.passed is not True and each.name != name}
    assert others == set()
    assert claim(found).verdict == verdict


@pytest.mark.parametrize(
    ("other", "passed", "verdict"),
    [(0.5, True, "trusted"), (0.48, True, "trusted"), (0.479, False, "untrustworthy"), (0.6, True, "trusted")],
)
def test_surrogate_gap(other: float, passed: bool, verdict: str) -> None:
    bench = Bench()
    bench.rival("atan", other)
    check(bench, "surrogate-gap", passed, 0.5 - other, verdict)


def test_the_own_estimator_speaks_against_a_number_but_never_for_it() -> None:
    bench = Bench()
    bench.rival("own", 0.1)
    assert bench.finding("surrogate-gap").passed is False
    bench = Bench(plain("pgd", 0.5), plain("again", 0.5))
    bench.evidence = "basic"
    assert bench.finding("surrogate-gap").passed is None
    bench = Bench(ensemble("all", ("own", "Own()", 0.5), ("atan", "ATan()", 0.5)))
    bench.rival("own", 0.1)
    assert bench.finding("surrogate-gap", "all").passed is False


def test_the_users_own_attacks_are_rivals_too() -> None:
    bench = Bench(plain("pgd", 0.5), plain("other", 0.4, factors={"gradient": "ATan()"}))
    assert bench.finding("surrogate-gap").value == pytest.approx(0.1)
    assert "other" in bench.finding("surrogate-gap").why


@pytest.mark.parametrize("differs", [{"norm": "l2"}, {"radii": (0.2,)}])
def test_attacks_of_another_norm_or_radius_are_no_rivals(differs: dict[str, Any]) -> None:
    radii = differs.pop("radii", (0.1,))
    bench = Bench(plain("pgd", 0.5), plain("other", 0.1, radii=radii, factors={"gradient": "ATan()"} | differs))
    assert bench.finding("surrogate-gap").passed is True


def test_an_attack_that_ended_at_the_very_same_margins_is_no_other_estimator() -> None:
    """The net's surrogate by another name tells nothing; one margin apart it is another."""

    def bench(at: int) -> Bench:
        def level(cell: dict[str, Any]) -> None:
            cell["margin"] = np.where(cell["correct"] == 1, 0.5, -0.5)
            cell["margin"][at:] += 0.1

        twin = plain("twin", 0.5, factors={"gradient": "ATan()"}, doctor=level)
        made = Bench(plain("pgd", 0.5, doctor=lambda c: c.update(margin=np.where(c["correct"] == 1, 0.5, -0.5))), twin)
        made.evidence = "basic"
        return made

    assert bench(COUNT).finding("surrogate-gap").passed is None
    assert bench(COUNT - 1).finding("surrogate-gap").passed is True


def test_a_gap_that_may_be_chance_is_missing_evidence() -> None:
    """Eight samples more and three less: 0.1 points above the threshold of 0, but p = .11."""
    kept = np.arange(COUNT) < 500
    blind = kept.copy()
    blind[:8], blind[500:503] = False, True
    bench = Bench()
    bench.rival("square", blind)
    made = bench.finding("black-box-not-stronger")
    assert (made.passed, made.value) == (None, 0.005)
    assert "more samples" in made.remedy
    assert bench.report().verdict == "doubtful"
    blind[500:503] = False  # p = 2^-8
    assert bench.finding("black-box-not-stronger").passed is False


@pytest.mark.parametrize(
    ("blind", "passed", "verdict"), [(0.5, True, "trusted"), (0.7, True, "trusted"), (0.49, False, "untrustworthy")]
)
def test_black_box(blind: float, passed: bool, verdict: str) -> None:
    bench = Bench()
    bench.rival("square", blind)
    check(bench, "black-box-not-stronger", passed, 0.5 - blind, verdict)


def test_an_ensembles_own_black_box_is_compared_with_its_gradients() -> None:
    """A number to which gradients add nothing: the ensemble is not beaten from outside, but its gradients are."""
    members = [("own", "Own()", 0.5), ("square", None, 0.5)]
    bench = Bench(ensemble("all", *members))
    assert bench.finding("black-box-not-stronger", "all").passed is True
    bench.shown["steps-100"].attack.kept = [[0.6, 0.5]]
    made = bench.finding("black-box-not-stronger", "all")
    assert made.passed is False
    assert made.value == pytest.approx(0.1)


def test_without_gradients_of_its_own_an_attack_is_judged_by_the_best_of_the_others() -> None:
    radii = (0.1, 0.2)
    gradients = [plain("a", 0.5, 0.4, radii=radii), plain("b", 0.6, 0.1, radii=radii)]

    def found(small: float, large: float) -> list[bool | None]:
        blind = plain("blind", small, large, radii=radii, sighted=False)
        bench = Bench(blind, *gradients)
        bench.evidence = "basic"
        other = plain("other", 0.55, 0.3, radii=radii, sighted=False)
        bench.attacks.append(other)
        return [bench.finding("black-box-not-stronger", "other", radius).passed for radius in radii]

    assert found(0.5, 0.1) == [True, True]
    assert found(0.49, 0.1) == [False, True]  # a is the rival at the small radius
    assert found(0.5, 0.09) == [True, False]  # and b at the large one


@pytest.mark.parametrize(("other", "passed"), [(0.5, True), (0.6, True), (0.49, False)])
def test_transfer(other: float, passed: bool) -> None:
    bench = Bench()
    assert not [each for each in bench.report().findings if each.name == "transfer-not-stronger"]
    bench.show("transfer", "linf", plain("linf/transfer b", other, factors={"source": "b"}))
    verdict = "trusted" if passed else "untrustworthy"
    check(bench, "transfer-not-stronger", passed, 0.5 - other, verdict)


def test_another_models_gradients_are_no_gradients_of_this_one() -> None:
    """Transferred examples cost backward passes, of the other net; neither estimator nor black box is told by them."""
    bench = Bench(plain("pgd", 0.5), plain("from b", 0.1, factors={"source": "b", "gradient": "ATan()"}))
    assert bench.finding("surrogate-gap").passed is True
    assert bench.finding("black-box-not-stronger").passed is True
    assert bench.finding("transfer-not-stronger").passed is False


@pytest.mark.parametrize(("noise", "passed"), [(0.5, True), (0.9, True), (0.49, False), (0.0, False)])
def test_noise(noise: float, passed: bool) -> None:
    bench = Bench()
    bench.noise = (np.arange(COUNT) < noise * COUNT).astype(np.float32)
    check(bench, "noise-not-stronger", passed, 0.5 - noise, "trusted" if passed else "untrustworthy")


def test_noise_of_equal_strength_is_no_alarm() -> None:
    """Shares over draws are kept in float32, in which .9 is less than .9."""
    bench = Bench(plain("pgd", 0.9))
    bench.noise = np.full(COUNT, 0.9, dtype=np.float32)
    assert bench.finding("noise-not-stronger").passed is True


def test_noise_gains_nothing_from_samples_that_are_wrong_without_it() -> None:
    """Noise puts right what was wrong; an attack that noise beats is not excused by that."""
    bench = Bench(plain("pgd", 0.5))
    bench.clean["m"] = np.arange(COUNT) < 500
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, 0.5)
    bench.noise = np.where(np.arange(COUNT) < 500, 0.8, 0.5).astype(np.float32)
    made = bench.finding("noise-not-stronger")
    assert made.passed is False
    assert made.value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changed", "passed", "verdict"), [(0, True, "trusted"), (1, False, "untrustworthy"), (500, False, "untrustworthy")]
)
def test_epsilon_zero(changed: int, passed: bool, verdict: str) -> None:
    bench = Bench()
    bench.variant("epsilon-zero", 1 - changed / COUNT)
    check(bench, "epsilon-zero", passed, changed / COUNT, verdict)


def test_epsilon_zero_among_the_users_radii_needs_no_exhibit() -> None:
    for standing, passed in ((1.0, True), (0.999, False)):
        bench = Bench(plain("pgd", standing, 0.5, radii=(0.0, 0.1)), radii=(0.1,))
        bench.evidence = "basic"
        assert bench.finding("epsilon-zero").passed is passed


@pytest.mark.parametrize(
    ("few", "many", "passed"),
    [(0.5, 0.5, True), (0.51, 0.5, True), (0.511, 0.5, False), (0.5, 0.511, False), (0.5, 0.51, True)],
)
def test_steps_converged(few: float, many: float, passed: bool) -> None:
    bench = Bench(plain("pgd", few))
    bench.rival("own", few)
    bench.rival("atan", few)
    bench.variant("steps-50", few)
    bench.variant("steps-100", many)
    verdict = "trusted" if passed else "doubtful"
    check(bench, "steps-converged", passed, abs(few - many), verdict)


def test_a_claim_from_too_few_steps_is_not_excused_by_variants_that_agree() -> None:
    """The number that is claimed stands 1.5 points above what both its variants say."""
    bench = Bench(plain("pgd", 0.515))
    bench.rival("square", 0.6)
    made = bench.finding("steps-converged")
    assert made.passed is False
    assert made.value == pytest.approx(0.015)


@pytest.mark.parametrize(("lapses", "passed"), [(0, True), (10, True), (11, False)])
def test_monotone(lapses: int, passed: bool) -> None:
    """Samples broken at the small radius that stand at the large one."""
    radii = (0.1, 0.2)
    bench = Bench(radii=radii)
    small = stand(0.5)
    large = small.copy()
    large[600 : 600 + lapses], large[:lapses] = True, False  # as many stand as before
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, small, large)
    found = bench.report()
    assert finding(found, "monotone", strength=0.1).passed is True
    assert finding(found, "monotone", strength=0.2).passed is passed
    assert finding(found, "monotone", strength=0.2).value == pytest.approx(lapses / COUNT)
    assert claim(found, strength=0.1).verdict == "trusted"
    assert claim(found, strength=0.2).verdict == ("trusted" if passed else "doubtful")


def test_monotone_up_to_the_full_range() -> None:
    """What breaks at the radius and stands when every input is allowed was missed there."""
    bench = Bench()
    kept = np.zeros(COUNT, dtype=bool)
    kept[ROWS[:FEW]] = True
    bench.variant("full-range", kept)
    broken = int((~stand(0.5)[ROWS[:FEW]]).sum())
    assert bench.finding("monotone").value == broken / COUNT
    assert bench.finding("monotone").passed is False


@pytest.mark.parametrize(("kept", "passed"), [(0, True), (1, False)])
def test_full_range(kept: int, passed: bool) -> None:
    bench = Bench()
    bench.swapped[:kept] = 1
    check(bench, "full-range", passed, kept / COUNT, "trusted" if passed else "untrustworthy")


def test_an_ensemble_that_lost_members_is_not_trusted_and_what_it_lost_speaks_for_nothing() -> None:
    bench = Bench(ensemble("all", ("own", "Own()", 0.5), ("atan", "ATan()", 0.5)))
    assert bench.report().verdict == "trusted"
    bench.skipped = {"atan": "no spikes to swap"}
    made = bench.finding("members", "all")
    assert made.passed is None
    assert "no spikes to swap" in made.why
    assert bench.report().verdict == "doubtful"


def test_full_range_without_another_class_to_show_is_missing() -> None:
    bench = Bench()
    bench.swapped[:] = -1
    assert bench.finding("full-range").passed is None


@pytest.mark.parametrize(("kept", "passed"), [(0, True), (2, True), (3, False)])
def test_full_range_attack(kept: int, passed: bool) -> None:
    bench = Bench()
    standing = np.zeros(COUNT, dtype=bool)
    standing[[row for row in ROWS[:FEW] if row < 500][:kept]] = True  # among those that stand anyway
    bench.variant("full-range", standing)
    check(bench, "full-range-attack", passed, kept / FEW, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("differ", "passed"), [(0, True), (1, False)])
def test_attack_order(differ: int, passed: bool) -> None:
    bench = Bench()
    other = stand(0.5)
    other[ROWS[:differ]] ^= True
    bench.variant("reversed", other)
    check(bench, "attack-order", passed, differ / FEW, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("more", "passed"), [(0, True), (50, True), (51, False)])
def test_last_iterate(more: int, passed: bool) -> None:
    """A remark: any-iterate robust accuracy, which is what is claimed, does not suffer from it."""
    bench = Bench()
    last = (stand(0.5) | (np.arange(COUNT) >= COUNT - more)).astype(np.int8)[ROWS]
    bench.shown["steps-50"].attack.doctor = lambda cell: cell.update(last_correct=last)
    check(bench, "last-iterate", passed, more / COUNT, "trusted")


@pytest.mark.parametrize(("more", "passed"), [(0.5, True), (0.48, True), (0.479, False), (0.6, True)])
def test_eot_plateau(more: float, passed: bool) -> None:
    bench = Bench(plain("pgd", 0.5, factors={"eot": 10}), stochastic=True)
    bench.variant("eot", more)
    check(bench, "eot-plateau", passed, 0.5 - more, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("eot", "passed"), [(1, False), (2, True)])
def test_eot(eot: int, passed: bool) -> None:
    bench = Bench(plain("pgd", 0.5, factors={"eot": eot}), stochastic=True)
    check(bench, "eot", passed, eot, "trusted" if passed else "doubtful")
    steady = Bench(plain("pgd", 0.5, factors={"eot": eot}))
    assert not {"eot", "eot-plateau"} & {each.name for each in steady.report().findings}


@pytest.mark.parametrize(
    ("unchanged", "broken", "passed", "verdict"),
    [
        (10, True, True, "trusted"),
        (11, True, False, "trusted"),  # it leaves alone what it can't break
        (10, False, True, "doubtful"),
        (11, False, False, "doubtful"),
        (999, False, False, "doubtful"),
        (1000, False, False, "untrustworthy"),
    ],
)
def test_attack_moves(unchanged: int, broken: bool, passed: bool, verdict: str) -> None:
    def doctor(cell: dict[str, Any]) -> None:
        cell["unchanged"][:unchanged] = 1

    bench = Bench(plain("pgd", 0.5 if broken else 1.0, doctor=doctor))
    found = bench.report()
    made = finding(found, "attack-moves")
    assert (made.passed, made.value) == (passed, unchanged / COUNT)
    assert made.required is not broken
    assert made.fatal is (unchanged == COUNT)
    if broken:
        assert claim(found).verdict == verdict
    else:
        assert audit.verdict([made]) == ("trusted" if passed else verdict)


@pytest.mark.parametrize(("share", "passed"), [(0, True), (1, True), (2, False)])
def test_rescoring(share: int, passed: bool) -> None:
    bench = Bench(plain("pgd", 0.5, doctor=lambda cell: cell["disagreements"].__setitem__(slice(share), 3)))
    check(bench, "rescoring", passed, share / COUNT, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("ratio", "passed"), [(0.5, True), (1.0, True), (1.0009, True), (1.002, False)])
def test_budget(ratio: float, passed: bool) -> None:
    def doctor(cell: dict[str, Any]) -> None:
        cell["distance"][cell["correct"] == 0] = 0.04
        cell["distance"][-1] = 0.1 * ratio  # a single broken one
        cell["distance"][0] = 7.0  # counts for nothing: it stands

    bench = Bench(plain("pgd", 0.5, doctor=doctor))
    check(bench, "budget", passed, ratio, "trusted" if passed else "untrustworthy")


@pytest.mark.parametrize(("tied", "passed"), [(0, True), (10, True), (11, False)])
def test_strict_accuracy(tied: int, passed: bool) -> None:
    bench = Bench()
    found = bench.report()
    found.clean("m")["margin"][:tied] = 0.0
    made = {each.name: each for each in audit.findings(found.outcomes)}["strict-accuracy"]
    assert (made.passed, made.value, made.required) == (passed, tied / COUNT, False)


def test_without_an_attack_nothing_is_trusted() -> None:
    bench = Bench()
    bench.attacks, bench.quoted, bench.evidence = [], [], "basic"
    found = bench.report()
    assert finding(found, "attacked").passed is None
    assert (found.verdict, found.claims) == ("doubtful", [])


def test_resolution() -> None:
    """Half an interval of 1000 samples is 3.1 points wide at .5: it carries a difference of 4 points, not of 3."""
    for other, passed in ((0.54, True), (0.53, False)):
        bench = Bench()
        bench.clean = {"a": np.ones(COUNT, dtype=bool), "b": np.ones(COUNT, dtype=bool)}
        found = bench.report()
        found.cell("b", "pgd", 0)["correct"] = stand(other).astype(np.int8)
        made = [each for each in audit.findings(found.outcomes) if each.name == "resolution"]
        assert [each.passed for each in made] == [passed, passed]
        assert [each.model for each in made] == ["a", "b"]
        assert not made[0].required
    assert "resolution" not in {each.name for each in Bench().report().findings}


def test_a_claim_takes_the_findings_that_are_about_it() -> None:
    """A failure at one radius of one attack is no failure at another radius, or of another attack."""
    radii = (0.1, 0.2)
    bench = Bench(plain("pgd", 0.5, 0.4, radii=radii), plain("apgd", 0.5, 0.4, radii=radii), radii=radii)
    bench.quoted = ["pgd", "apgd"]
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, 0.5, 0.4)
    bench.rival("own", 0.5, 0.4)
    bench.rival("atan", 0.5, 0.3)
    found = bench.report()
    verdicts = {(each.label, each.strength): each.verdict for each in found.claims}
    assert verdicts == {
        ("pgd", 0.1): "trusted",
        ("pgd", 0.2): "untrustworthy",
        ("apgd", 0.1): "doubtful",  # its variants were not run
        ("apgd", 0.2): "untrustworthy",
    }
    assert claim(found, "pgd", 0.2).failed == ("surrogate-gap",)
    assert found.verdict == "untrustworthy"
    assert {each.value for each in found.claims} == {0.5, 0.4}


def test_the_overall_verdict_is_about_the_quoted_claims() -> None:
    bench = Bench(plain("pgd", 0.5), plain("weak", 0.9))
    found = bench.report()
    assert claim(found, "weak").verdict == "untrustworthy"  # beaten by far
    assert not claim(found, "weak").quoted
    assert found.verdict == "trusted"
    bench.quoted = ["pgd", "weak"]
    assert bench.report().verdict == "untrustworthy"


def test_a_fatal_finding_about_a_model_spoils_every_claim_about_it() -> None:
    bench = Bench()
    bench.probed = [Finding("repeatable", False, 1.0, 0.0, "", "", fatal=True)]
    found = bench.report()
    assert claim(found).verdict == found.verdict == "untrustworthy"
    bench.attacks, bench.quoted, bench.evidence = [], [], "basic"
    assert bench.report().verdict == "untrustworthy"


def test_findings_of_one_model_leave_another_alone() -> None:
    bench = Bench()
    bench.clean = {"a": np.ones(COUNT, dtype=bool), "b": np.ones(COUNT, dtype=bool)}
    found = bench.report()
    made = [replace(each, passed=False) if each.model == "b" else each for each in found.findings]
    verdicts = {each.model: each.verdict for each in audit.claims(found.outcomes, made)}
    assert verdicts == {"a": "trusted", "b": "untrustworthy"}


def test_verdict() -> None:
    good = Finding("a", True, 0.0, 0.0, "", "")
    assert audit.verdict([]) == "doubtful"
    assert audit.verdict([good]) == "trusted"
    assert audit.verdict([good, Finding("b", None, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "")]) == "doubtful"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False)]) == "trusted"
    assert audit.verdict([good, Finding("b", False, 0.0, 0.0, "", "", required=False, fatal=True)]) == "untrustworthy"


def test_gaps_count_samples_in_pairs() -> None:
    gap = Gap.between(np.array([1, 1, 1, 0], dtype=bool), np.array([0, 0, 1, 1], dtype=bool))
    assert gap.value == 0.25
    assert gap.chance == pytest.approx(0.5)  # at least two heads of three
    assert Gap.between(np.ones(4, dtype=bool), np.ones(4, dtype=bool)).chance == 1.0


def test_an_exhibit_is_found_at_its_own_samples() -> None:
    bench = Bench()
    made = opened.Audited(bench.report().outcomes, "m", "pgd").exhibit("order", label="pgd/reversed")
    assert made is not None
    assert made.rows.tolist() == ROWS[:FEW][::-1].tolist()
    standing = made.standing(0.1)
    assert standing is not None
    assert standing.tolist() == (made.rows < 500).tolist()
    assert made.standing(0.3) is None


def test_verdicts_survive_saving(tmp_path: Any) -> None:
    bench = Bench(plain("pgd", 0.5), plain("weak", 0.9))
    bench.probed = [Finding("batch-of-one", None, math.nan, 0.0, "", "", required=False)]
    found = bench.report()
    found.save(tmp_path / "run")
    loaded = sr.Report.load(tmp_path / "run")
    assert repr(loaded.findings) == repr(found.findings)  # NaN is not equal to itself
    assert loaded.claims == found.claims
