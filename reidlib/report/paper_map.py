"""The papers' figures and tables, and where a report has them: data/paper/figures_and_tables.csv."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from reidlib.files import REPOSITORY
from reidlib.report.downloads import address_of
from reidlib.study.results import Study

SOURCE = REPOSITORY / "data" / "paper" / "figures_and_tables.csv"

_NUMBERS = (("csv", "tables"), ("csv", "figures"), ("npz", "figures"), ("png", "figures"))


@dataclass(frozen=True)
class PaperItem:
    """A figure or table of a paper.

    Attributes:
        paper, number, shows: such as "ABD-Net", "Table 1", "ablation".
        published: what the paper gives: "numbers", "pictures", "drawing" or "not recovered".
        dataset: the data set that it is about; "" if it is about none or several.
        notebook, saved: which notebook makes ours, and under which name it saves it.
    """

    paper: str
    number: str
    shows: str
    published: str
    dataset: str
    notebook: str
    saved: str


def paper_items() -> list[PaperItem]:
    with SOURCE.open(encoding="utf-8", newline="") as file:
        return [PaperItem(**row) for row in csv.DictReader(file)]


def state_of(item: PaperItem, study: Study, has_page: bool) -> str:
    """How far a study has made a figure or table again, in words."""
    if not has_page:
        return "not run"
    if item.dataset and item.dataset != study.dataset:
        return "published rows only: not run on this data set"
    if item.published == "drawing":
        return "drawn from the built model"
    if item.published == "not recovered":
        return "ours only: the published numbers were not recovered"
    if study.dataset in ("synthetic", "folder"):
        return "made with other data"
    if study.profile != "paper":
        return "made with other settings"
    return "made again"


@dataclass(frozen=True)
class Place:
    """A notebook's page.

    Attributes:
        href: its address.
        ids: name of a saved figure or table → its id in the page.
        runs: how many training runs it needs.
    """

    href: str
    ids: Mapping[str, str]
    runs: int


def map_rows(study: Study, pages: Mapping[str, Place]) -> list[dict[str, str]]:
    """One row for each figure and table: paper, number, shows, state, runs, and links to page and numbers.

    Args:
        pages: notebook → its page, for the notebooks that have one.
    """
    return [_row(item, study, pages.get(item.notebook)) for item in paper_items()]


def _row(item: PaperItem, study: Study, page: Place | None) -> dict[str, str]:
    row = {"paper": item.paper, "number": item.number, "shows": item.shows}
    row |= {"state": state_of(item, study, page is not None), "runs": "–", "href": "", "data": ""}
    if page is None:
        return row
    row |= {"href": page.href, "runs": str(page.runs or "–")}
    if item.saved in page.ids:
        row["href"] += f"#{page.ids[item.saved]}"
        places = [(kind, f"{item.saved}.{suffix}") for suffix, kind in _NUMBERS]
        there = [address_of(kind, file) for kind, file in places if (getattr(study, kind) / file).is_file()]
        row["data"] = there[0] if there else ""
    return row
