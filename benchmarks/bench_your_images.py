"""One's own images: 1,000 crops embedded with `reidlib.embedder`, beside a plain PyTorch loop; then a query.

    python benchmarks/bench_your_images.py              1,000 JPEGs of 128 × 64; a network of the demo's size
    python benchmarks/bench_your_images.py --run DIR    the network of a finished run
    python benchmarks/bench_your_images.py --quick      takes seconds: 128 images

The plain loop takes batches of 32: PIL opens each file, torchvision's transforms resize and normalise it, and
the network runs in float32 under `torch.inference_mode`. `embedder` is timed in the run's own precision
("auto": bfloat16 where the processor has it) and in float32. All may use the same threads, and average image
and mirror image where the run does. The forms take turns; the fastest of all passes counts, because other
programs only add to a time. CPU seconds are those of all threads: on a busy machine they say more.

The second query searches a gallery whose embeddings are kept on the disk: reading the folder, comparing each
file's state with what is known, embedding the query, ranking. It is timed in a process that has the network
already. A new process adds the seconds that torch takes to import.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_input import make_photographs
from bench_orthogonality import describe_machine
from PIL import Image
from torchvision import transforms

import reidlib
from reidlib.config import experiment_for
from reidlib.datasets.own_images import read_own_images
from reidlib.image_embedder import Embedder, embed_own_images
from reidlib.images.normalisation import IMAGENET_MEAN, IMAGENET_STD
from reidlib.models.networks import model_from_experiment
from reidlib.progress import silence
from reidlib.show.own_images import ranking_frame

PLAIN_BATCH = 32


@torch.inference_mode()
def plain_loop(embedder: Embedder, paths: list[Path]) -> np.ndarray:
    """(N, D) float32, as anybody would write it."""
    experiment, model = embedder.experiment, embedder.model.eval()
    transform = transforms.Compose(
        [
            transforms.Resize((experiment.height, experiment.width)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    rows = []
    for start in range(0, len(paths), PLAIN_BATCH):
        images = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + PLAIN_BATCH]]
        batch = torch.stack(images)
        embedding = model(batch).embedding
        if experiment.flip_evaluation:
            embedding = (embedding + model(batch.flip(3)).embedding) / 2
        rows.append(embedding.numpy())
    return np.concatenate(rows)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds."""
    started = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--source", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"), help="of the files"
    )
    parser.add_argument("--run", type=Path, help="folder of a finished run (default: untrained weights)")
    parser.add_argument("--method", default="abdnet", help="of the untrained network")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--passes", type=int, default=2, help="timed passes of each form")
    parser.add_argument("--quick", action="store_true", help="128 images, one pass")
    args = parser.parse_args()
    if args.quick:
        args.images, args.passes = 128, 1
    if torch.cuda.is_available():
        sys.exit("This compares loops on a CPU: hide the GPU with CUDA_VISIBLE_DEVICES=''.")
    torch.set_num_threads(args.threads)
    silence()
    print(describe_machine(torch.device("cpu")))
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if args.run:
        embedder = reidlib.embedder(args.run)
    else:
        experiment = experiment_for(args.method, profile="demo", dataset="synthetic")
        embedder = Embedder(model_from_experiment(experiment, 200), experiment, args.method)
    float32 = Embedder(embedder.model, replace(embedder.experiment, embedding_precision="float32"), "")
    with tempfile.TemporaryDirectory(prefix="reidlib-bench-") as place:
        gallery, cache = Path(place, "gallery"), Path(place, "cache")
        gallery.mkdir()
        paths = make_photographs(gallery, args.images, *args.source)
        forms = {
            "reidlib.embedder": lambda: embedder(paths),
            "reidlib.embedder, float32": lambda: float32(paths),
            f"plain loop, batches of {PLAIN_BATCH}": lambda: plain_loop(embedder, paths),
        }
        some = paths[: 2 * PLAIN_BATCH]
        plain = plain_loop(embedder, some)
        apart = np.abs(float32(some) - plain).max() / np.abs(plain).max()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for _ in range(args.passes):
            for name, form in forms.items():
                times[name].append(seconds(form))
        best = {name: np.min(own, axis=0) for name, own in times.items()}
        first = next(iter(best.values()))
        size = f"{embedder.experiment.height} × {embedder.experiment.width}"
        print(f"\n{args.images} images at {size}, {embedder.experiment.method}, {args.threads} threads")
        print(f"  {'':<28}{'seconds':>9}{'ratio':>8}{'CPU seconds':>14}{'ratio':>8}{'images/s':>10}")
        for name, own in best.items():
            ratio = own / first
            print(
                f"  {name:<28}{own[0]:9.2f}{ratio[0]:8.2f}{own[1]:14.2f}{ratio[1]:8.2f}"
                f"{args.images / own[0]:10.0f}"
            )
        print(f"float32 against the plain loop: at most {apart:.1e} of the largest value apart")

        query = [Path(place, "query.jpg")]
        query[0].write_bytes(paths[7].read_bytes())

        def search() -> None:
            own, embeddings = embed_own_images(embedder, read_own_images(gallery, query), cache=cache)
            ranking_frame(own, embeddings)

        time.sleep(2.5)  # a file that was changed just now is read again, to be sure
        made = seconds(search)
        print(f"\nfirst query, with the gallery: {made[0]:.2f} s ({made[1]:.2f} CPU seconds)")
        again = np.array([seconds(search) for _ in range(6)])
        print(
            f"second query, gallery kept:    {again[0, 0]:.3f} s ({again[0, 1]:.3f} CPU seconds); "
            f"best of six {again[:, 0].min():.3f} s ({again[:, 1].min():.3f})"
        )


if __name__ == "__main__":
    main()
