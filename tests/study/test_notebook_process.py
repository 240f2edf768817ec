"""Kernels draw by the study's own settings, and a step that shows too few figures has failed."""

import base64
import io
import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from reidlib.files import REPOSITORY
from reidlib.study.pipeline import execute
from reidlib.study.results import Study
from reidlib.study.steps import Step

DRAW = """
from pathlib import Path
import numpy as np
from reidlib.show import figures
from reidlib.show.drawing import described
from reidlib.study.results import Study

study = Study("demo", "synthetic", Path(results))
sheet = figures.image_grid([np.zeros((2, 8, 4, 3), np.uint8)] * 2, ["a", "b"], title="Sheet")
sheet = described(sheet, '''Four black
    images of "a" & <b>.''')
"""
DESCRIPTION = 'Four black images of "a" & <b>.'
SAVE = 'study.save_figure(sheet, "sheet")'
PROFILE = """
c.InlineBackend.figure_formats = {"pdf"}
c.InlineBackend.print_figure_kwargs = {"dpi": 20}
c.InlineBackend.close_figures = False
"""
STARTUP = "import matplotlib; matplotlib.rcParams.update({'figure.dpi': 300, 'savefig.facecolor': 'red'})"


def write_notebook(path, *cells: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = new_code_cell('results = ""  # folder', metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [parameters, *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def descriptions(path) -> list[str]:
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.outputs]
    return [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.data]


def pictures(path) -> list[Image.Image]:
    cells = nbformat.read(path, as_version=4).cells
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert all(set(data) <= {"image/png", "text/plain"} for data in shown)
    encoded = [data["image/png"] for data in shown if "image/png" in data]
    return [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in encoded]


@pytest.fixture
def odd_environment(tmp_path, monkeypatch):
    """Everything that may tell matplotlib how to draw asks for something else."""
    profile = tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "first.py").write_text(STARTUP)
    (profile / "ipython_kernel_config.py").write_text(PROFILE)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: green\n")
    (tmp_path / "startup.py").write_text(STARTUP)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))


def by_papermill(folder, *_: str) -> None:
    command = [sys.executable, "-m", "papermill", "10_draw.ipynb", "done.ipynb", "-p", "results", "results"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        command, cwd=folder / "notebooks", env=environment, check=True, capture_output=True, timeout=300
    )


def by_the_pipeline(folder, *produces: str, results: str = "results") -> tuple[int, str]:
    study = Study("demo", "synthetic", folder / "notebooks" / "results")
    said = io.StringIO()
    step = Step("10_draw", "10_draw", {"results": str(study.root.with_name(results))}, produces=produces)
    status = execute([step], study, stream=said, repository=folder)
    for path in (step.executed(study), step.failed(study)):
        if path.is_file():
            path.replace(folder / "notebooks" / "done.ipynb")
    return status, said.getvalue()


@pytest.mark.parametrize(
    ("way", "backend", "unset"),
    [
        (by_the_pipeline, "none of that name", ()),
        (by_papermill, "TkAgg", ()),
        # A start-up file of the user's that needs matplotlib fails by itself with such a backend.
        (by_papermill, "none of that name", ("IPYTHONDIR", "PYTHONSTARTUP")),
    ],
)
def test_figures_do_not_depend_on_the_users_environment(
    tmp_path, odd_environment, monkeypatch, way, backend, unset
):
    """By the pipeline and by papermill alone: one white PNG, of the study's size, with its description."""
    monkeypatch.setenv("MPLBACKEND", backend)
    for name in unset:
        monkeypatch.delenv(name)
    write_notebook(tmp_path / "notebooks" / "10_draw.ipynb", DRAW, SAVE)
    way(tmp_path, "figures/sheet.png")
    (shown,) = pictures(tmp_path / "notebooks" / "done.ipynb")
    saved = Image.open(tmp_path / "notebooks" / "results" / "figures" / "sheet.png").convert("RGB")
    for picture in (shown, saved):
        assert np.asarray(picture)[[0, -1]].min() == 255, "the ground is white"
    assert np.allclose(np.array(saved.size) / 200, np.array(shown.size) / 110, atol=0.02), "110 dots an inch"
    assert descriptions(tmp_path / "notebooks" / "done.ipynb") == [DESCRIPTION]


def test_a_step_that_shows_fewer_figures_than_it_makes_has_failed(tmp_path):
    closed = DRAW + "figures.plt.close(sheet)"
    write_notebook(tmp_path / "notebooks" / "10_draw.ipynb", closed, SAVE)
    status, said = by_the_pipeline(tmp_path, "figures/sheet.png")
    assert status == 1
    assert "FAILED  10_draw: its notebook shows 0 of 1 figures." in said


def test_parameters_may_hold_any_path(tmp_path):
    """Bytes that are no UTF-8, signs of Python, of Markdown and of HTML reach the notebook as they are."""
    name = "\udce9 \\ \"'{}$ & <i> é 人 \n"
    write_notebook(tmp_path / "notebooks" / "10_draw.ipynb", f"assert results.endswith({ascii('/' + name)})")
    status, said = by_the_pipeline(tmp_path, results=name)
    assert status == 0, said
    json.loads((tmp_path / "notebooks" / "done.ipynb").read_text(encoding="utf-8"))
