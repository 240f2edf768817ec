"""Small runs for the tests of training: settings, training without scores, and bitwise comparisons."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import torch

from reidlib.config import PROFILES, experiment_for
from reidlib.datasets import DATASETS
from reidlib.experiment import Experiment
from reidlib.files import read_json
from reidlib.settings import choose
from reidlib.study import command_line
from reidlib.training.loop import Training, environment, train
from reidlib.training.run_folder import RunFolder

TINY = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16,
    "embedding_dim": 16, "head_dim": 16, "feature_dim": 16, "batch_size": 8, "steps_per_epoch": 1,
    "epochs": 2, "warmup_epochs": 0, "precision": "float32", "learning_rate": 1e-3, "optimizer": "adam",
    "trunk_rate": 1.0, "of_start_epoch": 1, "bootstrap_resamples": 200,
}  # fmt: skip
MEASURED = ("seconds", "images_per_second", "memory_mb", "train_seconds", "score_seconds")
FILES = [
    "curves.csv", "digests.json", "embeddings.npz", "metrics.json", "model.pt", "queries.csv", "scores.json",
    "training.json", "weights.json",
]  # fmt: skip
CPU = torch.device("cpu")


def tiny(method="baseline", **settings) -> Experiment:
    return experiment_for(method, dataset="folder", **{**TINY, **settings})


def trained(experiment, dataset, folder, cache, scorer=None):
    """Trains without scoring, as `fit` starts it. Returns the network and the rows of curves.csv."""
    folder.mkdir(exist_ok=True)
    training = Training(
        experiment=experiment,
        dataset=dataset,
        folder=RunFolder(folder),
        cache=cache,
        record={},
        environment=environment(experiment, CPU),
        scorer=scorer or (lambda *arguments: {}),
    )
    return train(training, CPU)


def copied(model):
    """A copy of a network's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def timeless(row):
    return {name: value for name, value in row.items() if name not in MEASURED}


def assert_same_weights(one, other):
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_same_run(one: Path, other: Path):
    """Two runs' folders hold bitwise equal weights, scores, embeddings, curves and metrics."""
    assert_same_weights(*(torch.load(folder / "model.pt", weights_only=True) for folder in (one, other)))
    assert (one / "queries.csv").read_bytes() == (other / "queries.csv").read_bytes()
    with np.load(one / "embeddings.npz") as first, np.load(other / "embeddings.npz") as second:
        for name in ("query", "gallery"):
            np.testing.assert_array_equal(first[name], second[name])
    rows = [
        [timeless(row) for row in csv.DictReader((folder / "curves.csv").open())] for folder in (one, other)
    ]
    assert rows[0] == rows[1]
    kept = [timeless(read_json(folder / "metrics.json")) for folder in (one, other)]
    assert kept[0] == kept[1]


def parsed_command(message: str):
    """The command in a message, as run_all.py's parser reads it."""
    command = re.search(r"python (run_all\.py .*?)\.?$", message)[1]
    options = command_line.parse(shlex.split(command)[1:])
    choose("profile", options.profile, PROFILES)
    choose("data set", options.dataset, DATASETS)
    return options
