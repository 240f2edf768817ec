"""The executed notebooks as one HTML site that needs no network and no script.

Pictures are embedded, so every page is whole by itself. A content security policy in every page forbids the
browser to load anything else. Pages link to each other by name only: the folder can be moved or zipped.
"""

import html
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import nh3
from bs4 import BeautifulSoup
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, FileError, read_json, write_atomically
from reidlib.report.clean_html import KEPT, as_utf8
from reidlib.report.notebook_html import front_of, render, shortened, without_paths
from reidlib.run import DID_NOT_LEARN, METRICS
from reidlib.study.notebook_files import LACKING, nbformat
from reidlib.study.results import Study
from reidlib.study.steps import Step

# Elements that no page may have: they run, they load, or parsers disagree about what they hold.
_NEVER = """
base embed iframe math noembed noframes noscript object plaintext script select svg
template xmp"""
# Elements that pages have: those of the template, and what is kept of the notebooks.
_OWN = f"article body footer head html main meta nav style title {KEPT}"
_ADDRESSES = ("src", "href", "data", "poster", "background", "action", "formaction")
_RUN_NAME = re.compile(r"(?P<method>.+)-seed(?P<seed>\d+)")


class ReportError(ReidError):
    """The report cannot be made from these files."""


@dataclass(eq=False)
class _Page:
    """One notebook of the study, run or not."""

    name: str
    notebook: str
    label: str  # in the navigation and on the card
    path: Path
    failed: Path
    number: str = ""
    problem: str = ""  # why there is no page
    eyebrow: str = ""
    lead: str = ""  # first paragraph
    thumbnail: str = ""  # first figure as a small data URI
    body: Markup = Markup("")
    front: bool = False  # the first page
    findings: Markup = Markup("")  # what the index shows of the first page

    @property
    def file(self) -> str:
        return self.name.replace("/", ".").replace("+", "-with-") + ".html"

    @property
    def href(self) -> str:
        return quote(self.file)


def build_report(
    study: Study, *, title: str, facts: Mapping[str, object], steps: Iterable[Step] = ()
) -> Path:
    """Writes the site to study.report and returns its index.html.

    The old site stays until the new one is whole.

    Args:
        title: of the report.
        facts: "claim" (the study's claim, two sentences) and "caveats" (sentences that every page shows in a
            box). The index lists every other entry as it stands.
        steps: in the order of the report; the one with `front` comes first. Those without an executed
            notebook are shown as "not run". Without steps, the report has the executed notebooks that exist,
            by name.
    """
    facts = dict(facts)
    claim = facts.pop("claim", "")
    caveats = list(facts.pop("caveats", ()))
    pages = _pages(study, list(steps))
    ready = [page for page in pages if not page.problem]
    for page in ready:
        notebook = _read(page.path)
        try:
            rendered = render(notebook, study, title=page.label, page_of=_page_of(ready))
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for pictures that are none
            raise _damaged(page.path) from error
        page.body, page.lead, page.thumbnail = (
            Markup(rendered.body),
            rendered.lead,
            rendered.thumbnail,
        )  # sanitised by render
        if page.front:
            page.findings = Markup(front_of(notebook, study, page_of=_page_of(ready)))  # sanitised, too
    source = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    unbroken = re.sub(r"\w+(?:-\w+)+", r'<span class="word">\g<0></span>', str(escape(title)))
    common = {
        "title": title,
        "title_html": Markup(unbroken),
        "caveats": caveats,
        "groups": _groups(pages),
        "study": study.root.name,
    }
    temporary = study.root / f".report.{secrets.token_hex(4)}.tmp"
    try:
        for place, page in enumerate(ready):
            around = {
                "previous": ready[place - 1] if place else None,
                "next": ready[place + 1] if page is not ready[-1] else None,
            }
            write_atomically(temporary / page.file, as_utf8(template.render(page=page, **around, **common)))
        index = template.render(
            page=None,
            claim=claim,
            front=next((page for page in ready if page.findings), None),
            eyebrow=f"Profile {study.profile} · data set {study.dataset}",
            cards=[page for page in pages if not _is_run(page)],
            runs=_runs(study, pages),
            facts=list(facts.items()),
            **common,
        )
        write_atomically(temporary / "index.html", as_utf8(index))
        _swap(temporary, study.report)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return study.report / "index.html"


def outside_references(report_dir: str | Path) -> list[str]:
    """What a browser would load from elsewhere or run, and local references that lead nowhere.

    Links that a reader may click (`<a href="https://…">`) load nothing and do not count.
    """
    report_dir = Path(report_dir)
    found = []
    for path in sorted(report_dir.rglob("*.html")):
        page = path.read_text(encoding="utf-8")
        soup = _as_browsers_read(page)
        name = path.relative_to(report_dir)
        # nh3 drops elements of other vocabularies (`mtext`, `desc`) with all that they hold.
        strange = _names_of_elements(page) - {*_OWN.split(), *_NEVER.split()}
        found += [f"{name}: <{element}>" for element in sorted(strange)]
        found += [f"{name}: <{tag.name}>" for tag in soup.find_all(_NEVER.split())]
        found += [
            f"{name}: refresh"
            for tag in soup.find_all("meta")
            if str(tag.get("http-equiv", "")).lower() == "refresh"
        ]
        references = []
        for tag in soup.find_all(True):
            css = tag.get_text() if tag.name == "style" else str(tag.get("style", ""))
            references += [("css", target) for target in _css_references(css)]
            references += [(tag.name, str(tag[attribute])) for attribute in _ADDRESSES if tag.get(attribute)]
            references += [
                (tag.name, entry.split()[0])
                for entry in str(tag.get("srcset", "")).split(",")
                if entry.strip()
            ]
            found += [f"{name}: <{tag.name} {script}>" for script in tag.attrs if script.startswith("on")]
        found += [
            f"{name}: <{tag_name}> {target[:200]}"
            for tag_name, target in references
            if not _stays(tag_name, target, path, report_dir)
        ]
    for path in sorted(report_dir.rglob("*.css")):
        found += [
            f"{path.relative_to(report_dir)}: {target}"
            for target in _css_references(path.read_text(encoding="utf-8"))
        ]
    return found


def _as_browsers_read(text: str) -> BeautifulSoup:
    """The elements of a page as a browser finds them, whatever comments and declarations stand between them.

    nh3 parses as browsers do. It writes the page again without comments, with every element that the text
    names. It reads only what a body can hold, so `html`, `head` and the like are read as `div`.
    """
    text = re.sub(r"(?i)(</?)(?:html|head|body|frameset|frame)\b", r"\1div", text)
    schemes = set(re.findall(r"(?<![\w+.-])[a-z][\w+.-]*(?=:)", text.lower()))
    written = nh3.clean(
        text,
        tags=_names_of_elements(text) | {"img"},  # browsers read `image` as `img`
        clean_content_tags=set(),
        attributes={"*": {*_ADDRESSES, "http-equiv", "srcset", "style"}},
        generic_attribute_prefixes={"on"},
        url_schemes=schemes | {"data", "file", "ftp", "http", "https", "javascript", "ws", "wss"},
        link_rel=None,
    )
    return BeautifulSoup(written, "html.parser")


def _names_of_elements(text: str) -> set[str]:
    """The names after every `<` of a page, also of those in comments and texts."""
    # Browsers take only ASCII letters as lower case.
    found = re.findall(rb"<([a-z][^\t\n\f\r />]*)", text.encode().lower())
    return {name.decode() for name in found}


def _stays(tag_name: str, target: str, page: Path, report_dir: Path) -> bool:
    """Whether a reference is an embedded picture, leads to a file of the site, or waits for a click."""
    address = urlsplit(target)
    if address.scheme or address.netloc:
        clicked = tag_name in ("a", "area") and address.scheme in ("http", "https", "mailto")
        return clicked or target.startswith("data:image/")
    local = (page.parent / unquote(address.path)).resolve() if address.path else page.resolve()
    return local.is_relative_to(report_dir.resolve()) and local.is_file()


def _css_references(text: str) -> list[str]:
    found = re.findall(r"(?i)url\(\s*['\"]?([^'\")]+)", text) + re.findall(
        r"(?i)@import\s+['\"]([^'\"]+)", text
    )
    return [target for target in found if not target.startswith(("data:", "#"))]


# ---- which pages there are ---------------------------------------------------------------------------------


def _pages(study: Study, steps: list[Step]) -> list[_Page]:
    if not steps:
        names = sorted(
            {
                str(path.relative_to(study.notebooks))
                for path in study.notebooks.rglob("*.ipynb")
                if path.name[0] != "."
            }
        )
        names = list(dict.fromkeys(name.removesuffix(".ipynb").removesuffix(".failed") for name in names))
        steps = [Step(name, name.split("/")[0], {}) for name in names]
    pages = []
    for step in sorted(steps, key=lambda step: not step.front):
        page = _Page(
            step.name,
            step.notebook,
            step.title,
            step.executed(study),
            step.failed(study),
            number=step.notebook.split("_")[0],
            front=step.front,
        )
        if step.failed(study).is_file():
            page.problem = without_paths(_failure(step.failed(study)), study)
        elif not page.path.is_file():
            page.problem = "Not run."
        run = _RUN_NAME.fullmatch(step.name.split("/")[-1])
        if run and not page.label:
            page.label = run["method"] + (f", seed {run['seed']}" if int(run["seed"]) else "")
        elif _is_run(page) and not page.label:  # released weights
            page.label = step.name.split("/")[-1]
        pages.append(page)
    for page in pages:
        if not page.label:
            sources = (page.path, page.failed, REPOSITORY / "notebooks" / f"{page.notebook}.ipynb")
            page.label = next(filter(None, map(_heading, sources)), page.name)
        page.eyebrow = f"Notebook {page.notebook}" + (
            f" · {page.name.split('/', 1)[1]}" if "/" in page.name else ""
        )
    return pages


def _read(path: Path):
    """A notebook. Odd bytes in the names of files, which UTF-8 cannot write, become question marks.

    Raises:
        ReportError: the file is no notebook.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["nbformat"] != 4:
            raise ValueError(f"nbformat {content['nbformat']}")
        text = json.dumps(content, ensure_ascii=False).encode(errors="replace").decode()
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)  # `reads` would only print what is wrong
        return notebook
    except (OSError, ValueError, TypeError, LookupError, AttributeError, nbformat.ValidationError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ReportError:
    return ReportError(
        f"The executed notebook {path} is damaged. Delete it and run its step again (run_all.py)."
    )


def _page_of(ready: list[_Page]):
    """Notebook → address of its first page."""
    first = {page.notebook: page.href for page in reversed(ready)}
    return lambda notebook: first.get(notebook, "")


def _failure(path: Path) -> str:
    """Why a notebook that was executed has no page. Its process may have ended before it could write it."""
    try:
        notebook = _read(path)
    except ReportError:
        return "Not run: it failed."
    outputs = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    if not outputs:
        return "Not run: it failed."
    last = next((line for line in reversed(outputs[-1].evalue.splitlines()) if line.strip()), "")
    if outputs[-1].ename in LACKING:
        return f"Not made, for want of runs: {shortened(last, 600)}"
    return f"Not run: it failed with {outputs[-1].ename}: {shortened(last, 200)}"


def _heading(path: Path) -> str:
    """The first heading of a notebook, "" if there is none to read."""
    try:
        cells = _read(path).cells if path.is_file() else []
    except ReportError:
        return ""
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    title = next((line for line in lines if re.match(r"# \S", line)), "")
    return html.unescape(re.sub(r"[`*$]", "", title.lstrip("# ").strip()))


def _is_run(page: _Page) -> bool:
    return "/" in page.name


def _groups(pages: list[_Page]) -> list[dict]:
    """Pages as they follow each other; several of one notebook under one heading."""
    return [
        {
            "label": "Training runs" if notebook == "10_train" else notebook if grouped else "",
            "pages": list(members),
        }
        for (notebook, grouped), members in groupby(
            pages, key=lambda page: (page.notebook if _is_run(page) else "", _is_run(page))
        )
    ]


def _runs(study: Study, pages: list[_Page]) -> list[dict]:
    """Rows of the table of training runs: those with a page, and those that only left metrics."""
    by_run = {page.name.split("/")[-1]: page for page in pages if _is_run(page)}
    others = {path.parent.name for path in study.runs.glob(f"*/{METRICS}")} - by_run.keys()
    rows = []
    for name in [
        *by_run,
        *sorted(filter(_RUN_NAME.fullmatch, others)),
    ]:  # what was set aside has another ending
        match, page, path = _RUN_NAME.fullmatch(name), by_run.get(name), study.runs / name / METRICS
        row = {
            "method": match["method"] if match else name,
            "seed": match["seed"] if match else "–",  # released weights have no seed
            "problem": "",
            "href": page.href if page and not page.problem else "",
        }
        if path.is_file():
            try:
                metrics = read_json(path)
                row["scores"] = [_score(metrics, key) for key in ("rank1", "map")]
                if metrics.get("learned") is False:
                    row["scores"] = [(DID_NOT_LEARN, value) for value, _ in row["scores"]]
                row["time"] = _duration(metrics.get("train_seconds"))
            except (FileError, AttributeError, TypeError, ValueError):
                row["problem"] = f"Its {METRICS} is damaged: run its step again."
        else:
            row["problem"] = "Not run: it failed." if page and page.failed.is_file() else "Not run."
        rows.append(row)
    return rows


def _score(metrics: dict, key: str) -> tuple[str, str]:
    value, interval = metrics.get(key), metrics.get(f"{key}_interval")
    return "–" if value is None else f"{100 * value:.1f}", " – ".join(
        f"{100 * bound:.1f}" for bound in interval
    ) if interval else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _swap(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
