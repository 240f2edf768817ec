"""Retrieval metrics of person re-identification: CMC, mAP, mINP, single-gallery-shot scores, and ranking lists.

The Market-1501 rule (Zheng et al., ICCV 2015) holds throughout: for one query, gallery images of the same identity *and* the
same camera are removed, and so are junk images (identity -1). What is left is ranked by distance. **Ties**: of two gallery images
at the same distance the one that comes earlier in the gallery ranks first.

These metrics need the rank of each true match and nothing else, which is one more than the number of images that come before it.
So nothing is sorted and no (Q, G) array is kept: queries go in blocks, and for each true match the closer images are counted.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from reidlib.distance_blocks import Array, EvaluationError, Labels, distance_blocks, embedding_blocks, to_numpy

SORT_ABOVE = 64  # matches of one query: sorting the row once costs about as much as counting this often


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """Scores in 0..1. Means and CMC are over queries with a match in the gallery; per-query arrays hold NaN for the others.

    cmc (max_rank,): `cmc[k - 1]` is the share of queries with a match among the first k; constant beyond the gallery's size
    mean_ap, mean_inp: means of `average_precision` and `inverse_negative_penalty`
    average_precision (Q,): (1 / M) Σ_i i / r_i, with r_1 < … < r_M the ranks (from 1) of the query's M true matches
    first_match_rank (Q,): r_1      inverse_negative_penalty (Q,): M / r_M (Ye et al., TPAMI 2021)
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
        """Share of queries with a match among the first k images."""
        if not 1 <= k <= len(self.cmc):
            raise EvaluationError(f"rank({k}) is not known: the CMC was computed for ranks 1 to {len(self.cmc)}; raise max_rank.")
        return float(self.cmc[k - 1])

    def hits(self, k: int = 1) -> np.ndarray:
        """(Q,) 1.0 where the query has a match among the first k, 0.0 where not, NaN where the gallery holds no match."""
        return np.where(np.isnan(self.first_match_rank), np.nan, self.first_match_rank <= k)


class SingleShotScores(NamedTuple):
    """Expected scores over random galleries of one image per identity: cmc (max_rank,), mean_ap, average_precision (Q,)."""

    cmc: np.ndarray
    mean_ap: float
    average_precision: np.ndarray


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
    """Metrics of query (Q, D) against gallery (G, D) embeddings by squared Euclidean distance between the rows as given.

    Embeddings are arrays, memory maps (read in pieces, never copied whole) or tensors; ids and cameras are (Q,) and (G,)
    integers, id -1 is junk. Distances are float64 where either side is (or holds 32-bit integers), otherwise float32. Where they
    are exact, as between whole-numbered embeddings, the result does not depend on the block size; elsewhere only through the last
    bits of near-equal distances. `memory_budget_mb` bounds the working memory beyond the embeddings. `device` computes the
    distances, by default where the query embeddings lie. Raises EvaluationError for input that has no meaningful answer.
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
    """The same metrics from a given (Q, G) distance matrix, as re-ranking makes it. The matrix is not changed."""
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _metrics(distance_blocks(distances, labels, memory_budget_mb), labels, max_rank)


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
    """The metrics with the first n distractors (of nobody in the queries, (N, D)) added to the gallery, for each n of sizes.

    As with Market-1501's 500,000: distances to a distractor are computed once, whatever the number of sizes, and neither
    matrix is kept. A distractor at a match's distance ranks behind it, as if it came later in the gallery.
    Raises EvaluationError as `retrieval_metrics`, and for sizes that are negative or more than there are distractors.
    """
    _check_max_rank(max_rank)
    sizes = [int(size) for size in sizes]
    available = len(distractor_embeddings)
    if not sizes or min(sizes) < 0 or max(sizes) > available:
        raise EvaluationError(f"sizes is {sizes}: give numbers of distractors from 0 to the {available} that there are.")
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    blocks = embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device)
    rows, ranks, limits = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    bounds = np.searchsorted(rows, np.arange(labels.num_queries + 1))
    edges = sorted({0, *sizes})
    ahead = np.zeros((len(edges), len(rows)), dtype=np.int64)  # distractors up to each edge that are closer than each match
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
    """The nearest gallery images of each query, under the same removal and tie rules as the metrics.

    Returns indices (Q, top) int64 into the gallery as given, -1 where fewer are left, and matches (Q, top) bool: same identity.
    """
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    if top < 1:
        raise EvaluationError(f"top={top} images cannot be ranked: give at least 1.")
    indices = np.full((labels.num_queries, top), -1, dtype=np.int64)
    keep = min(top, labels.num_gallery)
    for start, block in embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device):
        labels.pairs(start, block)
        for i, row in enumerate(to_numpy(block)):
            # every candidate up to the last kept distance, in gallery order: the stable sort then settles ties
            near = np.flatnonzero((row <= np.partition(row, keep - 1)[keep - 1]) & np.isfinite(row))
            near = near[np.argsort(row[near], kind="stable")][:keep]
            indices[start + i, : len(near)] = near
    matches = (labels.gallery_ids[indices] == labels.query_ids[:, None]) & (indices >= 0)
    return indices, matches


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
    """Classic CUHK03 scores (Li et al., CVPR 2014): after the usual removals, each identity puts one random image in the gallery.

    The usual code averages random draws; this is their expectation. Given the image drawn for the query's identity, every other
    identity is ahead of it with its own probability p_c (the share of its images that are), independently, so the match's rank is
    1 + a Poisson-binomial variable, whose probabilities are built up identity by identity; AP is E[1 / rank]. Distractors that
    share one id count as one identity. Quadratic in the number of identities ahead: meant for galleries of some hundred people.
    """
    labels = Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    _check_max_rank(max_rank)
    identities, codes = np.unique(labels.gallery_ids, return_inverse=True)
    cmc, average_precision = np.zeros(max_rank), np.full(labels.num_queries, np.nan)
    for start, block in embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device):
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
            chance = np.zeros((len(places), max(max_rank, ahead.shape[1] + 1)))  # [m, k]: k others ahead of match m
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


def colour_histogram_embeddings(paths: Sequence[str | Path], bins: int = 8, *, progress: bool = True) -> np.ndarray:
    """(N, bins³) float32: the joint RGB histogram of each whole image as shares, square-rooted (so rows have length 1).

    A baseline without learning, to report beside networks. Raises EvaluationError naming an image that cannot be read.
    """
    if not 2 <= bins <= 32:
        raise EvaluationError(f"bins={bins} per colour channel must lie from 2 to 32.")
    histograms = np.empty((len(paths), bins**3), dtype=np.float32)
    for i, path in enumerate(tqdm(paths, desc="colour histograms", unit="image", disable=not progress)):
        try:
            with Image.open(path) as image:
                level = np.asarray(image.convert("RGB"), dtype=np.int64).reshape(-1, 3) * bins // 256
        except OSError as error:
            raise EvaluationError(f"The image {path} cannot be read ({error}): replace it or leave it out.") from error
        counts = np.bincount(level @ np.array([bins * bins, bins, 1]), minlength=bins**3)
        histograms[i] = np.sqrt(counts / len(level))
    return histograms


def _check_max_rank(max_rank: int) -> None:
    if max_rank < 1:
        raise EvaluationError(f"max_rank={max_rank} gives an empty CMC: give at least 1.")


def _metrics(blocks: Iterator[tuple[int, Array]], labels: Labels, max_rank: int) -> RetrievalMetrics:
    _check_max_rank(max_rank)
    rows, ranks, _ = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    return _summarise(rows, ranks, labels, max_rank)


def _matches(blocks: Iterator[tuple[int, Array]], labels: Labels) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per block its true matches: the query's number (ascending), the rank, and the entry of the block (a distance)."""
    for start, block in blocks:
        rows, columns = labels.pairs(start, block)
        count_before = _count_before_torch if isinstance(block, torch.Tensor) else _count_before
        ranks = 1 + count_before(block, rows, columns) if len(rows) else np.empty(0, dtype=np.int64)
        yield start + rows, ranks, to_numpy(block[rows, columns])


def _summarise(rows: np.ndarray, ranks: np.ndarray, labels: Labels, max_rank: int) -> RetrievalMetrics:
    """rows (P,): the query of each true match, ascending; ranks (P,)."""
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
    mean_ap, mean_inp = (
        math.fsum(x[known]) / np.count_nonzero(known) for x in (ap, inp)
    )  # fsum: the same in any order of queries
    return RetrievalMetrics(cmc, float(mean_ap), float(mean_inp), ap, first, inp)


def _count_before(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(P,) how many entries of row rows[p] come before entry columns[p]: smaller, or equal and further left."""
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
    """The same, for the n-th matches of all rows of the block at once."""
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
