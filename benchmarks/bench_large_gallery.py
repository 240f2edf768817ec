"""Time and memory of search and metrics in a gallery of a million images, on the CPU.

    python benchmarks/bench_large_gallery.py            1,000,000 × 512-d, 500 queries: minutes, 6 GB
    python benchmarks/bench_large_gallery.py --quick    takes seconds

Embeddings are made up: people around random centres, which differ in 32 directions; six cameras. They are
written to a temporary file once. Each row is measured in a process of its own, which reads that file first.
Memory is the peak of the whole process: embeddings (2.0 GB for a million), libraries and work.

The recall of the approximate search depends on how the data cluster: measure it on your own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROWS = ("exact", "approximate", "metrics")
COLUMNS = ("building", "all queries", "one alone", "peak", "found")
TOP = 10


def made_up(args: argparse.Namespace, folder: Path) -> None:
    """Writes embeddings (N, D), identities (N,) and cameras (N,) of query and gallery."""
    rng = np.random.default_rng(args.seed)
    people = max(1, args.gallery // args.images_each)
    centres = rng.standard_normal((people, args.rank), dtype=np.float32)
    spread = rng.standard_normal((args.rank, args.dim), dtype=np.float32)
    for side, count in (("query", args.queries), ("gallery", args.gallery)):
        ids = rng.integers(0, people, count)
        file = np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float32, (count, args.dim))
        for start in range(0, count, 4096):
            rows = slice(start, min(start + 4096, count))
            noise = rng.standard_normal((rows.stop - start, args.rank), dtype=np.float32)
            file[rows] = (centres[ids[rows]] + np.float32(args.noise) * noise) @ spread
        np.savez(folder / f"{side}.npz", ids=ids, cameras=rng.integers(0, 6, count))


def measure(row: str, folder: Path, args: argparse.Namespace) -> dict[str, str]:
    """One row of the table: column → what it says."""
    query, gallery = (np.load(folder / f"{side}.npy") for side in ("query", "gallery"))
    if row == "metrics":
        from reidlib.evaluation import retrieval_metrics

        sides = [np.load(folder / f"{side}.npz") for side in ("query", "gallery")]
        labels = [side[name] for name in ("ids", "cameras") for side in sides]
        scores, took = timed(
            retrieval_metrics, query, gallery, *labels, memory_budget_mb=args.memory_budget_mb
        )
        shown = f"rank-1 {100 * scores.rank1:.1f}, mAP {100 * scores.mean_ap:.1f}"
        return {"all queries": f"{took:.1f} s", "found": shown}
    from reidlib.neighbours import ApproximateIndex, ExactIndex

    approximate = {"lists": args.lists, "probes": args.probes} if row == "approximate" else {}
    index, took = timed(ApproximateIndex if approximate else ExactIndex, gallery, **approximate)
    told = {"building": f"{took:.1f} s", "all queries": f"{timed(index.nearest, query, TOP)[1]:.1f} s"}
    told["one alone"] = f"{1e3 * timed(index.nearest, query[:1], TOP)[1]:.0f} ms"
    share = index.recall(query, TOP) if approximate else 1
    return {**told, "found": f"{100 * share:.1f} % of the {TOP} nearest"}


def timed(call: Callable, *arguments: object, **named: object) -> tuple[object, float]:
    """The result of a call, and its seconds."""
    started = time.perf_counter()
    result = call(*arguments, **named)
    return result, time.perf_counter() - started


def peak_megabytes() -> float:
    """The largest memory of this process so far."""
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gallery", type=int, default=1_000_000)
    add("--queries", type=int, default=500)
    add("--dim", type=int, default=512)
    add("--images-each", type=int, default=20, help="gallery images of a person, on average")
    add("--rank", type=int, default=32, help="independent directions in which embeddings differ")
    add("--noise", type=float, default=0.6, help="standard deviation around a person's centre (its own is 1)")
    add("--lists", type=int, default=0, help="of the approximate index (default: its own)")
    add("--probes", type=int, default=0, help="lists that a query looks into (default: its own)")
    add("--memory-budget-mb", type=float, default=512, help="of the metrics")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="a hundredth of the gallery, a tenth of the queries")
    add("--row", choices=ROWS, help=argparse.SUPPRESS)  # a process of its own
    add("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(
            json.dumps({**measure(args.row, args.folder, args), "peak": f"{peak_megabytes() / 1e3:.1f} GB"})
        )
        return
    if args.quick:
        args.gallery, args.queries = args.gallery // 100, args.queries // 10
    print(f"{args.gallery:,} gallery images, {args.queries:,} queries, {args.dim}-d.", end=" ")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; numpy {np.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(f"made up in {timed(made_up, args, Path(folder))[1]:.0f} s")
        print(f"{'':<12}", *(f"{column:>11}" for column in COLUMNS), flush=True)
        options = [
            "--memory-budget-mb",
            args.memory_budget_mb,
            "--lists",
            args.lists,
            "--probes",
            args.probes,
        ]
        for row in ROWS:
            call = [sys.executable, __file__, "--row", row, "--folder", folder, *map(str, options)]
            told = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{row:<12}", *(f"{told.get(column, '–'):>11}" for column in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
