"""A table as Markdown."""

import math
import re
from typing import Any

import numpy as np

from reidlib.errors import shown

# Signs that begin something in Markdown: code, stress, HTML, a formula, a cell, the target of a link.
_MARKS = re.compile(r"[\\`*<&$|~]|(?<![^\W_])_|_(?![^\W_])|\](?=\()")


def table_as_markdown(frame) -> str:
    """A pandas DataFrame, without its index, as a pipe table. Numbers are right-aligned and have four digits.

    A missing value is an en dash. No sign of a text begins an element, and line breaks become blanks.
    """

    def text(value: Any) -> str:
        if isinstance(value, float | np.floating):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return "–" if value is None else re.sub(_MARKS, r"\\\g<0>", shown(" ".join(str(value).splitlines())))

    numeric = [frame.dtypes.iloc[column].kind in "iuf" for column in range(frame.shape[1])]
    known = frame.astype(object).where(frame.notna(), None)  # pandas has several missing values
    rows = [
        [text(column) for column in frame.columns],
        ["---:" if right else "---" for right in numeric],
        *([text(value) for value in row] for row in known.itertuples(index=False, name=None)),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
