"""Reference scores without learning: a colour histogram, and a network with random weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.embedding import embed_test_set
from reidlib.evaluation.ranking import rank
from reidlib.evaluation.scoring import summary
from reidlib.experiment import Experiment
from reidlib.images.decoding import open_rgb
from reidlib.models.networks import model_from_experiment
from reidlib.progress import track_progress
from reidlib.statistics import interval_columns


def reference_points(experiment: Experiment, dataset: ReidDataset, *, cache: Path) -> pd.DataFrame:
    """Scores of a colour histogram and of the experiment's network with random weights.

    Returns:
        One row each: method, rank1, rank1_low, rank1_high, rank5, map, map_low, map_high, minp (fractions;
        NaN bounds: no interval).
    """
    torch.manual_seed(experiment.seed)
    untrained = model_from_experiment(replace(experiment, pretrained=False), dataset.num_train_identities)
    splits = {"query": dataset.query, "gallery": dataset.gallery}
    embeddings = {
        "colour histogram": {
            name: colour_histogram_embeddings(split.paths) for name, split in splits.items()
        },
        "untrained network": embed_test_set(untrained, experiment, dataset, cache=cache),
    }
    rows = []
    for method, of in embeddings.items():
        metrics = summary(
            rank(of["query"], of["gallery"], dataset), dataset, resamples=experiment.bootstrap_resamples
        )
        bounds = {}
        for key in ("rank1", "map"):
            bounds |= interval_columns(key, metrics[f"{key}_interval"])
        rows.append(
            {"method": method, **{key: metrics[key] for key in ("rank1", "rank5", "map", "minp")}, **bounds}
        )
    return pd.DataFrame(rows)


def colour_histogram_embeddings(paths: Sequence[str | Path], bins: int = 8) -> np.ndarray:
    """The joint RGB histogram of each whole image, as an embedding without learning.

    Returns:
        (N, bins³) float32: the square root of each bin's share of the pixels, so that rows have length 1.

    Raises:
        EvaluationError: `bins` is not from 2 to 32.
        UnreadableImageError: an image cannot be read; the message names it.
    """
    if not 2 <= bins <= 32:
        raise EvaluationError(f"bins={bins} per colour channel must lie from 2 to 32.")
    histograms = np.empty((len(paths), bins**3), dtype=np.float32)
    with track_progress(len(paths), "colour histograms", "image") as bar:
        for i, path in enumerate(paths):
            histograms[i] = _histogram(Path(path), bins)
            bar.update(1)
    return histograms


def _histogram(path: Path, bins: int) -> np.ndarray:
    level = np.asarray(open_rgb(path), dtype=np.int64).reshape(-1, 3) * bins // 256
    counts = np.bincount(level @ np.array([bins * bins, bins, 1]), minlength=bins**3)
    return np.sqrt(counts / len(level))
