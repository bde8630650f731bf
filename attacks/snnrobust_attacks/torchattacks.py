"""Bridge to torchattacks: any of its attacks with a radius, as `load("torchattacks:MIFGSM", epsilon=...)`."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws, global_rng
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.data.padding import without_padding
from snnrobust.errors import InputError, MissingExtraError, PluginError
from snnrobust.plugin.protocols import Queries
from snnrobust.plugin.task import Task
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.wrapping.model import SpikingModel

Scalar = bool | int | float | str

#: Attacks without a `norm` argument that bound the L2 distance; all others bound L-inf.
_L2 = frozenset({"PGDL2", "PGDRSL2"})
#: The norms of torchattacks by the domain and norm of the threat model; see the class.
_NORMS: dict[str, dict[str, str]] = {
    "real": {"linf": "Linf", "l2": "L2"},
    "integer": {"linf": "Linf"},
    "binary": {"linf": "Linf", "l0": "L2", "l1": "L2"},
}
#: Arguments that are set from the threat model, the evaluation's seed and the model.
_DECIDED = frozenset({"self", "model", "eps", "norm", "seed", "verbose", "n_classes"})
#: Arguments whose default is a whole number and whose values need not be.
_REAL = frozenset({"scale", "nsig"})


#: Arguments by which a trial is kept short; a resized input, which may not fit the net, is passed for certain.
_SHORT: dict[str, Any] = {"steps": 2, "n_queries": 2, "nb_sample": 2, "noise_batch_size": 2, "diversity_prob": 1.0}
#: Attacks whose blur is made for this many channels.
_CHANNELS = {"TIFGSM": 3}
#: Members of AutoAttack that ask something of the net or of the shape; all of it takes long.
_MEMBERS = {"AutoAttack": ("APGDT", "Square")}


@dataclass(frozen=True)
class Torchattacks:
    """An attack of torchattacks (Kim 2020, arXiv 2010.01950), which takes images [N, C, H, W] alone.

    Inputs are scaled to [0, 1] before and back after it, and the radius with them. Its random numbers come from the
    global generators, which are seeded by the samples of a batch and restored afterwards: outcomes of a random attack
    depend on the batch size. Every query goes to the freshly reset net.

    Other shapes are folded into images, and unfolded in front of the net, without any change of the order of entries:
    [N, T, C, H, W] into [N, T C, H, W], so that the neighbours of an entry are pixels of its own step and polarity;
    [N, T, F] into one channel [N, 1, T, F], so that they are steps and features next to it; vectors [N, F] into
    [N, 1, 1, F]. What an attack does to channels together (a window of Square) it then does to all steps. Attacks that
    resize need H = W, or T = F.

    In the integer and binary domains an attack searches real values between the bounds, and what it believes of them
    counts for nothing: its result is turned into a legal input before anything is scored. Under L-inf that is
    `threat.project`, which rounds each change to whole numbers. Binary inputs have no other ball than the one of
    flips: k flips are exactly the changes with |d|_0 = |d|_1 = |d|_2^2 = k, so under L0 and L1 an attack that knows L2
    gets the radius sqrt(k), and the k entries that it changed most are flipped. (The nearest legal input would be the
    original itself, since such an attack spreads its budget over many entries, and each of them rounds to no flip.)

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
        """Raises an `InputError` unless the attack takes the norm, the options and inputs of this shape."""
        norm: Norm = "linf" if task.attack is None else task.attack.norm
        threat = model.threat_model(norm, task.strengths[-1])
        self._norm(threat)
        try:
            self._build(nn.PReLU(), threat)  # a module with a parameter, or torchattacks prints a warning
        except Exception as error:  # third-party code fails in any way
            raise InputError(
                f"expected options that torchattacks' '{self.attack}' takes, got {dict(self.options)} and "
                f"{type(error).__name__}: {error}; correct them or leave them out"
            ) from error
        x, lengths = data.test.x[:1], data.test.lengths
        # Sequences come one length a call: an attack that takes images of one height alone fails at the others.
        for steps in [None] if lengths is None else sorted({int(lengths.min()), int(lengths.max())}):
            self._try(model, without_padding(x, steps), threat)

    def _try(self, model: SpikingModel, x: Tensor, threat: ThreatModel) -> None:
        """Runs a few steps on one sample x [1, *]: an attack may need more classes, or images of another shape.

        Raises:
            InputError: If it fails.
        """
        x = x.to(device=model.device, dtype=model.input_dtype)
        images = torch.zeros_like(_folded(x))
        with torch.no_grad():
            logits = model.logits(images.reshape(x.shape))
        for attack in _MEMBERS.get(self.attack, (self.attack,)):
            tried = self if attack == self.attack else replace(self, attack=attack, options=())
            known = _attack_arguments(attack)
            short = {name: value for name, value in _SHORT.items() if name in known}
            if "n_classes" in known:
                short["n_classes"] = logits.shape[1]
            channels = _CHANNELS.get(attack, images.shape[1])
            try:
                if channels != images.shape[1]:
                    raise InputError(f"its blur has {channels} channels, images {images.shape[1]}")
                with torch.enable_grad(), global_rng(0, x.device):
                    tried._build(_unfolding(x, model.as_module()), threat, **short)(images, logits.argmax(dim=1))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # third-party code fails in any way
                raise InputError(
                    f"expected inputs and classes that torchattacks' '{self.attack}' takes, got inputs of shape "
                    f"{tuple(x.shape[1:])}, passed as images of shape {tuple(images.shape[1:])}, "
                    f"{short.get('n_classes', 'any')} classes and {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:120]}; use another attack"
                ) from error

    def perturb(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        """Adversarial examples [N, *] for inputs x [N, *] with labels y [N]; whole numbers in such a domain.

        Raises:
            InputError: If the attack does not support the norm.
            PluginError: If the attack fails on inputs of this shape.
        """
        self._norm(threat)
        if threat.epsilon == 0:
            return x.clone()  # the one allowed input; some attacks divide by the radius
        low, high = threat.bounds
        unit = (x - low) / (high - low)
        drawn: dict[str, Any] = {}
        if "seed" in (known := _attack_arguments(self.attack)):
            drawn["seed"] = rng.number("seed", *index.tolist()) % 2**32  # numpy's generator takes no more
        if "n_classes" in known:
            drawn["n_classes"] = oracle.logits(x[:1], index[:1]).shape[1]
        module = _unfolding(x, oracle.as_module(index))
        try:
            with torch.enable_grad(), global_rng(rng.number(*index.tolist()), x.device):
                found = self._build(module, threat, **drawn)(_folded(unit), y).detach().reshape(x.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # third-party code fails in any way
            raise PluginError(
                f"expected torchattacks' '{self.attack}' to run on inputs of shape {tuple(x.shape)}, "
                f"got {type(error).__name__}: {error}; use another attack"
            ) from error
        # Untouched entries come back bit for bit; lerp is exact at both bounds.
        back = torch.lerp(x.new_tensor(low), x.new_tensor(high), found)
        return _legal(torch.where(found == unit, x, back), x, threat)

    def _build(self, module: nn.Module, threat: ThreatModel, **drawn: Any) -> Any:
        """The attack on `module`, with the radius, the norm and the default step size set."""
        arguments, options = _attack_arguments(self.attack), dict(self.options)
        radius = math.sqrt(threat.whole) if _counts_flips(threat) else threat.epsilon
        decided: dict[str, Any] = {"eps": radius / (threat.bounds[1] - threat.bounds[0]), **drawn}
        if "norm" in arguments:
            decided["norm"] = self._norm(threat)
        if "alpha" in arguments and "alpha" not in options:
            defaults = {name: each.default for name, each in arguments.items()}
            steps = float(defaults.get("steps", 1)) / float(options.get("steps", defaults.get("steps", 1)))
            decided["alpha"] = decided["eps"] * defaults["alpha"] / defaults["eps"] * steps
        if "lr" in arguments and "lr" not in options:  # Adam moves each entry by at most lr a step
            steps = int(options.get("nb_iter", arguments["nb_iter"].default))
            decided["lr"] = 2.5 * decided["eps"] / steps
        return _attack_classes()[self.attack](module, **{**options, **decided})

    def _norm(self, threat: ThreatModel) -> str:
        """The norm's name in torchattacks.

        Raises:
            InputError: If the attack has no such norm.
        """
        own = {"L2"} if self.attack in _L2 else {"Linf"}
        if "norm" in _attack_arguments(self.attack):
            own = {"Linf", "L2"}
        known = {
            domain: {norm: name for norm, name in names.items() if name in own} for domain, names in _NORMS.items()
        }
        names = known.get(threat.domain, {})
        if not names:
            domains = sorted(domain for domain in known if known[domain])
            raise InputError(
                f"expected inputs of a domain in {domains} for torchattacks' '{self.attack}', got '{threat.domain}'; "
                f"use another attack"
            )
        if threat.norm not in names:
            raise InputError(
                f"expected norm in {sorted(names)} for torchattacks' '{self.attack}' in domain '{threat.domain}', "
                f"got '{threat.norm}'; pass one of these"
            )
        return names[threat.norm]


def _folded(x: Tensor) -> Tensor:
    """Inputs x [N, *] as images [N, C, H, W], with all entries in their order."""
    if x.ndim < 4:
        return x.reshape(len(x), *[1] * (4 - x.ndim), *x.shape[1:])
    return x.flatten(1, -3)  # (N, T, C, H, W) -> (N, T C, H, W)


def _unfolding(x: Tensor, net: nn.Module) -> nn.Module:
    """The net behind a module that takes the images of `_folded` apart into inputs like x [N, *]."""
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, x.shape[1:]), net)


def _counts_flips(threat: ThreatModel) -> bool:
    """Whether the radius is a number of flips."""
    return threat.domain == "binary" and threat.norm != "linf"


def _legal(x: Tensor, x0: Tensor, threat: ThreatModel) -> Tensor:
    """What an attack made of `x0` [N, *], x [N, *], as an input of the domain; x itself where that is real."""
    if threat.domain == "real":
        return x
    if _counts_flips(threat):
        flips = ThreatModel("l0", threat.epsilon, threat.bounds, threat.domain)
        x = x0 + flips.steepest(x - x0)  # a flip at each of the largest changes
    return threat.project(x, x0)


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
