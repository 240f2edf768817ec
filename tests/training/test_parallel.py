"""Two processes that share a batch give the numbers of one process (gloo on the CPU); failures end both."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import run_all
from reidlib.config import experiment_for
from reidlib.datasets import load_dataset
from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.images.augmentation import TrainingImages, draw_augmentation, enlarged_size
from reidlib.images.decoding import load_sizes
from reidlib.models.networks import model_from_experiment
from reidlib.settings import ConfigError
from reidlib.training import fit
from reidlib.training.epoch import DivergedError, Learner, augmentation_of
from reidlib.training.parallel import ALONE, Share, run_in_processes

CPU = torch.device("cpu")
SMALL = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16,
    "embedding_dim": 16, "head_dim": 16, "batch_size": 8, "steps_per_epoch": 2, "epochs": 2,
    "warmup_epochs": 0, "precision": "float32", "learning_rate": 1e-3, "bootstrap_resamples": 200,
    "of_start_epoch": 0, "of_weight": 1e-4, "ow_reach": "backbone", "images_per_identity": 2,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("steady")


def experiment_of(**settings) -> Experiment:
    return experiment_for("abdnet", dataset="folder", **{**SMALL, **settings})


# ---------------------------------------------------------------------------------------------------- shares


def test_shares_cover_a_batch_without_overlap():
    rows = list(range(12))
    assert [rows[Share(rank, 3).of(12)] for rank in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert rows[ALONE.of(12)] == rows
    with pytest.raises(ReidError, match="batch of 10 cannot be shared evenly among 3"):
        Share(0, 3).of(10)


def test_a_single_process_sends_nothing():
    x = torch.randn(3, 2, requires_grad=True)
    assert ALONE.gathered(x) is x and ALONE.scaled(x) is x and ALONE.mean(x) is x
    ALONE.average_gradients([])
    ALONE.wait()


def test_settings_that_cannot_be_shared_are_refused():
    for settings, words in (
        ({"batch_size": 8, "processes": 3}, "batch_size = 8 cannot be shared by processes = 3"),
        ({"batch_size": 4, "processes": 4, "images_per_identity": 0, "triplet_weight": 0.0}, "at least 2"),
        ({"processes": 0}, "at least 1"),
        ({"sync_batch_norm": True}, "needs processes of 2 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            experiment_of(**settings)


# ----------------------------------------------------------------------------------------- the same gradients


def _gradients(share, device, experiment, root, cache, folder):
    """Saves values and gradients of one batch: all loss terms, network in eval mode, every γ ≠ 0."""
    dataset = load_dataset("folder", root)
    sizes = [(96, 48), enlarged_size(96, 48)]
    images = TrainingImages(*load_sizes(dataset.train.paths, sizes, cache=cache), device)
    torch.manual_seed(3)
    model = model_from_experiment(experiment, dataset.num_train_identities).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.3)
    rows = np.array([0, 1, 4, 5, 8, 9, 12, 13])
    draws = draw_augmentation(8, 96, 48, torch.Generator().manual_seed(5), **augmentation_of(experiment))
    part = share.of(8)
    values = Learner(experiment, model, device, share).gradients(
        images.batch(rows[part], draws[part]),
        torch.from_numpy(dataset.train_labels[rows]),
        epoch=5,
        starts=torch.Generator().manual_seed(7),
    )
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save({"values": values, "gradients": gradients}, folder / f"{share.rank}-of-{share.count}.pt")


def test_two_processes_have_the_gradients_of_one(root, cache, tmp_path, capsys):
    experiment = experiment_of()
    _gradients(ALONE, CPU, experiment, root, cache, tmp_path)
    run_in_processes(2, CPU, _gradients, experiment, root, cache, tmp_path)
    one, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt")
    )
    assert list(one["values"]) == [
        "loss",
        "cross_entropy",
        "triplet",
        "orthogonal_features",
        "orthogonal_weights",
        "accuracy",
    ]
    for name, value in one["values"].items():
        assert value != 0 or name == "accuracy"
        assert first["values"][name] == second["values"][name]
        assert first["values"][name].item() == pytest.approx(value.item(), rel=1e-5), name
    largest = 0.0
    for name, gradient in one["gradients"].items():
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
        difference = (first["gradients"][name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        largest = max(largest, difference.item() if gradient.norm() > 1e-6 else 0.0)
    with capsys.disabled():
        print(
            f"\ntwo processes against one: gradients at most {largest:.1e} apart, "
            "relative to each parameter's norm"
        )
    assert 0 < largest < 2e-4


def _mined_alone(share, device, folder):
    """Saves the gathered rows of a batch, and the gradient of their squared sum for the own rows."""
    head = torch.arange(8.0)[:, None][share.of(8)]
    gathered = share.gathered(head.requires_grad_())
    share.scaled(gathered.square().sum()).backward()
    share.average_gradients([])
    torch.save([gathered.detach(), head.grad], folder / f"{share.rank}.pt")


def test_gathered_rows_are_the_whole_batch_and_each_share_has_its_gradient(tmp_path, monkeypatch):
    place = tmp_path / "50 % of it"  # for files of the processes; its name may have any characters
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    run_in_processes(2, CPU, _mined_alone, tmp_path)
    assert list(place.iterdir()) == []
    for rank in range(2):
        gathered, gradient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert gathered.flatten().tolist() == list(range(8))
        own = torch.arange(8.0)[Share(rank, 2).of(8)]
        assert torch.equal(gradient.flatten(), 2 * 2 * own), (
            "times two, as the mean over two processes is taken afterwards"
        )


# ------------------------------------------------------------------------------------------------- whole runs


def test_a_killed_run_of_two_processes_leaves_none_and_can_be_resumed(root, cache, tmp_path):
    """The parent is killed after the first epoch. Its processes end, and the run resumes to the same bits."""
    dataset, experiment = load_dataset("folder", root), experiment_of(processes=2, steps_per_epoch=4)
    whole = fit(experiment, dataset, tmp_path / "whole", cache=cache)
    assert list(whole.curves["epoch"]) == [1, 2]
    assert whole.metrics["images_seen"] == 2 * 4 * 8
    folder = tmp_path / "again"
    script = tmp_path / "script.py"  # spawned processes import it
    script.write_text(f"""
import json, signal, torch
from pathlib import Path
from reidlib.experiment import Experiment
from reidlib.datasets import load_dataset
from reidlib.training import fit
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs start
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    experiment = Experiment(**json.loads({json.dumps(experiment.as_dict())!r}))
    fit(experiment, load_dataset("folder", {str(root)!r}), Path({str(folder)!r}), cache=Path({str(cache)!r}))
""")
    environment = {**os.environ, "PYTHONPATH": str(Path(run_all.__file__).parent)}
    process = subprocess.Popen([sys.executable, script], env=environment)
    started = time.monotonic()
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() - started < 300
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=30)[1] == [], (
        "nobody trains on behind the back of whoever killed it"
    )
    assert not (folder / "metrics.json").exists()
    again = fit(experiment, dataset, folder, cache=cache)
    weights = [torch.load(run.folder / "model.pt", weights_only=True) for run in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert again.curves["loss"].equals(whole.curves["loss"]) and again.metrics["map"] == whole.metrics["map"]


def _sleep_alone(share, device):
    time.sleep(300)  # outside of PyTorch, which would notice a lost connection


def test_processes_end_with_their_parent(tmp_path):
    """They end with their parent, although they get no signal and no error from PyTorch."""
    script = tmp_path / "script.py"
    script.write_text("""
import signal, sys, torch
from reidlib.training.parallel import run_in_processes
from test_parallel import CPU, _sleep_alone
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests may have ignored
    run_in_processes(2, CPU, _sleep_alone)
""")
    places = [str(Path(run_all.__file__).parent), str(Path(__file__).parent)]
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, script], env={**os.environ, "PYTHONPATH": os.pathsep.join(places)}, stderr=-3
        )
        workers, started = [], time.monotonic()
        while len(workers) < 2 or any(worker.num_threads() < 2 for worker in workers):
            assert time.monotonic() - started < 120
            time.sleep(0.1)
            workers = [child for child in psutil.Process(process.pid).children(True) if _is_worker(child)]
        process.send_signal(how)
        process.wait(60)
        assert psutil.wait_procs(workers, timeout=30)[1] == [], how


def _is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


def _die(share, device):
    if share.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_killed_process_ends_the_others_and_is_named():
    started = time.monotonic()
    with pytest.raises(ReidError, match=r"Process 2 of 2 was killed by SIGKILL.*ran out of memory"):
        run_in_processes(2, CPU, _die)
    assert time.monotonic() - started < 50, "nobody waited for the dead"


def _diverge(share, device):
    if share.rank == 1:
        raise DivergedError("triplet became NaN in epoch 1")
    time.sleep(60)


def test_an_error_of_one_process_is_raised_unchanged():
    with pytest.raises(DivergedError, match=r"^triplet became NaN in epoch 1$"):
        run_in_processes(2, CPU, _diverge)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ReidError, match="processes = 2, but this machine has 1 GPUs"):
        run_in_processes(2, torch.device("cuda"), _die)


def test_synchronised_statistics_need_gpus(root, cache, tmp_path):
    with pytest.raises(ReidError, match="sync_batch_norm = True needs GPUs"):
        fit(
            experiment_of(processes=2, sync_batch_norm=True),
            load_dataset("folder", root),
            tmp_path / "run",
            cache=cache,
        )
