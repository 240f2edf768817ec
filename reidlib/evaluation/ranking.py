"""Embeddings of a data set's query and gallery to retrieval metrics."""

from pathlib import Path

import numpy as np
import torch

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.embedding import embed_test_set
from reidlib.evaluation.metrics import RetrievalMetrics, retrieval_metrics
from reidlib.experiment import Experiment

RANKS = (1, 5, 10, 20)


def split_scores(
    model: torch.nn.Module, experiment: Experiment, dataset: ReidDataset, *, cache: Path, device: torch.device
) -> dict[str, float]:
    """rank1 and map (fractions) of a network in training, on a data set's query and gallery."""
    embeddings = embed_test_set(model, experiment, dataset, cache=cache, device=device, keep=False)
    ranked = rank(embeddings["query"], embeddings["gallery"], dataset)
    return {"rank1": float(ranked.cmc[0]), "map": ranked.mean_ap}


def rank(query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset) -> RetrievalMetrics:
    """Retrieval metrics, by Market-1501's rule, of (Q, D) and (G, D) embeddings in the data set's order."""
    return retrieval_metrics(query, gallery, *people_and_cameras(dataset), max_rank=max(RANKS))


def people_and_cameras(dataset: ReidDataset) -> tuple[np.ndarray, ...]:
    return dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras
