"""The report: what it shows of a notebook. It loads nothing from outside and runs no code."""

import base64
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import nh3
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from bs4.element import PreformattedString
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from reidlib.files import REPOSITORY, write_json
from reidlib.report import build_report, outside_references
from reidlib.report.notebook_html import formula, render
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


def body_of(*cells) -> BeautifulSoup:
    """The body of a page of these cells, as browsers parse it."""
    study = Study("demo", "synthetic", Path("nowhere"))
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
    assert cards["The data"].img["src"].startswith("data:image/png")
    assert (
        cards["The data"].p.get_text().startswith("People are drawn, and every camera sees them differently.")
    )
    assert (
        "it failed with MissingRunError: The run abdnet-seed0 does not exist."
        in cards["Attention"].p.get_text()
    )
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
        "41_hidden.html",
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
    assert figure.img["alt"] == figure.figcaption.get_text() == "One row for each camera."
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
    (study.notebooks / "01_data.ipynb").write_text("{")
    with pytest.raises(Exception, match=".*"):
        build_report(study, title="T", facts=FACTS, steps=steps)
    assert {path.name: path.read_bytes() for path in study.report.iterdir()} == first, (
        "a failed build leaves the old site"
    )
    assert sorted(path.name for path in study.root.iterdir()) == ["notebooks", "report", "runs"]


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
    ],
)
def test_outside_references_are_found(tmp_path, planted):
    (tmp_path / "outside.html").write_text("x")
    folder = tmp_path / "site"
    folder.mkdir()
    clean = '<p id="a"><a href="#a">x</a><a href="index.html">x</a><a href="https://example.org">paper</a>'
    (folder / "index.html").write_text(clean)
    clean += '<!-- <script src="https://example.org/a.js"></script> --><title>&lt;script></title>'
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
