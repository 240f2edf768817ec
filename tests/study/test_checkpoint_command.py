"""run_all.py --checkpoint, on a folder of images.

The files have the keys and sizes of the released ones of both projects, and made-up values.
"""

import argparse
import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import golden_shapes, released_state
from PIL import Image

import run_all
from reidlib.checkpoints import load_released_checkpoint
from reidlib.config import experiment_for
from reidlib.datasets import load_dataset
from reidlib.evaluation.embedding import embed
from reidlib.files import read_json
from reidlib.images.decoding import load_images
from reidlib.models.abdnet import ABDNet
from reidlib.models.pfsa import PFSANet
from reidlib.run import Run
from reidlib.study import command_line
from reidlib.study.command_line import Request
from reidlib.study.results import ResultsError, open_study
from reidlib.study.steps import select
from reidlib.torch_files import CheckpointError
from reidlib.training import evaluate_checkpoint, fitting

# A quarter of the papers' pixels; float32, so that rounding does not depend on the hardware.
SIZE = {"height": 192, "width": 64, "bootstrap_resamples": 200}
SETTINGS = ["--set", *(f"{name}={value}" for name, value in SIZE.items())]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """With one thread each, the notebook's process and this one compute bitwise equal embeddings."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that is removed at the end: pytest would keep it, and a checkpoint has up to 300 MB."""
    folder = tmp_path_factory.mktemp("checkpoints")
    yield folder
    shutil.rmtree(folder)


def write_image(path, seed: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((32, 96), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def images(place):
    """Market-1501's layout with 2 training and 4 test people, 2 cameras, 4 queries and 8 gallery images."""
    root = place / "images"
    for folder, people, cameras in (
        ("bounding_box_train", (1, 2), (1, 2)),
        ("query", (3, 4, 5, 6), (1,)),
        ("bounding_box_test", (3, 4, 5, 6), (1, 2)),
    ):
        for person in people:
            for camera in cameras:
                write_image(root / folder / f"{person:04d}_c{camera}s1_000001_00.png", 10 * person + camera)
    return root


@pytest.fixture(scope="module")
def abdnet_file(place):
    """A file as ABD-Net's authors save it.

    Keys have a prefix, the shallow CAM is saved twice, and scores are numpy numbers. Here the attentive
    branch comes first.
    """
    state = released_state(golden_shapes("abdnet")["abdnet"], branches=("abd", "global"))
    gamma = "common_branch.shallow_cam._cam_module.gamma"
    state[gamma.replace("_cam_module", "_cam_module_abc")] = state[gamma].clone()
    path = place / "market checkpoint_best.pth.tar"  # the space cannot be in the run's name
    state = {f"module.{name}": value for name, value in state.items()}
    torch.save({"state_dict": state, "rank1": np.float32(0.95), "epoch": 79}, path)
    return path


@pytest.fixture(scope="module")
def pfsa_file(place):
    """A file as PFSA's authors save it: in the format of PyTorch before 1.6, which is no zip archive."""
    path = place / "checkpoint.pth.tar"
    content = {
        "state_dict": released_state(golden_shapes("pfsa")),
        "epoch": 100,
        "best_top1": np.float64(0.9),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert not path.read_bytes().startswith(b"PK")
    return path


@pytest.fixture
def call(images, place, capsys):
    """Runs the command → exit status, standard output, standard error."""

    def command(*arguments, results="results"):
        given = [
            "--dataset",
            "folder",
            "--data-root",
            str(images),
            "--results",
            str(place / results),
            "--workers",
            "1",
        ]
        status = run_all.main([*given, *SETTINGS, *map(str, arguments)])
        return status, *capsys.readouterr()

    return command


def results_of(place, name: str, results: str = "results"):
    study = open_study("paper", "folder", place / results, checkpoints=True)
    assert study.root == place / results / "checkpoints-folder"
    return study, study.runs / name


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def embedded_directly(model, images, cache, *, flip: bool) -> dict[str, np.ndarray]:
    dataset = load_dataset("folder", images)
    splits = {"query": dataset.query, "gallery": dataset.gallery}
    loaded = {name: load_images(split.paths, 192, 64, cache=cache) for name, split in splits.items()}
    return {name: embed(model, pixels, flip=flip, precision="float32") for name, pixels in loaded.items()}


def assert_same_embeddings(folder, expected):
    with np.load(folder / "embeddings.npz") as stored:
        for name in ("query", "gallery"):
            np.testing.assert_array_equal(stored[name], expected[name])


def text_of(page) -> str:
    return " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ").split())


# ------------------------------------------------------------------------------------------------ the command


def test_abdnet(call, place, images, abdnet_file, monkeypatch):
    status, out, err = call("--methods", "abdnet", "--checkpoint", abdnet_file)
    assert status == 0, err
    study, folder = results_of(place, f"abdnet-market_checkpoint_best-{digest(abdnet_file)[:8]}")
    metrics = read_json(folder / "metrics.json")
    assert metrics["checkpoint"] == {"file": abdnet_file.name, "sha256": digest(abdnet_file)}
    assert (metrics["classes"], metrics["embedding_dim"]) == (751, 3072)
    assert (metrics["images_seen"], metrics["reported_epoch"], metrics["best_on_test"]) == (0, None, None)
    assert metrics["queries_scored"] == 4 and metrics["reranked"] is None
    assert "learned" not in metrics, "nothing was trained, so it is not known"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "digests.json", "embeddings.npz", "metrics.json", "model.pt", "queries.csv",
        "scores.json", "training.json", "weights.json",
    }  # fmt: skip
    assert [path.name for path in (study.root / "runs").glob("[!.]*")] == [folder.name], (
        "and nothing was trained"
    )

    model = load_released_checkpoint(ABDNet(751), abdnet_file)
    expected = embedded_directly(model, images, place / "cache", flip=True)
    assert_same_embeddings(folder, expected)
    assert expected["query"].shape == (4, 3072) and expected["gallery"].shape == (8, 3072)
    run = Run(folder, experiment_for("abdnet", dataset="folder", **SIZE), metrics)
    read_again = run.model().state_dict()
    assert all(torch.equal(value, read_again[name]) for name, value in model.state_dict().items())

    # The branches in the other order, in a file that is no zip archive, give the same network.
    state = released_state(golden_shapes("abdnet")["abdnet"], branches=("global", "abd"))
    other = place / "other.pth.tar"
    torch.save({"state_dict": state}, other, _use_new_zipfile_serialization=False)
    dataset = load_dataset("folder", images)
    evaluate_checkpoint(run.experiment, dataset, other, place / "other", cache=place / "cache")
    assert_same_embeddings(place / "other", expected)
    shutil.rmtree(place / "other")
    other.unlink()

    index = study.report / "index.html"
    assert f"Report: {index}" in out
    page = text_of(index)
    assert "nothing was trained here" in page and "random weights" not in page
    assert folder.name in page and "Training one run" not in page, "pages are told apart by their weights"
    pages = [path for path in study.report.glob("*.html") if path.name not in (index.name, "search.html")]
    assert len(pages) == 1
    assert f"The weights are those of {abdnet_file.name} (SHA-256 {digest(abdnet_file)})" in text_of(pages[0])
    assert str(place) not in index.read_text(encoding="utf-8")

    monkeypatch.setattr(fitting, "read_torch_file", None)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    status, _, err = call("--methods", "abdnet", "--checkpoint", abdnet_file)
    assert status == 0 and "All 1 steps are up to date." in err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_pfsa_runs_again_after_each_kind_of_change(call, place, images, pfsa_file, capsys):
    arguments = ("--methods", "pfsa", "--checkpoint", pfsa_file)
    status, _, err = call(*arguments)
    assert status == 0, err
    study, folder = results_of(place, f"pfsa-checkpoint-{digest(pfsa_file)[:8]}")
    metrics = read_json(folder / "metrics.json")
    assert metrics["checkpoint"]["sha256"] == digest(pfsa_file)
    assert metrics["embedding_dim"] == 12288 and metrics["classes"] == 751
    assert 0 <= metrics["reranked"]["map"] <= 1, "as the paper publishes it"
    network = load_released_checkpoint(PFSANet(751), pfsa_file)
    expected = embedded_directly(network, images, place / "cache", flip=False)
    assert_same_embeddings(folder, expected)

    def planned() -> str:
        return call(*arguments, "--dry-run")[2]

    assert "up to date" in planned()
    extra = images / "bounding_box_test" / "0003_c2s1_000002_00.png"
    write_image(extra, 99)
    assert "run: changed files: test images" in planned(), "other images at the same place"
    extra.unlink()
    assert "up to date" in planned()
    assert (
        "run: changed parameters"
        in call(*arguments[:2], "--checkpoint", pfsa_file, "--dry-run", "--set", "rerank=False")[2]
    )

    # Other weights under the same name, this time a model.pt of this study.
    own = torch.load(folder / "model.pt", weights_only=True)
    own["stem.bn1.bias"] = own["stem.bn1.bias"] + 0.25
    torch.save(own, pfsa_file)
    first = read_json(folder / "metrics.json")
    assert planned().split(maxsplit=1) == [
        f"10_train/pfsa-checkpoint-{digest(pfsa_file)[:8]}",
        "run: not finished before\n",
    ], "other weights have a run of their own"
    # The notebook's function is called directly, because starting a third kernel would take too long.
    experiment = experiment_for("pfsa", dataset="folder", **SIZE)
    dataset = load_dataset("folder", images)
    evaluate_checkpoint(experiment, dataset, pfsa_file, folder, cache=place / "cache")
    assert (
        f"{folder.name} was made differently (another checkpoint): kept as {folder.name}.superseded"
        in capsys.readouterr().out
    )
    assert (
        read_json(folder / "metrics.json")["checkpoint"]["sha256"]
        == digest(pfsa_file)
        != first["checkpoint"]["sha256"]
    )
    kept = folder.with_name(f"{folder.name}.superseded")
    assert read_json(kept / "metrics.json") == first
    assert_same_embeddings(kept, expected)
    network.load_state_dict(own)
    other = embedded_directly(network, images, place / "cache", flip=False)
    assert not np.allclose(other["query"], expected["query"], atol=1e-4)
    assert_same_embeddings(folder, other)


# ------------------------------------------------------------------------------------- files that are refused


class Touch:
    """Unpickling an object of this class would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_file_of_another_method(call, place, tmp_path):
    """The error arises inside the notebook. One line names keys, and the report says that it failed."""
    small = {
        name: value for name, value in released_state(golden_shapes("pfsa")).items() if "layer" not in name
    }
    path = tmp_path / "small.pth.tar"
    torch.save({"state_dict": small}, path)
    status, out, err = call("--methods", "gap", "--checkpoint", path, results="failing")
    assert status == 1
    failed = next(line for line in err.splitlines() if " FAILED " in line)
    assert str(path) in failed and "does not fit this PFSANet" in failed
    counts = dict(re.findall(r"(\d+ (?:missing|left over)): (.*?)(?: and \d+ more)?(?:;|\. Build)", failed))
    wanted, own = (
        set(PFSANet(751, parts=0, deep_supervision=False, spatial_attention="none").state_dict()),
        "stem.",
    )
    missing = {name for name in wanted if name.startswith("layer")}
    shown = {words.split()[1]: set(names.split(", ")) for words, names in counts.items()}
    assert f"{len(missing)} missing" in counts and shown["missing"] <= missing
    assert "bottleneck.1.weight" in shown["left"] and not any(n.startswith(own) for n in shown["left"])
    assert len(shown["missing"]) == len(shown["left"]) == 10
    assert "global_classifier.weight (751, 256) instead of (751, 2048)" in failed
    study, folder = results_of(place, f"gap-small-{digest(path)[:8]}", "failing")
    assert not folder.exists() and (study.notebooks / f"10_train/{folder.name}.failed.ipynb").is_file()
    assert f"Report: {study.report / 'index.html'}" in out
    page = text_of(study.report / "index.html")
    assert "it failed" in page and str(tmp_path) not in page


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_with_more_than_plain_values_is_refused_with_the_reason(tmp_path, images, archive):
    path = tmp_path / "arguments.pth.tar"
    content = {
        "state_dict": {"base.conv1.weight": torch.zeros(64, 3, 7, 7)},
        "arguments": argparse.Namespace(lr=0.1),
    }
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(
        CheckpointError, match=r"values \(Unsupported global: GLOBAL argparse\.Namespace .*refused"
    ) as error:
        evaluate_checkpoint(
            experiment_for("pfsa", dataset="folder"),
            load_dataset("folder", images),
            path,
            tmp_path / "run",
            cache=tmp_path,
        )
    assert "weights_only" not in str(error.value), "torch's own advice, to trust the file, is not passed on"
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("archive", [True, False])
def test_no_code_of_a_file_is_run(tmp_path, archive):
    path, made = tmp_path / "hostile.pth.tar", tmp_path / "made"
    state = {"base.conv1.weight": torch.zeros(64, 3, 7, 7)}
    torch.save({"state_dict": state, "best": Touch(made)}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(
        CheckpointError, match=r"more than tensors and plain values \(Trying to load .*\.system.*refused"
    ):
        load_released_checkpoint(PFSANet(5, backbone="resnet18"), path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # the file is really harmful
    assert made.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "Unsupported operand 60"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Unsupported operand 118"),
        (b"", "EOFError"),
        (b"PK\x03\x04 cut short", "PytorchStreamReader|zip"),
    ],
)
def test_a_failed_download_is_not_called_dangerous(tmp_path, content, reason):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=f"cannot be read as a PyTorch checkpoint.*({reason}).*download the file again"
    ) as error:
        load_released_checkpoint(PFSANet(5, backbone="resnet18"), path)
    assert "trust" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: {
                n: v for n, v in state.items() if not n.startswith(("instance", "module.instance"))
            },
            "no classifier",
        ),
        (lambda state: {**state, "instance3.weight": torch.zeros(700, 256)}, "700, 751"),
        (lambda state: [1, 2], "holds no state dict"),
    ],
)
def test_a_file_without_a_clear_number_of_people_is_refused(tmp_path, images, change, says):
    path = tmp_path / "odd.pth.tar"
    kept = {
        n: v for n, v in released_state(golden_shapes("pfsa")).items() if n.startswith(("instance", "feat"))
    }
    torch.save({"state_dict": change(kept)}, path)
    with pytest.raises(CheckpointError, match=says) as error:
        evaluate_checkpoint(
            experiment_for("pfsa", dataset="folder"),
            load_dataset("folder", images),
            path,
            tmp_path / "run",
            cache=tmp_path,
        )
    assert str(path) in str(error.value)
    assert not (tmp_path / "run").exists(), "nothing is claimed for a file that cannot be scored"


# ------------------------------------------------------------------------------------------------ wrong calls


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoint", "FILE"], "--checkpoint needs --methods with the one method"),
        (["--checkpoint", "FILE", "--methods", "abdnet", "pfsa"], "the one method"),
        (["--checkpoint", "FILE", "--methods", "abdnets"], "Did you mean 'abdnet'?"),
        (["--checkpoint", "FILE", "--methods", "abdnet", "--seeds", "0"], "--seeds is about training"),
        (
            ["--checkpoint", "FILE", "--methods", "abdnet", "--switches", "none"],
            "--switches is about training",
        ),
        (["--checkpoint", "FILE.absent", "--methods", "abdnet"], "FILE.absent is no file"),
        (
            ["--checkpoint", "FOLDER", "--methods", "abdnet"],
            "is no file: pass the path of a file made by torch.save",
        ),
        (
            ["--checkpoint", "FILE", "--methods", "abdnet", "--only", "20_ablation_abdnet"],
            "20_ablation_abdnet",
        ),
    ],
)
def test_wrong_calls_say_one_line_and_write_nothing(call, place, tmp_path, arguments, says):
    file = tmp_path / "x.pth.tar"
    torch.save({}, file)
    status, out, err = call(
        *(a.replace("FILE", str(file)).replace("FOLDER", str(tmp_path)) for a in arguments),
        results="untouched",
    )
    assert status == 2 and not out
    assert says.replace("FILE", str(file)) in err and len(err.strip().splitlines()) == 1
    assert not (place / "untouched").exists()


@pytest.mark.parametrize("setting", ["epochs=3", "precision=bfloat16", "start_from=x.pth", "classes=3"])
def test_settings_of_training_do_not_go_with_a_checkpoint(call, pfsa_file, setting):
    """They could not change a score, and would set aside what has been scored."""
    status, _, err = call("--methods", "pfsa", "--checkpoint", pfsa_file, "--set", setting)
    assert status == 2 and f"--set {setting.partition('=')[0]} is about training" in err
    kept = ("embedding_precision=bfloat16", "feature_dim=256", "rerank=False")
    assert call("--methods", "pfsa", "--checkpoint", pfsa_file, "--dry-run", "--set", *kept)[0] == 0


def test_the_default_profile_with_a_checkpoint_is_paper():
    assert command_line.parse(["--checkpoint", "x", "--methods", "abdnet"]).profile == "paper"
    assert command_line.parse(["--checkpoint", "x", "--profile", "demo"]).profile == "demo"
    assert command_line.parse([]).profile == "demo"


def test_the_plan_of_a_checkpoint_is_one_step_from_any_working_folder(call, tmp_path, monkeypatch):
    """The notebook runs in another folder, so a relative path has to become absolute."""
    torch.save({}, tmp_path / "x.pth.tar")
    monkeypatch.chdir(tmp_path)
    status, out, err = call(
        "--methods", "abdnet", "--checkpoint", "x.pth.tar", "--dry-run", results="untouched"
    )
    assert status == 0 and not out
    name = f"10_train/abdnet-x-{digest(tmp_path / 'x.pth.tar')[:8]}"
    assert err.split()[0] == name and len(err.strip().splitlines()) == 1
    study = open_study("paper", "folder", tmp_path, checkpoints=True)
    (step,) = run_all.steps(Request(study, ("abdnet",), checkpoint=str(tmp_path / "x.pth.tar")))
    assert (
        step.parameters["checkpoint"] == str(tmp_path / "x.pth.tar")
        and step.parameters["checkpoint"] in step.reads
    )
    assert json.loads(json.dumps(step.parameters)) == step.parameters


def test_files_of_one_name_have_runs_of_their_own_and_copies_of_one_file_share_a_run(tmp_path):
    study = open_study("paper", "folder", tmp_path, checkpoints=True)
    files = [tmp_path / folder / "model.pth.tar" for folder in ("first", "second", "copy of the first")]
    for file, content in zip(files, (b"1", b"2", b"1"), strict=True):
        file.parent.mkdir()
        file.write_bytes(content)
    first, second, copy = (
        run_all.steps(Request(study, ("abdnet",), checkpoint=str(file)))[0] for file in files
    )
    assert {first.name, first.executed(study), *first.produces}.isdisjoint(
        {second.name, second.executed(study), *second.produces}
    )
    assert (copy.name, copy.produces) == (first.name, first.produces)


def test_any_file_of_weights_gives_a_run_that_can_name_files(tmp_path):
    study = open_study("paper", "folder", tmp_path, checkpoints=True)
    for name in ("a b.pth", "人.pth.tar", "<b>&$_*.pth", "-.pth", ".pth", "x" * 251 + ".pth", "\udce9\n.pth"):
        (tmp_path / name).write_bytes(b"")
        (step,) = run_all.steps(Request(study, ("abdnet",), checkpoint=str(tmp_path / name)))
        assert select([step]) == [step], name
        step.failed(study).parent.mkdir(parents=True, exist_ok=True)
        step.failed(study).touch()
    with pytest.raises(ResultsError, match=r"absent\.pth cannot be read \(No such file"):
        study.checkpoint_run("abdnet", tmp_path / "absent.pth")
