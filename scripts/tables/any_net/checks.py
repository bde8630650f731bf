"""What is checked of a net: each answer is a number of this package beside one computed without it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from calibrate import rate
from case import Case
from curvature_checks import formal, gauss_newton
from facts import NOTHING, ROUNDING, Facts, Wrong, agree, gradient_of, off
from torch import Tensor

import snnrobust as sr
from snnrobust.acceleration.model import NotAccelerated, accelerated_model
from snnrobust.errors import SnnRobustError
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.atan import ATan

COLUMNS = ("logits", "input gradient", "swap", "accelerated", "activity", "Gauss-Newton", "formal")

Kind = Literal["yes", "refused", "wrong", "none"]


@dataclass(frozen=True)
class Answer:
    """A cell.

    Attributes:
        kind: "yes": agrees with what was computed by hand. "refused": an error that says why. "wrong": it does not
            agree, or fails with an error that says nothing. "none": there is nothing to compare with.
        text: What to show.
        why: The whole message of a refusal or an error.
    """

    kind: Kind
    text: str
    why: str = ""


def answers(case: Case, columns: tuple[str, ...] = COLUMNS) -> dict[str, Answer]:
    """All columns of a row."""
    net = case.net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    silent = [name for name, each in case.spikes(net, case.inputs()).items() if rate(each) < 0.02]
    if silent:
        raise RuntimeError(f"{case.name}: layers {silent} do not fire; calibrate it")
    facts = Facts(case, net)
    checks = dict(zip(COLUMNS, (logits, gradient, swap, accelerated, activity, gauss_newton, formal), strict=True))
    found = {column: _answer(checks[column], facts) for column in columns}
    changed = [name for name, value in net.state_dict().items() if name in before and not _same(value, before[name])]
    left = [name for name in changed if name in dict(net.named_parameters())]
    if left:
        found["logits"] = Answer("wrong", "WRONG: weights were changed", f"changed: {left}")
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def _answer(check: Callable[[Facts], str], facts: Facts) -> Answer:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            facts.leave_state()
            text = check(facts)
        return Answer("none", text.removeprefix(NOTHING)) if text.startswith(NOTHING) else Answer("yes", text)
    except Wrong as error:
        return Answer("wrong", f"WRONG: {error}")
    except (SnnRobustError, NotAccelerated) as error:
        return Answer("refused", "refused", str(error))
    except Exception as error:  # an error of another kind tells the user nothing, whatever it is
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} ({where.filename.rpartition('site-packages/')[2]}:{where.lineno})"
        return Answer("wrong", f"WRONG: {type(error).__name__}", why)


def logits(facts: Facts) -> str:
    """Logits, twice: the second pass must not see the state of the first."""
    want, model = facts.logits(), facts.model()
    facts.leave_state()
    with torch.no_grad():
        ours = [model.logits(facts.x) for _ in range(2)]
    return agree(*(off(each, want) for each in ours))


def gradient(facts: Facts) -> str:
    """The gradient of the cross entropy in the input."""
    try:
        want = facts.gradient()
    except RuntimeError as error:
        got = gradient_of(facts.model().logits, facts.x, facts.y)
        if got.any():
            raise Wrong(f"a gradient where the framework has none ({error})") from None
        return f"{NOTHING}the framework allows none"
    model = facts.model()
    facts.leave_state()
    got = gradient_of(model.logits, facts.x, facts.y)
    if not want.any():
        return f"{NOTHING}both are zero" if not got.any() else agree(1.0)
    return agree(off(got, want))


def swap(facts: Facts) -> str:
    """The gradient with ATan(4) at every spike, and the logits, which must stay as they were."""
    case = facts.case
    model = facts.model()
    facts.leave_state()
    context = swapped(model, facts.x)
    if case.by_hand is None:
        with context:
            gradient_of(model.logits, facts.x, facts.y)
        raise Wrong(f"swapped, where there is nothing to swap: {case.note}")
    own, want = facts.gradient(), facts.gradient(case.by_hand(facts.net))
    if off(own, want) < 10 * ROUNDING:
        raise RuntimeError(f"{case.name}: set by hand, it has the gradient it had; this tests nothing")
    facts.leave_state()
    with context:
        with torch.no_grad():
            values = off(model.logits(facts.x), facts.logits())
        got = gradient_of(model.logits, facts.x, facts.y)
    if values > ROUNDING:
        raise Wrong(f"the logits changed by {values:.1e}")
    after = off(gradient_of(model.logits, facts.x, facts.y), own)
    if after > ROUNDING and own.any():
        raise Wrong(f"the own gradient is not back afterwards, off by {after:.1e}")
    return agree(off(got, want))


def swapped(model: sr.SpikingModel, x: Tensor) -> sr.SpikeGradient:
    """The context of this package that is compared."""
    if (find := getattr(model, "find_spikes", None)) is not None:
        find(x)
    try:
        return sr.SpikeGradient(model, ATan(alpha=4.0))
    except (AttributeError, TypeError):  # before it took models, it took their nets
        return sr.SpikeGradient(model.net, ATan(alpha=4.0))


def accelerated(facts: Facts) -> str:
    """Logits and gradient of the accelerated model, with the own surrogates and with ATan(4)."""
    case, model = facts.case, facts.model()
    model.logits(facts.x)  # as an evaluation does first: it learns the axes of the outputs
    if (find := getattr(model, "find_spikes", None)) is not None:
        find(facts.x)
    keys, said = torch.arange(len(facts.x)), []
    for name, estimator, hand in (("own", Own(), None), ("ATan", ATan(alpha=4.0), case.by_hand)):
        with model.session():
            try:
                fast = accelerated_model(model, estimator)
                fast.compare_once(facts.x, keys)
            except NotAccelerated:
                if name == "own":
                    raise
                said.append(f"{name}: no")
                continue
            got = gradient_of(fast.logits, facts.x, facts.y)
            with torch.no_grad():
                values = fast.logits(facts.x)
            path = fast.path
        if name == "own" or hand is not None:
            want = facts.gradient(None if hand is None else hand(facts.net))
            agree(off(values, facts.logits()), off(got, want))
        said.append(f"{name}: {sum(path.kernels.values())} of {path.nodes}")
    return ", ".join(said)


def activity(facts: Facts) -> str:
    """Firing rates: shares of entries that are not zero, of the recording and of the measurement."""
    want = facts.case.spikes(facts.net, facts.x)
    model = facts.model()
    facts.leave_state()
    recorded = {name: each.flatten() for name, each in model.record(facts.x).spikes.items()}
    if recorded.keys() == want.keys():
        pairs = [(name, recorded[name], want[name]) for name in want]
    else:  # named otherwise, or layers taken apart: all entries together
        pairs = [("all", torch.cat(list(recorded.values())), torch.cat(list(want.values())))]
    for name, got, hand in pairs:
        counts = [(int((each != 0).sum()), each.numel()) for each in (got, hand)]
        if counts[0] != counts[1]:
            raise Wrong(
                f"layer {name}: {counts[0][0]} of {counts[0][1]} entries, by hand {counts[1][0]} of {counts[1][1]}"
            )
    report = sr.evaluate(model, (facts.x, facts.y), ["activity"], evidence="none", progress=False)
    rows = report.to_frame()
    found = {
        str(row.metric).partition(":")[2]: float(row.value)
        for row in rows.itertuples()
        if str(row.metric).startswith("firing_rate:")
    }
    for name, each in found.items():
        if name not in recorded or abs(each - rate(recorded[name])) > 1e-6:
            raise Wrong(f"measured rate of {name} {each:.4f}, recorded {rate(recorded.get(name, torch.zeros(1))):.4f}")
    rates = [rate(each) for each in recorded.values()]
    return f"{min(rates):.2f} to {max(rates):.2f}" if len(rates) > 1 else f"{rates[0]:.2f}"
