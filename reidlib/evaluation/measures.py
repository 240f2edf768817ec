"""The measures of `diversity` for a run: of every query's last map, and of the weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reidlib.datasets.types import ReidDataset
from reidlib.devices import autocast, best_device
from reidlib.evaluation.diversity import (
    activation,
    channel_correlation,
    effective_area,
    require_finite,
    spectrum_measures,
    weight_spectra,
)
from reidlib.experiment import Experiment
from reidlib.images.decoding import load_images
from reidlib.images.normalisation import normalise
from reidlib.progress import track_progress

if TYPE_CHECKING:
    from reidlib.models.backbone import ReidNetwork

COLUMNS = ("channel_correlation", "effective_area", "effective_rank", "condition_number")  # of queries.csv
WEIGHTS = "weight_spectra"  # entry of metrics.json
DECIMALS = 6
TRAINING_PEOPLE = 32  # whose images are measured between epochs
MOST_QUERIES = 2000  # that are measured: the first ones; the rest would cost much and tell little


@dataclass(frozen=True, eq=False)
class Measures:
    """What a run keeps.

    Attributes:
        queries: one row per query, with `COLUMNS`; NaN from query `MOST_QUERIES` on.
        weights: means over the backbone's convolutions, and the values of the stem.
    """

    queries: pd.DataFrame
    weights: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Entries of metrics.json: means over queries that have a value, the number measured, the weights."""
        return {
            **{name: float(self.queries[name].mean()) for name in COLUMNS},
            "queries_measured": min(len(self.queries), MOST_QUERIES),
            WEIGHTS: self.weights,
        }


def measure_run(
    model: "ReidNetwork",
    experiment: Experiment,
    dataset: ReidDataset,
    *,
    cache: Path,
    device: torch.device | None = None,
) -> Measures:
    """Measures a run's network on the data set's queries, at most the first `MOST_QUERIES`.

    It always computes in float32 and takes images as they are, without the mirror image: the measures of a
    network do not depend on how it is scored.

    Raises:
        ImageError: an image cannot be read.
        EvaluationError: a feature map holds NaN or infinities.
    """
    images = load_images(
        dataset.query.paths, experiment.height, experiment.width, cache=cache, description="decoding query"
    )
    queries = measure(model, images[:MOST_QUERIES], device=device)
    spectra = weight_spectra(model)[["effective_rank", "condition_number"]]
    weights = {
        "convolutions": len(spectra),
        **{name: float(values.mean()) for name, values in spectra.items()},
        **{f"stem_{name}": float(values.iloc[0]) for name, values in spectra.items()},
    }
    return Measures(queries.reindex(range(len(images))), weights)


def measure_some(
    experiment: Experiment, cache: Path, model: "ReidNetwork", dataset: ReidDataset, device: torch.device
) -> dict[str, float]:
    """Measures a network in training: `COLUMNS`, as means over the first images of `TRAINING_PEOPLE` people.

    These are training images, as they are, so nothing is learned of the test set. The network is left in eval
    mode, and no random number is drawn. A mean is NaN if no image has a value.
    """
    first = np.unique(dataset.train.ids, return_index=True)[1]
    chosen = first[np.linspace(0, len(first) - 1, min(TRAINING_PEOPLE, len(first))).round().astype(int)]
    paths = [dataset.train.paths[index] for index in chosen]
    size = (experiment.height, experiment.width)
    images = load_images(paths, *size, cache=cache, description="decoding train")
    return measure(model, images, device=device).mean().round(DECIMALS).to_dict()


def kept_measures(files: tuple[pd.DataFrame, Any] | None, dataset: ReidDataset) -> Measures | None:
    """The measures in a run's queries.csv and metrics.json, or None if they lack one or a query."""
    if files is None:
        return None
    queries, metrics = files
    whole = len(queries) == len(dataset.query) and set(COLUMNS) <= set(queries)
    if not whole or not isinstance(metrics, dict) or WEIGHTS not in metrics:
        return None
    # pandas before 4 may read a number with another last digit.
    return Measures(queries[list(COLUMNS)].round(DECIMALS), metrics[WEIGHTS])


@torch.inference_mode()
def measure(
    model: "ReidNetwork", images: np.ndarray, *, batch_size: int = 32, device: torch.device | None = None
) -> pd.DataFrame:
    """`COLUMNS` of decoded images, rounded to `DECIMALS`; the network is left in eval mode.

    Args:
        images: (N, H, W, 3) RGB bytes, as `load_images` gives them.

    Raises:
        EvaluationError: a feature map holds NaN or infinities (the message names the first images).
    """
    device = device or best_device()
    model = model.to(device).eval()
    rows = []
    with track_progress(len(images), "measuring features", "image") as bar:
        for start in range(0, len(images), batch_size):
            batch = normalise(torch.from_numpy(np.array(images[start : start + batch_size])).to(device))
            with autocast("float32", device):
                maps = last_maps(model, batch)
            require_finite(maps, start)
            values = (channel_correlation(maps), effective_area(activation(maps)), *spectrum_measures(maps))
            rows.append(torch.stack(values, 1).cpu().numpy())
            bar.update(len(batch))
    return pd.DataFrame(np.concatenate(rows), columns=COLUMNS, dtype=float).round(DECIMALS)


def last_maps(model: "ReidNetwork", images: Tensor) -> Tensor:
    """The maps that the embedding is pooled from. images: (B, 3, H, W) → (B, C, h, w).

    ABD-Net: `after` of the attentive branch, its stripes joined; without that branch, what its only layer4
    gives. PFSA: `final`.
    """
    layer4 = []
    with model.trunk_modules()[-1].register_forward_hook(lambda *call: layer4.append(call[2])):
        maps = model(images).feature_maps
    found = maps.get("after") or maps.get("final") or layer4
    return torch.cat(found, 2)
