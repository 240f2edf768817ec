"""The notebooks keep the house's order: thin, without outputs, parameters that papermill can set, names that exist."""

import ast
import importlib
import inspect
from pathlib import Path

import nbformat
import pytest

import run_all
from reidlib.config import METHODS, PROFILES
from reidlib.datasets import DATASETS
from reidlib.results import Study
from reidlib.steps import check_parameters

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=nbformat.NO_CONVERT) for path in PATHS}

every = pytest.mark.parametrize("name", NOTEBOOKS)


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def parameters_cell(name):
    (cell,) = [cell for cell in NOTEBOOKS[name].cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def parameters(name):
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(parameters_cell(name).source).body}


def test_there_are_notebooks_and_every_step_has_its_own():
    study = Study("full", "synthetic", Path("nowhere/full-synthetic"))
    steps = run_all.steps(study, list(METHODS), [0, 1], "", {}, {})
    assert {step.notebook for step in steps} == set(NOTEBOOKS)
    for step in steps:
        check_parameters(FOLDER / f"{step.notebook}.ipynb", step.parameters)


@every
def test_valid_and_committed_without_results(name):
    notebook = NOTEBOOKS[name]
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in code_cells(name):
        assert cell.outputs == [] and cell.execution_count is None
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"} and not cell.get("attachments")
        assert set(cell.metadata.get("tags", ())) <= {"parameters", "remove-output", "remove-input"}
        assert cell.source.strip() == cell.source and cell.source


@every
def test_cells_have_ids_of_their_own(name):
    ids = [cell.id for cell in NOTEBOOKS[name].cells]
    assert len(set(ids)) == len(ids)
    assert all(ids)


@every
def test_cells_come_in_the_houses_order(name):
    cells = NOTEBOOKS[name].cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "*Reads*" in cells[0].source and "*Saves*" in cells[0].source
    kinds = [cell.id for cell in cells if cell.cell_type == "code"]
    assert kinds[:2] == ["parameters", "setup"]
    assert not any(cell.source.startswith("# ") for cell in cells[1:] if cell.cell_type == "markdown"), "one title"
    if cells[-1].cell_type == "markdown":
        assert cells[-1].source.startswith("## Takeaway")
    else:
        assert cells[-1].id == "takeaway" and cells[-2].source.startswith("## Takeaway")


@every
def test_parameters_are_commented_literals(name):
    cell = parameters_cell(name)
    assert cell.id == "parameters"
    for line in cell.source.splitlines():
        code, hash_, comment = line.partition("  # ")
        assert hash_ and len(comment) > 3, f"{line!r} has no comment"
        (statement,) = ast.parse(code).body
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        ast.literal_eval(statement.value)
    assert len(parameters(name)) == len(cell.source.splitlines())


def test_notebooks_agree_on_the_parameters_they_share():
    common = set.intersection(*(set(parameters(name)) for name in NOTEBOOKS))
    assert common == {"profile", "dataset", "data_root", "data_options", "results"}
    seen = {}
    for name in NOTEBOOKS:
        for parameter, value in parameters(name).items():
            assert seen.setdefault(parameter, value) == value, f"{name}: {parameter}"
            assert type(seen[parameter]) is type(value)
    assert seen["profile"] in PROFILES and seen["dataset"] in DATASETS and seen["method"] in METHODS
    options = run_all.parse([])
    assert (options.profile, options.dataset) == (seen["profile"], seen["dataset"])


@every
def test_cells_are_thin(name):
    for cell in code_cells(name):
        tree = ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 10, cell.id
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)], cell.id
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not imports or cell.id == "setup", f"{cell.id}: imports belong in one cell"


def whole(name):
    return ast.parse("\n".join(cell.source for cell in code_cells(name)))


def imported(name):
    """Name → object, for everything the notebook imports."""
    found = {}
    for node in ast.walk(whole(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                there = getattr(module, alias.name, None)
                found[alias.asname or alias.name] = there or importlib.import_module(f"{node.module}.{alias.name}")
    return found


@every
def test_every_name_that_is_used_exists(name):
    found = imported(name)
    for node in ast.walk(whole(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and inspect.ismodule(found.get(node.value.id)):
            assert hasattr(found[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "study":
            assert hasattr(Study, node.attr) or node.attr in Study.__dataclass_fields__, f"study.{node.attr}"


@every
def test_calls_fit_the_signatures(name):
    """Calls of reidlib with arguments that the function does not take, or without some that it needs."""
    found = imported(name)
    for node in ast.walk(whole(name)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            function = found.get(node.func.id)
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            owner = Study if node.func.value.id == "study" else found.get(node.func.value.id)
            function = getattr(owner, node.func.attr, None) if owner is not None else None
        else:
            continue
        if not getattr(function, "__module__", "").startswith("reidlib"):
            continue
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(word.arg is None for word in node.keywords):
            continue
        own = [None] if getattr(function, "__qualname__", "").startswith("Study.") else []  # self
        inspect.signature(function).bind(*own, *node.args, **{word.arg: word for word in node.keywords})


@every
def test_nothing_is_imported_in_vain_and_nothing_used_unseen(name):
    tree, found = whole(name), imported(name)
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert set(found) <= loaded, "imported but not used"
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert loaded <= stored | set(found) | set(dir(__builtins__) if inspect.ismodule(__builtins__) else __builtins__)


@every
def test_what_is_announced_is_what_is_saved(name):
    """The title cell's *Saves* beside the save_figure and save_table calls."""
    saves = NOTEBOOKS[name].cells[0].source.partition("*Saves*")[2]
    announced = {part for part in saves.split("`")[1::2] if part.startswith(("figures/", "tables/"))}
    written = set()
    for node in ast.walk(whole(name)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("save_figure", "save_table"):
            folder = "figures" if node.func.attr == "save_figure" else "tables"
            target = node.args[1].value if isinstance(node.args[1], ast.Constant) else "curves_<method>-seed<seed>"
            written.add(f"{folder}/{target}")
    assert announced == written


def test_what_a_step_produces_is_what_its_notebook_saves():
    study = Study("demo", "synthetic", Path("nowhere/demo-synthetic"))
    for step in run_all.steps(study, ["gap"], [0], "", {}, {}):
        saves = NOTEBOOKS[step.notebook].cells[0].source.partition("*Saves*")[2]
        saves = saves.replace("<method>", "gap").replace("<seed>", "0")
        for file in step.produces:
            assert file.rpartition(".")[0] in saves or file.rpartition("/")[0] + "/" in saves, f"{step.name}: {file}"


def test_no_notebook_names_a_machine():
    for path in PATHS:
        text = path.read_text(encoding="utf-8")
        for word in ("/work", "/home/", "/root", "/tmp", "../", "file://"):
            assert word not in text, f"{path.name}: {word}"
