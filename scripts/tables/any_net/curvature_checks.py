"""Traces of curvature beside ones computed entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from facts import NOTHING, Facts, Wrong
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.solvers.trace import estimate_trace
from snnrobust_landscapes.validity.preliminary_checks import require_finite_loss, trial_operator

#: Curvature is measured on nets with fewer parameters, and compared on those with fewer still: by hand it takes one
#: backward pass for each class and sample (Gauss-Newton), or for each parameter (formal).
SMALL, TINY, TINIEST = 200_000, 2_000, 350
CURVATURE_SAMPLES = 8
#: Of a trace, estimated by Hutch++ up to half this standard error.
TRACE_ERROR = 0.01


def gauss_newton(facts: Facts) -> str:
    """The trace of the Gauss-Newton matrix of the own surrogates, by hand from the Jacobian."""
    return _curvature(facts, {"name": "gauss-newton", "surrogate": "own"}, _gauss_newton_by_hand, TINY)


def formal(facts: Facts) -> str:
    """The trace of autograd's second derivative through the own surrogates, by hand entry by entry."""
    return _curvature(facts, "formal", _formal_by_hand, TINIEST)


def _curvature(facts: Facts, operator: object, by_hand: Callable[[Facts], float], most: int) -> str:
    size = sum(each.numel() for each in facts.net.parameters())
    if size >= SMALL:
        return f"{NOTHING}{size / 1e6:.1f} million weights"
    convolutional = any(isinstance(module, nn.modules.conv._ConvNd) for module in facts.net.modules())
    compared = size <= most and not (convolutional and operator == "formal")
    facts.leave_state()
    # All that a user gets, with its evidence, takes hundreds of passes: on small nets, for one of the two operators.
    measure = _measured_trace if compared and operator != "formal" else _trace
    value, high = measure(facts, operator, 150 if compared else 18)
    if not compared:
        return f"{NOTHING}{value:.2g}, not compared"
    want = by_hand(facts)
    # The interval of an estimate holds the truth 95 times of 100: three times its width for all rows.
    if not abs(value - want) <= max(TRACE_ERROR * abs(want), 3 * abs(high - value), 1e-6):
        raise Wrong(f"{value:.4g}, by hand {want:.4g}")
    return f"{value:.3g}"


def _measured_trace(facts: Facts, operator: object, products: int) -> tuple[float, float]:
    data = facts.case.inputs(CURVATURE_SAMPLES), facts.case.labels(CURVATURE_SAMPLES)
    task = sr.load("trace", operator=operator, directions=8, draws=2, relative=TRACE_ERROR / 2, products=products)
    report = sr.evaluate(facts.model(), {"test": data, "train": data}, [task], progress=False)
    for finding in report.findings:
        if finding.name == "curvature-symmetric" and finding.passed is False:
            raise sr.InputError(f"the report's finding `curvature-symmetric` fails. {finding.why} {finding.remedy}")
    (row,) = [row for row in report.to_frame().itertuples() if row.metric == "trace"]
    return float(row.value), float(row.high)


def _trace(facts: Facts, operator: object, products: int) -> tuple[float, float]:
    """As a measurement computes it, without its evidence."""
    data = Dataset.of(facts.case.inputs(CURVATURE_SAMPLES), facts.case.labels(CURVATURE_SAMPLES))
    model, spec, rng = facts.model(), operator_spec(operator), Draws(0, "any-net")
    with model.session():
        landscape = WeightLandscape(model, data, chunk=CURVATURE_SAMPLES)
        require_finite_loss(landscape)
        trial_operator(spec, landscape)
        found = estimate_trace(spec.on(landscape, 0.5, rng), rng, relative=TRACE_ERROR / 2, most=products)
    return float(found.values), float(found.highs)


def _gauss_newton_by_hand(facts: Facts) -> float:
    weights = [each for each in facts.net.parameters() if each.requires_grad]
    x = facts.case.inputs(CURVATURE_SAMPLES)
    out = facts.case.plain(facts.net, x)
    total = 0.0
    for sample in out:
        p = sample.softmax(0).detach()
        rows = []
        for k in range(len(p)):
            found = torch.autograd.grad(sample[k], weights, retain_graph=True, allow_unused=True)
            rows.append(_flat(found, weights))
        jacobian = torch.stack(rows).double()
        total += float((p.double() * (jacobian**2).sum(1)).sum() - ((p.double() @ jacobian) ** 2).sum())
    return total / len(x)


def _formal_by_hand(facts: Facts) -> float:
    weights = [each for each in facts.net.parameters() if each.requires_grad]
    x, y = facts.case.inputs(CURVATURE_SAMPLES), facts.case.labels(CURVATURE_SAMPLES)
    loss = nn.functional.cross_entropy(facts.case.plain(facts.net, x), y)
    first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    trace = 0.0
    for weight, each in zip(weights, first, strict=True):
        if each is None or not each.requires_grad:
            continue
        for k, entry in enumerate(each.flatten()):
            found = torch.autograd.grad(entry, weight, retain_graph=True, allow_unused=True)[0]
            trace += 0.0 if found is None else float(found.flatten()[k])
    return trace


def _flat(found: tuple[Tensor | None, ...], weights: list[Tensor]) -> Tensor:
    return torch.cat(
        [torch.zeros(w.numel()) if each is None else each.flatten() for each, w in zip(found, weights, strict=True)]
    )
