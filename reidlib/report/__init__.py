"""The executed notebooks as one offline site.

`build_report` writes it, `write_archive` packs it as one file, and `outside_references` looks for what it
would load from elsewhere. `build` lays out the pages, `notebook_html` makes each of them, and `clean_html`
makes what notebooks hold harmless.
"""

from reidlib.report.archive import write_archive
from reidlib.report.build import build_report
from reidlib.report.outside import outside_references

__all__ = ["build_report", "outside_references", "write_archive"]
