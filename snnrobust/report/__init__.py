"""The report and what is drawn from it: tables, plots and the page."""

from snnrobust.report.comparison import Comparison
from snnrobust.report.members import Member
from snnrobust.report.report import Report
from snnrobust.report.transfer import Transfer

__all__ = ["Comparison", "Member", "Report", "Transfer"]
