"""Time and peak memory of the metrics and of re-ranking, beside plain numpy in the same run.

    python benchmarks/bench_evaluation.py           Market-1501's size: 3,368 × 15,913, 256-d; 6,000 re-ranked
    python benchmarks/bench_evaluation.py --quick   takes seconds
    python benchmarks/bench_evaluation.py --queries 11659 --gallery 82161 --dim 2048 --identities 3060 \\
        --only-reidlib
    python benchmarks/bench_evaluation.py --distractors 500000 --rerank-images 19281 --only-reidlib

The plain metrics start from a finished distance matrix, whose time and memory are not counted; reidlib's
numbers include it. Memory is the peak of what numpy and Python allocate beyond the input. It is measured in a
separate call, because tracing costs time.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reidlib.evaluation import RetrievalMetrics, retrieval_metrics
from reidlib.reranking import k_reciprocal_distances


def made_up(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Embeddings and labels: identities around random centres, six cameras, distractors with identity 0."""
    rng = np.random.default_rng(args.seed)
    centres = rng.standard_normal((args.identities + 1, args.dim), dtype=np.float32)
    ids = {
        "query": rng.integers(1, args.identities + 1, args.queries),
        "gallery": np.concatenate(
            [rng.integers(1, args.identities + 1, args.gallery), np.zeros(args.distractors, dtype=np.int64)]
        ),
    }
    made = {}
    for side, of in ids.items():
        embeddings = rng.standard_normal((len(of), args.dim), dtype=np.float32)
        embeddings *= args.noise
        for start in range(0, len(of), 4096):
            rows = slice(start, start + 4096)
            embeddings[rows] += centres[of[rows]] * (of[rows] > 0)[:, None]
        made |= {
            f"{side}_embeddings": embeddings,
            f"{side}_ids": of,
            f"{side}_cameras": rng.integers(0, 6, len(of)),
        }
    return made


def squared_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    distances = query @ gallery.T
    distances *= -2
    distances += (gallery**2).sum(axis=1)
    distances += (query**2).sum(axis=1)[:, None]
    return distances


def plain_metrics(
    distances: np.ndarray, labels: list[np.ndarray], *, divide_in_python: bool
) -> tuple[float, float]:
    """mAP and rank-1 the usual way: one argsort over all rows, then a loop over queries.

    Args:
        divide_in_python: compute the precision at every rank in a list comprehension, as many public
            evaluators do; otherwise with arrays.
    """
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    order = np.argsort(distances, axis=1)
    average_precision, first = [], []
    for q in range(len(distances)):
        ids = gallery_ids[order[q]]
        matches = ids == query_ids[q]
        kept = ~(matches & (gallery_cameras[order[q]] == query_cameras[q])) & (ids != -1)
        hits = matches[kept].astype(np.int32)
        if not hits.any():
            continue
        found = hits.cumsum()
        if divide_in_python:
            precision = np.asarray([x / (i + 1.0) for i, x in enumerate(found)])
        else:
            precision = found / np.arange(1, len(found) + 1)
        average_precision.append((precision * hits).sum() / hits.sum())
        first.append(hits[0])
    return float(np.mean(average_precision)), float(np.mean(first))


def plain_reranking(
    query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> np.ndarray:
    """k-reciprocal re-ranking with dense (N, N) arrays, image by image."""
    features = np.concatenate([query, gallery])
    distances = squared_distances(features, features)
    distances /= distances.max(axis=1, keepdims=True)
    rank = np.argsort(distances, axis=1)
    total, half = len(features), round(k1 / 2)

    def reciprocal(i: int, k: int) -> np.ndarray:
        ahead = rank[i, : k + 1]
        return ahead[(rank[ahead, : k + 1] == i).any(axis=1)]

    encoding = np.zeros_like(distances)
    for i in range(total):
        near = members = reciprocal(i, k1)
        for candidate in near:
            other = reciprocal(candidate, half)
            if np.isin(other, near).sum() > 2 / 3 * len(other):
                members = np.append(members, other)
        members = np.unique(members)
        weights = np.exp(-distances[i, members])
        encoding[i, members] = weights / weights.sum()
    encoding = np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(total)])
    holders = [np.flatnonzero(encoding[:, j]) for j in range(total)]
    result = lambda_value * distances[: len(query), len(query) :]
    for q in range(len(query)):
        shared = np.zeros(total, dtype=np.float32)
        for j in np.flatnonzero(encoding[q]):
            shared[holders[j]] += np.minimum(encoding[q, j], encoding[holders[j], j])
        result[q] += (1 - lambda_value) * (1 - shared / (2 - shared))[len(query) :]
    return result


def timed(call: Callable, repeats: int = 1) -> tuple[object, float]:
    """The result of `call`, and the seconds of the fastest of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def peak_megabytes(call: Callable) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def report(name: str, seconds: float, peak: float, ours: float | None = None) -> None:
    ratio = "" if ours is None else f"{seconds / ours:9.1f} × the time of reidlib"
    print(f"  {name:<34}{seconds:9.3f} s{peak:8.0f} MB{ratio}", flush=True)


def bench_metrics(args: argparse.Namespace) -> None:
    data = made_up(args)
    labels = [data[name] for name in ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")]
    print(f"metrics: {args.queries} queries × {len(labels[1])} gallery images, {args.dim}-d")

    def reidlib() -> RetrievalMetrics:
        return retrieval_metrics(**data, memory_budget_mb=args.memory_budget_mb)

    metrics, ours = timed(reidlib, args.repeats)
    report("reidlib, distances included", ours, peak_megabytes(reidlib))
    print(f"  mAP {metrics.mean_ap:.4f}, rank-1 {metrics.rank1:.4f}")
    if args.only_reidlib:
        return
    distances = squared_distances(data["query_embeddings"], data["gallery_embeddings"])
    # Only the form with arrays is traced: tracing a list comprehension takes minutes, and its lists are small
    # beside the argsort's array, which both forms hold.
    peak = peak_megabytes(lambda: plain_metrics(distances, labels, divide_in_python=False))
    for name, in_python in (("plain numpy", True), ("plain numpy, precisions by arrays", False)):
        scores, seconds = timed(
            lambda in_python=in_python: plain_metrics(distances, labels, divide_in_python=in_python)
        )
        report(name, seconds, peak, ours)
        # Rounding to float32 may swap images at nearly equal distances.
        np.testing.assert_allclose(scores, (metrics.mean_ap, metrics.rank1), atol=1e-3)


def bench_reranking(args: argparse.Namespace) -> None:
    queries = args.rerank_images // 6
    sizes = {"queries": queries, "gallery": args.rerank_images - queries, "distractors": 0, "dim": 64}
    data = made_up(argparse.Namespace(**vars(args) | sizes | {"identities": args.rerank_images // 20}))
    query, gallery = data["query_embeddings"], data["gallery_embeddings"]
    print(f"re-ranking: {len(query)} + {len(gallery)} images, 64-d")
    result, ours = timed(lambda: k_reciprocal_distances(query, gallery), args.repeats)
    report("reidlib, sparse", ours, peak_megabytes(lambda: k_reciprocal_distances(query, gallery)))
    if args.only_reidlib:
        return
    plain, seconds = timed(lambda: plain_reranking(query, gallery))
    report(
        "plain numpy, dense arrays", seconds, peak_megabytes(lambda: plain_reranking(query, gallery)), ours
    )
    difference = np.abs(plain - result).max(axis=1)
    print(
        f"  largest difference {difference.max():.2g}; above 1e-5 in {(difference > 1e-5).sum()} of "
        f"{len(query)} rows"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument(
        "--distractors", type=int, default=0, help="gallery images beyond those, of nobody in the queries"
    )
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--identities", type=int, default=750)
    parser.add_argument(
        "--noise",
        type=float,
        default=1.5,
        help="standard deviation around an identity's centre (whose own is 1)",
    )
    parser.add_argument("--memory-budget-mb", type=float, default=512)
    parser.add_argument("--rerank-images", type=int, default=6000)
    parser.add_argument("--repeats", type=int, default=3, help="reidlib's time is the best of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only-reidlib",
        action="store_true",
        help="for sizes at which plain numpy takes too long or too much",
    )
    parser.add_argument("--skip-metrics", action="store_true")
    parser.add_argument("--skip-reranking", action="store_true")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the queries, a fifth of the gallery, 1,000 images re-ranked",
    )
    args = parser.parse_args()
    if args.quick:
        args.queries, args.gallery, args.rerank_images = (
            max(1, args.queries // 10),
            max(1, args.gallery // 5),
            1000,
        )
    print(f"numpy {np.__version__}, Python {sys.version.split()[0]}")
    if not args.skip_metrics:
        bench_metrics(args)
    if not args.skip_reranking:
        bench_reranking(args)


if __name__ == "__main__":
    main()
