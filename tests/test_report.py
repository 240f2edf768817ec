"""The report: what is shown of a notebook, and that nothing in it comes from outside or runs."""

import base64
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from reidlib.notebook_html import formula
from reidlib.report import build_report, outside_references
from reidlib.results import REPOSITORY, Study, write_json
from reidlib.steps import Step

CAVEATS = ["The people are drawn by a program.", "No ImageNet weights & < no claims."]
FACTS = {"claim": "Attention helps. We check by how much.", "caveats": CAVEATS, "Device": "2 CPU cores"}
HOSTILE = """
<div onclick="steal()" style="background: url(https://example.org/x.png)">kept text</div>
<script src="https://example.org/a.js"></script>
<style>@import "https://example.org/b.css";</style><style>#T_1 { font-weight: bold }</style>
<img src="https://example.org/c.png" alt="lost">
<iframe src="https://example.org"></iframe><link rel="stylesheet" href="https://example.org/d.css">
<form action="https://example.org"></form>
<svg onload="steal()"><circle r="3"></circle></svg><a href="javascript:steal()">trap</a><video poster="https://example.org/e.png"></video>
<object data="https://example.org/f"></object><base href="https://example.org/"><meta http-equiv="refresh" content="0;url=https://example.org">
"""


def png(width: float = 5, height: float = 3, values=(1, 3, 2)) -> str:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.plot(values)
    axes.set(title="Loss", xlabel="epoch", ylabel="loss")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    plt.close(figure)
    return base64.b64encode(target.getvalue()).decode()


def shown(data: dict, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def write_executed(path: Path, *cells) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)


def markdown(text: str):
    return new_markdown_cell(text)


def code(source: str, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def make_study(root: Path) -> tuple[Study, list[Step]]:
    """A study of two runs and three pages as the pipeline would leave it, without running a kernel."""
    study = Study("demo", "synthetic", root / "results" / "demo-synthetic")
    wide = pd.DataFrame([[f"method {row}", *(10.5 * row + column for column in range(14))] for row in range(4)])
    wide.columns = ["method", *(f"a rather long heading {column}" for column in range(14))]
    write_executed(
        study.notebooks / "01_data.ipynb",
        markdown("# The data\n\nPeople are drawn, and every camera sees them *differently*. See [training](10_train.ipynb)."),
        code('dataset = "synthetic"', tags=["parameters"]),
        code(f'data_root = "{root}/data/synthetic"\nseed = 1', tags=["injected-parameters"]),
        markdown(
            "### Counts\n\nBatches of $P \\times K$ images; $$\\frac{1}{N}\\sum_i \\max(0, m + d_i)$$ and $\\nosuchmacro{x}$."
        ),
        code(
            "statistics",
            new_output("execute_result", data={"text/html": wide.rename_axis("row").to_html(), "text/plain": "table"}),
        ),
        code(
            "show(sheet)",
            shown({"image/png": png(9, 5), "text/plain": "<Figure size 900x500 with 1 Axes>"}),
            new_output("stream", name="stderr", text="\r  0%|   | 0/3\r100%|###| 3/3\n"),
            caption="One row for each camera.",
        ),
        markdown("# A second title\n\n" + "A line of prose that goes on for long enough to need to be broken somewhere. " * 6),
        code("print(path)", new_output("stream", name="stdout", text=f"saved {study.root}/figures/sheet.png\n")),
    )
    for seed in (0, 1):
        name = f"baseline+pam-seed{seed}"
        write_executed(
            study.notebooks / "10_train" / f"{name}.ipynb",
            markdown("# One training run\n\nLoss and accuracy over the epochs."),
            code(
                "fit(experiment)",
                *(new_output("stream", name="stdout", text=f"epoch {k}/40  loss {1 / k:.3f}\n") for k in range(1, 41)),
                shown({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "  0%|  | 0/40"}),
                shown({"image/png": png(11, 3)}),
            ),
        )
        interval = [0.55123, 0.68]
        metrics = {"rank1": 0.61234, "rank1_interval": interval, "map": 0.5, "map_interval": interval, "train_seconds": 93.2}
        write_json(study.run("baseline+pam", seed) / "metrics.json", metrics)
    error = new_output("error", ename="MissingRunError", evalue="The run abdnet-seed0 does not exist.", traceback=["long"])
    write_executed(study.notebooks / "30_attention_maps.failed.ipynb", markdown("# Attention"), code("load()", error))
    write_executed(
        study.notebooks / "40_hostile.ipynb", markdown("# Hostile\n\n" + HOSTILE), code("x", shown({"text/html": HOSTILE}))
    )
    names = ["01_data", "10_train/baseline+pam-seed0", "10_train/baseline+pam-seed1", "10_train/gap-seed0", "30_attention_maps"]
    return study, [Step(name, name.split("/")[0], {}) for name in [*names, "40_hostile", "99_last"]]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    study, steps = make_study(tmp_path_factory.mktemp("checkout"))
    index = build_report(study, title="Two attention papers", facts=FACTS, steps=steps)
    assert index == study.report / "index.html"
    return study.report


def page(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / name).read_text(encoding="utf-8"), "html.parser")


def test_index_lists_every_page_and_run(site):
    index = page(site, "index.html")
    cards = {card.h3.get_text(): card for card in index.select(".card")}
    assert list(cards) == ["The data", "Attention", "Hostile", "99_last"]
    assert cards["The data"].img["src"].startswith("data:image/png")
    assert cards["The data"].p.get_text().startswith("People are drawn, and every camera sees them differently.")
    assert "it failed with MissingRunError: The run abdnet-seed0 does not exist." in cards["Attention"].p.get_text()
    assert cards["99_last"].p.get_text() == "Not run." and not cards["99_last"].a
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in index.select("main tbody tr")]
    scores = ["61.2 [55.1 – 68.0]", "50.0 [55.1 – 68.0]", "93 s"]
    assert rows == [["baseline+pam", "0", *scores], ["baseline+pam", "1", *scores], ["gap", "0", "Not run."]]
    assert "Attention helps. We check by how much." in index.get_text()
    assert [entry.get_text() for entry in index.select("dt, dd")] == ["Device", "2 CPU cores"]


def test_every_page_warns_and_links_lead_somewhere(site):
    names = sorted(path.name for path in site.iterdir())
    assert names == [
        "01_data.html",
        "10_train.baseline-with-pam-seed0.html",
        "10_train.baseline-with-pam-seed1.html",
        "40_hostile.html",
        "index.html",
    ]
    for name in names:
        soup = page(site, name)
        assert [line.get_text() for line in soup.select(".banner p")] == CAVEATS
        assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"})
        assert len(soup.find_all("h1")) == 1
        levels = [int(heading.name[1]) for heading in soup.find_all(["h1", "h2", "h3", "h4", "h5", "h6"])]
        assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), name
        assert all(image.has_attr("alt") for image in soup.find_all("img"))
        assert not soup.find_all("script")
    pager = page(site, "10_train.baseline-with-pam-seed1.html").select(".pager a")
    assert [link["href"] for link in pager] == ["10_train.baseline-with-pam-seed0.html", "40_hostile.html"]
    assert outside_references(site) == []


def test_a_notebook_page(site):
    soup = page(site, "01_data.html")
    article = soup.article
    assert [heading.get_text() for heading in article.find_all(["h1", "h2", "h3"])] == ["The data", "Counts", "A second title"]
    assert article.find("a", string="training")["href"] == "10_train.baseline-with-pam-seed0.html"
    formulas = article.select("img.math")
    assert [image["alt"] for image in formulas] == ["P \\times K", "\\frac{1}{N}\\sum_i \\max(0, m + d_i)"]
    assert "\\nosuchmacro{x}" in [tag.get_text() for tag in article.find_all("code")]
    figure = article.find("figure")
    assert figure.img["alt"] == figure.figcaption.get_text() == "One row for each camera."
    assert (figure.img["width"], figure.img["height"]) == ("990", "550")
    assert "100%" not in article.get_text() and "Figure size" not in article.get_text()
    table = article.find("table")
    assert table.parent["class"] == ["scroll"] and table.parent["tabindex"] == "0"
    assert [cell.get_text() for cell in table.thead.find_all("th")][:3] == ["row", "method", "a rather long heading 0"]
    first = table.tbody.tr.find_all(["th", "td"])
    assert [cell.get("class") for cell in first[:3]] == [None, ["short"], ["number"]]
    text = article.get_text()
    assert "saved results/demo-synthetic/figures/sheet.png" in text
    assert "…/synthetic" in text and str(site.parent.parent.parent) not in str(soup)


def test_training_pages_fold_the_log_and_drop_widgets(site):
    article = page(site, "10_train.baseline-with-pam-seed0.html").article
    log = article.find("details", class_="log")
    assert log.summary.get_text() == "Log (40 lines)" and "epoch 40/40" in log.pre.get_text()
    assert "0%" not in article.get_text()
    assert article.find("figure").img["alt"] == "Figure 1: One training run"


def test_hostile_html_is_cut_down(site):
    article = page(site, "40_hostile.html").article
    assert article.get_text().count("kept text") == 2
    assert "example.org" not in str(article) and "steal" not in article.get_text()
    assert not article.find_all(["script", "iframe", "object", "link", "form", "base", "meta", "video"])
    assert not [tag for tag in article.find_all(True) for name in tag.attrs if name.startswith("on")]
    assert not article.find_all("a"), "javascript: is no place to go"
    assert [style.get_text() for style in article.find_all("style")] == ["#T_1 { font-weight: bold }"] * 2


def test_rebuilding_replaces_the_site_and_gives_the_same_bytes(tmp_path):
    study, steps = make_study(tmp_path)
    build_report(study, title="T", facts=FACTS, steps=steps)
    first = {path.name: path.read_bytes() for path in study.report.iterdir()}
    (study.report / "stale.html").write_text("old")
    build_report(study, title="T", facts=FACTS, steps=steps)
    assert {path.name: path.read_bytes() for path in study.report.iterdir()} == first
    (study.notebooks / "01_data.ipynb").write_text("{")
    with pytest.raises(Exception, match=".*"):
        build_report(study, title="T", facts=FACTS, steps=steps)
    assert {path.name: path.read_bytes() for path in study.report.iterdir()} == first, "a failed build leaves the old site"
    assert sorted(path.name for path in study.root.iterdir()) == ["notebooks", "report", "runs"]


def test_without_steps_the_notebooks_that_exist_are_shown(tmp_path):
    study, _ = make_study(tmp_path)
    index = build_report(study, title="T", facts={})
    soup = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser")
    assert [card.h3.get_text() for card in soup.select(".card")] == ["The data", "Attention", "Hostile"]
    assert not soup.select(".banner")


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://example.org/a.js"></script>',
        "<script>fetch('x')</script>",
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link rel="icon" href="//example.org/a.ico">',
        '<img src="http://example.org/a.png">',
        '<img srcset="a.png 1x, https://example.org/a.png 2x" src="data:image/png;base64,AA">',
        '<p style="background: url(https://example.org/a.png)">',
        "<style>@font-face { src: url('https://example.org/a.woff2') }</style>",
        '<style>@import "https://example.org/a.css";</style>',
        '<video poster="https://example.org/a.png"></video>',
        '<iframe src="page.html"></iframe>',
        '<a href="missing.html">x</a>',
        '<a href="../outside.html">x</a>',
        '<img src="file:///etc/hostname">',
        '<meta http-equiv="refresh" content="0; url=https://example.org">',
    ],
)
def test_outside_references_are_found(tmp_path, planted):
    (tmp_path / "outside.html").write_text("x")
    folder = tmp_path / "site"
    folder.mkdir()
    clean = '<p id="a"><a href="#a">x</a><a href="index.html">x</a><a href="https://example.org">paper</a>'
    (folder / "index.html").write_text(clean)
    assert outside_references(folder) == []
    (folder / "index.html").write_text(clean + planted)
    assert len(outside_references(folder)) >= 1


def test_formulas_are_deterministic_pictures():
    shown = BeautifulSoup(formula(r"\alpha^2 < \beta"), "html.parser").img
    svg = base64.b64decode(shown["src"].split(",")[1]).decode()
    assert "<svg" in svg and "metadata" not in svg and "date" not in svg
    assert shown["alt"] == r"\alpha^2 < \beta"
    assert formula(r"\frac{1") == r"<code>\frac{1</code>"


def test_formulas_of_the_notebooks_can_all_be_set():
    texts = [
        cell["source"]
        for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
    ]
    from reidlib.notebook_html import _markdown

    for text in texts:
        source = "".join(text)
        unset = BeautifulSoup(_markdown(source, {}), "html.parser").find_all("code", string=lambda code: code and "\\" in code)
        assert not unset, f"mathtext cannot set {[code.get_text() for code in unset]}"
