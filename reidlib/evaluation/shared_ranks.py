"""mAP as scikit-learn computes it, to see whether its rule for tied distances matters.

The released spatial-attention code (PFSA) takes its mAP from scikit-learn, where gallery images at the same
distance share a rank: each match among them counts with the precision after the last of them. The metrics of
this study break ties by the order of the gallery, as the released ABD-Net code does.
"""

import numpy as np
from sklearn.metrics import average_precision_score

from reidlib.evaluation.distance_blocks import Array, Labels, embedding_blocks, to_numpy


def average_precision_with_shared_ranks(
    query_embeddings: Array, gallery_embeddings: Array, labels: Labels, *, memory_budget_mb: float = 512
) -> np.ndarray:
    """(Q,) average precision of each query; NaN for queries without a match.

    Distances, errors and removed images are those of `retrieval_metrics`.

    Args:
        query_embeddings: (Q, D).
        gallery_embeddings: (G, D).
        labels: their identities and cameras.
    """
    average_precision = np.full(labels.num_queries, np.nan)
    blocks = embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, None)
    for start, block in blocks:
        rows, columns = labels.pairs(start, block)
        for i, row in enumerate(to_numpy(block)):
            matches = np.zeros(len(row), dtype=bool)
            matches[columns[rows == i]] = True
            if matches.any():
                left = np.isfinite(row)  # removed images are infinitely far away
                average_precision[start + i] = average_precision_score(matches[left], -row[left])
    return average_precision
