"""Conformance checks for plugin authors: call one in a test of your own distribution.

    from snnrobust.testing import check_plugin

    def test_my_attack():
        check_plugin("my-attack")

Each check raises a `PluginError` that says what is wrong and what to do.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any, get_args

import numpy as np
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust import registry
from snnrobust.data import Dataset
from snnrobust.draws import Draws
from snnrobust.errors import InputError, PluginError
from snnrobust.evaluation_data import EvaluationData
from snnrobust.losses import CrossEntropy
from snnrobust.model import SpikingModel
from snnrobust.oracle import Oracle
from snnrobust.partial import Partial, measured
from snnrobust.plugin import (
    Corruption,
    Ensemble,
    Estimator,
    Measurement,
    Optimiser,
    Perturbation,
    Pointwise,
    Relaxation,
)
from snnrobust.pool import Pool
from snnrobust.problem import Found, Judge, Problem
from snnrobust.results import Artifact, Record
from snnrobust.search import perturb, search
from snnrobust.spike_gradient import Own, passes
from snnrobust.task import Attack, Task, load
from snnrobust.threat import Norm, ThreatModel
from snnrobust.wrapping import wrap


def check_plugin(name: str, **parameters: Any) -> None:
    """Loads the plugin called `name` and checks that it keeps its kind's promises.

    All kinds: a frozen dataclass with an informative `repr` that can be pickled. Optimisers and perturbations:
    allowed examples only (L-inf), the original alone at epsilon 0, the model left alone, and for optimisers equal
    examples for every batch size. Corruptions: shape kept, nothing changed at severity 0, keyed randomness.
    Estimators: finite derivatives and input gradients, forward values unchanged unless it is a relaxation, no influence
    of batch mates unless it says `batch_dependent = True`, and a `derivative`, if any, that agrees with `backward`.
    Objectives: one finite value per sample, also at ties and for silent outputs. Measurements: records or artifacts,
    the same from a second call, and from one that goes on after an interruption where they say `resumable`.

    Args:
        name: Name that the plugin is registered under.
        **parameters: Its parameters.

    Raises:
        PluginError: If a promise is broken.
        InputError: If there is no such plugin.

    Example:
        >>> check_plugin("pgd", steps=3)
    """
    plugin = registry.create(name, **parameters)
    kind = registry.find(name).kind
    _check_dataclass(name, plugin)
    {
        "optimisers": _check_attack,
        "perturbations": _check_attack,
        "corruptions": _check_corruption,
        "estimators": _check_estimator,
        "objectives": _check_objective,
        "measurements": _check_measurement,
        "ensembles": _check_ensemble,
    }[kind](name, plugin)


def tiny_model(temporal: bool = False) -> SpikingModel:
    """A small fixed SpikingJelly net on inputs [N, 1, 4, 4] (or binary sequences [N, 4, 6]) with 3 classes."""
    features = 6 if temporal else 16
    with torch.random.fork_rng(devices=[]):  # torch initialises from the global generator
        linear = nn.Linear(features, 12), nn.Linear(12, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in linear:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.6)
            layer.bias.copy_(torch.rand(layer.bias.shape, generator=generator) * 0.4)
    nodes = [
        neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m") for _ in linear
    ]
    net = nn.Sequential(nn.Flatten(2), linear[0], nodes[0], linear[1], nodes[1])
    if temporal:
        return wrap(net, name="tiny", encoder=None, domain="binary")
    return wrap(net, name="tiny", steps=4)


def tiny_data(temporal: bool = False, count: int = 12) -> Dataset:
    """Fixed random samples that fit `tiny_model`, labelled by it so that each is right."""
    generator = torch.Generator().manual_seed(1)
    shape = (4 * count, 4, 6) if temporal else (4 * count, 1, 4, 4)
    x = torch.rand(shape, generator=generator)
    x = (x < 0.5).float() if temporal else x
    model = tiny_model(temporal)
    y = model.predict(model.logits(x)).detach()
    spoken = (y >= 0).nonzero()[:count, 0]  # silent outputs have no class
    return Dataset.of(x[spoken], y[spoken], name="tiny")


def _require(name: str, holds: bool, expected: str, got: str) -> None:
    if not holds:
        raise PluginError(f"expected {expected} from '{name}', got {got}; see snnrobust.plugin")


def _check_dataclass(name: str, plugin: Any) -> None:
    settings = getattr(type(plugin), "__dataclass_params__", None)
    _require(name, settings is not None and settings.frozen, "a frozen dataclass", type(plugin).__name__)
    _require(name, " object at 0x" not in repr(plugin), "a repr that tells its parameters", repr(plugin))
    try:
        same = pickle.loads(pickle.dumps(plugin)) == plugin
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PluginError(
            f"expected a plugin that can be pickled from '{name}', got {error}; keep to scalars"
        ) from error
    _require(name, same, "a plugin equal to its pickled copy", "an unequal one")


def _task(name: str, plugin: Any) -> Task:
    """The plugin at strength 0, under L-inf if it is an attack."""
    if isinstance(plugin, Measurement):
        return Task(name, name, "measurement", "", plugin)
    if isinstance(plugin, Corruption):
        return Task(name, name, "noise", "", plugin, (0.0,))
    return Task(name, name, "attack", "", plugin, (0.0,), Attack("linf", CrossEntropy(), Own(), restarts=1, eot=1))


def _fits(name: str, plugin: Any, model: SpikingModel, data: Dataset) -> bool:
    check = getattr(plugin, "check", None)
    try:
        if check is not None:
            check(model, EvaluationData(data, data, data, 4), _task(name, plugin))
    except InputError:
        return False
    return True


def _setting(name: str, plugin: Any) -> tuple[SpikingModel, Dataset]:
    """The tiny model and data that the plugin accepts: static if it can, else temporal."""
    for temporal in (False, True):
        model, data = tiny_model(temporal), tiny_data(temporal)
        if _fits(name, plugin, model, data):
            return model, data
    raise PluginError(f"expected '{name}' to accept static or binary temporal data, got neither; see its check method")


def _state(model: SpikingModel) -> list[Any]:
    """Everything of a net that an attack must leave alone."""
    net = model.net
    tensors = [value.clone() for value in net.state_dict().values()]
    flags = [(module.training, len(module._forward_hooks), type(module).__name__) for module in net.modules()]
    gradients = [(p.requires_grad, p.grad is None) for p in net.parameters()]
    return [*tensors, flags, gradients, torch.random.get_rng_state()]


def _equal(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True))


def _check_attack(name: str, plugin: Any) -> None:
    model, data = _setting(name, plugin)
    epsilon = 1.0 if model.domain != "real" else 0.3
    before = _state(model)
    pools = [_examples(name, plugin, model, data, epsilon, pool) for pool in (len(data), 5, 1)]
    _require(name, _equal(before, _state(model)), "the model and torch's random state left alone", "changed ones")
    if isinstance(plugin, Optimiser):
        for other in pools[1:]:
            same = bool((pools[0] - other).abs().max() <= 1e-5)
            _require(
                name, same, "equal examples for every batch size", "different ones; key randomness by index, step by k"
            )
    nothing = _examples(name, plugin, model, data, 0.0, len(data))
    _require(name, bool((nothing - data.x).abs().max() <= 1e-6), "unchanged inputs at epsilon 0", "changed ones")


def _examples(name: str, plugin: Any, model: SpikingModel, data: Dataset, epsilon: float, pool: int) -> Tensor:
    """Last iterates [N, *] of an attack on all samples; raises if one is not allowed."""
    rng = Draws(0, name)
    oracle = Oracle(model, CrossEntropy(), Own(), 1, rng.number(), None)
    threat = ThreatModel("linf", epsilon, model.bounds, model.domain)
    problem = Problem(Judge(model, 0, 1), oracle, data, threat, rng, Pool(pool), False, name)
    examples = torch.full_like(data.x, torch.nan)

    def keep(found: Found) -> None:
        examples[found.rows] = found.last_x

    with model.session():
        if isinstance(plugin, Optimiser):
            search(problem, plugin, torch.arange(len(data)), keep)
        elif isinstance(plugin, Perturbation):
            perturb(problem, plugin, torch.arange(len(data)), keep)
    return examples


def _check_corruption(name: str, plugin: Corruption) -> None:
    _, data = _setting(name, plugin)
    rng, index = Draws(0, name), data.index
    _require(
        name, torch.equal(plugin.apply(data.x, 0.0, rng, index), data.x), "unchanged inputs at severity 0", "changes"
    )
    noisy = plugin.apply(data.x, 0.5, rng, index)
    _require(name, noisy.shape == data.x.shape, f"shape {tuple(data.x.shape)}", f"{tuple(noisy.shape)}")
    _require(name, bool(torch.isfinite(noisy).all()), "finite inputs", "NaN or infinity")
    _require(
        name,
        torch.equal(noisy, plugin.apply(data.x, 0.5, rng, index)),
        "the same noise for the same keys",
        "other noise",
    )
    alone = torch.cat([plugin.apply(data.x[[i]], 0.5, rng, index[[i]]) for i in range(len(data))])
    _require(name, torch.equal(noisy, alone), "noise that does not depend on the batch", "different noise alone")
    _require(
        name,
        not torch.equal(noisy, plugin.apply(data.x, 0.5, rng.sub("other"), index)),
        "other noise for another stream",
        "the same",
    )


def _check_estimator(name: str, plugin: Any) -> None:
    u = torch.arange(-30, 31).reshape(1, 61) / 10  # the threshold itself among them
    if isinstance(plugin, Estimator):
        _check_slope(name, u, plugin.backward(u, {"surrogate": surrogate.ATan()}), "a derivative")
    if isinstance(plugin, Pointwise):
        _check_pointwise(name, plugin, torch.cat([u, torch.tensor([[-torch.inf, torch.inf]])], dim=1))
    if isinstance(plugin, Relaxation):
        at = u.clone().requires_grad_()
        primitive = plugin.primitive(at, {"surrogate": surrogate.ATan()})
        _check_slope(name, u, primitive.detach(), "a primitive")
        _require(name, primitive.requires_grad, "a differentiable primitive", "one without a gradient")
        _check_slope(name, u, torch.autograd.grad(primitive.sum(), at)[0], "a slope")
    model, data = tiny_model(), tiny_data()
    before = _state(model)
    with model.session():
        plain = model.logits(data.x)
        for swap in passes(model.net, plugin):
            with swap:
                swapped = model.logits(data.x)
            same = torch.equal(plain, swapped)
            _require(name, same or not swap.exact, "unchanged forward values", "changed ones")
        batches = [list(range(len(data)))], [[i] for i in reversed(range(len(data)))]
        together, alone = (_estimated(plugin, model, data, batch) for batch in batches)
    _require(name, _equal(before, _state(model)), "the model and torch's random state left alone", "changed ones")
    _require(name, bool(torch.isfinite(together).all()), "finite input gradients", "NaN or infinity")
    if not getattr(plugin, "batch_dependent", False):
        same = bool((together - alone).abs().max() <= 1e-5 * together.abs().max().clamp(min=1))
        _require(
            name,
            same,
            "gradients that do not depend on the batch",
            "others alone; keep what belongs to a sample in state['memory'], or set batch_dependent = True",
        )


def _check_pointwise(name: str, plugin: Any, u: Tensor) -> None:
    """The derivative that fast kernels search with is that of `backward`, also at a membrane that has overflowed."""
    try:
        ours, fast = plugin.backward(u, {}), plugin.derivative(u)
    except (AttributeError, KeyError) as error:
        raise PluginError(
            f"expected `derivative` of '{name}' to be all of its `backward`, a function of u alone, got one that needs "
            f"{error}; leave `derivative` out"
        ) from error
    _require(name, fast.shape == u.shape, f"`derivative` of shape {tuple(u.shape)}", f"{tuple(fast.shape)}")
    off = ~torch.isclose(fast, ours, rtol=1e-5, atol=1e-7)
    for at, got, expected in zip(u[off].tolist(), fast[off].tolist(), ours[off].tolist(), strict=True):
        _require(name, False, f"`derivative` to be {expected:g} at {at:g}, as `backward` is,", f"{got:g}")


def _check_slope(name: str, u: Tensor, value: Tensor, what: str) -> None:
    _require(name, value.shape == u.shape, f"{what} of shape {tuple(u.shape)}", f"{tuple(value.shape)}")
    _require(name, bool(torch.isfinite(value).all()), f"{what} that is finite", "NaN or infinity")


def _estimated(plugin: Any, model: SpikingModel, data: Dataset, batches: list[list[int]]) -> Tensor:
    """Input gradients at the second of two iterates, in batches."""
    swaps, gradients = passes(model.net, plugin), torch.zeros_like(data.x)
    for iterate in (data.x, 1 - data.x):
        for rows in batches:
            total = torch.zeros_like(data.x[rows])
            for swap in swaps:
                at = iterate[rows].requires_grad_()
                with swap.at(data.index[rows]):
                    loss = CrossEntropy()(model.logits(at, keys=data.index[rows]), data.y[rows]).sum()
                    total += torch.autograd.grad(loss, at)[0] / len(swaps)
            gradients[rows] = total
    return gradients


def _check_objective(name: str, plugin: Any) -> None:
    """Values and gradients for two to five classes: random ones, ties, and silence."""
    for classes in (2, 3, 4, 5):
        ties = [[0.0] * classes, [1.0] * classes, [0.5, 0.5, *[0.0] * (classes - 2)], [0.0, *[0.5] * (classes - 1)]]
        spread = torch.rand(2, classes, generator=torch.Generator().manual_seed(classes))
        seen = torch.cat([torch.tensor(ties), spread])  # [6, K]
        if getattr(plugin, "of", "logits") != "logits":
            seen = torch.stack([seen, torch.zeros_like(seen), seen.flip(1)], dim=1)  # [6, T, K]
        y = torch.arange(len(seen)) % classes
        target = ((y + 1) % classes,) if getattr(plugin, "targeted", False) else ()
        seen.requires_grad_()
        value = plugin(seen, y, *target)
        shape = tuple(value.shape)
        _require(name, shape == (len(seen),), f"one value per sample, ({len(seen)},)", f"shape {shape}")
        (gradient,) = torch.autograd.grad(value.sum(), seen)
        finite = bool(torch.isfinite(value).all() and torch.isfinite(gradient).all())
        _require(name, finite, "finite values and gradients at ties and for silent outputs", "NaN or infinity")
        alone = torch.cat([plugin(seen[[i]], y[[i]], *(each[[i]] for each in target)) for i in range(len(seen))])
        same = torch.allclose(value, alone, atol=1e-6)
        _require(name, same, "values that do not depend on the batch", "different ones alone")


def _check_measurement(name: str, plugin: Measurement) -> None:
    model, data = _setting(name, plugin)
    before = _state(model)

    def run(kept: Partial) -> list[Record | Artifact]:
        return list(measured(plugin, model, EvaluationData(data, data, data, 4), Draws(0, name), kept))

    with model.session():
        found, again = run(Partial()), run(Partial())
    _require(name, _equal(before, _state(model)), "the model and torch's random state left alone", "changed ones")
    _require(name, bool(found), "at least one record or artifact", "none")
    for each in found:
        _require(name, isinstance(each, Record | Artifact), "records and artifacts", type(each).__name__)
    _require_equal_values(name, "the same numbers from a second call", found, again)
    for at in (1, 3) if getattr(plugin, "resumable", False) else ():
        kept = _Stopping(at)
        with model.session(), suppress(_Stopped):
            run(kept)
        _require(
            name, kept.puts > 0, "a resumable measurement to keep what it has on the way", "one that keeps nothing"
        )
        _require(name, _equal(before, _state(model)), "the model left alone by an interruption", "a changed one")
        with model.session():
            _require_equal_values(name, "the same numbers after an interruption", found, run(kept))


def _require_equal_values(
    name: str, expected: str, first: list[Record | Artifact], second: list[Record | Artifact]
) -> None:
    ours, theirs = (np.array([each.value for each in run if isinstance(each, Record)]) for run in (first, second))
    _require(name, np.array_equal(ours, theirs, equal_nan=True), expected, f"{ours.tolist()} and {theirs.tolist()}")


class _Stopped(Exception):
    """The interruption of a measurement."""


class _Stopping(Partial):
    """Interrupts a measurement when it keeps something for the time `at`, counted from 1."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.puts = 0
        self._at = at

    def put(self, name: str, array: np.ndarray) -> None:
        """Keeps a copy of `array`; may raise `_Stopped`."""
        super().put(name, array)
        self.puts += 1
        if self.puts == self._at:
            raise _Stopped


def _check_ensemble(name: str, plugin: Ensemble) -> None:
    for norm in get_args(Norm):
        members = list(plugin.members(norm))
        labels = [member.get("label") for member in members]
        _require(name, len(set(labels)) == len(labels), f"members of different labels under {norm}", f"{labels}")
        for member in members:
            task = load(**member, norm=norm, epsilon=1.0)  # raises where an argument does not fit
            _require(name, task.attack is not None, f"attacks as members under {norm}", f"'{task.label}'")
