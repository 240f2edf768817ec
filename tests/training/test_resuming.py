"""Killed and resumed runs, refused runs, kept weights, validation people, and too little memory."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import torch
from conftest import one_thread_on_the_cpu
from run_helpers import FILES, assert_same_run, names

import run_all
from reidlib import files
from reidlib.datasets.held_out import split_validation
from reidlib.errors import ReidError
from reidlib.evaluation import retrieval_metrics
from reidlib.experiment import Experiment, TrainingSettings
from reidlib.files import is_sound_archive
from reidlib.models.networks import model_from_experiment
from reidlib.settings import ConfigError
from reidlib.torch_files import CheckpointError, read_torch_file
from reidlib.training import OutOfMemoryError, fit, fitting, loop, run_folder
from reidlib.training.epoch import Learner
from reidlib.training.run_folder import RunFolder

SETTINGS = {"steps_per_epoch": 2, "epochs": 3}


pytestmark = pytest.mark.usefixtures("steady")


def tiny(method="abdnet", **settings) -> Experiment:
    return run_helpers.tiny(method, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def whole(dataset, cache, tmp_path_factory):
    """A run without interruption."""
    with one_thread_on_the_cpu():
        return fit(tiny(), dataset, tmp_path_factory.mktemp("whole") / "abdnet-seed0", cache=cache)


def assert_same_numbers(one, other):
    assert_same_run(one.folder, other.folder)


# ---------------------------------------------------------------------------------------------------- SIGKILL

KILLS = {
    "in the middle of an epoch": """
real, calls = epoch.draw_augmentation, []
def draw(*arguments, **chances):
    calls.append(None)
    if len(calls) == 4:  # two steps an epoch: the second step of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **chances)
epoch.draw_augmentation = draw
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
def test_a_killed_run_resumes_to_the_same_bits(whole, root, dataset, cache, tmp_path, capsys, moment):
    folder = tmp_path / "abdnet-seed0"
    script = f"""
import io, json, os, signal, torch
from pathlib import Path
from reidlib.datasets import load_dataset
from reidlib.experiment import Experiment
from reidlib.training import epoch, fit
torch.set_num_threads(1)
torch.cuda.is_available = lambda: False
{KILLS[moment]}
experiment = Experiment(**json.loads({json.dumps(whole.experiment.as_dict())!r}))
fit(experiment, load_dataset("folder", {str(root)!r}), Path({str(folder)!r}), cache=Path({str(cache)!r}))
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(run_all.__file__).parent, capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = sorted(path.name for path in folder.iterdir())
    unfinished = [name for name in left if name.endswith(".tmp")]
    assert [name for name in left if name not in unfinished] == [
        "checkpoint.pt",
        "curves.csv",
        "weights.json",
    ]
    assert len(unfinished) == (moment == "in the middle of writing a checkpoint")
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["rows"]) == 1
    capsys.readouterr()
    again = fit(whole.experiment, dataset, folder, cache=cache)
    assert "goes on after epoch 1 of 3" in capsys.readouterr().out
    assert_same_numbers(again, whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in whole.folder.iterdir()
    )
    with capsys.disabled():
        print(
            f"\nkilled {moment}: left {', '.join(left)}; went on after epoch 1 of 3; "
            "weights, curves and metrics equal to the bit"
        )


def test_a_run_may_end_after_any_of_its_files(dataset, cache, tmp_path, monkeypatch):
    """The folder is copied after each file that is written, of every kind, as a killed run would leave it.

    Every copy resumes to the same files.
    """
    settings = {
        "flip_evaluation": False,
        "epochs": 1,
        "steps_per_epoch": 1,
        "keep_every": 1,
        "validation_identities": 2,
        "validate_every": 1,
    }
    experiment = tiny("baseline", warmup_epochs=1, report_epoch="best_on_validation", **settings)
    real, folder, ends = Path.replace, tmp_path / "whole", []

    def replace(self, target):
        result = real(self, target)
        if Path(target).parent == folder:
            ends.append(Path(target).name)
            shutil.copytree(folder, tmp_path / f"ended-{len(ends)}")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        whole = fit(experiment, dataset, folder, cache=cache)
    files = {path.name for path in folder.iterdir()}
    for number, name in enumerate(ends, 1):
        again = fit(experiment, dataset, tmp_path / f"ended-{number}", cache=cache)
        assert_same_numbers(again, whole)
        assert again.metrics["reported_epoch"] == whole.metrics["reported_epoch"]
        assert {path.name for path in again.folder.iterdir()} == files, f"after {name}"
    assert ends.count("checkpoint.pt") == ends.count("curves.csv") == 2 and ends[-1] == "metrics.json"
    assert {"weights.json", "epoch-0001.pt", "model.pt", "embeddings.npz"} < set(ends)
    assert any(name.startswith("best-") for name in ends)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def stopped(dataset, cache, tmp_path, monkeypatch):
    """A run stopped after its first epoch."""
    folder, real = tmp_path / "abdnet-seed0", loop.train_epoch

    def train_one(learner, data, images, number):
        if number == 1:
            raise KeyboardInterrupt
        return real(learner, data, images, number)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", train_one)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(), dataset, folder, cache=cache)
    return folder


def test_another_environment_is_refused_with_the_difference(stopped, dataset, cache, monkeypatch):
    before = (stopped / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(CheckpointError, match=r"torch .* → 9\.9\.9.*--force"):
            fit(tiny(), dataset, stopped, cache=cache)
    assert (stopped / "checkpoint.pt").read_bytes() == before, "nothing is lost"
    fit(tiny(), dataset, stopped, cache=cache)


def test_a_run_goes_on_with_the_threads_it_began_with(whole, stopped, dataset, cache, capsys):
    torch.set_num_threads(2)
    again = fit(tiny(), dataset, stopped, cache=cache)
    assert "goes on with 1 threads, as it began, in place of 2" in capsys.readouterr().out
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert_same_numbers(again, whole)


def test_another_precision_is_refused(stopped, dataset, cache, monkeypatch):
    """With precision = "auto", another processor may have another precision."""
    real = loop.environment
    monkeypatch.setattr(fitting, "environment", lambda *of: {**real(*of), "precision": "bfloat16"})
    with pytest.raises(CheckpointError, match="precision float32 → bfloat16"):
        fit(tiny(), dataset, stopped, cache=cache)


def test_two_processes_cannot_make_the_same_run(stopped, dataset, cache):
    script = f"""
import sys
from pathlib import Path
from reidlib.training.run_folder import RunFolder
with RunFolder(Path({str(stopped)!r})).only_one():
    print("here", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    place = Path(run_all.__file__).parent
    with subprocess.Popen(command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"here"
        with pytest.raises(ReidError, match="abdnet-seed0 is being made by another process"):
            fit(tiny(), dataset, stopped, cache=cache)
        other.kill()
    finished = fit(tiny(), dataset, stopped, cache=cache)  # the lock ended with the process
    with RunFolder(stopped).only_one():
        assert fit(tiny(), dataset, stopped, cache=cache).metrics == finished.metrics, (
            "what is finished is only shown"
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"validation_identities": 50}, "validation_identities = 50"),
        ({"classes": 2}, "classes"),
        ({"batch_size": 64, "steps_per_epoch": 0}, "batch"),
        ({"tensorboard": True, "epochs": 2}, "pip install tensorboard"),
        ({"processes": 2, "sync_batch_norm": True}, "needs GPUs"),
    ],
)
def test_an_impossible_run_sets_no_finished_one_aside(whole, dataset, cache, monkeypatch, settings, words):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    before = (
        sorted(path.name for path in whole.folder.parent.iterdir()),
        sorted(path.name for path in whole.folder.iterdir()),
    )
    with pytest.raises(ReidError, match=words):
        fit(tiny(**settings), dataset, whole.folder, cache=cache)
    after = (
        sorted(path.name for path in whole.folder.parent.iterdir()),
        sorted(path.name for path in whole.folder.iterdir()),
    )
    assert before == after


def test_a_checkpoint_of_another_run_is_refused(stopped, dataset, cache):
    saved = torch.load(stopped / "checkpoint.pt", weights_only=True)
    assert saved["record"]["data"] == dataset.fingerprints["training"]
    assert saved["record"]["settings"] == tiny().group(TrainingSettings)
    saved["record"]["settings"]["dropout"] = 0.25
    saved["record"]["data"] = "other"
    torch.save(saved, stopped / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"dropout 0\.25 → 0\.5, other images"):
        fit(tiny(), dataset, stopped, cache=cache)


def test_a_checkpoint_that_cannot_be_one_is_named(stopped, dataset, cache):
    torch.save({"model": {}}, stopped / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is no checkpoint of a run.*Delete it"):
        fit(tiny(), dataset, stopped, cache=cache)


@pytest.mark.parametrize("damage", ["one bit", "cut short", "no content", "garbage"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_run_starts_anew(
    whole, stopped, dataset, cache, capsys, damage
):
    """torch.load would read a flipped bit as another weight."""
    path = stopped / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"one bit": content, "cut short": content[:-1000], "no content": b"", "garbage": b"x" * 999}
    path.write_bytes(damaged[damage])
    if damage == "one bit":
        torch.load(path, weights_only=True)
    again = fit(tiny(), dataset, stopped, cache=cache)
    assert "checkpoint.pt is damaged and kept as checkpoint.pt.damaged" in capsys.readouterr().out
    assert_same_numbers(again, whole)
    assert names(stopped) == FILES


def test_any_flipped_bit_of_a_file_of_weights_is_found_or_changes_no_weight(tmp_path):
    path, state = tmp_path / "model.pt", {"one": torch.arange(5.0), "two": torch.ones(3, 2)}
    torch.save(state, path)
    whole = path.read_bytes()
    assert is_sound_archive(path)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        if is_sound_archive(path):
            with contextlib.suppress(CheckpointError):
                found = read_torch_file(path)
                assert list(found) == list(state)
                assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_checkpoint_that_cannot_be_opened_stays(stopped, dataset, cache, monkeypatch):
    """That says nothing about its content."""

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files.zipfile, "ZipFile", refuse)
        with pytest.raises(ReidError, match=r"checkpoint\.pt cannot be read \(Permission denied\)"):
            fit(tiny(), dataset, stopped, cache=cache)
    assert (stopped / "checkpoint.pt").is_file()


def test_too_little_disk_space_is_reported_before_training(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1e6))
    with pytest.raises(ReidError, match=r"GB are needed for checkpoints.*Make room") as error:
        fit(tiny(keep_every=1), dataset, tmp_path / "run", cache=cache)
    assert "3 of single epochs" in str(error.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["weights.json"]


def test_disk_space_that_a_run_already_uses_is_not_needed_again(stopped, dataset, cache, monkeypatch):
    """The run has written a checkpoint, so it needs only the rest of its disk space."""
    taken = (stopped / "checkpoint.pt").stat().st_size
    # Needed are another checkpoint, and a third of its size for the weights.
    for free, enough in ((1.4 * taken, True), (1.2 * taken, False)):
        with monkeypatch.context() as patch:
            patch.setattr(
                run_folder.shutil, "disk_usage", lambda _, free=free: types.SimpleNamespace(free=free)
            )
            model = model_from_experiment(tiny(), 6)
            if enough:
                RunFolder(stopped).announced_disk_use(tiny(), model, 1)
            else:
                with pytest.raises(ReidError, match="Make room"):
                    RunFolder(stopped).announced_disk_use(tiny(), model, 1)


# ----------------------------------------------------------------------------------------------- what is kept


def test_every_nth_epoch_is_kept_and_changes_no_number(whole, dataset, cache, tmp_path, capsys):
    kept = fit(tiny(keep_every=2), dataset, tmp_path / "abdnet-seed0", cache=cache)
    assert "1 of single epochs" in capsys.readouterr().out
    assert_same_numbers(kept, whole)
    assert [path.name for path in sorted(kept.folder.glob("*.pt"))] == ["epoch-0002.pt", "model.pt"]
    second = torch.load(kept.folder / "epoch-0002.pt", weights_only=True)
    last = torch.load(kept.folder / "model.pt", weights_only=True)
    assert list(second) == list(last) and not torch.equal(
        second["stem.conv1.weight"], last["stem.conv1.weight"]
    )


def test_housekeeping_settings_make_no_other_run(dataset, cache, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "abdnet-seed0"
    fit(tiny("baseline", epochs=1), dataset, folder, cache=cache)
    monkeypatch.setattr(loop, "train_epoch", None)  # calling it would raise
    fit(tiny("baseline", epochs=1, keep_every=5), dataset, folder, cache=cache)
    assert "superseded" not in capsys.readouterr().out
    assert json.loads((folder / "weights.json").read_text())["housekeeping"]["keep_every"] == 5


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
    run = fit(tiny(epochs=2, tensorboard=True), dataset, tmp_path / "run", cache=cache)
    assert added[0] == ("tensorboard", 1) and added[-1] == "closed"
    assert [entry[1] for entry in added[1:-1] if entry[0] == "loss"] == run.curves["loss"].tolist()
    assert {entry[0] for entry in added[1:-1]} == set(run.curves) - {"epoch"}


def test_a_missing_tensorboard_is_reported_with_the_fix(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ReidError, match="pip install tensorboard"):
        fit(tiny(tensorboard=True), dataset, tmp_path / "run", cache=cache)


def test_memory_is_among_the_curves(whole):
    assert (whole.curves["memory_mb"] > 50).all() and (whole.curves["memory_mb"] < 1e5).all()


# ------------------------------------------------------------------------------------------------- validation


def test_held_out_people_are_whole_and_never_trained_on(dataset):
    training_part, validation = split_validation(dataset, 2, seed=0)
    held = set(validation.query.ids.tolist())
    assert len(held) == 2 and training_part.num_train_identities == 4
    assert held.isdisjoint(training_part.train.ids.tolist())
    paths = [*training_part.train.paths, *validation.query.paths, *validation.gallery.paths]
    assert sorted(paths) == sorted(dataset.train.paths), "every image is in one of the three"
    # Two cameras with two images each: from each camera one query, and one image for the gallery.
    assert len(validation.query) == len(validation.gallery) == 4
    for person in held:
        assert sorted(validation.query.cameras[validation.query.ids == person].tolist()) == [1, 2]
    assert training_part.query is dataset.query and training_part.gallery is dataset.gallery
    assert split_validation(dataset, 2, seed=0)[1].query.paths == validation.query.paths
    assert len({split_validation(dataset, 2, seed)[1].query.paths for seed in range(8)}) > 1
    exact = np.eye(8)[validation.query.ids % 8], np.eye(8)[validation.gallery.ids % 8]
    people = (
        validation.query.ids,
        validation.gallery.ids,
        validation.query.cameras,
        validation.gallery.cameras,
    )
    assert retrieval_metrics(*exact, *people).mean_ap == 1, "every query has a match"
    whole, nobody = split_validation(dataset, 0, seed=0)
    assert whole.train.paths == dataset.train.paths and len(nobody.query) == len(nobody.gallery) == 0


def test_too_many_people_cannot_be_held_out(dataset):
    with pytest.raises(
        ReidError, match=r"validation_identities = 5: of 6 training people 6 can be held out.*at least 2"
    ):
        split_validation(dataset, 5, seed=0)


def test_validation_that_would_be_ignored_is_refused():
    for settings, words in (
        ({"validate_every": 2}, "validate_every needs validation_identities"),
        ({"report_epoch": "best_on_validation", "validation_identities": 2}, "validate_every of 1 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny(**settings)


def test_validation_scores_are_in_the_curves_and_the_best_weights_stay(dataset, cache, tmp_path):
    settings = {"validation_identities": 2, "epochs": 4, "validate_every": 2}
    run = fit(tiny("baseline", **settings), dataset, tmp_path / "last", cache=cache)
    assert run.curves["validation_map"].isna().tolist() == [True, False, True, False]
    assert run.metrics["train_identities"] == 4 and run.metrics["train_images"] == 16
    best = run.curves.loc[run.curves["validation_map"].idxmax()]
    facts = {"epoch": int(best["epoch"]), "rank1": best["validation_rank1"], "map": best["validation_map"]}
    assert run.metrics["best_on_validation"] == facts and run.metrics["reported_epoch"] == 4
    assert [path.name for path in run.folder.glob("best-*.pt")] == [f"best-{facts['epoch']:04d}.pt"]
    kept = torch.load(run.folder / f"best-{facts['epoch']:04d}.pt", weights_only=True)
    reported = fit(
        tiny("baseline", report_epoch="best_on_validation", **settings),
        dataset,
        tmp_path / "best",
        cache=cache,
    )
    scored = torch.load(reported.folder / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], scored[name]) for name in kept)
    assert reported.metrics["reported_epoch"] == facts["epoch"] and not list(reported.folder.glob("best-*"))


class Ended(BaseException):
    """Stands for SIGKILL in a test that starts no process of its own."""


def test_resuming_removes_best_weights_that_are_no_longer_the_best(dataset, cache, tmp_path, monkeypatch):
    scores = iter([0.4, 0.5])
    monkeypatch.setattr(fitting, "split_scores", lambda *_, **__: {"rank1": 0.5, "map": next(scores)})
    experiment = tiny("baseline", validation_identities=2, validate_every=1, epochs=2)

    def ended(folder, epoch):
        if epoch == 2:
            raise Ended

    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(RunFolder, "keep_best", ended)
        fit(experiment, dataset, tmp_path / "run", cache=cache)
    assert len(list((tmp_path / "run").glob("best-*"))) == 2
    run = fit(experiment, dataset, tmp_path / "run", cache=cache)
    assert [path.name for path in run.folder.glob("best-*")] == ["best-0002.pt"]


def test_best_weights_of_a_lost_epoch_are_not_used(dataset, cache, tmp_path, monkeypatch):
    """best-0002.pt exists without a checkpoint. Repeated, epoch 2 is not the best, so the file is removed."""
    settings = {
        "validation_identities": 2,
        "validate_every": 1,
        "epochs": 2,
        "report_epoch": "best_on_validation",
    }
    scores = iter([0.5, 0.4])
    monkeypatch.setattr(fitting, "split_scores", lambda *_, **__: {"rank1": 0.5, "map": next(scores)})
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"of": "a lost attempt"}, folder / "best-0002.pt")
    run = fit(tiny("baseline", **settings), dataset, folder, cache=cache)
    assert run.metrics["reported_epoch"] == 1
    assert not list(folder.glob("best-*"))


# ---------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("error", "largest", "fits"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 5, 4),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, 2),
    ],
)
def test_out_of_memory_names_the_batch_that_fits(dataset, cache, tmp_path, monkeypatch, error, largest, fits):
    """A device has memory for `largest` images: 8 fail and 4 fit, or 4 fail, too, and 2 fit."""
    real = Learner.gradients

    def gradients(learner, batch, *rest):
        if len(batch) > largest:
            raise error
        return real(learner, batch, *rest)

    monkeypatch.setattr(Learner, "gradients", gradients)
    with pytest.raises(OutOfMemoryError) as said:
        fit(tiny("baseline"), dataset, tmp_path / "run", cache=cache)
    assert str(said.value).startswith(f"Out of memory at batch_size = 8 on cpu: batch_size = {fits} fits")
    assert ("(4 did not)" in str(said.value)) == (fits == 2) and f"--set batch_size={fits}" in str(said.value)
    monkeypatch.setattr(Learner, "gradients", real)
    fit(tiny("baseline", batch_size=fits, epochs=1), dataset, tmp_path / "run", cache=cache)


def test_what_fits_in_the_warm_up_fits_after_it(dataset, cache, tmp_path, monkeypatch):
    """Memory runs out while the trunk is frozen. The trial of a smaller batch includes its gradients."""
    real, tried = Learner.gradients, []

    def gradients(learner, batch, *rest):
        trunk = learner.model.trunk_parameters()
        if len(batch) == 8:
            assert not any(parameter.requires_grad for parameter in trunk)
            raise RuntimeError("CUDA error: out of memory")
        values = real(learner, batch, *rest)
        tried.append(all(parameter.grad is not None for parameter in trunk))
        return values

    monkeypatch.setattr(Learner, "gradients", gradients)
    with pytest.raises(OutOfMemoryError, match="batch_size = 4 fits"):
        fit(tiny("baseline", warmup_epochs=1), dataset, tmp_path / "run", cache=cache)
    assert tried == [True]


def test_nothing_fits(dataset, cache, tmp_path, monkeypatch):
    def gradients(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learner, "gradients", gradients)
    with pytest.raises(OutOfMemoryError, match="no smaller one fits either"):
        fit(tiny(images_per_identity=2), dataset, tmp_path / "run", cache=cache)


def test_other_runtime_errors_are_raised_unchanged(dataset, cache, tmp_path, monkeypatch):
    def gradients(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Learner, "gradients", gradients)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(tiny(), dataset, tmp_path / "run", cache=cache)


# -------------------------------------------------------------------------------------------- what is missing


def test_a_missing_compiler_is_reported_before_anything_starts(dataset, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting.shutil, "which", lambda name: None)
    with pytest.raises(ReidError, match=r"compile = True needs a C\+\+ compiler"):
        fit(tiny(compile=True), dataset, tmp_path / "run", cache=cache)


def test_determinism_on_request(monkeypatch):
    """On a GPU, sets PyTorch's flag and cuBLAS's variable. Otherwise, cuDNN may search for fast kernels."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    told = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", told.append)
    for device, asked, exact in (("cpu", False, True), ("cuda", False, False), ("cuda", True, True)):
        loop.set_determinism(tiny(deterministic=asked), torch.device(device))
        assert told[-1] is exact and torch.backends.cudnn.benchmark is not exact
        assert ("CUBLAS_WORKSPACE_CONFIG" in loop.os.environ) == (device == "cuda" and exact)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.backends.cudnn.benchmark = benchmark
