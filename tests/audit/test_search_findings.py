"""Findings about a search itself: steps, radii, order, draws, what it moved, and how it was scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnrobust import audit


@pytest.mark.parametrize(
    ("changed", "passed", "verdict"), [(0, True, "trusted"), (1, False, "untrustworthy"), (500, False, "untrustworthy")]
)
def test_epsilon_zero(bench: Any, changed: int, passed: bool, verdict: str) -> None:
    bench.variant("epsilon-zero", 1 - changed / bench.count)
    bench.check("epsilon-zero", passed, changed / bench.count, verdict)


def test_epsilon_zero_among_the_users_radii_needs_no_exhibit(make_bench: Any, plain: Any) -> None:
    for standing, passed in ((1.0, True), (0.999, False)):
        bench = make_bench(plain("pgd", standing, 0.5, radii=(0.0, 0.1)), radii=(0.1,))
        bench.evidence = "basic"
        assert bench.finding("epsilon-zero").passed is passed


@pytest.mark.parametrize(
    ("few", "many", "passed"),
    [(0.5, 0.5, True), (0.51, 0.5, True), (0.511, 0.5, False), (0.5, 0.511, False), (0.5, 0.51, True)],
)
def test_steps_converged(make_bench: Any, plain: Any, few: float, many: float, passed: bool) -> None:
    bench = make_bench(plain("pgd", few))
    bench.rival("own", few)
    bench.rival("atan", few)
    bench.variant("steps-50", few)
    bench.variant("steps-100", many)
    verdict = "trusted" if passed else "doubtful"
    bench.check("steps-converged", passed, abs(few - many), verdict)


def test_a_claim_from_too_few_steps_is_not_excused_by_variants_that_agree(make_bench: Any, plain: Any) -> None:
    """The number that is claimed stands 1.5 points above what both its variants say."""
    bench = make_bench(plain("pgd", 0.515))
    bench.rival("square", 0.6)
    made = bench.finding("steps-converged")
    assert made.passed is False
    assert made.value == pytest.approx(0.015)


@pytest.mark.parametrize(("lapses", "passed"), [(0, True), (10, True), (11, False)])
def test_monotone(make_bench: Any, lapses: int, passed: bool) -> None:
    """Samples broken at the small radius that stand at the large one."""
    radii = (0.1, 0.2)
    bench = make_bench(radii=radii)
    small = bench.stand(0.5)
    large = small.copy()
    large[600 : 600 + lapses], large[:lapses] = True, False  # as many stand as before
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, small, large)
    found = bench.report()
    assert bench.finding_in(found, "monotone", strength=0.1).passed is True
    assert bench.finding_in(found, "monotone", strength=0.2).passed is passed
    assert bench.finding_in(found, "monotone", strength=0.2).value == pytest.approx(lapses / bench.count)
    assert bench.claim_in(found, strength=0.1).verdict == "trusted"
    assert bench.claim_in(found, strength=0.2).verdict == ("trusted" if passed else "doubtful")


def test_monotone_up_to_the_full_range(bench: Any) -> None:
    """What breaks at the radius and stands when every input is allowed was missed there."""
    kept = np.zeros(bench.count, dtype=bool)
    kept[bench.rows[: bench.few]] = True
    bench.variant("full-range", kept)
    broken = int((~bench.stand(0.5)[bench.rows[: bench.few]]).sum())
    assert bench.finding("monotone").value == broken / bench.count
    assert bench.finding("monotone").passed is False


@pytest.mark.parametrize(("kept", "passed"), [(0, True), (1, False)])
def test_full_range(bench: Any, kept: int, passed: bool) -> None:
    bench.swapped[:kept] = 1
    bench.check("full-range", passed, kept / bench.count, "trusted" if passed else "untrustworthy")


def test_full_range_without_another_class_to_show_is_missing(bench: Any) -> None:
    bench.swapped[:] = -1
    assert bench.finding("full-range").passed is None


@pytest.mark.parametrize(("kept", "passed"), [(0, True), (2, True), (3, False)])
def test_full_range_attack(bench: Any, kept: int, passed: bool) -> None:
    standing = np.zeros(bench.count, dtype=bool)
    standing[[row for row in bench.rows[: bench.few] if row < 500][:kept]] = True  # among those that stand anyway
    bench.variant("full-range", standing)
    bench.check("full-range-attack", passed, kept / bench.few, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("differ", "passed"), [(0, True), (1, False)])
def test_attack_order(bench: Any, differ: int, passed: bool) -> None:
    other = bench.stand(0.5)
    other[bench.rows[:differ]] ^= True
    bench.variant("reversed", other)
    bench.check("attack-order", passed, differ / bench.few, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("more", "passed"), [(0, True), (50, True), (51, False)])
def test_last_iterate(bench: Any, more: int, passed: bool) -> None:
    """A remark: any-iterate robust accuracy, which is what is claimed, does not suffer from it."""
    last = (bench.stand(0.5) | (np.arange(bench.count) >= bench.count - more)).astype(np.int8)[bench.rows]
    bench.shown["steps-50"].attack.doctor = lambda cell: cell.update(last_correct=last)
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
        (11, True, False, "trusted"),  # it leaves alone what it can't break
        (10, False, True, "doubtful"),
        (11, False, False, "doubtful"),
        (999, False, False, "doubtful"),
        (1000, False, False, "untrustworthy"),
    ],
)
def test_attack_moves(make_bench: Any, plain: Any, unchanged: int, broken: bool, passed: bool, verdict: str) -> None:
    def doctor(cell: dict[str, Any]) -> None:
        cell["unchanged"][:unchanged] = 1

    bench = make_bench(plain("pgd", 0.5 if broken else 1.0, doctor=doctor))
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
    bench = make_bench(plain("pgd", 0.5, doctor=lambda cell: cell["disagreements"].__setitem__(slice(share), 3)))
    bench.check("rescoring", passed, share / bench.count, "trusted" if passed else "doubtful")


@pytest.mark.parametrize(("ratio", "passed"), [(0.5, True), (1.0, True), (1.0009, True), (1.002, False)])
def test_budget(make_bench: Any, plain: Any, ratio: float, passed: bool) -> None:
    def doctor(cell: dict[str, Any]) -> None:
        cell["distance"][cell["correct"] == 0] = 0.04
        cell["distance"][-1] = 0.1 * ratio  # a single broken one
        cell["distance"][0] = 7.0  # counts for nothing: it stands

    bench = make_bench(plain("pgd", 0.5, doctor=doctor))
    bench.check("budget", passed, ratio, "trusted" if passed else "untrustworthy")


@pytest.mark.parametrize(("tied", "passed"), [(0, True), (10, True), (11, False)])
def test_strict_accuracy(bench: Any, tied: int, passed: bool) -> None:
    found = bench.report()
    found.clean("m")["margin"][:tied] = 0.0
    made = {each.name: each for each in audit.findings(found.outcomes)}["strict-accuracy"]
    assert (made.passed, made.value, made.required) == (passed, tied / bench.count, False)
