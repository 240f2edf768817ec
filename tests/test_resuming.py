"""Runs that are killed, go on, are refused, keep weights, look at held-out people or do not fit the memory."""

import json
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_noise_images, one_thread_on_the_cpu

import run_all
from reidlib import epochs, run_files, training
from reidlib.config import ConfigError, Experiment, experiment_for
from reidlib.datasets import load_dataset
from reidlib.epochs import OutOfMemoryError
from reidlib.errors import ReidError
from reidlib.evaluation import retrieval_metrics
from reidlib.torch_files import CheckpointError
from reidlib.training import fit
from reidlib.validation import split_validation

TINY = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16, "embedding_dim": 16,
    "head_dim": 16, "batch_size": 8, "steps_per_epoch": 2, "epochs": 3, "warmup_epochs": 0, "precision": "float32",
    "learning_rate": 1e-3, "of_start_epoch": 1,
}  # fmt: skip
MEASURED = ("seconds", "images_per_second", "memory_mb")


@pytest.fixture(autouse=True)
def steady():
    with one_thread_on_the_cpu():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_noise_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def dataset(root):
    return load_dataset("folder", root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def tiny(method="abdnet", **settings) -> Experiment:
    return experiment_for(method, dataset="folder", **{**TINY, **settings})


@pytest.fixture(scope="module")
def whole(dataset, cache, tmp_path_factory):
    """The run that nothing interrupts."""
    with one_thread_on_the_cpu():
        return fit(tiny(), dataset, tmp_path_factory.mktemp("whole") / "abdnet-seed0", cache=cache, resamples=200)


def assert_same_numbers(one, other):
    weights = [torch.load(run.folder / "model.pt", weights_only=True) for run in (one, other)]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    np.testing.assert_array_equal(one.embeddings["gallery"], other.embeddings["gallery"])
    curves = [run.curves.drop(columns=list(MEASURED)) for run in (one, other)]
    assert curves[0].equals(curves[1])
    assert [one.metrics[key] for key in ("rank1", "map", "rank1_interval")] == [
        other.metrics[key] for key in ("rank1", "map", "rank1_interval")
    ]


# ---------------------------------------------------------------------------------------------------- SIGKILL

KILLS = {
    "in the middle of an epoch": """
real, calls = epochs.draw_augmentation, []
def draw(*arguments, **chances):
    calls.append(None)
    if len(calls) == 4:  # two steps an epoch: the second step of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **chances)
epochs.draw_augmentation = draw
""",
    "in the middle of writing a checkpoint": """
real, calls = torch.save, []
def save(state, file):
    calls.append(None)
    if len(calls) == 2:  # of the second epoch: half of it is on the disk
        content = io.BytesIO()
        real(state, content)
        file.write(content.getvalue()[: content.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(state, file)
torch.save = save
""",
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_goes_on_to_the_same_bits(whole, root, dataset, cache, tmp_path, capsys, moment):
    folder = tmp_path / "abdnet-seed0"
    script = f"""
import io, json, os, signal, torch
from pathlib import Path
from reidlib import epochs, training
from reidlib.config import Experiment
from reidlib.datasets import load_dataset
torch.set_num_threads(1)
torch.cuda.is_available = lambda: False
{KILLS[moment]}
experiment = Experiment(**json.loads({json.dumps(whole.experiment.as_dict())!r}))
training.fit(experiment, load_dataset("folder", {str(root)!r}), Path({str(folder)!r}), cache=Path({str(cache)!r}), resamples=200)
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=Path(run_all.__file__).parent, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = sorted(path.name for path in folder.iterdir())
    unfinished = [name for name in left if name.endswith(".tmp")]
    assert [name for name in left if name not in unfinished] == ["checkpoint.pt", "curves.csv", "experiment.json"]
    assert len(unfinished) == (moment == "in the middle of writing a checkpoint")
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["rows"]) == 1
    capsys.readouterr()
    again = fit(whole.experiment, dataset, folder, cache=cache, resamples=200)
    assert "goes on after epoch 1 of 3" in capsys.readouterr().out
    assert_same_numbers(again, whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())
    with capsys.disabled():
        print(
            f"\nkilled {moment}: left {', '.join(left)}; went on after epoch 1 of 3; weights, curves and metrics equal to the bit"
        )


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def stopped(dataset, cache, tmp_path, monkeypatch):
    """A run stopped after its first epoch."""
    folder, real = tmp_path / "abdnet-seed0", training.train_epoch

    def epoch(*arguments, **keywords):
        if arguments[5] == 1:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(), dataset, folder, cache=cache, resamples=200)
    return folder


def test_other_circumstances_are_refused_with_the_difference(stopped, dataset, cache, monkeypatch):
    before = (stopped / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(CheckpointError, match=r"torch .* → 9\.9\.9.*--force"):
            fit(tiny(), dataset, stopped, cache=cache, resamples=200)
    assert (stopped / "checkpoint.pt").read_bytes() == before, "nothing is lost"
    fit(tiny(), dataset, stopped, cache=cache, resamples=200)


def test_a_checkpoint_of_another_run_is_refused(stopped, dataset, cache):
    saved = torch.load(stopped / "checkpoint.pt", weights_only=True)
    assert saved["record"]["data"] == dataset.fingerprint and saved["record"]["experiment"] == tiny().as_dict()
    saved["record"]["experiment"]["dropout"] = 0.25
    saved["record"]["data"] = "other"
    torch.save(saved, stopped / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"dropout 0\.25 → 0\.5, other images"):
        fit(tiny(), dataset, stopped, cache=cache, resamples=200)


@pytest.mark.parametrize(("content", "words"), [(b"half", "cannot be read"), (None, "is no checkpoint of a run")])
def test_a_damaged_checkpoint_is_named(stopped, dataset, cache, content, words):
    path = stopped / "checkpoint.pt"
    path.write_bytes(content) if content else torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match=f"checkpoint.pt {words}.*Delete it"):
        fit(tiny(), dataset, stopped, cache=cache, resamples=200)


def test_a_disk_without_room_is_said_before_training(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(run_files.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1e6))
    with pytest.raises(ReidError, match=r"GB are needed for checkpoints.*Make room") as error:
        fit(tiny(keep_every=1), dataset, tmp_path / "run", cache=cache)
    assert "3 of single epochs" in str(error.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["experiment.json"]


# ---------------------------------------------------------------------------------------------------- what is kept


def test_every_nth_epoch_is_kept_and_changes_no_number(whole, dataset, cache, tmp_path, capsys):
    kept = fit(tiny(keep_every=2), dataset, tmp_path / "abdnet-seed0", cache=cache, resamples=200)
    assert "1 of single epochs" in capsys.readouterr().out
    assert_same_numbers(kept, whole)
    assert [path.name for path in sorted(kept.folder.glob("*.pt"))] == ["epoch-0002.pt", "model.pt"]
    second = torch.load(kept.folder / "epoch-0002.pt", weights_only=True)
    last = torch.load(kept.folder / "model.pt", weights_only=True)
    assert list(second) == list(last) and not torch.equal(second["stem.conv1.weight"], last["stem.conv1.weight"])


def test_housekeeping_makes_no_other_run(dataset, cache, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "abdnet-seed0"
    fit(tiny("baseline", epochs=1), dataset, folder, cache=cache, resamples=200)
    monkeypatch.setattr(training, "train_epoch", None)  # calling it would raise
    fit(tiny("baseline", epochs=1, keep_every=5), dataset, folder, cache=cache, resamples=200)
    assert "superseded" not in capsys.readouterr().out
    assert json.loads((folder / "experiment.json").read_text())["experiment"]["keep_every"] == 5


def test_tensorboard_gets_every_row(dataset, cache, tmp_path, monkeypatch):
    added = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            added.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, step):
            added.append((name, value, step))

        def flush(self): ...

        def close(self):
            added.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = fit(tiny(epochs=2, tensorboard=True), dataset, tmp_path / "run", cache=cache, resamples=200)
    assert added[0] == ("tensorboard", 1) and added[-1] == "closed"
    assert [entry[1] for entry in added[1:-1] if entry[0] == "loss"] == run.curves["loss"].tolist()
    assert {entry[0] for entry in added[1:-1]} == set(run.curves) - {"epoch"}


def test_a_missing_tensorboard_is_said_with_the_remedy(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ReidError, match="pip install tensorboard"):
        fit(tiny(tensorboard=True), dataset, tmp_path / "run", cache=cache)


def test_memory_is_among_the_curves(whole):
    assert (whole.curves["memory_mb"] > 50).all() and (whole.curves["memory_mb"] < 1e5).all()


# ---------------------------------------------------------------------------------------------------- validation


def test_held_out_people_are_whole_and_never_trained_on(dataset):
    training_part, validation = split_validation(dataset, 2, seed=0)
    held = set(validation.query.ids.tolist())
    assert len(held) == 2 and training_part.num_train_identities == 4
    assert held.isdisjoint(training_part.train.ids.tolist())
    paths = [*training_part.train.paths, *validation.query.paths, *validation.gallery.paths]
    assert sorted(paths) == sorted(dataset.train.paths), "every image is in one of the three"
    # two cameras with two images each: one query a camera, and one image a camera left for the gallery
    assert len(validation.query) == len(validation.gallery) == 4
    for person in held:
        assert sorted(validation.query.cameras[validation.query.ids == person].tolist()) == [1, 2]
    assert training_part.query is dataset.query and training_part.gallery is dataset.gallery
    assert split_validation(dataset, 2, seed=0)[1].query.paths == validation.query.paths
    assert len({split_validation(dataset, 2, seed)[1].query.paths for seed in range(8)}) > 1
    exact = np.eye(8)[validation.query.ids % 8], np.eye(8)[validation.gallery.ids % 8]
    people = (validation.query.ids, validation.gallery.ids, validation.query.cameras, validation.gallery.cameras)
    assert retrieval_metrics(*exact, *people).mean_ap == 1, "every query has a match"
    whole, nobody = split_validation(dataset, 0, seed=0)
    assert whole.train.paths == dataset.train.paths and len(nobody.query) == len(nobody.gallery) == 0


def test_too_many_people_cannot_be_held_out(dataset):
    with pytest.raises(ReidError, match=r"validation_identities = 5: of 6 training people 6 can be held out.*at least 2"):
        split_validation(dataset, 5, seed=0)


def test_validation_that_would_be_ignored_is_refused():
    for settings, words in (
        ({"validate_every": 2}, "validate_every needs validation_identities"),
        ({"report_epoch": "best_on_validation", "validation_identities": 2}, "validate_every of 1 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny(**settings)


def test_looks_at_validation_are_in_the_curves_and_the_best_weights_stay(dataset, cache, tmp_path):
    settings = {"validation_identities": 2, "epochs": 4, "validate_every": 2}
    run = fit(tiny("baseline", **settings), dataset, tmp_path / "last", cache=cache, resamples=200)
    assert run.curves["validation_map"].isna().tolist() == [True, False, True, False]
    assert run.metrics["train_identities"] == 4 and run.metrics["train_images"] == 16
    best = run.curves.loc[run.curves["validation_map"].idxmax()]
    facts = {"epoch": int(best["epoch"]), "rank1": best["validation_rank1"], "map": best["validation_map"]}
    assert run.metrics["best_on_validation"] == facts and run.metrics["reported_epoch"] == 4
    assert [path.name for path in run.folder.glob("best-*.pt")] == [f"best-{facts['epoch']:04d}.pt"]
    kept = torch.load(run.folder / f"best-{facts['epoch']:04d}.pt", weights_only=True)
    reported = fit(
        tiny("baseline", report_epoch="best_on_validation", **settings), dataset, tmp_path / "best", cache=cache, resamples=200
    )
    scored = torch.load(reported.folder / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], scored[name]) for name in kept)
    assert reported.metrics["reported_epoch"] == facts["epoch"] and not list(reported.folder.glob("best-*"))


# ---------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("error", "largest", "fits"),
    [(torch.OutOfMemoryError("CUDA out of memory"), 5, 4), (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, 2)],
)
def test_out_of_memory_names_the_batch_that_fits(dataset, cache, tmp_path, monkeypatch, error, largest, fits):
    """A device that holds `largest` images: 8 fail, 4 fit, or 4 fail as well and 2 fit."""
    real = epochs.gradients_of

    def gradients(experiment, model, network, batch, *rest, **keywords):
        if len(batch) > largest:
            raise error
        return real(experiment, model, network, batch, *rest, **keywords)

    monkeypatch.setattr(epochs, "gradients_of", gradients)
    with pytest.raises(OutOfMemoryError) as said:
        fit(tiny("baseline"), dataset, tmp_path / "run", cache=cache)
    assert str(said.value).startswith(f"Out of memory at batch_size = 8 on cpu: batch_size = {fits} fits")
    assert ("(4 did not)" in str(said.value)) == (fits == 2) and f"--set batch_size={fits}" in str(said.value)
    monkeypatch.setattr(epochs, "gradients_of", real)
    fit(tiny("baseline", batch_size=fits, epochs=1), dataset, tmp_path / "run", cache=cache, resamples=200)


def test_nothing_fits(dataset, cache, tmp_path, monkeypatch):
    def gradients(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(epochs, "gradients_of", gradients)
    with pytest.raises(OutOfMemoryError, match="no smaller one fits either"):
        fit(tiny(images_per_identity=2), dataset, tmp_path / "run", cache=cache)


def test_other_runtime_errors_stay_what_they_are(dataset, cache, tmp_path, monkeypatch):
    def gradients(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(epochs, "gradients_of", gradients)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(tiny(), dataset, tmp_path / "run", cache=cache)


# ---------------------------------------------------------------------------------------------------- what is missing


def test_a_missing_compiler_is_said_before_anything_starts(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(training.shutil, "which", lambda name: None)
    with pytest.raises(ReidError, match=r"compile = True needs a C\+\+ compiler"):
        fit(tiny(compile=True), dataset, tmp_path / "run", cache=cache)


def test_determinism_on_request(monkeypatch):
    """On a GPU: PyTorch is told so, and cuBLAS through its variable; without the request cuDNN may look for faster kernels."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    told = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", told.append)
    for device, asked, exact in (("cpu", False, True), ("cuda", False, False), ("cuda", True, True)):
        training._prepare(tiny(deterministic=asked), torch.device(device))
        assert told[-1] is exact and torch.backends.cudnn.benchmark is not exact
        assert ("CUBLAS_WORKSPACE_CONFIG" in training.os.environ) == (device == "cuda" and exact)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.backends.cudnn.benchmark = benchmark
