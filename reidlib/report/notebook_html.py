"""One executed notebook as harmless HTML.

It shows text, folded code, figures with alternative texts, and tables that scroll by themselves. Filters of
nbconvert turn Markdown, code and terminal colours into HTML. What a notebook brings along as HTML is cut down
to harmless elements. Formulas become SVG pictures through matplotlib's mathtext, and pictures are embedded.
"""

from reidlib.show.drawing import matplotlib  # first: it decides how matplotlib starts
from reidlib.study.notebook_files import PICTURES  # first: nbconvert would import nbformat slowly

# isort: split

import base64
import functools
import html
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser, math_to_image
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from reidlib.files import REPOSITORY
from reidlib.report.clean_html import clean, data_uri
from reidlib.report.downloads import add_links, element_id, saved_tables
from reidlib.show.verdicts import AS_CLAIMED, OPPOSITE, SMALL
from reidlib.study.results import Study

LONG_LOG = 12  # printed lines above which they are folded
THUMBNAIL = (640, 400)  # pixels, at most
PHOTOGRAPHS = 250_000  # bytes: a larger picture holds photographs
WIDE = 1.9  # width over height from which a figure scrolls on a phone instead of shrinking
FORMULA_SIZE = 16  # points
DROPPED = "remove-output"  # tag of cells whose output the page leaves out, such as the caveats (in its box)
# A literal of Python that holds an absolute path; its last name may stay.
ABSOLUTE = re.compile(r"""(["'])/(?:(?!\1)[^\\\n]|\\.)*/((?:(?!\1)[^\\/\n]|\\.)+)\1""")
FRONT = "front"  # tag of cells whose tables and texts the index shows, too
TOLD = re.compile(f"({AS_CLAIMED}|{OPPOSITE}|{SMALL})(?=,)")  # a verdict, before its effect
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Rendered:
    """What the report shows of one notebook."""

    body: str  # HTML; headings from h1 on, in steps of one
    lead: str  # the first paragraph, shortened
    thumbnail: str  # the first figure as a small data URI, or ""
    files: tuple[Path, ...] = ()  # figures and tables of the study that the page offers
    figures: Mapping[str, str] = field(default_factory=dict)  # name of a saved figure or table → its id


def render(notebook, study: Study, *, title: str, page_of: Callable[[str], str]) -> Rendered:
    """Renders an executed notebook (nbformat 4).

    Args:
        title: the heading, where the notebook has none. Figures above the first heading are named after it.
        page_of: notebook name ("10_train") → address of its page, "" if it has none. Links need it.
    """
    parts, folded, figures, heading, thumbnail = [], [], 0, title, ""
    saved: dict[str, list[str]] = {"figures": [], "tables": []}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(_code(folded))
            text = _markdown(cell.source, cell.get("attachments", {}))
            headings = re.findall(r"<h[1-6][^>]*>(.*?)</h[1-6]>", text)
            heading = BeautifulSoup(headings[-1], "html.parser").get_text() if headings else heading
            parts.append(f'<div class="prose">{text}</div>')
        elif cell.cell_type == "code":
            folded.append(cell)
            tables = _saved_tables(cell)
            for output in _outputs(cell) if DROPPED not in cell.metadata.get("tags", ()) else ():
                picture = _picture(output)
                if picture:
                    figures += 1
                    thumbnail = thumbnail or _thumbnail(*picture)
                    name = output.get("metadata", {}).get(picture[0], {}).get("name", "")
                    saved["figures"] += filter(None, [name])
                    shown = _figure(output, picture, cell, figures, heading, name)
                else:
                    shown = _output(output)
                    if tables and "<table" in shown:
                        saved["tables"].append(tables.pop(0))
                        shown = f'<div id="{element_id("tables", saved["tables"][-1])}">{shown}</div>'
                if shown and FRONT in cell.metadata.get("tags", ()):
                    shown = f'<div class="{FRONT}">{shown}</div>'
                if shown:
                    parts += [_code(folded), shown]
    parts.append(_code(folded))
    soup = clean(parts, title, page_of)
    _mend_front(soup.select(f".{FRONT} table"))
    _shorten_paths(soup, study)
    files = [path for kind, names in saved.items() for path in add_links(soup, study, kind, names)]
    ids = {name: element_id(kind, name) for kind, names in saved.items() for name in names}
    for heading in soup.find_all(re.compile("h[2-6]$")):
        label = f"Link to this section: {heading.get_text(' ', strip=True)}"
        heading.append(
            soup.new_tag("a", attrs={"class": "anchor", "href": f"#{heading['id']}", "aria-label": label})
        )
    paragraph = soup.select_one(".prose > p")
    lead = shortened(paragraph.get_text() if paragraph else "", 170)
    return Rendered(str(soup), lead, thumbnail, tuple(files), ids)


def front_of(notebook, study: Study, *, page_of: Callable[[str], str]) -> str:
    """HTML of the tables and texts that the index takes from an executed notebook. Pictures are left out."""
    parts = [
        _output(output)
        for cell in notebook.cells
        if cell.cell_type == "code" and FRONT in cell.metadata.get("tags", ())
        for output in _outputs(cell)
        if not _picture(output)
    ]
    soup = clean(parts, "", page_of)
    soup.h1.decompose()  # the index has its own
    _mend_front(soup.find_all("table"))
    _shorten_paths(soup, study)
    return str(soup)


def _mend_front(tables: Iterable[Tag]) -> None:
    """On a phone, the rows of these tables stand as cards. What the runs could tell is bold."""
    for table in tables:
        table["class"] = "stacked"
        names = [head.get_text(" ", strip=True) for head in table.select("thead tr:last-of-type th")]
        for row in table.select("tbody tr"):
            for name, cell in zip(names, row.find_all(["th", "td"], recursive=False), strict=False):
                cell["data-label"] = name
                told = TOLD.match(cell.get_text())
                if told and cell.string:
                    strong = Tag(name="strong")
                    strong.string = told[0]
                    cell.string.replace_with(strong, cell.get_text()[told.end() :])


def shortened(text: str, most: int) -> str:
    """`text` on one line, cut at a space to at most about `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


# ---- cells -------------------------------------------------------------------------------------------------


class _Renderer(IPythonRenderer):
    """Markdown with formulas as pictures."""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return f'<span class="display">{formula(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return f'<span class="display">{formula(body)}</span>'


def _markdown(source: str, attachments: dict) -> str:
    renderer = _Renderer(escape=False, exclude_anchor_links=True, attachments=attachments)
    return MarkdownWithMath(renderer=renderer).render(source)


@functools.cache
def formula(tex: str) -> str:
    """A LaTeX formula as an embedded SVG; its source is the alternative text.

    Where mathtext cannot set it, the source is shown as code.
    """
    tex = " ".join(tex.split())
    font = FontProperties(size=FORMULA_SIZE, math_fontfamily="stix")
    target = io.BytesIO()
    try:
        with matplotlib.style.context("default"):
            width, height, depth, *_ = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=font)
            math_to_image(f"${tex}$", target, prop=font, dpi=72, format="svg")
    except (ValueError, RecursionError):
        return f"<code>{html.escape(tex)}</code>"
    # Without the document type, and without the metadata, which hold the time.
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", target.getvalue().decode(), flags=re.DOTALL)
    svg = svg.replace("fill: #ffffff", "fill: none")  # the picture's ground
    sizes = {"width": width, "height": height, "vertical-align": -depth}
    style = ";".join(f"{name}:{points / FORMULA_SIZE:.3f}em" for name, points in sizes.items())
    source = data_uri("image/svg+xml", svg.encode())
    return f'<img class="math" alt="{html.escape(tex)}" style="{style}" src="{source}">'


def _code(cells: list) -> str:
    """The code of consecutive cells that showed nothing in between, folded; empties the list."""
    sources = []
    for cell in cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            sources.append(ABSOLUTE.sub(r"\1…/\2\1", cell.source))  # no machine's paths
        else:
            sources.append(cell.source)
    cells.clear()
    source = "\n\n".join(filter(None, map(str.strip, sources)))
    if not source:
        return ""
    coloured = Highlight2HTML(pygments_lexer="python3")(source)
    return f'<details class="code"><summary>Code</summary>{coloured}</details>'


def _outputs(cell) -> list:
    """The cell's outputs, with what it printed in pieces put together where the first piece stands."""
    outputs, first = [], {}
    for output in cell.outputs:
        if output.output_type == "stream" and output.name in first:
            first[output.name].text += output.text
        else:
            outputs.append(output)
            if output.output_type == "stream":
                first[output.name] = output
    return outputs


def _output(output) -> str:
    """HTML of an output that is no picture; "" for widgets, progress bars and the bare names of figures."""
    if output.output_type == "error":
        return f'<pre class="out">{ansi2html(chr(10).join(output.traceback))}</pre>'
    if output.output_type == "stream":
        return _stream(output.text, output.name)
    data = output.data
    if WIDGET in data:
        return ""
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>"
    if "text/markdown" in data:
        return f'<div class="prose">{_markdown(data["text/markdown"], {})}</div>'
    if "text/latex" in data:
        return f"<p>{formula(data['text/latex'].strip().strip('$'))}</p>"
    text = data.get("text/plain", "")
    saved = re.fullmatch(r"(?:Posix|Windows)Path\((['\"])(.*)\1\)", text)
    if saved:
        return f'<p class="saved">Saved as <code>{html.escape(saved[2])}</code></p>'
    return (
        f'<pre class="out">{ansi2html(text)}</pre>'
        if text and not re.fullmatch(r"<(Figure|Axes).*>", text)
        else ""
    )


def _stream(text: str, name: str) -> str:
    lines = [line for line in text.split("\n") if "\r" not in line]  # a carriage return draws a progress bar
    body = "\n".join(lines).strip("\n")
    if not body.strip():
        return ""
    shown = f'<pre class="out">{ansi2html(body)}</pre>'
    if name == "stdout" and len(lines) <= LONG_LOG:
        return shown
    what = "Log" if name == "stdout" else "Messages"
    return f'<details class="log"><summary>{what} ({len(body.splitlines())} lines)</summary>{shown}</details>'


def _picture(output) -> tuple[str, bytes] | None:
    data = output.get("data", {})
    kind = next((kind for kind in PICTURES if kind in data), None)
    if kind is None:
        return None
    return kind, data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind])


def _saved_tables(cell) -> list[str]:
    """The names under which a cell saves the tables that it shows; [] if it shows another number of them."""
    names = saved_tables(cell.source)
    shown = sum("<table" in output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return names if shown == len(names) else []


def _figure(output, picture: tuple[str, bytes], cell, number: int, heading: str, name: str) -> str:
    kind, content = picture
    metadata = output.get("metadata", {}).get(kind, {})
    caption = cell.metadata.get("caption", "")
    alt = metadata.get("alt") or cell.metadata.get("alt") or caption or f"Figure {number}: {heading}"
    size, wide = "", False
    if kind != "image/svg+xml":
        width, height = Image.open(io.BytesIO(content)).size
        shown = metadata.get("width") or width
        wide = width > WIDE * height
        size = f' width="{shown}" height="{round(height * shown / width)}"'
        kind, content = _smaller(kind, content)
    below = f"<figcaption><b>Figure {number}.</b> {html.escape(caption)}</figcaption>"
    alt = html.escape(alt)
    image = f'<img alt="{alt}"{size} src="{data_uri(kind, content)}">'
    if wide:
        image = f'<div class="scroll wide" role="region" aria-label="{alt}" tabindex="0">{image}</div>'
    own = element_id("figures", name) if name else f"figure-{number}"
    return f'<figure id="{own}">{image}{below}</figure>'


def _smaller(kind: str, content: bytes) -> tuple[str, bytes]:
    """The picture as WebP where that is smaller: the same pixels, or of photographs nearly the same."""
    target = io.BytesIO()
    how = {"quality": 90} if len(content) > PHOTOGRAPHS else {"lossless": True}
    Image.open(io.BytesIO(content)).save(target, "WEBP", **how)
    return min((kind, content), ("image/webp", target.getvalue()), key=lambda one: len(one[1]))


def _thumbnail(kind: str, content: bytes) -> str:
    if kind == "image/svg+xml":
        return data_uri(kind, content)
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    small = Image.alpha_composite(white, picture).convert("RGB")
    width, height = small.size
    if not 1.2 < width / height < 2.2:  # of long figures the beginning, large enough to be made out
        small = small.crop((0, 0, min(width, round(1.6 * height)), min(height, round(width / 1.6))))
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    target = io.BytesIO()
    small.save(target, "WEBP", quality=80)
    return data_uri("image/webp", target.getvalue())


def without_paths(text: str, study: Study) -> str:
    """Plain text with paths of this machine shortened to where they lie in the checkout."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path's own raises for a user without a home
    for given, short in ((study.root, f"results/{study.root.name}"), (REPOSITORY, "."), (home, "~")):
        if not given.is_absolute() or given == given.parent:  # "/" is a part of every path
            continue
        for path in map(str, (given, given.resolve())):
            ways = "|".join(map(re.escape, (path, repr(path)[1:-1])))  # as it is, and in a Python literal
            # A path begins where no other one goes on, and ends with a whole name.
            whole = rf"(?:(?<=file://)|(?<![\w./~-]))(?:{ways})(?![\w+-]|\.\w)"
            text = re.sub(whole, lambda _, short=short: short, text)
    return text


def _shorten_paths(soup: BeautifulSoup, study: Study) -> None:
    """Shortens the paths in a page's texts. There, a path has the signs that HTML writes as `&amp;`."""
    for text in soup.find_all(string=True):
        text.replace_with(without_paths(text, study))
    for tag in soup.find_all(True):
        for name in ("alt", "aria-label", "title"):
            if tag.get(name):
                tag[name] = without_paths(tag[name], study)
