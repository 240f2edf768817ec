"""Embeds a data set's query and gallery, ranks and re-ranks them, and computes scores with intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.embedding import embed_files
from reidlib.evaluation.metrics import RetrievalMetrics, retrieval_metrics, retrieval_metrics_from_distances
from reidlib.evaluation.single_shot import cuhk03_single_shot
from reidlib.experiment import Experiment, TrainingSettings
from reidlib.reranking import k_reciprocal_distances
from reidlib.statistics import bootstrap_interval

RANKS = (1, 5, 10, 20)
CLASSIC_PROTOCOL = ("cuhk03-np-labeled", "cuhk03-np-detected")  # also scored single-shot


def embed_test_set(
    model: torch.nn.Module,
    experiment: Experiment,
    dataset: ReidDataset,
    *,
    cache: Path,
    device: torch.device | None = None,
    keep: bool = True,
) -> dict[str, np.ndarray]:
    """Embeds a data set's query and gallery with the experiment's image size, flip and precision.

    Args:
        keep: keep the embeddings in the cache. This does not pay for weights that still change.

    Returns:
        `query` (Q, D) and `gallery` (G, D), float32, in the data set's order.
    """
    settings = experiment.group(TrainingSettings)
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
            keep=settings if keep else None,
        )
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    }


def split_scores(
    model: torch.nn.Module, experiment: Experiment, dataset: ReidDataset, *, cache: Path, device: torch.device
) -> dict[str, float]:
    """rank1 and map (fractions) of a network in training, on a data set's query and gallery."""
    embeddings = embed_test_set(model, experiment, dataset, cache=cache, device=device, keep=False)
    ranked = rank(embeddings["query"], embeddings["gallery"], dataset)
    return {"rank1": float(ranked.cmc[0]), "map": ranked.mean_ap}


def rank(query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset) -> RetrievalMetrics:
    """Retrieval metrics, by Market-1501's rule, of (Q, D) and (G, D) embeddings in the data set's order."""
    return retrieval_metrics(query, gallery, *_people_and_cameras(dataset), max_rank=max(RANKS))


def rerank(
    query: np.ndarray,
    gallery: np.ndarray,
    dataset: ReidDataset,
    *,
    merge_threshold: float = 0.0,
    half_precision: bool = True,
) -> RetrievalMetrics:
    """As `rank`, by k-reciprocal distances. The defaults are the form behind the published scores."""
    distances = k_reciprocal_distances(
        query, gallery, merge_threshold=merge_threshold, half_precision=half_precision
    )
    return retrieval_metrics_from_distances(distances, *_people_and_cameras(dataset), max_rank=max(RANKS))


def score(
    embeddings: dict[str, np.ndarray], experiment: Experiment, dataset: ReidDataset
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The metrics of a run, and `per_query`'s table.

    In the metrics, `reranked` holds those after re-ranking (None without it), and `single_shot` those of
    CUHK03's classic protocol (None for other data sets).
    """
    query, gallery = embeddings["query"], embeddings["gallery"]
    resamples = experiment.bootstrap_resamples
    ranked = rank(query, gallery, dataset)
    metrics = {**summary(ranked, dataset, resamples=resamples), "reranked": None, "single_shot": None}
    if experiment.rerank:
        form = {
            "merge_threshold": experiment.rerank_merge_threshold,
            "half_precision": experiment.rerank_half_precision,
        }
        metrics["reranked"] = summary(rerank(query, gallery, dataset, **form), dataset, resamples=resamples)
    if dataset.name in CLASSIC_PROTOCOL:
        shots = cuhk03_single_shot(query, gallery, *_people_and_cameras(dataset), max_rank=max(RANKS))
        metrics["single_shot"] = {
            **{f"rank{k}": float(shots.cmc[k - 1]) for k in RANKS},
            "map": shots.mean_ap,
        }
    return metrics, per_query(ranked, dataset)


def summary(ranked: RetrievalMetrics, dataset: ReidDataset, *, resamples: int = 2000) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions); 95 % bootstrap intervals of rank-1 and mAP, resampled by identity."""
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
    """One row per query, in the data set's order; paired comparisons read it."""
    return pd.DataFrame(
        {
            "query": [path.name for path in dataset.query.paths],
            "identity": dataset.query.ids,
            "camera": dataset.query.cameras,
            "first_match_rank": ranked.first_match_rank,
            "average_precision": ranked.average_precision,
        }
    )


def _people_and_cameras(dataset: ReidDataset) -> tuple[np.ndarray, ...]:
    return dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras
