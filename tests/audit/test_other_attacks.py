"""Findings that compare an attack with other estimators, black-box attacks, transfer attacks and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("other", "passed", "verdict"),
    [(0.5, True, "trusted"), (0.48, True, "trusted"), (0.479, False, "untrustworthy"), (0.6, True, "trusted")],
)
def test_surrogate_gap(bench: Any, other: float, passed: bool, verdict: str) -> None:
    bench.set_member("atan", other)
    bench.check("surrogate-gap", passed, 0.5 - other, verdict)


def test_the_own_estimator_can_fail_the_finding_but_not_pass_it(make_bench: Any, plain: Any, ensemble: Any) -> None:
    bench = make_bench()
    bench.set_member("own", 0.1)
    assert bench.finding("surrogate-gap").passed is False
    bench = make_bench(plain("pgd", 0.5), plain("again", 0.5))
    bench.evidence = "basic"
    assert bench.finding("surrogate-gap").passed is None
    bench = make_bench(ensemble("all", ("own", "Own()", 0.5), ("atan", "ATan()", 0.5)))
    bench.set_member("own", 0.1)
    assert bench.finding("surrogate-gap", "all").passed is False


def test_the_users_own_attacks_are_compared_too(make_bench: Any, plain: Any) -> None:
    bench = make_bench(plain("pgd", 0.5), plain("other", 0.4, factors={"gradient": "ATan()"}))
    assert bench.finding("surrogate-gap").value == pytest.approx(0.1)
    assert "other" in bench.finding("surrogate-gap").why


@pytest.mark.parametrize("differs", [{"norm": "l2"}, {"radii": (0.2,)}])
def test_attacks_of_another_norm_or_radius_are_not_compared(
    make_bench: Any, plain: Any, differs: dict[str, Any]
) -> None:
    radii = differs.pop("radii", (0.1,))
    bench = make_bench(plain("pgd", 0.5), plain("other", 0.1, radii=radii, factors={"gradient": "ATan()"} | differs))
    assert bench.finding("surrogate-gap").passed is True


def test_an_attack_that_ended_at_the_very_same_margins_is_no_other_estimator(make_bench: Any, plain: Any) -> None:
    """Equal margins mean the same surrogate under another name; one other margin means another estimator."""

    def finding(at: int) -> Any:
        def level(cell: dict[str, Any]) -> None:
            cell["margin"] = np.where(cell["correct"] == 1, 0.5, -0.5)
            cell["margin"][at:] += 0.1

        accelerated = plain("accelerated", 0.5, factors={"gradient": "ATan()"}, modify=level)
        own = plain("pgd", 0.5, modify=lambda c: c.update(margin=np.where(c["correct"] == 1, 0.5, -0.5)))
        bench = make_bench(own, accelerated)
        bench.evidence = "basic"
        return bench.finding("surrogate-gap")

    assert finding(at=1000).passed is None  # of all 1000 samples
    assert finding(at=999).passed is True


def test_a_gap_that_is_not_significant_is_missing_evidence(bench: Any) -> None:
    """Eight samples more and three less: .5 points above the threshold of 0, but p = .11."""
    square = np.arange(bench.count) < 500
    square[:8], square[500:503] = False, True
    bench.set_member("square", square)
    made = bench.finding("black-box-not-stronger")
    assert (made.passed, made.value) == (None, 0.005)
    assert "more samples" in made.remedy
    assert bench.report().verdict == "doubtful"
    square[500:503] = False  # p = 2^-8
    assert bench.finding("black-box-not-stronger").passed is False


@pytest.mark.parametrize(
    ("square", "passed", "verdict"), [(0.5, True, "trusted"), (0.7, True, "trusted"), (0.49, False, "untrustworthy")]
)
def test_black_box(bench: Any, square: float, passed: bool, verdict: str) -> None:
    bench.set_member("square", square)
    bench.check("black-box-not-stronger", passed, 0.5 - square, verdict)


def test_an_ensembles_own_black_box_is_compared_with_its_gradients(make_bench: Any, ensemble: Any) -> None:
    """The ensemble as a whole is as strong as the black-box attack, but its gradient attacks are weaker."""
    members = [("own", "Own()", 0.5), ("square", None, 0.5)]
    bench = make_bench(ensemble("all", *members))
    assert bench.finding("black-box-not-stronger", "all").passed is True
    bench.evidence_tasks["steps-100"].attack.robust = [[0.6, 0.5]]
    made = bench.finding("black-box-not-stronger", "all")
    assert made.passed is False
    assert made.value == pytest.approx(0.1)


def test_a_black_box_attack_is_compared_with_the_best_of_the_other_gradient_attacks(
    make_bench: Any, plain: Any
) -> None:
    radii = (0.1, 0.2)
    gradients = [plain("a", 0.5, 0.4, radii=radii), plain("b", 0.6, 0.1, radii=radii)]

    def found(small: float, large: float) -> list[bool | None]:
        first = plain("first", small, large, radii=radii, uses_gradients=False)
        bench = make_bench(first, *gradients)
        bench.evidence = "basic"
        other = plain("other", 0.55, 0.3, radii=radii, uses_gradients=False)
        bench.attacks.append(other)
        return [bench.finding("black-box-not-stronger", "other", radius).passed for radius in radii]

    assert found(0.5, 0.1) == [True, True]
    assert found(0.49, 0.1) == [False, True]  # a is the strongest at the small radius
    assert found(0.5, 0.09) == [True, False]  # and b at the large one


@pytest.mark.parametrize(("other", "passed"), [(0.5, True), (0.6, True), (0.49, False)])
def test_transfer(bench: Any, plain: Any, other: float, passed: bool) -> None:
    assert not [each for each in bench.report().findings if each.name == "transfer-not-stronger"]
    bench.add_evidence("transfer", "linf", plain("linf/transfer b", other, factors={"source": "b"}))
    verdict = "trusted" if passed else "untrustworthy"
    bench.check("transfer-not-stronger", passed, 0.5 - other, verdict)


def test_another_models_gradients_are_no_gradients_of_this_one(make_bench: Any, plain: Any) -> None:
    """A transfer attack uses gradients of another net: it counts neither as an estimator nor as a black-box attack."""
    bench = make_bench(plain("pgd", 0.5), plain("from b", 0.1, factors={"source": "b", "gradient": "ATan()"}))
    assert bench.finding("surrogate-gap").passed is True
    assert bench.finding("black-box-not-stronger").passed is True
    assert bench.finding("transfer-not-stronger").passed is False


@pytest.mark.parametrize(("noise", "passed"), [(0.5, True), (0.9, True), (0.49, False), (0.0, False)])
def test_noise(bench: Any, noise: float, passed: bool) -> None:
    bench.noise = (np.arange(bench.count) < noise * bench.count).astype(np.float32)
    bench.check("noise-not-stronger", passed, 0.5 - noise, "trusted" if passed else "untrustworthy")


def test_noise_of_equal_strength_is_no_alarm(make_bench: Any, plain: Any) -> None:
    """Shares over draws are kept in float32, in which .9 is less than .9."""
    bench = make_bench(plain("pgd", 0.9))
    bench.noise = np.full(bench.count, 0.9, dtype=np.float32)
    assert bench.finding("noise-not-stronger").passed is True


def test_noise_is_not_credited_for_samples_that_are_wrong_when_clean(make_bench: Any, plain: Any) -> None:
    """Samples that are wrong when clean count as broken under noise, too."""
    bench = make_bench(plain("pgd", 0.5))
    bench.clean["m"] = np.arange(bench.count) < 500
    for kind in ("steps-50", "steps-100"):
        bench.variant(kind, 0.5)
    bench.noise = np.where(np.arange(bench.count) < 500, 0.8, 0.5).astype(np.float32)
    made = bench.finding("noise-not-stronger")
    assert made.passed is False
    assert made.value == pytest.approx(0.1)
