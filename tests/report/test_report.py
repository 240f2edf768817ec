"""The report: what it shows of a notebook. It loads nothing from outside and runs no code."""

import base64
import hashlib
import io
import itertools
import json
import re
from pathlib import Path

import IPython.display
import matplotlib.pyplot as plt
import nbformat
import nh3
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from bs4.element import PreformattedString
from conftest import make_noise_images
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from reidlib import datasets, errors
from reidlib.datasets import load_dataset
from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, write_json
from reidlib.report import build_report, outside_references
from reidlib.report.notebook_html import formula, render, without_paths
from reidlib.report.outside import SCRIPTS
from reidlib.show import text as show_text  # makes pandas escape the cells of tables, too
from reidlib.study.results import Study
from reidlib.study.steps import Step

CAVEATS = ["The people are drawn by a program.", "No ImageNet weights & < no claims."]
FACTS = {"claim": "Attention helps. We check by how much.", "caveats": CAVEATS, "Device": "2 CPU cores"}
HOSTILE = """
<div onclick="steal()" style="background: url(https://example.org/x.png)">kept text</div>
<script src="https://example.org/a.js"></script>
<style>@import "https://example.org/b.css";</style><style>#T_1 { font-weight: bold }</style>
<img src="https://example.org/c.png" alt="lost">
<iframe src="https://example.org"></iframe><link rel="stylesheet" href="https://example.org/d.css">
<form action="https://example.org"></form>
<svg onload="steal()"><circle r="3"></circle></svg><a href="javascript:steal()">trap</a>
<video poster="https://example.org/e.png"></video><object data="https://example.org/f"></object>
<base href="https://example.org/"><meta http-equiv="refresh" content="0;url=https://example.org">
"""
# Texts in which browsers see the HTML in place of `{}`, or would if a sanitiser parsed it differently.
HIDDEN = [
    "{}",
    "<!--\n{}",
    "<!-- x --!>{}",
    "<!-->{}",
    "<!--->{}",
    "<!-- x\n--!>{}-->",
    "<!-- <!-- -->{} -->",
    "<!x>{}",
    "<!x '>{}",
    "<!DOCTYPE x [<!ENTITY y '>{}",
    "<![CDATA[ > {} ]]>",
    "<![CDATA[{}",
    "<? x > {} ?>",
    "<?\n{}",
    "</ x>{}",
    "</ {}",
    "<svg><![CDATA[<p>]]>{}</svg>",
    "<svg><style><!-- {}</style></svg>",
    "<svg></p><style><a title='</style>{}'>",
    "<SVG><title>{}",
    "<math><annotation-xml encoding='text/html'>{}</annotation-xml></math>",
    "<math><mtext><table><mglyph><style><!--</style>{}",
    "<math><mi><style><img title='</style>{}'>",
    "<noscript><p title='</noscript>{}'>",
    "<style><!--</style>{}<!--</style>-->",
    "<script><!--<script></script>{}",
    "<title><!--</title>{}",
    "<textarea><!--</textarea>{}",
    "<template>{}</template>",
    "<select>{}</select>",
    "<xmp><style></xmp>{}",
    "<noembed><!--</noembed>{}",
    "<table>{}<td>{}",
    "<p title='{}'>x",
    "<p title='{}",
    """<img src='data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg"><!--{}--></svg>'>""",
    "<svg>{}</svg>",
    "<svg><svg></svg>{}</svg>",
    "![{}](picture.png)",
    "<plaintext>{}",
]
SEEN = [  # browsers see `{}` in these; html.parser misses some of them, depending on its version
    "<!-- x --!>{}",
    "<!-->{}",
    "<!--->{}",
    "<![CDATA[ > {} ]]>",
    "<? x > {} ?>",
    "<!x '>{}",
    "</ x>{}",
    "<title><style></title>{}",
    "<svg><style>{}</style></svg>",
    "<noscript>{}</noscript>",
    "<xmp><style></xmp>{}",
]
PLANTED = (
    '<meta http-equiv=refresh content="0;url=https://example.org"><script>steal()</script>'
    '<img src="https://example.org/x.png" onerror="steal()"><base href="https://example.org">'
)
# Names as a file, a folder, a title or a path may have them.
NAMES = [
    "0001_c1s1\n\n<!-- x --!><meta http-equiv=refresh content='0;url=https:\\\\example.org'>-->.txt",
    "0001\n\n<!--\n--!><img src=x onerror=window.ran=1><script>window.ran=1</script>",
    "<b>bold</b> <i>&lt;i&gt; &amp; &#60;",
    "![a](https:example.org) [b](javascript:x) <https:example.org> [c]: https:example.org",
    "**a** __b__ _c_ `d` ~~e~~ \\*f\\* a*b*c",
    "$x^2$ $$\\frac{1}{2}$$ \\\\(x\\\\) \\\\[x\\\\] \\begin{a}x\\end{a}",
    "# heading",
    "1. item",
    "- item",
    "+ item",
    "> quote",
    "    code",
    "\tcode",
    "```\ncode",
    "---",
    "a\n===",
    "| a | b |\n|---|---|",
    "a\r\n\x0b\u2028\u2029\x85b",
    "\x00\x1b[31mred\x1b[0m",
    "\u202egnp.\u200b",
    "\udce9\udcff",
    'it\'s "quoted"',
    "{{ 7 * 7 }}{% raw %}",
    "人 é 🙂 Ω_1",
]


def as_printed(name: str) -> str:
    """What a page shows of a name: the same as a message."""
    return errors.shown(name)


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
    content = nbformat.writes(new_notebook(cells=list(cells)))
    path.write_bytes(content.encode(errors="backslashreplace"))  # as JSON writes half of a pair of UTF-16


def markdown(text: str):
    return new_markdown_cell(text)


def code(source: str, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def make_study(root: Path) -> tuple[Study, list[Step]]:
    """A study of two runs and three pages, as the pipeline would leave it. No kernel runs."""
    study = Study("demo", "synthetic", root / "results" / "demo-synthetic")
    wide = pd.DataFrame(
        [[f"method {row}", *(10.5 * row + column for column in range(14))] for row in range(4)]
    )
    wide.columns = ["method", *(f"a rather long heading {column}" for column in range(14))]
    write_executed(
        study.notebooks / "01_data.ipynb",
        markdown(
            "# The data\n\nPeople are drawn, and every camera sees them *differently*. "
            "See [training](10_train.ipynb)."
        ),
        code('dataset = "synthetic"', tags=["parameters"]),
        code(f'data_root = "{root}/data/synthetic"\nseed = 1', tags=["injected-parameters"]),
        markdown(
            "### Counts\n\nBatches of $P \\times K$ images; $$\\frac{1}{N}\\sum_i \\max(0, m + d_i)$$ "
            "and $\\nosuchmacro{x}$."
        ),
        code(
            "statistics",
            new_output(
                "execute_result", data={"text/html": wide.rename_axis("row").to_html(), "text/plain": "table"}
            ),
        ),
        code(
            "show(sheet)",
            shown({"image/png": png(9, 5), "text/plain": "<Figure size 900x500 with 1 Axes>"}),
            new_output("stream", name="stderr", text="\r  0%|   | 0/3\r100%|###| 3/3\n"),
            caption="One row for each camera.",
        ),
        markdown(
            "# A second title\n\n"
            + "A line of prose that goes on for long enough to need to be broken somewhere. " * 6
        ),
        code(
            "print(path)", new_output("stream", name="stdout", text=f"saved {study.root}/figures/sheet.png\n")
        ),
    )
    for seed in (0, 1):
        name = f"baseline+pam-seed{seed}"
        write_executed(
            study.notebooks / "10_train" / f"{name}.ipynb",
            markdown("# One training run\n\nLoss and accuracy over the epochs."),
            code(
                "fit(experiment)",
                *(
                    new_output("stream", name="stdout", text=f"epoch {k}/40  loss {1 / k:.3f}\n")
                    for k in range(1, 41)
                ),
                shown(
                    {
                        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                        "text/plain": "  0%|  | 0/40",
                    }
                ),
                shown({"image/png": png(11, 3)}),
            ),
        )
        interval = [0.55123, 0.68]
        metrics = {
            "rank1": 0.61234,
            "rank1_interval": interval,
            "map": 0.5,
            "map_interval": interval,
            "train_seconds": 93.2,
            "learned": seed == 0,
        }
        write_json(study.run("baseline+pam", seed) / "metrics.json", metrics)
    error = new_output(
        "error", ename="MissingRunError", evalue="The run abdnet-seed0 does not exist.", traceback=["long"]
    )
    write_executed(
        study.notebooks / "30_attention_maps.failed.ipynb", markdown("# Attention"), code("load()", error)
    )
    write_executed(
        study.notebooks / "40_hostile.ipynb",
        markdown("# Hostile\n\n" + HOSTILE),
        code("x", shown({"text/html": HOSTILE})),
    )
    hidden = [text.replace("{}", PLANTED) for text in HIDDEN]
    shown_hidden = [shown({kind: text}) for text in hidden for kind in ("text/html", "text/markdown")]
    cells = [markdown("# Hidden"), *map(markdown, hidden), code("x", *shown_hidden), markdown("The end.")]
    write_executed(study.notebooks / "41_hidden.ipynb", *cells)
    names = [
        "01_data",
        "10_train/baseline+pam-seed0",
        "10_train/baseline+pam-seed1",
        "10_train/gap-seed0",
        "30_attention_maps",
        "40_hostile",
        "41_hidden",
        "99_last",
    ]
    return study, [Step(name, name.split("/")[0], {}) for name in names]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    study, steps = make_study(tmp_path_factory.mktemp("checkout"))
    index = build_report(study, title="Two attention papers", facts=FACTS, steps=steps)
    assert index == study.report / "index.html"
    return study.report


def page(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / name).read_text(encoding="utf-8"), "html.parser")


def body_of(*cells, study: Study | None = None) -> BeautifulSoup:
    """The body of a page of these cells, as browsers parse it."""
    study = study or Study("demo", "synthetic", Path("nowhere"))
    html = render(new_notebook(cells=list(cells)), study, title="T", page_of=lambda notebook: "").body
    return as_browsers_read(html)


def as_browsers_read(html: str) -> BeautifulSoup:
    """Parses as browsers do, with nh3, and keeps every element and every comment."""
    names = set(re.findall(r"<([a-z][a-z0-9-]*)", html.lower())) | {"img"}
    attributes = {"*": {"alt", "class", "content", "href", "http-equiv", "id", "src", "style"}}
    written = nh3.clean(
        html,
        tags=names,
        clean_content_tags=set(),
        attributes=attributes,
        generic_attribute_prefixes={"on"},
        strip_comments=False,
        url_schemes={"data", "file", "http", "https", "javascript", "mailto", "vbscript"},
        link_rel=None,
    )
    return BeautifulSoup(written, "html.parser")


def harmful(soup: BeautifulSoup) -> list:
    """Everything in a page that must not be there, apart from the template's own elements."""
    names = """
    base embed form iframe link math meta noscript object script style svg template textarea title"""
    found = [tag.name for tag in soup.find_all(names.split())]
    found += [name for tag in soup.find_all(True) for name in tag.attrs if name.startswith("on")]
    found += [tag["src"] for tag in soup.find_all(src=True) if not tag["src"].startswith("data:image/")]
    found += soup.find_all(string=lambda text: isinstance(text, PreformattedString))  # comments and the like
    return found


def test_index_lists_every_page_and_run(site):
    index = page(site, "index.html")
    cards = {card.h3.get_text(): card for card in index.select(".card")}
    assert list(cards) == ["The data", "Attention", "Hostile", "Hidden", "99_last"]
    assert cards["The data"].img["src"].startswith("data:image/webp")
    assert (
        cards["The data"].p.get_text().startswith("People are drawn, and every camera sees them differently.")
    )
    assert (
        "Not made, for want of runs: The run abdnet-seed0 does not exist." in cards["Attention"].p.get_text()
    )
    assert cards["99_last"].p.get_text() == "Not run." and not cards["99_last"].a
    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in index.select("main [aria-label='Training runs'] tr")
    ]
    scores = ["61.2 [55.1 – 68.0]", "50.0 [55.1 – 68.0]", "93 s"]
    without = ["did not learn [61.2]", "did not learn [50.0]", "93 s"]
    assert rows[1:] == [
        ["baseline+pam", "0", *scores],
        ["baseline+pam", "1", *without],
        ["gap", "0", "Not run."],
    ]
    assert "Attention helps. We check by how much." in index.get_text()
    assert [entry.get_text() for entry in index.select("dt, dd")] == ["Device", "2 CPU cores"]


def test_the_front_page_comes_first_and_the_index_shows_its_marked_cells(tmp_path):
    study = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    cells = ["as claimed here, +3.1", "cannot tell, -0.2 [-1.5, +1.1]"]
    frame = pd.DataFrame({"claim": ["Attention helps.", "More."], "drawn people": cells})
    table = shown({"text/html": frame.to_html(index=False)})
    write_executed(study.notebooks / "01_data.ipynb", markdown("# Data"), code("x", table))
    write_executed(
        study.notebooks / "05_findings.ipynb",
        markdown("# Findings\n\nThe lead."),
        code("a", shown({"text/markdown": f"- **1 of 1 claims** hold, see {study.root}"}), tags=["front"]),
        code("b", table, shown({"image/png": png(4, 3)}), shown({"text/html": PLANTED}), tags=["front"]),
        code("c", shown({"text/markdown": "only on the page"})),
    )
    steps = [Step("01_data", "01_data", {}), Step("05_findings", "05_findings", {}, front=True)]
    index = page(build_report(study, title="T", facts=FACTS, steps=steps).parent, "index.html")
    assert [card.h3.get_text() for card in index.select(".card")] == ["Findings", "Data"]
    assert outside_references(study.report) == []
    (front,) = index.select(".findings")
    assert front.strong.get_text() == "1 of 1 claims" and str(tmp_path) not in front.get_text()
    told = ["Attention helps.", "as claimed here, +3.1", "More.", "cannot tell, −0.2 [−1.5, +1.1]"]
    for table in (front.table, page(study.report, "05_findings.html").select_one(".front table")):
        assert [cell.get_text() for cell in table.select("td")] == told
        assert [bold.get_text() for bold in table.select("strong")] == ["as claimed here"]
        assert table["class"] == ["stacked"] and table.td["data-label"] == "claim", "cards on a phone"
    assert not front.find_all("img") and not harmful(front)
    assert "only on the page" not in index.get_text()
    assert front.find("a")["href"] == "05_findings.html" and len(index.find_all("h1")) == 1
    assert front.find_previous("h1") and not front.find_previous("h2"), "before the list of pages"
    first = page(study.report, "05_findings.html")
    assert first.select_one(".next") and first.find("h1").get_text() == "Findings"
    (study.notebooks / "05_findings.ipynb").unlink()
    index = page(build_report(study, title="T", facts=FACTS, steps=steps).parent, "index.html")
    assert not index.select(".findings") and "Not run." in index.select_one(".card").get_text()


def test_every_page_warns_and_links_lead_somewhere(site):
    names = sorted(path.name for path in site.iterdir())
    assert names == [
        "01_data.html",
        "10_train.baseline-with-pam-seed0.html",
        "10_train.baseline-with-pam-seed1.html",
        "40_hostile.html",
        "41_hidden.html",
        "index.html",
        "search.html",
    ]
    for name in names:
        soup = page(site, name)
        assert [line.get_text() for line in soup.select(".banner p")] == CAVEATS
        assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"})
        assert len(soup.find_all("h1")) == 1
        levels = [int(heading.name[1]) for heading in soup.find_all(["h1", "h2", "h3", "h4", "h5", "h6"])]
        assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), name
        assert all(image.has_attr("alt") for image in soup.find_all("img"))
        scripts = [tag for tag in soup.find_all("script") if tag.get("type") != "application/json"]
        assert [tag.string for tag in scripts] == [SCRIPTS[0]], "one script, the report's own"
        allowed = base64.b64encode(hashlib.sha256(SCRIPTS[0].encode()).digest()).decode()
        assert f"'sha256-{allowed}'" in soup.find("meta", attrs={"http-equiv": True})["content"]
    pager = page(site, "10_train.baseline-with-pam-seed1.html").select(".pager a")
    assert [link["href"] for link in pager] == ["10_train.baseline-with-pam-seed0.html", "40_hostile.html"]
    assert outside_references(site) == []


def test_a_notebook_page(site):
    soup = page(site, "01_data.html")
    article = soup.article
    assert [heading.get_text() for heading in article.find_all(["h1", "h2", "h3"])] == [
        "The data",
        "Counts",
        "A second title",
    ]
    assert article.find("a", string="training")["href"] == "10_train.baseline-with-pam-seed0.html"
    formulas = article.select("img.math")
    assert [image["alt"] for image in formulas] == ["P \\times K", "\\frac{1}{N}\\sum_i \\max(0, m + d_i)"]
    assert "\\nosuchmacro{x}" in [tag.get_text() for tag in article.find_all("code")]
    figure = article.find("figure")
    assert figure.img["alt"] == "One row for each camera."
    assert figure.figcaption.get_text() == "Figure 1. One row for each camera."
    assert (figure.img["width"], figure.img["height"]) == ("990", "550")
    assert "100%" not in article.get_text() and "Figure size" not in article.get_text()
    table = article.find("table")
    assert table.parent["class"] == ["scroll"] and table.parent["tabindex"] == "0"
    assert [cell.get_text() for cell in table.thead.find_all("th")][:3] == [
        "row",
        "method",
        "a rather long heading 0",
    ]
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
    assert not article.find_all("style")
    assert "lost" in article.get_text(), "a picture elsewhere becomes its alternative text"


@pytest.mark.parametrize("text", HIDDEN)
def test_nothing_hides_from_the_sanitiser(text):
    """Browsers and html.parser disagree on where comments and declarations end. Pages are safe anyway."""
    hidden = text.replace("{}", PLANTED)
    outputs = [shown({"text/html": hidden}), shown({"text/markdown": hidden})]
    body = body_of(markdown(hidden), code("x", *outputs), markdown("The *end* is shown."))
    assert harmful(body) == []
    assert [tag.get_text() for tag in body.find_all("em")] == ["end"], "an open comment ends with its cell"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_markdown(name):
    """In a list, in a sentence, in a heading and in a table of Markdown, a name begins no element."""
    name_in = show_text.in_markdown(name)
    source = f"- {name_in}\n\nThe file {name_in} is **{name_in}**.\n\n## {name_in}\n\n|a|\n|-|\n|{name_in}|"
    body = body_of(markdown(source), code("x", shown({"text/markdown": source})))
    printed = " ".join(as_printed(name).split())
    for found, times in (("li", 2), ("strong", 2), ("h2", 2), ("td", 2)):
        tags = body.find_all(found)
        assert [" ".join(tag.get_text().split()) for tag in tags] == [printed] * times
        own = {"anchor"} if found == "h2" else set()
        assert not any(set(one.get("class", ["x"])) - own for tag in tags for one in tag.find_all(True))
    sentence = " ".join(body.find("p").get_text().split())
    assert sentence == f"The file {' '.join(f'{as_printed(name)} is'.split())} {printed}."
    assert harmful(body) == []


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_tables(name):
    """As the notebooks show tables: pandas' Styler, and a frame as it is."""
    frame = pd.DataFrame({"a": [name], "b": [1]})
    ways = [frame.style.hide(axis="index").to_html(), frame.to_html()]
    body = body_of(*(code("x", shown({"text/html": html})) for html in ways))
    styled, _, plain, _ = body.find_all("td")
    wanted = name.encode(errors="backslashreplace").decode().replace("\0", "")
    assert styled.get_text().split() == wanted.split()
    assert not styled.find_all(True) and not plain.find_all(True) and harmful(body) == []


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_saved_tables(tmp_path, name):
    study = Study("demo", "synthetic", tmp_path)
    study.save_table(pd.DataFrame({"a": [name], "b": ["x_y 1.5 [1, 2]"]}), "table")
    source = (study.tables / "table.md").read_text(encoding="utf-8")
    table = body_of(markdown(source)).table
    cells = table.tbody.find_all("td")
    printed = as_printed(" ".join(name.splitlines()))
    assert [cell.get_text().split() for cell in cells] == [printed.split(), ["x_y", "1.5", "[1,", "2]"]]
    assert not any(cell.find_all(True) for cell in cells)
    assert "x_y 1.5 [1, 2]" in source, "what is harmless stays as it is"


def test_the_first_notebook_shows_the_names_of_files_as_text(tmp_path):
    """The cell of 01_data that lists what is odd about a data set, with odd files in each folder of one."""
    root = make_noise_images(tmp_path / "a & b <i>")
    usable = [name for name in NAMES if "/" not in name and "\0" not in name]
    for folder, name in itertools.product(("bounding_box_train", "query"), usable):
        (root / folder / name).write_bytes(b"")
    data = load_dataset("folder", root)
    cells = json.loads((REPOSITORY / "notebooks" / "01_data.ipynb").read_text(encoding="utf-8"))["cells"]
    (counts,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "counts")
    outputs = []
    study = Study("demo", "folder", tmp_path / "results" / "demo-folder")
    names = {"pd": pd, "data": data, "study": study, "text": show_text, "datasets": datasets}
    exec(counts, {**names, "display": outputs.append, "Markdown": IPython.display.Markdown})
    notes, table = outputs
    body = body_of(
        code("x", shown({"text/markdown": notes.data}), shown({"text/html": table.to_html()})), study=study
    )
    listed = [entry.get_text() for entry in body.find_all("li")]
    assert len(listed) == len(data.notes) == 2
    shown_names = [as_printed(name) for name in sorted(usable)[:4]]
    assert all(name in entry for entry in listed for name in shown_names)
    assert not body.li.find_all(True) and harmful(body) == []


def test_a_name_in_a_heading_is_the_same_in_the_navigation(tmp_path):
    study = Study("demo", "synthetic", tmp_path / "results" / "demo-synthetic")
    write_executed(study.notebooks / "01_data.ipynb", markdown(f"# {show_text.in_markdown(NAMES[2])}"))
    index = build_report(study, title="T", facts={})
    cards = page(index.parent, "index.html").select(".card h3")
    assert [card.get_text() for card in cards] == [page(index.parent, "01_data.html").h1.get_text()]
    assert cards[0].get_text() == NAMES[2]


# Where results, checkout and home may lie; None: a home that nobody knows.
PLACES = [
    ("{}/results/demo-synthetic", "{}"),
    ('{}/A & B\'s <i> "x"/demo-synthetic', '{}/A & B\'s <i> "x"'),
    ("{}/results/demo-synthetic", "/"),
    ("{}/results/demo-synthetic", None),
]


@pytest.mark.parametrize(("root", "home"), PLACES)
def test_paths_are_shortened_in_every_kind_of_output(tmp_path, monkeypatch, root, home):
    """Paths with signs that HTML writes otherwise are found, and nothing but paths is changed."""
    study = Study("demo", "synthetic", Path(root.format(tmp_path)))
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    else:
        monkeypatch.setenv("HOME", home.format(tmp_path))
    paths = [study.root, study.figures / "a & b.png", REPOSITORY / "reidlib", Path("/elsewhere/x/y")]
    said = " ; ".join([*map(str, paths), f"(in {study.root})", "https://example.org//x", "a/b"])
    wanted = (
        "results/demo-synthetic ; results/demo-synthetic/figures/a & b.png ; ./reidlib ; /elsewhere/x/y ; "
        "(in results/demo-synthetic) ; https://example.org//x ; a/b"
    )
    frame = pd.DataFrame({"a": [said]})
    with pd.option_context("display.max_colwidth", None):
        tables_as_html = [frame.style.to_html(), frame.to_html()]
    outputs = [new_output("stream", name="stdout", text=said), shown({"text/plain": said})]
    outputs += [new_output("error", ename="E", evalue=said, traceback=[f"\x1b[31m{said}\x1b[0m"])]
    outputs += [shown({"text/markdown": show_text.in_markdown(said)})]
    outputs += [shown({"text/html": html}) for html in tables_as_html]
    body = body_of(code("x", *outputs), study=study)
    texts = [tag.get_text().strip() for tag in body.find_all(["pre", "p", "td"])[1:]]  # the first is code
    assert [" ".join(text.split()) for text in texts] == [wanted] * 6
    picture = shown({"image/png": png(2, 1)}, **{"image/png": {"alt": said}})
    assert body_of(code("x", picture), study=study).img["alt"] == wanted


def test_what_only_looks_like_a_path_of_this_machine_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    study = Study("demo", "synthetic", tmp_path)
    same = "/mnt/home/u/x /home/us/x /home/u-2/x a/home/u/x ../home/u /home/u.old/x"
    assert without_paths(same, study) == same
    assert without_paths("/home/u /home/u/x '/home/u' file:///home/u/x a=/home/u.", study) == (
        "~ ~/x '~' file://~/x a=~."
    )


@pytest.mark.parametrize("path", ["/mnt/it's/data", '/mnt/"a"/data', "/mnt/a\\b/data", "/mnt/a & b/data"])
def test_parameters_show_no_path_of_the_machine(path):
    cell = code(
        f"data_root = {path!r}\nfolders = [{json.dumps(path)}]\nseed = 1", tags=["injected-parameters"]
    )
    source = body_of(cell).pre.get_text()
    assert "mnt" not in source and source.count("…/data") == 2 and "seed = 1" in source


def test_the_search_for_harmful_elements_finds_them():
    for text in HIDDEN[:1] + ["<!-- x --!>{}", "<!-->{}", "<![CDATA[ > {} ]]>", "<? x > {} ?>"]:
        assert len(harmful(as_browsers_read(text.replace("{}", PLANTED)))) >= 5
    assert harmful(as_browsers_read("<p><!-- x --></p>")) == [" x "]


def test_hidden_elements_do_not_reach_the_site(site):
    text = (site / "41_hidden.html").read_text(encoding="utf-8")
    assert harmful(as_browsers_read(text.partition("<article>")[2].partition("</article>")[0])) == []
    metas = as_browsers_read(text).find_all("meta")
    assert [meta.get("http-equiv") for meta in metas] == [None, None, "Content-Security-Policy", None]
    for directive in ("default-src 'none'", "base-uri 'none'", "form-action 'none'"):
        assert directive in metas[2]["content"].split("; ")
    assert page(site, "41_hidden.html").article.find_all("p")[-1].get_text() == "The end."


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("width:1.5em;height:12px;vertical-align:-0.25em", "width:1.5em;height:12px;vertical-align:-0.25em"),
        ("color: rgb(1, 2, 3); position: fixed", "color:rgb(1, 2, 3)"),
        ("background: red; width: 3px", "width:3px"),
        ("width: url(https://example.org/x.png)", None),
        (r"background-color: \75rl(https://example.org)", None),
        ("color: image-set('https://example.org' 1x)", None),
        ("--x: 1", None),
    ],
)
def test_styles_are_harmless(given, kept):
    text = body_of(code("x", shown({"text/html": f'<p style="{given}">text</p>'}))).p
    assert (text.get("style") or None) == kept


def test_drawings_become_pictures():
    drawing = '<svg aria-label="A &lt; B" viewBox="0 0 9 9"><linearGradient id="g"/><script>1</script></svg>'
    elsewhere = f"<img alt='a' src='data:image/svg+xml,{drawing}'>"
    body = body_of(code("x", shown({"text/html": f"<b>{drawing}</b> and {elsewhere}"})))
    inline, embedded = body.find_all("img")
    assert inline["alt"] == "A < B" and inline.parent.name == "b"
    source = base64.b64decode(inline["src"].removeprefix("data:image/svg+xml;base64,")).decode()
    assert source == drawing.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
    assert embedded["src"] == f"data:image/svg+xml,{drawing}".replace("&lt;", "<")
    broken = body_of(code("x", shown({"text/html": "<p>a <svg><circle r=3></svg></p>"})))
    assert broken.p.get_text() == "a drawing" and not broken.img


def test_links_lead_to_the_web_or_the_page_itself():
    addresses = [
        "https://a.example",
        "mailto:a@b.example",
        "#t",
        "data:text/html,x",
        "JaVaScRiPt:x",
        "//a.example",
    ]
    addresses += [
        " javascript:x",
        "java\nscript:x",
        "file:///etc/hostname",
        "vbscript:x",
        "other.html",
        "#missing",
    ]
    html = "".join(f'<a href="{address}">x</a>' for address in addresses)
    kept = [link["href"] for link in body_of(code("x", shown({"text/html": html}))).find_all("a")]
    assert kept == ["https://a.example", "mailto:a@b.example", "#t"]


def test_numbers_have_a_minus_sign_and_code_keeps_its_hyphen():
    text = "By -0.4 [-1.2, +0.4] (-2), 2026-11-27, 1e-3, S-1, `x = -0.4`, --seeds -1"
    output = new_output("stream", name="stdout", text="-0.4\n")
    body = body_of(markdown(text), code("y = -0.4", output))
    assert "By −0.4 [−1.2, +0.4] (−2), 2026-11-27, 1e-3, S-1, x = -0.4, --seeds −1" in body.get_text()
    assert {"x = -0.4", "y = -0.4\n", "-0.4"} <= {tag.get_text() for tag in body.select("code, pre")}


def test_tables_of_pandas_styler():
    frame = pd.DataFrame({"method": ["a < b", "c"], "mAP": [57.6, None], "published": ["1.5 [1, 2]", "–"]})
    html = frame.style.hide(axis="index").format(precision=1, na_rep="–", escape="html").to_html()
    table = body_of(code("x", shown({"text/html": html}))).table
    heads, *rows = [
        [(cell.get_text(), cell["class"]) for cell in row("th") + row("td")] for row in table("tr")
    ]
    assert [text for text, _ in heads] == ["method", "mAP", "published"]
    short, number = ["short"], ["number"]
    assert rows[0] == [("a < b", short), ("57.6", number), ("1.5 [1, 2]", number)]
    assert rows[1] == [("c", short), ("–", number), ("–", number)]


def test_rebuilding_replaces_the_site_and_gives_the_same_bytes(tmp_path):
    study, steps = make_study(tmp_path)
    build_report(study, title="T", facts=FACTS, steps=steps)
    first = {path.name: path.read_bytes() for path in study.report.iterdir()}
    (study.report / "stale.html").write_text("old")
    build_report(study, title="T", facts=FACTS, steps=steps)
    assert {path.name: path.read_bytes() for path in study.report.iterdir()} == first
    for content in ("", "{", "{}", "[]", "null", '{"nbformat": 4}', '{"nbformat": 4, "cells": [1]}'):
        (study.notebooks / "01_data.ipynb").write_text(content)
        with pytest.raises(ReidError, match=r"01_data\.ipynb is damaged\. Delete it"):
            build_report(study, title="T", facts=FACTS, steps=steps)
    assert {path.name: path.read_bytes() for path in study.report.iterdir()} == first, (
        "a failed build leaves the old site"
    )
    assert sorted(path.name for path in study.root.iterdir()) == ["notebooks", "report", "runs"]


def test_a_failed_step_that_could_not_write_its_notebook_is_shown_as_failed(tmp_path):
    study, steps = make_study(tmp_path)
    (study.notebooks / "99_last.failed.ipynb").write_text("")
    index = build_report(study, title="T", facts=FACTS, steps=steps)
    last = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser").select(".card")[-1]
    assert (last.h3.get_text(), last.p.get_text()) == ("99_last", "Not run: it failed.")


def test_without_steps_the_notebooks_that_exist_are_shown(tmp_path):
    study, _ = make_study(tmp_path)
    index = build_report(study, title="T", facts={})
    soup = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser")
    assert [card.h3.get_text() for card in soup.select(".card")] == [
        "The data",
        "Attention",
        "Hostile",
        "Hidden",
    ]
    assert not soup.select(".banner")


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://example.org/a.js"></script>',
        "<script>fetch('x')</script>",
        f"<script>{SCRIPTS[0]} </script>",
        f'<script src="https://example.org/a.js">{SCRIPTS[0]}</script>',
        f"<script onload=x>{SCRIPTS[0]}</script>",
        "<script type=module>fetch('x')</script>",
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
        *(text.replace("{}", '<meta http-equiv="refresh" content="0; url=x">') for text in SEEN),
        '<!--><link rel="stylesheet" href="https://example.org/a.css">',
        '<body background="https://example.org/a.png">',
        '<!--><BODY background="https://example.org/a.png">',
        '<image src="https://example.org/a.png">',
        '<x-y style="background: URL(https://example.org/a.png)">',
        '<link rel="stylesheet" href="data:text/css,@import url(https://example.org)">',
        '<p onclick="steal()">',
        '<svg><image href="https://example.org/a.png"></svg>',
        '<select><img src="https://example.org/a.png"></select>',
        '<a href="unknown:x">x</a>',
        *(
            f"<{name}>{PLANTED}"
            for name in ("mtext", "desc", "malignmark", "annotation-xml", "foreignObject")
        ),
    ],
)
def test_outside_references_are_found(tmp_path, planted):
    (tmp_path / "outside.html").write_text("x")
    folder = tmp_path / "site"
    folder.mkdir()
    clean = '<p id="a"><a href="#a">x</a><a href="index.html">x</a><a href="https://example.org">paper</a>'
    (folder / "index.html").write_text(clean)
    clean += '<!-- <script src="https://example.org/a.js"></script> --><title>&lt;script></title>'
    clean += f'<script>{SCRIPTS[0]}</script><script type="application/json">{{"a": "<b>"}}</script>'
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
        "".join(cell["source"])
        for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
    ]
    assert len(texts) > 20
    for text in texts:
        unset = body_of(markdown(text)).find_all("code", string=lambda code: code and "\\" in code)
        assert not unset, f"mathtext cannot set {[code.get_text() for code in unset]}"
