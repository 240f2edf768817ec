"""Looks whether everything that a study holds is what was written, by today's code. Every file is read.

A plan trusts a file's size and time of change; this does not.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reidlib.code_digest import digest_of_code
from reidlib.files import REPOSITORY, FileError, file_digest, read_json
from reidlib.run import RunFiles
from reidlib.study.fingerprints import changed_outputs, plan_steps, read_state
from reidlib.study.results import Study
from reidlib.study.steps import PipelineError, Step

REPORT = "report"  # the name of the report's state file


def verify(steps: Iterable[Step], study: Study, *, repository: Path = REPOSITORY) -> list[str]:
    """What is not as it should be, one line each: files, then steps and runs; [] if nothing is.

    Named are files that were changed or are missing since a step, a run or the report was recorded, steps
    that are not made or would be made differently now, and runs that other code made.

    Args:
        steps: the steps that have to be made; what others recorded is looked at, too.

    Raises:
        PipelineError: a file cannot be read.
    """
    found: dict[str, str] = {}  # file → what is to be said of it
    for path in sorted(study.steps.rglob("*.json")):
        name = str(path.relative_to(study.steps).with_suffix(""))
        if name == REPORT:
            found |= dict.fromkeys(_changed_pages(path, study), "written by the report")
            continue
        state = read_state(name, study)
        if state is None:
            found[str(path.relative_to(study.root))] = "no state file"
        else:
            changed = changed_outputs(state.outputs, study, thorough=True)
            found |= dict.fromkeys(changed, f"written by the step {name}")
    for folder in _runs(study):
        found |= dict.fromkeys(_changed_files(folder, study), f"written by the run {folder.name}")
    lines = [f"{_what(study.root / name)}  {name}  ({who})" for name, who in found.items()]
    plans = plan_steps(list(steps), study, False, repository)
    lines += [f"outdated {plan.step.name}  ({plan.reason})" for plan in plans if plan.reason]
    return lines + [
        f"outdated runs/{folder.name}  ({why})" for folder in _runs(study) for why in _code(folder)
    ]


def _what(path: Path) -> str:
    return "changed" if path.exists() else "missing"


def page_digests(report: Path) -> dict[str, str]:
    """Name → SHA-256 of every page of the report."""
    return {path.name: file_digest(path) for path in sorted(report.glob("*.html"))}


def _changed_pages(state: Path, study: Study) -> list[str]:
    try:
        pages = dict(read_json(state)["pages"])
    except (FileError, KeyError, TypeError, ValueError):
        return [str(state.relative_to(study.root))]
    now = page_digests(study.report)
    folder = os.path.relpath(study.report, study.root)
    return [f"{folder}/{name}" for name in pages if now.get(name) != pages[name]]


def _runs(study: Study) -> list[Path]:
    """The folders of runs, without those that were set aside. Those of reference runs have no digests."""
    records = [] if study.reference else sorted(study.runs.glob("*/weights.json"))
    return [path.parent for path in records if ".superseded" not in path.parent.name]


def _changed_files(folder: Path, study: Study) -> Iterator[str]:
    files = RunFiles(folder)
    for name in files.recorded_digests():
        try:
            intact = files.is_intact(folder / name)
        except FileError as error:
            raise PipelineError(str(error)) from error
        if not intact:
            yield str((folder / name).relative_to(study.root))


def _code(folder: Path) -> Iterator[str]:
    """Which of a run's two records names other code than today's."""
    from reidlib.training import records  # imports torch

    files = RunFiles(folder)
    for path, what, modules in (
        (files.weights_record, "weights", (records.WEIGHTS_CODE,)),
        (files.scores_record, "scores", (records.SCORES_CODE,)),
    ):
        try:
            made_from = read_json(path)["made_from"]
            code, released = made_from["code"], "checkpoint" in made_from
        except (FileError, KeyError, TypeError):
            if path.is_file() or files.metrics.is_file():
                yield f"its {path.name} is missing or damaged"
            continue
        if code != digest_of_code(*(records.RELEASED_WEIGHTS_CODE if released else modules)):
            yield f"its {what} were made by other code"
