"""A run scored on another data set, and on its own."""

import shutil

import numpy as np
import pytest
import torch
from conftest import make_noise_images, one_thread_on_the_cpu

from reidlib.config import experiment_for
from reidlib.datasets import load_dataset
from reidlib.evaluation import transfer
from reidlib.evaluation.embedding import embed_test_set
from reidlib.evaluation.ranking import rank
from reidlib.evaluation.transfer import transfer_queries
from reidlib.files import FileError, file_digest, write_json
from reidlib.run import read_run
from reidlib.training import fit

pytestmark = pytest.mark.usefixtures("steady")
SMALL = {
    "pretrained": False, "backbone": "resnet18", "height": 64, "width": 32, "reduced_dim": 16,
    "embedding_dim": 16, "head_dim": 16, "batch_size": 8, "steps_per_epoch": 1, "epochs": 1,
    "warmup_epochs": 0, "precision": "float32", "bootstrap_resamples": 200,
}  # fmt: skip
SCORES = ["identity", "first_match_rank", "average_precision"]


@pytest.fixture(scope="module")
def run(dataset, cache, tmp_path_factory):
    experiment = experiment_for("baseline", dataset="folder", **SMALL)
    with one_thread_on_the_cpu():
        return fit(experiment, dataset, tmp_path_factory.mktemp("runs") / "baseline-seed0", cache=cache)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return load_dataset("folder", make_noise_images(tmp_path_factory.mktemp("data") / "other", seed=1))


@pytest.fixture
def no_embedding(monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("nothing is to be embedded")

    return lambda: monkeypatch.setattr(transfer, "embed_test_set", refused)


def test_on_its_own_test_set_a_run_has_its_own_scores(run, dataset, tmp_path):
    found = transfer_queries(run, dataset, cache=tmp_path)
    np.testing.assert_array_equal(found[SCORES], run.queries[SCORES])


def test_on_another_set_the_runs_network_ranks_its_images(run, other, tmp_path):
    found = transfer_queries(run, other, cache=tmp_path)
    embedded = embed_test_set(run.model(), run.experiment, other, cache=tmp_path, keep=False)
    ranked = rank(embedded["query"], embedded["gallery"], other)
    assert found["identity"].tolist() == other.query.ids.tolist()
    np.testing.assert_allclose(found["average_precision"], ranked.average_precision)
    np.testing.assert_array_equal(found["first_match_rank"], ranked.first_match_rank)


def test_scores_are_kept_for_these_weights_and_images_only(run, dataset, other, tmp_path, no_embedding):
    first = transfer_queries(run, other, cache=tmp_path)
    no_embedding()
    assert transfer_queries(run, other, cache=tmp_path).equals(first)
    with pytest.raises(AssertionError):
        transfer_queries(run, dataset, cache=tmp_path)
    again = read_run(shutil.copytree(run.folder, tmp_path / "baseline-seed0"))
    assert transfer_queries(again, other, cache=tmp_path).equals(first), "wherever the run lies"
    weights = {name: value * 2 for name, value in run.model().state_dict().items()}
    torch.save(weights, again.files.model)
    write_json(again.files.digests, {"model.pt": file_digest(again.files.model)})
    with pytest.raises(AssertionError):
        transfer_queries(again, other, cache=tmp_path)


def test_what_is_damaged_is_scored_again(run, other, tmp_path):
    first = transfer_queries(run, other, cache=tmp_path)
    (kept,) = (tmp_path / "transfer").glob("*.npy")
    content = kept.read_bytes()
    kept.write_bytes(content[:-8] + b"\0" * 8)
    assert transfer_queries(run, other, cache=tmp_path).equals(first)
    assert kept.read_bytes() == content


def test_weights_that_are_not_the_runs_give_no_scores(run, other, tmp_path):
    content = run.files.model.read_bytes()
    try:
        run.files.model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(FileError, match=r"model\.pt is damaged or was changed"):
            transfer_queries(run, other, cache=tmp_path)
    finally:
        run.files.model.write_bytes(content)
