"""What the report's explorer shows: the first of the gallery for many queries under several models.

Thumbnails and attention maps lie in sheets, one picture for all, so that a page embeds each once.
"""

from reidlib.show.drawing import described, literally, matplotlib  # first: it decides how matplotlib starts

# isort: split

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.diversity import activation
from reidlib.evaluation.measures import last_maps
from reidlib.images.normalisation import normalise
from reidlib.run import Run
from reidlib.show.figures import BLUE, GREY
from reidlib.show.rankings import ranked, squared_distances

TOP = 10
COLUMNS = 40  # of a sheet
BORDER = 1  # places around each attention map that repeat its edge: the page enlarges the map smoothly
BATCH = 64  # images
FAR = 0.1  # difference in average precision from which two models differ on a query


@dataclass(frozen=True)
class Explorer:
    """The explorer's parts.

    Attributes:
        data: what is plain: models (titles), sizes of the sheets' cells, queries and gallery images
            (identities, cameras, places in the sheets), and for each model and query the first `TOP` of the
            gallery with distances, the rank of the first match, and the average precision.
        sheets: name → picture (bytes): "query" and "gallery" (WebP), "attention" (PNG).
    """

    data: dict[str, Any]
    sheets: dict[str, bytes]


def telling_order(ranks: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Queries sorted by how much the models differ: by the range of average precision, largest first.

    Args:
        ranks, precision: (models, Q): rank of the first match, average precision; NaN without a match. Such
            queries are left out.
    """
    spans = np.ptp(precision, axis=0)
    known = np.flatnonzero(np.isfinite(precision).all(axis=0) & np.isfinite(ranks).all(axis=0))
    return known[np.argsort(-spans[known], kind="stable")]


def explore(
    runs: Sequence[Run],
    titles: Sequence[str],
    dataset: ReidDataset,
    query_images: np.ndarray,
    gallery_images: np.ndarray,
    *,
    most: int = 300,
    height: int = 96,
) -> Explorer:
    """Collects the explorer's parts.

    Args:
        runs, titles: the models, side by side.
        query_images, gallery_images: decoded, in the data set's order, at the size that the networks see.
        most: queries that are kept: those on which the models differ most.
        height: of a thumbnail, in pixels.

    Raises:
        EvaluationError: embeddings and data set do not fit together.
    """
    precision = np.stack([run.queries["average_precision"] for run in runs])
    ranks = np.stack([run.queries["first_match_rank"] for run in runs])
    chosen = telling_order(ranks, precision)[:most]
    found = []
    for run in runs:
        nearest, _ = ranked(run, dataset, chosen, min(TOP, len(dataset.gallery)))
        found.append((nearest, squared_distances(run, chosen, nearest)))
    shown = np.unique(np.concatenate([nearest[nearest >= 0] for nearest, _ in found]))
    place = {int(row): number for number, row in enumerate(shown)}
    size = (height, round(height * query_images.shape[2] / query_images.shape[1]))
    heats = [attention_maps(run.model(), query_images[chosen]) for run in runs]
    data = {
        "models": list(titles),
        "thumbnail": [size[1], size[0]],
        "columns": COLUMNS,
        "attention": [heats[0].shape[2] + 2 * BORDER, heats[0].shape[1] + 2 * BORDER, BORDER],
        "queries": [
            {
                "name": dataset.query.paths[row].name,
                "identity": int(dataset.query.ids[row]),
                "camera": int(dataset.query.cameras[row]),
                "rank": [int(one) for one in ranks[:, row]],
                "precision": [round(float(one), 4) for one in precision[:, row]],
                "top": [[place.get(int(one), -1) for one in nearest[number]] for nearest, _ in found],
                "distance": [[round(float(one), 3) for one in far[number]] for _, far in found],
            }
            for number, row in enumerate(chosen)
        ],
        "gallery": [[int(dataset.gallery.ids[row]), int(dataset.gallery.cameras[row])] for row in shown],
    }
    coloured = [jet(heat) for heat in heats]
    sheets = {
        "query": as_webp(sheet(_resized(query_images, chosen, size))),
        "gallery": as_webp(sheet(_resized(gallery_images, shown, size))),
        "attention": as_png(sheet(np.stack(coloured, 1).reshape(-1, *coloured[0].shape[1:]))),
    }
    return Explorer(data, sheets)


def precisions(runs: Sequence[Run], titles: Sequence[str]) -> pd.DataFrame:
    """Average precision in %: one row per query, one column per model; NaN without a match."""
    return pd.DataFrame(
        {title: 100 * run.queries["average_precision"] for title, run in zip(titles, runs, strict=True)}
    )


def ranges(frame: pd.DataFrame) -> pd.DataFrame:
    """How often two models differ on a query by `FAR` or more, for each pair of columns of `precisions`.

    Returns:
        One row for each pair: model, other, "better (%)", "alike (%)", "worse (%)", of the queries that have
        a match, and "median difference" (points).
    """
    rows = []
    for other, model in combinations(frame.columns, 2):
        difference = (frame[model] - frame[other]).dropna()
        better, worse = (100 * (sign * difference >= 100 * FAR).mean() for sign in (1, -1))
        shares = {"better (%)": better, "alike (%)": 100 - better - worse, "worse (%)": worse}
        rows.append(
            {"model": model, "against": other, **shares, "median difference": float(difference.median())}
        )
    return pd.DataFrame(rows)


def ranges_sentence(table: pd.DataFrame) -> str:
    """What the table of `ranges` says, in words."""
    parts = [
        f"{row['model']} is better than {row['against']} by {100 * FAR:.0f} points of average precision or "
        f"more on {row['better (%)']:.0f} % of the queries, and worse on {row['worse (%)']:.0f} %"
        for _, row in table.iterrows()
    ]
    return "; ".join(parts) + ". One training of each: another training differs on other queries."


def precision_pairs(frame: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Average precision of each query under two models, for each pair of `ranges`."""
    figure, axes = plt.subplots(
        1, len(table), figsize=(3.1 * len(table), 3.3), squeeze=False, layout="constrained"
    )
    for axis, (_, row) in zip(axes[0], table.iterrows(), strict=True):
        axis.plot([0, 100], [0, 100], color=GREY, linewidth=1)
        axis.plot(frame[row["against"]], frame[row["model"]], ".", color=BLUE, markersize=3, alpha=0.5)
        axis.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
        axis.set_xlabel(literally(row["against"]), fontsize=9)
        axis.set_ylabel(literally(row["model"]), fontsize=9)
    figure.suptitle("Average precision (%) of each query under two models", fontsize=11)
    return described(
        figure, f"Scatter plots of average precision, one point a query. {ranges_sentence(table)}"
    )


@torch.inference_mode()
def attention_maps(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """How active each place of the last map is, 0 to 1. images: (N, H, W, 3) bytes → (N, h, w) float32.

    The square root of the sum of squares over channels, divided by the image's largest value.
    """
    maps = []
    for start in range(0, len(images), BATCH):
        batch = normalise(torch.from_numpy(np.array(images[start : start + BATCH])))
        response = activation(last_maps(model.eval(), batch)).sqrt()
        maps.append((response / response.amax((1, 2), keepdim=True).clamp_min(1e-12)).numpy())
    return np.concatenate(maps)


def jet(heats: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) in the papers' colours (N, h + 2, w + 2, 3), with `BORDER` more places at each edge."""
    wide = np.pad(heats, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), mode="edge")
    return (255 * matplotlib.colormaps["jet"](wide)[..., :3]).round().astype(np.uint8)


def sheet(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, h, w, 3) side by side, `COLUMNS` in a row; what is left of the last row is black."""
    rows = -(-len(pictures) // COLUMNS)
    height, width = pictures.shape[1:3]
    whole = np.zeros((rows * COLUMNS, *pictures.shape[1:]), np.uint8)
    whole[: len(pictures)] = pictures
    whole = whole.reshape(rows, COLUMNS, height, width, 3).transpose(0, 2, 1, 3, 4)
    return whole.reshape(rows * height, COLUMNS * width, 3)


def as_webp(picture: np.ndarray) -> bytes:
    return _encoded(picture, "WEBP", quality=72, method=4)


def as_png(picture: np.ndarray) -> bytes:
    return _encoded(picture, "PNG", optimize=True)


def _encoded(picture: np.ndarray, kind: str, **how: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, kind, **how)
    return target.getvalue()


def _resized(images: np.ndarray, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack(
        [cv2.resize(np.asarray(images[row]), size[::-1], interpolation=cv2.INTER_AREA) for row in rows]
    )
