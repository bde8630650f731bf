"""The report, and its output: tables, plots and the page."""

from snnrobust.analysis.comparison import Comparison
from snnrobust.analysis.members import Member
from snnrobust.analysis.transfer import Transfer
from snnrobust.report.report import Report

__all__ = ["Comparison", "Member", "Report", "Transfer"]
