"""Images to batches: every image is decoded once into a memory-mapped array, the samplers choose rows of it, and the
augmentation works on whole batches, on the device that trains.

The decoded set (`load_images`) holds RGB bytes resized with PIL's bilinear filter, which is what the papers' loaders do per
epoch. ABD-Net's "resize to 1.125 times the size and crop back" is one bilinear sampling from those bytes (`augment`).
"""

import hashlib
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from reidlib.errors import ReidError
from reidlib.progress import progress
from reidlib.results import read_json, write_json

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ERASE_FILL = (0.4914, 0.4822, 0.4465)  # put in after normalisation, as the released code does
CROP_SCALE = 1.125


class ImageError(ReidError):
    """An image that cannot be read, or no room to keep the decoded ones."""


# ---------------------------------------------------------------------------------------------------- decoding


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """(height, width, 3) RGB bytes: rotated as EXIF says, alpha dropped, 16-bit grey scaled, resized bilinearly.

    Raises:
        ImageError: the file is no image or is damaged.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # PIL's own conversion clips 16 bits at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be read as an image ({error}). Restore it from the data set's archive or remove it."
        ) from None


def load_images(paths: Sequence[Path], height: int, width: int, *, cache: Path, description: str = "decoding") -> np.ndarray:
    """All images as one read-only memory map, (N, height, width, 3) RGB bytes, made on the first call and reused after.

    The file in `cache` is named after the images' names, sizes in bytes and times of change, and the target size; a checksum
    beside it is verified once per call, and a damaged file is made again.

    Raises:
        ImageError: an image is unreadable (named), or the disk lacks the room.
    """
    key = hashlib.sha256(f"{height}x{width}".encode())
    for path in paths:
        state = path.stat()  # the time too: uncompressed images of one shape all have the same size
        key.update(f"{path.parent.name}/{path.name}:{state.st_size}:{state.st_mtime_ns}\n".encode())
    file = cache / f"{key.hexdigest()[:16]}-{height}x{width}.npy"
    note = file.with_suffix(".json")
    images = verified_array(file)
    if images is not None:
        return images

    size = len(paths) * height * width * 3
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if size > 0.95 * free:
        raise ImageError(
            f"{cache}: {size / 1e9:.1f} GB are needed for the decoded images, {free / 1e9:.1f} GB are free. Make room there."
        )
    # Processes that come here at the same time each write their own file; the last rename wins, with the same bytes.
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        checksum = _decode_all(unfinished, paths, height, width, f"{description} ({size / 1e6:.0f} MB)")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    write_json(note, {"crc32": checksum, "images": len(paths)})
    return np.load(file, mmap_mode="r")


def _decode_all(file: Path, paths: Sequence[Path], height: int, width: int, description: str) -> int:
    """Writes the array to `file`, a thread a core (PIL decodes without the interpreter's lock), and returns its CRC-32."""
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (len(paths), height, width, 3))

    def fill(row: int) -> None:
        images[row] = decode(paths[row], height, width)

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), description, "image") as bar:
        for _ in pool.map(fill, range(len(paths))):
            bar.update(1)
    images.flush()
    return zlib.crc32(images)


def verified_array(file: Path) -> np.ndarray | None:
    """The memory map of a .npy file if it and the CRC-32 in the .json beside it are whole and agree, else None."""
    try:
        images, expected = np.load(file, mmap_mode="r"), read_json(file.with_suffix(".json"))["crc32"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, ReidError):
        return None
    return images if zlib.crc32(np.ascontiguousarray(images)) == expected else None


# ---------------------------------------------------------------------------------------------------- samplers


def shuffled_batches(labels: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One pass over all images in random order; the incomplete last batch is dropped (as both papers' loaders do)."""
    order = rng.permutation(len(labels))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def identity_batches(
    labels: np.ndarray, batch_size: int, images_per_identity: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """One pass of person × image batches (P people with K images each), ABD-Net's sampler.

    Each person's images are shuffled and cut into groups of K, the remainder dropped; a person with fewer than K images gives
    one group drawn with replacement. A batch takes P people at random, each with the next group; the pass ends when
    fewer than P people have a group left.
    """
    k, people_per_batch = images_per_identity, batch_size // images_per_identity
    groups: dict[int, list[np.ndarray]] = {}
    for person in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == person))
        if len(images) < k:
            images = rng.choice(images, k, replace=True)
        groups[int(person)] = [images[start : start + k] for start in range(0, len(images) - k + 1, k)]
    left = sorted(groups)
    while len(left) >= people_per_batch:
        chosen = rng.choice(len(left), people_per_batch, replace=False)
        people = [left[index] for index in chosen]
        yield np.concatenate([groups[person].pop(0) for person in people])
        left = [person for person in left if groups[person]]


def epoch_batches(
    labels: np.ndarray, batch_size: int, images_per_identity: int, steps: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """The rows of every batch of one epoch; a function of its arguments only, so that a resumed run sees the same batches.

    `steps` 0 is one pass over the training set; otherwise passes are joined, or cut, to that many batches.

    Raises:
        ReidError: the set is too small for one batch.
    """
    batches: list[np.ndarray] = []
    for number in range(max(1, steps) if steps else 1):
        rng = np.random.default_rng([seed, epoch, number])
        if images_per_identity:
            batches += identity_batches(labels, batch_size, images_per_identity, rng)
        else:
            batches += shuffled_batches(labels, batch_size, rng)
        if not batches:
            raise ReidError(
                f"{len(labels)} training images of {len(np.unique(labels))} people do not fill one batch of {batch_size}"
                + (f" with {images_per_identity} images of each person" if images_per_identity else "")
                + ". Set a smaller batch_size."
            )
        if steps and len(batches) >= steps:
            return batches[:steps]
    return batches


# ---------------------------------------------------------------------------------------------------- on the device


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) bytes → (B, 3, H, W) float32 with ImageNet's mean and deviation, channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std  # permuting keeps the bytes' order: channels last


def augment(images: torch.Tensor, generator: torch.Generator, *, crop: float, flip: float, erase: float) -> torch.Tensor:
    """Random crop, mirror and erasing of a normalised batch, each image with its own draws. Source: paper, data augmentation.

    Args:
        images: (B, 3, H, W), normalised.
        generator: a CPU generator: the same draws on every device.
        crop: probability of "resize to 1.125 × the size and crop back", here one bilinear sampling.
        flip: probability of the mirror image.
        erase: probability of random erasing (`erase_boxes`).

    Returns:
        (B, 3, H, W), channels last in memory.
    """
    batch, _, height, width = images.shape
    if crop or flip:
        draws = torch.rand(batch, 4, generator=generator)
        cropped = draws[:, 0] < crop
        # The crop's corner is a whole pixel of the enlarged image, as when cropping a resized image.
        rows, columns = round(height * CROP_SCALE) - height, round(width * CROP_SCALE) - width
        top = (draws[:, 1] * (rows + 1)).floor() * cropped
        left = (draws[:, 2] * (columns + 1)).floor() * cropped
        y = _sampled_positions(height, height + rows, top, cropped)
        x = _sampled_positions(width, width + columns, left, cropped)
        x = torch.where((torch.rand(batch, generator=generator) < flip)[:, None], -x, x)
        grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
        images = torch.nn.functional.grid_sample(images, grid.to(images.device), padding_mode="border", align_corners=False)
    if erase:
        boxes = erase_boxes(batch, height, width, erase, generator).to(images.device)
        y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        inside = ((y >= boxes[:, :1]) & (y < boxes[:, 1:2]))[:, :, None] & ((x >= boxes[:, 2:3]) & (x < boxes[:, 3:]))[:, None, :]
        fill = torch.tensor(ERASE_FILL, device=images.device).view(1, 3, 1, 1)
        images = torch.where(inside[:, None], fill, images)
    return images.contiguous(memory_format=torch.channels_last)


def _sampled_positions(size: int, enlarged: int, offset: torch.Tensor, cropped: torch.Tensor) -> torch.Tensor:
    """(B, size) grid_sample coordinates in [-1, 1]: pixel centres of a window of the enlarged image, or of the image."""
    pixels = torch.arange(size, dtype=torch.float32)
    window = (pixels[None] + offset[:, None] + 0.5) / enlarged
    return torch.where(cropped[:, None], window, (pixels[None] + 0.5) / size) * 2 - 1


def erase_boxes(batch: int, height: int, width: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """(B, 4) int64 boxes (top, bottom, left, right), empty where nothing is erased.

    Area uniform in 0.02–0.4 of the image and aspect (height / width) uniform in 0.3–3.33, up to 100 tries until the box fits.
    torchvision's RandomErasing draws the aspect log-uniformly and tries 10 times: another distribution.
    """
    tries = 100
    area = (0.02 + 0.38 * torch.rand(batch, tries, generator=generator)) * height * width
    aspect = 0.3 + (1 / 0.3 - 0.3) * torch.rand(batch, tries, generator=generator)
    h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.int().argmax(1, keepdim=True)  # the first try that fits
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    corner = torch.rand(batch, 2, generator=generator)
    top, left = (corner[:, 0] * (height - h + 1)).long(), (corner[:, 1] * (width - w + 1)).long()
    chosen = (torch.rand(batch, generator=generator) < probability) & fits.any(1)
    return torch.stack([top, top + h, left, left + w], dim=1) * chosen[:, None]


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
