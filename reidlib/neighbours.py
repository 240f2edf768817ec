"""Nearest gallery embeddings of queries, for galleries of up to millions of images (faiss).

    indices, distances = nearest(query, gallery, 10)    # exact: every distance is computed
    index = ApproximateIndex(gallery)                   # looks into a few lists of the gallery
    indices, distances = index.nearest(query, 10)
    index.recall(query, 10)                             # measured against the exact answer

Distances are the study's: squared Euclidean between the rows as given. These searches know no identities or
cameras; for the ranking that the scores rest on, with the query's own camera left out, see
`reidlib.evaluation.rank_gallery`, and for scores `retrieval_metrics`: both need little memory, too.

Everything is computed in float32. Equal distances come in the gallery's order, as in the study's ranking; at
the last place, an exact search takes the first of them, an approximate one any. Distances that differ by
their rounding only may swap places.
"""

import faiss
import numpy as np

from reidlib.evaluation.distance_blocks import Array, EvaluationError, to_numpy

CHUNK = 1 << 16  # rows that are checked at a time


def nearest(query: Array, gallery: Array, top: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """One exact search: `ExactIndex(gallery).nearest(query, top)`."""
    return ExactIndex(gallery).nearest(query, top)


class ExactIndex:
    """A gallery of which every distance is computed. Nothing is built, and float32 rows are not copied.

    Args:
        gallery: (G, D) array, memory map or tensor.

    Raises:
        EvaluationError: it is no matrix, is empty, or holds a row whose squared length is not finite.
    """

    def __init__(self, gallery: Array):
        self.gallery = _rows("gallery", gallery)

    def nearest(self, query: Array, top: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The nearest gallery embeddings of each query.

        Args:
            query: (Q, D) array, memory map or tensor.

        Returns:
            indices (Q, top) int64 into the gallery, nearest first; and their squared distances (Q, top)
            float32. -1 and infinity stand where the gallery has too few.

        Raises:
            EvaluationError: as for the gallery, dimensions differ, or `top` is below 1.
        """
        query = self._checked(query, top)
        distances, indices = faiss.knn(query, self.gallery, top)
        return _marked(indices, distances)

    def _checked(self, query: Array, top: int) -> np.ndarray:
        query, dim = _rows("query", query), self.gallery.shape[1]
        if query.shape[1] != dim:
            raise EvaluationError(
                f"The query has {query.shape[1]} dimensions and the gallery {dim}: both must come from the "
                "same network."
            )
        if top < 1:
            raise EvaluationError(f"top={top} images cannot be found: give at least 1.")
        return query


class ApproximateIndex(ExactIndex):
    """A gallery in lists of similar embeddings (inverted file, k-means); a query looks into a few of them.

    Distances to what it finds are exact, but it misses some neighbours: measure how many with `recall`.

    Args:
        gallery: (G, D) array, memory map or tensor. It is copied; `recall` needs the original, too.
        lists: how many; 0: about the square root of the gallery's size.
        probes: lists that each query looks into; 0: a sixteenth of them. May be changed at any time.
        seed: of k-means.

    Raises:
        EvaluationError: as in `ExactIndex`, or a number is out of range.
    """

    def __init__(self, gallery: Array, *, lists: int = 0, probes: int = 0, seed: int = 0):
        super().__init__(gallery)
        images, dim = self.gallery.shape
        lists = lists or max(1, round(images**0.5))
        self.probes = probes or -(-lists // 16)
        if not (1 <= self.probes <= lists <= images):
            raise EvaluationError(
                f"{lists} lists and {self.probes} probes do not fit {images} gallery images: give at most as "
                "many lists as images, and from 1 probe to the number of lists."
            )
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, lists)
        self._index.cp.seed = seed
        self._index.cp.min_points_per_centroid = 1  # no warning of small galleries
        self._index.cp.max_points_per_centroid = 64  # k-means takes a sample of this many a list
        self._index.train(self.gallery)
        self._index.add(self.gallery)

    def nearest(self, query: Array, top: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """As in `ExactIndex`, but some neighbours may be missing; -1 stands where too few were found."""
        query = self._checked(query, top)
        self._index.nprobe = self.probes
        distances, indices = self._index.search(query, top)
        return _marked(indices, distances)

    def recall(self, query: Array, top: int = 10, *, sample: int = 100, seed: int = 0) -> float:
        """The share of the exact `top` neighbours that it finds, measured on a random sample of queries."""
        query = self._checked(query, top)
        if len(query) > sample:
            query = query[np.sort(np.random.default_rng(seed).choice(len(query), sample, replace=False))]
        exact, _ = super().nearest(query, top)
        found, _ = self.nearest(query, top)
        there = exact >= 0
        hits = (exact[:, :, None] == found[:, None, :]).any(2) & there
        return float(hits.sum() / there.sum())


def _rows(side: str, embeddings: Array) -> np.ndarray:
    """(N, D) float32, contiguous; no copy if it is so already."""
    embeddings = to_numpy(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype.kind not in "fiu":
        raise EvaluationError(
            f"The {side} has shape {embeddings.shape} and type {embeddings.dtype}: real numbers of shape "
            "(N, D), one row per image, were expected."
        )
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        bad = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", part, part)))
        if len(bad):
            raise EvaluationError(
                f"Row {start + bad[0]} of the {side} holds NaN, infinity or numbers too large to be squared: "
                "check whether the network's training diverged."
            )
    return rows


def _marked(indices: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With infinite distances at the missing neighbours (index -1), where faiss has its largest number."""
    return indices, np.where(indices < 0, np.float32(np.inf), distances)
