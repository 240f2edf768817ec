"""What the report adds to the notebooks: files to take along, search, a map of the papers, provenance."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_report import page, png, shown, write_executed

from reidlib.files import REPOSITORY, write_json
from reidlib.report import build_report, outside_references
from reidlib.report.made import made_from
from reidlib.report.paper_map import paper_items, state_of
from reidlib.report.search import as_json, sections_of
from reidlib.study.results import Study
from reidlib.study.steps import Step, read_cells


@pytest.fixture
def study(tmp_path) -> Study:
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def test_figures_and_tables_can_be_taken_along(study):
    frame = pd.DataFrame({"a": [1, 2]})
    study.save_table(frame, "counts")
    study.save_table(frame, "unshown")
    study.save_figure(Figure(figsize=(1, 1)), "curve+1", frame)
    table = shown({"text/html": frame.to_html()})
    picture = new_output(
        "display_data",
        data={"image/png": png(3, 2)},
        metadata={"image/png": {"alt": "A curve.", "name": "curve+1"}},
    )
    unsaved = new_output("display_data", data={"image/png": png(3, 2)})
    write_executed(
        study.notebooks / "20_ablation_abdnet.ipynb",
        new_markdown_cell("# Ablation"),
        new_code_cell('study.save_table(frame, "counts")\nframe', outputs=[table]),
        new_code_cell('study.save_figure(curve, "curve+1")', outputs=[picture]),
        new_code_cell("x", outputs=[unsaved]),
    )
    index = build_report(
        study, title="T", facts={}, steps=[Step("20_ablation_abdnet", "20_ablation_abdnet", {})]
    )
    body = page(index.parent, "20_ablation_abdnet.html").article
    links = {link.get_text(): link["href"] for link in body.select("#table-counts .files a")}
    assert links == {
        "CSV": "files/tables/counts.csv",
        "Markdown": "files/tables/counts.md",
        "LaTeX": "files/tables/counts.tex",
    }
    figure = body.select_one("#figure-curve-1")
    links = {link.get_text(): link["href"] for link in figure.select(".files a")}
    assert figure.img["alt"] == "A curve."
    assert links == {
        "PNG": "files/figures/curve%2B1.png",
        "PDF": "files/figures/curve%2B1.pdf",
        "numbers (CSV)": "files/figures/curve%2B1.csv",
    }
    copied = {path.name: path.read_bytes() for path in (index.parent / "files").rglob("*.*")}
    assert sorted(copied) == [
        *("counts.csv", "counts.md", "counts.tex"),
        *("curve+1.csv", "curve+1.pdf", "curve+1.png"),
    ]
    assert copied["curve+1.png"] == (study.figures / "curve+1.png").read_bytes()
    assert body.select("figure")[1]["id"] == "figure-2" and not body.select("#figure-2 .files")
    assert outside_references(index.parent) == []


def test_the_text_of_a_page_is_found_by_section():
    body = """<h1 id="t">Title</h1><p>Lead with <b>strong</b> words.</p>
    <details class="code"><pre>hidden = 1</pre></details><h2 id="a">First</h2><table><td>61.2</td></table>
    <img alt="A falling curve"><h3 id="b">Sub &lt;</h3>"""
    found = [(one.href, one.heading, one.text) for one in sections_of(body, "x.html", "Page")]
    assert found == [
        ("x.html", "", "Lead with strong words."),
        ("x.html#a", "First", "61.2 A falling curve"),
        ("x.html#b", "Sub <", ""),
    ]
    text = as_json(sections_of("<h1 id=t>T</h1>&lt;/script> x", "x.html", "P"))
    assert "<" not in text and json.loads(text)[0]["text"] == "</script> x"


def test_every_item_of_the_papers_map_is_made_by_a_notebook():
    """It names a notebook of the study, which saves what the map points to."""
    for item in paper_items():
        cells = read_cells(REPOSITORY / "notebooks" / f"{item.notebook}.ipynb")
        saves = f'"{item.saved}"'
        assert any(saves in cell.source and "study.save_" in cell.source for cell in cells), item


@pytest.mark.parametrize(
    ("number", "profile", "dataset", "there", "state"),
    [
        ("Table 2", "paper", "market1501", True, "made again"),
        ("Table 2", "demo", "market1501", True, "made with other settings"),
        ("Table 2", "paper", "synthetic", True, "published rows only: not run on this data set"),
        ("Figures 1 and 5", "paper", "folder", True, "made with other data"),
        ("Figures 1 and 5", "demo", "folder", True, "made with other data"),
        ("Figures 1 and 5", "demo", "synthetic", False, "not run"),
        (
            "ablation tables",
            "paper",
            "market1501",
            True,
            "ours only: the published numbers were not recovered",
        ),
        ("network figure", "demo", "synthetic", True, "drawn from the built model"),
    ],
)
def test_states_of_figures_and_tables(number, profile, dataset, there, state):
    item = next(item for item in paper_items() if item.number == number)
    assert state_of(item, Study(profile, dataset, Path("x")), there) == state


def test_the_map_leads_to_the_page_its_runs_and_its_numbers(study):
    study.save_table(pd.DataFrame({"a": [1]}), "ablation_abdnet")
    table = shown({"text/html": "<table><tr><td>1</td></tr></table>"})
    source = 'study.save_table(frame, "ablation_abdnet")'
    write_executed(study.notebooks / "20_ablation_abdnet.ipynb", new_code_cell(source, outputs=[table]))
    needs = ("01_data", "10_train/baseline-seed0", "10_train/abdnet-seed0")
    step = Step("20_ablation_abdnet", "20_ablation_abdnet", {}, needs)
    index = page(build_report(study, title="T", facts={}, steps=[step]).parent, "index.html")
    rows = {
        row.td.get_text(): row for row in index.select("#paper-map tbody tr") if row.th.string == "ABD-Net"
    }
    cells = [cell.get_text() for cell in rows["Table 1"].find_all("td")]
    assert cells == ["Table 1", "ablation", "made with other data", "2", "CSV of Table 1"]
    hrefs = [link["href"] for link in rows["Table 1"].find_all("a")]
    assert hrefs == ["20_ablation_abdnet.html#table-ablation-abdnet", "files/tables/ablation_abdnet.csv"]
    assert [cell.get_text() for cell in rows["Table 2"].find_all("td")][2:] == ["not run", "–", "–"]


def test_a_page_says_how_it_was_made(study):
    metadata = {
        "papermill": {
            "parameters": {"seed": 3, "results": str(study.root.parent), "overrides": {}},
            "end_time": "2026-01-02T03:04:05.678",
            "duration": 12.4,
        },
        "reidlib": {
            "made_by": {"commit": "abc", "python": "3.11", "torch": "2", "processor": "P", "cores": 2},
            "command": f"python run_all.py --results {study.root.parent}/x --only 10_train",
        },
    }
    notebook = new_notebook(metadata=metadata)
    write_json(
        study.steps / "01_data.json", {"parts": {"reads": {"train images": "0123456789abcdef", "x": "y"}}}
    )
    facts = dict(made_from(notebook, study, "01_data"))
    assert facts == {
        "Parameters": "seed = 3",
        "Commit": "abc",
        "Versions": "Python 3.11, torch 2",
        "Hardware": "P, 2 cores",
        "Made": "2026-01-02 03:04:05",
        "Time": "12 s",
        "Images": "train images 0123456789ab",
        "Again": facts["Again"],
    }
    (study.steps / "01_data.json").write_text("[]")
    bare = dict(made_from(new_notebook(), study, "01_data"))
    assert bare == {"Again": "python run_all.py --profile demo --dataset synthetic --only 01_data --force"}
    of_reference = replace(study, reference=study.root)
    again = dict(made_from(new_notebook(), of_reference, "90_report"))["Again"]
    assert again == "python run_all.py --reference --only 90_report --force", (
        "its runs are not the study's own"
    )
