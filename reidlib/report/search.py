"""The text of a report's pages by section, for the page of search."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bs4 import BeautifulSoup, NavigableString, Tag

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass(frozen=True)
class Section:
    """What stands below one heading of a page.

    Attributes:
        href: of the page and the heading.
        title: of the page.
        heading: "" for what stands above the page's second heading.
        text: of everything there, alternative texts of figures included; folded code and logs are not.
    """

    href: str
    title: str
    heading: str
    text: str


def sections_of(body: str, href: str, title: str) -> list[Section]:
    """The sections of one page.

    Args:
        body: HTML whose headings have ids.
        href: of the page.
    """
    soup = BeautifulSoup(body, "html.parser")
    found: list[tuple[Tag | None, list[str]]] = [(None, [])]
    for node in soup.descendants:
        if isinstance(node, Tag) and node.name in _HEADINGS:
            found.append((node, []))
        elif isinstance(node, Tag) and node.name == "img":
            found[-1][1].append(str(node.get("alt", "")))
        elif isinstance(node, NavigableString) and not node.find_parent([*_HEADINGS, "details"]):
            found[-1][1].append(str(node))
    sections = []
    for heading, texts in found:
        text = " ".join(" ".join(texts).split())
        if heading is None and not text:
            continue
        first = heading is None or heading.name == "h1"
        place = "" if first else f"#{heading['id']}"
        name = "" if first else " ".join(heading.get_text().split())
        sections.append(Section(href + place, title, name, text))
    return sections


def as_json(sections: Iterable[Section]) -> str:
    """The sections for a script element: no `<` can end it."""
    text = json.dumps([asdict(section) for section in sections], ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
