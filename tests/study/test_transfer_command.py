"""Transfer and joined training from the command line: which runs and data sets, and wrong calls."""

import shutil
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import IPython.display
import numpy as np
import pandas as pd
import pytest
from conftest import make_noise_images
from made_up_runs import fabricate

import run_all
from reidlib.config import METHODS
from reidlib.datasets import JoinedDataset
from reidlib.errors import ReidError
from reidlib.files import REPOSITORY
from reidlib.show import transfer
from reidlib.study import command_line
from reidlib.study.command_line import Request
from reidlib.study.results import MissingRunError, Study, command_of
from reidlib.study.runs import study_dataset, target_datasets
from reidlib.study.steps import read_cells
from reidlib.study.transfer import tested_on as columns_of  # pytest would take it for a test
from reidlib.study.transfer import trained_on


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_noise_images(tmp_path_factory.mktemp("data") / "other", seed=1)


@pytest.fixture
def asked(tmp_path):
    """The request of a call with these options, with its results under the test's folder."""
    return lambda *options: command_line.checked_request(
        command_line.parse(["--results", str(tmp_path / "results"), *map(str, options)])
    )


# ------------------------------------------------------------------------------------------------ the command


def test_two_sources_are_joined_and_the_first_is_tested_on(asked, root, other, tmp_path):
    request = asked("-s", f"a={root}", f"b={other}", "-t", f"c={other}")
    assert request.study.root == tmp_path / "results" / "demo-joined"
    assert (request.data_root, request.data_options) == ("", {"sources": {"a": str(root), "b": str(other)}})
    assert request.targets == {"c": str(other)}
    data = study_dataset(request.study, request.data_root, request.data_options)
    assert isinstance(data, JoinedDataset) and list(data.sources) == ["a", "b"]
    assert request.images == data.fingerprints
    target = target_datasets(request.study, request.targets)["c"]
    assert request.target_images == {"c": target.fingerprints["test"]}
    assert not (tmp_path / "results").exists(), "checking writes nothing"


def test_one_source_is_the_data_set(asked, root):
    for source, dataset in (("mine", "folder"), ("folder", "folder")):
        request = asked("-s", f"{source}={root}")
        assert (request.study.dataset, request.data_root) == (dataset, str(root))
        assert request.data_options == request.targets == {}


def test_the_step_is_there_only_if_there_is_something_to_score_on(asked, root, other):
    names = lambda request: {step.name for step in run_all.steps(request)}  # noqa: E731
    own = ("--dataset", "folder", "--data-root", root, "--methods", "gap")
    assert "24_transfer" not in names(asked(*own))
    (step,) = [step for step in run_all.steps(asked(*own, "-t", f"b={other}")) if step.name == "24_transfer"]
    assert step.parameters["targets"] == {"b": str(other)} and step.parameters["methods"] == ["gap"]
    assert "10_train/gap-seed0" in step.needs and {*step.images} == {"b"}
    assert "24_transfer" in names(asked("-s", f"a={root}", f"b={other}")), "each source's own test"
    study = Study("demo", "synthetic", root)
    assert "24_transfer" not in names(Request(study, tuple(METHODS))), "nor in the study as it is"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-s", "a={root}", "a={other}"], "--sources has 'a' twice: leave one out, or name it differently."),
        (["-t", "a={root}", "a={other}"], "--targets has 'a' twice"),
        (["-t", "a="], "--targets 'a=': expected NAME=DIR, or NAME for its usual place."),
        (["-t", "{root}"], "expected NAME=DIR"),
        (["-s", "a={root}", "b={other}", "--dataset", "market1501"], "leave out --dataset and --data-root"),
        (["-s", "a={root}", "b={other}", "--data-root", "{root}"], "leave out --dataset and --data-root"),
        (["-s", "a={root}", "b={other}", "--dataset", "synthetic"], "leave out --dataset and --data-root"),
        (
            ["--dataset", "joined"],
            "--dataset joined needs the data sets to join: --sources NAME=DIR NAME=DIR.",
        ),
        (["-s", "a={root}", "b=/nowhere"], "The data root /nowhere does not exist."),
        (["-s", "a={root}", "b={root}"], "b and a cannot be joined, because they train on the same people"),
        (["-s", "market1502"], "Unknown data set 'market1502'. Did you mean 'market1501'?"),
        (["-t", "pku"], "'pku' is no known data set, so its folder must be named: pku=DIR."),
        (["-t", "a=/nowhere"], "The data root /nowhere does not exist."),
        (["-s", "a={root}", "b={other}", "--data", "height=9"], "Unknown data option 'height'."),
        (["-s", "a={root}", "b={other}", "--data", "sources=3"], "name them with --sources"),
        (["--reference", "-t", "a={root}"], "--targets cannot change them: leave it out."),
    ],
)
def test_a_wrong_call_gets_one_message(root, other, tmp_path, capsys, options, says):
    options = [option.format(root=root, other=other) for option in options]
    assert run_all.main([*options, "--results", str(tmp_path / "results")]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("options", [{}, {"sources": {"a": "x"}}, {"sources": "x"}])
def test_joined_data_without_two_sources_say_how_to_name_them(tmp_path, options):
    with pytest.raises(ReidError, match="--sources NAME=DIR NAME=DIR"):
        study_dataset(Study("demo", "joined", tmp_path), "", options)


def test_images_that_are_rendered_on_demand_must_be_there_to_be_a_target(tmp_path, monkeypatch):
    monkeypatch.setattr("reidlib.study.runs.REPOSITORY", tmp_path)
    with pytest.raises(ReidError, match=r"not there yet .*--profile demo --only 01_data"):
        target_datasets(Study("demo", "folder", tmp_path), {"synthetic": ""})


def test_include_val_reaches_the_one_data_set_that_has_it(root, other, tmp_path):
    study, sources = Study("demo", "joined", tmp_path), {"a": str(root), "b": str(other)}
    assert len(study_dataset(study, "", {"sources": sources, "include_val": True}).train) == 48


def test_commands_in_messages_name_the_sources(tmp_path):
    assert "--dataset joined --sources NAME=DIR NAME=DIR" in command_of(Study("demo", "joined", tmp_path))


# ------------------------------------------------------------------------------------------- rows and columns


@pytest.fixture
def data(dataset, other, tmp_path):
    """A study of `dataset` and a target, "B"."""
    study = Study("demo", "folder", tmp_path / "demo-folder")
    return study, target_datasets(study, {"B": str(other)})


def run_on(study, dataset, method="baseline", **options):
    prints = dataset.fingerprints
    return fabricate(study, method, trained_on=prints["training"], scored_on=prints["test"], **options)


def test_columns_are_the_own_test_set_and_the_targets(data, dataset, root, tmp_path):
    study, targets = data
    assert list(columns_of(study, dataset, targets)) == ["own folder", "B"]
    copied = shutil.copytree(root, tmp_path / "copied")
    again = target_datasets(study, {"A": str(copied)})
    assert list(columns_of(study, dataset, targets | again)) == ["A", "B"], "the own one has a name now"


def test_rows_are_the_studies_whose_images_are_a_column(data, dataset):
    study, targets = data
    columns = columns_of(study, dataset, targets)
    neighbour = Study("demo", "market1501", study.root.with_name("demo-market1501"))
    run_on(study, dataset), run_on(study, dataset, "gap"), run_on(neighbour, targets["B"])
    fabricate(Study("demo", "msmt17", study.root.with_name("demo-msmt17")), "baseline")
    rows, sentences = trained_on(study, dataset, columns, {}, ["baseline"])
    assert [(row.name, len(row.runs)) for row in rows] == [("own folder", 1), ("B", 1), ("MSMT17", 1)]
    assert [row.images for row in rows] == [dataset, targets["B"], None]
    assert sentences == [
        "What the runs of MSMT17 were trained on is not among the data sets of this page: whether their "
        "training people are among those they are tested on was not looked at."
    ]
    assert len(trained_on(study, dataset, columns, {}, ["baseline", "gap"])[0][0].runs) == 2


def test_a_joined_study_has_a_column_for_each_source(root, other, tmp_path):
    study = Study("demo", "joined", tmp_path / "demo-joined")
    data = study_dataset(study, "", {"sources": {"a": str(root), "market1501x": str(other)}})
    columns = columns_of(study, data, {})
    assert list(columns) == ["a", "market1501x"]
    run_on(study, data)
    ((name, runs, images),), sentences = trained_on(study, data, columns, {}, ["baseline"])
    assert (name, images, sentences) == ("a + market1501x", data, [])
    assert runs[0].made_from["scores"]["data"] == columns["a"].fingerprints["test"]


def test_a_missing_run_is_said_with_the_command_that_makes_it(data, dataset, tmp_path):
    study, targets = data
    with pytest.raises(MissingRunError, match="Make it with: python run_all.py .* --methods baseline"):
        trained_on(study, dataset, columns_of(study, dataset, targets), {}, ["baseline"])
    weights = tmp_path / "model.pth.tar"
    weights.write_bytes(b"")
    with pytest.raises(MissingRunError, match=r"model\.pth\.tar were not scored yet.*--checkpoint FILE"):
        trained_on(study, dataset, {}, {}, ["abdnet"], str(weights))


def test_the_row_of_released_weights_has_the_name_of_their_file(data, dataset, tmp_path):
    study, _ = data
    weights = tmp_path / "model.pth.tar"
    weights.write_bytes(b"")
    run = run_on(study, dataset, "abdnet")
    run.folder.rename(study.checkpoint_run("abdnet", weights))
    ((name, runs, images),), (said,) = trained_on(study, dataset, {}, {}, ["abdnet"], str(weights))
    assert (name, images) == ("model.pth.tar", None) and "was not looked at" in said
    assert np.isclose(runs[0].metrics["map"], 0.25)


def test_the_foot_of_a_page_has_the_names_of_data_sets_and_no_folders(tmp_path):
    from reidlib.report.made import made_from

    given = {"targets": {"pku": "/secret/pku"}, "data_options": {"sources": {"a": "/secret/a"}}}
    notebook = SimpleNamespace(metadata={"papermill": {"parameters": given}})
    said = dict(made_from(notebook, Study("demo", "joined", tmp_path), "24_transfer"))
    assert said["Parameters"] == "targets = ['pku'], data_options = {'sources': ['a']}"


# ------------------------------------------------------------------------------------------------- the page


def test_the_page_saves_the_matrix_with_the_runs_own_score_on_its_diagonal(
    data, dataset, root, other, monkeypatch
):
    study, targets = data
    run_on(study, dataset, precisions=[0.5, 0.75, 1.0, 0.25])
    scores = pd.DataFrame({"first_match_rank": [1, 2, 2, 2], "average_precision": [0.1, 0.2, 0.3, 0.4]})
    monkeypatch.setattr(transfer, "transfer_queries", lambda run, dataset, cache: scores)
    displayed = []
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    names = {}
    for cell in read_cells(REPOSITORY / "notebooks" / "24_transfer.ipynb"):
        if cell.kind == "code":
            exec(cell.source, names)
        if "parameters" in cell.tags:
            names |= {"dataset": "folder", "data_root": str(root), "results": str(study.root.parent)}
            names |= {"targets": {"B": str(other)}}
    frame = pd.read_csv(study.tables / "transfer.csv")
    assert frame["map"].tolist() == pytest.approx([0.625, 0.25]) and frame["own"].tolist() == [True, False]
    assert frame["rank1"].tolist() == [1.0, 0.25]
    assert frame["over"].tolist() == ["people", "people"]
    assert list(pd.read_csv(study.tables / "transfer_matrix.csv")) == [
        "trained on",
        "method",
        "own folder",
        "B",
    ]
    assert "own folder" in (study.tables / "transfer_matrix.tex").read_text()
    assert pd.read_csv(study.figures / "transfer.csv").equals(frame)
    assert "B: 25.0 trained on own folder" in displayed[-1].data
