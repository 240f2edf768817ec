"""Decides which steps are out of date, and why: by all that a step's results depend on, and by what it wrote.

The fingerprint covers the notebook's code cells, the parameters, the fingerprints of the steps it needs, the
files and the images it reads, and the code it uses. The code is found by following the notebook's imports of
reidlib from module to module (`reidlib.code_digest`). Comments and docstrings do not count.

What a step wrote is kept with its digests. A file of the same size and time of change counts as unchanged;
of any other the digest is compared, so a copied study stays up to date.
"""

import ast
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from reidlib.code_digest import Code, source_digest
from reidlib.files import REPOSITORY, FileError, digest, file_digest, read_json
from reidlib.run import METRICS, RunFiles
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
    path = notebook_path(step, repository)
    cells = read_cells(path)
    source, magics = _notebook_code(cells)
    try:
        notebook, imports = source_digest(source)
    except (SyntaxError, ValueError) as error:
        raise PipelineError(f"The notebook {path} cannot run: {_syntax_error(cells, error)}.") from error
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


def _syntax_error(cells: Iterable[Cell], error: Exception) -> str:
    """Which code cell has a syntax error, in words."""
    number = 0
    for cell in cells:
        number += cell.kind == "code"
        if cell.kind == "code":
            try:
                ast.parse(_notebook_code([cell])[0])
            except SyntaxError as found:
                return f"code cell {number}, line {found.lineno}: {found.msg}"
            except ValueError:  # a zero byte, in some versions of Python
                return f"code cell {number}: {error}"
    return str(error)


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
    status: str = "waiting"  # waiting · up to date · running · done · lacks runs · failed · skipped
    seconds: float | None = None
    refresh: bool = False  # up to date, but the executed copy shows older text
    earlier: float = 0.0  # seconds that it took when it was last done; 0: not known
    cpu_seconds: float = 0.0


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
    outputs: dict  # path below the study's root → [SHA-256, size, time of change] of a file that it wrote
    lacks: list  # names of the finished runs there were, of a step that lacked one; else empty


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
    missing = [] if state.lacks else [name for name in step.produces if not (study.root / name).exists()]
    changed = list(dict.fromkeys([*missing, *changed_outputs(state.outputs, study)]))
    if changed:
        return f"missing or changed: {in_short_list(changed)}"
    if state.lacks and state.lacks != finished_runs(study):
        return "there are other runs now"
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


def in_short_list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def finished_runs(study: Study) -> list[str]:
    """Names of the finished runs, and "" so that the list is never empty."""
    return ["", *sorted(path.parent.name for path in study.runs.glob(f"*/{METRICS}"))]


# ---------------------------------------------------------------------------------------------------- outputs

_RUN_FILES = ("weights_record", "curves", "model", "training", "scores_record", "embeddings", "queries",
              "metrics", "digests", "card")  # fmt: skip


def outputs_of(step: Step, study: Study, also: Iterable[Path] = ()) -> dict[str, list]:
    """What a step wrote, as `State.outputs` keeps it.

    These are the executed notebook, the step's products, all files of a run or folder among them, and those
    of `also` that lie in the study's tables, figures or explorer.
    """
    found = {step.executed(study), step.failed(study)}
    for product in (study.root / name for name in step.produces):
        if product.is_dir():
            found |= {path for path in product.rglob("*") if path.is_file()}
        elif product.name == METRICS:
            files = RunFiles(product.parent)
            found |= {getattr(files, name) for name in _RUN_FILES}
        found.add(product)
    found |= {path for path in also if path.parent in (study.tables, study.figures, study.explorer)}
    kept = sorted(path for path in found if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(study.root)): looked_at(path) for path in kept}


def looked_at(path: Path) -> list:
    """A file's SHA-256, size and time of change, as `State.outputs` keeps them."""
    state = path.stat()
    return [file_digest(path), state.st_size, state.st_mtime_ns]


def changed_outputs(outputs: Mapping[str, list], study: Study, *, thorough: bool = False) -> list[str]:
    """The files that are missing or are not what the step wrote.

    Args:
        thorough: read every file, whatever its size and time of change.

    Raises:
        PipelineError: a file cannot be read.
    """
    return [name for name, kept in outputs.items() if not _is_unchanged(study.root / name, kept, thorough)]


def _is_unchanged(path: Path, kept: list, thorough: bool) -> bool:
    try:
        state = path.stat()
        if not thorough and [state.st_size, state.st_mtime_ns] == kept[1:]:
            return True
        return state.st_size == kept[1] and file_digest(path) == kept[0]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, IndexError, TypeError):
        return False
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be read ({error.strerror}): give your account the right to."
        ) from error


def run_id(name: str, study: Study) -> str:
    """The random id of the step's last finished execution, "" if there is none."""
    state = read_state(name, study)
    return state.run if state else ""
