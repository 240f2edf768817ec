"""CUHK03's classic protocol: one gallery image per identity, scores averaged over random galleries."""

from typing import NamedTuple

import numpy as np
import torch

from reidlib.evaluation.distance_blocks import Array, EvaluationError, Labels, embedding_blocks, to_numpy
from reidlib.evaluation.metrics import check_max_rank


class SingleShotScores(NamedTuple):
    """Expected scores over random galleries with one image per identity.

    Attributes:
        cmc: (max_rank,).
        mean_ap: mean of `average_precision` over queries with a match.
        average_precision: (Q,); NaN for queries without a match.
    """

    cmc: np.ndarray
    mean_ap: float
    average_precision: np.ndarray


def cuhk03_single_shot(
    query_embeddings: Array,
    gallery_embeddings: Array,
    query_ids: Array,
    gallery_ids: Array,
    query_cameras: Array,
    gallery_cameras: Array,
    *,
    max_rank: int = 20,
    memory_budget_mb: float = 512,
    device: str | torch.device | None = None,
) -> SingleShotScores:
    """Classic CUHK03 scores (Li et al., CVPR 2014): one random gallery image per identity.

    Arguments, errors and removed images are those of `retrieval_metrics`. The usual code averages over random
    draws; here the expectation is computed. For one drawn image of the query's identity, another identity c
    is ahead with probability p_c, the share of its images that are closer. The identities are independent, so
    the match's rank is 1 + a Poisson-binomial variable, whose probabilities are built up identity by
    identity. AP is E[1 / rank].

    Distractors that share one id count as one identity. The time grows with the square of the number of
    identities ahead, so this is meant for galleries of a few hundred identities.
    """
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    check_max_rank(max_rank)
    identities, codes = np.unique(labels.gallery_ids, return_inverse=True)
    cmc, average_precision = np.zeros(max_rank), np.full(labels.num_queries, np.nan)
    for start, block in embedding_blocks(
        query_embeddings, gallery_embeddings, labels, memory_budget_mb, device
    ):
        rows, columns = labels.pairs(start, block)
        for i, row in enumerate(to_numpy(block)):
            matches = columns[rows == i]
            if not len(matches):
                continue
            order = np.argsort(row, kind="stable")[: np.isfinite(row).sum()]
            ranked = codes[order]
            places = np.flatnonzero(ranked == codes[matches[0]])
            closer = np.stack([np.bincount(ranked[:place], minlength=len(identities)) for place in places])
            ahead = closer / np.maximum(1, np.bincount(ranked, minlength=len(identities)))  # (M, identities)
            ahead[:, codes[matches[0]]] = 0
            ahead = ahead[:, ahead.any(axis=0)]
            # [m, k]: probability that k other identities are ahead of match m
            chance = np.zeros((len(places), max(max_rank, ahead.shape[1] + 1)))
            chance[:, 0] = 1
            for p in ahead.T[:, :, None]:
                chance[:, 1:] = chance[:, 1:] * (1 - p) + chance[:, :-1] * p
                chance[:, :1] *= 1 - p
            chance = chance.mean(axis=0)
            cmc += np.cumsum(chance[:max_rank])
            average_precision[start + i] = (chance / np.arange(1, len(chance) + 1)).sum()
    known = ~np.isnan(average_precision)
    if not known.any():
        raise EvaluationError(labels.explain_no_match())
    return SingleShotScores(cmc / known.sum(), float(average_precision[known].mean()), average_precision)
