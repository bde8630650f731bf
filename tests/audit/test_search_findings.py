"""Findings from variants of an attack, and from its own outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from snnrobust import audit
from snnrobust.results.records import Finding


@pytest.mark.parametrize(
    ("changed", "passed", "verdict"), [(0, True, "trusted"), (1, False, "untrustworthy"), (500, False, "untrustworthy")]
)
def test_epsilon_zero(bench: Any, changed: int, passed: bool, verdict: str) -> None:
    bench.variant("epsilon-zero", 1 - changed / bench.count)
    bench.check("epsilon-zero", passed, changed / bench.count, verdict)


def test_epsilon_zero_among_the_users_radii_needs_no_evidence_task(make_bench: Any, plain: Any) -> None:
    for robust, passed in ((1.0, True), (0.999, False)):
        bench = make_bench(plain("pgd", robust, 0.5, radii=(0.0, 0.1)), radii=(0.1,))
        bench.evidence = "basic"
        assert bench.finding("epsilon-zero").passed is passed


@pytest.mark.parametrize(
    ("few", "many", "passed"),
    [(0.5, 0.5, True), (0.51, 0.5, True), (0.511, 0.5, False), (0.5, 0.511, False), (0.5, 0.51, True)],
)
def test_steps_converged(make_bench: Any, plain: Any, few: float, many: float, passed: bool) -> None:
    bench = make_bench(plain("pgd", few))
    bench.set_member("own", few)
    bench.set_member("atan", few)
    bench.variant("steps-50", few)
    bench.variant("steps-100", many)
    verdict = "trusted" if passed else "doubtful"
    bench.check("steps-converged", passed, abs(few - many), verdict)


def test_a_claim_from_too_few_steps_is_not_excused_by_variants_that_agree(make_bench: Any, plain: Any) -> None:
    """The claimed robust accuracy is 1.5 points above that of both variants."""
    bench = make_bench(plain("pgd", 0.515))
    bench.set_member("square", 0.6)
    made = bench.finding("steps-converged")
    assert made.passed is False
    assert made.value == pytest.approx(0.015)


@pytest.mark.parametrize(("violations", "passed"), [(0, True), (10, True), (11, False)])
def test_monotone(make_bench: Any, violations: int, passed: bool) -> None:
    """Samples broken at the small radius that are robust at the large one."""
    radii = (0.1, 0.2)
    bench = make_bench(radii=radii)
    small = bench.robust_samples(0.5)
    large = small.copy()
    large[600 : 600 + violations], large[:violations] = True, False  # the robust share stays the same
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, small, large)
    found = bench.report()
    assert bench.finding_in(found, "monotone", strength=0.1).passed is True
    assert bench.finding_in(found, "monotone", strength=0.2).passed is passed
    assert bench.finding_in(found, "monotone", strength=0.2).value == pytest.approx(violations / bench.count)
    assert bench.claim_in(found, strength=0.1).verdict == "trusted"
    assert bench.claim_in(found, strength=0.2).verdict == ("trusted" if passed else "doubtful")


def test_monotone_up_to_the_full_range(bench: Any) -> None:
    """Samples broken at the radius that are robust when every input is allowed."""
    robust = np.zeros(bench.count, dtype=bool)
    robust[bench.rows[: bench.few]] = True
    bench.variant("full-range", robust)
    broken = int((~bench.robust_samples(0.5)[bench.rows[: bench.few]]).sum())
    assert bench.finding("monotone").value == broken / bench.count
    assert bench.finding("monotone").passed is False


@pytest.mark.parametrize(("unchanged", "passed"), [(0, True), (1, False)])
def test_full_range(bench: Any, unchanged: int, passed: bool) -> None:
    bench.class_swap[:unchanged] = 1
    bench.check("full-range", passed, unchanged / bench.count, "trusted" if passed else "untrustworthy")


def test_full_range_without_another_class_to_show_is_missing(bench: Any) -> None:
    bench.class_swap[:] = -1
    assert bench.finding("full-range").passed is None


@pytest.mark.parametrize(("count", "passed"), [(0, True), (2, True), (3, False)])
def test_full_range_attack(bench: Any, count: int, passed: bool) -> None:
    robust = np.zeros(bench.count, dtype=bool)
    robust[[row for row in bench.rows[: bench.few] if row < 500][:count]] = True  # robust at the radius, too
    bench.variant("full-range", robust)
    bench.check("full-range-attack", passed, count / bench.few, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("differ", "passed"), [(0, True), (1, False)])
def test_attack_order(bench: Any, differ: int, passed: bool) -> None:
    other = bench.robust_samples(0.5)
    other[bench.rows[:differ]] ^= True
    bench.variant("reversed", other)
    bench.check("attack-order", passed, differ / bench.few, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("more", "passed"), [(0, True), (50, True), (51, False)])
def test_last_iterate(bench: Any, more: int, passed: bool) -> None:
    """Advice only: the claim is about any-iterate robust accuracy."""
    last = (bench.robust_samples(0.5) | (np.arange(bench.count) >= bench.count - more)).astype(np.int8)[bench.rows]
    bench.evidence_tasks["steps-50"].attack.modify = lambda cell: cell.update(last_correct=last)
    bench.check("last-iterate", passed, more / bench.count, "trusted")


@pytest.mark.parametrize(("more", "passed"), [(0.5, True), (0.48, True), (0.479, False), (0.6, True)])
def test_eot_plateau(make_bench: Any, plain: Any, more: float, passed: bool) -> None:
    bench = make_bench(plain("pgd", 0.5, factors={"eot": 10}), stochastic=True)
    bench.variant("eot", more)
    bench.check("eot-plateau", passed, 0.5 - more, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("eot", "passed"), [(1, False), (2, True)])
def test_eot(make_bench: Any, plain: Any, eot: int, passed: bool) -> None:
    bench = make_bench(plain("pgd", 0.5, factors={"eot": eot}), stochastic=True)
    bench.check("eot", passed, eot, "trusted" if passed else "doubtful")
    steady = make_bench(plain("pgd", 0.5, factors={"eot": eot}))
    assert not {"eot", "eot-plateau"} & {each.name for each in steady.report().findings}


@pytest.mark.parametrize(
    ("unchanged", "broken", "passed", "verdict"),
    [
        (10, True, True, "trusted"),
        (11, True, False, "trusted"),  # it breaks other samples
        (10, False, True, "doubtful"),
        (11, False, False, "doubtful"),
        (999, False, False, "doubtful"),
        (1000, False, False, "untrustworthy"),
    ],
)
def test_attack_moves(make_bench: Any, plain: Any, unchanged: int, broken: bool, passed: bool, verdict: str) -> None:
    def modify(cell: dict[str, Any]) -> None:
        cell["unchanged"][:unchanged] = 1

    bench = make_bench(plain("pgd", 0.5 if broken else 1.0, modify=modify))
    found = bench.report()
    made = bench.finding_in(found, "attack-moves")
    assert (made.passed, made.value) == (passed, unchanged / bench.count)
    assert made.required is not broken
    assert made.fatal is (unchanged == bench.count)
    if broken:
        assert bench.claim_in(found).verdict == verdict
    else:
        assert audit.verdict([made]) == ("trusted" if passed else verdict)


@pytest.mark.parametrize(("share", "passed"), [(0, True), (1, True), (2, False)])
def test_rescoring(make_bench: Any, plain: Any, share: int, passed: bool) -> None:
    bench = make_bench(plain("pgd", 0.5, modify=lambda cell: cell["disagreements"].__setitem__(slice(share), 3)))
    bench.check("rescoring", passed, share / bench.count, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("ratio", "passed"), [(0.5, True), (1.0, True), (1.0009, True), (1.002, False)])
def test_budget(make_bench: Any, plain: Any, ratio: float, passed: bool) -> None:
    def modify(cell: dict[str, Any]) -> None:
        cell["distance"][cell["correct"] == 0] = 0.04
        cell["distance"][-1] = 0.1 * ratio  # one broken sample
        cell["distance"][0] = 7.0  # not counted: the sample is robust

    bench = make_bench(plain("pgd", 0.5, modify=modify))
    bench.check("budget", passed, ratio, "trusted" if passed else "untrustworthy")


@pytest.fixture
def budget_of(made: Any) -> Callable[..., Finding]:
    """Makes the `budget` finding from outcomes and distances [radius][sample]."""

    def make(
        correct: list[list[int]],
        distance: list[list[float]],
        radii: tuple[float, ...] = (0.1,),
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Finding:
        cells = [made.cell(row, distance=at) for row, at in zip(correct, distance, strict=True)]
        clean, models = [1] * len(correct[0]), [made.model("m", bounds=list(bounds))]
        report = made.report([made.attack("pgd", radii)], {"pgd": cells}, clean, models, evidence="basic")
        (found,) = [each for each in report.findings if each.name == "budget"]
        assert (found.fatal, found.required, found.threshold) == (True, True, 1.001)
        assert (found.model, found.label) == ("m", "pgd")
        assert np.isnan(found.strength)
        return found

    return make


def test_the_budget_counts_broken_samples_with_a_known_distance(budget_of: Callable[..., Finding]) -> None:
    assert budget_of([[1, -1, 0, 0]], [[7.0, 7.0, 0.05, np.nan]]).value == pytest.approx(0.5, abs=1e-4)
    assert budget_of([[1, -1, 0, 0]], [[7.0, 7.0, 0.05, np.inf]]).value == pytest.approx(0.5, abs=1e-4)
    assert budget_of([[0, 0, 0, 0]], [[0.01, 0.02, 0.2, 0.03]]).value == pytest.approx(2.0, abs=1e-4)


def test_the_budget_of_each_radius_is_its_own(budget_of: Callable[..., Finding]) -> None:
    """The largest ratio may be at any radius; epsilon 0 has none."""
    radii = (0.0, 0.1, 0.2, 0.4)
    correct = [[0, 0]] * 4
    for at, ratios in enumerate(([0.3, 0.2, 0.1], [0.2, 0.3, 0.1], [0.1, 0.2, 0.3])):
        distance = [[5.0, 5.0], *([0.0, share * radius] for share, radius in zip(ratios, radii[1:], strict=True))]
        found = budget_of(correct, distance, radii)
        assert (found.passed, found.value) == (True, pytest.approx(0.3, abs=1e-4)), at
        distance[1 + at] = [0.0, 1.1 * radii[1 + at]]
        found = budget_of(correct, distance, radii)
        assert (found.passed, found.value) == (False, pytest.approx(1.1, abs=1e-4)), at


def test_the_budget_is_kept_without_a_counted_example(budget_of: Callable[..., Finding]) -> None:
    found = budget_of([[1, 1]], [[7.0, np.nan]])
    assert (found.passed, found.value) == (True, 0.0)
    found = budget_of([[0, 0]], [[0.0, 0.0]])  # less than the tolerance
    assert (found.passed, found.value) == (True, 0.0)
    found = budget_of([[1, 1], [1, 0]], [[7.0, 7.0], [7.0, 0.1]], (0.1, 0.2))
    assert (found.passed, found.value) == (True, pytest.approx(0.5, abs=1e-4))


@pytest.mark.parametrize(
    ("bounds", "rounding"),
    [((0.0, 1.0), 1e-6), ((0.0, 0.01), 1e-6), ((0.0, 255.0), 2.55e-4), ((-300.0, 1.0), 3e-4)],
)
def test_the_budget_allows_for_rounding_at_the_size_of_the_inputs(
    budget_of: Callable[..., Finding], bounds: tuple[float, float], rounding: float
) -> None:
    for factor, passed in ((0.5, True), (1.5, False)):
        found = budget_of([[0]], [[1.001e-3 + factor * rounding]], (1e-3,), bounds)
        assert found.passed is passed
    assert found.value == pytest.approx(1.001 + 0.5 * rounding / 1e-3)


@pytest.mark.parametrize(("tied", "passed"), [(0, True), (10, True), (11, False)])
def test_strict_accuracy(bench: Any, tied: int, passed: bool) -> None:
    found = bench.report()
    found.clean("m")["margin"][:tied] = 0.0
    made = {each.name: each for each in audit.findings(found.outcomes)}["strict-accuracy"]
    assert (made.passed, made.value, made.required) == (passed, tied / bench.count, False)
