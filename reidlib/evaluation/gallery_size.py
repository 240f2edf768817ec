"""How scores fall as the gallery grows: the same queries, with more and more images of others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.metrics import retrieval_metrics_by_gallery_size
from reidlib.statistics import hits


def scores_by_gallery_size(
    embeddings: dict[str, np.ndarray], dataset: ReidDataset, sizes: Sequence[int] = (), *, seed: int = 0
) -> pd.DataFrame:
    """rank-1 and mAP with a gallery of the query's own identity and the first n other images, for several n.

    The seed shuffles the other images: images of other people come first, distractors (identity 0) last.

    Args:
        embeddings: `query` (Q, D) and `gallery` (G, D), in the data set's order.
        sizes: numbers n of other images. Where a query has fewer, it gets all of them. Empty: 10, 20, 40, …
            and the whole gallery.

    Returns:
        One row per size: other_images, rank1, map (fractions), distractors (bool: some of the images are).

    Raises:
        EvaluationError: a size is below 1, or as for `retrieval_metrics`.
    """
    query, gallery = dataset.query, dataset.gallery
    order = np.random.default_rng(seed).permutation(len(gallery))
    order = order[np.argsort(gallery.ids[order] == 0, kind="stable")]
    sizes = _doubled(len(gallery)) if len(sizes) == 0 else sorted(int(size) for size in sizes)
    if sizes[0] < 1:
        raise EvaluationError(f"sizes is {list(sizes)}: give numbers of other images from 1 on.")
    fewest_people = len(gallery)  # images of other people that a query has at least
    first_match, precision = (np.full((len(sizes), len(query)), np.nan) for _ in range(2))
    for person in np.unique(query.ids):
        asks, own = np.flatnonzero(query.ids == person), np.flatnonzero(gallery.ids == person)
        if not (query.cameras[asks][:, None] != gallery.cameras[own]).any():
            continue  # no match from another camera: not scored
        others = order[gallery.ids[order] != person]
        found = retrieval_metrics_by_gallery_size(
            embeddings["query"][asks],
            embeddings["gallery"][own],
            query.ids[asks],
            gallery.ids[own],
            query.cameras[asks],
            gallery.cameras[own],
            embeddings["gallery"][others],
            [min(size, len(others)) for size in sizes],
        )
        fewest_people = min(fewest_people, np.count_nonzero(gallery.ids[others]))
        for row, metrics in enumerate(found):
            first_match[row, asks], precision[row, asks] = metrics.first_match_rank, metrics.average_precision
    has_distractors = (gallery.ids == 0).any()
    return pd.DataFrame(
        {
            "other_images": sizes,
            "rank1": [float(np.nanmean(hits(ranks))) for ranks in first_match],
            "map": [float(np.nanmean(values)) for values in precision],
            "distractors": [bool(has_distractors and size > fewest_people) for size in sizes],
        }
    )


def _doubled(total: int) -> list[int]:
    """10, 20, 40, …, total."""
    sizes = [10]
    while sizes[-1] * 2 < total:
        sizes.append(sizes[-1] * 2)
    return [size for size in sizes if size < total] + [total]
