"""Epochs: learning rates and augmentation of a step, the warm-up, and the log."""

import contextlib
import csv
import re

import numpy as np
import pytest
import torch
from run_helpers import CPU, assert_same_weights, copied, timeless, tiny, trained

from reidlib.config import experiment_for
from reidlib.images.augmentation import TrainingImages
from reidlib.images.decoding import load_sizes
from reidlib.models.networks import model_from_experiment
from reidlib.training import epoch, loop
from reidlib.training.epoch import Learner, train_epoch

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture(scope="module")
def pixels(dataset, cache):
    return TrainingImages(*load_sizes(dataset.train.paths, [(96, 48), (108, 54)], cache=cache), CPU)


def learner_of(experiment):
    return Learner(experiment, model_from_experiment(experiment, 6), CPU)


def test_the_trunk_learns_at_a_tenth_of_the_rate(dataset, pixels, monkeypatch):
    """Compares the learning rates of the parameter groups at every step with the schedule."""
    experiment = tiny(
        "pfsa",
        optimizer="sgd",
        learning_rate=0.1,
        trunk_rate=0.1,
        steps_per_epoch=2,
        milestones=(1,),
        epochs=2,
    )
    learner = learner_of(experiment)
    optimizer, step, seen = learner.optimizer, learner.optimizer.step, []
    monkeypatch.setattr(
        optimizer, "step", lambda: (seen.append([g["lr"] for g in optimizer.param_groups]), step())
    )
    for number in range(2):
        row = train_epoch(learner, dataset, pixels, number)
        assert row["learning_rate"] == pytest.approx([0.1, 0.01][number])
    np.testing.assert_allclose(seen, [[0.01, 0.1]] * 2 + [[0.001, 0.01]] * 2)


def test_logging_the_weighted_loss_changes_no_weight(dataset, cache, tmp_path):
    (with_it, logged), (without, plain) = (
        trained(tiny("pfsa", log_weighted_loss=on), dataset, tmp_path / str(on), cache)
        for on in (True, False)
    )
    assert_same_weights(with_it.state_dict(), without.state_dict())
    assert all(0 < row.pop("weighted_loss") < row["loss"] for row in logged)
    assert [timeless(row) for row in logged] == [timeless(row) for row in plain]
    columns = next(csv.reader((tmp_path / "True" / "curves.csv").open()))
    assert "weighted_loss" in columns


def test_the_logged_loss_is_the_sum_of_the_logged_terms(dataset, pixels):
    experiment = tiny("abdnet", steps_per_epoch=2)
    row = train_epoch(learner_of(experiment), dataset, pixels, 1)
    terms = [row[name] for name in ("cross_entropy", "triplet", "orthogonal_features", "orthogonal_weights")]
    assert row["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert row["epoch"] == 2 and 0 <= row["accuracy"] <= 1


ABDNET_ERASER = {"erase": 0.5, "erase_largest": 0.4, "erase_fill": "mean"}
PFSA_ERASER = {"erase": 0.5, "erase_largest": 0.2, "erase_fill": "noise"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("baseline", {"crop": 0.5, **ABDNET_ERASER}),
        ("abdnet", {"crop": 0.5, **ABDNET_ERASER}),
        ("gap", {"crop": 0.0, **PFSA_ERASER}),
        ("pfsa", {"crop": 0.0, **PFSA_ERASER}),
        ("stripes", {"crop": 0.0, **PFSA_ERASER, "erase": 0.0}),
    ],
)
def test_each_papers_augmentation_reaches_the_loop(dataset, pixels, monkeypatch, method, expected):
    """The papers' settings on a small network. PFSA does not crop, and has an eraser of its own."""
    paper = experiment_for(method)
    assert (paper.batch_size, paper.images_per_identity) == {"abdnet": (64, 4), "baseline": (64, 0)}.get(
        method, (48, 0)
    )
    kept = {
        name: getattr(paper, name) for name in ("crop_probability", "flip_probability", "erase_probability")
    }
    seen, real = [], epoch.draw_augmentation

    def draw(batch, height, width, generator, **settings):
        seen.append(((batch, height, width), settings))
        return real(batch, height, width, generator, **settings)

    monkeypatch.setattr(epoch, "draw_augmentation", draw)
    experiment = tiny(method, **kept)
    train_epoch(learner_of(experiment), dataset, pixels, 0)
    common = {"flip": 0.5, "corners": "rounded", "jitter": 0.0}
    assert seen == [((8, 96, 48), {**common, **expected})]


# ---------------------------------------------------------------------------------------------------- warm-up


def test_a_compiled_run_gives_the_same_numbers(dataset, cache, tmp_path, monkeypatch):
    """A compiled network trains to the same weights and rows, with warm-up and penalties.

    The backend "eager" runs the captured graphs without generating code, which would take minutes and change
    rounding.
    """
    compiled = []

    def captured(model):
        compiled.append(model)
        return compile_with(model, backend="eager")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", captured)
    settings = {"warmup_epochs": 1, "ow_reach": "backbone"}
    plain, plain_rows = trained(tiny("abdnet", **settings), dataset, tmp_path / "plain", cache)
    model, rows = trained(tiny("abdnet", compile=True, **settings), dataset, tmp_path / "compiled", cache)
    assert len(compiled) == 1
    assert_same_weights(plain.state_dict(), model.state_dict())
    assert [timeless(row) for row in rows] == [timeless(row) for row in plain_rows]
    assert "orthogonal_features" in rows[-1]


@pytest.mark.parametrize(
    "method,settings",
    [
        ("abdnet", {"ow_reach": "backbone"}),
        (
            "abdnet",
            {"of_squared": True, "of_smaller_side": True, "eigenvalues": "norm_ratio", "power_steps": 2},
        ),
        ("pfsa", {"log_weighted_loss": True}),
        ("pfsa+sa1", {"sa_normalization": "softmax"}),
    ],
)
def test_a_step_never_asks_the_device_for_a_number(method, settings, dataset, monkeypatch):
    """Forward, losses and backward on PyTorch's meta device.

    Reading a value, which on a GPU would mean waiting, raises an error there. So does an operation on tensors
    of two devices.
    """
    meta = torch.device("meta")
    # autocast does not support the meta device
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    experiment = tiny(method, **settings)
    model = model_from_experiment(experiment, 6).to(meta).train()
    target = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).to(meta)
    values = Learner(experiment, model, meta).gradients(
        torch.empty(8, 3, 96, 48, device=meta), target, epoch=5
    )
    assert {value.device for value in values.values()} == {meta}
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        values["loss"].item()  # reading a value is noticed


@pytest.mark.parametrize("method", ["baseline+pam+cam", "pfsa"])
def test_warm_up_does_not_change_the_trunk(dataset, pixels, method):
    learner = learner_of(tiny(method, warmup_epochs=1))
    model = learner.model
    trunk_names = {
        name
        for name, module in model.named_modules()
        if any(module is part or module in list(part.modules()) for part in model.trunk_modules())
    }

    def in_trunk(key):
        return key.rpartition(".")[0] in trunk_names

    before = copied(model)
    train_epoch(learner, dataset, pixels, 0)
    warm = copied(model)
    trunk = [key for key in before if in_trunk(key)]
    assert any("running_mean" in key for key in trunk)
    assert [key for key in trunk if not torch.equal(before[key], warm[key])] == [], (
        "weights and BN statistics stay"
    )
    # Every new parameter learns, except those of the attention layers, whose gradient is 0 while γ = 0.
    new = [key for key, _ in model.named_parameters() if not in_trunk(key)]
    still = [key for key in new if torch.equal(before[key], warm[key])]
    assert all(re.search(r"(query|key|value)\.(weight|bias)$", key) for key in still), still
    assert all(
        not torch.equal(before[key], warm[key])
        for key in before
        if not in_trunk(key) and "running_mean" in key
    )

    train_epoch(learner, dataset, pixels, 1)
    after = copied(model)
    assert all(
        not torch.equal(warm[key], after[key])
        for key in trunk
        if key.endswith(("conv1.weight", "running_mean"))
    )


def test_the_shallow_attention_learns_through_the_frozen_trunk(dataset, pixels):
    learner = learner_of(tiny("baseline+cam", warmup_epochs=1))
    train_epoch(learner, dataset, pixels, 0)
    assert learner.model.shallow_cam.gamma.item() != 0


def test_a_new_optimizer_is_made_after_the_warm_up(dataset, cache, tmp_path, monkeypatch):
    used = []

    def train_one(learner, *rest):
        used.append((learner.optimizer, len(learner.optimizer.state)))
        return train_epoch(learner, *rest)

    monkeypatch.setattr(loop, "train_epoch", train_one)
    trained(tiny(warmup_epochs=2, epochs=2), dataset, tmp_path, cache)
    first, second, third, fourth = (optimizer for optimizer, _ in used)
    assert first is second and second is not third and third is fourth
    assert [count > 0 for _, count in used] == [False, True, False, True], "no moments are carried over"


def test_the_schedule_does_not_advance_while_warming_up(dataset, cache, tmp_path):
    experiment = tiny(warmup_epochs=2, epochs=2, milestones=(1,), learning_rate=1e-3)
    trained(experiment, dataset, tmp_path, cache)
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
