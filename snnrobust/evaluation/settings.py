"""The settings of an evaluation: what applies to all its models and tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from snnrobust.common.validate import check_count
from snnrobust.errors import InputError
from snnrobust.evaluation.memory import check_budget

Mode = Literal["nested", "exhaustive", "bisect"]
EvidenceLevel = Literal["none", "basic", "full"]
#: Fresh draws that a stochastic model is scored on.
SCORING_DRAWS = 50


@dataclass(frozen=True)
class Effort:
    """How much of a search is done.

    Attributes:
        stop: Whether a sample leaves a search at its first success.
        cascade: Whether a sample that one member of an ensemble broke is not attacked by later members.
        carry: Whether a sample that broke at one radius is not attacked at larger radii.
        compare_black_box: Whether the gradient members of an ensemble can be compared with its black-box members:
            gradient members attack what a black-box member broke, and black-box members as many samples that gradient
            members broke as it takes.
    """

    stop: bool
    cascade: bool
    carry: bool
    compare_black_box: bool = False


NESTED = Effort(stop=True, cascade=True, carry=True)
EXHAUSTIVE = Effort(stop=False, cascade=False, carry=False)
#: Every member alone, at every radius by itself.
FACTORIAL = Effort(stop=True, cascade=False, carry=False)
#: An ensemble as a whole, at every radius by itself.
EACH_RADIUS = Effort(stop=True, cascade=True, carry=False)
#: As EACH_RADIUS, with what a comparison of gradient and black-box members needs.
COMPARED = replace(EACH_RADIUS, compare_black_box=True)
#: As EACH_RADIUS, with the last iterates of full-length searches: a sample is done when one of them is broken.
LAST_ITERATES = Effort(stop=False, cascade=True, carry=False)


@dataclass(frozen=True)
class EvaluationSettings:
    """What applies to all models and tasks of an evaluation; see `snnrobust.evaluate` for their meaning.

    Attributes:
        seed: Seed of all keyed random numbers.
        mode: How the radii of an attack depend on each other.
        evidence: What the audit gets beside the numbers.
        batch_size: Samples that are active at once; None: as many as memory allows.
        memory_budget: GiB that may be used, where `batch_size` is None; None: half of what is free.
        processes: Processes that share the memory.
        examples: How many samples' adversarial examples are kept of each attack, from the first on.
        notes: Remarks for the report's page.
        scoring_draws: Fresh draws that a stochastic model is scored on.

    Raises:
        InputError: For a value out of range.
        InputTypeError: For a value of a wrong type.
    """

    seed: int = 0
    mode: Mode = "nested"
    evidence: EvidenceLevel = "basic"
    batch_size: int | None = None
    memory_budget: float | None = None
    processes: int = 1
    examples: int = 0
    notes: tuple[str, ...] = ()
    scoring_draws: int = SCORING_DRAWS

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, get_args(Mode)),
            ("evidence", self.evidence, get_args(EvidenceLevel)),
        ):
            if value not in known:
                raise InputError(f"expected {name} in {list(known)}, got {value!r}; name one of these")
        check_count("seed", self.seed, 0, "give a whole number")
        check_count("examples", self.examples, 0, "give the number of samples whose examples are kept")
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size, 1, "leave it out")
        check_budget(self.memory_budget, self.batch_size)

    @property
    def effort(self) -> Effort:
        """How much of each search is done for the user's own tasks."""
        return EXHAUSTIVE if self.mode == "exhaustive" else NESTED
