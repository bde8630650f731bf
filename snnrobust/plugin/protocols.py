"""The protocols that plugins implement. The core knows plugins through these alone and never imports one.

A plugin is a frozen dataclass of scalars (and nested plugins): its `repr` identifies it and its fields are its
recorded settings. The strengths at which it is applied belong to the `Task`, not to the plugin.

Optimisers, perturbations, corruptions and measurements may have a hook `check(self, model, data, task)`: it gets the
`SpikingModel`, the `EvaluationData` and the `Task` (its `strengths`, its `attack.norm`), is called before anything long
starts, and raises an `InputError` if the plugin does not fit them.

Fields that hold paths of files are named by a class attribute, `paths: ClassVar[tuple[str, ...]] = ("checkpoint",)`:
those in a config file then start at its folder. They are best left out of the `repr`, with the digest of the content in
their place, so that a run is the same wherever its files are.
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


class Queries(Protocol):
    """What an attack that owns its loop may ask of a model; every answer is counted.

    For a stochastic model each answer is a mean over draws, a fresh set at each `query`.
    """

    @property
    def static(self) -> bool:
        """Whether inputs have no time axis of their own."""

    def logits(self, x: Tensor, index: Tensor, query: int | Tensor = 0) -> Tensor:
        """Logits [N, K] without a gradient for inputs x [N, *] of the samples `index` [N]."""

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Objective [N] and logits [N, K] at x, without a gradient."""

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: int | Tensor = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective gradient [N, *], objective [N] and logits [N, K] at x."""

    def as_module(self, index: Tensor) -> nn.Module:
        """A stateless module from inputs scaled to [0, 1] to logits, for third-party attacks on the samples `index`."""


@runtime_checkable
class Perturbation(Protocol):
    """An attack that owns its loop."""

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *] with labels y [N]."""


@runtime_checkable
class Corruption(Protocol):
    """Noise of a given severity on the input; severity 0 leaves it as it is, to the bit.

    One that draws no random numbers (contrast, blur) says so by a class attribute
    `deterministic: ClassVar[bool] = True`.
    """

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Corrupted inputs [N, *] for inputs x [N, *]."""


@runtime_checkable
class Measurement(Protocol):
    """A number or picture of a model that is no attack: activity, curvature.

    One that takes long may have a class attribute `resumable: ClassVar[bool] = True`. Its `measure` then takes a fourth
    argument, a `snnrobust.plugin.MeasurementCheckpoint`: what it puts there is there again when a killed run goes on.
    Its records and artifacts must be the same, to the last byte, as without an interruption.
    """

    def measure(self, model: SpikingModel, data: EvaluationData, rng: Draws) -> Iterable[Record | Artifact]:
        """Records and artifacts; their model, label and seed columns are filled in by the core."""


@runtime_checkable
class Estimator(Protocol):
    """How a gradient passes a spike, as a derivative at each comparison with the threshold."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The estimated derivative of H(u) at u = membrane potential minus threshold, of the shape of `u`.

        Args:
            u: Distance to threshold, [N, *] or [T, N, *]: the shape in which the node compares.
            state: The node's own dict, to keep things in; these are set before each call. "surrogate": the model's
                own surrogate function. "calls": the distances u of the node's comparisons since the forward pass
                began, in order; "call": which of them this one is, "axis": the axis of u that counts samples, 0 or 1,
                None where the node compares in a shape of its own. "memory": a dict of tensors, with as many samples
                along "axis" as u, that is kept for each sample and call from one iterate to the next. It is empty at
                first, and zero for a sample that is new among others: keep what is zero at the start.
                "frozen": whether this is a further draw at the same iterate; "memory" is then not kept.
        """


@runtime_checkable
class Pointwise(Protocol):
    """An `Estimator` that is nothing but a function of u, the same at each neuron, step and sample: fast kernels may
    search with it in place of `backward`."""

    @property
    def derivative(self) -> Callable[[Tensor], Tensor]:
        """The estimated derivative at u; best a `snnrobust.kernels.derivative.Derivative`, which has native code.

        Anything else must be equal, and hash alike, each time it is asked for: code is compiled for each that is not.
        """


@runtime_checkable
class NodeEstimator(Protocol):
    """How a gradient passes a whole node (or any other module), with the values that the node itself gives.

    May also have `backward`, which is then the derivative at the node's comparisons.
    """

    def through(self, node: NodeRun, x: Tensor) -> Tensor:
        """The output of `node` for its input x, with a gradient of the estimator's own; [T, N, *] each for a node."""


class NodeRun(Protocol):
    """What a `NodeEstimator` may ask of the node that it stands in for.

    Attributes:
        name: Qualified name in the net.
        leak: The share k of the membrane potential that a step keeps, in u[t] = k v[t-1] + gain x[t], where a lateral
            input from the node's own spikes is left aside.
        gain: What the input is multiplied by.
        threshold: Membrane potential at which it fires.

    The last three raise an `InputError` for a node that is not of this equation.
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
        """Cuts the gradient through the node's state."""


@runtime_checkable
class Relaxation(Protocol):
    """A smooth net in place of the spiking one: its gradient is taken, its values are not."""

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """What stands for the spike H(u): a differentiable function of u, of its shape; `state` as in `Estimator`."""


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
        """Qualified module name -> estimator. A module that is no spiking node needs a `NodeEstimator`."""


AnyEstimator = Estimator | NodeEstimator | Relaxation | Mixture | PerModule

#: What an objective is a function of: the logits [N, K]; the output at each step [N, T, K]; or the output layer's
#: distance to threshold (membrane potential minus threshold), or its input current, at each step, [N, T, K].
View = Literal["logits", "outputs", "membrane", "current"]


@runtime_checkable
class Objective(Protocol):
    """What an attack pushes upwards.

    Two class attributes may be set. `of` says what the objective is a function of, "logits" where left out. Where the
    output layer does not spike, "membrane" and "current" are its outputs, which are graded by themselves. `targeted`
    says that it pushes towards a class: it is then called with a third argument, the target classes [N], which are
    other classes by falling logit at the original input, one after the other for an attack's restarts.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Value per sample, [N], for logits [N, K] and labels y [N]; finite wherever the logits are."""


@runtime_checkable
class Ensemble(Protocol):
    """Several attacks as one: a sample that a member broke is not attacked by those after it.

    A class attribute `quotable = False` says that its number is for comparison, not what a report's verdict is about.
    """

    def members(self, norm: Norm) -> Sequence[Mapping[str, Any]]:
        """The arguments of `snnrobust.load` for each member, "name" and "label" among them, in order."""


#: Entry point group -> the protocols of which its plugins implement one.
GROUPS: dict[str, tuple[type, ...]] = {
    "optimisers": (Optimiser,),
    "perturbations": (Perturbation,),
    "corruptions": (Corruption,),
    "measurements": (Measurement,),
    "estimators": (Estimator, NodeEstimator, Relaxation, Mixture, PerModule),
    "objectives": (Objective,),
    "ensembles": (Ensemble,),
}
