"""The saved figures and tables beside the pages, so that a reader can take them along."""

import re
import shutil
from pathlib import Path
from urllib.parse import quote

from bs4 import BeautifulSoup

from reidlib.study.results import Study

FOLDER = "files"  # of the site
# What is offered of each, in the order of the links: suffix → the link's text.
_KINDS = {
    "figures": {"png": "PNG", "pdf": "PDF", "csv": "numbers (CSV)", "npz": "numbers (NPZ)"},
    "tables": {"csv": "CSV", "md": "Markdown", "tex": "LaTeX"},
}
_SAVED = re.compile(r"""\.save_table\([^"'\n]*,\s*"([\w.+-]+)"\)""")


def saved_tables(source: str) -> list[str]:
    """The names under which a cell saves tables, in its order."""
    return _SAVED.findall(source)


def element_id(kind: str, name: str) -> str:
    """The id of a figure or table in its page. kind: "figures" or "tables"."""
    return f"{kind.removesuffix('s')}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def add_links(soup: BeautifulSoup, study: Study, kind: str, names: list[str]) -> list[Path]:
    """Adds links to the files of these figures or tables. Returns the files that the site needs."""
    needed = []
    for name in dict.fromkeys(names):
        place = soup.find(id=element_id(kind, name))
        files = {suffix: getattr(study, kind) / f"{name}.{suffix}" for suffix in _KINDS[kind]}
        files = {suffix: path for suffix, path in files.items() if path.is_file()}
        if place is None or not files:
            continue
        line = soup.new_tag("p", attrs={"class": "files"})
        for suffix, path in files.items():
            link = soup.new_tag("a", attrs={"href": address_of(kind, path.name), "download": ""})
            link.string = _KINDS[kind][suffix]
            line.append(link)
        place.append(line)
        needed += files.values()
    return needed


def address_of(kind: str, file: str) -> str:
    """Relative to the site's pages."""
    return quote(f"{FOLDER}/{kind}/{file}")


def copy_to(site: Path, files: list[Path]) -> None:
    """Copies figures and tables to where `add_links` says that they are."""
    for path in dict.fromkeys(files):
        target = site / FOLDER / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
