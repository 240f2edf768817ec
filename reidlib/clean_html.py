"""HTML from notebooks made harmless and easy to read: nothing that runs or loads, headings in order, tables that scroll."""

import base64
import re
from collections.abc import Callable

from bs4 import BeautifulSoup, Tag

SHORT_CELL = 28  # characters that stay on one line in a table

_KEPT_NAMES = """
a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img kbd li
mark ol p pre s small span strong style sub summary sup table tbody td tfoot th thead tr u ul"""
_DROPPED_NAMES = "audio button embed form iframe noscript object script select template textarea title video"
_ATTRIBUTE_NAMES = "alt aria-label class colspan height href id role rowspan scope span src start style tabindex title width"
_KEPT = frozenset(_KEPT_NAMES.split())
_DROPPED_WHOLE = frozenset(_DROPPED_NAMES.split())
_KEPT_ATTRIBUTES = frozenset(_ATTRIBUTE_NAMES.split())
_LOADS = re.compile(r"url\s*\(|@import|expression|image-set|position\s*:|\\", re.IGNORECASE)


def clean(soup: BeautifulSoup, title: str, page_of: Callable[[str], str]) -> None:
    """Changes the parsed HTML of one page in place.

    Args:
        title: the heading, where the page has none.
        page_of: notebook name ("10_train") → address of its page, "" if it has none.
    """
    _sanitise(soup)
    _mend_links(soup, page_of)
    _mend_headings(soup, title)
    _mend_tables(soup)


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _sanitise(soup: BeautifulSoup) -> None:
    """Keeps text, tables, lists and embedded pictures; nothing that runs, loads, or leaves its place on the page."""
    for svg in soup.find_all("svg"):
        svg.attrs.setdefault("xmlns", "http://www.w3.org/2000/svg")
        svg.replace_with(
            soup.new_tag("img", src=data_uri("image/svg+xml", str(svg).encode()), alt=svg.get("aria-label", "drawing"))
        )
    for tag in soup.find_all(True):
        if tag.decomposed:
            continue
        styles = tag.get_text() if tag.name == "style" else tag.get("style", "")
        if tag.name in _DROPPED_WHOLE or tag.name == "style" and (_LOADS.search(styles) or tag.has_attr("scoped")):
            tag.decompose()
        elif tag.name not in _KEPT:
            tag.unwrap()
        else:
            tag.attrs = {name: value for name, value in tag.attrs.items() if name in _KEPT_ATTRIBUTES}
            if _LOADS.search(styles):
                tag.attrs.pop("style", None)
    for picture in soup.find_all("img"):
        if not str(picture.get("src", "")).startswith("data:image/"):
            picture.replace_with(picture.get("alt") or "")  # a picture elsewhere
        elif not picture.get("alt"):
            picture["alt"] = "picture"


def _mend_links(soup: BeautifulSoup, page_of: Callable[[str], str]) -> None:
    """Links to other notebooks lead to their pages; other relative links lead nowhere here and become plain text."""
    for link in soup.find_all("a"):
        target = str(link.get("href", ""))
        notebook = re.fullmatch(r"(?:\./)?([\w.-]+)\.ipynb(?:#.*)?", target)
        if notebook and page_of(notebook[1]):
            link["href"] = page_of(notebook[1])
        elif not re.match(r"(https?://|mailto:|#.)", target):
            link.unwrap()


def _mend_headings(soup: BeautifulSoup, title: str) -> None:
    """One h1, and no level skipped below it; each gets an id to link to."""
    level, taken = 0, []
    if not soup.find("h1"):
        first = soup.new_tag("h1")
        first.string = title
        soup.insert(0, first)
    for heading in soup.find_all(re.compile("h[1-6]$")):
        wanted = int(heading.name[1]) if level else 1
        level = min(max(wanted, 2 if level else 1), level + 1)
        heading.name = f"h{level}"
        slug = re.sub(r"[^a-z0-9]+", "-", heading.get_text().lower()).strip("-") or "section"
        taken.append(slug)
        heading["id"] = slug if taken.count(slug) == 1 else f"{slug}-{taken.count(slug)}"
    for link in soup.find_all("a", href=re.compile("^#")):
        if not soup.find(id=link["href"][1:]):
            link.unwrap()


def _mend_tables(soup: BeautifulSoup) -> None:
    """Each table scrolls by itself; numbers are aligned right; headings say what they head."""
    for table in soup.find_all("table"):
        _join_headings(table)
        table.attrs = {name: value for name, value in table.attrs.items() if name == "id"}
        columns = [th.get_text(" ", strip=True) for th in table.select("thead tr:first-of-type th")]
        label = "Table: " + (", ".join(filter(None, columns))[:100] or "values")
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "role": "region", "aria-label": label, "tabindex": "0"}))
        for heading in table.find_all("th"):
            heading["scope"] = "col" if heading.find_parent("thead") else "row"
        rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
        for row in rows:
            for cell in row:
                cell.attrs.pop("style", None)
                if cell.name == "td" and len(cell.get_text(strip=True)) <= SHORT_CELL:
                    cell["class"] = "short"
        _align_numbers([row for row in rows if all(not cell.get("colspan") and not cell.get("rowspan") for cell in row)])


def _join_headings(table: Tag) -> None:
    """pandas puts the name of an index in a second line of headings, below an empty one: makes that one line."""
    lines = [row.find_all("th", recursive=False) for row in table.select("thead > tr")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        return
    pairs = [[cell.get_text(strip=True) for cell in pair] for pair in zip(*lines, strict=True)]
    if not any(cell.has_attr("colspan") for line in lines for cell in line) and all(
        not above or not below for above, below in pairs
    ):
        for cell, pair in zip(lines[0], pairs, strict=True):
            cell.string = "".join(pair)
        lines[1][0].parent.decompose()


def _align_numbers(rows: list[list[Tag]]) -> None:
    """A column is aligned right if every cell below its heading is a number, a range of numbers or empty, and one is a number."""
    for column in range(max(map(len, rows), default=0)):
        cells = [row[column] for row in rows if column < len(row)]
        values = [cell.get_text(strip=True) for cell in cells if cell.name == "td"]
        number = re.compile(r"[+−-]?[\d.,]*\d ?%?( ?(±|\[|\().*)?|NaN|–|-|not run|")
        if any(value.lstrip("+−-")[:1].isdigit() for value in values) and all(number.fullmatch(value) for value in values):
            for cell in cells:
                cell["class"] = "number"
