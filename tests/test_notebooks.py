"""Rules for the notebooks: short cells, no outputs, declared parameters, names that exist."""

import ast
import builtins
import importlib
import inspect
import re
from pathlib import Path

import nbformat
import papermill
import pytest

import run_all
from reidlib.config import METHODS, PROFILES
from reidlib.datasets import DATASETS
from reidlib.errors import ReidError
from reidlib.study.command_line import Request, parse
from reidlib.study.parameters import ParameterError, check_values
from reidlib.study.results import Study, open_study
from reidlib.study.steps import check_parameters

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
    lines = ast.parse(parameters_cell(name).source).body
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def own_images_steps(study):
    options = {"labels": "auto", "skip_unreadable": False}
    asked = {"data_root": "images", "data_options": options, "run": "run", "query_images": ("a.jpg",)}
    return run_all.steps(Request(study, ("gap",), **asked))


def test_there_are_notebooks_and_every_step_has_its_own():
    study = Study("full", "synthetic", Path("nowhere/full-synthetic"))
    steps = run_all.steps(Request(study, tuple(METHODS), (0, 1), targets={"other": ""}))
    steps += own_images_steps(study)
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
        assert set(cell.metadata.get("tags", ())) <= {"parameters", "remove-output", "remove-input", "front"}
        assert cell.source.strip() == cell.source and cell.source


@every
def test_cell_ids_are_unique(name):
    ids = [cell.id for cell in NOTEBOOKS[name].cells]
    assert len(set(ids)) == len(ids)
    assert all(ids)


@every
def test_cells_are_in_the_usual_order(name):
    cells = NOTEBOOKS[name].cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "*Reads*" in cells[0].source and "*Saves*" in cells[0].source
    kinds = [cell.id for cell in cells if cell.cell_type == "code"]
    assert kinds[:2] == ["parameters", "setup"]
    texts = [cell.source for cell in cells[1:] if cell.cell_type == "markdown"]
    assert not any(text.startswith("# ") for text in texts), "one title"
    assert cells[-2].source == "## Takeaway", "no fixed sentence"
    assert (cells[-1].id, cells[-1].cell_type) == ("takeaway", "code"), "it is made from the numbers"


@every
def test_the_title_names_the_papers_figure_or_table(name):
    """A number where it is known; otherwise that it was not recovered, or that the papers have none."""
    title = NOTEBOOKS[name].cells[0].source
    assert re.search(
        r"(Figures?|Tables?) \d|number .*was not recovered|No figure or table of the papers", title
    )


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
    options = parse([])
    assert (options.profile, options.dataset) == (seen["profile"], seen["dataset"])


@every
def test_papermill_reads_every_parameter(name, caplog):
    """A line that papermill cannot parse makes it call the parameter unknown."""
    found = papermill.inspect_notebook(FOLDER / f"{name}.ipynb")
    assert not caplog.records
    assert {key: ast.literal_eval(entry["default"]) for key, entry in found.items()} == parameters(name)
    assert all(entry["help"] for entry in found.values())


def check(name, **given):
    """Runs the notebook's checks of its parameters, which come before anything else in its code."""
    (cell,) = [cell for cell in code_cells(name) if cell.id == "open"]
    tree = ast.parse(cell.source)
    checks = {"check_values": check_values, "open_study": open_study}
    first = [
        statement
        for statement in tree.body[:2]
        if isinstance(statement.value, ast.Call) and getattr(statement.value.func, "id", "") in checks
    ]
    assert first[-1].value.func.id == "open_study" and tree.body[: len(first)] == first
    tree.body = first
    exec(compile(tree, name, "exec"), {**checks, **parameters(name), **given})


WRONG = {  # by type of the default
    str: (None, True, 5, 1.5, ["x"], {"x": 1}),
    int: (None, True, "1", "x", 1.5, -1, 10**12, [1], {}),
    bool: (None, "True", "yes", 1, 0, 1.5, [True], {}),
    list: (None, "0", "[0]", 5, [], [-1], [0, 0], [1, 0, 1], ["x"], [1.5], {}),
    dict: (None, "{'epochs': 3}", "x", 5, ["x"], {1: 2}),
}
NO_PATHS = (None, "a.jpg", 5, [5], [1.5], [True], [["a.jpg"]], ["~nobody-of-that-name/x"], {})
SUFFIXES = {
    "figures": (".png",),
    "tables": (".csv", ".json"),
    "explorer": (".json",),
    "embeddings": (".parquet", ".npy", ".csv"),
}
PATHS_OF_NOBODY = ("~nobody-of-that-name/x", "x" * 5000, "a/" * 4000)


@every
def test_every_wrong_parameter_ends_in_one_sentence_before_anything_else(name):
    """Also what papermill's command line makes of a dictionary, a list or a number in text."""
    check(name)
    for parameter, default in parameters(name).items():
        wrong = list(NO_PATHS if parameter == "query_images" else WRONG[type(default)])
        if parameter in ("profile", "dataset", "method", "chosen"):
            wrong.append("x")
        if parameter in ("results", "data_root", "checkpoint", "run", "images_root"):
            wrong += PATHS_OF_NOBODY
        if parameter == "overrides":
            wrong += [{label: "x"} for label in ("method", "dataset", "profile", "seed")]
        for value in wrong:
            with pytest.raises(ReidError) as error:
                check(name, **{parameter: value})
            assert parameter in str(error.value)
            assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_papermill_passes_wrongly_is_said_with_the_option_that_passes_it():
    for parameter, value, option in (
        ("data_root", 2024, "-r data_root VALUE"),
        ("overrides", "{'epochs': 3}", "-y '{overrides: {NAME: VALUE}}'"),
        ("seeds", "0", "-y '{seeds: [0, 1]}'"),
    ):
        with pytest.raises(ParameterError) as error:
            check_values(**{parameter: value})
        assert option in str(error.value)
    with pytest.raises(ParameterError, match=r"seeds = \[0, 0\]: expected one or more different whole"):
        check_values(seeds=[0, 0])
    with pytest.raises(ParameterError) as error:
        check_values(people=1000)
    assert "papermill" not in str(error.value)


@every
def test_cells_are_short(name):
    for cell in code_cells(name):
        tree = ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 10, cell.id
        definitions = ast.FunctionDef | ast.ClassDef | ast.Lambda
        assert not [node for node in ast.walk(tree) if isinstance(node, definitions)], cell.id
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
                if not hasattr(module, alias.name):  # a module that is not imported yet
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


@every
def test_every_name_that_is_used_exists(name):
    found, looked_up = imported(name), set()
    for node in ast.walk(whole(name)):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        owner = node.value.id
        if inspect.ismodule(found.get(owner)):
            assert hasattr(found[owner], node.attr), f"{owner}.{node.attr}"
            looked_up.add(owner)
        elif owner == "study":
            assert hasattr(Study, node.attr) or node.attr in Study.__dataclass_fields__, f"study.{node.attr}"
            looked_up.add(owner)
    assert "study" in looked_up, "every notebook has a study"


@every
def test_calls_fit_the_signatures(name):
    """Every call of reidlib has arguments that the function takes, and all that it needs."""
    found, fitted = imported(name), []
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
        unpacked = [argument for argument in node.args if isinstance(argument, ast.Starred)]
        if unpacked or any(word.arg is None for word in node.keywords):
            continue
        own = [None] if function.__qualname__.startswith("Study.") else []  # self
        inspect.signature(function).bind(*own, *node.args, **{word.arg: word for word in node.keywords})
        fitted.append(function.__name__)
    assert "open_study" in fitted and {"save_figure", "save_table"} & set(fitted), "every notebook saves"


@every
def test_every_import_is_used_and_every_name_is_defined(name):
    found = imported(name)
    names = [node for node in ast.walk(whole(name)) if isinstance(node, ast.Name)]
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert set(found) <= loaded, "imported but not used"
    assert loaded <= stored | set(found) | set(dir(builtins))


def announced(name):
    """Names after *Saves* in the title cell: figures and tables without a suffix, folders with a slash."""
    return set(NOTEBOOKS[name].cells[0].source.partition("*Saves*")[2].split("`")[1::2])


@every
def test_figures_and_tables_are_announced_exactly_as_they_are_saved(name):
    """The names after *Saves* are those in the calls of save_figure and save_table."""
    written = set()
    for node in ast.walk(whole(name)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("save_figure", "save_table"):
            folder = "figures" if node.func.attr == "save_figure" else "tables"
            target = ast.unparse(node.args[1]).replace("f'curves_{run.name}'", "'curves_<method>-seed<seed>'")
            written.add(f"{folder}/{ast.literal_eval(target)}")
    elsewhere = ("runs/", "explorer/", "embeddings/")
    assert written == {entry for entry in announced(name) if not entry.startswith(elsewhere)}


def test_what_a_step_produces_is_announced_in_its_notebook(tmp_path):
    """The names of all figures, tables and runs are announced."""
    study = Study("demo", "synthetic", Path("nowhere/demo-synthetic"))
    asked = {"switches": ("cam-sign",), "targets": {"other": ""}}
    steps = run_all.steps(Request(study, ("gap", "abdnet"), (0, 3), **asked))
    steps += own_images_steps(study)
    assert {step.notebook for step in steps} == set(NOTEBOOKS)
    weights = tmp_path / "market.pth.tar"
    weights.write_bytes(b"")
    steps += run_all.steps(Request(study, ("pfsa",), checkpoint=str(weights)))
    with_runs = set()
    for step in steps:
        # <file> is the name of the released weights, <digest> begins the SHA-256 of an empty file.
        known = {"method": "", "seed": "", "file": "market", "digest": "e3b0c442", **step.parameters}
        listed = {
            re.sub(r"<(\w+)>", lambda hole, known=known: str(known[hole[1]]), entry)
            for entry in announced(step.notebook)
        }
        assert step.produces, step.name
        for folder, name in (file.split("/")[:2] for file in step.produces):
            if folder == "runs":
                entry = f"runs/{name}/"
                with_runs.add(step.notebook)
            else:
                assert Path(name).suffix in SUFFIXES[folder]
                entry = f"{folder}/{Path(name).stem}"
            assert entry in listed, f"{step.name}: {entry}"
    listing = {name for name in NOTEBOOKS if any(entry.startswith("runs/") for entry in announced(name))}
    assert listing == with_runs


def test_the_disputed_order_of_the_published_columns_is_said_beside_ours():
    (text,) = [cell.source for cell in NOTEBOOKS["31_class_activation_maps"].cells if cell.id == "maps-text"]
    said = text.partition("\n\n")[2].partition("\n\n")[0]
    assert "disputed" in said and "image, GAP, SA;" in said and "image, SA, GAP." in said


def test_no_notebook_names_a_machine():
    for path in PATHS:
        text = path.read_text(encoding="utf-8")
        for word in ("/work", "/home/", "/root", "/tmp", "../", "file://"):
            assert word not in text, f"{path.name}: {word}"
