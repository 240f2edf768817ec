"""Tables as LaTeX: what pdfLaTeX would refuse is found by a parser, and by TeX itself where there is one."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.show import tables
from reidlib.study.latex import table_as_latex
from reidlib.study.results import Study

COMMANDS = {
    *("resizebox", "ifdim", "width", "linewidth", "else", "fi", "raggedright", "arraybackslash"),
    *("begin", "end", "toprule", "midrule", "bottomrule", "textbackslash", "textasciitilde"),
    *("textasciicircum", "ensuremath", "textsubscript", "textsuperscript", "texttt", "space"),
}
SIGNS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau "
SIGNS += (
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega mp leq geq neq "
)
SIGNS += "approx infty surd sum partial in top rightarrow leftarrow leftrightarrow lfloor rfloor lceil rceil "
SIGNS += "checkmark times"
# Characters beside ASCII in a document with utf8 and T1 fonts, as inputenc and textcomp declare them.
KNOWN = re.compile(r"[\x20-\x7e\n –—‘’“”…±×·²³éü°µ]")


def body(latex):
    """The rows between the rules, split at the column marks; everything that TeX would refuse is refused."""
    assert latex.startswith("% ") and latex.count("%\n") >= 2
    text = latex.split("\n", 1)[1]
    depth = 0
    for sign in re.sub(r"\\[\\{}]", "", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0, "braces"
    form = re.search(r"\\begin\{tabular\}\{((?:[lr]|>\{\\raggedright\\arraybackslash\}p\{\d+em\})*)\}", text)
    columns = len(re.sub(r">\{[^}]*\}p\{[^}]*\}", "p", form[1]))
    rows = re.search(r"\\toprule\n(.*)\\bottomrule\n\\end\{tabular\}%\n\}\n$", text, re.DOTALL)[1]
    assert rows.count("\\midrule\n") == 1
    lines = [line for line in rows.split("\n") if line and line != "\\midrule"]
    cells = []
    for line in lines:
        assert line.endswith(r" \\")
        assert not re.match(r"\s*[*\[]", line), "TeX reads what follows \\\\ as its argument"
        assert not re.search(r"(?<!\\)[#$%^_~]", line)
        cells.append(re.split(r"(?<!\\) & ", line.removesuffix(r" \\")))
        assert len(cells[-1]) == columns
    assert set(re.findall(r"\\([A-Za-z]+)", rows)) <= COMMANDS | set(SIGNS.split())
    assert all(map(KNOWN.fullmatch, rows)), {sign for sign in rows if not KNOWN.fullmatch(sign)}
    return re.sub(r">\{[^}]*\}(p)\{[^}]*\}", r"\1", form[1]), cells


def test_a_table_by_hand():
    frame = pd.DataFrame(
        {
            "λ₁ & β": ["a_b", "50 % → {x}", None],
            "mAP": [0.123456, float("nan"), -2.0],
            "seeds": [1, 22, 3],
            "ours [95 %]": ["60.0 ± 10.0 (3 seeds)", "not run", "–"],
        }
    )
    columns, (head, *rows) = body(table_as_latex(frame))
    assert columns == "lrrr"
    assert head[0] == (r"\ensuremath{\lambda}\textsubscript{1} \& \ensuremath{\beta}")
    assert rows == [
        [r"a\_b", "0.1235", "1", "60.0 ± 10.0 (3 seeds)"],
        [r"50 \% \ensuremath{\rightarrow} \{x\}", "–", "22", "not run"],
        ["–", r"\ensuremath{-}2", "3", "–"],
    ]


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (["87.3", "95.6 [94.0, 97.1]", "–"], "r"),
        (["+1.2 [-0.3, +2.7]", "+0.4, over people [-1.0, +2.0]", "not run"], "r"),
        (["< 0.001", "0.031"], "r"),
        (["12,936", "751"], "r"),
        (["–", "not run"], "l"),
        (["2 × 3", "4"], "l"),
        (["did not learn", "87.3"], "l"),
        (["x" * 41], "p"),
    ],
)
def test_scores_in_text_are_right_aligned_and_long_texts_break_their_lines(cells, column):
    assert body(table_as_latex(pd.DataFrame({"a": cells})))[0] == column


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("--seeds 0 << 1", r"-{}-seeds 0 <{}< 1"),
        ("``x'' ?` !`", r"`{}`x'{}' ?{}` !{}`"),
        ("[0.1, 0.2]", "{}[0.1, 0.2]"),
        ("* a", "{}* a"),
        ("\\~^#$", r"\textbackslash \textasciitilde \textasciicircum \#\$"),
        ("FFᵀ ≥ α·γ² ✓ ✗", None),
        ("a\nb\tc", "a b\\textbackslash tc"),
        ("中", r"\texttt{U+4E2D}"),
        ("x\udce9", r"x\textbackslash xe9"),
    ],
)
def test_texts_that_tex_would_misread(text, written):
    _, (_, (cell,)) = body(table_as_latex(pd.DataFrame({"a": [text]})))
    assert written is None or cell == written


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.one_of(st.text(max_size=8), st.floats(), st.none()), min_size=2, max_size=2)))
def test_any_table_is_one_that_tex_takes(rows):
    names = ["".join(str(cell) for cell in rows[0]) if rows else "", "b & c"]
    columns, cells = body(table_as_latex(pd.DataFrame(rows, columns=names)).translate(LATIN))
    assert len(columns) == 2 and len(cells) == len(rows) + 1


# Accented Latin letters, which T1 fonts have, as one of them.
LATIN = dict.fromkeys([*range(0xA0, 0x180), *map(ord, "‚„†‡•‰€™")], "é")


ODD = (
    "--",
    "\\end{tabular}",
    "#$%&~_^{}",
    "λ₁‖p‖ 中 ✓",
    "[1]",
    "* 2",
    "–±×·²³éü…",
    "αβγλπσΔΣ∓≤≥≠≈∞√∑∂∈⊤→←↔⌊⌋⌈⌉✗−ᵀ",
)


def published():
    """The tables of the papers, and others with all that the study's tables hold."""
    return {
        "table1": tables.ablation_table([], "synthetic"),
        **{
            name: tables.comparison_table({dataset: []}, name, dataset, "demo")
            for name, dataset in (
                ("abdnet_table2_market1501", "market1501"),
                ("abdnet_table3_dukemtmc", "dukemtmc-reid"),
                ("abdnet_table4_msmt17", "msmt17"),
            )
        },
        "pfsa": tables.pfsa_table(dict.fromkeys(tables.PAPER_COLUMN, ()), "demo"),
        "methods": tables.methods_table(),
        "deviations": tables.deviations_table(),
        "left out": tables.left_out_table(),
        "odd": pd.DataFrame(
            {"[a] *": ["--", "\\end{tabular}", "#$%&~_^{}", "λ₁‖p‖ 中 ✓"], "x" * 60: "y " * 200}
        ),
        "empty": pd.DataFrame({"a": []}),
    }


def test_the_published_tables_and_ours_are_tables_for_tex():
    for name, frame in published().items():
        columns, (_, *rows) = body(table_as_latex(frame))
        assert len(rows) == len(frame), name
    columns, cells = body(table_as_latex(published()["abdnet_table2_market1501"]))
    assert columns.startswith("llrr"), "method, venue, rank-1, mAP"
    assert ["ABD-Net", "95.6", "88.28"] in [[row[0], *row[2:4]] for row in cells]
    assert ["ABD-Net", "not run"] in [[row[0], row[2]] for row in cells], "ours"


def test_a_saved_table_has_its_latex_beside_it(tmp_path):
    study = Study("demo", "synthetic", tmp_path)
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": pd.array([1, None], dtype="Int64")}, index=["x", "y"])
    saved = study.save_table(frame.rename_axis("row"), "one")
    columns, cells = body(saved.with_suffix(".tex").read_text(encoding="utf-8"))
    assert columns == "lrr" and cells == [["row", "a", "b"], ["x", "1.5", "1"], ["y", "–", "–"]]
    assert saved.with_suffix(".md").read_text(encoding="utf-8").splitlines()[-1] == "| y | – | – |"


TEX = next(filter(None, map(shutil.which, ("pdflatex", "tectonic", "xelatex", "lualatex"))), None)


@pytest.mark.skipif(TEX is None, reason="there is no TeX on this machine: the parser above stands in for it")
def test_tex_takes_the_tables(tmp_path):
    engine = {} if TEX is None or "pdflatex" not in TEX else {"T1": r"\usepackage[T1]{fontenc}"}
    head = [r"\documentclass{article}", *engine.values(), r"\usepackage[utf8]{inputenc}"]
    head += [r"\usepackage{textcomp,amssymb,array,booktabs,graphicx}", r"\begin{document}"]
    parts = [f"{table_as_latex(frame)}\n\\newpage" for frame in published().values()]
    source = tmp_path / "tables.tex"
    source.write_text("\n".join([*head, *parts, r"\end{document}"]), encoding="utf-8")
    options = [] if TEX.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    options += ["-draftmode"] if engine else []  # without a PDF, which needs fonts
    done = subprocess.run([TEX, *options, source.name], cwd=tmp_path, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    if not TEX.endswith("tectonic"):
        log = source.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        assert "Missing character" not in log
        wide = [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
        assert sum(width > 1 for width in wide) <= 1, "one word of 60 letters"
