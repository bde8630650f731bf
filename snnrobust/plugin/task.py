"""`load` names a plugin, its parameters and the strengths at which it is applied: a `Task`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Real
from typing import Any, Literal, get_args

from snnrobust.common.validate import check_count
from snnrobust.errors import InputError, InputTypeError
from snnrobust.plugin import registry
from snnrobust.plugin.protocols import GROUPS, AnyEstimator, Ensemble, Objective, Optimiser
from snnrobust.threat_models.threat_model import Limit, Norm, budget_name, check_limits

TaskKind = Literal["clean", "attack", "noise", "measurement"]
_TASK_KINDS: dict[str, TaskKind] = {
    "optimisers": "attack",
    "perturbations": "attack",
    "ensembles": "attack",
    "corruptions": "noise",
    "measurements": "measurement",
}
_ATTACK = ("norm", "epsilon", "limits", "restarts", "objective", "gradient", "eot", "source")
_ENSEMBLE = ("norm", "epsilon", "limits", "eot", "adaptive")
_NOISE = ("severity", "draws")


@dataclass(frozen=True)
class AttackSettings:
    """The settings of an attack besides its plugin.

    Attributes:
        norm: Norm of the threat model.
        objective: What the attack maximises.
        gradient: The gradient estimator.
        restarts: Independent searches per sample.
        eot: Draws that each gradient is averaged over.
        source: For a transfer attack, the name of the model that is attacked; the examples are tested on the evaluated
            model. None: the evaluated model itself.
        limits: Further limits of the threat model, the same at each radius.
    """

    norm: Norm
    objective: Objective
    gradient: AnyEstimator
    restarts: int
    eot: int
    source: str | None = None
    limits: tuple[Limit, ...] = ()

    @property
    def budget(self) -> str:
        """The norm and further limits, as text: attacks that share it can be compared and combined."""
        return budget_name(self.norm, self.limits)

    @property
    def targeted(self) -> bool:
        """Whether the objective has a target class, another one at each restart."""
        return bool(getattr(self.objective, "targeted", False))


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
        attack: The other factors of an attack; None for an ensemble, whose members have their own.
        members: The attacks of an ensemble, in order.
        draws: Draws per sample, for noise.
        tuned: The candidates and the data with which `tune` chose the estimator's parameters; None: not tuned.
    """

    name: str
    label: str
    kind: TaskKind
    origin: str
    plugin: Any
    strengths: tuple[float, ...] = ()
    attack: AttackSettings | None = None
    members: tuple[Task, ...] = ()
    draws: int = 1
    tuned: Mapping[str, Any] | None = None

    @property
    def attacks(self) -> list[tuple[Task, AttackSettings]]:
        """The attacks that make up this task: itself, or an ensemble's members."""
        return [(each, each.attack) for each in self.members or (self,) if each.attack is not None]

    @property
    def unit(self) -> str:
        """The name of a strength: "epsilon" or "severity"."""
        return {"attack": "epsilon", "noise": "severity"}.get(self.kind, "")

    def settings(self) -> dict[str, Any]:
        """All settings that affect results, as plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "kind": self.kind,
            "origin": self.origin,
            "plugin": repr(self.plugin),
            "parameters": _parameters(self.plugin),
            "strengths": list(self.strengths),
            "attack": self._factors(),
            "members": [member.settings() for member in self.members],
            "draws": self.draws,
            "tuned": self.tuned,
            "uses_gradients": uses_gradients(self),
        }

    def _factors(self) -> dict[str, Any] | None:
        if self.members:  # shared by all members
            factors = self.attacks[0][1]
            return {"norm": factors.norm, "eot": factors.eot, "source": None, **_limits(factors)}
        if self.attack is None:
            return None
        values = {name: _plain_value(value) for name, value in vars(self.attack).items() if name != "limits"}
        return {**values, **_limits(self.attack)}


def load(name: str, label: str | None = None, **parameters: Any) -> Task:
    """A task by the name of its plugin.

    Args:
        name: Name of an installed optimiser, perturbation, corruption or measurement (`snnrobust list`), or "clean".
        label: Name in the report; `name` where left out.
        **parameters: The plugin's own, and for attacks: `epsilon` (one or a list), `norm` (see `ThreatModel`),
            `limits` (a mapping from further norms to the most that is allowed in each), `objective` and `gradient` (a
            name, {"name": ..., parameter: ...} or an instance), `restarts`, `eot`, `source` (transfer: the name of the
            model that is attacked).
            For ensembles: `epsilon`, `norm`, `limits`, `eot`, and `adaptive`, further members of your own: tasks, or
            mappings of these arguments, "name" and "label" among them. For noise: `severity` (one or a list) and
            `draws` a sample.

    Raises:
        InputError: For an unknown name or parameter, or a value out of range.
        PluginError: If the plugin is broken.
        MissingExtraError: If the plugin needs a package that is not installed.

    Example:
        >>> load("pgd", epsilon=[0.1, 0.2], steps=10).strengths
        (0.1, 0.2)
        >>> mine = {"name": "pgd", "label": "mine", "gradient": {"name": "atan", "alpha": 1.0}}
        >>> load("fast", epsilon=0.1, adaptive=[mine]).members[-1].label
        'mine'
    """
    if not isinstance(label, str | None):
        raise InputTypeError(f"expected label to be text, got {label!r}; give a name for the report")
    if name == "clean":
        registry.check_parameters(name, parameters, [])
        if label not in (None, "clean"):
            raise InputError(f"expected the label 'clean' for clean accuracy, got {label!r}; leave label= out")
        return Task("clean", "clean", "clean", "snnrobust", None)
    info = registry.plugin_info(name)
    kind = _TASK_KINDS.get(info.kind)
    if kind is None:
        raise InputError(
            f"expected an attack, corruption or measurement, got '{name}' of kind '{info.kind}'; "
            f"pass it to an attack instead, e.g. load('pgd', gradient='{name}')"
        )
    shared = {"attack": _ENSEMBLE if info.kind == "ensembles" else _ATTACK, "noise": _NOISE, "measurement": ()}[kind]
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
        return Task(
            name, label, kind, info.origin, plugin, strengths, draws=_checked_count("draws", given.get("draws", 10))
        )
    norm = given.get("norm", "linf")
    if norm not in get_args(Norm):
        raise InputError(f"expected norm in {list(get_args(Norm))}, got {norm!r}; name one of these")
    limits = _checked_limits(norm, given.get("limits"))
    strengths = _strengths("epsilon", given.get("epsilon"))
    if info.kind == "ensembles":
        members = _load_members(plugin, norm, limits, given)
        return Task(name, label, kind, info.origin, plugin, strengths, members=members)
    source = given.get("source")
    if not isinstance(source, str | None):
        raise InputTypeError(f"expected source to be the name of a model, got {source!r}; name it as in the evaluation")
    if getattr(plugin, "minimum_norm", False) and given.get("restarts", 1) != 1:
        raise InputError(f"expected restarts=1 for '{name}', got {given['restarts']!r}; give it more steps instead")
    attack = AttackSettings(
        norm=norm,
        objective=_factor("objectives", given.get("objective", "cross_entropy")),
        gradient=_factor("estimators", given.get("gradient", "own")),
        restarts=_checked_count("restarts", given.get("restarts", 1)),
        eot=_checked_count("eot", given.get("eot", 1)),
        source=source,
        limits=limits,
    )
    return Task(name, label, kind, info.origin, plugin, strengths, attack)


def uses_gradients(task: Task) -> bool | None:
    """Whether an attack asks for gradients; None for what has members or its own loop, where that is not declared."""
    return task.plugin.needs == "gradient" if isinstance(task.plugin, Optimiser) else None


def with_steps(task: Task, steps: int, queries: int | None = None) -> Task:
    """The same attack with another number of steps, also for all members of an ensemble; unchanged if it has none.

    Single-step attacks keep their step. Black-box attacks, and those with their own loop, take `queries` steps, or keep
    theirs.
    """
    if task.members:
        return replace(task, members=tuple(with_steps(member, steps, queries) for member in task.members))
    if getattr(task.plugin, "steps", 1) == 1:
        return task
    wanted = steps if uses_gradients(task) else queries
    plugin: Any = task.plugin  # a frozen dataclass, which the protocol can't express
    return task if wanted is None else replace(task, plugin=replace(plugin, steps=wanted))


def _load_members(
    plugin: Ensemble, norm: Norm, limits: tuple[Limit, ...], given: Mapping[str, Any]
) -> tuple[Task, ...]:
    """The members of an ensemble and the user's own, with the same threat model and number of draws."""
    adaptive = given.get("adaptive", ())
    if isinstance(adaptive, str | Mapping) or not isinstance(adaptive, Iterable):
        raise InputTypeError(f"expected adaptive to be a list of members, got {adaptive!r}; put them into a list")
    common = {"norm": norm, "epsilon": given["epsilon"], "limits": dict(limits), "eot": given.get("eot", 1)}
    members = []
    for each in (*plugin.members(norm), *adaptive):
        if isinstance(each, Task):
            members.append(
                _as_member(each, budget_name(norm, limits), _strengths("epsilon", given["epsilon"]), common["eot"])
            )
            continue
        if not isinstance(each, Mapping) or "name" not in each:
            raise InputTypeError(
                f"expected members as tasks or mappings with a 'name', got {each!r}; give arguments of load"
            )
        if decided := sorted(set(common) & set(each)):
            raise InputError(f"expected {decided} of member '{each['name']}' from the ensemble, got its own; drop it")
        members.append(load(**each, **common))
        if members[-1].attack is None:
            raise InputError(f"expected an attack as a member, got '{each['name']}' of kind '{members[-1].kind}'")
    if not members:
        raise InputError("expected at least one member, got none; pass adaptive=[...]")
    labels = [member.label for member in members]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"expected each member's label once, got {repeated} repeatedly; give them other labels")
    return tuple(members)


def _as_member(task: Task, budget: str, strengths: tuple[float, ...], eot: int) -> Task:
    if task.attack is None or task.attack.budget != budget:
        raise InputError(
            f"expected an attack under '{budget}' as a member, got '{task.label}'; load it with that norm and limits"
        )
    return replace(task, strengths=strengths, attack=replace(task.attack, eot=eot))


def _factor(kind: str, value: Any) -> Any:
    """A plugin of `kind` from its name, from {"name": ..., parameters} or as it is."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        parameters = dict(value)
        if "name" not in parameters:
            raise InputError(f"expected 'name' in {dict(value)}, got none; name one of the {kind}")
        name = parameters.pop("name")
        if (found := registry.plugin_info(name).kind) != kind:
            raise InputError(f"expected one of the {kind}, got '{name}' of kind '{found}'; see `snnrobust list`")
        return registry.create(name, **parameters)
    if isinstance(value, type) or not isinstance(value, GROUPS[kind]):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputTypeError(f"expected the name or an instance of one of the {kind}, got {got}; see `snnrobust list`")
    if " at 0x" in repr(value):
        raise InputTypeError(
            f"expected one of the {kind} whose repr shows its parameters, got {value!r}; make it a frozen dataclass, "
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


def _checked_limits(norm: Norm, value: Any) -> tuple[Limit, ...]:
    """The limits beside a norm, in a fixed order."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InputTypeError(f"expected limits to be a mapping, got {value!r}; e.g. limits={{'deletions': 3}}")
    for other, most in value.items():
        if not isinstance(most, Real) or isinstance(most, bool):
            raise InputTypeError(f"expected a number as the limit of {other!r}, got {most!r}; give a whole number")
    limits = tuple((other, float(most)) for other, most in sorted(value.items()))
    check_limits(norm, limits)
    return limits


def _limits(factors: AttackSettings) -> dict[str, Any]:
    """The limits for the record, where there are any."""
    return {"limits": [list(each) for each in factors.limits]} if factors.limits else {}


def _checked_count(what: str, value: Any) -> int:
    check_count(what, value)
    return int(value)


def _parameters(plugin: Any) -> dict[str, Any]:
    """The fields of a plugin that its `repr` shows, as plain values."""
    if not is_dataclass(plugin):
        return {}
    return {each.name: _plain_value(getattr(plugin, each.name)) for each in fields(plugin) if each.repr}


def _plain_value(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else repr(value)
