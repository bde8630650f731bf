"""Judgement of a stored run: findings, and what they say about each of its numbers."""

from snnrobust.audit.judgement import Judged, claims, findings, judge, overall, verdict

__all__ = ["Judged", "claims", "findings", "judge", "overall", "verdict"]
