"""Training images per second: reidlib's decoded cache and batch augmentation, beside a PIL DataLoader.

    python benchmarks/bench_input.py                    1,024 JPEGs of 128 × 64, as in Market-1501, to batches
                                                        of 64 at 384 × 128
    python benchmarks/bench_input.py --source 300 120   larger photographs, as in MSMT17
    python benchmarks/bench_input.py --quick            takes seconds: 128 images

The loader works image by image with torchvision's transforms: it decodes, resizes (half of the images to
1.125 times the size, cropped back), mirrors, normalises and erases. --workers sets its number of processes;
all forms may use the same cores. The forms take turns, one pass each. Images per second are medians over
passes, after one untimed pass, in which workers start and the cache is read. reidlib's batches are those of
training. On a GPU, all batches end up there, the loader's from pinned memory.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from bench_orthogonality import describe_machine
from PIL import Image
from torchvision import transforms

from reidlib.devices import best_device
from reidlib.images.augmentation import (
    CROP_SCALE,
    ERASE_FILL,
    TrainingImages,
    draw_augmentation,
    enlarged_size,
)
from reidlib.images.decoding import load_sizes
from reidlib.images.normalisation import IMAGENET_MEAN, IMAGENET_STD
from reidlib.images.samplers import shuffled_batches

CHANCES = {"crop": 0.5, "flip": 0.5, "erase": 0.5}


class ResizeOrCrop:
    """Resizes half of the images; resizes the others to 1.125 times the size and crops at a random place."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(1).item() >= CHANCES["crop"]:
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        tall, wide = round(self.height * CROP_SCALE), round(self.width * CROP_SCALE)
        top, left = (
            int(torch.randint(0, count + 1, (1,))) for count in (tall - self.height, wide - self.width)
        )
        image = image.resize((wide, tall), Image.Resampling.BILINEAR)
        return image.crop((left, top, left + self.width, top + self.height))


class Files(torch.utils.data.Dataset):
    def __init__(self, paths: list[Path], height: int, width: int):
        self.paths = paths
        self.transform = transforms.Compose(
            [
                ResizeOrCrop(height, width),
                transforms.RandomHorizontalFlip(CHANCES["flip"]),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                transforms.RandomErasing(CHANCES["erase"], (0.02, 0.4), (0.3, 1 / 0.3), ERASE_FILL),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def make_photographs(folder: Path, count: int, height: int, width: int) -> list[Path]:
    """JPEGs of quality 95 with about as much detail as a photograph of a person."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=95)
    return paths


def passes_in_turns(forms: dict[str, Callable[[], Iterator[torch.Tensor]]], passes: int) -> dict[str, float]:
    """Name → images per second, the median over passes."""
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(passes + 1):
        for name, batches in forms.items():
            started, count = time.perf_counter(), 0
            for batch in batches():
                count += len(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                rates[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(rates[name]) for name in forms}


def largest_difference_from_pil(images: TrainingImages, paths: list[Path], height: int, width: int) -> float:
    """The largest pixel difference over a batch of cropped images, on the scale 0–255."""
    rows = np.arange(min(64, len(paths)))
    draws = draw_augmentation(
        len(rows), height, width, torch.Generator().manual_seed(1), crop=1, flip=0, erase=0
    )
    batch = images.batch(rows, draws).cpu()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    ours = ((batch * std + mean) * 255).permute(0, 2, 3, 1)
    largest = 0.0
    for row in rows:
        top, left = int(draws.top[row]), int(draws.left[row])
        tall, wide = enlarged_size(height, width)
        with Image.open(paths[row]) as image:
            enlarged = image.convert("RGB").resize((wide, tall), Image.Resampling.BILINEAR)
        cut = torch.from_numpy(
            np.asarray(enlarged)[top : top + height, left : left + width].astype(np.float32)
        )
        largest = max(largest, (ours[row] - cut).abs().max().item())
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument(
        "--source", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"), help="of the files"
    )
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({0, 2, os.cpu_count() or 1}))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of reidlib's side")
    parser.add_argument("--passes", type=int, default=7, help="timed passes over all images")
    parser.add_argument("--quick", action="store_true", help="128 images, two passes")
    args = parser.parse_args()
    if args.quick:
        args.images, args.passes = 128, 2
    torch.set_num_threads(args.threads)
    device = best_device()
    print(describe_machine(device))
    with tempfile.TemporaryDirectory(prefix="reidlib-bench-") as place:
        folder = Path(place) / "images"
        folder.mkdir()
        paths = make_photographs(folder, args.images, *args.source)
        sizes = [(args.height, args.width), enlarged_size(args.height, args.width)]
        started = time.perf_counter()
        decoded = load_sizes(paths, sizes, cache=Path(place) / "cache")
        seconds = time.perf_counter() - started
        megabytes = sum(images.nbytes for images in decoded) / 1e6
        images = TrainingImages(*decoded, device)
        print(
            f"{args.images} JPEGs of {args.source[0]} × {args.source[1]} to {args.height} × {args.width}; "
            f"the cache: {megabytes:.0f} MB, made in {seconds:.1f} s"
            + (", on the GPU as a whole" if images.resident else "")
        )
        generator = torch.Generator().manual_seed(0)
        labels = np.zeros(args.images)

        def ours() -> Iterator[torch.Tensor]:
            for rows in shuffled_batches(labels, args.batch, np.random.default_rng(0)):
                yield images.batch(
                    rows, draw_augmentation(len(rows), args.height, args.width, generator, **CHANCES)
                )

        def loader(workers: int) -> Callable[[], Iterator[torch.Tensor]]:
            batches = torch.utils.data.DataLoader(
                Files(paths, args.height, args.width),
                args.batch,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda",
            )
            return lambda: (batch.to(device, non_blocking=True) for batch in batches)

        forms = {"reidlib": ours} | {
            f"PIL DataLoader, {workers} workers": loader(workers) for workers in args.workers
        }
        rates = passes_in_turns(forms, args.passes)
        best = max(rate for name, rate in rates.items() if name != "reidlib")
        print(f"\n  {'batches of ' + str(args.batch):<28}{'images/s':>10}{'ratio':>8}")
        for name, rate in rates.items():
            print(f"  {name:<28}{rate:10.0f}{rates['reidlib'] / rate:8.2f}")
        print(
            f"\nreidlib against the fastest loader: {rates['reidlib'] / best:.2f} "
            "times as many images per second"
        )
        difference = largest_difference_from_pil(images, paths, args.height, args.width)
        print(
            f"cropped images against PIL's resize to {sizes[1]} and crop: at most {difference:.5f} of 255 "
            "apart"
        )


if __name__ == "__main__":
    main()
