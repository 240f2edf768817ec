"""Training: schedules and losses by hand, the warm-up, and whole runs on a tiny folder of images with injected interruptions."""

import contextlib
import csv
import hashlib
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import make_noise_images

import run_all
from reidlib import epochs, losses, run_files, scoring, training
from reidlib.augmentation import TrainingImages
from reidlib.batches import load_images, load_sizes
from reidlib.config import Experiment, choose, experiment_for
from reidlib.datasets import load_dataset
from reidlib.embedding import embed
from reidlib.epochs import DivergedError
from reidlib.fingerprints import code_digest
from reidlib.models import ReidOutput, model_from_experiment
from reidlib.optimisation import learning_rate, loss_terms, make_optimizer, weighted_loss
from reidlib.results import MissingRunError, Study, read_json
from reidlib.run_files import claim
from reidlib.runs import StaleRunError, finished_runs, load_run
from reidlib.training import fit

TINY = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16, "embedding_dim": 16,
    "head_dim": 16, "feature_dim": 16, "batch_size": 8, "steps_per_epoch": 1, "epochs": 2, "warmup_epochs": 0,
    "precision": "float32", "learning_rate": 1e-3, "optimizer": "adam", "trunk_rate": 1.0, "of_start_epoch": 1,
}  # fmt: skip
MEASURED = ("seconds", "images_per_second", "memory_mb", "train_seconds", "total_seconds")
FILES = ["curves.csv", "embeddings.npz", "experiment.json", "metrics.json", "model.pt", "queries.csv"]


def tiny(method="baseline", **settings) -> Experiment:
    return experiment_for(method, dataset="folder", **{**TINY, **settings})


pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture(scope="module")
def pixels(dataset, cache):
    return TrainingImages(*load_sizes(dataset.train.paths, [(96, 48), (108, 54)], cache=cache), torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------- schedules, optimisers


def test_step_schedule_by_hand():
    experiment = experiment_for("baseline")
    for epoch, factor in ((0, 1), (19.99, 1), (20, 0.1), (39.99, 0.1), (40, 0.01), (79.99, 0.01)):
        assert learning_rate(experiment, epoch) == pytest.approx(3e-4 * factor), epoch
    pfsa = experiment_for("pfsa")
    assert [learning_rate(pfsa, epoch) for epoch in (39, 40, 80)] == pytest.approx([0.1, 0.01, 0.001])


def test_cosine_schedule_by_hand():
    long = tiny(schedule="cosine", epochs=60, learning_rate=1.0)  # two epochs' rise, then 58 epochs' half wave
    expected = {0: 0.1, 1: 0.55, 2: 1.0, 2 + 58 / 2: 0.5, 2 + 58 / 3: 0.75, 60: 0.0}
    for epoch, rate in expected.items():
        assert learning_rate(long, epoch) == pytest.approx(rate, abs=1e-12), epoch
    short = tiny(schedule="cosine", epochs=2, learning_rate=1.0)  # a fifth of so short a run
    assert [learning_rate(short, epoch) for epoch in (0, 0.2, 0.4, 1.2)] == pytest.approx([0.1, 0.55, 1.0, 0.5])
    single = tiny(schedule="cosine", epochs=1, learning_rate=1.0)
    assert learning_rate(single, 0.2) == pytest.approx(1.0)


def test_optimizer_groups():
    pfsa = experiment_for("pfsa", pretrained=False, backbone="resnet18")
    model = model_from_experiment(pfsa, 5)
    optimizer = make_optimizer(pfsa, model)
    assert isinstance(optimizer, torch.optim.SGD)
    without = make_optimizer(experiment_for("pfsa", pretrained=False, backbone="resnet18", momentum=0), model)
    assert [group["nesterov"] for group in without.param_groups] == [False, False], "which PyTorch refuses without momentum"
    trunk, new = optimizer.param_groups
    assert (trunk["rate"], new["rate"]) == (0.1, 1.0)
    for group in (trunk, new):
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.trunk_parameters()}
    assert {id(p) for p in new["params"]} == {id(p) for p in model.new_parameters()}
    assert len(trunk["params"]) + len(new["params"]) == len(list(model.parameters()))

    abdnet = tiny("abdnet", weight_decay=5e-4)
    optimizer = make_optimizer(abdnet, model_from_experiment(abdnet, 5))
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["rate"] for group in optimizer.param_groups] == [1.0, 1.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]


def test_the_trunk_learns_at_a_tenth_of_the_rate(dataset, pixels, monkeypatch):
    """The groups' rates as the optimiser sees them at every step, beside what the schedule says."""
    experiment = tiny("pfsa", optimizer="sgd", learning_rate=0.1, trunk_rate=0.1, steps_per_epoch=2, milestones=(1,), epochs=2)
    model = model_from_experiment(experiment, 6)
    optimizer = make_optimizer(experiment, model)
    seen = []
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (seen.append([g["lr"] for g in optimizer.param_groups]), step()))
    for number in range(2):
        row = training.train_epoch(experiment, model, optimizer, dataset, pixels, number, torch.device("cpu"))
        assert row["learning_rate"] == pytest.approx([0.1, 0.01][number])
    np.testing.assert_allclose(seen, [[0.01, 0.1]] * 2 + [[0.001, 0.01]] * 2)


# ---------------------------------------------------------------------------------------------------- losses


def fake_output(heads=3, batch=8, classes=5):
    """Positive feature maps, logits and embeddings drawn at random."""
    maps = {name: [torch.rand(batch, 4, 3, 2) for _ in range(2)] for name in ("before", "cam", "pam", "after")}
    return ReidOutput(
        torch.randn(batch, 6),
        [torch.randn(batch, classes) for _ in range(heads)],
        [torch.randn(batch, 6) for _ in range(heads)],
        {"intermediate": [torch.rand(batch, 4, 3, 2)], **maps},
    )


def test_the_terms_of_the_loss_by_method_and_epoch():
    target = torch.arange(8) % 4
    output = fake_output()
    names = {
        "baseline": {-1: [], 0: [], 5: []},
        "baseline+of": {-1: [], 4: [], 5: ["orthogonal_features"]},
        "baseline+ow": {-1: [], 0: ["orthogonal_weights"]},
        "abdnet": {
            -1: ["triplet"],
            4: ["triplet", "orthogonal_weights"],
            5: ["triplet", "orthogonal_features", "orthogonal_weights"],
        },
    }
    for method, by_epoch in names.items():
        experiment = tiny(method, of_start_epoch=5, epochs=6)
        model = model_from_experiment(experiment, 5)
        for epoch, expected in by_epoch.items():
            assert list(loss_terms(experiment, model, output, target, epoch)) == ["cross_entropy", *expected], (method, epoch)


def test_orthogonal_features_never_start_in_the_warm_up():
    experiment = tiny("baseline+of", of_start_epoch=0, warmup_epochs=1)
    model = model_from_experiment(experiment, 5)
    terms = [list(loss_terms(experiment, model, fake_output(), torch.arange(8) % 4, epoch)) for epoch in (-1, 0)]
    assert terms == [["cross_entropy"], ["cross_entropy", "orthogonal_features"]]


def test_cross_entropy_of_the_heads_by_hand():
    target, output = torch.arange(8) % 4, fake_output()

    def by_hand(smoothing):
        wanted = torch.full((8, 5), smoothing / 5)
        wanted[torch.arange(8), target] += 1 - smoothing
        return [-(wanted * head.log_softmax(1)).sum(1).mean() for head in output.logits]

    for method, expected in (("baseline", sum(by_hand(0.1)) / 3), ("gap", sum(by_hand(0.0)))):
        experiment = tiny(method)
        terms = loss_terms(experiment, model_from_experiment(experiment, 5), output, target, 0)
        assert terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5), method


def test_triplet_is_weighted_and_averaged_over_the_heads():
    experiment = tiny("abdnet", triplet_weight=0.25, triplet_margin=0.7)
    model, output, target = model_from_experiment(experiment, 5), fake_output(), torch.arange(8) % 4
    expected = []
    for head in output.head_embeddings:
        distance = torch.cdist(head, head)
        anchors = []
        for anchor in range(8):
            same = target == target[anchor]
            anchors.append(torch.relu(0.7 + distance[anchor][same].max() - distance[anchor][~same].min()))
        expected.append(torch.stack(anchors).mean())
    term = loss_terms(experiment, model, output, target, 0)["triplet"]
    assert term.item() == pytest.approx(0.25 * torch.stack(expected).mean().item(), rel=1e-4)


@pytest.mark.parametrize(("reach", "count"), [("stem", 1), ("backbone", 20 + 5)])
def test_orthogonal_weights_reach_what_the_setting_says(monkeypatch, reach, count):
    """ResNet-18 has 20 convolutions, the second branch's layer4 5 more."""
    given = []

    def penalty(weights, *, weight, **form):
        given.append((len(weights), weight))
        return torch.tensor(0.0)

    monkeypatch.setattr(losses, "orthogonality_weights", penalty)
    experiment = tiny("baseline+ow", ow_reach=reach)
    loss_terms(experiment, model_from_experiment(experiment, 5), fake_output(), torch.arange(8) % 4, 0)
    assert given == [(count, 1e-3)]


@pytest.mark.parametrize(
    ("switches", "features", "weights"),
    [
        ({}, {}, {}),
        ({"of_squared": True}, {"squared": True}, {}),
        ({"of_smaller_side": True}, {"smaller_side": True}, {}),
        ({"ow_factor": 1.0}, {}, {"factor": 1.0}),
        ({"eigenvalues": "norm_ratio"}, {"estimator": "norm_ratio"}, {"estimator": "norm_ratio"}),
        ({"power_steps": 3}, {"iterations": 3}, {"iterations": 3}),
    ],
)
def test_switches_reach_the_penalties(monkeypatch, switches, features, weights):
    """Each changes what it should and nothing else; the defaults are the released code's."""
    given = {}
    for name in ("orthogonality_features", "orthogonality_weights"):
        real = getattr(losses, name)
        monkeypatch.setattr(
            losses, name, lambda *a, _name=name, _real=real, **form: given.update({_name: form}) or _real(*a, **form)
        )
    experiment = tiny("baseline+of+ow", of_start_epoch=0, **switches)
    model, output = model_from_experiment(experiment, 5), fake_output()
    # more channels than positions at the branch, as in the papers' network, so that the smaller side is another one
    output = output._replace(feature_maps={"intermediate": [torch.rand(8, 4, 3, 2)], "after": [torch.rand(8, 9, 3, 2)]})
    torch.manual_seed(11)
    terms = loss_terms(experiment, model, output, torch.arange(8) % 4, 0)
    released = {"estimator": "rayleigh", "iterations": 1, "generator": None}
    whole = {"batch": 8, "part": slice(0, 8)}
    expected_features = {"weight": 1e-6, "squared": False, "smaller_side": False, **whole, **released, **features}
    expected_weights = {"weight": 1e-3, "factor": 10.0, **released, **weights}
    assert given == {"orthogonality_features": expected_features, "orthogonality_weights": expected_weights}

    def value(form, expected):
        torch.manual_seed(11)
        of = losses.orthogonality_features(output.feature_maps, **expected)
        stem = [model.stem.conv1.weight]
        ow = losses.orthogonality_weights(stem, **form)
        return of, ow

    of, ow = value(expected_weights, expected_features)
    assert torch.equal(terms["orthogonal_features"], of) and torch.equal(terms["orthogonal_weights"], ow)
    plain = value({"weight": 1e-3}, {"weight": 1e-6})
    assert torch.equal(of, plain[0]) == (not features)
    if set(features) != {"smaller_side"}:  # which draws start vectors of another length, so that all later ones differ
        assert torch.equal(ow, plain[1]) == (not weights)
    if weights == {"factor": 1.0}:
        assert ow.item() == pytest.approx(plain[1].item() / 10)


def test_features_are_penalised_from_the_papers_epoch_on():
    """23 counted from 0 after ten epochs of warm-up: the 34th of all."""
    experiment = experiment_for("baseline+of", pretrained=False, backbone="resnet18", head_dim=16, reduced_dim=16)
    model = model_from_experiment(experiment, 5)
    by_epoch = {
        number: list(loss_terms(experiment, model, fake_output(), torch.arange(8) % 4, number - experiment.warmup_epochs))
        for number in (0, 9, 10, 32, 33, 89)
    }
    assert {number for number, terms in by_epoch.items() if "orthogonal_features" in terms} == {33, 89}


def test_weighted_loss_by_hand():
    """2 parts, then the global head and three of deep supervision: 0.8 · parts + 0.2 · others, of cross-entropies in nats."""
    experiment = tiny("pfsa", parts=2)
    target = torch.zeros(4, dtype=torch.long)

    def head(probability):  # of the right one of two people
        return torch.log(torch.tensor([[probability, 1 - probability]])).repeat(4, 1)

    chances = (0.5, 0.25, 0.125, 0.5, 0.5, 0.0625)
    output = fake_output()._replace(logits=[head(chance) for chance in chances])
    in_bits = 0.8 * (1 + 2) + 0.2 * (3 + 1 + 1 + 4)
    assert weighted_loss(experiment, output, target).item() == pytest.approx(in_bits * math.log(2), rel=1e-6)
    trained = loss_terms(experiment, model_from_experiment(experiment, 2), output, target, 0)
    assert list(trained) == ["cross_entropy"]
    assert trained["cross_entropy"].item() == pytest.approx((3 + 9) * math.log(2), rel=1e-6), "the plain sum is what is trained"


def trained_weights(experiment, dataset, pixels, folder, *look):
    folder.mkdir()
    looks = [(experiment.score_test_every, one) for one in look if experiment.score_test_every]
    model, rows = training._train(experiment, dataset, pixels, folder, torch.device("cpu"), looks=looks)
    return {name: value.clone() for name, value in model.state_dict().items()}, rows


def timeless(row):
    return {name: value for name, value in row.items() if name not in MEASURED}


def assert_same_weights(one, other):
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_logging_the_weighted_loss_changes_no_weight(dataset, pixels, tmp_path):
    runs = {on: trained_weights(tiny("pfsa", log_weighted_loss=on), dataset, pixels, tmp_path / str(on)) for on in (True, False)}
    (with_it, logged), (without, plain) = runs[True], runs[False]
    assert_same_weights(with_it, without)
    assert all(0 < row.pop("weighted_loss") < row["loss"] for row in logged)
    assert [timeless(row) for row in logged] == [timeless(row) for row in plain]
    columns = next(csv.reader((tmp_path / "True" / "curves.csv").open()))
    assert "weighted_loss" in columns


def test_the_logged_loss_is_the_sum_of_the_logged_terms(dataset, pixels):
    experiment = tiny("abdnet", steps_per_epoch=2)
    model = model_from_experiment(experiment, 6)
    row = training.train_epoch(experiment, model, make_optimizer(experiment, model), dataset, pixels, 1, torch.device("cpu"))
    terms = [row[name] for name in ("cross_entropy", "triplet", "orthogonal_features", "orthogonal_weights")]
    assert row["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert row["epoch"] == 2 and 0 <= row["accuracy"] <= 1


@pytest.mark.parametrize(
    ("method", "crop", "erase"), [("baseline", 0.5, 0.5), ("abdnet", 0.5, 0.5), ("gap", 0.0, 0.0), ("pfsa", 0.0, 0.0)]
)
def test_each_papers_augmentation_and_batches_reach_the_loop(dataset, pixels, monkeypatch, method, crop, erase):
    """The papers' own settings on a small network: crop, mirror and erasing of ABD-Net, the mirror alone of PFSA."""
    paper = experiment_for(method)
    assert (paper.batch_size, paper.images_per_identity) == {"abdnet": (64, 4), "baseline": (64, 0)}.get(method, (48, 0))
    kept = {name: getattr(paper, name) for name in ("crop_probability", "flip_probability", "erase_probability")}
    seen, real = [], epochs.draw_augmentation

    def draw(batch, height, width, generator, **chances):
        seen.append(((batch, height, width), chances))
        return real(batch, height, width, generator, **chances)

    monkeypatch.setattr(epochs, "draw_augmentation", draw)
    experiment = tiny(method, **kept)
    model = model_from_experiment(experiment, 6)
    training.train_epoch(experiment, model, make_optimizer(experiment, model), dataset, pixels, 0, torch.device("cpu"))
    assert seen == [((8, 96, 48), {"crop": crop, "flip": 0.5, "erase": erase})]


# ---------------------------------------------------------------------------------------------------- warm-up


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_compiled_run_is_the_same_run(dataset, pixels, tmp_path, monkeypatch):
    """The whole way of a compiled network through training, warm-up, penalties and weights. Graphs are run as captured: the
    code generator, which takes minutes and rounds elsewhere, is PyTorch's own matter."""
    compiled = []

    def captured(model):
        compiled.append(model)
        return compile_with(model, backend="eager")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", captured)
    settings = {"warmup_epochs": 1, "ow_reach": "backbone"}
    plain, plain_rows = trained_weights(tiny("abdnet", **settings), dataset, pixels, tmp_path / "plain")
    weights, rows = trained_weights(tiny("abdnet", compile=True, **settings), dataset, pixels, tmp_path / "compiled")
    assert len(compiled) == 1
    assert_same_weights(plain, weights)
    assert [timeless(row) for row in rows] == [timeless(row) for row in plain_rows]
    assert "orthogonal_features" in rows[-1]


@pytest.mark.parametrize(
    "method,settings",
    [
        ("abdnet", {"ow_reach": "backbone"}),
        ("abdnet", {"of_squared": True, "of_smaller_side": True, "eigenvalues": "norm_ratio", "power_steps": 2}),
        ("pfsa", {"log_weighted_loss": True}),
        ("pfsa+sa1", {"sa_normalization": "softmax"}),
    ],
)
def test_a_step_never_asks_the_device_for_a_number(method, settings, dataset, monkeypatch):
    """Forward, losses and backward on PyTorch's meta device: a number asked for, which a GPU would be waited for, raises, and so
    does an operation on tensors of two devices."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())  # which does not know the meta device
    experiment = tiny(method, **settings)
    model = model_from_experiment(experiment, 6).to(meta).train()
    target = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).to(meta)
    values = epochs.gradients_of(experiment, model, model, torch.empty(8, 3, 96, 48, device=meta), target, epoch=5)
    assert {value.device for value in values.values()} == {meta}
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        values["loss"].item()  # a wait is seen


@pytest.mark.parametrize("method", ["baseline+pam+cam", "pfsa"])
def test_warm_up_leaves_the_trunk_alone(dataset, pixels, method):
    experiment = tiny(method, warmup_epochs=1)
    model = model_from_experiment(experiment, 6)
    trunk_names = {
        name
        for name, module in model.named_modules()
        if any(module is part or module in list(part.modules()) for part in model.trunk_modules())
    }

    def in_trunk(key):
        return key.rpartition(".")[0] in trunk_names

    optimizer, before = make_optimizer(experiment, model), copied(model)
    training.train_epoch(experiment, model, optimizer, dataset, pixels, 0, torch.device("cpu"))
    warm = copied(model)
    trunk = [key for key in before if in_trunk(key)]
    assert any("running_mean" in key for key in trunk)
    assert [key for key in trunk if not torch.equal(before[key], warm[key])] == [], "weights and BN statistics stay"
    # every new parameter learns; only γ = 0 stops the gradient from reaching what lies behind it
    new = [key for key, _ in model.named_parameters() if not in_trunk(key)]
    still = [key for key in new if torch.equal(before[key], warm[key])]
    assert all(re.search(r"(query|key|value)\.(weight|bias)$", key) for key in still), still
    assert all(not torch.equal(before[key], warm[key]) for key in before if not in_trunk(key) and "running_mean" in key)

    training.train_epoch(experiment, model, optimizer, dataset, pixels, 1, torch.device("cpu"))
    after = copied(model)
    assert all(not torch.equal(warm[key], after[key]) for key in trunk if key.endswith(("conv1.weight", "running_mean")))


def test_the_shallow_attention_learns_across_the_frozen_trunk(dataset, pixels):
    experiment = tiny("baseline+cam", warmup_epochs=1)
    model = model_from_experiment(experiment, 6)
    training.train_epoch(experiment, model, make_optimizer(experiment, model), dataset, pixels, 0, torch.device("cpu"))
    assert model.shallow_cam.gamma.item() != 0


def test_the_optimizer_is_made_anew_after_the_warm_up(dataset, pixels, tmp_path, monkeypatch):
    made, used = [], []

    def make(experiment, model):
        made.append(make_optimizer(experiment, model))
        return made[-1]

    def epoch(experiment, model, optimizer, *rest, **keywords):
        used.append((optimizer, len(optimizer.state)))
        return real(experiment, model, optimizer, *rest, **keywords)

    real = training.train_epoch
    monkeypatch.setattr(training, "make_optimizer", make)
    monkeypatch.setattr(training, "train_epoch", epoch)
    experiment = tiny(warmup_epochs=2, epochs=2)
    training._train(experiment, dataset, pixels, tmp_path, torch.device("cpu"))
    assert len(made) == 2
    assert [optimizer is made[index] for (optimizer, _), index in zip(used, (0, 0, 1, 1), strict=True)] == [True] * 4
    assert [count > 0 for _, count in used] == [False, True, False, True], "no moments are carried over"


def test_the_schedule_does_not_advance_while_warming_up(dataset, pixels, tmp_path):
    experiment = tiny(warmup_epochs=2, epochs=2, milestones=(1,), learning_rate=1e-3)
    training._train(experiment, dataset, pixels, tmp_path, torch.device("cpu"))
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("smoke", "folder", tmp_path_factory.mktemp("results") / "smoke-folder")


@pytest.fixture(scope="module")
def run(study, dataset, cache):
    """One whole run of everything: all terms, a warm-up epoch."""
    torch.set_num_threads(1)
    return fit(tiny("abdnet", warmup_epochs=1), dataset, study.run("abdnet", 0), cache=cache, resamples=200)


@pytest.fixture(scope="module")
def reranked_run(study, dataset, cache):
    torch.set_num_threads(1)
    return fit(tiny("pfsa", flip_evaluation=False), dataset, study.run("pfsa", 0), cache=cache, resamples=200)


def test_a_run_leaves_its_files_and_nothing_else(run, reranked_run):
    for one in (run, reranked_run):
        assert sorted(path.name for path in one.folder.iterdir()) == FILES


def test_a_runs_files_agree_with_each_other(run, reranked_run, dataset):
    for one in (run, reranked_run):
        assert read_json(one.folder / "metrics.json") == json.loads(json.dumps(one.metrics))
        assert read_json(one.folder / "experiment.json") == {
            "experiment": one.experiment.as_dict(),
            "data": dataset.fingerprint,
            "code": code_digest("reidlib.training"),
        }
        assert one.queries["query"].tolist() == [path.name for path in dataset.query.paths]
        assert one.queries["identity"].tolist() == [11, 12, 13, 14]
        assert one.metrics["map"] == pytest.approx(one.queries["average_precision"].mean())
        assert one.metrics["rank1"] == pytest.approx((one.queries["first_match_rank"] == 1).mean())
        assert one.metrics["rank5"] == pytest.approx((one.queries["first_match_rank"] <= 5).mean())
        assert one.metrics["rank1"] <= one.metrics["rank5"] <= one.metrics["rank10"] == one.metrics["rank20"] == 1
        for key in ("rank1", "map"):
            low, high = one.metrics[f"{key}_interval"]
            assert low <= one.metrics[key] <= high
        again = scoring.rank(one.embeddings["query"], one.embeddings["gallery"], dataset)
        assert again.mean_ap == one.metrics["map"]
    assert list(run.curves["epoch"]) == [1, 2, 3]
    assert run.curves["orthogonal_weights"].isna().tolist() == [True, False, False]
    assert run.curves["orthogonal_features"].isna().tolist() == [True, True, False]
    assert run.metrics["images_seen"] == 3 * 1 * 8
    assert run.metrics["train_seconds"] == pytest.approx(run.curves["seconds"].sum())
    counts = [
        run.metrics[key] for key in ("train_identities", "train_images", "query_images", "gallery_images", "queries_scored")
    ]
    assert counts == [6, 24, 4, 12, 4]
    assert run.metrics["synthetic"] is False
    assert run.metrics["embedding_dim"] == run.embeddings["query"].shape[1] == 3 * 16
    assert run.metrics["parameters"] == sum(parameter.numel() for parameter in run.model().parameters())


def test_only_the_spatial_attention_runs_are_reranked(run, reranked_run, dataset):
    assert run.metrics["reranked"] is None
    again = scoring.rerank(reranked_run.embeddings["query"], reranked_run.embeddings["gallery"], dataset)
    assert reranked_run.metrics["reranked"]["map"] == again.mean_ap
    assert set(reranked_run.metrics["reranked"]) == {
        "rank1", "rank5", "rank10", "rank20", "map", "minp", "rank1_interval", "map_interval", "queries_scored",
    }  # fmt: skip


@pytest.mark.parametrize("which", ["run", "reranked_run"])
def test_the_stored_network_gives_the_stored_embeddings(which, request, dataset, cache):
    one = request.getfixturevalue(which)
    model = one.model()
    assert not model.training
    for name, split in (("query", dataset.query), ("gallery", dataset.gallery)):
        images = load_images(split.paths, 96, 48, cache=cache)
        again = embed(model, images, flip=one.experiment.flip_evaluation, precision="float32")
        np.testing.assert_array_equal(again, one.embeddings[name])
    other = embed(model, images, flip=not one.experiment.flip_evaluation, precision="float32")
    assert not np.allclose(other, again)
    batched = embed(model, images, flip=one.experiment.flip_evaluation, precision="float32", batch_size=5)
    np.testing.assert_allclose(batched, again, rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_returned_without_training(run, dataset, cache, monkeypatch):
    def train(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_train", train)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    again = fit(run.experiment, dataset, run.folder, cache=cache)
    assert again.metrics == json.loads(json.dumps(run.metrics))
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    with pytest.raises(AssertionError, match="trained again"):
        fit(run.experiment, dataset, run.folder.with_name("elsewhere"), cache=cache)


def test_metrics_are_written_last(dataset, cache, tmp_path, monkeypatch):
    """A run that dies while its metrics are written has everything else, is unfinished, and needs no more training."""

    def write_json(path, data):
        if path.name == "metrics.json":
            there.extend(sorted(file.name for file in path.parent.iterdir()))
            raise KeyboardInterrupt
        return real(path, data)

    there, real = [], training.write_json
    monkeypatch.setattr(training, "write_json", write_json)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(epochs=1), dataset, tmp_path / "run", cache=cache, resamples=200)
    assert set(there) == {*FILES, "checkpoint.pt"} - {"metrics.json"}
    monkeypatch.setattr(training, "write_json", real)
    monkeypatch.setattr(training, "train_epoch", None)  # calling it would raise
    fit(tiny(epochs=1), dataset, tmp_path / "run", cache=cache, resamples=200)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES


def assert_same_run(one: Path, other: Path):
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in (one, other))
    assert list(first) == list(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert (one / "queries.csv").read_bytes() == (other / "queries.csv").read_bytes()
    with np.load(one / "embeddings.npz") as first, np.load(other / "embeddings.npz") as second:
        for name in ("query", "gallery"):
            np.testing.assert_array_equal(first[name], second[name])
    rows = [[timeless(row) for row in csv.DictReader((folder / "curves.csv").open())] for folder in (one, other)]
    assert rows[0] == rows[1]
    kept = [timeless(read_json(folder / "metrics.json")) for folder in (one, other)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("stop_in", [1, 2, 3])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(run, dataset, cache, tmp_path, monkeypatch, stop_in):
    """Stopped within the warm-up, the first or the second epoch after it: bitwise the same weights, curves and metrics."""
    folder = tmp_path / "abdnet-seed0"
    calls = []

    def draw(*arguments, **chances):
        calls.append(len(calls))
        if len(calls) == stop_in:
            raise KeyboardInterrupt
        return real(*arguments, **chances)

    real = epochs.draw_augmentation
    monkeypatch.setattr(epochs, "draw_augmentation", draw)
    with pytest.raises(KeyboardInterrupt):
        fit(run.experiment, dataset, folder, cache=cache, resamples=200)
    assert not (folder / "metrics.json").exists()
    assert (folder / "checkpoint.pt").exists() == (stop_in > 1)
    torch.manual_seed(12345)  # whatever has been drawn meanwhile
    fit(run.experiment, dataset, folder, cache=cache, resamples=200)
    assert len(calls) == 3 + 1, "finished epochs are not repeated"
    assert_same_run(folder, run.folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_the_seed_changes_the_run_and_nothing_else_does(dataset, pixels, tmp_path):
    def weights(name, **settings):
        (tmp_path / name).mkdir()
        torch.manual_seed(len(name))
        model, _ = training._train(tiny(epochs=1, **settings), dataset, pixels, tmp_path / name, torch.device("cpu"))
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    first = weights("a")
    assert torch.equal(first, weights("bb"))
    assert not torch.equal(first, weights("ccc", seed=1))


# ---------------------------------------------------------------------------------------------------- looks at the test set


@pytest.mark.parametrize(
    ("every", "warmup", "epochs", "looked_at"),
    [(0, 0, 2, []), (1, 1, 2, [2, 3]), (2, 1, 5, [3, 5, 6]), (3, 2, 6, [5, 8]), (9, 1, 2, [3])],
)
def test_every_nth_epoch_and_the_last_are_looked_at(monkeypatch, dataset, tmp_path, every, warmup, epochs, looked_at):
    """Counted after the warm-up, in which nothing is looked at; the curves number epochs from 1 with the warm-up."""
    row = dict.fromkeys(("loss", "accuracy", "learning_rate", "images_per_second", "seconds"), 1.0)
    monkeypatch.setattr(training, "train_epoch", lambda *arguments, **_: {"epoch": arguments[5] + 1, **row})
    experiment = tiny(score_test_every=every, warmup_epochs=warmup, epochs=epochs)
    _, rows = trained_weights(experiment, dataset, None, tmp_path / "run", lambda model: {"test_rank1": 0.5, "test_map": 0.25})
    assert [row["epoch"] for row in rows if "test_rank1" in row] == looked_at
    assert len(rows) == warmup + epochs
    assert not list((tmp_path / "run").glob("best-*")), "kept only where it is to be reported"


def test_looking_at_the_test_set_changes_no_weight(dataset, cache, tmp_path):
    """Everything that draws numbers is on: dropout, augmentation, start vectors, a warm-up."""
    settings = {"warmup_epochs": 1, "epochs": 3}
    plain = fit(tiny("abdnet", **settings), dataset, tmp_path / "plain", cache=cache, resamples=200)
    looked = fit(tiny("abdnet", score_test_every=2, **settings), dataset, tmp_path / "looked", cache=cache, resamples=200)
    assert_same_weights(*(torch.load(run.folder / "model.pt", weights_only=True) for run in (plain, looked)))
    for name in ("query", "gallery"):
        np.testing.assert_array_equal(plain.embeddings[name], looked.embeddings[name])
    curves = looked.curves
    assert curves["test_rank1"].isna().tolist() == curves["test_map"].isna().tolist() == [True, True, False, False]
    last = curves.iloc[-1]
    assert (last["test_rank1"], last["test_map"]) == (looked.metrics["rank1"], looked.metrics["map"])
    assert looked.metrics["reported_epoch"] == plain.metrics["reported_epoch"] == 4
    best = max(curves["test_rank1"].dropna())
    first = int(curves[curves["test_rank1"] == best]["epoch"].iloc[0])
    stands_there = curves.set_index("epoch").loc[first]
    assert looked.metrics["best_on_test"] == {"epoch": first, "rank1": best, "map": stands_there["test_map"]}
    assert plain.metrics["best_on_test"] is None
    assert sorted(path.name for path in looked.folder.iterdir()) == FILES
    trained = [column for column in plain.curves if column not in MEASURED]
    assert plain.curves[trained].equals(curves[trained])


RANK1 = (0.25, 0.75, 0.75)  # after each of three epochs: the first best is not the last


def with_known_scores(monkeypatch):
    """Looks at the test set find RANK1 of the epoch that was just trained; → the weights seen at each look."""
    state = {"number": None, "seen": {}}
    epoch, embed_test_set, rank = training.train_epoch, training.embed_test_set, training.rank

    def counted(*arguments, **keywords):
        state["number"] = arguments[5]
        return epoch(*arguments, **keywords)

    def embedded(model, *arguments, **keywords):
        state["seen"].setdefault(state["number"], []).append(copied(model))
        return embed_test_set(model, *arguments, **keywords)

    def ranked(*arguments):
        found = rank(*arguments)
        cmc = np.full_like(found.cmc, RANK1[state["number"]])
        return replace(found, cmc=cmc)

    monkeypatch.setattr(training, "train_epoch", counted)
    monkeypatch.setattr(training, "embed_test_set", embedded)
    monkeypatch.setattr(training, "rank", ranked)
    return state["seen"]


@pytest.fixture(scope="module")
def best_run(study, dataset, cache):
    """A run that reports its second epoch of three."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        seen = with_known_scores(patch)
        experiment = tiny(epochs=3, score_test_every=1, report_epoch="best_on_test")
        best = fit(experiment, dataset, study.run("best", 0), cache=cache, resamples=200)
    return best, seen


def test_the_first_best_epoch_is_scored_where_asked_for(best_run, dataset, cache):
    best, seen = best_run
    assert best.metrics["reported_epoch"] == 2, "the first of two equal ones"
    assert best.metrics["best_on_test"] == {"epoch": 2, "rank1": 0.75, "map": best.curves["test_map"][1]}
    assert best.curves["test_rank1"].tolist() == list(RANK1)
    stored = torch.load(best.folder / "model.pt", weights_only=True)
    assert_same_weights(stored, seen[1][0])
    assert_same_weights(stored, seen[2][-1])  # what was embedded at the end
    assert not torch.equal(stored["stem.conv1.weight"], seen[2][0]["stem.conv1.weight"]), "the last epoch's are others"
    images = load_images(dataset.query.paths, 96, 48, cache=cache)
    np.testing.assert_array_equal(embed(best.model(), images, flip=True, precision="float32"), best.embeddings["query"])
    assert best.metrics["map"] == best.curves["test_map"][1] != best.curves["test_map"][2]
    assert sorted(path.name for path in best.folder.iterdir()) == FILES, "best-0002.pt is removed"


@pytest.mark.parametrize(
    ("number", "file"), [(0, "checkpoint.pt"), (1, "best-0002.pt"), (1, "checkpoint.pt"), (2, "metrics.json")]
)
def test_the_best_epoch_survives_an_interruption(best_run, dataset, cache, tmp_path, monkeypatch, number, file):
    """Stopped before `file` is written in that epoch: between best weights and checkpoint, among others, and at the very end."""
    best, _ = best_run
    seen, written = with_known_scores(monkeypatch), []

    def stopping(real):
        def write(path, *content):
            written.append(path.name)
            if path.name == file and len(written_of(path.name)) == 1 + (number if file == "checkpoint.pt" else 0):
                raise KeyboardInterrupt
            return real(path, *content)

        return write

    def written_of(name):
        return [one for one in written if one == name]

    folder = tmp_path / "best-seed0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_json", stopping(training.write_json))
        for module in (training, run_files):
            patch.setattr(module, "save", stopping(run_files.save))
        with pytest.raises(KeyboardInterrupt):
            fit(best.experiment, dataset, folder, cache=cache, resamples=200)
    assert max(seen) == number and not (folder / "metrics.json").exists()
    if (number, file) == (1, "checkpoint.pt"):
        ahead = torch.load(folder / "best-0002.pt", weights_only=True)
        assert_same_weights(ahead, seen[1][0])
        assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["rows"]) == 1, "the best weights are an epoch ahead"
    torch.manual_seed(54321)
    again = fit(best.experiment, dataset, folder, cache=cache, resamples=200)
    assert again.metrics["reported_epoch"] == 2
    assert_same_run(folder, best.folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES


# ---------------------------------------------------------------------------------------------------- other settings, faults


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_of_other_settings_is_set_aside_whole(dataset, cache, tmp_path, capsys):
    folder = tmp_path / "runs" / "baseline-seed0"
    fit(tiny(epochs=1), dataset, folder, cache=cache, resamples=200)
    first = snapshot(folder)
    capsys.readouterr()
    fit(tiny(epochs=1, dropout=0.25), dataset, folder, cache=cache, resamples=200)
    said = capsys.readouterr().out
    assert "dropout 0.5 → 0.25" in said and "baseline-seed0.superseded" in said and "epochs" not in said.splitlines()[0]
    assert snapshot(folder.with_name("baseline-seed0.superseded")) == first
    assert read_json(folder / "experiment.json")["experiment"]["dropout"] == 0.25


def test_a_run_set_aside_is_no_run_of_the_study(dataset, cache, tmp_path):
    """Its name sorts after the run that took its place, so tables would show the old numbers."""
    study = Study("smoke", "folder", tmp_path / "smoke-folder")
    for dropout in (0.5, 0.25):
        fit(tiny(epochs=1, dropout=dropout), dataset, study.run("baseline", 0), cache=cache, resamples=200)
    assert [(run.name, run.experiment.dropout) for run in finished_runs(study)] == [("baseline-seed0", 0.25)]


def put_a_run(folder: Path, experiment: Experiment, data: str, content: str):
    claim(folder, {"experiment": experiment.as_dict(), "data": data, "code": "c"})
    (folder / "metrics.json").write_text(content)


def test_setting_aside_twice_loses_nothing(tmp_path):
    folder = tmp_path / "baseline-seed0"
    for number in range(3):
        put_a_run(folder, tiny(epochs=number + 1), "data", json.dumps(number))
    kept = {(path / "metrics.json").read_text() for path in tmp_path.iterdir()}
    assert kept == {"0", "1", "2"}


def test_other_weights_under_the_same_path_are_another_run(dataset, cache, tmp_path, capsys):
    path = tmp_path / "resnet18.pth"
    folder = tmp_path / "baseline-seed0"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), path)
        fit(tiny(pretrained=str(path), epochs=1), dataset, folder, cache=cache, resamples=200)
    assert "other pretrained weights" in capsys.readouterr().out
    assert folder.with_name("baseline-seed0.superseded").is_dir()
    assert read_json(folder / "experiment.json")["pretrained"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for left in ("checkpoint.pt", "best-0001.pt", "model.pt.1.tmp"):  # a process killed just after metrics.json
        (folder / left).touch()
    fit(tiny(pretrained=str(path), epochs=1), dataset, folder, cache=cache, resamples=200)
    assert sorted(item.name for item in folder.iterdir()) == FILES


def test_other_images_are_other_data(tmp_path, capsys):
    folder = tmp_path / "baseline-seed0"
    put_a_run(folder, tiny(), "one", "{}")
    put_a_run(folder, tiny(), "one", "{}")
    assert not folder.with_name("baseline-seed0.superseded").exists()
    put_a_run(folder, tiny(), "other", "{}")
    assert "(other images)" in capsys.readouterr().out
    assert read_json(folder.with_name("baseline-seed0.superseded") / "experiment.json")["data"] == "one"


def test_nan_names_the_term_and_the_images(dataset, cache, tmp_path, monkeypatch):
    real = losses.batch_hard_triplet
    calls = []

    def triplet(*arguments, **keywords):
        calls.append(None)
        return real(*arguments, **keywords) * (math.nan if len(calls) > 3 else 1)  # three heads: from the second batch on

    monkeypatch.setattr(losses, "batch_hard_triplet", triplet)
    folder = tmp_path / "abdnet-seed0"
    with pytest.raises(DivergedError) as error:
        fit(tiny("abdnet", steps_per_epoch=2), dataset, folder, cache=cache)
    said = str(error.value)
    assert said.startswith("triplet became NaN or infinite in epoch 1, batch 2 (")
    assert "cross_entropy" not in said and "learning_rate" in said
    named = re.search(r"\((.*?)\)", said)[1].split(", ")
    assert len(named) == 8
    assert set(named) <= {path.name for path in dataset.train.paths}
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json"]


def test_broken_weights_are_found_when_embedding(dataset, cache):
    model = model_from_experiment(tiny(), 6)
    with torch.no_grad():
        model.global_branch.fc[0].bias[0] = math.nan
    with pytest.raises(training.ReidError, match="4 of 4 embeddings hold NaN"):
        embed(model, load_images(dataset.query.paths, 96, 48, cache=cache), flip=False)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    run_files.save(tmp_path / "checkpoint.pt", {"epoch": 1})

    def save(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space"):
        run_files.save(tmp_path / "checkpoint.pt", {"epoch": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True) == {"epoch": 1}


# ---------------------------------------------------------------------------------------------------- finding runs


def test_load_run(run, study, dataset):
    found = load_run(study, "abdnet", 0, dataset=dataset)
    assert found.experiment == run.experiment and found.folder == run.folder
    assert found.metrics == json.loads(json.dumps(run.metrics))


def test_a_run_of_other_data_is_stale(run, study, tmp_path):
    other = load_dataset("folder", make_noise_images(tmp_path / "other", seed=1, width=50))
    with pytest.raises(StaleRunError) as error:
        load_run(study, "abdnet", 0, dataset=other)
    for part in (str(run.folder), read_json(run.folder / "experiment.json")["data"], other.fingerprint, str(other.root)):
        assert part in str(error.value)
    parsed(str(error.value))


def parsed(message: str):
    """The command in a message, as run_all.py's parser reads it."""
    command = re.search(r"python (run_all\.py .*?)\.?$", message)[1]
    options = run_all.parse(shlex.split(command)[1:])
    choose("profile", options.profile, run_all.PROFILES)
    choose("data set", options.dataset, run_all.DATASETS)
    return options


@pytest.mark.parametrize("folder", ["results", "my results"])
def test_the_command_that_makes_a_missing_run_is_one(tmp_path, folder):
    study = Study("smoke", "synthetic", tmp_path / folder / "smoke-synthetic")
    with pytest.raises(MissingRunError) as error:
        load_run(study, "baseline+pam", 2)
    options = parsed(str(error.value))
    assert (options.profile, options.dataset, options.methods, options.seeds) == ("smoke", "synthetic", ["baseline+pam"], [2])
    assert Path(options.results) == study.root.parent
    chosen = run_all.select(run_all.steps(study, options.methods, options.seeds, "", {}, {}), options.only)
    assert [step.name for step in chosen] == ["10_train/baseline+pam-seed2"]


def test_an_unfinished_run_is_said_to_be_unfinished(tmp_path):
    study = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    study.run("gap", 0).mkdir(parents=True)
    with pytest.raises(MissingRunError, match="is unfinished"):
        load_run(study, "gap")


def test_reference_points(dataset, cache):
    experiment = tiny()
    frame = scoring.reference_points(experiment, dataset, cache=cache, resamples=200)
    assert frame["method"].tolist() == ["colour histogram", "untrained network"]
    assert ((frame["map_low"] <= frame["map"]) & (frame["map"] <= frame["map_high"])).all()
    again = scoring.reference_points(replace(experiment, pretrained=True), dataset, cache=cache, resamples=200)
    assert again.equals(frame), "random weights, whatever the experiment starts from"
