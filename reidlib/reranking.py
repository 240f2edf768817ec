"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) with sparse arrays: memory grows with N·k, not N².

There are N = Q + G images. The neighbours N(i, k) of image i are itself and its k nearest others. All steps
work on sparse (N, N) arrays:

    R(i, k)  = {j in N(i, k): i in N(j, k)}                                 k-reciprocal neighbours (eq. 3)
    R*(i)    = R(i, k1) and every R(c, k1/2), c in R(i, k1),
               that overlaps it by more than 2/3 of its own size                                    (eq. 4)
    V(i, j)  = exp(-d(i, j)) for j in R*(i), rows scaled to sum 1;
               then averaged over the first k2 of N(i, ·)                                       (eq. 7, 11)
    d_J(q,g) = 1 - Σ_j min(V(q, j), V(g, j)) / Σ_j max(V(q, j), V(g, j))          Jaccard distance (eq. 10)
    result   = (1 - λ) d_J + λ d                                                                   (eq. 12)

As in the code that ABD-Net and PFSA were published with, rows are scaled to sum 1, and d is the squared
Euclidean distance divided by the largest one in row i, so it is not symmetric. Ties: of equally distant
images the earlier one (queries before gallery) is nearer, but an image always comes before its own copies.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from reidlib.errors import ReidError

Array = np.ndarray | torch.Tensor
BLOCK_ROWS = 512


class RerankingError(ReidError):
    """Features or settings cannot be re-ranked, or memory is too small."""


def k_reciprocal_distances(
    query_embeddings: Array,
    gallery_embeddings: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    merge_threshold: float = 2 / 3,
    half_precision: bool = False,
    memory_limit_mb: float | None = None,
) -> np.ndarray:
    """(Q, G) re-ranked distances of query (Q, D) against gallery (G, D) embeddings.

    The result is float64 if the embeddings are, otherwise float32. Where Q + G ≤ k1 every image is a
    neighbour. Memory beyond the embeddings is about that of the result plus (Q + G) · k1² numbers.

    Args:
        merge_threshold: the 2/3 of eq. 4. The released code ran under Python 2, where `2/3` is 0, so that
            every overlap merged: 0.0 gives that form.
        half_precision: round what the released code stored (scaled distances, encodings, result) to float16;
            many distances are then equal.
        memory_limit_mb: refuse to start if an upper estimate of the memory exceeds it; None: what the machine
            has free.

    Raises:
        RerankingError: NaN or infinite features, unequal dimensions, empty input, settings outside their
            range, or too little memory.
    """
    for name, value, low in (("k1", k1, 1), ("k2", k2, 1)):
        if value < low or value != int(value):
            raise RerankingError(f"{name}={value} must be a whole number of neighbours, at least {low}.")
    for name, value in (("lambda_value", lambda_value), ("merge_threshold", merge_threshold)):
        if not 0 <= value <= 1:
            raise RerankingError(f"{name}={value} must lie from 0 to 1.")
    features = _joined(query_embeddings, gallery_embeddings)
    num_queries, total = len(query_embeddings), len(features)
    half = round(k1 / 2)
    _check_memory(features, num_queries, k1, half, k2, memory_limit_mb)

    neighbours, largest, result = _neighbours(
        features, num_queries, min(max(k1 + 1, k2), total), half_precision
    )
    near, nearer = _reciprocal(neighbours[:, : k1 + 1]), _reciprocal(neighbours[:, : half + 1])
    overlap = (near @ nearer.T).multiply(near).tocoo()  # |R(c, k1/2) ∩ R(i, k1)| for c in R(i, k1)
    merged = overlap.data > merge_threshold * np.diff(nearer.indptr)[overlap.col]
    merged = sparse.csr_array(
        (np.ones(merged.sum(), np.int32), (overlap.row[merged], overlap.col[merged])), shape=near.shape
    )
    encoding = _encode(near + merged @ nearer, features, largest, half_precision)
    if k2 > 1:
        first = neighbours[:, :k2]
        encoding = _indicator(first).astype(encoding.dtype) @ encoding / encoding.dtype.type(first.shape[1])
        encoding.data = _stored(encoding.data, half_precision)
    result *= lambda_value
    _add_jaccard(result, encoding, num_queries, 1 - lambda_value)
    return _stored(result, half_precision)


def _stored(values: np.ndarray, half_precision: bool) -> np.ndarray:
    """The values; with half_precision rounded to float16 and converted back."""
    return values.astype(np.float16).astype(values.dtype) if half_precision else values


def _joined(query: Array, gallery: Array) -> np.ndarray:
    """Query and gallery as one checked (Q + G, D) array of one floating type."""
    arrays = []
    for name, values in (("query_embeddings", query), ("gallery_embeddings", gallery)):
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            values = values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
        values = np.asanyarray(values)
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
            raise RerankingError(
                f"{name} must be a non-empty (N, D) array of real numbers, "
                f"not {values.dtype} of shape {values.shape}."
            )
        arrays.append(values)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise RerankingError(
            f"query_embeddings have {arrays[0].shape[1]} dimensions "
            f"and gallery_embeddings {arrays[1].shape[1]}: both must come from the same network."
        )
    features = np.concatenate(arrays, dtype=np.result_type(*arrays, np.float32))
    bad = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", features, features)))
    if len(bad):
        raise RerankingError(
            f"{len(bad)} of {len(features)} rows (queries first, then gallery) hold NaN, infinite or too "
            f"large features, the first is row {bad[0]}: check whether the network's training diverged."
        )
    return features


def _check_memory(
    features: np.ndarray, num_queries: int, k1: int, half: int, k2: int, limit_mb: float | None
) -> None:
    total, size = len(features), features.itemsize
    row = min(total, (k1 + 1) * (half + 1))  # the most entries in a row of the merged neighbourhoods
    entries = total * (2 * row + min(total, k2 * row))
    needed = (
        num_queries * (total - num_queries) * size + 2 * BLOCK_ROWS * total * size + entries * (size + 4)
    ) / 2**20
    if limit_mb is None:
        meminfo = Path("/proc/meminfo")
        if not meminfo.exists():  # not Linux: there is no portable way to read the free memory
            return
        limit_mb = (
            next(
                int(line.split()[1])
                for line in meminfo.read_text().splitlines()
                if line.startswith("MemAvailable")
            )
            / 2**10
        )
    if needed > limit_mb:
        raise RerankingError(
            f"Re-ranking {num_queries} queries against {total - num_queries} gallery images "
            f"takes up to {needed:.0f} MB, but {limit_mb:.0f} MB are free: "
            "use fewer queries at a time, a smaller k1, or a larger machine."
        )


def _neighbours(
    features: np.ndarray, num_queries: int, k: int, half_precision: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours (N, k) in order, each row's largest squared distance (N,), and scaled distances d (Q, G)."""
    total = len(features)
    norms = np.einsum("ij,ij->i", features, features)
    neighbours, largest = np.empty((total, k), dtype=np.int32), np.empty(total, dtype=features.dtype)
    scaled = np.empty((num_queries, total - num_queries), dtype=features.dtype)
    buffer = np.empty((min(BLOCK_ROWS, total), total), dtype=features.dtype)
    for start in range(0, total, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, total))
        block = np.matmul(features[rows] * -2, features.T, out=buffer[: rows.stop - start])
        block += norms
        block += norms[rows, None]
        largest[rows] = block.max(axis=1)
        if (largest[rows] <= 0).any():
            raise RerankingError(
                "All features are equal, so there is nothing to rank: check the network that made them."
            )
        block /= largest[rows, None]
        if half_precision:
            block[:] = _stored(block, half_precision)
        # An image comes first among its own copies, too.
        block[np.arange(len(block)), np.arange(start, rows.stop)] = -1
        for i, row in enumerate(block):
            near = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])
            neighbours[start + i] = near[np.argsort(row[near], kind="stable")][:k]
        queries = min(rows.stop, num_queries) - start
        if queries > 0:
            scaled[start : start + queries] = block[:queries, num_queries:]
    return neighbours, largest, scaled


def _indicator(neighbours: np.ndarray) -> sparse.csr_array:
    total, k = neighbours.shape
    entries = (
        np.ones(total * k, dtype=np.int32),
        neighbours.ravel(),
        np.arange(0, total * k + 1, k, dtype=np.int32),
    )
    return sparse.csr_array(entries, shape=(total, total))


def _reciprocal(neighbours: np.ndarray) -> sparse.csr_array:
    indicator = _indicator(neighbours)
    return indicator.multiply(indicator.T.tocsr()).tocsr()


def _encode(
    members: sparse.csr_array, features: np.ndarray, largest: np.ndarray, half_precision: bool
) -> sparse.csr_array:
    """V before averaging: exp(-d) where `members` has an entry, with rows scaled to sum 1."""
    members = members.tocsr()
    rows = np.repeat(np.arange(len(features)), np.diff(members.indptr))
    weights = np.empty(len(rows), dtype=features.dtype)
    step = max(1, 2**24 // features.shape[1])  # 64 MB of float32 at a time
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        difference = features[rows[pairs]] - features[members.indices[pairs]]
        weights[pairs] = np.einsum("ij,ij->i", difference, difference)
    weights = np.exp(-_stored(weights / largest[rows], half_precision))
    weights /= np.bincount(rows, weights=weights)[rows]
    weights = _stored(weights, half_precision)
    return sparse.csr_array((weights, members.indices, members.indptr), shape=members.shape)


def _add_jaccard(result: np.ndarray, encoding: sparse.csr_array, num_queries: int, factor: float) -> None:
    """Adds factor · d_J to the (Q, G) result.

    A query is compared only with gallery images that share a member with it.
    """
    queries, by_member = encoding[:num_queries].tocsr(), encoding[num_queries:].tocsc()
    starts, counts = by_member.indptr[:-1], np.diff(by_member.indptr)
    for q, row in enumerate(result):
        entries = slice(queries.indptr[q], queries.indptr[q + 1])
        members, weights = queries.indices[entries], queries.data[entries]
        count = counts[members]
        where = np.repeat(starts[members] - np.cumsum(count) + count, count) + np.arange(count.sum())
        least = np.minimum(by_member.data[where], np.repeat(weights, count))
        shared = np.bincount(by_member.indices[where], weights=least, minlength=len(row))
        row += factor * (1 - shared / (2 - shared))  # both rows of V sum to 1, so Σ max = 2 - Σ min
