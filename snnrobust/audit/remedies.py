"""What to do about an attack, in words. Each text names only options that the attack takes.

`tests/audit/test_remedies.py` loads what the texts name.
"""

from __future__ import annotations

from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.registry import plugin_info
from snnrobust.plugin.usual_attacks import black_box_attack, gradient_attack

FULL_EVIDENCE = "Evaluate with evidence='full'."
MORE_SAMPLES = "Evaluate more samples."


def load_call(name: str, audited: AuditedAttack, more: str = "") -> str:
    """The call that loads an attack under the threat model of an audited one, with further arguments."""
    norm = [] if audited.norm == "linf" else [f"norm='{audited.norm}'"]
    limits = [f"limits={dict(audited.limits)}"] if audited.limits else []
    given = [f"'{name}'", *norm, "epsilon=...", *limits, *([more] if more else [])]
    return f"sr.load({', '.join(given)})"


def black_box(audited: AuditedAttack) -> str:
    """The call that loads a black-box attack that is defined for this threat model."""
    return load_call(black_box_attack(audited.norm), audited)


def adaptive(audited: AuditedAttack, settings: str) -> str:
    """The argument that adds a gradient attack with these settings to an ensemble under this threat model."""
    return f"adaptive=[{{'name': '{gradient_attack(audited.norm, audited.domain)}', {settings}}}]"


def more_steps(audited: AuditedAttack) -> str:
    """How to search longer."""
    has_steps = "steps" in audited.task["parameters"]
    if audited.task["members"]:
        longer = adaptive(audited, "'steps': 200, 'restarts': 5, 'label': 'long'")
        return f"Pass more steps= to {'the ensemble' if has_steps else 'its members'}, or add a member: {longer}."
    if not has_steps:
        usual = gradient_attack(audited.norm, audited.domain)
        several = load_call("apgd" if usual == "pgd" else usual, audited)
        return f"Use an attack of several steps, e.g. {several}."
    return f"Pass more steps={' or restarts=' if _takes_restarts(audited) else ''}."


def another_estimator(audited: AuditedAttack) -> str:
    """How to follow other gradients."""
    if audited.task["members"]:
        mine = adaptive(audited, "'gradient': 'atan', 'label': 'mine'")
        return f"Add members: {mine}."
    standard = load_call("standard", audited)
    return f"Use another estimator (gradient=) or {standard}." if audited.uses_gradients else f"Use {standard}."


def other_objectives(audited: AuditedAttack) -> str:
    """How to follow other gradients of other objectives."""
    if audited.task["members"]:
        more = adaptive(audited, "'gradient': 'atan', 'objective': 'margin', 'label': 'mine'")
        return f"Add members with other estimators or objectives: {more}."
    ensemble = load_call("standard", audited, "adaptive=[...]")
    return f"Attack with other estimators or objectives: {ensemble}."


def missing_evidence(audited: AuditedAttack, quoted: str = "") -> str:
    """What to do where a variant of the attack was not run.

    Args:
        audited: The attack.
        quoted: What to do if the run has evidence="full" and the attack is quoted.
    """
    standard, full = load_call("standard", audited), audited.outcomes.run["evidence"] == "full"
    if audited.label in audited.outcomes.quoted():
        several = (
            "Not measured for this attack: evidence is collected for quoted attacks with several gradient steps. "
            f"Quote {standard}."
        )
        return (quoted or several) if full else FULL_EVIDENCE
    if full:
        return f"Not measured for this attack: evidence is collected for quoted attacks only. Quote {standard}."
    return f"Quote {standard} and evaluate with evidence='full': evidence is collected for quoted attacks only."


def _takes_restarts(audited: AuditedAttack) -> bool:
    """Whether `load` takes restarts= above 1: for optimisers, not for searches for the closest example."""
    try:
        return plugin_info(audited.task["name"]).kind == "optimisers"
    except (InputError, PluginError):  # not installed here
        return False
