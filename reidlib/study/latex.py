"""A table as LaTeX: pandas' Styler lays it out with booktabs; this module makes every text fit for pdfLaTeX.

The texts of a table come from papers, settings and file names, so they may hold any character. Those that
pdfLaTeX takes with T1 fonts stay; mathematical signs, subscripts and superscripts become commands; any other
is written as its number.
"""

import math
import re
import unicodedata
from typing import Any

import numpy as np

from reidlib.errors import shown

HEAD = (
    r"% for \input; it needs \usepackage[T1]{fontenc}, \usepackage[utf8]{inputenc} and "
    r"\usepackage{textcomp,amssymb,array,booktabs,graphicx}"
)
# A table that is wider than the text is made as wide as the text, a narrower one stays as it is.
BEGIN = r"\noindent\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
LONGEST = 40  # characters in a cell from which a column of texts breaks its lines

# Characters beside ASCII that T1 fonts and textcomp have: Latin-1, Latin Extended-A, signs of punctuation.
_TAKEN = ({*map(chr, range(0xA0, 0x180))} - {*"\xadĦħĸĿŀŉſŦŧ"}) | {*"–—‘’‚“”„†‡•…‰€™"}
_SIGNS = {
    "αβγδεζηθικλμνξπρςστυφχψω": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi "
    "rho varsigma sigma tau upsilon phi chi psi omega",
    "ΓΔΘΛΞΠΣΥΦΨΩ": "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega",
    "∓≤≥≠≈∞√∑∂∈⊤": "mp leq geq neq approx infty surd sum partial in top",
    "→←↔‖⌊⌋⌈⌉✓✗": "rightarrow leftarrow leftrightarrow | lfloor rfloor lceil rceil checkmark times",
}
_MATHEMATICS = {
    sign: f"\\{name}"
    for signs, names in _SIGNS.items()
    for sign, name in zip(signs, names.split(), strict=True)
} | {"−": "-"}
# Two signs that TeX's fonts join to another one, such as two hyphens to a dash.
_JOINED = re.compile(r"(?<=([-<>,'`]))(?=\1)|(?<=[?!])(?=`)")
_MINUS = re.compile(r"(?<![\w-])-(?=\.?\d)")
# A score as `show.text` writes it: sign, number, deviation, interval, seeds; or that there is none.
_NUMBER = re.compile(
    r"(< ?)?[+−-]?\d[\d,.]*( ?%)?( ± [\d.]+)?(, over people)?( \[[+−-]?[\d.]+, [+−-]?[\d.]+\])?"
    r"( \(\d+ seeds\))?"
)
_NO_NUMBER = ("–", "not run", "not reproduced")


def table_as_latex(frame) -> str:
    """A pandas DataFrame, without its index, as a LaTeX tabular with booktabs' rules.

    Numbers have four digits and are right-aligned, as are scores in text; a missing value is an en dash.
    Columns of long texts break their lines. No table is wider than the text.
    """
    texts = frame.set_axis([_one_line(name) for name in frame.columns], axis=1).astype(object)
    texts = texts.map(lambda value: value if _is_float(value) else _one_line(value), na_action="ignore")
    numeric = [frame.dtypes.iloc[place].kind in "iuf" for place in range(frame.shape[1])]
    form = "".join(_column(texts.iloc[:, place], right) for place, right in enumerate(numeric))
    styler = texts.style.hide(axis="index").format(_in_latex, na_rep="–", escape="latex")
    table = styler.format_index(_in_latex, axis=1, escape="latex").to_latex(column_format=form, hrules=True)
    return f"{HEAD}\n{BEGIN}\n{table.rstrip()}%\n}}\n"


def _one_line(value: Any) -> str:
    return shown(" ".join(str(value).splitlines()))


def _is_float(value: Any) -> bool:
    return isinstance(value, float | np.floating)


def _column(texts, numeric: bool) -> str:
    """The column's letter for tabular: r, l, or a paragraph as wide as half of its longest text."""
    cells = [text for text in texts.dropna() if not _is_float(text) and text not in _NO_NUMBER]
    if numeric or (cells and all(map(_NUMBER.fullmatch, cells))):
        return "r"
    longest = max(map(len, cells), default=0)
    if longest <= LONGEST:
        return "l"
    return rf">{{\raggedright\arraybackslash}}p{{{min(longest // 4, 24)}em}}"


def _in_latex(value: Any) -> str:
    """A number with four digits, or a text that pandas has escaped, in signs that pdfLaTeX takes."""
    if _is_float(value):
        value = f"{value:.4g}" if math.isfinite(value) else "–"
    text = _JOINED.sub("{}", _MINUS.sub("−", value))
    text = "".join(map(_sign, text))
    return "{}" + text if text[:1] in ("[", "*") else text  # after \\ they would be read as its arguments


def _sign(character: str) -> str:
    if character.isascii() or character in _TAKEN:
        return character
    if character in _MATHEMATICS:
        return rf"\ensuremath{{{_MATHEMATICS[character]}}}"
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    if kind in ("<sub>", "<super>"):
        place = "sub" if kind == "<sub>" else "super"
        return rf"\text{place}script{{{''.join(_sign(chr(int(one, 16))) for one in code.split())}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"
