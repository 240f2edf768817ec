"""Retrieval metrics of person re-identification: CMC, mAP, mINP, and ranking lists.

The Market-1501 rule (Zheng et al., ICCV 2015) holds throughout: for each query, gallery images of the same
identity *and* the same camera are removed, and so are junk images (identity -1). The others are ranked by
distance. **Ties**: of two gallery images at the same distance, the earlier one in the gallery ranks first.

The metrics only need the rank of each true match, which is 1 + the number of images before it. So no list is
sorted and no (Q, G) array is kept: queries are taken in blocks, and the images before each match are counted.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reidlib.evaluation.distance_blocks import (
    Array,
    EvaluationError,
    Labels,
    blocks_of_distances,
    embedding_blocks,
    to_numpy,
)
from reidlib.statistics import hits

SORT_ABOVE = 64  # matches of one query; with more of them, one sort costs less than a count for each


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """Scores from 0 to 1.

    Means and CMC are over queries with a match in the gallery; (Q,) arrays hold NaN for the other queries.

    Attributes:
        cmc: (max_rank,); `cmc[k - 1]` is the share of queries with a match among the first k images. Constant
            beyond the gallery's size.
        mean_ap: mean of `average_precision`.
        mean_inp: mean of `inverse_negative_penalty`.
        average_precision: (Q,); (1 / M) Σ_i i / r_i, where r_1 < … < r_M are the ranks (from 1) of the
            query's M true matches.
        first_match_rank: (Q,); r_1.
        inverse_negative_penalty: (Q,); M / r_M (Ye et al., TPAMI 2021).
    """

    cmc: np.ndarray
    mean_ap: float
    mean_inp: float
    average_precision: np.ndarray
    first_match_rank: np.ndarray
    inverse_negative_penalty: np.ndarray

    @property
    def rank1(self) -> float:
        return self.rank(1)

    def rank(self, k: int) -> float:
        """Share of queries with a match among the first k images. Raises EvaluationError beyond max_rank."""
        if not 1 <= k <= len(self.cmc):
            raise EvaluationError(
                f"rank({k}) is not known: the CMC was computed for ranks 1 to {len(self.cmc)}; raise "
                "max_rank."
            )
        return float(self.cmc[k - 1])

    def hits(self, k: int = 1) -> np.ndarray:
        """(Q,): 1.0 with a match among the first k images, 0.0 without, NaN if the gallery has none."""
        return hits(self.first_match_rank, k)


def retrieval_metrics(
    query_embeddings: Array,
    gallery_embeddings: Array,
    query_ids: Array,
    gallery_ids: Array,
    query_cameras: Array,
    gallery_cameras: Array,
    *,
    max_rank: int = 50,
    memory_budget_mb: float = 512,
    device: str | torch.device | None = None,
) -> RetrievalMetrics:
    """Metrics of query against gallery embeddings, by squared Euclidean distance. Nothing is normalised.

    Distances are float64 if either side is float64 or holds integers of 32 bits or more, otherwise float32.
    The block size changes results only through the rounding of nearly equal distances, and not at all if
    distances are exact, as between whole-numbered embeddings.

    Args:
        query_embeddings: (Q, D) array, memory map (read in pieces, never copied whole) or tensor.
        gallery_embeddings: (G, D), likewise.
        query_ids: (Q,) integers; -1 is junk.
        gallery_ids: (G,), likewise.
        query_cameras: (Q,) integers.
        gallery_cameras: (G,) integers.
        max_rank: the length of the CMC.
        memory_budget_mb: limit of the working memory beyond the embeddings.
        device: computes the distances; by default the device of the query embeddings.

    Raises:
        EvaluationError: the input has no meaningful answer (see `Labels` and `embedding_blocks`), or no query
            has a match.
    """
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    blocks = embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device)
    return _metrics(blocks, labels, max_rank)


def retrieval_metrics_from_distances(
    distances: Array,
    query_ids: Array,
    gallery_ids: Array,
    query_cameras: Array,
    gallery_cameras: Array,
    *,
    max_rank: int = 50,
    memory_budget_mb: float = 512,
) -> RetrievalMetrics:
    """As `retrieval_metrics`, from a (Q, G) matrix of distances such as re-ranking's. It is not changed."""
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _metrics(blocks_of_distances(distances, labels, memory_budget_mb), labels, max_rank)


def retrieval_metrics_by_gallery_size(
    query_embeddings: Array,
    gallery_embeddings: Array,
    query_ids: Array,
    gallery_ids: Array,
    query_cameras: Array,
    gallery_cameras: Array,
    distractor_embeddings: Array,
    sizes: Sequence[int],
    *,
    max_rank: int = 50,
    memory_budget_mb: float = 512,
    device: str | torch.device | None = None,
) -> list[RetrievalMetrics]:
    """As `retrieval_metrics`, with the first n distractors added to the gallery, for each n in `sizes`.

    Distances to a distractor are computed once, whatever the number of sizes, and no distance matrix is kept,
    so that Market-1501's 500,000 distractors can be used. A distractor at the same distance as a match ranks
    behind it, as if it came later in the gallery.

    Args:
        distractor_embeddings: (N, D), of identities that no query has.
        sizes: numbers of distractors, each from 0 to N.

    Raises:
        EvaluationError: as for `retrieval_metrics`, or `sizes` is empty, negative or above N.
    """
    check_max_rank(max_rank)
    sizes = [int(size) for size in sizes]
    available = len(distractor_embeddings)
    if not sizes or min(sizes) < 0 or max(sizes) > available:
        raise EvaluationError(
            f"sizes is {sizes}: give numbers of distractors from 0 to the {available} that there are."
        )
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    blocks = embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device)
    rows, ranks, limits = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    bounds = np.searchsorted(rows, np.arange(labels.num_queries + 1))
    edges = sorted({0, *sizes})
    # [edge, match]: closer distractors between the previous edge and this one; up to this one after the sum.
    ahead = np.zeros((len(edges), len(rows)), dtype=np.int64)
    if edges[-1]:
        distractors = distractor_embeddings[: edges[-1]]
        nobody = np.full(edges[-1], min(-2, int(labels.query_ids.min()) - 1))
        others = Labels(query_ids, nobody, query_cameras, np.zeros_like(nobody))
        for start, block in embedding_blocks(query_embeddings, distractors, others, memory_budget_mb, device):
            for row, distances in enumerate(block, start):
                for match in range(bounds[row], bounds[row + 1]):
                    closer = distances < limits[match].item()
                    for edge, (low, high) in enumerate(itertools.pairwise(edges), 1):
                        ahead[edge, match] = int(closer[low:high].sum())
    ahead = np.cumsum(ahead, axis=0)
    return [_summarise(rows, ranks + ahead[edges.index(size)], labels, max_rank) for size in sizes]


def rank_gallery(
    query_embeddings: Array,
    gallery_embeddings: Array,
    query_ids: Array,
    gallery_ids: Array,
    query_cameras: Array,
    gallery_cameras: Array,
    *,
    top: int = 5,
    memory_budget_mb: float = 512,
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery images of each query, with the metrics' rules for removed images and ties.

    Returns:
        indices (Q, top) int64 into the gallery as given, -1 where fewer images are left; and matches (Q, top)
        bool: whether the image shows the query's identity.

    Raises:
        EvaluationError: as for `retrieval_metrics`, or `top` is below 1.
    """
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    if top < 1:
        raise EvaluationError(f"top={top} images cannot be ranked: give at least 1.")
    indices = np.full((labels.num_queries, top), -1, dtype=np.int64)
    keep = min(top, labels.num_gallery)
    for start, block in embedding_blocks(
        query_embeddings, gallery_embeddings, labels, memory_budget_mb, device
    ):
        labels.pairs(start, block)
        for i, row in enumerate(to_numpy(block)):
            # All candidates up to the last kept distance, in gallery order: the stable sort settles ties.
            near = np.flatnonzero((row <= np.partition(row, keep - 1)[keep - 1]) & np.isfinite(row))
            near = near[np.argsort(row[near], kind="stable")][:keep]
            indices[start + i, : len(near)] = near
    matches = (labels.gallery_ids[indices] == labels.query_ids[:, None]) & (indices >= 0)
    return indices, matches


def check_max_rank(max_rank: int) -> None:
    if max_rank < 1:
        raise EvaluationError(f"max_rank={max_rank} gives an empty CMC: give at least 1.")


def _metrics(blocks: Iterator[tuple[int, Array]], labels: Labels, max_rank: int) -> RetrievalMetrics:
    check_max_rank(max_rank)
    rows, ranks, _ = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    return _summarise(rows, ranks, labels, max_rank)


def _matches(
    blocks: Iterator[tuple[int, Array]], labels: Labels
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields for each block, over its true matches: query number (ascending), rank, entry of the block."""
    for start, block in blocks:
        rows, columns = labels.pairs(start, block)
        count_before = _count_before_torch if isinstance(block, torch.Tensor) else _count_before
        ranks = 1 + count_before(block, rows, columns) if len(rows) else np.empty(0, dtype=np.int64)
        yield start + rows, ranks, to_numpy(block[rows, columns])


def _summarise(rows: np.ndarray, ranks: np.ndarray, labels: Labels, max_rank: int) -> RetrievalMetrics:
    """Metrics from the query number (ascending) and the rank of each true match, both (P,)."""
    if not len(rows):
        raise EvaluationError(labels.explain_no_match())
    ap, first, inp = (np.full(labels.num_queries, np.nan) for _ in range(3))
    ranks = ranks[np.lexsort((ranks, rows))]
    found, begin, count = np.unique(rows, return_index=True, return_counts=True)
    nth = 1 + np.arange(len(rows)) - np.repeat(begin, count)
    ap[found] = np.bincount(rows, weights=nth / ranks)[found] / count
    first[found] = ranks[begin]
    inp[found] = count / ranks[begin + count - 1]
    known = ~np.isnan(first)
    hits = np.bincount(np.minimum(first[known], max_rank + 1).astype(np.int64), minlength=max_rank + 2)
    cmc = np.cumsum(hits[1 : max_rank + 1]) / np.count_nonzero(known)
    # fsum: the means do not depend on the order of the queries.
    mean_ap, mean_inp = (math.fsum(x[known]) / np.count_nonzero(known) for x in (ap, inp))
    return RetrievalMetrics(cmc, float(mean_ap), float(mean_inp), ap, first, inp)


def _count_before(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(P,): number of entries in row rows[p] before column columns[p]: smaller, or equal and further left."""
    counts = np.empty(len(rows), dtype=np.int64)
    before = np.empty(block.shape[1], dtype=bool)
    bounds = np.searchsorted(rows, np.arange(len(block) + 1))
    for row, begin, end in zip(block, bounds[:-1], bounds[1:], strict=True):
        if end - begin > SORT_ABOVE:
            position = np.empty(len(row), dtype=np.int64)
            position[np.argsort(row, kind="stable")] = np.arange(len(row))
            counts[begin:end] = position[columns[begin:end]]
            continue
        for p in range(begin, end):
            column = columns[p]
            np.less_equal(row[:column], row[column], out=before[:column])
            np.less(row[column:], row[column], out=before[column:])
            counts[p] = np.count_nonzero(before)
    return counts


def _count_before_torch(block: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`_count_before` on a device: counts for the n-th match of every row at once."""
    bounds = np.searchsorted(rows, np.arange(len(block) + 1))
    counts = np.empty(len(rows), dtype=np.int64)
    index = torch.arange(block.shape[1], device=block.device)
    for nth in range(int(np.diff(bounds).max())):
        pairs = bounds[:-1][np.diff(bounds) > nth] + nth
        r, c = (torch.as_tensor(x[pairs], device=block.device) for x in (rows, columns))
        values, threshold = block[r], block[r, c][:, None]
        before = (values < threshold) | ((values == threshold) & (index < c[:, None]))
        counts[pairs] = before.sum(dim=1).cpu().numpy()
    return counts
