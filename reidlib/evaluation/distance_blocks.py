"""Computes squared distances between queries and gallery, a block of queries at a time.

`reidlib.evaluation.metrics` ranks these blocks. Only one block of the (Q, G) matrix is in memory at a time,
and embeddings beyond the memory budget are read in pieces. `Labels` removes the entries that do not count.
"""

from collections.abc import Iterator

import numpy as np
import torch

from reidlib.errors import ReidError

Array = np.ndarray | torch.Tensor
# With more queries at once, the matrix product is no faster and the block does not fit the processor's cache.
MAX_BLOCK_ROWS = 512


class EvaluationError(ReidError):
    """Features, labels or distances that no metric can be computed from."""


class Labels:
    """Checks identities and cameras, and finds the gallery images of each query's identity.

    Raises:
        EvaluationError: an array is not one-dimensional or not of integers, ids and cameras differ in length,
            a side is empty, or all gallery images are junk (id -1).
    """

    def __init__(self, query_ids: Array, gallery_ids: Array, query_cameras: Array, gallery_cameras: Array):
        self.query_ids, self.query_cameras = (
            _integers("query_ids", query_ids),
            _integers("query_cameras", query_cameras),
        )
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
                    f"{side}_ids has {count} entries but {side}_cameras has {cameras}: give one of each per "
                    "image."
                )
            if count == 0:
                raise EvaluationError(f"The {side} is empty: give at least one {side} image.")
        self.junk = np.flatnonzero(self.gallery_ids == -1)
        if len(self.junk) == self.num_gallery:
            raise EvaluationError(
                f"All {self.num_gallery} gallery images are junk (id -1): nothing is left to rank."
            )
        self._order = np.argsort(self.gallery_ids, kind="stable")
        grouped = self.gallery_ids[self._order]
        self._first = np.searchsorted(grouped, self.query_ids, side="left")
        self._count = np.searchsorted(grouped, self.query_ids, side="right") - self._first
        self._count[self.query_ids == -1] = 0  # a junk query matches nothing

    def pairs(self, start: int, block: Array) -> tuple[np.ndarray, np.ndarray]:
        """Finds a block's true matches, and removes images of the query's own identity and camera.

        Args:
            start: the number of the block's first query.
            block: (B, G) distances; entries that are removed become infinity, in place.

        Returns:
            The row in the block (ascending) and the gallery column of each true match.
        """
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
                f"None of the {self.num_queries} queries has a match: {shared} share their identity with "
                "gallery images, but always from the query's own camera, which the protocol removes. The "
                "cameras coincide: check how camera numbers are read from file names."
            )
        return (
            f"None of the {self.num_queries} queries has a match: no query identity occurs among the "
            f"{self.num_gallery} gallery images. Check that query and gallery come from the same data set "
            "and that ids were not renumbered."
        )


def _integers(name: str, values: Array) -> np.ndarray:
    values = to_numpy(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise EvaluationError(
            f"{name} must be a one-dimensional array of integers, not {values.dtype} of shape {values.shape}."
        )
    return values.astype(np.int64)


def to_numpy(values: Array) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asanyarray(values)


def _block_rows(labels: Labels, bytes_per_entry: int, budget: float) -> int:
    row = labels.num_gallery * bytes_per_entry
    if budget < row:
        raise EvaluationError(
            f"memory_budget_mb is too small: one query against {labels.num_gallery} gallery images needs "
            f"{row / 2**20:.3g} MB for distances, for which half the budget is kept; raise memory_budget_mb "
            f"to {2 * row / 2**20:.3g} at least."
        )
    return min(int(budget // row), labels.num_queries, MAX_BLOCK_ROWS)


def _squared_norms(name: str, embeddings: Array, dtype: np.dtype, chunk: int) -> np.ndarray:
    """(N,) squared lengths of the rows, which are read in chunks.

    Raises:
        EvaluationError: a row holds NaN or infinity, or its squared length overflows.
    """
    norms = np.empty(len(embeddings), dtype=dtype)
    for start in range(0, len(embeddings), chunk):
        rows = to_numpy(embeddings[start : start + chunk]).astype(dtype, copy=False)
        norms[start : start + chunk] = np.einsum("ij,ij->i", rows, rows)
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        finite = np.isfinite(to_numpy(embeddings[int(bad[0]) : int(bad[0]) + 1])).all()
        what = f"are too large to be squared in {dtype}" if finite else "hold NaN or infinite features"
        raise EvaluationError(
            f"{len(bad)} of {len(norms)} rows of {name} {what}, the first is row {bad[0]}: "
            "check whether the network's training diverged."
        )
    return norms


def embedding_blocks(
    query: Array, gallery: Array, labels: Labels, memory_budget_mb: float, device: str | torch.device | None
) -> Iterator[tuple[int, Array]]:
    """Yields (first query, block (B, G)) with |g|² - 2 q·g, and infinity for junk.

    This is the squared distance without |q|², which is the same in a whole row and changes no order.

    Raises:
        EvaluationError: shapes or types do not fit, an embedding is not finite, or the memory budget is too
            small for one query.
    """
    query, gallery = (x if isinstance(x, torch.Tensor) else np.asanyarray(x) for x in (query, gallery))
    for name, array, count in (
        ("query", query, labels.num_queries),
        ("gallery", gallery, labels.num_gallery),
    ):
        if array.ndim != 2 or len(array) != count:
            raise EvaluationError(
                f"{name}_embeddings has shape {tuple(array.shape)}, but {name}_ids has {count}: give "
                f"({count}, D)."
            )
    dim = query.shape[1]
    if dim != gallery.shape[1] or dim == 0:
        raise EvaluationError(
            f"query_embeddings have {dim} dimensions and gallery_embeddings {gallery.shape[1]}: "
            "both must come from the same network."
        )
    # an empty slice tells the dtype without reading a memory map or moving a tensor
    dtype = np.result_type(to_numpy(query[:0]).dtype, to_numpy(gallery[:0]).dtype, np.float32)
    if dtype not in (np.float32, np.float64):
        raise EvaluationError(f"Embeddings must be real numbers of at most 64 bits, not {dtype}.")
    # Half of the budget is for the block of distances, half for pieces of the embeddings.
    half = memory_budget_mb * 2**20 / 2
    chunk = max(1, int(half // (2 * dtype.itemsize * dim)))
    if device is None:
        device = query.device if isinstance(query, torch.Tensor) else "cpu"
    on_cpu = torch.device(device).type == "cpu"
    # Bytes per entry: the distance, and the temporary arrays in which closer images are counted.
    rows = _block_rows(labels, dtype.itemsize + 1 if on_cpu else 2 * dtype.itemsize + 3, half)
    _squared_norms("query_embeddings", query, dtype, chunk)
    norms = _squared_norms("gallery_embeddings", gallery, dtype, chunk)
    norms[labels.junk] = np.inf
    blocks = (
        _numpy_blocks(query, gallery, norms, rows, chunk)
        if on_cpu
        else _torch_blocks(query, gallery, norms, rows, chunk, device)
    )
    yield from blocks


def _numpy_blocks(
    query: Array, gallery: Array, norms: np.ndarray, rows: int, chunk: int
) -> Iterator[tuple[int, np.ndarray]]:
    dtype = norms.dtype
    contiguous = gallery.is_contiguous() if isinstance(gallery, torch.Tensor) else gallery.flags.c_contiguous
    if contiguous and to_numpy(gallery[:0]).dtype == dtype:
        chunk = len(gallery)  # the matrix product reads it in place
    buffer = np.empty((rows, len(gallery)), dtype=dtype)
    for start in range(0, len(query), rows):
        queries = to_numpy(query[start : start + rows]).astype(dtype) * dtype.type(-2)  # without rounding
        block = buffer[: len(queries)]
        for column in range(0, len(gallery), chunk):
            part = to_numpy(gallery[column : column + chunk]).astype(dtype, copy=False)
            np.matmul(queries, part.T, out=block[:, column : column + len(part)])
        block += norms
        yield start, block


def _torch_blocks(
    query: Array, gallery: Array, norms: np.ndarray, rows: int, chunk: int, device: str | torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    norms = torch.as_tensor(norms, device=device)

    def moved(part: Array) -> torch.Tensor:
        return (part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part))).to(
            device, norms.dtype
        )

    if len(gallery) <= chunk:
        gallery = moved(gallery)  # once; a larger gallery is moved in pieces, again for every block
    for start in range(0, len(query), rows):
        queries = moved(query[start : start + rows]) * -2
        block = norms.repeat(len(queries), 1)
        for column in range(0, len(gallery), chunk):
            part = moved(gallery[column : column + chunk])
            # Not in TensorFloat-32, which training may have switched on: its 10 bits of mantissa are too few
            # to order near neighbours.
            precision, torch.backends.cuda.matmul.fp32_precision = (
                torch.backends.cuda.matmul.fp32_precision,
                "ieee",
            )
            block[:, column : column + len(part)] += queries @ part.T
            torch.backends.cuda.matmul.fp32_precision = precision
        yield start, block


def blocks_of_distances(
    distances: Array, labels: Labels, memory_budget_mb: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first query, block (B, G)) as copies of a given (Q, G) matrix, with infinity for junk.

    Raises:
        EvaluationError: the shape does not fit the labels, or a distance is not finite.
    """
    distances = distances if isinstance(distances, torch.Tensor) else np.asanyarray(distances)
    expected = (labels.num_queries, labels.num_gallery)
    if tuple(distances.shape) != expected:
        raise EvaluationError(
            f"distances has shape {tuple(distances.shape)}, but the ids call for {expected}."
        )
    rows = _block_rows(labels, 9, memory_budget_mb * 2**20 / 2)
    starts = range(0, len(distances), rows)
    bad = [
        start + np.flatnonzero(~np.isfinite(to_numpy(distances[start : start + rows])).all(axis=1))
        for start in starts
    ]
    bad = np.concatenate(bad)
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} of {len(distances)} rows of distances hold NaN or infinity; the first is row "
            f"{bad[0]}."
        )
    for start in starts:
        block = to_numpy(distances[start : start + rows])
        # A copy, because removed entries are set to infinity.
        block = block.astype(np.result_type(block.dtype, np.float32))
        block[:, labels.junk] = np.inf
        yield start, block
