"""The protocols that plugins implement. The core uses plugins through these only and never imports one.

A plugin is a frozen dataclass of scalars (and nested plugins): its `repr` identifies it and its fields are its
recorded settings. The strengths at which it is applied belong to the `Task`, not to the plugin.

Optimisers, perturbations, corruptions and measurements may have a hook `check(self, model, data, task)`: it gets the
`SpikingModel`, the `EvaluationData` and the `Task` (its `strengths`, its `attack.norm`), is called before any long
computation, and raises an `InputError` if the plugin does not fit them.

Fields that hold paths of files are named by a class attribute, `paths: ClassVar[tuple[str, ...]] = ("checkpoint",)`:
those in a config file then start at its folder. Leave them out of the `repr` and show a digest of the content
instead, so that a run does not depend on where its files are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.artifacts import Artifact
from snnrobust.results.records import Record
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel

#: The state of an optimiser for each sample: tensors [N, ...]; "x" is the next iterate.
State = dict[str, Tensor]


@runtime_checkable
class Optimiser(Protocol):
    """Searches a threat model for a larger objective; the core owns the loop and removes samples that are done.

    Padded sequences come without their padding, those of one length in one call.

    A class attribute `norms` names the norms it is defined for, and with it the limits beside them; without one these
    are L-inf, L2, L1 and L0, without limits. `event_lists = True` says that it takes event lists [N, E, 5]. So for a
    `Perturbation`.

    Attributes:
        needs: "gradient" for a gradient-based attack, "loss" for a black-box attack.
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
            k: Steps that each sample has taken, [N]; they differ within a batch.
            threat: The threat model, for its `project` and `steepest`.
            rng: Keyed draws.
            index: Sample ids, [N].
        """


class Queries(Protocol):
    """The model queries of an attack with its own loop; all of them are counted.

    For a stochastic model each result is a mean over draws, with new draws at each `query`.
    """

    @property
    def static(self) -> bool:
        """Whether inputs have no time axis."""

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] at x, without a gradient."""

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x."""

    def encoded_gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Static inputs x [N, *] as the encoder makes them sequences, and the objective's gradient, [N, T, *] each.

        `gradient` sums the latter over time where the encoder passes gradients straight through. Of a stochastic
        encoder it is one draw, the first of `query`.
        """

    def as_module(self, index: Tensor) -> nn.Module:
        """A stateless module from inputs scaled to [0, 1] to logits, for third-party attacks on the samples `index`."""


@runtime_checkable
class Perturbation(Protocol):
    """An attack with its own loop. Padded sequences come without their padding, those of one length in one call.

    Two attributes say how its searches at different radii relate; both are False where they are missing.
    `minimum_norm`: it looks for the closest example, so one search at the largest radius serves all. `bisectable`: it
    takes `steps` steps at each radius and is as thorough at all of them, so a sample that withstands it at one is taken
    to withstand it at smaller ones (`mode="bisect"`). A minimum-norm attack with a field `enough`, the distance at
    which the search of a sample ends, is run once for all radii of an ensemble, too; there it ends at the smallest.
    """

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *] with labels y [N]."""


@runtime_checkable
class Fitted(Protocol):
    """A perturbation that is fitted once, on held-out samples, and then put on every test sample.

    At each radius and restart the core calls `fit` with the validation samples alone, and then `perturb` with what it
    returned. What is fitted is not kept: a resumed run fits again, so `fit` must be deterministic.
    """

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        """What is fitted: tensors of any shape, for all samples together.

        Args:
            oracle: Queries about allowed inputs around these samples; any other input is refused. They are counted
                apart from those of test samples.
            x: Validation samples [N, *]. Padding of sequences is zero up to the end of the longest; queries keep it.
            y: Their labels [N].
            threat: The threat model.
            rng: Keyed draws.
            index: Ids of the samples, [N].
        """

    def perturb(
        self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, fitted: State
    ) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *], as in `Perturbation`, with what `fit` returned."""


@runtime_checkable
class Corruption(Protocol):
    """Noise of a given severity on the input; severity 0 does not change it.

    Padded sequences come without their padding, those of one length in one call.
    One without random numbers (contrast, blur) sets `deterministic: ClassVar[bool] = True`, one that may return another
    number of steps `changes_steps: ClassVar[bool] = True`. A context manager `on(self, model, severity, rng, index)`
    adds noise inside the net for one forward pass of the samples `index`; `apply` then returns x.
    """

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Corrupted inputs [N, *] for inputs x [N, *]."""


@runtime_checkable
class Measurement(Protocol):
    """A measurement of a model other than an attack: activity, curvature.

    A long one may have a class attribute `resumable: ClassVar[bool] = True`. Its `measure` then takes a fourth
    argument, a `snnrobust.plugin.MeasurementCheckpoint`: its contents are available when a killed run is resumed.
    Its records and artifacts must be the same, to the last byte, as without an interruption.
    """

    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record | Artifact]:
        """Records and artifacts; their model, label and seed columns are filled in by the core."""


@runtime_checkable
class Estimator(Protocol):
    """A surrogate gradient: the derivative at each comparison with the threshold."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative of H(u) at u = membrane potential minus threshold, of the shape of `u`.

        Args:
            u: Distance to threshold, [N, *] or [T, N, *]: the shape of the node's comparison.
            state: A dict of the node, free for use; these entries are set before each call. "surrogate": the model's
                own surrogate function. "layer": the node's name; "layers": the names of all nodes that have an
                estimator, in the net's order. "calls": the distances u of the node's comparisons since the forward pass
                began, in order; "call": which of them this one is, "axis": the axis of u that counts samples, 0 or 1,
                None for any other shape. "memory": a dict of tensors, with as many samples
                along "axis" as u, that is kept for each sample and call from one iterate to the next. It is empty at
                first, and zero for a sample that joins the batch: store values whose start is zero.
                "frozen": whether this is a further draw at the same iterate; "memory" is then not kept.
        """


@runtime_checkable
class Pointwise(Protocol):
    """An `Estimator` that is a function of u alone, the same at each neuron, step and sample: fast kernels may use it
    instead of `backward`."""

    @property
    def derivative(self) -> Callable[[Tensor], Tensor]:
        """The estimated derivative at u; best a `snnrobust.kernels.derivative.Derivative`, which has native code.

        Any other callable must be equal, with an equal hash, on each access: code is compiled for each different one.
        """


@runtime_checkable
class NodeEstimator(Protocol):
    """The gradient of a whole node (or any other module), with the node's own output values.

    May also have `backward`, the derivative at the node's comparisons.
    """

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The output of `node` for its input x, with the estimator's gradient; [T, N, *] each for a node."""


class NodeRun(Protocol):
    """The node that a `NodeEstimator` replaces.

    Attributes:
        name: Qualified name in the net.
        leak: The share k of the membrane potential that a step keeps, in u[t] = k v[t-1] + gain x[t], without
            lateral input from the node's own spikes.
        gain: What the input is multiplied by.
        threshold: Membrane potential at which it fires.

    The last three raise an `InputError` for a node with another equation.
    """

    name: str

    @property
    def leak(self) -> float: ...
    @property
    def gain(self) -> float: ...
    @property
    def threshold(self) -> float: ...

    def forward(self, x: Tensor) -> Tensor:
        """The node's own forward pass."""

    def step(self, x: Tensor) -> Tensor:
        """One time step [N, *] of a spiking node."""

    def detach(self) -> None:
        """Detaches the node's state from the graph."""


@runtime_checkable
class Relaxation(Protocol):
    """A smooth net in place of the spiking one: only its gradient is used, not its outputs."""

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The replacement of the spike H(u), differentiable and of the shape of u; `state` as in `Estimator`."""


@runtime_checkable
class Mixture(Protocol):
    """The mean of the input gradients of several estimators."""

    @property
    def parts(self) -> Sequence[AnyEstimator]:
        """The estimators."""


@runtime_checkable
class PerModule(Protocol):
    """Different estimators at different modules of the net; nodes that are not named keep their own surrogate."""

    @property
    def modules(self) -> Mapping[str, AnyEstimator]:
        """Qualified module name -> estimator. A module that is not a spiking node needs a `NodeEstimator`."""


AnyEstimator = Estimator | NodeEstimator | Relaxation | Mixture | PerModule

#: What an objective is a function of: the logits [N, K]; the output at each step [N, T, K]; or the output layer's
#: distance to threshold (membrane potential minus threshold), or its input current, at each step, [N, T, K].
View = Literal["logits", "outputs", "membrane", "current"]


@runtime_checkable
class Objective(Protocol):
    """What an attack maximises.

    Two class attributes may be set. `of` is the input of the objective, "logits" by default. Where the
    output layer does not spike, "membrane" and "current" are its outputs. `targeted = True`
    marks an objective towards a target class: it is called with a third argument, the target classes [N], which are
    the other classes in order of falling logit at the original input, one for each restart. Values over time of padded
    sequences come without the padding, those of one length in one call.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Value per sample, [N], for logits [N, K] and labels y [N]; finite wherever the logits are."""


@runtime_checkable
class Ensemble(Protocol):
    """Several attacks as one: a sample that a member broke is not attacked by later members.

    A class attribute `quotable = False` marks a number for comparison, which a report's verdict leaves out.
    """

    def members(self, norm: Norm) -> Sequence[Mapping[str, Any]]:
        """The arguments of `snnrobust.load` for each member, "name" and "label" among them, in order."""


#: Entry point group -> the protocols of which its plugins implement one.
GROUPS: dict[str, tuple[type, ...]] = {
    "optimisers": (Optimiser,),
    "perturbations": (Perturbation, Fitted),
    "corruptions": (Corruption,),
    "measurements": (Measurement,),
    "estimators": (Estimator, NodeEstimator, Relaxation, Mixture, PerModule),
    "objectives": (Objective,),
    "ensembles": (Ensemble,),
}
