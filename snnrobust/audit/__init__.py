"""The audit of a stored run: findings about its numbers, and a verdict on each claim."""

from snnrobust.audit.judgement import AuditResult, audit_outcomes, claims, findings, overall, verdict
from snnrobust.common.deprecation import former_names

__all__ = ["AuditResult", "audit_outcomes", "claims", "findings", "overall", "verdict"]

__getattr__ = former_names(
    "snnrobust.audit", {"Judged": ("AuditResult", AuditResult), "judge": ("audit_outcomes", audit_outcomes)}
)
