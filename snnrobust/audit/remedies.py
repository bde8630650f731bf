"""What to do about an attack, in words. Each text names only options that the attack takes.

`tests/audit/test_remedies.py` loads what the texts name.
"""

from __future__ import annotations

from snnrobust.audit.audited_attack import AuditedAttack
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.registry import plugin_info

FULL_EVIDENCE = "Evaluate with evidence='full'."
MORE_SAMPLES = "Evaluate more samples."


def load_call(name: str, norm: str, more: str = "") -> str:
    """The call that loads an attack under this norm, with further arguments."""
    given = [f"'{name}'", *([] if norm == "linf" else [f"norm='{norm}'"]), "epsilon=...", *([more] if more else [])]
    return f"sr.load({', '.join(given)})"


def black_box(norm: str) -> str:
    """The call that loads a black-box attack that is defined for this norm."""
    return load_call("square" if norm in ("linf", "l2") else "random-search", norm)


def adaptive(norm: str, settings: str) -> str:
    """The argument that adds a gradient attack with these settings to an ensemble under this norm."""
    return f"adaptive=[{{'name': '{'flips' if norm == 'l0' else 'pgd'}', {settings}}}]"


def more_steps(audited: AuditedAttack) -> str:
    """How to search longer."""
    norm, has_steps = audited.norm, "steps" in audited.task["parameters"]
    if audited.task["members"]:
        longer = adaptive(norm, "'steps': 200, 'restarts': 5, 'label': 'long'")
        return f"Pass more steps= to {'the ensemble' if has_steps else 'its members'}, or add a member: {longer}."
    if not has_steps:
        several = load_call("flips" if norm == "l0" else "apgd", norm)
        return f"Use an attack of several steps, e.g. {several}."
    return f"Pass more steps={' or restarts=' if _takes_restarts(audited) else ''}."


def another_estimator(audited: AuditedAttack) -> str:
    """How to follow other gradients."""
    if audited.task["members"]:
        mine = adaptive(audited.norm, "'gradient': 'atan', 'label': 'mine'")
        return f"Add members: {mine}."
    standard = load_call("standard", audited.norm)
    return f"Use another estimator (gradient=) or {standard}." if audited.uses_gradients else f"Use {standard}."


def other_objectives(audited: AuditedAttack) -> str:
    """How to follow other gradients of other objectives."""
    if audited.task["members"]:
        more = adaptive(audited.norm, "'gradient': 'atan', 'objective': 'margin', 'label': 'mine'")
        return f"Add members with other estimators or objectives: {more}."
    ensemble = load_call("standard", audited.norm, "adaptive=[...]")
    return f"Attack with other estimators or objectives: {ensemble}."


def missing_evidence(audited: AuditedAttack, quoted: str = "") -> str:
    """What to do where a variant of the attack was not run.

    Args:
        audited: The attack.
        quoted: What to do if the run has evidence="full" and the attack is quoted.
    """
    standard, full = load_call("standard", audited.norm), audited.outcomes.run["evidence"] == "full"
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
