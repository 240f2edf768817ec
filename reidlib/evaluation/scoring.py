"""Scores of a run from its embeddings: ranked, re-ranked, and with intervals over people."""

from typing import Any

import numpy as np
import pandas as pd

from reidlib.datasets.types import ReidDataset
from reidlib.errors import shown
from reidlib.evaluation.measures import Measures
from reidlib.evaluation.metrics import RetrievalMetrics, retrieval_metrics_from_distances
from reidlib.evaluation.ranking import RANKS, people_and_cameras, rank
from reidlib.evaluation.single_shot import cuhk03_single_shot
from reidlib.experiment import Experiment
from reidlib.reranking import k_reciprocal_distances
from reidlib.statistics import bootstrap_interval

CLASSIC_PROTOCOL = ("cuhk03-np-labeled", "cuhk03-np-detected")  # also scored single-shot


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
    return retrieval_metrics_from_distances(distances, *people_and_cameras(dataset), max_rank=max(RANKS))


def score(
    embeddings: dict[str, np.ndarray],
    experiment: Experiment,
    dataset: ReidDataset,
    measures: Measures | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The metrics of a run, and `per_query`'s table, both with the measures of its features, if given.

    With re-ranking, the table also has reranked_average_precision.

    In the metrics, `reranked` holds those after re-ranking (None without it), and `single_shot` those of
    CUHK03's classic protocol (None for other data sets, unless the setting single_shot asks for it).
    """
    query, gallery = embeddings["query"], embeddings["gallery"]
    resamples = experiment.bootstrap_resamples
    ranked = rank(query, gallery, dataset)
    metrics = {**summary(ranked, dataset, resamples=resamples), "reranked": None, "single_shot": None}
    queries = per_query(ranked, dataset)
    if experiment.rerank:
        form = {
            "merge_threshold": experiment.rerank_merge_threshold,
            "half_precision": experiment.rerank_half_precision,
        }
        again = rerank(query, gallery, dataset, **form)
        metrics["reranked"] = summary(again, dataset, resamples=resamples)
        queries["reranked_average_precision"] = again.average_precision
    if experiment.single_shot or dataset.name in CLASSIC_PROTOCOL:
        shots = cuhk03_single_shot(query, gallery, *people_and_cameras(dataset), max_rank=max(RANKS))
        metrics["single_shot"] = {
            **{f"rank{k}": float(shots.cmc[k - 1]) for k in RANKS},
            "map": shots.mean_ap,
        }
    if measures is None:
        return metrics, queries
    return metrics | measures.summary(), queries.join(measures.queries)


def summary(ranked: RetrievalMetrics, dataset: ReidDataset, *, resamples: int = 2000) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions); 95 % bootstrap intervals of rank-1 and mAP, resampled by identity.

    The intervals are None if all scored queries show one person: people are resampled, and there is no other.
    """
    scored = ~np.isnan(ranked.average_precision)
    people = dataset.query.ids[scored]

    def interval(values: np.ndarray) -> list[float] | None:
        if len(np.unique(people)) < 2:
            return None
        found = bootstrap_interval(values[scored], people, resamples=resamples)
        return [found.low, found.high]

    return {
        **{f"rank{k}": float(ranked.cmc[min(k, len(ranked.cmc)) - 1]) for k in RANKS},
        "map": ranked.mean_ap,
        "minp": ranked.mean_inp,
        "rank1_interval": interval(ranked.hits(1)),
        "map_interval": interval(ranked.average_precision),
        "queries_scored": int(scored.sum()),
    }


def per_query(ranked: RetrievalMetrics, dataset: ReidDataset) -> pd.DataFrame:
    """One row per query, in the data set's order; paired comparisons read it."""
    return pd.DataFrame(
        {
            "query": [shown(path.name) for path in dataset.query.paths],
            "identity": dataset.query.ids,
            "camera": dataset.query.cameras,
            "first_match_rank": ranked.first_match_rank,
            "average_precision": ranked.average_precision,
        }
    )
