"""A small checkout with two notebooks of one cell, for the tests of the pipeline."""

import io
import os
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from reidlib.files import REPOSITORY
from reidlib.study.pipeline import execute
from reidlib.study.results import Study
from reidlib.study.steps import Step

WRITE = """
import json
from pathlib import Path
from reidlib.{module} import VALUE
folder = Path(results, "runs", name)
folder.mkdir(parents=True, exist_ok=True)
with Path(results, "order.txt").open("a") as order:
    order.write(name + "\\n")
if fail:
    raise {error}
(folder / "metrics.json").write_text(json.dumps(VALUE))
"""
FIRST = WRITE.format(module="one", error="ValueError('bad\\nlast line')")
PARAMETERS = 'name = "a"  # which\nfail = False\nresults = ""\nrate = 0.5\nsize = 3'


def write_notebook(path: Path, *code: str, parameters: str = PARAMETERS, text: str = "# Title") -> None:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    others = [new_code_cell(textwrap.dedent(cell).strip()) for cell in code]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), tagged, *others]), path)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with two notebooks and its own package reidlib, which their kernels must import."""
    package = tmp_path / "reidlib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text((REPOSITORY / "reidlib" / "errors.py").read_text())
    (package / "base.py").write_text('"""Base."""\nVALUE = 1\n')
    (package / "one.py").write_text("from .base import VALUE\n")
    (package / "two.py").write_text(
        "from reidlib.errors import ReidError\nVALUE = 2\nclass NoRun(ReidError):\n    pass\n"
    )
    second = WRITE.format(module="two", error="NoRun('Make it with: make it.')")
    write_notebook(tmp_path / "notebooks" / "10_first.ipynb", FIRST)
    write_notebook(tmp_path / "notebooks" / "20_second.ipynb", "from reidlib.two import NoRun\n" + second)
    return tmp_path


def study_in(checkout: Path) -> Study:
    return Study("demo", "synthetic", checkout / "results" / "demo-synthetic")


def make_step(checkout: Path, notebook: str, name: str, needs: tuple[str, ...] = (), **parameters) -> Step:
    results = str(study_in(checkout).root)
    return Step(
        name=f"{notebook}/{name}",
        notebook=notebook,
        parameters={"name": name, "results": results} | parameters,
        needs=needs,
        produces=(f"runs/{name}/metrics.json",),
        title=name,
    )


def run(checkout: Path, steps: list[Step], **options) -> tuple[int, str]:
    stream = io.StringIO()
    options = {"workers": 1, **options}
    code = execute(steps, study_in(checkout), stream=stream, repository=checkout, **options)
    return code, stream.getvalue()


def statuses(said: str) -> dict[str, str]:
    """Step → its status in the table at the end."""
    table = said.split("\n\n")[1].splitlines()[1:]
    return {line.split()[0]: line.split()[1] for line in table}


def ran(checkout: Path) -> list[str]:
    """Names of the steps that ran since the last call, in their order."""
    order = study_in(checkout).root / "order.txt"
    names = order.read_text().split() if order.exists() else []
    order.unlink(missing_ok=True)
    return names


def plan(checkout: Path, steps: list[Step]) -> dict[str, str]:
    """Step → what a dry run says about it."""
    lines = run(checkout, steps, dry_run=True)[1].splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wait_until(true) -> None:
    """Waits up to five minutes, because the machine may be busy."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
