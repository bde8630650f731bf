"""What a report claims, and what its verdict says about that: a table and a few sentences."""

from __future__ import annotations

from collections.abc import Iterable

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import Judged
from snnrobust.report.findings import checks, deciding
from snnrobust.report.tables import Cell, Row, Table, share, strength
from snnrobust.results.records import Claim


def claims_table(judged: Judged, quoted: bool) -> Table:
    """The quoted claims or the others: a group for each model and threat model, a row for each attack and radius."""
    groups: dict[str, list[Row]] = {}
    above: dict[str, tuple[str, str]] = {}
    for claim in judged.claims:
        if claim.quoted == quoted:
            group = f"{claim.model}, {claim.threat}"
            failed = _names((*claim.failed, *(f"{name} (advice)" for name in claim.advice)))
            open_ones = failed, _names(claim.missing)
            cells = [
                Cell(strength(claim.strength)),
                share(claim.value, claim.low, claim.high, claim.assumed),
                Cell(claim.verdict, badge=claim.verdict),
                Cell(f"{claim.count:,}"),
                *map(Cell, _unless_repeated(open_ones, above.get(group))),
            ]
            groups.setdefault(group, []).append(Row(claim.label, cells))
            above[group] = open_ones
    columns = ["Attack", "Epsilon", "Robust accuracy", "Verdict", "Samples", "Failed checks", "Missing evidence"]
    caption = "Quoted claims" if quoted else "Claims that are not quoted"
    return Table(f"{caption}, with 95 % intervals", columns, list(groups.items()), frozenset({5, 6}))


def evidence(outcomes: Outcomes) -> str:
    """What the audit has beside the numbers themselves."""
    if outcomes.run["evidence"] == "none":
        return "none"
    if not any(outcomes.run["evidence_tasks"].values()):
        return "the numbers themselves and a probe of each model"
    return f"further attacks on {len(outcomes.run['rows']):,} random samples"


def meaning(judged: Judged) -> str:
    """What the verdict means, in a few sentences."""
    if not judged.findings:
        return "No evidence was collected (evidence='none'): nothing is known about how far to trust these numbers."
    made = [claim for claim in judged.claims if claim.quoted]
    decided = checks(deciding(judged))
    if not made:
        subject = "No number at a positive radius was found: nothing is known about robustness against an adversary."
    else:
        attacks = ", ".join(dict.fromkeys(claim.label for claim in made))
        subject = (
            f"The verdict is the worst one on the quoted claims: robust accuracy under {attacks} ({_count(made)}). "
            "Other numbers have verdicts of their own below."
        )
    if judged.verdict == "untrustworthy":
        fatal = _names(check.worst.name for check in decided if check.passed is False and check.worst.fatal)
        return (
            f"{subject} At least one check whose failure makes numbers meaningless has failed: {fatal}. "
            "Do not quote the numbers concerned before that is settled."
        )
    if judged.verdict == "trusted":
        return (
            f"{subject} Every required check of them passed: nothing in the evidence speaks against these numbers. "
            "They remain upper bounds on robustness, since a stronger attack may break more."
        )
    failed = _names(check.worst.name for check in decided if check.passed is False and check.counts)
    missing = _names(check.worst.name for check in decided if check.passed is None and check.counts)
    return (
        f"{subject} Failed: {failed}. Without evidence: {missing}. None of that makes the numbers meaningless, but "
        "each may flatter the model: read the findings before quoting a number."
    )


def _unless_repeated(names: tuple[str, str], above: tuple[str, str] | None) -> list[str]:
    """Long lists are often the same from radius to radius, and would make rows of many lines."""
    if above is None:
        return list(names)
    return ["as above" if len(name) > 30 and name == over else name for name, over in zip(names, above, strict=True)]


def _count(made: list[Claim]) -> str:
    trusted = sum(claim.verdict == "trusted" for claim in made)
    return f"{len(made)} {'number' if len(made) == 1 else 'numbers'}, {trusted} of them trusted"


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"
