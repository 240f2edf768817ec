"""What a site would load from elsewhere or run: nothing may be, but the report's own scripts."""

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nh3
from bs4 import BeautifulSoup, Tag

from reidlib.report.clean_html import KEPT

# Elements that no page may have: they run, they load, or parsers disagree about what they hold.
_NEVER = """
base embed iframe math noembed noframes noscript object plaintext script select svg
template xmp"""
# Elements that pages have: those of the template, and what is kept of the notebooks.
_OWN = f"article body footer head html main meta nav section style title {KEPT}"
_ADDRESSES = ("src", "href", "data", "poster", "background", "action", "formaction")
SCRIPTS = [
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("script.js", "explorer.js")
]


def outside_references(report_dir: str | Path, beside: Collection[str] = ()) -> list[str]:
    """What a browser would load from elsewhere or run, and local references that lead nowhere.

    Links that a reader may click (`<a href="https://…">`) load nothing and do not count.

    Args:
        beside: addresses of other sites to which the pages may link. They may be made later.
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
        found += [f"{name}: <{tag.name}>" for tag in soup.find_all(_NEVER.split()) if not _is_own(tag)]
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
            if not (tag_name == "a" and target in beside) and not _stays(tag_name, target, path, report_dir)
        ]
    for path in sorted(report_dir.rglob("*.css")):
        found += [
            f"{path.relative_to(report_dir)}: {target}"
            for target in _css_references(path.read_text(encoding="utf-8"))
        ]
    return found


def _is_own(tag: Tag) -> bool:
    """Whether an element is the report's own script, or data for it, which never run."""
    if tag.name != "script" or set(tag.attrs) - {"type"}:
        return False
    return tag.get("type") == "application/json" or (not tag.attrs and tag.get_text() in SCRIPTS)


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
        attributes={"*": {*_ADDRESSES, "http-equiv", "srcset", "style"}, "script": {"type"}},
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
