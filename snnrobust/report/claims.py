"""The claims of a report as a table, and its verdict as text."""

from __future__ import annotations

from collections.abc import Iterable

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import AuditResult
from snnrobust.report.findings import checks, deciding_findings
from snnrobust.report.tables import Table, TableCell, TableRow, share_cell, strength
from snnrobust.results.records import Claim


def claims_table(audit: AuditResult, quoted: bool) -> Table:
    """The quoted or the other claims: a group for each model and threat model, a row for each attack and radius."""
    groups: dict[str, list[TableRow]] = {}
    above: dict[str, tuple[str, str]] = {}
    for claim in audit.claims:
        if claim.quoted == quoted:
            group = f"{claim.model}, {claim.threat}"
            failed = _name_list((*claim.failed, *(f"{name} (advice)" for name in claim.advice)))
            names = failed, _name_list(claim.missing)
            cells = [
                TableCell(strength(claim.strength)),
                share_cell(claim.value, claim.low, claim.high, claim.assumed),
                TableCell(claim.verdict, badge=claim.verdict),
                TableCell(f"{claim.count:,}"),
                *map(TableCell, _unless_repeated(names, above.get(group))),
            ]
            groups.setdefault(group, []).append(TableRow(claim.label, cells))
            above[group] = names
    columns = ["Attack", "Epsilon", "Robust accuracy", "Verdict", "Samples", "Failed checks", "Missing evidence"]
    caption = "Quoted claims" if quoted else "Claims that are not quoted"
    return Table(f"{caption}, with 95 % intervals", columns, list(groups.items()), frozenset({5, 6}))


def evidence_summary(outcomes: Outcomes) -> str:
    """The evidence of the audit in a few words."""
    if outcomes.run["evidence"] == "none":
        return "none"
    if not any(outcomes.run["evidence_tasks"].values()):
        return "a probe of each model; no further attacks"
    return f"further attacks on {len(outcomes.run['rows']):,} random samples"


def verdict_text(audit: AuditResult) -> str:
    """The verdict in a few sentences."""
    if not audit.findings:
        return "No evidence was collected (evidence='none'), so these numbers were not checked."
    made = [claim for claim in audit.claims if claim.quoted]
    decided = checks(deciding_findings(audit))
    if not made:
        subject = "No attack was run at a positive radius, so nothing is known about robustness against an adversary."
    else:
        attacks = ", ".join(dict.fromkeys(claim.label for claim in made))
        subject = (
            f"The verdict is the worst one on the quoted claims: robust accuracy under {attacks} "
            f"({_trusted_count(made)}). The verdicts on other numbers are below."
        )
    if audit.verdict == "untrustworthy":
        fatal = _name_list(check.worst.name for check in decided if check.passed is False and check.worst.fatal)
        return (
            f"{subject} A fatal check failed, which makes the numbers concerned meaningless: {fatal}. "
            "Do not quote them before it is fixed."
        )
    if audit.verdict == "trusted":
        return (
            f"{subject} All required checks passed. "
            "The numbers remain upper bounds on robustness: a stronger attack may break more samples."
        )
    failed = _name_list(check.worst.name for check in decided if check.passed is False and check.counts)
    missing = _name_list(check.worst.name for check in decided if check.passed is None and check.counts)
    return (
        f"{subject} Failed: {failed}. Evidence missing: {missing}. The numbers may be too high: read these "
        "findings before quoting a number."
    )


def _unless_repeated(names: tuple[str, str], above: tuple[str, str] | None) -> list[str]:
    """The names, with long lists that equal those of the row above replaced by "as above"."""
    if above is None:
        return list(names)
    return ["as above" if len(name) > 30 and name == over else name for name, over in zip(names, above, strict=True)]


def _trusted_count(made: list[Claim]) -> str:
    trusted = sum(claim.verdict == "trusted" for claim in made)
    return f"{len(made)} {'number' if len(made) == 1 else 'numbers'}, {trusted} of them trusted"


def _name_list(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"
