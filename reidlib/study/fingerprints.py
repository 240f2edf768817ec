"""Decides which steps are out of date, and why, by a fingerprint of all that a step's results depend on.

The fingerprint covers the notebook's code cells, the parameters, the fingerprints of the steps it needs, the
files and the images it reads, and the code it uses. The code is found by following the notebook's imports of
reidlib from module to module (`reidlib.code_digest`). Comments and docstrings do not count.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from reidlib.code_digest import Code, source_digest
from reidlib.files import REPOSITORY, FileError, digest, file_digest, read_json
from reidlib.study.results import Study
from reidlib.study.steps import Cell, PipelineError, Step, check_parameters, notebook_path, read_cells

# parameters that say where results lie: a study that is moved stays up to date
UNCOUNTED = ("results", "reference")


def fingerprint(
    step: Step, fingerprints_of_needs: Mapping[str, str], *, repository: Path = REPOSITORY
) -> str:
    """Digest, 64 hex digits, of all that the step's results depend on.

    Args:
        fingerprints_of_needs: the fingerprint of every step in `step.needs`, by its name.
    """
    _content_digest.cache_clear()
    return digest(_parts(step, fingerprints_of_needs, Code(repository), repository))


def _parts(step: Step, fingerprints_of_needs: Mapping[str, str], code: Code, repository: Path) -> dict:
    """The fingerprint's parts by name; kept in the state file so that a rerun can say why."""
    source, magics = _notebook_code(read_cells(notebook_path(step, repository)))
    notebook, imports = source_digest(source)
    return {
        "notebook": digest([notebook, magics]),
        "parameters": {
            name: value for name, value in sorted(step.parameters.items()) if name not in UNCOUNTED
        },
        "code": code.used(imports),
        "reads": {name: _content_digest(repository / name) for name in sorted(step.reads)}
        | {f"{part} images": fingerprint for part, fingerprint in sorted(step.images.items())},
        "needs": {name: fingerprints_of_needs[name] for name in sorted(step.needs)},
    }


def _notebook_code(cells: Iterable[Cell]) -> tuple[str, list[str]]:
    """The code cells as one Python source, and separately the lines that only IPython understands."""
    lines = [line for cell in cells if cell.kind == "code" for line in cell.source.splitlines()]
    magics = [line for line in lines if line.lstrip()[:1] in ("%", "!")]
    return "\n".join("pass" if line in magics else line for line in lines), magics


@functools.cache
def _content_digest(path: Path) -> str:
    """Digest of a file, or of all files of a folder by name. Hidden files (.DS_Store) do not count."""
    try:
        if path.is_file():
            return file_digest(path)
        names = {file: file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()}
        return digest(
            [
                (str(name), file_digest(file))
                for file, name in names.items()
                if not any(part.startswith(".") for part in name.parts)
            ]
        )
    except OSError as error:
        raise PipelineError(
            f"{error.filename or path} cannot be read ({error.strerror}): give your account the right to."
        ) from error


def text_digest(cells: Iterable[Cell]) -> str:
    return digest([(cell.kind, cell.source) for cell in cells])


@dataclass
class StepPlan:
    """A step, what it depends on now, and why it must run ("" if it is up to date)."""

    step: Step
    fingerprint: str
    parts: dict
    reason: str
    text: str  # digest of everything written in the notebook
    status: str = "waiting"  # waiting · up to date · running · done · failed · skipped
    seconds: float | None = None
    refresh: bool = False  # up to date, but the executed copy shows older text


def plan_steps(steps: list[Step], study: Study, force: bool, repository: Path) -> list[StepPlan]:
    """A plan for each step, in the same order. `force`: every step must run.

    Raises:
        ParameterError: a notebook does not take a step's parameters.
        PipelineError: a notebook is missing, or a file cannot be read.
    """
    plans: dict[str, StepPlan] = {}
    code = Code(repository)
    _content_digest.cache_clear()  # many steps read the same folder: it is read once per plan
    for step in steps:
        check_parameters(notebook_path(step, repository), step.parameters)
    for step in steps:
        needs = {
            name: plans[name].fingerprint if name in plans else _remembered(name, study)
            for name in step.needs
        }
        parts = _parts(step, needs, code, repository)
        reason = "forced" if force else _reason(step, study, parts)
        if not reason:
            again = [name for name in step.needs if name in plans and plans[name].reason]
            reason = f"{again[0]} is run again" if again else ""
        text = text_digest(read_cells(notebook_path(step, repository)))
        plan = StepPlan(
            step, digest(parts), parts, reason, text, status="waiting" if reason else "up to date"
        )
        plan.refresh = not reason and read_state(step.name, study).text != text
        plans[step.name] = plan
    return list(plans.values())


@dataclass(frozen=True)
class State:
    """What the state file of a finished step says."""

    fingerprint: str
    parts: dict  # of the fingerprint; see `_parts`
    text: str  # digest of everything written in the notebook
    run: str  # random id of the execution
    needs_run: dict  # name of a needed step → its `run`


_DICTS_IN_PARTS = ("parameters", "code", "reads", "needs")


def read_state(name: str, study: Study) -> State | None:
    """The state of a step that was finished, or None if its file is missing or damaged."""
    try:
        content = read_json(study.steps / f"{name}.json")
        state = State(**{field.name: content[field.name] for field in fields(State)})
        whole = all(type(getattr(state, field.name)) is field.type for field in fields(State))
        return (
            state if whole and all(isinstance(state.parts[part], dict) for part in _DICTS_IN_PARTS) else None
        )
    except (FileError, KeyError, TypeError):
        return None


def _remembered(name: str, study: Study) -> str:
    """The fingerprint with which a step was last finished, for a needed step that is not in this call."""
    state = read_state(name, study)
    return state.fingerprint if state else "not run"


def _reason(step: Step, study: Study, parts: dict) -> str:
    path = step.state(study)
    if not path.is_file():
        return "not finished before"
    state = read_state(step.name, study)
    if state is None:
        return f"its state file is damaged: {path.relative_to(study.root)}"
    missing = [name for name in step.produces if not _is_whole(study.root / name)]
    missing += [] if step.executed(study).is_file() else [str(step.executed(study).relative_to(study.root))]
    if missing:
        return f"missing or damaged: {', '.join(missing)}"
    now, then = json.loads(json.dumps(parts)), state.parts
    if now == then:
        again = [name for name, run in state.needs_run.items() if run != run_id(name, study)]
        return f"{again[0]} was run again" if again else ""
    names = {
        "parameters": "changed parameters",
        "code": "changed code",
        "reads": "changed files",
        "needs": "changed need",
    }
    for part, words in names.items():
        keys = [key for key in sorted({*now[part], *then[part]}) if now[part].get(key) != then[part].get(key)]
        if keys and part == "parameters":
            return f"{words}: " + ", ".join(
                f"{key} {then[part].get(key)!r} -> {now[part].get(key)!r}" for key in keys
            )
        if keys:
            return f"{words}: {', '.join(keys)}"
    return "changed notebook"


def _is_whole(product: Path) -> bool:
    """Whether a product exists, and no file of it was left empty or cut by a crash or a full disk.

    Of a folder, its own JSON files count: each is the record of a finished run.
    """
    if product.suffix == ".json" and product.is_file():
        try:
            return bool(read_json(product))
        except FileError:
            return False
    if product.is_dir():
        return all(_is_whole(record) for record in product.glob("*.json"))
    return product.is_file() and product.stat().st_size > 0


def run_id(name: str, study: Study) -> str:
    """The random id of the step's last finished execution, "" if there is none."""
    state = read_state(name, study)
    return state.run if state else ""
