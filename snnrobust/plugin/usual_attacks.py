"""The attacks that are run or named where the user chose none: for evidence, comparisons and remedies."""

from __future__ import annotations

from snnrobust.threat_models.threat_model import SHIFTS, Domain, Norm


def gradient_attack(norm: Norm, domain: Domain) -> str:
    """The name of the usual gradient attack under a norm, on inputs of a domain."""
    if domain == "events":
        return "gumbel-events"
    if norm in SHIFTS:
        return "retiming"
    return "pgd" if norm in ("linf", "l2", "l1") else "flips"


def black_box_attack(norm: Norm) -> str:
    """The name of the usual black-box attack under a norm."""
    return "square" if norm in ("linf", "l2") else "random-search"
