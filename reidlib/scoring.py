"""Embeddings to scores: a data set's splits through a network, ranked, re-ranked, and summed up with intervals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib.config import Experiment
from reidlib.datasets import ReidDataset
from reidlib.embedding import embed_files
from reidlib.evaluation import RetrievalMetrics, colour_histogram_embeddings, retrieval_metrics, retrieval_metrics_from_distances
from reidlib.models import FAMILIES, model_from_experiment
from reidlib.reranking import k_reciprocal_distances
from reidlib.statistics import bootstrap_interval

RANKS = (1, 5, 10, 20)


def embed_test_set(
    model: torch.nn.Module,
    experiment: Experiment,
    dataset: ReidDataset,
    *,
    cache: Path,
    device: torch.device | None = None,
    keep: bool = True,
) -> dict[str, np.ndarray]:
    """`query` (Q, D) and `gallery` (G, D), float32, in the data set's order, as the experiment evaluates.

    keep: in the cache, for the same weights and images again; not worth it for weights that still change.
    """
    shaping = {name: getattr(experiment, name) for name in ("family", *FAMILIES[experiment.family][1]) if name != "pretrained"}
    return {
        name: embed_files(
            model,
            split.paths,
            experiment.height,
            experiment.width,
            cache=cache,
            flip=experiment.flip_evaluation,
            precision=experiment.precision,
            device=device,
            what=name,
            keep=shaping if keep else None,
        )
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    }


def rank(query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset) -> RetrievalMetrics:
    """Retrieval metrics of (Q, D) and (G, D) embeddings given in the data set's order, by Market-1501's rule."""
    return retrieval_metrics(query, gallery, *_people_and_cameras(dataset), max_rank=max(RANKS))


def rerank(
    query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset, *, merge_threshold: float = 0.0, half_precision: bool = True
) -> RetrievalMetrics:
    """As `rank`, by the k-reciprocal distances; the defaults are the form in which the published scores were made."""
    distances = k_reciprocal_distances(query, gallery, merge_threshold=merge_threshold, half_precision=half_precision)
    return retrieval_metrics_from_distances(distances, *_people_and_cameras(dataset), max_rank=max(RANKS))


def score(
    embeddings: dict[str, np.ndarray], experiment: Experiment, dataset: ReidDataset, *, resamples: int = 2000
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What a run keeps: its metrics, those after re-ranking under `reranked` (None without), and one row a query."""
    query, gallery = embeddings["query"], embeddings["gallery"]
    ranked, again = rank(query, gallery, dataset), None
    if experiment.rerank:
        form = {"merge_threshold": experiment.rerank_merge_threshold, "half_precision": experiment.rerank_half_precision}
        again = summary(rerank(query, gallery, dataset, **form), dataset, resamples=resamples)
    return {**summary(ranked, dataset, resamples=resamples), "reranked": again}, per_query(ranked, dataset)


def summary(ranked: RetrievalMetrics, dataset: ReidDataset, *, resamples: int = 2000) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions) with 95 % bootstrap intervals over the queries' identities."""
    scored = ~np.isnan(ranked.average_precision)
    people = dataset.query.ids[scored]
    rank1 = bootstrap_interval(ranked.hits(1)[scored], people, resamples=resamples)
    mean_ap = bootstrap_interval(ranked.average_precision[scored], people, resamples=resamples)
    return {
        **{f"rank{k}": float(ranked.cmc[min(k, len(ranked.cmc)) - 1]) for k in RANKS},
        "map": ranked.mean_ap,
        "minp": ranked.mean_inp,
        "rank1_interval": [rank1.low, rank1.high],
        "map_interval": [mean_ap.low, mean_ap.high],
        "queries_scored": int(scored.sum()),
    }


def per_query(ranked: RetrievalMetrics, dataset: ReidDataset) -> pd.DataFrame:
    """What the paired comparisons read: one row a query, in the data set's order."""
    return pd.DataFrame(
        {
            "query": [path.name for path in dataset.query.paths],
            "identity": dataset.query.ids,
            "camera": dataset.query.cameras,
            "first_match_rank": ranked.first_match_rank,
            "average_precision": ranked.average_precision,
        }
    )


def reference_points(experiment: Experiment, dataset: ReidDataset, *, cache: Path, resamples: int = 2000) -> pd.DataFrame:
    """What is reached without learning: a colour histogram, and the experiment's network with random weights.

    Returns:
        A row each: method, rank1, rank1_low, rank1_high, rank5, map, map_low, map_high, minp (fractions).
    """
    torch.manual_seed(experiment.seed)
    untrained = model_from_experiment(replace(experiment, pretrained=False), dataset.num_train_identities)
    splits = {"query": dataset.query, "gallery": dataset.gallery}
    embeddings = {
        "colour histogram": {name: colour_histogram_embeddings(split.paths) for name, split in splits.items()},
        "untrained network": embed_test_set(untrained, experiment, dataset, cache=cache),
    }
    rows = []
    for method, of in embeddings.items():
        metrics = summary(rank(of["query"], of["gallery"], dataset), dataset, resamples=resamples)
        bounds = {
            f"{key}_{side}": metrics[f"{key}_interval"][index]
            for key in ("rank1", "map")
            for index, side in enumerate(("low", "high"))
        }
        rows.append({"method": method, **{key: metrics[key] for key in ("rank1", "rank5", "map", "minp")}, **bounds})
    return pd.DataFrame(rows)


def _people_and_cameras(dataset: ReidDataset) -> tuple[np.ndarray, ...]:
    return dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras
