"""Bridge to torchattacks: any of its attacks with a radius, as `load("torchattacks:MIFGSM", epsilon=...)`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws, global_rng
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, MissingExtraError, PluginError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel

Scalar = bool | int | float | str

#: Attacks without a `norm` argument that bound the L2 distance; all others bound L-inf.
_L2 = frozenset({"PGDL2", "PGDRSL2"})
#: Arguments that are set from the threat model, the evaluation's seed and the model.
_DECIDED = frozenset({"self", "model", "eps", "norm", "seed", "verbose", "n_classes"})
#: Arguments whose default is a whole number and whose values need not be.
_REAL = frozenset({"scale", "nsig"})


#: Arguments by which a trial is kept short.
_SHORT: dict[str, Any] = {"steps": 2, "n_queries": 2, "nb_sample": 2, "noise_batch_size": 2}


@dataclass(frozen=True)
class Torchattacks:
    """An attack of torchattacks (Kim 2020, arXiv 2010.01950) on static real inputs.

    Inputs are scaled to [0, 1] before and back after it, and the radius with them. Its random numbers come from the
    global generators, which are seeded by the samples of a batch and restored afterwards: outcomes of a random attack
    depend on the batch size. Every query goes to the freshly reset net. Inputs that are not images [N, C, H, W]
    are passed as images [N, 1, 1, F]; attacks that resize, blur or patch images then fail or make no sense.

    Attributes:
        attack: Name of a class in torchattacks that takes `eps`.
        options: Further arguments of it as (name, value) pairs, in its own units: lengths such as `alpha` are shares
            of the input range. `eps`, `norm`, `seed` and `n_classes` come from the task and the model. A step `alpha`
            that is left out keeps its default ratio to `eps` and to the number of steps: as a fixed number, it would
            not reach the edge of a ball larger than the 8/255 that it is meant for. A rate `lr` (SPSA) that is left out
            is 2.5 eps / steps, for the same reason.

    Raises:
        MissingExtraError: If torchattacks is not installed.
        InputError: For an unknown attack or option, an option of another type than its default, or an attack without
            a radius.

    Example:
        >>> from snnrobust.plugin.task import load
        >>> load("torchattacks:PGD", epsilon=0.1, steps=5, random_start=False).plugin  # doctest: +SKIP
        Torchattacks(attack='PGD', options=(('random_start', False), ('steps', 5)))
    """

    attack: str
    options: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        arguments = _attack_arguments(self.attack)
        known = sorted(set(arguments) - _DECIDED)
        for option, value in self.options:
            if option in _DECIDED:
                raise InputError(
                    f"expected options of '{self.attack}' among {known}, got '{option}'; "
                    f"it comes from epsilon=, norm=, the evaluation's seed or the model"
                )
            if option not in known:
                raise InputError(f"expected options of '{self.attack}' among {known}, got '{option}'; rename it")
            kind = float if option in _REAL else type(arguments[option].default)
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or isinstance(value, bool) is not (kind is bool):
                raise InputError(
                    f"expected {option} of '{self.attack}' to be of type {kind.__name__} like its default "
                    f"{arguments[option].default!r}, got {value!r}; give such a value"
                )

    @classmethod
    def from_name(cls, attack: str, **parameters: Scalar) -> Self:
        """The attack called `attack` with the options `parameters`."""
        return cls(attack, tuple(sorted(parameters.items())))

    def check(self, model: SpikingModel, data: EvaluationData, task: Task) -> None:
        """Raises an `InputError` unless inputs are static and real, and the attack takes its norm and options."""
        if not model.static or model.domain != "real":
            raise InputError(
                f"expected static inputs of domain 'real' for torchattacks, got "
                f"{'static' if model.static else 'temporal'} inputs of domain '{model.domain}' of model "
                f"'{model.name}'; use this package's own attacks"
            )
        norm: Norm = "linf" if task.attack is None else task.attack.norm
        self._norm(norm)
        threat = ThreatModel(norm, task.strengths[-1], model.bounds, model.domain)
        try:
            self._build(nn.PReLU(), threat)  # a module with a parameter, or torchattacks prints a warning
        except Exception as error:  # third-party code fails in any way
            raise InputError(
                f"expected options that torchattacks' '{self.attack}' takes, got {dict(self.options)} and "
                f"{type(error).__name__}: {error}; correct them or leave them out"
            ) from error
        self._try(model, data, threat)

    def _try(self, model: SpikingModel, data: EvaluationData, threat: ThreatModel) -> None:
        """Runs a few steps on one sample: an attack may need more classes, or images of another shape.

        Raises:
            InputError: If it fails.
        """
        x = data.test.x[:1].to(device=model.device, dtype=model.input_dtype)
        images = torch.zeros_like(x if x.ndim == 4 else x.reshape(1, 1, 1, -1))
        module = nn.Sequential(nn.Flatten(), nn.Unflatten(1, x.shape[1:]), model.as_module())
        # AutoAttack's first member that asks something of the net is its targeted APGD; all of it takes long.
        tried = replace(self, attack="APGDT", options=()) if self.attack == "AutoAttack" else self
        known = _attack_arguments(tried.attack)
        short = {name: value for name, value in _SHORT.items() if name in known}
        with torch.no_grad():
            logits = model.logits(images.reshape(x.shape))
        if "n_classes" in known:
            short["n_classes"] = logits.shape[1]
        try:
            with torch.enable_grad(), global_rng(0, x.device):
                tried._build(module, threat, **short)(images, logits.argmax(dim=1))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # third-party code fails in any way
            raise InputError(
                f"expected inputs and classes that torchattacks' '{self.attack}' takes, got inputs of shape "
                f"{tuple(x.shape[1:])}, {short.get('n_classes', 'any')} classes and {type(error).__name__}: "
                f"{' '.join(str(error).split())[:120]}; use another attack"
            ) from error

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *] with labels y [N].

        Raises:
            InputError: If the attack does not support the norm, or inputs are not static and real.
            PluginError: If the attack fails on inputs of this shape.
        """
        if not oracle.static or threat.domain != "real":
            raise InputError(
                f"expected static inputs of domain 'real' for torchattacks, got "
                f"{'static' if oracle.static else 'temporal'} inputs of domain '{threat.domain}'; "
                f"use this package's own attacks"
            )
        if threat.epsilon == 0:
            return x.clone()  # the one allowed input; some attacks divide by the radius
        low, high = threat.bounds
        unit = (x - low) / (high - low)
        images = unit if x.ndim == 4 else unit.reshape(len(x), 1, 1, -1)  # [N, C, H, W], which many attacks expect
        module = nn.Sequential(nn.Flatten(), nn.Unflatten(1, x.shape[1:]), oracle.as_module(index))
        self._norm(threat.norm)
        drawn: dict[str, Any] = {}
        if "seed" in (known := _attack_arguments(self.attack)):
            drawn["seed"] = rng.number("seed", *index.tolist()) % 2**32  # numpy's generator takes no more
        if "n_classes" in known:
            drawn["n_classes"] = oracle.logits(x[:1], index[:1]).shape[1]
        try:
            with torch.enable_grad(), global_rng(rng.number(*index.tolist()), x.device):
                found = self._build(module, threat, **drawn)(images, y).detach().reshape(x.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # third-party code fails in any way
            raise PluginError(
                f"expected torchattacks' '{self.attack}' to run on inputs of shape {tuple(x.shape)}, "
                f"got {type(error).__name__}: {error}; use another attack"
            ) from error
        # Untouched entries come back bit for bit; lerp is exact at both bounds.
        back = torch.lerp(x.new_tensor(low), x.new_tensor(high), found)
        return torch.where(found == unit, x, back)

    def _build(self, module: nn.Module, threat: ThreatModel, **drawn: Any) -> Any:
        """The attack on `module`, with the radius, the norm and the default step size set."""
        arguments, options = _attack_arguments(self.attack), dict(self.options)
        decided: dict[str, Any] = {"eps": threat.epsilon / (threat.bounds[1] - threat.bounds[0]), **drawn}
        if "norm" in arguments:
            decided["norm"] = self._norm(threat.norm)
        if "alpha" in arguments and "alpha" not in options:
            defaults = {name: each.default for name, each in arguments.items()}
            steps = float(defaults.get("steps", 1)) / float(options.get("steps", defaults.get("steps", 1)))
            decided["alpha"] = decided["eps"] * defaults["alpha"] / defaults["eps"] * steps
        if "lr" in arguments and "lr" not in options:  # Adam moves each entry by at most lr a step
            steps = int(options.get("nb_iter", arguments["nb_iter"].default))
            decided["lr"] = 2.5 * decided["eps"] / steps
        return _attack_classes()[self.attack](module, **{**options, **decided})

    def _norm(self, norm: Norm) -> str:
        """The norm's name in torchattacks."""
        if "norm" in _attack_arguments(self.attack):
            known = {"linf": "Linf", "l2": "L2"}
        else:
            known = {"l2": "L2"} if self.attack in _L2 else {"linf": "Linf"}
        if norm not in known:
            raise InputError(
                f"expected norm in {sorted(known)} for torchattacks' '{self.attack}', got '{norm}'; pass one of these"
            )
        return known[norm]


def _attack_classes() -> dict[str, Any]:
    """The attacks of torchattacks that take a radius, by name."""
    try:
        import torchattacks
    except ImportError as error:
        raise MissingExtraError("torchattacks", "torchattacks", "attacks of torchattacks") from error
    every = {name: getattr(torchattacks, name) for name in torchattacks.__all__}
    return {name: kind for name, kind in every.items() if "eps" in inspect.signature(kind.__init__).parameters}


def _attack_arguments(attack: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of `attack`."""
    attacks = _attack_classes()
    if attack not in attacks:
        near = difflib.get_close_matches(attack, attacks, n=1) or [
            name for name in attacks if name.lower() == attack.lower()
        ]
        hint = f"did you mean '{near[0]}'?" if near else "choose one of these"
        raise InputError(
            f"expected an attack of torchattacks with a radius, one of {sorted(attacks)}, got '{attack}'; {hint}"
        )
    return inspect.signature(attacks[attack].__init__).parameters
