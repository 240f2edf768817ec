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

from reidlib.errors import ReidError

Array = np.ndarray | torch.Tensor
MAX_BLOCK_ROWS = 512  # more queries at once make the matrix product no faster, and the block leaves the processor's cache
SORT_ABOVE = 64  # matches of one query: sorting the row once costs about as much as counting this often


class EvaluationError(ReidError):
    """Features, labels or distances that no metric can be computed from."""


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
    labels = _Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    blocks = _embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device)
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
    labels = _Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _metrics(_distance_blocks(distances, labels, memory_budget_mb), labels, max_rank)


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
    labels = _Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    blocks = _embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device)
    rows, ranks, limits = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    bounds = np.searchsorted(rows, np.arange(labels.num_queries + 1))
    edges = sorted({0, *sizes})
    ahead = np.zeros((len(edges), len(rows)), dtype=np.int64)  # distractors up to each edge that are closer than each match
    if edges[-1]:
        distractors = distractor_embeddings[: edges[-1]]
        nobody = np.full(edges[-1], min(-2, int(labels.query_ids.min()) - 1))
        others = _Labels(query_ids, nobody, query_cameras, np.zeros_like(nobody))
        for start, block in _embedding_blocks(query_embeddings, distractors, others, memory_budget_mb, device):
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
    labels = _Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    if top < 1:
        raise EvaluationError(f"top={top} images cannot be ranked: give at least 1.")
    indices = np.full((labels.num_queries, top), -1, dtype=np.int64)
    keep = min(top, labels.num_gallery)
    for start, block in _embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device):
        labels.pairs(start, block)
        for i, row in enumerate(_to_numpy(block)):
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
    labels = _Labels(query_ids, gallery_ids, query_cameras, gallery_cameras)
    _check_max_rank(max_rank)
    identities, codes = np.unique(labels.gallery_ids, return_inverse=True)
    cmc, average_precision = np.zeros(max_rank), np.full(labels.num_queries, np.nan)
    for start, block in _embedding_blocks(query_embeddings, gallery_embeddings, labels, memory_budget_mb, device):
        rows, columns = labels.pairs(start, block)
        for i, row in enumerate(_to_numpy(block)):
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


class _Labels:
    """Validated ids and cameras, and for a block of queries the pairs (row, gallery column) of the same identity."""

    def __init__(self, query_ids: Array, gallery_ids: Array, query_cameras: Array, gallery_cameras: Array):
        self.query_ids, self.query_cameras = _integers("query_ids", query_ids), _integers("query_cameras", query_cameras)
        self.gallery_ids, self.gallery_cameras = (
            _integers("gallery_ids", gallery_ids),
            _integers("gallery_cameras", gallery_cameras),
        )
        self.num_queries, self.num_gallery = len(self.query_ids), len(self.gallery_ids)
        for side, count, cameras in (
            ("query", self.num_queries, len(self.query_cameras)),
            ("gallery", self.num_gallery, len(self.gallery_cameras)),
        ):
            if count != cameras:
                raise EvaluationError(
                    f"{side}_ids has {count} entries but {side}_cameras has {cameras}: give one of each per image."
                )
            if count == 0:
                raise EvaluationError(f"The {side} is empty: give at least one {side} image.")
        self.junk = np.flatnonzero(self.gallery_ids == -1)
        if len(self.junk) == self.num_gallery:
            raise EvaluationError(f"All {self.num_gallery} gallery images are junk (id -1): nothing is left to rank.")
        self._order = np.argsort(self.gallery_ids, kind="stable")
        grouped = self.gallery_ids[self._order]
        self._first = np.searchsorted(grouped, self.query_ids, side="left")
        self._count = np.searchsorted(grouped, self.query_ids, side="right") - self._first
        self._count[self.query_ids == -1] = 0  # a junk query matches nothing

    def pairs(self, start: int, block: Array) -> tuple[np.ndarray, np.ndarray]:
        """Sets entries of the same identity and camera to infinity; returns the true matches' rows (ascending) and columns."""
        first, count = self._first[start : start + len(block)], self._count[start : start + len(block)]
        rows = np.repeat(np.arange(len(block)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        columns = self._order[np.repeat(first, count) + within]
        removed = self.query_cameras[start + rows] == self.gallery_cameras[columns]
        block[rows[removed], columns[removed]] = float("inf")
        return rows[~removed], columns[~removed]

    def explain_no_match(self) -> str:
        shared = int(np.count_nonzero(self._count))
        if shared:
            return (
                f"None of the {self.num_queries} queries has a match: {shared} share their identity with gallery images, but "
                "always from the query's own camera, which the protocol removes. The cameras coincide: check how camera numbers "
                "are read from file names."
            )
        return (
            f"None of the {self.num_queries} queries has a match: no query identity occurs among the {self.num_gallery} gallery "
            "images. Check that query and gallery come from the same data set and that ids were not renumbered."
        )


def _integers(name: str, values: Array) -> np.ndarray:
    values = _to_numpy(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise EvaluationError(f"{name} must be a one-dimensional array of integers, not {values.dtype} of shape {values.shape}.")
    return values.astype(np.int64)


def _to_numpy(values: Array) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asanyarray(values)


def _check_max_rank(max_rank: int) -> None:
    if max_rank < 1:
        raise EvaluationError(f"max_rank={max_rank} gives an empty CMC: give at least 1.")


def _block_rows(labels: _Labels, bytes_per_entry: int, budget: float) -> int:
    row = labels.num_gallery * bytes_per_entry
    if budget < row:
        raise EvaluationError(
            f"memory_budget_mb is too small: one query against {labels.num_gallery} gallery images needs {row / 2**20:.3g} MB "
            f"for distances, for which half the budget is kept; raise memory_budget_mb to {2 * row / 2**20:.3g} at least."
        )
    return min(int(budget // row), labels.num_queries, MAX_BLOCK_ROWS)


def _squared_norms(name: str, embeddings: Array, dtype: np.dtype, chunk: int) -> np.ndarray:
    """(N,) squared lengths, read in chunks; raises where a row holds NaN or infinity, or is too long to be squared."""
    norms = np.empty(len(embeddings), dtype=dtype)
    for start in range(0, len(embeddings), chunk):
        rows = _to_numpy(embeddings[start : start + chunk]).astype(dtype, copy=False)
        norms[start : start + chunk] = np.einsum("ij,ij->i", rows, rows)
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        finite = np.isfinite(_to_numpy(embeddings[int(bad[0]) : int(bad[0]) + 1])).all()
        what = f"are too large to be squared in {dtype}" if finite else "hold NaN or infinite features"
        raise EvaluationError(
            f"{len(bad)} of {len(norms)} rows of {name} {what}, the first is row {bad[0]}: "
            "check whether the network's training diverged."
        )
    return norms


def _embedding_blocks(
    query: Array, gallery: Array, labels: _Labels, memory_budget_mb: float, device: str | torch.device | None
) -> Iterator[tuple[int, Array]]:
    """Yields (first query, block (B, G)): |g|² - 2 q·g, the squared distance less the row's constant |q|²; infinity for junk."""
    query, gallery = (x if isinstance(x, torch.Tensor) else np.asanyarray(x) for x in (query, gallery))
    for name, array, count in (("query", query, labels.num_queries), ("gallery", gallery, labels.num_gallery)):
        if array.ndim != 2 or len(array) != count:
            raise EvaluationError(
                f"{name}_embeddings has shape {tuple(array.shape)}, but {name}_ids has {count}: give ({count}, D)."
            )
    dim = query.shape[1]
    if dim != gallery.shape[1] or dim == 0:
        raise EvaluationError(
            f"query_embeddings have {dim} dimensions and gallery_embeddings {gallery.shape[1]}: "
            "both must come from the same network."
        )
    # an empty slice tells the dtype without reading a memory map or moving a tensor
    dtype = np.result_type(_to_numpy(query[:0]).dtype, _to_numpy(gallery[:0]).dtype, np.float32)
    if dtype not in (np.float32, np.float64):
        raise EvaluationError(f"Embeddings must be real numbers of at most 64 bits, not {dtype}.")
    half = memory_budget_mb * 2**20 / 2  # one half is for the block of distances, the other for pieces of the embeddings
    chunk = max(1, int(half // (2 * dtype.itemsize * dim)))
    if device is None:
        device = query.device if isinstance(query, torch.Tensor) else "cpu"
    on_cpu = torch.device(device).type == "cpu"
    rows = _block_rows(
        labels, dtype.itemsize + 1 if on_cpu else 2 * dtype.itemsize + 3, half
    )  # with the counting's intermediates
    _squared_norms("query_embeddings", query, dtype, chunk)
    norms = _squared_norms("gallery_embeddings", gallery, dtype, chunk)
    norms[labels.junk] = np.inf
    blocks = (
        _numpy_blocks(query, gallery, norms, rows, chunk) if on_cpu else _torch_blocks(query, gallery, norms, rows, chunk, device)
    )
    yield from blocks


def _numpy_blocks(query: Array, gallery: Array, norms: np.ndarray, rows: int, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    dtype = norms.dtype
    contiguous = gallery.is_contiguous() if isinstance(gallery, torch.Tensor) else gallery.flags.c_contiguous
    if contiguous and _to_numpy(gallery[:0]).dtype == dtype:
        chunk = len(gallery)  # the matrix product reads it in place
    buffer = np.empty((rows, len(gallery)), dtype=dtype)
    for start in range(0, len(query), rows):
        queries = _to_numpy(query[start : start + rows]).astype(dtype) * dtype.type(-2)  # exact
        block = buffer[: len(queries)]
        for column in range(0, len(gallery), chunk):
            part = _to_numpy(gallery[column : column + chunk]).astype(dtype, copy=False)
            np.matmul(queries, part.T, out=block[:, column : column + len(part)])
        block += norms
        yield start, block


def _torch_blocks(
    query: Array, gallery: Array, norms: np.ndarray, rows: int, chunk: int, device: str | torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    norms = torch.as_tensor(norms, device=device)

    def moved(part: Array) -> torch.Tensor:
        return (part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part))).to(device, norms.dtype)

    if len(gallery) <= chunk:
        gallery = moved(gallery)  # once; a larger one goes piece by piece for every block
    for start in range(0, len(query), rows):
        queries = moved(query[start : start + rows]) * -2
        block = norms.repeat(len(queries), 1)
        for column in range(0, len(gallery), chunk):
            part = moved(gallery[column : column + chunk])
            # TensorFloat-32, which training may have switched on, has 10 bits of mantissa: too few to order near neighbours
            precision, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, "ieee"
            block[:, column : column + len(part)] += queries @ part.T
            torch.backends.cuda.matmul.fp32_precision = precision
        yield start, block


def _distance_blocks(distances: Array, labels: _Labels, memory_budget_mb: float) -> Iterator[tuple[int, np.ndarray]]:
    distances = distances if isinstance(distances, torch.Tensor) else np.asanyarray(distances)
    expected = (labels.num_queries, labels.num_gallery)
    if tuple(distances.shape) != expected:
        raise EvaluationError(f"distances has shape {tuple(distances.shape)}, but the ids call for {expected}.")
    rows = _block_rows(labels, 9, memory_budget_mb * 2**20 / 2)
    starts = range(0, len(distances), rows)
    bad = [start + np.flatnonzero(~np.isfinite(_to_numpy(distances[start : start + rows])).all(axis=1)) for start in starts]
    bad = np.concatenate(bad)
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} of {len(distances)} rows of distances hold NaN or infinity; the first is row {bad[0]}."
        )
    for start in starts:
        block = _to_numpy(distances[start : start + rows])
        block = block.astype(np.result_type(block.dtype, np.float32))  # a copy: removed entries are set to infinity in it
        block[:, labels.junk] = np.inf
        yield start, block


def _metrics(blocks: Iterator[tuple[int, Array]], labels: _Labels, max_rank: int) -> RetrievalMetrics:
    _check_max_rank(max_rank)
    rows, ranks, _ = (np.concatenate(parts) for parts in zip(*_matches(blocks, labels), strict=True))
    return _summarise(rows, ranks, labels, max_rank)


def _matches(blocks: Iterator[tuple[int, Array]], labels: _Labels) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per block its true matches: the query's number (ascending), the rank, and the entry of the block (a distance)."""
    for start, block in blocks:
        rows, columns = labels.pairs(start, block)
        count_before = _count_before_torch if isinstance(block, torch.Tensor) else _count_before
        ranks = 1 + count_before(block, rows, columns) if len(rows) else np.empty(0, dtype=np.int64)
        yield start + rows, ranks, _to_numpy(block[rows, columns])


def _summarise(rows: np.ndarray, ranks: np.ndarray, labels: _Labels, max_rank: int) -> RetrievalMetrics:
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
