"""How a page was made: parameters, commit, versions, hardware, time, and the command that makes it again."""

import shlex
from collections.abc import Mapping
from typing import Any

from reidlib.datasets import PLACES
from reidlib.files import FileError, read_json
from reidlib.report.notebook_html import ABSOLUTE, without_paths
from reidlib.study.results import Study

OWN_IMAGES = "40_your_images"  # its step searches images that no study is of
# Parameters that name places, or are said elsewhere on the page.
_PLACES = ("results", "data_root", "reference")


def made_from(notebook, study: Study, step: str) -> list[tuple[str, str]]:
    """Names and values for the foot of a page, in order. What is not known is left out.

    Args:
        notebook: the executed notebook.
        step: its name, such as "10_train/baseline-seed0".
    """
    papermill = notebook.metadata.get("papermill", {})
    own = notebook.metadata.get("reidlib", {})
    made_by: Mapping[str, Any] = own.get("made_by") or {}
    given = {
        name: _without_folders(name, value)
        for name, value in papermill.get("parameters", {}).items()
        if name not in _PLACES
    }
    facts = {
        "Parameters": ", ".join(
            f"{name} = {value!r}" for name, value in given.items() if value not in ({}, "")
        ),
        "Commit": made_by.get("commit", ""),
        "Versions": f"Python {made_by['python']}, torch {made_by['torch']}" if made_by else "",
        "Hardware": f"{made_by['processor']}, {made_by['cores']} cores" if made_by else "",
        "Made": str(papermill.get("end_time") or "").partition(".")[0].replace("T", " "),
        "Time": f"{papermill['duration']:.0f} s" if papermill.get("duration") else "",
        "Images": _fingerprint(study, step),
        "Again": own.get("command") or _command(study, step),
    }
    # Of other paths, as of a file of weights, the last name stays.
    shortened = {
        name: ABSOLUTE.sub(r"\1…/\2\1", without_paths(str(value), study)) for name, value in facts.items()
    }
    return [(name, value) for name, value in shortened.items() if value]


def _without_folders(name: str, value: Any) -> Any:
    """A parameter's value; of data sets that have a name each, the names only."""
    if name == "targets":
        return list(value) or ""
    if name == "data_options" and "sources" in value:
        return value | {"sources": list(value["sources"])}
    return value


def _fingerprint(study: Study, step: str) -> str:
    """The beginning of the digests of the images that the step read, where its record has them."""
    try:
        read = read_json(study.steps / f"{step}.json")["parts"]["reads"]
        return ", ".join(
            f"{name} {str(value)[:12]}" for name, value in read.items() if name.endswith(" images")
        )
    except (FileError, KeyError, TypeError, AttributeError):  # no record, or a damaged one
        return ""


def _command(study: Study, step: str) -> str:
    if step == OWN_IMAGES:
        return "python run_all.py --images DIR --queries PATH --run PATH --force"
    if study.reference:
        return f"python run_all.py --reference --only {shlex.quote(step)} --force"
    place = PLACES.get(study.dataset, "")
    return (
        f"python run_all.py --profile {study.profile} --dataset {study.dataset}{place} "
        f"--only {shlex.quote(step)} --force"
    )
