"""The report and what is drawn from it: tables, plots and the page."""

from snnrobust.report.report import Report

__all__ = ["Report"]
