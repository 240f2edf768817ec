"""Steps, that is notebooks with parameters: checks the parameters, and chooses steps by name."""

import ast
import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reidlib.errors import ReidError
from reidlib.settings import in_short
from reidlib.study.parameters import ParameterError
from reidlib.study.results import Study

_STEP_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)


class PipelineError(ReidError):
    """The steps asked for do not exist or do not fit together."""


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook: "code" or "markdown", its source, its tags."""

    kind: str
    source: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One notebook with parameters."""

    name: str  # unique, also the executed notebook's path: "10_train/baseline-seed0"
    notebook: str  # file name without suffix: "10_train"
    parameters: dict
    needs: tuple[str, ...] = ()  # names of steps that must be finished before
    produces: tuple[str, ...] = ()  # files or folders it writes, relative to the study's root
    weight: float = 1.0  # expected share of the study's time, for the ETA and the order of starts
    title: str = ""
    # files and folders that it depends on, compared by content; relative paths start at the checkout
    reads: tuple[str, ...] = ()
    # the images that it depends on, as in `ReidDataset.fingerprints`; no other file of a data root counts
    images: Mapping[str, str] = field(default_factory=dict)
    # its page is the report's first, and the index shows the outputs of its cells with the tag "front"
    front: bool = False

    def executed(self, study: Study) -> Path:
        return study.notebooks / f"{self.name}.ipynb"

    def failed(self, study: Study) -> Path:
        return study.notebooks / f"{self.name}.failed.ipynb"

    def state(self, study: Study) -> Path:
        return study.steps / f"{self.name}.json"


def check_parameters(notebook_path: str | Path, parameters: Mapping) -> None:
    """Checks parameters against the notebook's cell that is tagged `parameters`.

    The cell holds lines `name = literal`. It is read without being run. A value must have the literal's type;
    an int may stand for a float, a list for a tuple, and anything for None. What a value means is checked by
    the notebook itself (`reidlib.study.parameters`).

    Raises:
        ParameterError: the cell does not declare a name, a value has another type, or the cell is missing or
            cannot be read.
    """
    notebook_path = Path(notebook_path)
    declared = declared_parameters(notebook_path)
    for name, value in parameters.items():
        if name not in declared:
            close = difflib.get_close_matches(str(name), declared, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(declared) or 'none'}."
            raise ParameterError(f"The notebook {notebook_path.name} has no parameter {name!r}: {hint}")
        if not _fits(value, declared[name]):
            raise ParameterError(
                f"The parameter {name!r} of {notebook_path.name} must be {type(declared[name]).__name__}, "
                f"not {in_short(value)} ({type(value).__name__})."
            )


def declared_parameters(path: Path) -> dict[str, object]:
    """The parameters of a notebook: name → default value, in the order of the cell."""
    cells = [cell for cell in read_cells(path) if "parameters" in cell.tags]
    if len(cells) != 1:
        raise ParameterError(
            f"The notebook {path} must have one cell tagged `parameters`, but {len(cells)} are."
        )
    declared = {}
    try:
        lines = ast.parse(cells[0].source).body
    except (SyntaxError, ValueError) as error:
        raise ParameterError(f"The parameters cell of {path.name} is no Python: {error}.") from error
    for line in lines:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                with contextlib.suppress(TypeError, ValueError):
                    declared[name] = ast.literal_eval(value)
                    continue
        raise ParameterError(
            f"Line {line.lineno} of the parameters cell of {path.name} is no `name = literal`: "
            f"{ast.unparse(line)}"
        )
    return declared


def _fits(value: object, default: object) -> bool:
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple)
    return type(value) is type(default)


def select(steps: Iterable[Step], only: Iterable[str] = (), start_from: str = "") -> list[Step]:
    """The chosen steps, in the order of `steps`.

    Args:
        steps: all steps; each must come after those it needs.
        only: names of notebooks or steps, or beginnings of step names; empty: all steps.
        start_from: such a name; steps before the first that it names are left out. "": none are.

    Raises:
        PipelineError: a name fits no step, or a step comes before one that it needs.
    """
    steps = list(steps)
    _check_order(steps)
    only = list(only)
    chosen = {step.name for name in only for step in _matching(steps, name)}
    first = steps.index(_matching(steps, start_from)[0]) if start_from else 0
    return [step for step in steps[first:] if not only or step.name in chosen]


def _matching(steps: list[Step], name: str) -> list[Step]:
    exact = [step for step in steps if name in (step.name, step.notebook)]
    found = exact or [step for step in steps if name and step.name.startswith(name)]
    if not found:
        names = list(dict.fromkeys([step.notebook for step in steps] + [step.name for step in steps]))
        close = difflib.get_close_matches(in_short(name), map(repr, names), n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise PipelineError(
            f"There is no step {in_short(name)}. {hint}The steps are: "
            f"{', '.join(step.name for step in steps)}."
        )
    return found


def _check_order(steps: list[Step]) -> None:
    before: list[str] = []
    for step in steps:
        missing = [name for name in step.needs if name not in before]
        if step.name in before or not _STEP_NAME.fullmatch(step.name):
            raise PipelineError(f"The step name {step.name!r} is used twice or cannot name a file.")
        if missing:
            raise PipelineError(
                f"The step {step.name!r} needs {', '.join(missing)}, which does not come before it."
            )
        before.append(step.name)


def notebook_path(step: Step, repository: Path) -> Path:
    return repository / "notebooks" / f"{step.notebook}.ipynb"


def read_cells(path: Path) -> list[Cell]:
    """The cells of a notebook. They are read as JSON, because nbformat takes more than a second to import.

    Raises:
        PipelineError: the file is missing or is no notebook of format 4.
    """
    if not path.is_file():
        raise PipelineError(f"The notebook {path} does not exist.")
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if notebook["nbformat"] != 4:
            raise ValueError(f"nbformat {notebook['nbformat']}, where 4 was expected")
        return [
            Cell(cell["cell_type"], "".join(cell["source"]), tuple(cell["metadata"].get("tags", ())))
            for cell in notebook["cells"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PipelineError(f"The file {path} is no notebook that can be read: {error!r}") from error
