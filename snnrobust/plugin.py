"""The protocols that plugins implement. The core knows plugins through these alone and never imports one.

A plugin is a frozen dataclass of scalars (and nested plugins): its `repr` identifies it and its fields are its
recorded settings. The strengths at which it is applied belong to the `Task`, not to the plugin.

Optimisers, perturbations, corruptions and measurements may have a hook `check(self, model, data, task)`: it gets the
`SpikingModel`, the `EvaluationData` and the `Task` (its `strengths`, its `attack.norm`), is called before anything long
starts, and raises an `InputError` if the plugin does not fit them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from snnrobust.draws import Draws
    from snnrobust.evaluation_data import EvaluationData
    from snnrobust.model import SpikingModel
    from snnrobust.oracle import Oracle
    from snnrobust.results import Artifact, Record
    from snnrobust.threat import ThreatModel

#: What an optimiser remembers about each sample: tensors [N, ...]; "x" is the iterate to be tried next.
State = dict[str, Tensor]


@runtime_checkable
class Optimiser(Protocol):
    """Searches a threat model for a larger objective; the core owns the loop and removes samples that are done.

    Attributes:
        needs: "gradient", or "loss" for a search that never asks for one.
        steps: Evaluations of the objective that a sample gets.
    """

    needs: ClassVar[Literal["gradient", "loss"]]
    steps: int

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """The state before the first evaluation; `state["x"]` [N, *] must be allowed by `threat`."""

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        """The state after the evaluation of `state["x"]`.

        Args:
            state: Tensors [N, ...] for the samples of this batch alone.
            gradient: Objective gradient at `state["x"]`, [N, *]; None where `needs` is "loss".
            loss: Objective at `state["x"]`, [N].
            x0: Original inputs, [N, *].
            k: Steps that each sample has taken, [N]: the samples of a batch need not be at the same step.
            threat: The threat model, for its `project` and `steepest`.
            rng: Keyed draws.
            index: Sample ids, [N].
        """


@runtime_checkable
class Perturbation(Protocol):
    """An attack that owns its loop."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *] with labels y [N]."""


@runtime_checkable
class Corruption(Protocol):
    """Noise of a given severity on the input."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Corrupted inputs [N, *] for inputs x [N, *]."""


@runtime_checkable
class Measurement(Protocol):
    """A number or picture of a model that is no attack: activity, curvature."""

    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record | Artifact]:
        """Records and artifacts; their model, label and seed columns are filled in by the core."""


@runtime_checkable
class Estimator(Protocol):
    """How a gradient passes a spike."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative of H(u) at u = membrane potential minus threshold, of the shape of `u`.

        Args:
            u: Distance to threshold, any shape.
            state: The node's own dict, kept while the estimator is in place; `state["surrogate"]` is the model's own
                surrogate function.
        """


@runtime_checkable
class Objective(Protocol):
    """What an attack pushes upwards."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Value per sample, [N], for logits [N, K] and labels y [N]; finite wherever the logits are."""


#: Entry point group -> the protocol that its plugins implement.
GROUPS: dict[str, type] = {
    "optimisers": Optimiser,
    "perturbations": Perturbation,
    "corruptions": Corruption,
    "measurements": Measurement,
    "estimators": Estimator,
    "objectives": Objective,
}
