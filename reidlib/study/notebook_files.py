"""Imports nbformat one second faster, and says which outputs of a notebook are pictures.

nbformat imports jsonschema, which imports rfc3987_syntax to check international web addresses. That package
takes a second to build its parser. jsonschema works without it, and no notebook has such a field.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # importing it now fails, as if it were not installed

import nbformat  # noqa: E402

PICTURES = ("image/png", "image/jpeg", "image/svg+xml")  # kinds of output that the report shows as figures
# Errors of a notebook for whose runs nobody asked: a page that lacks its runs has not failed.
LACKING = ("MissingRunError", "StaleRunError")

__all__ = ["LACKING", "PICTURES", "nbformat"]
