"""Per-sample outcomes of one attack at one strength, and the rule by which one search replaces another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.files import Arrays
from snnrobust.search.attack_context import SearchResult
from snnrobust.threat_models.threat_model import ThreatModel

#: Fields that are not stored with a finished cell.
_RUNNING = ("searches_done", "rank")
_EXAMPLES = {"example_held": "held", "example_x": "x", "example_logits": "logits"}


@dataclass
class KeptExamples:
    """The examples of the first samples.

    Attributes:
        held: Whether there is an example, [n].
        x: The strongest example, [n, *]; zero where there is none.
        logits: Logits at it, [n, K]; NaN where there is none, [n, 0] before the first.
    """

    held: np.ndarray
    x: np.ndarray
    logits: np.ndarray

    @classmethod
    def none_of(cls, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Self:
        """Without any example yet, for `count` inputs of a shape, of a model of type `dtype`."""
        kind = np.float64 if dtype == torch.float64 else np.float32  # holds half precision exactly
        return cls(np.zeros(count, dtype=bool), np.zeros((count, *shape), dtype=kind), np.zeros((count, 0), dtype=kind))

    def put(self, rows: np.ndarray, x: Tensor, logits: Tensor) -> None:
        """Keeps the examples x [n, *] with logits [n, K] of those samples at `rows` [n] that are among the first."""
        wanted = rows < len(self.x)
        if not self.logits.shape[1]:
            self.logits = np.full((len(self.x), logits.shape[1]), np.nan, dtype=self.x.dtype)
        here = torch.from_numpy(wanted)
        kind = torch.from_numpy(self.x).dtype
        self.x[rows[wanted]] = x[here].to(kind).numpy()
        self.logits[rows[wanted]] = logits[here].to(kind).numpy()
        self.held[rows[wanted]] = True

    def without(self, dropped: np.ndarray) -> Self:
        """The same without the examples of some samples, a mask [n]."""
        x, logits = self.x.copy(), self.logits.copy()
        x[dropped], logits[dropped] = 0, np.nan
        return type(self)(self.held & ~dropped, x, logits)

    def arrays(self) -> Arrays:
        """As the store keeps them."""
        return {"held": self.held, "x": self.x, "logits": self.logits}


@dataclass
class AttackOutcomes:
    """Outcomes of one attack, or of an ensemble of M, at one strength, for N samples.

    Attributes:
        correct: 1 where the net withstands the strongest example, 0 where it is broken, -1 where not attempted, [N].
        voted: The same for most scoring draws, [N].
        margin: True logit minus the best other at the strongest example, [N]; NaN where not attempted.
        distance: Its distance from the original, in the attack's norm, [N]; NaN where not attempted.
        last_correct: As `correct`, for last iterates: 0 where any search ended on a broken one, [N].
        unchanged: Whether the last iterate equals the original, [N]; -1 where not attempted.
        forwards: Forward passes, [N].
        backwards: Backward passes, [N].
        disagreements: How often search and scoring disagreed about a success, [N].
        member: Which member made the strongest example, [N]; -1 where not attempted.
        member_correct: As `correct`, for each member alone, [M, N].
        member_forwards: Forward passes of each member, [M, N].
        member_backwards: Backward passes of each member, [M, N].
        searches_done: How many searches each sample has had, [N].
        rank: Rank of the stored search (smaller is stronger), [N].
        undefined: How many searches met a gradient of NaN or infinity, [N]; stored where there are any.
        examples: The examples of the first samples, where they are kept.
    """

    correct: np.ndarray
    voted: np.ndarray
    margin: np.ndarray
    distance: np.ndarray
    last_correct: np.ndarray
    unchanged: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    disagreements: np.ndarray
    member: np.ndarray
    member_correct: np.ndarray
    member_forwards: np.ndarray
    member_backwards: np.ndarray
    searches_done: np.ndarray
    rank: np.ndarray
    undefined: np.ndarray
    examples: KeptExamples | None = None

    @classmethod
    def empty(cls, count: int, members: int, examples: KeptExamples | None = None) -> Self:
        """Outcomes of `count` samples, none of which was attempted."""
        return cls(
            correct=np.full(count, -1, dtype=np.int8),
            voted=np.full(count, -1, dtype=np.int8),
            margin=np.full(count, np.nan, dtype=np.float32),
            distance=np.full(count, np.nan, dtype=np.float32),
            last_correct=np.full(count, -1, dtype=np.int8),
            unchanged=np.full(count, -1, dtype=np.int8),
            forwards=np.zeros(count, dtype=np.int32),
            backwards=np.zeros(count, dtype=np.int32),
            disagreements=np.zeros(count, dtype=np.int32),
            member=np.full(count, -1, dtype=np.int16),
            member_correct=np.full((members, count), -1, dtype=np.int8),
            member_forwards=np.zeros((members, count), dtype=np.int32),
            member_backwards=np.zeros((members, count), dtype=np.int32),
            searches_done=np.zeros(count, dtype=np.int32),
            rank=np.full(count, np.inf, dtype=np.float32),
            undefined=np.zeros(count, dtype=np.int32),
            examples=examples,
        )

    @classmethod
    def from_partial(cls, arrays: Arrays) -> Self:
        """Restores the result of `partial`."""
        kept = {name: value for name, value in arrays.items() if name not in _EXAMPLES}
        examples = None
        if "example_x" in arrays:
            examples = KeptExamples(**{name: arrays[key] for key, name in _EXAMPLES.items()})
        return cls(**kept, examples=examples)

    def partial(self) -> Arrays:
        """All fields as arrays, for resuming."""
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "examples"}
        if self.examples is not None:
            kept |= {key: getattr(self.examples, name) for key, name in _EXAMPLES.items()}
        return kept

    def finished(self) -> Arrays:
        """What is kept of a finished cell; its examples are kept apart."""
        left_out = {*_RUNNING, *_EXAMPLES, *(() if self.undefined.any() else ("undefined",))}
        return {name: value for name, value in self.partial().items() if name not in left_out}

    def take_over(self, cell: Arrays) -> None:
        """Takes over the finished outcomes [N] of an equal attack, of the samples that it attempted."""
        done = cell["correct"] >= 0
        for name, value in cell.items():
            getattr(self, name)[..., done] = value[..., done]
        self.rank[done] = -np.inf  # nothing that follows replaces them

    @property
    def kept_examples(self) -> Arrays | None:
        """The kept examples as the store keeps them; None where none are kept."""
        return None if self.examples is None else self.examples.arrays()

    def merge(
        self,
        found: SearchResult,
        originals: Tensor,
        threat: ThreatModel,
        *,
        member: int,
        search_number: int,
        stochastic: bool,
    ) -> None:
        """Takes over what a search found, where it is stronger than the searches before.

        Args:
            found: Of n samples.
            originals: Their inputs, [n, *].
            threat: What distances are measured in.
            member: The member whose search it was.
            search_number: The number of the search, from 0.
            stochastic: Whether the net is stochastic.
        """
        rows = found.rows.numpy()
        correct, rank = found.withstands.numpy(), found.rank.float().numpy()
        chosen = replaces(self.correct[rows], self.rank[rows], correct, rank, stochastic=stochastic)
        at = rows[chosen]
        self.correct[at] = correct[chosen]
        self.voted[at] = found.voted.numpy()[chosen]
        self.margin[at] = found.margin.float().numpy()[chosen]
        self.distance[at] = threat.distance(found.x, originals).float().numpy()[chosen]
        self.unchanged[at] = found.unchanged.numpy()[chosen]
        self.member[at] = member
        self.rank[at] = rank[chosen]
        if self.examples is not None:
            here = torch.from_numpy(chosen)
            self.examples.put(at, found.x[here], found.logits[here])
        self.last_correct[rows] = worst_of(self.last_correct[rows], found.last_withstands.numpy())
        self.member_correct[member][rows] = worst_of(self.member_correct[member][rows], correct)
        for total, alone, spent in (
            (self.forwards, self.member_forwards, found.forwards),
            (self.backwards, self.member_backwards, found.backwards),
        ):
            total[rows] += spent.numpy().astype(np.int32)
            alone[member][rows] += spent.numpy().astype(np.int32)
        self.disagreements[rows] += found.disagreements.numpy().astype(np.int32)
        self.undefined[rows] += found.undefined.numpy().astype(np.int32)
        self.searches_done[rows] = search_number + 1


def replaces(
    held: np.ndarray, held_rank: np.ndarray, correct: np.ndarray, rank: np.ndarray, *, stochastic: bool
) -> np.ndarray:
    """Whether a search's outcome replaces the stored one, [n].

    The first outcome is always stored; later the smaller rank wins. For a deterministic net a confirmed success always
    replaces a failure, and only a stronger success replaces a success.

    Args:
        held: The stored outcome: 1 withstands, 0 broken, -1 nothing stored, [n].
        held_rank: Its rank, [n].
        correct: Whether the net withstands what the search found, [n].
        rank: Its rank (smaller is stronger), [n].
        stochastic: Whether the net is stochastic: then the rank alone decides, since results on the scoring draws must
            not decide between searches.
    """
    nothing_held, broken = held < 0, held == 0
    stronger: np.ndarray = nothing_held | (rank < held_rank)
    if stochastic:
        return stronger
    newly_broken, undone = ~correct & ~broken, correct & broken
    chosen: np.ndarray = newly_broken | (stronger & ~undone)
    return chosen


def worst_of(held: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Element-wise minimum, where -1 in `held` counts as missing, [n]."""
    worst: np.ndarray = np.where(held < 0, found, np.minimum(held, found))
    return worst


def at_smaller_radius(arrays: Arrays, epsilon: float) -> Arrays:
    """Outcomes at `epsilon` of a minimum-norm attack that was run at a larger radius: an example counts at every radius
    from its distance on."""
    derived = {name: value.copy() for name, value in arrays.items()}
    lost = (arrays["correct"] == 0) & beyond(arrays, epsilon)
    for name in ("correct", "voted", "last_correct", "member_correct"):
        derived[name][..., lost] = 1
    derived["margin"][lost] = np.nan
    for name in ("forwards", "backwards", "member_forwards", "member_backwards"):
        derived[name][:] = 0  # all of it was spent at the largest radius
    return derived


def beyond(arrays: Arrays, epsilon: float) -> np.ndarray:
    """Of which samples of a cell the example is further away than `epsilon`, [N]; also where there is none."""
    far: np.ndarray = ~(arrays["distance"] <= epsilon * (1 + 1e-6))
    return far
