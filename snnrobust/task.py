"""`load` names a plugin, its parameters and the strengths at which it is applied: a `Task`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from snnrobust import registry
from snnrobust.errors import InputError, InputTypeError
from snnrobust.plugin import GROUPS, Estimator, Objective
from snnrobust.threat import Norm

Kind = Literal["clean", "attack", "noise", "measurement"]
_KINDS: dict[str, Kind] = {
    "optimisers": "attack",
    "perturbations": "attack",
    "corruptions": "noise",
    "measurements": "measurement",
}
_ATTACK = ("norm", "epsilon", "restarts", "objective", "gradient", "eot")
_NOISE = ("severity", "draws")


@dataclass(frozen=True)
class Attack:
    """The factors of an attack beside its plugin.

    Attributes:
        norm: Norm of the threat model.
        objective: What is pushed.
        gradient: How a gradient passes a spike.
        restarts: Independent searches a sample gets.
        eot: Draws that each gradient is averaged over.
    """

    norm: Norm
    objective: Objective
    gradient: Estimator
    restarts: int
    eot: int


@dataclass(frozen=True)
class Task:
    """What to do to a model: a plugin and the strengths at which it is applied. Made by `load`.

    Attributes:
        name: The plugin's name.
        label: Name in the report, unique in an evaluation.
        kind: "clean", "attack", "noise" or "measurement".
        origin: Distribution that the plugin comes from.
        plugin: The plugin itself; None for "clean".
        strengths: Epsilons or severities, ascending; empty where there are none.
        attack: The other factors of an attack.
        draws: Draws per sample, for noise.
    """

    name: str
    label: str
    kind: Kind
    origin: str
    plugin: Any
    strengths: tuple[float, ...] = ()
    attack: Attack | None = None
    draws: int = 1

    @property
    def unit(self) -> str:
        """What a strength is."""
        return {"attack": "epsilon", "noise": "severity"}.get(self.kind, "")

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "kind": self.kind,
            "origin": self.origin,
            "plugin": repr(self.plugin),
            "strengths": list(self.strengths),
            "attack": None
            if self.attack is None
            else {name: _plain(value) for name, value in vars(self.attack).items()},
            "draws": self.draws,
        }


def load(name: str, label: str | None = None, **parameters: Any) -> Task:
    """A task by the name of its plugin.

    Args:
        name: Name of an installed optimiser, perturbation, corruption or measurement (`snnrobust list`), or "clean".
        label: Name in the report; `name` where left out.
        **parameters: The plugin's own, and for attacks: `epsilon` (one or a list), `norm` ("linf", "l2", "l1"),
            `objective` and `gradient` (a name, {"name": ..., parameter: ...} or an instance), `restarts`, `eot`.
            For noise: `severity` (one or a list) and `draws` per sample.

    Raises:
        InputError: For an unknown name or parameter, or a value out of range.
        PluginError: If the plugin is broken.
        MissingExtraError: If the plugin needs a package that is not installed.

    Example:
        >>> load("pgd", epsilon=[0.1, 0.2], steps=10).strengths
        (0.1, 0.2)
    """
    if not isinstance(label, str | None):
        raise InputTypeError(f"expected label to be text, got {label!r}; give a name for the report")
    if name == "clean":
        registry.check_parameters(name, parameters, [])
        if label not in (None, "clean"):
            raise InputError(f"expected the label 'clean' for clean accuracy, got {label!r}; leave label= out")
        return Task("clean", "clean", "clean", "snnrobust", None)
    info = registry.find(name)
    kind = _KINDS.get(info.kind)
    if kind is None:
        raise InputError(
            f"expected an attack, corruption or measurement, got '{name}' of kind '{info.kind}'; "
            f"pass it to an attack instead, e.g. load('pgd', gradient='{name}')"
        )
    shared = {"attack": _ATTACK, "noise": _NOISE, "measurement": ()}[kind]
    own = {key: value for key, value in parameters.items() if key not in shared}
    if ":" not in name:
        registry.check_parameters(name, own, [*registry.parameter_names(name), *shared])
    plugin = registry.create(name, **own)
    label = label or name
    if kind == "measurement":
        return Task(name, label, kind, info.origin, plugin)
    given = {key: value for key, value in parameters.items() if key in shared}
    if kind == "noise":
        strengths = _strengths("severity", given.get("severity"))
        return Task(name, label, kind, info.origin, plugin, strengths, draws=_count("draws", given.get("draws", 10)))
    norm = given.get("norm", "linf")
    if norm not in get_args(Norm):
        raise InputError(f"expected norm in {list(get_args(Norm))}, got {norm!r}; name one of these")
    attack = Attack(
        norm=norm,
        objective=_factor("objectives", given.get("objective", "cross_entropy")),
        gradient=_factor("estimators", given.get("gradient", "own")),
        restarts=_count("restarts", given.get("restarts", 1)),
        eot=_count("eot", given.get("eot", 1)),
    )
    return Task(name, label, kind, info.origin, plugin, _strengths("epsilon", given.get("epsilon")), attack)


def _factor(kind: str, value: Any) -> Any:
    """A plugin of `kind` from its name, from {"name": ..., parameters} or as it is."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        parameters = dict(value)
        if "name" not in parameters:
            raise InputError(f"expected 'name' in {dict(value)}, got none; name one of the {kind}")
        name = parameters.pop("name")
        if (found := registry.find(name).kind) != kind:
            raise InputError(f"expected one of the {kind}, got '{name}' of kind '{found}'; see `snnrobust list`")
        return registry.create(name, **parameters)
    if isinstance(value, type) or not isinstance(value, GROUPS[kind]):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputTypeError(f"expected the name or an instance of one of the {kind}, got {got}; see `snnrobust list`")
    if " at 0x" in repr(value):
        raise InputTypeError(
            f"expected one of the {kind} whose repr tells its parameters, got {value!r}; make it a frozen dataclass, "
            f"or a resumed run could not tell it from another"
        )
    return value


def _strengths(what: str, value: Any) -> tuple[float, ...]:
    if value is None:
        raise InputError(f"expected {what}=, got none; give one number or a list of them")
    scalar = getattr(value, "ndim", None) == 0  # a 0-d array calls itself iterable
    values = list(value) if isinstance(value, Iterable) and not scalar else [value]
    if not all(isinstance(v, Real) and not isinstance(v, bool) for v in values):
        raise InputTypeError(f"expected {what} to be a number or a list of numbers, got {value!r}; give numbers")
    if not values:
        raise InputError(f"expected at least one {what}, got an empty list; give one number or more")
    for v in values:
        if not (math.isfinite(v) and v >= 0):
            raise InputError(f"expected {what} >= 0 and finite, got {v}; give values in input units")
    return tuple(sorted({float(v) for v in values}))


def _count(what: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"expected {what} to be a whole number >= 1, got {value!r}; give a count")
    return value


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else repr(value)
