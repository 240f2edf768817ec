"""What a reader can do with the report's pages, in headless Chromium; and their accessibility (axe-core)."""

import json
import os
from pathlib import Path

import pytest
from test_report_browser import LAPTOP, PHONE, complaints, requests
from test_report_browser import browser as browser  # a fixture

from reidlib.files import REPOSITORY

AXE = REPOSITORY / ".venv/npm/node_modules/axe-core/axe.min.js"  # `make test-browser` puts it there
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """REIDLIB_REPORT, or a small report with an explorer."""
    if os.environ.get("REIDLIB_REPORT"):
        return Path(os.environ["REIDLIB_REPORT"])
    import numpy as np
    from test_explorer import DATA
    from test_report import FACTS, make_study

    from reidlib.report import build_report
    from reidlib.show.explorer import Explorer, as_png, as_webp

    study, steps = make_study(tmp_path_factory.mktemp("checkout"))
    picture = np.full((96, 96, 3), 200, np.uint8)
    query = DATA["queries"][0]
    wrong = {**query, "name": "b.jpg", "identity": 9, "rank": [4, 1], "top": [[1, 0, 2], [0, 1, 2]]}
    data = {**DATA, "queries": [query, wrong]}
    sheets = {"query": as_webp(picture), "gallery": as_webp(picture), "attention": as_png(picture)}
    study.save_explorer(Explorer(data, sheets))
    return build_report(study, title="Two attention papers", facts=FACTS, steps=steps).parent


@pytest.fixture(scope="module")
def pages(report) -> list[Path]:
    return sorted(report.glob("*.html"))


def column(browser, number: int) -> list[str]:
    cells = (
        f"[...document.querySelectorAll('.scroll tbody tr')].map((row) => row.cells[{number}].textContent)"
    )
    return browser.evaluate(cells)


def test_a_table_sorts_by_a_column(browser, report):
    """Numbers as numbers; a third click gives the first order back."""
    browser.open(report / "01_data.html")
    press = "[...document.querySelectorAll('.scroll thead th')][1].querySelector('button').click()"
    state = "document.querySelectorAll('.scroll thead th')[1].getAttribute('aria-sort')"
    start = column(browser, 1)
    browser.evaluate(press)
    assert browser.evaluate(state) == "ascending" and column(browser, 1) == sorted(start)
    browser.evaluate(press)
    assert browser.evaluate(state) == "descending" and column(browser, 1) == sorted(start, reverse=True)
    browser.evaluate(press)
    assert browser.evaluate(state) is None and column(browser, 1) == start


def test_values_that_are_missing_come_last(browser, report):
    browser.open(report / "index.html")
    table = """
    (() => {
      const cells = [...document.querySelectorAll("[aria-label='Training runs'] tbody tr")];
      return cells.length;
    })()
    """
    assert browser.evaluate(table) == 3
    rows = """
    (() => {
      const table = document.querySelector("#paper-map table");
      table.tHead.rows[0].cells[4].querySelector("button").click();
      return [...table.tBodies[0].rows].map((row) => row.cells[4].textContent);
    })()
    """
    found = browser.evaluate(rows)
    numbers = [text for text in found if text != "–"]
    assert found == [*sorted(numbers, key=int), *["–"] * (len(found) - len(numbers))]


def test_a_table_is_copied_as_csv_and_latex(browser, report):
    browser.open(report / "01_data.html")
    browser.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    press = (
        "[...document.querySelectorAll('.copy button')].find((one) => one.textContent.includes('{}')).click()"
    )
    browser.evaluate("document.querySelector('table tr:last-child td').textContent = '−1.5 [−2, −1]'")
    browser.evaluate(press.format("CSV"))
    lines = browser.evaluate("window.copied").splitlines()
    assert '"-1.5 [-2, -1]"' in lines[-1], "programs that read CSV know no other minus sign"
    assert lines[1].startswith("0,method 0,0.0,1.0") and lines[0].startswith("row,method,a rather long")
    browser.evaluate("document.querySelector('.scroll td').textContent = '50 % & a_b'")
    browser.evaluate(press.format("LaTeX"))
    text = browser.evaluate("window.copied")
    assert text.startswith("\\begin{tabular}{") and "\\toprule" in text and "50 \\% \\& a\\_b & " in text
    assert text.count("\\\\\n") == 5, "a heading and four rows"


def test_the_colours_can_be_chosen_and_stay_chosen(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    press = "document.querySelector('.sidebar .theme').click()"
    browser.open(report / "index.html", LAPTOP, "light")
    light = browser.evaluate(ground)
    browser.evaluate(press)
    dark = browser.evaluate(ground)
    assert light != dark
    browser.open(report / "search.html", LAPTOP, "light")
    assert browser.evaluate(ground) == dark, "on other pages, too"
    browser.evaluate(press)
    browser.open(report / "index.html", LAPTOP, "dark")
    assert browser.evaluate(ground) == light, "the choice counts more than the browser's setting"
    browser.evaluate("localStorage.clear()")
    browser.open(report / "index.html", LAPTOP, "dark")
    assert browser.evaluate(ground) == dark


def test_a_word_is_found_with_its_section(browser, report):
    """The search ignores capitals; every word has to be there."""
    browser.open(report / "search.html")
    ask = """
    (() => {
      const field = document.querySelector(".search-page input");
      field.value = VALUE;
      field.dispatchEvent(new Event("input"));
      return [...document.querySelectorAll("#results li > a")].map((link) => link.getAttribute("href"));
    })()
    """
    assert browser.evaluate(ask.replace("VALUE", "'HEADING method'")) == ["01_data.html#counts"]
    assert browser.evaluate("document.querySelector('#results mark').textContent").lower() in (
        "heading",
        "method",
    )
    assert browser.evaluate(ask.replace("VALUE", "'heading nowhere'")) == []
    assert browser.evaluate(ask.replace("VALUE", "'<b> ( [ \\\\ \\u0000'")) == []
    assert "0 sections" in browser.evaluate("document.getElementById('found').textContent")
    assert browser.evaluate(ask.replace("VALUE", "''")) == []
    browser.open(report / "search.html#cameras")
    browser.open(report / "index.html")
    asked = "document.querySelector('.sidebar input').placeholder"
    assert browser.evaluate(asked) == "Search the report"


def test_the_explorer_steps_through_queries_and_failures(browser, report):
    browser.open(report / "explorer.html")
    heading = "document.querySelector('#explorer h2').textContent"
    buttons = "[...document.querySelectorAll('#explorer-tools button')]"
    press = buttons + ".find((one) => one.textContent.startsWith('{}')).click()"
    total = browser.evaluate(
        "JSON.parse(document.getElementById('explorer-data').textContent).queries.length"
    )
    assert browser.evaluate("document.querySelectorAll('#explorer h2').length") == 1, "one at a time"
    first = browser.evaluate(heading)
    for _ in range(total):
        browser.evaluate(press.format("Next →"))
    assert browser.evaluate(heading) == first, "the last is followed by the first"
    browser.evaluate(press.format("Next failure"))
    rank = "document.querySelector('#explorer h3 + .files').textContent"
    assert "at rank 1," not in browser.evaluate(rank)
    name = browser.evaluate("document.querySelector('#explorer .files').textContent")
    browser.open(report / "index.html")
    browser.call("Page.navigate", url=f"{(report / 'explorer.html').as_uri()}#{name}")
    browser.call(
        "Runtime.evaluate", expression="new Promise((done) => setTimeout(done, 300))", awaitPromise=True
    )
    assert browser.evaluate("document.querySelector('#explorer .files').textContent") == name, (
        "an address of its own"
    )


def test_the_script_builds_the_explorer_as_the_page_has_it_without(browser, report):
    """The pictures of the first query lie at the same places of the sheets."""
    places = """
    [...document.querySelectorAll("#explorer .ranks")].slice(0, 2).map((row) =>
      [...row.querySelectorAll(".thumb")].map((thumb) => [
        thumb.getAttribute("aria-label"), getComputedStyle(thumb).backgroundPosition,
        getComputedStyle(thumb).backgroundSize, thumb.closest("figure").className]))
    """
    browser.open(report / "explorer.html")
    with_script = browser.evaluate(places)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report / "explorer.html")
        assert browser.evaluate(places) == with_script
        assert len(with_script[0]) > 2
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_everything_can_be_read_without_scripts(browser, pages):
    """No page has less text, and none complains or asks for anything."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        for path in pages:
            events = browser.open(path)
            assert requests(events) == [] and complaints(events) == [], path.name
            assert browser.evaluate("document.querySelectorAll('main button, .tools button').length") == 0
            assert browser.evaluate("document.querySelector('main').innerText.length") > 40, path.name
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")],
    ids=["laptop-light", "laptop-dark", "phone-light", "phone-dark"],
)
def test_no_page_violates_a_rule_of_accessibility(browser, pages, size, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: make test-browser does it where there is npm")
    axe = AXE.read_text(encoding="utf-8")
    for path in pages:
        browser.open(path, size, scheme)
        browser.evaluate(axe)
        answer = browser.call(
            "Runtime.evaluate",
            expression=f"axe.run(document, {json.dumps(RULES)})",
            awaitPromise=True,
            returnByValue=True,
        )["result"]["value"]
        found = [
            (one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in answer["violations"]
        ]
        assert found == [], path.name
        assert len(answer["passes"]) > 10, "it looked"


def test_pages_print(browser, pages):
    """On paper there is neither navigation nor a button, and no picture is wider or higher than a page."""
    for path in pages:
        browser.open(path)
        browser.call("Emulation.setEmulatedMedia", media="print")
        chrome = "[...document.querySelectorAll('.sidebar, .menu, .tools, .copy, .pager')]"
        hidden = f"{chrome}.filter((one) => one.checkVisibility()).length"
        assert browser.evaluate(hidden) == 0, path.name
        figures = "[...document.querySelectorAll('figure')]"
        split = f"{figures}.every((one) => getComputedStyle(one).breakInside === 'avoid')"
        assert browser.evaluate(split)
        assert len(browser.call("Page.printToPDF")["data"]) > 1000
        browser.call("Emulation.setEmulatedMedia", media="")
