"""The executed notebooks as one offline site."""

from reidlib.report.archive import write_archive
from reidlib.report.build import build_report
from reidlib.report.outside import outside_references

__all__ = ["build_report", "outside_references", "write_archive"]
