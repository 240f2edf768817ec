"""Size, latency and scores of exported networks, as a table.

    python benchmarks/bench_export.py results/demo-synthetic/runs/{abdnet,pfsa}-seed0
    python benchmarks/bench_export.py RUN … --data-root DIR --test-people 50

Each run is exported in every format, to a temporary folder.

- batch 1, batch 32: the median processor time of a batch on one thread, which other programs disturb little.
  Normalised images go in and embeddings come out, as the run is scored: ABD-Net's rows with the mean over the
  mirror image, which doubles the work.
- difference: the largest one of any embedding of the test set from PyTorch's, relative to the largest value.
- mAP: on the run's test set, or on some of its people, without the others and without distractors.
  PyTorch's row is float32; a run that was scored in bfloat16 reports slightly other numbers.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reidlib.datasets import ReidDataset
from reidlib.evaluation import retrieval_metrics
from reidlib.export import LIMITS, EmbeddingNetwork, export, opened, read_source
from reidlib.images.decoding import load_images
from reidlib.images.normalisation import normalise
from reidlib.run import read_run
from reidlib.study.results import Study
from reidlib.study.runs import study_dataset

Call = Callable[[np.ndarray], np.ndarray]
FORMATS = {".pt2": ("float32",), ".onnx": tuple(LIMITS)}
HEADER = ("method", "format", "MB", "batch 1", "batch 32", "difference", "mAP", "change")


def chosen(dataset: ReidDataset, people: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of query and gallery that show the first `people` test people; 0: all rows, with distractors."""
    if not people:
        return np.arange(len(dataset.query)), np.arange(len(dataset.gallery))
    some = np.unique(dataset.query.ids)[:people]
    return tuple(np.flatnonzero(np.isin(side.ids, some)) for side in (dataset.query, dataset.gallery))


def embeddings(call: Call, images: np.ndarray, batch: int = 32) -> np.ndarray:
    batches = range(0, len(images), batch)
    parts = [normalise(torch.from_numpy(np.array(images[at : at + batch]))) for at in batches]
    return np.concatenate([call(part.numpy()) for part in parts])


def milliseconds(call: Call, batch: np.ndarray, repeats: int) -> float:
    """The median processor time of a call, after one that is not counted."""
    call(batch)
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        call(batch)
        seconds.append(time.process_time() - started)
    return 1e3 * statistics.median(seconds)


def bench(folder: Path, args: argparse.Namespace, scratch: Path) -> None:
    run = read_run(folder)
    experiment = run.experiment
    study = Study(experiment.profile, experiment.dataset, folder.parent.parent)
    dataset = study_dataset(study, args.data_root, keep_digests=False)
    network, experiment, facts = read_source(folder)
    embedding = EmbeddingNetwork(network, experiment)
    rows = chosen(dataset, args.test_people)
    images = [
        load_images([side.paths[row] for row in which], *embedding.size, cache=scratch / "images")
        for side, which in zip((dataset.query, dataset.gallery), rows, strict=True)
    ]
    labels = [
        getattr(side, name)[which]
        for name in ("ids", "cameras")
        for side, which in zip((dataset.query, dataset.gallery), rows, strict=True)
    ]
    expected = expected_map = None

    def row(name: str, size: str, call: Call) -> None:
        nonlocal expected, expected_map
        found = [embeddings(call, side) for side in images]
        mean_ap = 100 * retrieval_metrics(*found, *labels).mean_ap
        if expected is None:
            expected, expected_map = np.concatenate(found), mean_ap
        difference = np.abs(np.concatenate(found) - expected).max() / np.abs(expected).max()
        noise = np.random.default_rng(0).standard_normal((32, 3, *embedding.size), dtype=np.float32)
        one, many = milliseconds(call, noise[:1], 4 * args.repeats), milliseconds(call, noise, args.repeats)
        change = f"{mean_ap - expected_map:+.2f}"
        cells = (run.method, name, size, f"{one:.0f} ms", f"{many:.0f} ms", f"{difference:.1g}")
        print("|", " | ".join((*cells, f"{mean_ap:.2f}", change)), "|", flush=True)

    @torch.inference_mode()
    def pytorch(batch: np.ndarray) -> np.ndarray:
        return embedding(torch.from_numpy(batch)).numpy()

    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    row("PyTorch", f"{weights / 1e6:.1f}", pytorch)
    for suffix, precisions in FORMATS.items():
        for precision in precisions:
            file = scratch / f"network{suffix}"
            export(embedding, file, precision=precision, facts=facts)
            row(f"{suffix} {precision}", f"{file.stat().st_size / 1e6:.1f}", opened(file, threads=1))
            file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--data-root", default="", help="folder of their data set (default: its usual place)")
    parser.add_argument("--test-people", type=int, default=0, help="score these many only (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="of a batch of 32; four times as many of 1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, one thread, ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("|", " | ".join(HEADER), "|\n" + "|---" * len(HEADER) + "|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.runs:
            bench(folder.resolve(), args, Path(scratch))


if __name__ == "__main__":
    main()
