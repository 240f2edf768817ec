"""HTML from notebooks made harmless and easy to read.

Nothing in it runs or loads. Headings come in order, and tables scroll.
"""

import base64
import html
import re
from collections.abc import Callable, Iterable
from xml.etree import ElementTree

import nh3
from bs4 import BeautifulSoup, Tag

SHORT_CELL = 22  # characters that stay on one line in a table

KEPT = """
a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5
h6 hr i img kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul"""
_DROPPED_WHOLE = """
audio button embed form iframe noembed noframes noscript object script select style svg template textarea
title video"""
_ON_ALL = "alt aria-label class colspan height id role rowspan scope span start style tabindex title width"
_STYLES = "background-color color font-style font-weight height text-align vertical-align width"
_VALUES = {  # what these attributes may say; the others may say anything
    "href": re.compile(r"https?:|mailto:|#|[^:]*\Z"),
    "src": re.compile(r"data:image/"),
    "style": re.compile(r"(?:[^\\()]|rgba?\([\d., %]*\))*\Z"),  # no escape and no function but rgb()
}
# A drawing, or the opening tag of another element: a drawing inside an attribute is no drawing of its own.
_DRAWING = re.compile(r"""(<svg\b.*?</svg\s*>)|<\w(?:"[^"]*"|'[^']*'|[^"'<>])*>""", re.DOTALL)

# A hyphen before a number, at the start of a word: not that of "2026-11-27" or "1e-3".
_HYPHENATED = re.compile(r"(?<![^\s(\[])-(?=\d)")


def clean(parts: Iterable[str], title: str, page_of: Callable[[str], str]) -> BeautifulSoup:
    """Makes one page from pieces of HTML. No piece can change another, whatever it leaves open.

    Args:
        title: the heading, where the page has none.
        page_of: notebook name ("10_train") → address of its page, "" if it has none.
    """
    soup = BeautifulSoup("\n".join(map(_sanitised, parts)), "html.parser")
    _mend_pictures(soup)
    _mend_links(soup, page_of)
    _mend_headings(soup, title)
    _mend_tables(soup)
    _mend_minus_signs(soup)
    for block in soup.find_all("pre"):  # a reader without a mouse scrolls it, too
        block["tabindex"] = "0"
    return soup


def as_utf8(text: str) -> str:
    """`text` with backslashes where UTF-8 has no character, as for odd bytes in the name of a file."""
    return text.encode(errors="backslashreplace").decode()


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _sanitised(part: str) -> str:
    """Keeps text, tables, lists and embedded pictures. Nothing else of the HTML stays.

    Why nh3: it is maintained (bleach is deprecated), and it parses as browsers do. html.parser does not: it
    ends comments elsewhere, so that what it took for a comment could be an element in a browser.
    """
    return nh3.clean(
        _DRAWING.sub(_embedded, as_utf8(part)),
        tags=set(KEPT.split()),
        clean_content_tags=set(_DROPPED_WHOLE.split()),
        attributes={"*": set(_ON_ALL.split()), "a": {"href"}, "img": {"src"}},
        attribute_filter=lambda _, name, value: value if re.match(_VALUES.get(name, ""), value) else None,
        url_schemes={"data", "http", "https", "mailto"},
        filter_style_properties=set(_STYLES.split()),
        link_rel=None,
    )


def _embedded(found: re.Match) -> str:
    """An inline drawing as a picture, in which nothing runs and nothing loads. It must be XML for that."""
    if not found[1]:
        return found[0]
    drawing = re.sub(r"<svg\b(?![^>]*\bxmlns=)", '<svg xmlns="http://www.w3.org/2000/svg"', found[1])
    try:
        label = html.escape(ElementTree.fromstring(drawing).get("aria-label", "drawing"))
    except ElementTree.ParseError:
        return "drawing"
    return f'<img alt="{label}" src="{data_uri("image/svg+xml", drawing.encode())}">'


def _mend_pictures(soup: BeautifulSoup) -> None:
    """Every picture has an alternative text; a picture that lies elsewhere is replaced by it."""
    for picture in soup.find_all("img"):
        if picture.get("src"):
            picture["alt"] = picture.get("alt") or "picture"
        else:
            picture.replace_with(picture.get("alt", ""))


def _mend_links(soup: BeautifulSoup, page_of: Callable[[str], str]) -> None:
    """Links to other notebooks lead to their pages. Other relative links become plain text."""
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
    for number, table in enumerate(soup.find_all("table"), 1):
        _join_headings(table)
        table.attrs = {name: value for name, value in table.attrs.items() if name == "id"}
        columns = [th.get_text(" ", strip=True) for th in table.select("thead tr:first-of-type th")]
        label = f"Table {number}: " + (", ".join(filter(None, columns))[:100] or "values")
        frame = {"class": "scroll", "role": "region", "aria-label": label, "tabindex": "0"}
        table.wrap(soup.new_tag("div", attrs=frame))
        for cell in table.find_all(["th", "td"]):
            cell.attrs.pop("style", None)
            if cell.name == "th":
                cell["scope"] = "col" if cell.find_parent("thead") else "row"
            elif len(cell.get_text(strip=True)) <= SHORT_CELL:
                cell["class"] = "short"
        rows = [row.find_all(["th", "td"], recursive=False) for row in table.find_all("tr")]
        joined = [any(cell.get("colspan") or cell.get("rowspan") for cell in row) for row in rows]
        _align_numbers([row for row, skipped in zip(rows, joined, strict=True) if not skipped])


def _mend_minus_signs(soup: BeautifulSoup) -> None:
    """Negative numbers get the sign that is as wide as a plus. Code keeps what can be typed."""
    for text in soup.find_all(string=_HYPHENATED):
        if not text.find_parent(["code", "kbd", "pre", "samp"]):
            text.replace_with(_HYPHENATED.sub("−", text))


def _join_headings(table: Tag) -> None:
    """Makes one line of pandas' two lines of headings, of which one names the index."""
    lines = [row.find_all("th", recursive=False) for row in table.select("thead > tr")]
    joined = any(cell.has_attr("colspan") for line in lines for cell in line)
    if joined or len(lines) != 2 or len(lines[0]) != len(lines[1]):
        return
    pairs = [[cell.get_text(strip=True) for cell in pair] for pair in zip(*lines, strict=True)]
    if not any(above and below for above, below in pairs):
        for cell, pair in zip(lines[0], pairs, strict=True):
            cell.string = "".join(pair)
        lines[1][0].parent.decompose()


def _align_numbers(rows: list[list[Tag]]) -> None:
    """Aligns a column right whose cells below the heading are numbers, ranges or empty, and not all empty."""
    number = re.compile(r"[+−-]?[\d.,]*\d ?%?( ?(±|\[|\().*)?|NaN|–|-|not run|")
    for column in range(max(map(len, rows), default=0)):
        cells = [row[column] for row in rows if column < len(row)]
        values = [cell.get_text(strip=True) for cell in cells if cell.name == "td"]
        some = any(value.lstrip("+−-")[:1].isdigit() for value in values)
        if some and all(map(number.fullmatch, values)):
            for cell in cells:
                cell["class"] = "number"
