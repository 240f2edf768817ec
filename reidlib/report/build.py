"""The executed notebooks as one HTML site that needs no network and no script.

Pictures are embedded, so every page is whole by itself. A content security policy in every page forbids the
browser to load anything else. Pages link to each other by name only: the folder can be moved or zipped.
"""

import base64
import hashlib
import html
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, FileError, read_json, write_atomically
from reidlib.report.clean_html import as_utf8
from reidlib.report.downloads import copy_to
from reidlib.report.explorer import explorer_page
from reidlib.report.made import made_from
from reidlib.report.notebook_html import front_of, render, shortened, without_paths
from reidlib.report.outside import SCRIPTS
from reidlib.report.paper_map import Place, map_rows
from reidlib.report.search import as_json, sections_of
from reidlib.run import DID_NOT_LEARN, METRICS
from reidlib.study.notebook_files import LACKING, nbformat
from reidlib.study.results import Study
from reidlib.study.steps import Step

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
    ids: Mapping[str, str] = field(default_factory=dict)  # saved figure or table → its id in the body
    runs: int = 0  # training runs that it needs
    made: list[tuple[str, str]] = field(default_factory=list)  # how the page was made: name, value
    front: bool = False  # the first page
    findings: Markup = Markup("")  # what the index shows of the first page

    @property
    def file(self) -> str:
        return self.name.replace("/", ".").replace("+", "-with-") + ".html"

    @property
    def href(self) -> str:
        return quote(self.file)


def build_report(
    study: Study,
    *,
    title: str,
    facts: Mapping[str, object],
    steps: Iterable[Step] = (),
    papers: bool = True,
    beside: Mapping[str, str] | None = None,
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
        papers: list the papers' figures and tables on the index.
        beside: the reports on other data sets: title → address, from the site's folder. Every page links to
            them.
    """
    facts = dict(facts)
    claim = facts.pop("claim", "")
    caveats = list(facts.pop("caveats", ()))
    pages = _pages(study, list(steps))
    ready = [page for page in pages if not page.problem]
    files: list[Path] = []
    for page in ready:
        notebook = _read(page.path)
        try:
            rendered = render(notebook, study, title=page.label, page_of=_page_of(ready))
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for pictures that are none
            raise _damaged(page.path) from error
        page.body, page.lead = Markup(rendered.body), rendered.lead  # sanitised by render
        page.thumbnail, page.ids = rendered.thumbnail, rendered.figures
        page.made = made_from(notebook, study, page.name)
        files += rendered.files
        if page.front:
            page.findings = Markup(front_of(notebook, study, page_of=_page_of(ready)))  # sanitised, too
    source, style = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("template.html", "style.css")
    )
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(source)
    unbroken = re.sub(r"\w+(?:-\w+)+", r'<span class="word">\g<0></span>', str(escape(title)))
    common = {
        "title": title,
        "title_html": Markup(unbroken),
        "caveats": caveats,
        "groups": _groups(pages),
        "study": study.root.name,
        "style": Markup(style),  # ours, as the script is
        "script": Markup(SCRIPTS[0]),
        "script_hashes": [
            base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in SCRIPTS
        ],
        "beside": list((beside or {}).items()),
        "search": None,
        "explorer": None,
        "has_explorer": False,
    }
    explorer = explorer_page(study)
    common["has_explorer"] = explorer is not None
    places = {page.notebook: Place(page.href, page.ids, page.runs) for page in reversed(ready)}
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
            map=map_rows(study, places) if papers else [],
            **common,
        )
        write_atomically(temporary / "index.html", as_utf8(index))
        sections = [section for page in ready for section in sections_of(page.body, page.href, page.label)]
        found = template.render(page=None, **common | {"search": Markup(as_json(sections))})
        write_atomically(temporary / "search.html", as_utf8(found))
        if explorer is not None:
            own = {"explorer": explorer, "explorer_script": Markup(SCRIPTS[1])}
            write_atomically(temporary / "explorer.html", as_utf8(template.render(page=None, **common | own)))
        copy_to(temporary, files)
        _swap(temporary, study.report)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return study.report / "index.html"


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
            runs=sum(name.startswith("10_train/") for name in step.needs),
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
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
