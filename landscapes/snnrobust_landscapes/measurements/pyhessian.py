"""Bridge to PyHessian: eigenvalues and trace of the training loss, and whether they predict the measured loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from snnrobust.common.random import Draws, global_rng
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, MissingExtraError, PluginError
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.weights import WeightLandscape, trainable_parameters
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_positive, require_shares
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.validity.evidence import Evidence
from snnrobust_landscapes.validity.operator_description import OperatorDescription
from snnrobust_landscapes.validity.preliminary_checks import require_finite_loss, trial_operator


@dataclass(frozen=True)
class PyHessian:
    """Leading eigenvalues and trace, computed by PyHessian (Yao et al. 2020, arXiv 1912.07145).

    The operator is the *formal surrogate Hessian*, from differentiating the surrogate gradient once more: that of the
    mean cross entropy of the training data over the parameters that require a gradient, or over all where none does
    (such a net is measured as if it were trainable). It is symmetric, but not the Hessian of the loss, which is
    piecewise constant in most weights of an SNN. It depends on the second derivative of the surrogate, and is wrong
    where that is sharp: on a small SpikingJelly net it understated the curvature at a finite scale threefold with
    ATan(alpha=2) and had the wrong sign with ATan(alpha=4). A neuron whose backward pass is a fused kernel may drop
    terms of it without an error.

    Eigenvalues come from power iteration with deflation, largest magnitude first, of either sign. The interval
    [value - r, value + r], with r = |H v - value v| for the computed unit vector v, always contains an eigenvalue. It
    is wide where the iteration did not converge, as with a pair +-a of equal magnitude. The trace is the mean of
    Rademacher probes v^T H v (Hutchinson 1990); its interval is Student's t over the probes. A stochastic model is
    measured at one draw.

    The evidence for the numbers (`snnrobust_landscapes.validity.evidence`) is the asymmetry of their operator, and how
    well it predicts the measured loss in random directions and in those of PyHessian's vectors. Warns where it does not
    predict the loss.

    Attributes:
        top: Number of eigenvalues.
        probes: Random vectors for the trace.
        samples: Number of training samples, the first ones (all if there are fewer), in one batch.
        tolerance: Relative change between two power iterations at which an eigenvalue has converged.
        iterations: Most power iterations for an eigenvalue.
        logit_scale: Factor of the logits before the cross entropy, as in training.
        chunk: Samples that go through the net together when predictions are compared with the measured loss.
        directions: Random directions in which they are compared.
        draws: Points around which curvature is measured.

    Raises:
        InputError: For a count, tolerance or scale out of range.
    """

    resumable: ClassVar[bool] = True

    top: int = 1
    probes: int = 100
    samples: int = 200
    tolerance: float = 1e-4
    iterations: int = 200
    logit_scale: float = 1.0
    chunk: int = 64
    directions: int = 64
    draws: int = 8

    def __post_init__(self) -> None:
        require_counts(self, top=1, probes=2, samples=1, iterations=2, chunk=1, directions=8, draws=2)
        require_shares(self, "tolerance")
        require_positive(self, "logit_scale")

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises unless there are PyHessian, training data with a finite loss, and enough parameters.

        Raises:
            InputError: If something is missing.
            MissingExtraError: Without PyHessian.
            PluginError: If the surrogate can't be differentiated twice.
        """
        train = self._require(model, data)
        with model.session():
            landscape = self._landscape(model, data, train)
            require_finite_loss(landscape)
            trial_operator(Formal(), landscape)

    def _require(self, model: SpikingModel, data: EvaluationData) -> Dataset:
        _pyhessian()
        train = data.training("curvature")
        count = sum(p.numel() for p in trainable_parameters(model).values())
        if count < self.top:
            raise InputError(
                f"expected at least top={self.top} parameters in model '{model.name}', got {count}; "
                f"ask for fewer eigenvalues, or measure a net with parameters"
            )
        return train.take(min(self.samples, len(train)))

    def _landscape(self, model: SpikingModel, data: EvaluationData, train: Dataset) -> WeightLandscape:
        return WeightLandscape(model, train, chunk=min(self.chunk, data.batch_size), logit_scale=self.logit_scale)

    def measure(
        self, model: SpikingModel, data: EvaluationData, rng: Draws, checkpoint: MeasurementCheckpoint
    ) -> Iterable[Record | Artifact]:
        """Records "eigenvalue:1", "eigenvalue:2" ... and "trace", and the evidence for them.

        Raises:
            InputError: If the net has too few parameters or its loss is not finite.
            PluginError: If the surrogate can't be differentiated twice, or PyHessian returns NaN.
        """
        train = self._require(model, data)
        with model.session():
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(_dtype(model.dtype))
                stack.enter_context(global_rng(rng.number("pyhessian"), model.device))
                stack.enter_context(_gradients_restored(list(model.net.parameters())))
                stack.enter_context(_requiring_gradients(list(trainable_parameters(model).values())))
                numbers, vectors = self._computed(model, train)
            landscape = self._landscape(model, data, train)
            shared = Draws(rng.seed, "curvature").sub("weights", "whole")
            operator = Formal().on(landscape, 0.0, shared)
            flat = torch.stack([landscape.flatten([each.get(name) for name in landscape.names]) for each in vectors])
            description = OperatorDescription.of(operator)
            evidence = Evidence(operator, Formal(), description, shared, self.directions, self.draws, checkpoint)
            records = [description.describe(record) for record in numbers]
            return [*records, *evidence.measure(flat), *evidence.plateau()]

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.logit_scale * logits, y)

    def _computed(self, model: SpikingModel, train: Dataset) -> tuple[list[Record], list[dict[str, Tensor]]]:
        """Records, and the vectors of the eigenvalues by the names of the parameters."""
        x, y = train.x.to(device=model.device, dtype=model.dtype), train.y.to(model.device)
        batch = _Batch(model, train, _used(model, train, x, y))
        try:
            with warnings.catch_warnings():
                # `_gradients_restored` breaks the reference cycle between parameter and gradient that this warns of.
                warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True", UserWarning)
                hessian = _pyhessian()(batch, self._loss, data=(x, y), cuda=model.device.type == "cuda")
            values, vectors = hessian.eigenvalues(maxIter=self.iterations, tol=self.tolerance, top_n=self.top)
            residuals = [_residual(hessian, value, vector) for value, vector in zip(values, vectors, strict=True)]
            # Below any possible change: otherwise a negative running mean counts as converged after two probes.
            probes = np.asarray(hessian.trace(maxIter=self.probes, tol=-np.inf))
        except RuntimeError as error:
            raise PluginError(
                f"expected a surrogate gradient that can be differentiated again in model '{model.name}', "
                f"got: {error}; use neurons of backend 'torch' with a smooth surrogate"
            ) from error
        if not (np.isfinite(values).all() and np.isfinite(residuals).all() and np.isfinite(probes).all()):
            raise PluginError(
                f"expected finite curvature of model '{model.name}', got eigenvalues {values} and a trace of "
                f"{probes.mean()}; check the surrogate's second derivative"
            )
        order = np.argsort(-np.abs(values), kind="stable")
        records = []
        for rank, at in enumerate(order, start=1):
            value, residual = values[at], residuals[at]
            interval = value, value - residual, value + residual
            records.append(Record(f"eigenvalue:{rank}", *interval, len(train), quantity="eigenvalue", rank=rank))
        trace = float(probes.mean())
        half = float(stats.t.ppf(0.975, self.probes - 1) * probes.std(ddof=1) / np.sqrt(self.probes))
        records.append(Record("trace", trace, trace - half, trace + half, len(train)))
        names = {id(p): name for name, p in model.net.named_parameters()}
        own = [names[id(p)] for p in batch.used]
        return records, [dict(zip(own, (v.detach() for v in vectors[at]), strict=True)) for at in order]


class _Batch(nn.Module):
    """Logits of one batch, as a module whose parameters are those that the loss depends on."""

    def __init__(self, model: SpikingModel, train: Dataset, used: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.used = nn.ParameterList(used)
        self._model = model
        self._train = train

    def forward(self, x: Tensor) -> Tensor:
        return self._model.logits(x, keys=self._train.index, lengths=self._train.lengths)


def _used(model: SpikingModel, train: Dataset, x: Tensor, y: Tensor) -> list[nn.Parameter]:
    """The parameters that the loss depends on; PyHessian fails on others, whose part of the matrix is zero."""
    parameters = list(trainable_parameters(model).values())
    loss = functional.cross_entropy(model.logits(x, keys=train.index, lengths=train.lengths), y)
    if not torch.isfinite(loss):
        raise InputError(
            f"expected a finite training loss of model '{model.name}', got {float(loss.detach())}; "
            f"check weights and data"
        )
    if not loss.requires_grad:
        raise InputError(
            f"expected a training loss of model '{model.name}' that depends on its parameters, got one without a "
            f"gradient; set requires_grad on the parameters, or use a surrogate with a gradient"
        )
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _residual(hessian: Any, value: float, vector: Sequence[Tensor]) -> float:
    """|H v - value v| for the vector normalised to |v| = 1."""
    length = _norm(vector)
    unit = [v / length for v in vector]
    product = torch.autograd.grad(hessian.gradsH, hessian.params, grad_outputs=unit, retain_graph=True)
    return float(_norm([hv - value * v for hv, v in zip(product, unit, strict=True)]))


def _norm(vector: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.cat([v.flatten() for v in vector]))
    return norm


@contextmanager
def _gradients_restored(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Clears `.grad` and restores it afterwards: PyHessian adds to it, and leaves its own values there."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


@contextmanager
def _requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Makes parameters require a gradient: PyHessian ignores any that does not."""
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_()
    try:
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


@contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes `dtype` the default, which PyHessian uses for its vectors."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _pyhessian() -> Any:
    """PyHessian's `hessian` class."""
    try:
        from pyhessian import hessian
    except ImportError as error:
        raise MissingExtraError("pyhessian", "pyhessian", "curvature by PyHessian") from error
    return hessian
