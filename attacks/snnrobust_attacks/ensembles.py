"""Ensembles of attacks under one threat model; docs/ensembles.md explains how the members were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from snnrobust.plugin.usual_attacks import black_box_attack, gradient_attack
from snnrobust.threat_models.threat_model import Norm

MemberArguments = Mapping[str, Any]

#: The estimators of `exhaustive` with their sharpness or width; those without parameters use the defaults.
ESTIMATORS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("own", {}),
    *(("atan", {"alpha": alpha}) for alpha in (1.0, 2.0, 4.0, 8.0)),
    *(("sigmoid", {"alpha": alpha}) for alpha in (2.0, 4.0)),
    *(("triangle", {"gamma": gamma}) for gamma in (0.25, 0.5, 1.0, 2.0, 3.0)),
    *(("exponential", {"gamma": gamma}) for gamma in (0.5, 1.0, 2.0)),
    *(("rectangle", {"gamma": gamma}) for gamma in (0.25, 0.5, 1.0, 2.0, 4.0)),
    *(("fast-sigmoid", {"alpha": alpha}) for alpha in (4.0, 8.0, 16.0)),
    ("straight-through", {}),
    ("assg", {}),
    ("pdsg", {}),
    ("pdsg-sample", {}),
    ("rga", {}),
    ("bptr", {}),
    ("rate-relu", {}),
    *(("hart", {"gamma": gamma}) for gamma in (0.5, 1.0, 2.0)),
    ("hart-mix", {}),
    ("relaxation", {}),
)


def _member(name: str, estimator: str, objective: str, **more: Any) -> MemberArguments:
    """Arguments of `load`; the label holds the optimiser, the estimator with its parameters, and the objective."""
    parameters = {key: value for key, value in more.items() if key in ("alpha", "gamma")}
    plugin = {key: value for key, value in more.items() if key not in parameters}
    tag = "".join(f" {value:g}" for value in parameters.values())
    return {
        "name": name,
        "label": f"{name} {estimator}{tag} {objective}",
        "gradient": {"name": estimator, **parameters},
        "objective": objective,
        **plugin,
    }


def _without_gradients(norm: Norm, steps: int) -> list[MemberArguments]:
    """A black-box search: Square where it is defined, else random search."""
    name = black_box_attack(norm)
    return [{"name": name, "label": f"{name} margin", "objective": "margin", "steps": steps}]


def _fewest_changes(norm: Norm, steps: int) -> list[MemberArguments]:
    """Under L0, the search that starts outside of the budget, led by two gradients; its steps have two passes."""
    if norm != "l0":
        return []
    steps = max(1, steps // 2)
    return [
        _member("fewest-flips", "fast-sigmoid", "margin", alpha=8.0, steps=steps),
        _member("fewest-flips", "own", "margin", steps=steps),
    ]


def _optimisers(norm: Norm) -> tuple[str, str]:
    """The two optimisers of a norm: APGD, and SA-PGD where it is defined, else PGD; where spikes are counted or moved,
    the one that is defined there."""
    usual = gradient_attack(norm, "binary")
    if usual != "pgd":
        return usual, usual
    return "apgd", "sa-pgd" if norm == "linf" else "pgd"


@dataclass(frozen=True)
class Fast:
    """Three short searches for a first estimate; not for reporting.

    Attributes:
        steps: Steps of each.
    """

    steps: int = 30
    quotable: ClassVar[bool] = False

    def members(self, norm: Norm) -> Sequence[MemberArguments]:
        """Two searches with a heavy-tailed surrogate, one with the model's own."""
        first, second = _optimisers(norm)
        return [
            _member(first, "fast-sigmoid", "margin", alpha=8.0, steps=self.steps),
            _member(second, "fast-sigmoid", "cross_entropy", alpha=8.0, steps=self.steps),
            _member(first, "own", "cross_entropy", steps=self.steps),
        ]


@dataclass(frozen=True)
class Standard:
    """The ensemble whose robust accuracy to report.

    Attributes:
        steps: Steps of each gradient-based search.
        queries: Steps of the black-box search; each search for the fewest changes under L0 takes half as many steps.
    """

    steps: int = 100
    queries: int = 2000

    def members(self, norm: Norm) -> Sequence[MemberArguments]:
        """The strongest first: later members attack only the samples that are still robust."""
        first, second = _optimisers(norm)
        if first != "apgd":
            return [
                _member(first, "fast-sigmoid", "margin", alpha=8.0, steps=self.steps),
                *_fewest_changes(norm, self.queries),
                _member(first, "own", "cross_entropy", steps=self.steps),
                _member(first, "assg", "margin", steps=self.steps),
                *_without_gradients(norm, self.queries),
            ]
        return [
            _member("apgd", "fast-sigmoid", "margin", alpha=8.0, steps=self.steps),
            _member(second, "fast-sigmoid", "margin", alpha=8.0, steps=self.steps),
            _member(second, "assg", "margin", steps=self.steps),
            _member("apgd", "own", "cross_entropy", steps=self.steps),
            _member("apgd", "fast-sigmoid", "cross_entropy", alpha=16.0, steps=self.steps),
            _member(second, "atan", "cross_entropy", alpha=4.0, steps=self.steps),
            _member("apgd", "fast-sigmoid", "targeted-dlr", alpha=8.0, steps=self.steps, restarts=3),
            *_without_gradients(norm, self.queries),
        ]


@dataclass(frozen=True)
class Exhaustive:
    """All estimators with both optimisers and two objectives, and the black-box search: a reference.

    Attributes:
        steps: Steps of each gradient-based search.
        queries: Steps of the black-box search.
    """

    steps: int = 100
    queries: int = 5000
    quotable: ClassVar[bool] = False

    def members(self, norm: Norm) -> Sequence[MemberArguments]:
        """Every combination."""
        optimisers = dict.fromkeys(_optimisers(norm))
        return [
            *(
                _member(optimiser, estimator, objective, steps=self.steps, **parameters)
                for estimator, parameters in ESTIMATORS
                for optimiser in optimisers
                for objective in ("cross_entropy", "margin")
            ),
            *_without_gradients(norm, self.queries),
        ]


@dataclass(frozen=True)
class Union:
    """An ensemble of the user's own members only: `load("union", epsilon=..., adaptive=[...])`."""

    def members(self, norm: Norm) -> Sequence[MemberArguments]:
        """No members besides the user's."""
        return []
