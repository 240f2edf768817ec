"""Whole runs on a tiny folder of images: their files, interruptions, scores between epochs, and errors."""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import torchvision
from conftest import make_noise_images, one_thread_on_the_cpu
from made_up_runs import fabricate
from run_helpers import (
    FILES,
    MEASURED,
    assert_same_run,
    assert_same_weights,
    copied,
    names,
    parsed_command,
    tiny,
    trained,
)  # fmt: skip

import run_all
from reidlib import losses
from reidlib.code_digest import digest_of_code
from reidlib.datasets import load_dataset
from reidlib.errors import ReidError
from reidlib.evaluation import ranking, scoring
from reidlib.evaluation.embedding import embed
from reidlib.evaluation.measures import COLUMNS, measure
from reidlib.experiment import Experiment, ScoringSettings, TrainingSettings
from reidlib.files import FileError, read_json, write_json
from reidlib.images.decoding import load_images
from reidlib.models.networks import model_from_experiment
from reidlib.run import StaleRunError, read_run
from reidlib.show import tables
from reidlib.study.command_line import Request
from reidlib.study.results import MissingRunError, Study
from reidlib.study.runs import finished_runs, load_run
from reidlib.study.steps import select
from reidlib.torch_files import CheckpointError
from reidlib.training import DivergedError, epoch, fit, fitting, loop, run_folder
from reidlib.training.loop import initial_model
from reidlib.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("steady")


# ------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("smoke", "folder", tmp_path_factory.mktemp("results") / "smoke-folder")


@pytest.fixture(scope="module")
def run(study, dataset, cache):
    """A whole run with all loss terms and a warm-up epoch."""
    with one_thread_on_the_cpu():
        return fit(tiny("abdnet", warmup_epochs=1), dataset, study.run("abdnet", 0), cache=cache)


@pytest.fixture(scope="module")
def reranked_run(study, dataset, cache):
    with one_thread_on_the_cpu():
        return fit(tiny("pfsa", flip_evaluation=False), dataset, study.run("pfsa", 0), cache=cache)


def test_a_run_leaves_its_files_and_nothing_else(run, reranked_run):
    for one in (run, reranked_run):
        assert names(one.folder) == FILES


def test_a_runs_files_agree_with_each_other(run, reranked_run, dataset):
    for one in (run, reranked_run):
        assert read_json(one.folder / "metrics.json") == json.loads(json.dumps(one.metrics))
        weights, scores = (read_json(one.folder / f"{record}.json") for record in ("weights", "scores"))
        assert weights["labels"] == {"method": one.method, "dataset": "folder", "profile": "paper"}
        assert weights["housekeeping"] == {
            "keep_every": 0,
            "tensorboard": False,
            "measure_every": 1,
        }
        assert weights["made_from"] == {
            "settings": one.experiment.group(TrainingSettings),
            "data": dataset.fingerprints["training"],
            "code": digest_of_code("reidlib.training.loop"),
        }
        assert scores["made_from"] == {
            "settings": one.experiment.group(ScoringSettings),
            "data": dataset.fingerprints["test"],
            "code": digest_of_code("reidlib.evaluation.scoring"),
            "embedding_code": digest_of_code("reidlib.evaluation.embedding"),
            "measures_code": digest_of_code("reidlib.evaluation.measures"),
        }
        assert one.queries["query"].tolist() == [path.name for path in dataset.query.paths]
        assert one.queries["identity"].tolist() == [11, 12, 13, 14]
        assert one.metrics["map"] == pytest.approx(one.queries["average_precision"].mean())
        assert one.metrics["rank1"] == pytest.approx((one.queries["first_match_rank"] == 1).mean())
        assert one.metrics["rank5"] == pytest.approx((one.queries["first_match_rank"] <= 5).mean())
        assert (
            one.metrics["rank1"]
            <= one.metrics["rank5"]
            <= one.metrics["rank10"]
            == one.metrics["rank20"]
            == 1
        )
        for column in COLUMNS:
            assert one.metrics[column] == pytest.approx(one.queries[column].mean())
        for key in ("rank1", "map"):
            low, high = one.metrics[f"{key}_interval"]
            assert low <= one.metrics[key] <= high
        again = ranking.rank(one.embeddings["query"], one.embeddings["gallery"], dataset)
        assert again.mean_ap == one.metrics["map"]
    assert list(run.curves["epoch"]) == [1, 2, 3]
    assert run.curves["orthogonal_weights"].isna().tolist() == [True, False, False]
    assert run.curves["orthogonal_features"].isna().tolist() == [True, True, False]
    assert run.metrics["images_seen"] == 3 * 1 * 8
    assert run.metrics["train_seconds"] == pytest.approx(run.curves["seconds"].sum())
    counts = [
        run.metrics[key]
        for key in ("train_identities", "train_images", "query_images", "gallery_images", "queries_scored")
    ]
    assert counts == [6, 24, 4, 12, 4]
    # two steps on noise teach nothing; 3 and 10 heads of 6 people, joined by mean and sum
    for one, divisor in ((run, 1), (reranked_run, 10)):
        last = one.curves["cross_entropy"].iloc[-1] / divisor
        assert one.metrics["last_cross_entropy"] == pytest.approx(last)
        assert one.metrics["guess_cross_entropy"] == pytest.approx(np.log(6), rel=0.02)
        assert one.learned is False
    assert run.metrics["synthetic"] is False
    assert run.metrics["embedding_dim"] == run.embeddings["query"].shape[1] == 3 * 16
    assert run.metrics["parameters"] == sum(parameter.numel() for parameter in run.model().parameters())


def test_only_the_spatial_attention_runs_are_reranked(run, reranked_run, dataset):
    assert run.metrics["reranked"] is None
    again = scoring.rerank(reranked_run.embeddings["query"], reranked_run.embeddings["gallery"], dataset)
    assert reranked_run.metrics["reranked"]["map"] == again.mean_ap
    assert set(reranked_run.metrics["reranked"]) == {
        "rank1", "rank5", "rank10", "rank20", "map", "minp", "rank1_interval", "map_interval",
        "queries_scored",
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
    def again(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(fitting, "train", again)
    monkeypatch.setattr(fitting, "score", again)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    same = fit(run.experiment, dataset, run.folder, cache=cache)
    assert same.metrics == json.loads(json.dumps(run.metrics))
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    with pytest.raises(AssertionError, match="done again"):
        fit(run.experiment, dataset, run.folder.with_name("elsewhere"), cache=cache)


@pytest.mark.parametrize(("last", "missing"), [("metrics.json", {"metrics.json"}), ("training.json", None)])
def test_the_files_that_mark_a_complete_run_are_written_last(
    dataset, cache, tmp_path, monkeypatch, last, missing
):
    """A run that is stopped before training.json or metrics.json is written needs no more training."""
    missing = missing or {"training.json", "scores.json", "metrics.json", "embeddings.npz", "queries.csv"}

    def write_json(path, data):
        if path.name == last:
            there.extend(names(path.parent))
            raise KeyboardInterrupt
        return real(path, data)

    there, real = [], run_folder.write_json
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_json", write_json)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(epochs=1), dataset, tmp_path / "run", cache=cache)
    assert set(there) == {*FILES, "checkpoint.pt"} - missing
    monkeypatch.setattr(loop, "train_epoch", None)  # calling it would raise
    fit(tiny(epochs=1), dataset, tmp_path / "run", cache=cache)
    assert names(tmp_path / "run") == FILES


@pytest.mark.parametrize("stop_in", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_results(run, dataset, cache, tmp_path, monkeypatch, stop_in):
    """Stopped in the warm-up, or in the first or second epoch after it: results are the same to the bit."""
    folder = tmp_path / "abdnet-seed0"
    calls = []

    def draw(*arguments, **chances):
        calls.append(len(calls))
        if len(calls) == stop_in:
            raise KeyboardInterrupt
        return real(*arguments, **chances)

    real = epoch.draw_augmentation
    monkeypatch.setattr(epoch, "draw_augmentation", draw)
    with pytest.raises(KeyboardInterrupt):
        fit(run.experiment, dataset, folder, cache=cache)
    assert not (folder / "metrics.json").exists()
    assert (folder / "checkpoint.pt").exists() == (stop_in > 1)
    torch.manual_seed(12345)  # the global random state must not matter
    fit(run.experiment, dataset, folder, cache=cache)
    assert len(calls) == 3 + 1, "finished epochs are not repeated"
    assert_same_run(folder, run.folder)
    assert names(folder) == FILES


def test_weights_depend_on_the_seed_and_on_no_other_random_state(dataset, cache, tmp_path):
    def weights(name, **settings):
        torch.manual_seed(len(name))
        model, _ = trained(tiny(epochs=1, **settings), dataset, tmp_path / name, cache)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    first = weights("a")
    assert torch.equal(first, weights("bb"))
    assert not torch.equal(first, weights("ccc", seed=1))


# -------------------------------------------------------------------------------------- scores between epochs


@pytest.mark.parametrize(
    ("every", "warmup", "epochs", "scored"),
    [(0, 0, 2, []), (1, 1, 2, [2, 3]), (2, 1, 5, [3, 5, 6]), (3, 2, 6, [5, 8]), (9, 1, 2, [3])],
)
def test_every_nth_epoch_and_the_last_are_scored(
    monkeypatch, dataset, cache, tmp_path, every, warmup, epochs, scored
):
    """Every n-th is counted after the warm-up, which is not scored; the curves count from 1 with it."""
    row = dict.fromkeys(("loss", "accuracy", "learning_rate", "images_per_second", "seconds"), 1.0)
    monkeypatch.setattr(loop, "train_epoch", lambda *arguments: {"epoch": arguments[3] + 1, **row})
    experiment = tiny(score_test_every=every, warmup_epochs=warmup, epochs=epochs)
    asked = []

    def scorer(model, data, name, device):
        asked.append((data is dataset, name))
        return {f"{name}_rank1": 0.5, f"{name}_map": 0.25}

    _, rows = trained(experiment, dataset, tmp_path / "run", cache, scorer)
    assert [row["epoch"] for row in rows if "test_rank1" in row] == scored
    assert asked == [(True, "test")] * len(scored)
    assert len(rows) == warmup + epochs
    assert not list((tmp_path / "run").glob("best-*")), "kept only where it is to be reported"


def test_scoring_and_measuring_between_epochs_change_no_weight(dataset, cache, tmp_path):
    """All random draws are on: dropout, augmentation, start vectors, a warm-up."""
    settings = {"warmup_epochs": 1, "epochs": 3}
    plain = fit(tiny("abdnet", **settings), dataset, tmp_path / "plain", cache=cache)
    often = {"score_test_every": 2, "measure_every": 0, **settings}
    scored = fit(tiny("abdnet", **often), dataset, tmp_path / "scored", cache=cache)
    assert_same_weights(*(torch.load(run.folder / "model.pt", weights_only=True) for run in (plain, scored)))
    for name in ("query", "gallery"):
        np.testing.assert_array_equal(plain.embeddings[name], scored.embeddings[name])
    curves = scored.curves
    assert (
        curves["test_rank1"].isna().tolist()
        == curves["test_map"].isna().tolist()
        == [True, True, False, False]
    )
    last = curves.iloc[-1]
    assert (last["test_rank1"], last["test_map"]) == (scored.metrics["rank1"], scored.metrics["map"])
    assert scored.metrics["reported_epoch"] == plain.metrics["reported_epoch"] == 4
    best = max(curves["test_rank1"].dropna())
    first = int(curves[curves["test_rank1"] == best]["epoch"].iloc[0])
    stands_there = curves.set_index("epoch").loc[first]
    assert scored.metrics["best_on_test"] == {"epoch": first, "rank1": best, "map": stands_there["test_map"]}
    assert plain.metrics["best_on_test"] is None
    assert names(scored.folder) == FILES
    trained = [column for column in plain.curves if column not in (*MEASURED, *COLUMNS)]
    assert plain.curves[trained].equals(curves[trained])
    for column in COLUMNS:
        assert plain.curves[column].isna().tolist() == [True, False, False, False], "not after the warm-up"
        assert curves[column].isna().tolist() == [True, True, True, False], "after the last epoch"
        assert plain.curves[column].iloc[-1] == curves[column].iloc[-1]


def test_features_are_measured_on_one_image_of_each_training_person(run, dataset, cache):
    first = np.unique(dataset.train.ids, return_index=True)[1]
    size = (run.experiment.height, run.experiment.width)
    images = load_images([dataset.train.paths[index] for index in first], *size, cache=cache)
    expected = measure(run.model(), images).mean()
    assert run.curves[[*COLUMNS]].iloc[-1].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


RANK1 = (0.25, 0.75, 0.75)  # after each of three epochs: the first best is not the last epoch


def with_known_scores(monkeypatch):
    """Makes scores between epochs return RANK1 of the epoch.

    Returns:
        Epoch → the weights at each scoring, the last one included.
    """
    state = {"number": None, "seen": {}}
    real_epoch, real_scores, real_embed = loop.train_epoch, fitting.split_scores, fitting.embed_test_set

    def counted(learner, dataset, images, number):
        state["number"] = number
        return real_epoch(learner, dataset, images, number)

    def seen(model):
        state["seen"].setdefault(state["number"], []).append(copied(model))

    def scored(model, *arguments, **keywords):
        seen(model)
        return {**real_scores(model, *arguments, **keywords), "rank1": RANK1[state["number"]]}

    def embedded(model, *arguments, **keywords):
        seen(model)
        return real_embed(model, *arguments, **keywords)

    monkeypatch.setattr(loop, "train_epoch", counted)
    monkeypatch.setattr(fitting, "split_scores", scored)
    monkeypatch.setattr(fitting, "embed_test_set", embedded)
    return state["seen"]


@pytest.fixture(scope="module")
def best_run(study, dataset, cache):
    """A run that reports the second of its three epochs, and the weights at each scoring."""
    with one_thread_on_the_cpu(), pytest.MonkeyPatch.context() as patch:
        seen = with_known_scores(patch)
        experiment = tiny(epochs=3, score_test_every=1, report_epoch="best_on_test")
        best = fit(experiment, dataset, study.run("best", 0), cache=cache)
    return best, seen


def test_the_first_best_epoch_is_scored_if_asked_for(best_run, dataset, cache):
    best, seen = best_run
    assert best.metrics["reported_epoch"] == 2, "the first of two equal ones"
    # pandas before 4 may read a number with another last digit
    in_curves = pytest.approx(best.curves["test_map"][1], rel=1e-12)
    assert best.metrics["best_on_test"] == {"epoch": 2, "rank1": 0.75, "map": in_curves}
    assert best.curves["test_rank1"].tolist() == list(RANK1)
    stored = torch.load(best.folder / "model.pt", weights_only=True)
    assert_same_weights(stored, seen[1][0])
    assert_same_weights(stored, seen[2][-1])  # embedded at the end
    assert not torch.equal(stored["stem.conv1.weight"], seen[2][0]["stem.conv1.weight"]), (
        "the last epoch's are others"
    )
    images = load_images(dataset.query.paths, 96, 48, cache=cache)
    np.testing.assert_array_equal(
        embed(best.model(), images, flip=True, precision="float32"), best.embeddings["query"]
    )
    assert best.metrics["map"] == in_curves and best.metrics["map"] != best.curves["test_map"][2]
    assert names(best.folder) == FILES, "best-0002.pt is removed"


@pytest.mark.parametrize(
    ("number", "file"), [(0, "checkpoint.pt"), (1, "best-0002.pt"), (1, "checkpoint.pt"), (2, "metrics.json")]
)
def test_the_best_epoch_survives_an_interruption(
    best_run, dataset, cache, tmp_path, monkeypatch, number, file
):
    """Stopped before `file` is written in an epoch, for example between best weights and checkpoint."""
    best, _ = best_run
    seen, written = with_known_scores(monkeypatch), []

    def stopping(real):
        def write(path, *content):
            written.append(path.name)
            if path.name == file and written.count(file) == 1 + (number if file == "checkpoint.pt" else 0):
                raise KeyboardInterrupt
            return real(path, *content)

        return write

    folder = tmp_path / "best-seed0"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_json", "save"):
            patch.setattr(run_folder, name, stopping(getattr(run_folder, name)))
        with pytest.raises(KeyboardInterrupt):
            fit(best.experiment, dataset, folder, cache=cache)
    assert max(seen) == number and not (folder / "metrics.json").exists()
    if (number, file) == (1, "checkpoint.pt"):
        ahead = torch.load(folder / "best-0002.pt", weights_only=True)
        assert_same_weights(ahead, seen[1][0])
        assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["rows"]) == 1, (
            "the best weights are an epoch ahead"
        )
    torch.manual_seed(54321)
    again = fit(best.experiment, dataset, folder, cache=cache)
    assert again.metrics["reported_epoch"] == 2
    assert_same_run(folder, best.folder)
    assert names(folder) == FILES


# ------------------------------------------------------------------------------------- other settings, faults


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_of_other_settings_is_set_aside_whole(dataset, cache, tmp_path, capsys):
    folder = tmp_path / "runs" / "baseline-seed0"
    fit(tiny(epochs=1), dataset, folder, cache=cache)
    first = snapshot(folder)
    capsys.readouterr()
    fit(tiny(epochs=1, dropout=0.25), dataset, folder, cache=cache)
    said = capsys.readouterr().out
    assert (
        "dropout 0.5 → 0.25" in said
        and "baseline-seed0.superseded" in said
        and "epochs" not in said.splitlines()[0]
    )
    assert snapshot(folder.with_name("baseline-seed0.superseded")) == first
    assert read_json(folder / "weights.json")["made_from"]["settings"]["dropout"] == 0.25


def test_a_run_that_was_set_aside_is_not_listed(dataset, cache, tmp_path):
    """Otherwise tables would show the old numbers, because its name sorts after the new run's."""
    study = Study("smoke", "folder", tmp_path / "smoke-folder")
    for dropout in (0.5, 0.25):
        fit(tiny(epochs=1, dropout=dropout), dataset, study.run("baseline", 0), cache=cache)
    assert [(run.name, run.experiment.dropout) for run in finished_runs(study)] == [("baseline-seed0", 0.25)]


def put_a_run(folder: Path, experiment: Experiment, data: str, content: str):
    RunFolder(folder).claim(
        experiment, {"settings": experiment.group(TrainingSettings), "data": data, "code": "c"}
    )
    (folder / "metrics.json").write_text(content)


def test_setting_aside_twice_loses_nothing(tmp_path):
    folder = tmp_path / "baseline-seed0"
    for number in range(3):
        put_a_run(folder, tiny(epochs=number + 1), "data", json.dumps(number))
    kept = {(path / "metrics.json").read_text() for path in tmp_path.iterdir()}
    assert kept == {"0", "1", "2"}


def test_other_pretrained_weights_under_the_same_path_make_another_run(dataset, cache, tmp_path, capsys):
    path = tmp_path / "resnet18.pth"
    folder = tmp_path / "baseline-seed0"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), path)
        fit(tiny(pretrained=str(path), epochs=1), dataset, folder, cache=cache)
    assert "other pretrained weights" in capsys.readouterr().out
    assert folder.with_name("baseline-seed0.superseded").is_dir()
    assert (
        read_json(folder / "weights.json")["made_from"]["pretrained"]
        == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    # As if the process had been killed just after metrics.json.
    for left in ("checkpoint.pt", "best-0001.pt", "model.pt.1.tmp"):
        (folder / left).touch()
    fit(tiny(pretrained=str(path), epochs=1), dataset, folder, cache=cache)
    assert names(folder) == FILES


def test_the_same_pretrained_weights_at_another_path_make_the_same_run(
    dataset, cache, tmp_path, monkeypatch, capsys
):
    first, second = tmp_path / "resnet18.pth", tmp_path / "elsewhere.pth"
    torch.save(torchvision.models.resnet18().state_dict(), first)
    folder = tmp_path / "baseline-seed0"
    fit(tiny(pretrained=str(first), epochs=1), dataset, folder, cache=cache)
    first.rename(second)
    monkeypatch.setattr(loop, "train_epoch", None)  # calling it would raise
    again = fit(tiny(pretrained=str(second), epochs=1), dataset, folder, cache=cache)
    assert again.experiment.pretrained == str(second) and "superseded" not in capsys.readouterr().out
    assert read_json(folder / "weights.json")["made_from"]["settings"]["pretrained"] == str(second)


# ------------------------------------------------------------------- training on from a whole network's file


@pytest.fixture
def released_file(tmp_path):
    """A file like the projects' released weights, of nine people."""
    torch.manual_seed(3)
    network = model_from_experiment(tiny(classes=9), 0)
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": network.state_dict(), "epoch": 60}, path)
    return path, network.state_dict()


def test_a_run_starts_from_a_file(dataset, cache, tmp_path, released_file):
    """PFSA's --resume and ABD-Net's --load-weights: a learning rate of almost 0 leaves the file's weights."""
    path, state = released_file
    people = dataset.num_train_identities
    start = {"start_from": str(path), "start_classifiers": False, "pretrained": True}  # no download
    first = initial_model(tiny(**start), people).state_dict()
    for name, value in first.items():
        if "classifier" in name:
            assert value.shape[0] == people
        else:
            assert torch.equal(value, state[name])
    experiment = tiny(**start, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    run = fit(experiment, dataset, tmp_path / "baseline-seed0", cache=cache)
    trained = dict(run.model().named_parameters())
    moved = max((trained[name] - state[name]).abs().max().item() for name in trained if "class" not in name)
    assert moved < 1e-9
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.made_from["weights"]["start_from"] == digest
    assert run.metrics["started_from"] == {"file": "model.pth.tar", "sha256": digest}
    assert f"went on from model.pth.tar (SHA-256 {digest})" in tables.weights_sentence(run)


def test_a_file_of_other_people_is_refused_before_anything_is_written(
    dataset, cache, tmp_path, released_file
):
    folder = tmp_path / "baseline-seed0"
    with pytest.raises(CheckpointError, match=r"\(9, 16\) instead of .* set start_classifiers = False"):
        fit(tiny(start_from=str(released_file[0])), dataset, folder, cache=cache)
    assert not folder.exists() or names(folder) == []


def test_another_file_to_start_from_makes_another_run(dataset, cache, tmp_path, released_file, capsys):
    path, state = released_file
    start = {"start_from": str(path), "start_classifiers": False, "epochs": 1}
    folder = tmp_path / "baseline-seed0"
    fit(tiny(**start), dataset, folder, cache=cache)
    torch.save({"state_dict": {name: value + 0 for name, value in state.items()}, "epoch": 61}, path)
    fit(tiny(**start), dataset, folder, cache=cache)
    assert "other weights to start from" in capsys.readouterr().out


def test_other_images_make_another_run(tmp_path, capsys):
    folder = tmp_path / "baseline-seed0"
    put_a_run(folder, tiny(), "one", "{}")
    put_a_run(folder, tiny(), "one", "{}")
    assert not folder.with_name("baseline-seed0.superseded").exists()
    put_a_run(folder, tiny(), "other", "{}")
    assert "(other images)" in capsys.readouterr().out
    assert (
        read_json(folder.with_name("baseline-seed0.superseded") / "weights.json")["made_from"]["data"]
        == "one"
    )


def test_nan_names_the_term_and_the_images(dataset, cache, tmp_path, monkeypatch):
    real = losses.batch_hard_triplet
    calls = []

    def triplet(*arguments, **keywords):
        calls.append(None)
        # There are three heads, so NaN starts in the second batch.
        return real(*arguments, **keywords) * (math.nan if len(calls) > 3 else 1)

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
    assert names(folder) == ["weights.json"]


def test_broken_weights_are_found_when_embedding(dataset, cache):
    model = model_from_experiment(tiny(), 6)
    with torch.no_grad():
        model.global_branch.fc[0].bias[0] = math.nan
    with pytest.raises(ReidError, match="4 of 4 embeddings hold NaN"):
        embed(model, load_images(dataset.query.paths, 96, 48, cache=cache), flip=False)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    run_folder.save(tmp_path / "checkpoint.pt", {"epoch": 1})

    def save(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(FileError, match=r"checkpoint\.pt cannot be written \(No space"):
        run_folder.save(tmp_path / "checkpoint.pt", {"epoch": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True) == {"epoch": 1}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", '{"made_from": ', '{"made_from": {"settings": []}}']
)
def test_a_damaged_record_counts_as_none(content, tmp_path, capsys):
    """What it was about is made again; the folder of a run that says nothing of itself is kept aside."""
    experiment = Experiment()
    record = {"settings": {"epochs": 2}, "data": "d", "code": "c"}
    scores = {"settings": {"flip_evaluation": True}, "data": "d", "code": "c", "embedding_code": "e"}
    files = run_folder.RunFolder(tmp_path / "run")
    files.claim(experiment, record)
    files.model.write_bytes(b"weights")
    write_json(files.training, {"parameters": 1})
    arrays = {"query": np.zeros((1, 2)), "gallery": np.zeros((1, 2))}
    files.write_scores(scores, arrays, pandas.DataFrame({"query": ["x"]}), {"map": 0.5})
    assert files.has_weights(record) and files.has_scores(scores) and files.embeddings_for(scores)

    def damaged(path, sound):
        whole = path.read_text()
        assert sound()
        path.write_text(content)
        assert not sound()
        path.write_text(whole)

    damaged(files.training, lambda: files.has_weights(record))
    damaged(files.weights_record, lambda: files.has_weights(record))
    damaged(files.metrics, lambda: files.has_scores(scores))
    damaged(files.scores_record, lambda: files.has_scores(scores))
    damaged(files.scores_record, lambda: files.embeddings_for(scores) is not None)
    files.weights_record.write_text(content)
    capsys.readouterr()
    files.claim(experiment, record)
    assert (
        "run was made differently (weights.json is damaged): kept as run.superseded"
        in capsys.readouterr().out
    )
    assert files.folder.with_name("run.superseded").is_dir() and not files.model.exists()


@pytest.mark.parametrize("name", ["metrics", "weights_record", "scores_record"])
@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "{"])
def test_a_finished_run_with_a_damaged_file_is_named(name, content, tmp_path):
    run = fabricate(Study("paper", "market1501", tmp_path), "gap")
    getattr(run.files, name).write_text(content)
    with pytest.raises(ReidError, match="gap-seed0") as error:
        read_run(run.folder)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------- finding runs


def test_load_run(run, study, dataset):
    found = load_run(study, "abdnet", 0, dataset=dataset)
    assert found.experiment == run.experiment and found.folder == run.folder
    assert found.metrics == json.loads(json.dumps(run.metrics))


def test_a_run_of_other_data_is_stale(run, study, tmp_path):
    other = load_dataset("folder", make_noise_images(tmp_path / "other", seed=1, width=50))
    with pytest.raises(StaleRunError) as error:
        load_run(study, "abdnet", 0, dataset=other)
    for part in (str(run.folder), str(other.root)):
        assert part in str(error.value)
    parsed_command(str(error.value))


@pytest.mark.parametrize("folder", ["results", "my results"])
def test_the_command_for_a_missing_run_is_valid(tmp_path, folder):
    study = Study("smoke", "synthetic", tmp_path / folder / "smoke-synthetic")
    with pytest.raises(MissingRunError) as error:
        load_run(study, "baseline+pam", 2)
    options = parsed_command(str(error.value))
    assert (options.profile, options.dataset, options.methods, options.seeds) == (
        "smoke",
        "synthetic",
        ["baseline+pam"],
        [2],
    )
    assert Path(options.results) == study.root.parent
    request = Request(study, tuple(options.methods), tuple(options.seeds))
    chosen = select(run_all.steps(request), options.only)
    assert [step.name for step in chosen] == ["10_train/baseline+pam-seed2"]


def test_an_unfinished_run_is_said_to_be_unfinished(tmp_path):
    study = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    study.run("gap", 0).mkdir(parents=True)
    with pytest.raises(MissingRunError, match="is unfinished"):
        load_run(study, "gap")
