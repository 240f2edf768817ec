"""Classification with spatial attention: the network, the images, the runs, the tables and the figure."""

import hashlib
import json
import pickle
import shutil
import tarfile
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_thread_on_the_cpu
from torchvision.datasets import CIFAR100

from reidlib.classification import pooling_runs
from reidlib.classification.labelled_images import (
    ClassificationError,
    LabelledImages,
    load_labelled_images,
    sample_sheet,
)
from reidlib.classification.pooling_runs import (
    POOLINGS,
    SIZES,
    ClassificationRun,
    Settings,
    fit_poolings,
    make_model,
    predict,
    settings_for,
    training_batches,
)
from reidlib.config import PROFILES
from reidlib.errors import ReidError
from reidlib.models.cifar_resnet import Block, CifarResNet
from reidlib.settings import ConfigError
from reidlib.show import figures
from reidlib.show.classification_tables import (
    classification_caveats,
    curves_frame,
    mechanism_table,
    pooling_effects_table,
    takeaway,
)
from reidlib.show.paired import PairingError
from reidlib.training.schedule import cosine_with_rise

ATTENTIONS = ("none", "uniform", "sum", "softmax")
TINY = Settings(depth=8, epochs=2, batch_size=8, learning_rate=0.05, seeds=(0, 1))


@pytest.fixture(scope="module", autouse=True)  # per module, because `trained` is
def steady():
    with one_thread_on_the_cpu():
        yield


def noise(count=20, side=8, channels=1, *, shift=1, mirror=False, seed=0) -> LabelledImages:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, count, side, side, channels), dtype=np.uint8)
    labels = np.arange(2 * count).reshape(2, count) % 4
    return LabelledImages(
        "noise", images[0], labels[0], images[1], labels[1], ("a", "b", "c", "d"), shift, mirror
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the tiny runs, and the runs."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, fit_poolings(noise(), TINY, folder)


# ---------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("depth", "channels", "size"), [(8, 1, (16, 16)), (14, 3, (32, 32)), (8, 3, (13, 9))]
)
def test_network_gives_finite_logits_and_gradients(attention, depth, channels, size):
    model = CifarResNet(7, depth=depth, channels=channels, spatial_attention=attention)
    images = torch.randn(3, channels, *size)
    logits = model(images)
    assert logits.shape == (3, 7) and logits.isfinite().all()
    feature_map = model.feature_map(images)
    assert feature_map.shape == (3, 64, -(-size[0] // 4), -(-size[1] // 4)) and (feature_map >= 0).all()
    torch.testing.assert_close(model.attention(feature_map).sum((2, 3)), torch.ones(3, 1))
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.7)])
def test_parameters_are_those_of_the_paper(depth, millions):
    """He et al., Table 6, for ten classes; the exact count of depth 20 is worked out by hand."""
    count = sum(parameter.numel() for parameter in CifarResNet(10, depth=depth).parameters())
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions
    if depth == 20:
        stages = 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864
        assert count == 432 + stages + 2 * (16 + 6 * 16 + 6 * 32 + 6 * 64) + 650


def test_the_number_of_weighted_layers_is_the_depth():
    layers = [
        module
        for module in CifarResNet(10, depth=26).modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert len(layers) == 26


def test_shortcut_takes_every_second_pixel_and_zeros_for_new_channels():
    block = Block(1, 2, stride=2)
    torch.nn.init.zeros_(block.norm2.weight)  # only the shortcut is left
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert block(x).tolist() == [[[[0, 2], [8, 10]], [[0, 0], [0, 0]]]]


@pytest.mark.parametrize(
    ("attention", "expected"),
    # One channel with the values 0, 0, 0, 4. none: their mean, 1. The attentions weight the places before the
    # mean. uniform: weights 1/4. sum: weight 1 on the value 4, so 4 · 1 / 4.
    [("none", 1.0), ("uniform", 0.25), ("sum", 1.0), ("softmax", 4 * np.exp(4) / (3 + np.exp(4)) / 4)],
)
def test_pooling_by_hand(attention, expected):
    model = CifarResNet(2, depth=8, spatial_attention=attention)
    pooled = model.pooled(torch.tensor([[[[0.0, 0.0], [0.0, 4.0]]]]))
    assert pooled.item() == pytest.approx(expected)


@pytest.mark.parametrize("attention", ["uniform", "sum", "softmax"])
def test_attention_on_a_constant_map_is_gap_divided_by_the_number_of_places(attention):
    gap, other = (CifarResNet(2, depth=8, spatial_attention=name) for name in ("none", attention))
    feature_map = torch.rand(2, 64, 1, 1).expand(-1, -1, 4, 3)
    torch.testing.assert_close(other.pooled(feature_map), gap.pooled(feature_map) / 12)


@pytest.mark.parametrize(
    ("settings", "named"), [({"depth": 10}, "depth is 10"), ({"spatial_attention": "sa1"}, "'sa1'")]
)
def test_network_refuses_what_it_does_not_know(settings, named):
    with pytest.raises(ReidError, match=named):
        CifarResNet(10, **settings)


# --------------------------------------------------------------------------------------------------- settings


def test_every_profile_has_its_size():
    assert set(SIZES) == set(PROFILES)
    assert settings_for("demo", epochs=3, seeds=[4]) == replace(SIZES["demo"], epochs=3, seeds=(4,))
    assert (SIZES["paper"].epochs, len(SIZES["paper"].seeds), SIZES["paper"].at_most) == (200, 5, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth", 9),
        ("depth", 8.0),
        ("epochs", 0),
        ("epochs", True),
        ("batch_size", 1),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("momentum", 1),
        ("weight_decay", -1),
        ("seeds", ()),
        ("seeds", (1, 1)),
        ("seeds", 3),
        ("at_most", -1),
        ("seeds", ("a",)),
    ],
)
def test_settings_refuse_impossible_values(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} = "):
        settings_for("demo", **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("depth", 9, "6n + 2 (8, 14, 20, …, 56, …, 110)"),
        ("depth", 8.0, "a whole number, got float"),
        ("momentum", 1, "a value between 0 and 1"),
        ("seeds", (1, 1), "different whole numbers, 0 or more"),
        ("seeds", 3, "different whole numbers, 0 or more, got int"),
    ],
)
def test_refusals_say_what_is_expected(setting, value, expected):
    with pytest.raises(ConfigError) as caught:
        settings_for("demo", **{setting: value})
    assert str(caught.value) == f"{setting} = {value!r}: expected {expected}."


def test_settings_name_the_nearest_known():
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        settings_for("demo", epoch=3)


def test_learning_rate_rises_and_falls(trained):
    rates = [round(0.1 * cosine_with_rise(epoch, 20), 6) for epoch in (0, 1, 2, 11, 20)]
    assert rates == [0.01, 0.055, 0.1, 0.05, 0.0]
    assert 0.1 * cosine_with_rise(0.2, 1) == pytest.approx(0.1)
    for run in trained[1]:
        expected = [0.05 * cosine_with_rise(epoch, 2) for epoch in (0, 1)]
        assert run.curves["learning_rate"].tolist() == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------- images


def test_digits_are_always_split_the_same_way():
    digits = load_labelled_images("digits")
    assert digits.train_images.shape == (1198, 16, 16, 1) and digits.test_images.shape == (599, 16, 16, 1)
    assert digits.train_images.dtype == np.uint8
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    shares = [np.bincount(labels) / len(labels) for labels in (digits.train_labels, digits.test_labels)]
    np.testing.assert_allclose(*shares, atol=0.002)  # stratified
    assert digits.fingerprint == load_labelled_images("digits").fingerprint
    assert not digits.mirror and digits.shift == 1
    few = load_labelled_images("digits", at_most=50)
    assert len(few.train_labels) == len(few.test_labels) == 50 and "first 50 of 1198" in few.notes[-1]
    assert few.fingerprint != digits.fingerprint
    with pytest.raises(ConfigError, match="digits, cifar100"):
        load_labelled_images("cifar")


def fake_cifar100(folder: Path, monkeypatch, train=12, test=6) -> LabelledImages:
    """Writes small files in CIFAR-100's format and replaces torchvision's MD5 sums by theirs."""
    inside, rng = folder / CIFAR100.base_folder, np.random.default_rng(0)
    inside.mkdir(parents=True)
    entries = {
        name: {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [number % 5 for number in range(count)],
            "coarse_labels": [0] * count,
        }
        for name, count in (("train", train), ("test", test))
    }
    entries["meta"] = {
        "fine_label_names": ["apple", "aquarium_fish", "baby", "bear", "beaver"],
        "coarse_label_names": ["x"],
    }
    sums = {}
    for name, entry in entries.items():
        (inside / name).write_bytes(pickle.dumps(entry))
        sums[name] = hashlib.md5((inside / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return entries


def no_network(monkeypatch, error=None):
    def refuse(*arguments, **keywords):
        raise error or urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("named", [".", CIFAR100.base_folder])
def test_cifar100_is_read_from_its_files(tmp_path, monkeypatch, named):
    entries = fake_cifar100(tmp_path, monkeypatch)
    no_network(monkeypatch)  # nothing is downloaded where the files are
    data = load_labelled_images("cifar100", tmp_path / named)
    assert data.train_images.shape == (12, 32, 32, 3) and data.test_images.shape == (6, 32, 32, 3)
    assert data.train_labels.tolist() == entries["train"]["fine_labels"]
    assert data.class_names[1] == "aquarium_fish"
    red, green, blue = entries["test"]["data"][3].reshape(3, 32, 32)  # as the format has them
    assert (data.test_images[3] == np.stack([red, green, blue], axis=2)).all()
    assert data.mirror and data.shift == 4
    rows, names = sample_sheet(data)
    assert [len(row) for row in rows] == [5, 5] and rows[0][0].shape == (32, 32, 3)
    assert names[1] == "aquarium\nfish"


@pytest.mark.parametrize("damage", ["test", "meta"])
def test_cifar100_is_extracted_from_the_archive_beside_it(tmp_path, monkeypatch, damage):
    fake_cifar100(tmp_path, monkeypatch)
    archive = tmp_path / CIFAR100.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / CIFAR100.base_folder, CIFAR100.base_folder)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    (tmp_path / CIFAR100.base_folder / damage).write_bytes(b"half a fi")
    no_network(monkeypatch)
    assert len(load_labelled_images("cifar100", tmp_path).test_labels) == 6


@pytest.mark.parametrize("error", [None, TimeoutError("timed out"), ConnectionResetError("reset by peer")])
def test_without_internet_one_message_says_what_to_download(tmp_path, monkeypatch, error):
    no_network(monkeypatch, error)
    folder = tmp_path / "new"
    with pytest.raises(ClassificationError) as caught:
        load_labelled_images("cifar100", folder)
    message = str(caught.value)
    for part in (str(folder), CIFAR100.url, CIFAR100.tgz_md5, CIFAR100.filename, "images_root", "digits"):
        assert part in message
    assert "\n" not in message and (str(error) if error else "unreachable") in message
    assert caught.value.__suppress_context__


# ---------------------------------------------------------------------------------------------------- batches


def test_batches_are_a_function_of_seed_and_epoch():
    data = noise(shift=2, mirror=True)
    same, again, next_epoch, other_seed = (
        list(training_batches(data, TINY, *which)) for which in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert [len(labels) for _, labels in same] == [8, 8]  # the incomplete last one of 20 is dropped
    for (images, labels), (images2, labels2) in zip(same, again, strict=True):
        assert (images == images2).all() and (labels == labels2).all()
    assert (same[0][0] != next_epoch[0][0]).any() and (same[0][0] != other_seed[0][0]).any()


@pytest.mark.parametrize("mirror", [False, True])
def test_every_training_image_is_shifted_independently(mirror):
    data = noise(count=64, side=4, channels=3, shift=1, mirror=mirror)
    data = replace(data, train_labels=np.arange(64))  # a label names its image
    seen = set()
    (images, labels), *_ = training_batches(data, replace(TINY, batch_size=64), 0, 0)
    assert sorted(labels) == list(range(64))
    for image, label in zip(images, labels, strict=True):
        padded = np.pad(data.train_images[label], ((1, 1), (1, 1), (0, 0)))
        fits = [
            (top, left, flipped)
            for top in range(3)
            for left in range(3)
            for flipped in (False, True)
            if (padded[top : top + 4, left : left + 4][:, :: -1 if flipped else 1] == image).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert {flipped for *_, flipped in seen} == ({False, True} if mirror else {False})
    assert len({place[:2] for place in seen}) == 9


def test_too_few_images_for_a_batch_are_refused(tmp_path):
    with pytest.raises(ClassificationError, match="20 training images do not fill one batch of 32"):
        fit_poolings(noise(), replace(TINY, batch_size=32), tmp_path)


@pytest.fixture
def seen(monkeypatch) -> list[tuple[bool, torch.Tensor]]:
    """Every call of a network: whether in training, and the images."""
    given, forward = [], CifarResNet.forward

    def spy(model, images):
        given.append((model.training, images))
        return forward(model, images)

    monkeypatch.setattr(CifarResNet, "forward", spy)
    return given


def test_all_poolings_start_from_the_same_weights_and_see_the_same_images(seen, tmp_path):
    data = noise()
    states = [make_model(data, TINY, pooling, 3).state_dict() for pooling in POOLINGS]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    fit_poolings(data, replace(TINY, seeds=(0,)), tmp_path)
    sums = [(in_training, images.sum().item()) for in_training, images in seen]
    runs = np.array(sums).reshape(len(POOLINGS), -1, 2)
    assert runs.shape[1] == 6 and (runs == runs[0]).all()  # two epochs of 2 training and 1 test batch


def test_images_are_normalised_by_the_training_images(seen):
    data = noise(channels=3)

    def given(images) -> torch.Tensor:
        """What a network gets for these test images; the training images stay the same."""
        seen.clear()
        tested = replace(data, test_images=images)
        predict(make_model(tested, TINY, "gap", 0), tested)
        return torch.cat([batch for _, batch in seen])

    x = given(data.train_images)
    assert x.shape == (20, 3, 8, 8)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    darker = given(data.train_images // 2)
    assert (darker.mean((0, 2, 3)) < -0.5).all(), "by the training images, not by themselves"
    data = replace(data, train_images=np.full_like(data.train_images, 7))
    assert given(data.train_images).abs().max() == 0


def test_training_batches_are_normalised_as_test_images_are(seen, tmp_path):
    data = replace(noise(shift=0), test_images=noise(shift=0).train_images)
    fit_poolings(data, replace(TINY, batch_size=20, epochs=1, seeds=(0,)), tmp_path)
    (in_training, batch), (in_test, images) = seen[:2]
    assert in_training and not in_test
    sums = [sorted(part.sum((1, 2, 3)).tolist()) for part in (batch, images)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-4)


# ------------------------------------------------------------------------------------------------------- runs


def records(folder: Path) -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_runs_are_complete(trained):
    folder, runs = trained
    wanted = [(pooling, seed) for seed in (0, 1) for pooling in POOLINGS]
    assert [(run.pooling, run.seed) for run in runs] == wanted
    assert list(records(folder)) == sorted(f"{pooling}-seed{seed}.json" for pooling, seed in wanted)
    for run in runs:
        assert run.curves["epoch"].tolist() == [1, 2] and np.isfinite(run.curves.to_numpy()).all()
        assert run.correct.shape == (20,) and run.correct.dtype == bool
        assert run.curves["test_accuracy"].iloc[-1] == run.correct.mean()
    before = {run.pooling: run.facts["before"] for run in runs if run.seed == 0}
    length = before["gap"]["pooled_length"]
    assert before["gap-short"]["pooled_length"] == pytest.approx(length / 4)  # 2 × 2 places
    assert before["gap"]["largest_share"] == 0.25 < before["gap+sa-sum"]["largest_share"]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(trained, tmp_path):
    fit_poolings(noise(), replace(TINY, seeds=(1,)), tmp_path)
    first, again = records(trained[0]), records(tmp_path)
    assert len(again) == len(POOLINGS)
    for name in again:
        for part in ("weights", "correct"):
            assert again[name][part] == first[name][part]
    assert len({first[name]["weights"] for name in first}) == len(first)


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, int]]:
    """Pooling and seed of every network that is made."""
    networks, make = [], pooling_runs.make_model

    def spy(data, settings, pooling, seed):
        networks.append((pooling, seed))
        return make(data, settings, pooling, seed)

    monkeypatch.setattr(pooling_runs, "make_model", spy)
    return networks


def test_finished_runs_are_read_not_repeated(trained, made):
    folder, runs = trained
    again = fit_poolings(noise(), TINY, folder)
    assert made == []
    for run, other in zip(runs, again, strict=True):
        pd.testing.assert_frame_equal(run.curves, other.curves)
        assert (run.correct == other.correct).all() and run.facts == other.facts


@pytest.mark.parametrize(
    "change", ["settings", "images", "code", "{}", "[]", '{"made_from"', "correct", "curves", "facts"]
)
def test_a_run_made_differently_is_set_aside_and_made_again(tmp_path, monkeypatch, made, change, capsys):
    data, settings = noise(), replace(TINY, epochs=1, seeds=(0,))
    fit_poolings(data, settings, tmp_path)
    (tmp_path / "gap-seed0.json").unlink()  # as after an interruption: only this run is missing
    made.clear()
    fit_poolings(data, settings, tmp_path)
    assert made == [("gap", 0)] and not list(tmp_path.glob("*.superseded"))
    if change == "settings":
        settings = replace(settings, learning_rate=0.01)
    elif change == "images":
        data = noise(seed=1)
    elif change == "code":
        monkeypatch.setattr(pooling_runs, "digest_of_code", lambda module: "another version")
    else:  # damaged, or all but one part of it
        for path in tmp_path.glob("*.json"):
            record = json.loads(path.read_text())
            path.write_text(json.dumps({**record, change: []}) if change in record else change)
    made.clear()
    fit_poolings(data, settings, tmp_path)
    assert made == [(pooling, 0) for pooling in POOLINGS]
    assert len(list(tmp_path.glob("*.json.superseded"))) == len(POOLINGS)
    assert "gap-seed0.json was made of other settings, images or code" in capsys.readouterr().out


def test_adding_a_seed_keeps_the_finished_runs(trained, tmp_path, made):
    folder = shutil.copytree(trained[0], tmp_path / "runs")
    before = records(folder)
    runs = fit_poolings(noise(), replace(TINY, seeds=(0, 1, 5)), folder)
    assert made == [(pooling, 5) for pooling in POOLINGS]
    assert [run.seed for run in runs] == [seed for seed in (0, 1, 5) for _ in POOLINGS]
    after = records(folder)
    assert len(after) == len(before) + len(POOLINGS)
    assert {name: after[name] for name in before} == before


def test_a_run_that_diverges_says_where_and_leaves_no_file(tmp_path):
    with pytest.raises(
        ClassificationError,
        match=r"GAP, seed 0, epoch \d+, batch \d+: the loss became NaN.*Lower learning_rate",
    ):
        fit_poolings(noise(), replace(TINY, learning_rate=1e6, epochs=4), tmp_path)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- tables


def made_up(pooling: str, seed: int, correct: list[int], length: float = 1.0) -> ClassificationRun:
    curves = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2.0 + seed, 1.0], "test_accuracy": [0.1, np.mean(correct)]}
    )
    facts = {moment: {"pooled_length": length, "largest_share": 0.25} for moment in ("before", "after")}
    return ClassificationRun(pooling, seed, curves, np.array(correct, bool), facts)


def runs_by_hand(seeds=(0, 1), count=40) -> list[ClassificationRun]:
    """GAP and the control have image 0 wrong, the softmax another image, the sum one half of the images."""
    ones = [1] * count
    right = {
        "gap": [0, *ones[1:]],
        "gap-short": [0, *ones[1:]],
        "gap+sa-sum": [0] * (count // 2) + ones[count // 2 :],
        "gap+sa-softmax": [*ones[1:], 0],
    }
    return [
        made_up(pooling, seed, right[pooling], 0.1 if "sa" in pooling else 1.0)
        for seed in seeds
        for pooling in POOLINGS
    ]


def test_table_by_hand():
    table = pooling_effects_table(runs_by_hand(), "digits")
    assert table["pooling"].tolist() == [title for title, _ in POOLINGS.values()]
    assert (table["seeds"] == 2).all()
    accuracy = table["accuracy (%) [95 %, seeds]"].tolist()
    assert accuracy[::2] == ["97.5 ± 0.0 [97.5, 97.5]", "50.0 ± 0.0 [50.0, 50.0]"]
    change, verdict = table["− GAP [95 %]"], table["verdict"]
    assert change[0] == verdict[0] == "–"
    assert change[1] == "+0.0 [+0.0, +0.0]" and verdict[1] == "smaller than 1 point"
    assert table["p (Holm)"][1] == "1.000"
    # The seeds agree, so the images alone vary: 19 of 40 become wrong, t(39) · √(0.475 · 0.525 / 39) = 16.2.
    assert (change[2], verdict[2]) == ("-47.5 [-63.7, -31.3]", "differs")
    # One image becomes right and another one wrong: t(39) · √(2 / 40 / 39) = 7.2.
    assert (change[3], verdict[3]) == ("+0.0 [-7.2, +7.2]", "cannot tell")
    assert set(table["paper"]) == {"–"}
    assert set(pooling_effects_table(runs_by_hand(), "cifar100")["paper"]) == {"not recovered"}


def test_no_difference_if_the_seeds_disagree():
    """GAP is 25 points better on average. By seed it is 0, 50, 25: over seeds alone 25 ± 62.1."""
    runs = [run for run in runs_by_hand((0, 1, 2)) if run.pooling != "gap+sa-sum"]
    for seed, wrong in enumerate((1, 21, 11)):
        runs.append(made_up("gap+sa-sum", seed, [0] * wrong + [1] * (40 - wrong)))
    row = pooling_effects_table(runs, "digits").iloc[2]
    low, high = (
        float(bound) for bound in row["− GAP [95 %]"].removeprefix("-25.0 [").rstrip("]").split(", ")
    )
    assert low == pytest.approx(-87.1, abs=3) and high == pytest.approx(37.1, abs=3)
    assert float(row["p (Holm)"]) > 0.05 and row["verdict"] == "cannot tell"
    assert row["accuracy (%) [95 %, seeds]"] == "72.5 ± 25.0 [10.4, 100.0]"  # the interval ends at 100 %


def test_seeds_are_paired_whatever_the_order_and_count_once():
    """GAP has 30 and 20 of 40 right, the sum 10 points less with each seed: their orders differ here."""
    by_pooling = {"gap": (30, 20), "gap-short": (30, 20), "gap+sa-softmax": (30, 20), "gap+sa-sum": (26, 16)}
    runs = [
        made_up(pooling, seed, [1] * right + [0] * (40 - right))
        for pooling, counts in by_pooling.items()
        for seed, right in enumerate(counts)
    ]
    expected = pooling_effects_table(runs, "digits")
    assert expected["− GAP [95 %]"][2].startswith("-10.0 [")
    shuffled = sorted(runs, key=lambda run: (run.pooling, run.seed if run.pooling == "gap" else -run.seed))
    pd.testing.assert_frame_equal(pooling_effects_table([*shuffled, *runs], "digits"), expected)
    alone = [run for run in runs if run.seed == 0]
    assert pooling_effects_table([*alone, *alone], "digits")["verdict"][2] == "one seed: no verdict"
    with pytest.raises(PairingError, match="have the seed 0: gap-seed0 and gap-seed0"):
        pooling_effects_table([*runs, made_up("gap", 0, [1] * 40)], "digits")


def test_one_seed_is_not_judged():
    table = pooling_effects_table(runs_by_hand((0,)), "digits")
    assert table["verdict"].tolist() == ["–", *["one seed: no verdict"] * 3]
    assert table["− GAP [95 %]"][1] == "+0.0, over images [+0.0, +0.0]"
    assert table["− GAP [95 %]"][2].startswith("-47.5, over images [-6")
    assert set(table["p (Holm)"]) == {"–"}
    assert table["accuracy (%) [95 %, seeds]"][0] == "97.5"


def test_sentences_follow_from_the_numbers():
    runs, data = runs_by_hand(), replace(noise(count=40), name="digits")
    mechanism = mechanism_table(runs)
    assert mechanism["loss in the first epoch"].tolist() == [2.5] * 4
    assert mechanism["loss in the last epoch"].tolist() == [1.0] * 4
    text = takeaway(runs, pooling_effects_table(runs, "digits"), "demo", data)
    assert "(40 test images, seeds: 2) GAP reaches 97.5 %" in text
    assert "50.0 % (-47.5 points, differs)" in text
    assert "10 and 10 times shorter" in text and "no effect" in text and "smoke" not in text
    cifar = takeaway(runs, pooling_effects_table(runs, "cifar100"), "smoke", replace(data, name="cifar100"))
    assert "no effect" not in cifar and cifar.endswith("A smoke run means nothing.")
    assert any("no effect" in sentence for sentence in classification_caveats("demo", data))
    assert not any(
        "no effect" in sentence for sentence in classification_caveats("demo", replace(data, name="cifar100"))
    )


def test_figure_shows_every_pooling(trained):
    figure = figures.classification_curves(curves_frame(trained[1]), "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        title for title, _ in POOLINGS.values()
    ]
    assert len(figure.axes) == 3
    figures.plt.close(figure)
