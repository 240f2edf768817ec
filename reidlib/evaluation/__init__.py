"""Retrieval scores of embeddings.

    from reidlib.evaluation import retrieval_metrics
    scores = retrieval_metrics(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras)
    scores.mean_ap, scores.cmc[0]   # mAP and rank-1

`retrieval_metrics`, `rank_gallery` and `cuhk03_single_shot` take plain arrays. `reference_points`,
`scores_by_gallery_size` and `reidlib.evaluation.scoring` take a data set. `embedding` makes the embeddings;
`diversity`, `channels` and `mask_shares` measure features and maps; `by_group` and `camera_pairs` score some
of the queries.
"""

from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.gallery_size import scores_by_gallery_size
from reidlib.evaluation.metrics import (
    RetrievalMetrics,
    rank_gallery,
    retrieval_metrics,
    retrieval_metrics_by_gallery_size,
    retrieval_metrics_from_distances,
)
from reidlib.evaluation.single_shot import SingleShotScores, cuhk03_single_shot
from reidlib.evaluation.without_learning import colour_histogram_embeddings, reference_points

__all__ = [
    "EvaluationError",
    "RetrievalMetrics",
    "SingleShotScores",
    "colour_histogram_embeddings",
    "cuhk03_single_shot",
    "rank_gallery",
    "reference_points",
    "retrieval_metrics",
    "retrieval_metrics_by_gallery_size",
    "retrieval_metrics_from_distances",
    "scores_by_gallery_size",
]
