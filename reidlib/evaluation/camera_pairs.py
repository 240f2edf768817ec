"""Average precision from one camera to another: each query against one camera's images alone."""

from collections.abc import Mapping

import numpy as np

from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.metrics import retrieval_metrics


def camera_pair_precision(
    embeddings: Mapping[str, np.ndarray], dataset: ReidDataset
) -> dict[int, np.ndarray]:
    """Camera of the gallery → (Q,) average precision of each query among that camera's images.

    It is NaN for queries of the same camera, and for those whose person the camera did not see.

    Args:
        embeddings: `query` (Q, D) and `gallery` (G, D), in the data set's order.
    """
    query, gallery = dataset.query, dataset.gallery
    found = {}
    for camera in np.unique(gallery.cameras[gallery.ids > 0]):
        here = np.flatnonzero(gallery.cameras == camera)
        asks = np.flatnonzero((query.cameras != camera) & np.isin(query.ids, gallery.ids[here]))
        precision = np.full(len(query), np.nan)
        if len(asks):
            metrics = retrieval_metrics(
                embeddings["query"][asks],
                embeddings["gallery"][here],
                query.ids[asks],
                gallery.ids[here],
                query.cameras[asks],
                gallery.cameras[here],
            )
            precision[asks] = metrics.average_precision
        found[int(camera)] = precision
    return found
