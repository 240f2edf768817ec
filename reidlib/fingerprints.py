"""What a step's results depend on, and from it which steps are out of date and why.

The fingerprint covers the notebook's code cells, the parameters, the fingerprints of the steps it needs, the files it
reads, and the code it uses, that is the notebook's imports of reidlib followed from module to module. Code is compared as
syntax trees without docstrings, so a comment or a reworded text starts nothing again. Imports by a computed name
(importlib) are not seen, and a fingerprint holds for one minor version of Python.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reidlib.results import REPOSITORY, Study, read_json
from reidlib.steps import Step, check_parameters, notebook_path, read_notebook

UNCOUNTED = ("results",)  # parameters that say where results lie: a study that is moved stays up to date


def fingerprint(step: Step, fingerprints_of_needs: Mapping[str, str], *, repository: Path = REPOSITORY) -> str:
    """What the step's results depend on, as 64 hex digits."""
    _content_digest.cache_clear()
    return digest(_parts(step, fingerprints_of_needs, repository))


def _parts(step: Step, fingerprints_of_needs: Mapping[str, str], repository: Path) -> dict:
    """The fingerprint's parts by name; kept in the state file so that a rerun can say why."""
    source, magics = _notebook_code(read_notebook(notebook_path(step, repository)))
    tree_hash, imports = _module_digest(source, "notebook")
    return {
        "notebook": digest([tree_hash, magics]),
        "parameters": {name: value for name, value in sorted(step.parameters.items()) if name not in UNCOUNTED},
        "code": _code_used(imports, repository),
        "reads": {name: _content_digest(repository / name) for name in sorted(step.reads)},
        "needs": {name: fingerprints_of_needs[name] for name in sorted(step.needs)},
    }


def code_digest(module: str, repository: Path = REPOSITORY) -> str:
    """16 hex digits over the code of a module of reidlib and all that it imports from there; comments do not count."""
    return digest(_code_used([module], repository))[:16]


def _code_used(imports: Iterable[str], repository: Path) -> dict[str, str]:
    """Module → digest of its code, for every module of reidlib that these imports reach."""
    digests: dict[str, str] = {}
    waiting = list(imports)
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        if len(parts) > 1:
            waiting.append(".".join(parts[:-1]))  # importing a module runs its packages first
        path = repository.joinpath(*parts)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in digests or not path.is_file():  # `from reidlib.models import build_model` names no module
            continue
        package = name if path.name == "__init__.py" else ".".join(parts[:-1])
        digests[name], found = _module_digest(path.read_text(encoding="utf-8"), package)
        waiting.extend(found)
    return dict(sorted(digests.items()))


@functools.cache
def _module_digest(source: str, package: str) -> tuple[str, tuple[str, ...]]:
    """Digest of the syntax tree without docstrings, and the names it may import from reidlib."""
    tree = ast.parse(source)
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            imports += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return digest(ast.dump(tree)), tuple(name for name in imports if name.split(".")[0] == "reidlib")


def _notebook_code(notebook) -> tuple[str, list[str]]:
    """The code cells as one Python source, and apart from it the lines that only IPython understands."""
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    magics = [line for line in lines if line.lstrip()[:1] in ("%", "!")]
    return "\n".join("pass" if line in magics else line for line in lines), magics


@functools.cache
def _content_digest(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return digest(sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file()))


def text_digest(notebook) -> str:
    return digest([(cell.cell_type, cell.source) for cell in notebook.cells])


def digest(data) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


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
    plans: dict[str, StepPlan] = {}
    _content_digest.cache_clear()  # many steps read the same folder: look at it once, but now
    for step in steps:
        check_parameters(notebook_path(step, repository), step.parameters)
    for step in steps:
        needs = {name: plans[name].fingerprint if name in plans else _remembered(name, study) for name in step.needs}
        parts = _parts(step, needs, repository)
        reason = "forced" if force else _reason(step, study, parts)
        if not reason:
            again = [name for name in step.needs if name in plans and plans[name].reason]
            reason = f"{again[0]} is run again" if again else ""
        text = text_digest(read_notebook(notebook_path(step, repository)))
        plan = StepPlan(step, digest(parts), parts, reason, text, status="waiting" if reason else "up to date")
        plan.refresh = not reason and read_json(step.state(study))["text"] != text
        plans[step.name] = plan
    return list(plans.values())


def _remembered(name: str, study: Study) -> str:
    """Fingerprint of a need that is not among the steps to run: the one it was last finished with."""
    path = study.steps / f"{name}.json"
    return read_json(path)["fingerprint"] if path.is_file() else "not run"


def _reason(step: Step, study: Study, parts: dict) -> str:
    path = step.state(study)
    if not path.is_file():
        return "not finished before"
    state = read_json(path)
    missing = [name for name in step.produces if not (study.root / name).exists()]
    missing += [] if step.executed(study).is_file() else [str(step.executed(study).relative_to(study.root))]
    if missing:
        return f"missing: {', '.join(missing)}"
    now, then = json.loads(json.dumps(parts)), state["parts"]
    if now == then:
        again = [name for name, run in state["needs_run"].items() if run != run_id(name, study)]
        return f"{again[0]} was run again" if again else ""
    names = {"parameters": "changed parameters", "code": "changed code", "reads": "changed files", "needs": "changed need"}
    for part, words in names.items():
        keys = [key for key in sorted({*now[part], *then[part]}) if now[part].get(key) != then[part].get(key)]
        if keys and part == "parameters":
            return f"{words}: " + ", ".join(f"{key} {then[part].get(key)!r} -> {now[part].get(key)!r}" for key in keys)
        if keys:
            return f"{words}: {', '.join(keys)}"
    return "changed notebook"


def run_id(name: str, study: Study) -> str:
    path = study.steps / f"{name}.json"
    return read_json(path)["run"] if path.is_file() else ""
