"""Images to batches: every image is decoded once into a memory-mapped array, and the samplers choose rows of it.

The decoded set (`load_images`) holds RGB bytes resized with PIL's bilinear filter, which is what the papers' loaders do anew for
every batch. What happens to a batch after that is in `augmentation`.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from reidlib.errors import ReidError
from reidlib.progress import progress
from reidlib.results import read_json, write_json

DECODER = f"1:{PIL.__version__}"  # part of the decoded sets' names: raise the number when `decode` gives other pixels


class ImageError(ReidError):
    """An image that cannot be read, or no room to keep the decoded ones."""


# ---------------------------------------------------------------------------------------------------- decoding


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """(height, width, 3) RGB bytes: rotated as EXIF says, alpha dropped, 16-bit grey scaled, resized bilinearly.

    Raises:
        ImageError: the file is no image or is damaged.
    """
    return _decode_sizes(path, [(height, width)])[0]


def _decode_sizes(path: Path, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """`decode` to several sizes, each resized from the image itself, which is read once."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # PIL's own conversion clips 16 bits at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
            return [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for height, width in sizes]
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be read as an image ({error}). Restore it from the data set's archive or remove it."
        ) from None


def load_images(paths: Sequence[Path], height: int, width: int, *, cache: Path, description: str = "decoding") -> np.ndarray:
    """All images as one read-only memory map, (N, height, width, 3) RGB bytes, made on the first call and reused after.

    The file in `cache` is named after the images' names, sizes in bytes and times of change, the target size and the decoder; a
    checksum beside it is verified once per call, and a damaged file is made again.

    Raises:
        ImageError: an image is unreadable (named), or the disk lacks the room.
    """
    return load_sizes(paths, [(height, width)], cache=cache, description=description)[0]


def load_sizes(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], *, cache: Path, description: str = "decoding"
) -> list[np.ndarray]:
    """`load_images` at several (height, width), a file each; every image is read once for all the sizes that are missing."""
    states = [path.stat() for path in paths]
    # the time of change too: uncompressed images of one shape all have the same size in bytes
    listing = "".join(
        f"{path.parent.name}/{path.name}:{state.st_size}:{state.st_mtime_ns}\n" for path, state in zip(paths, states, strict=True)
    )
    files = []
    for height, width in sizes:
        key = hashlib.sha256(f"{DECODER}:{height}x{width}{listing}".encode()).hexdigest()
        files.append(cache / f"{key[:16]}-{height}x{width}.npy")
    found = [verified_array(file) for file in files]
    missing = [index for index, images in enumerate(found) if images is None]
    if missing:
        _make(paths, [(files[index], *sizes[index]) for index in missing], cache, description)
        for index in missing:
            found[index] = np.load(files[index], mmap_mode="r")
    return found


def _make(paths: Sequence[Path], wanted: Sequence[tuple[Path, int, int]], cache: Path, description: str) -> None:
    """Writes a file for each (name, height, width)."""
    size = sum(len(paths) * height * width * 3 for _, height, width in wanted)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if size > 0.95 * free:
        raise ImageError(
            f"{cache}: {size / 1e9:.1f} GB are needed for the decoded images, {free / 1e9:.1f} GB are free. Make room there."
        )
    # Processes that come here at the same time each write their own files; the last rename wins, with the same bytes.
    own = f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    unfinished = [file.with_name(file.stem + own) for file, _, _ in wanted]
    try:
        shapes = [(height, width) for _, height, width in wanted]
        checksums = _decode_all(unfinished, paths, shapes, f"{description} ({size / 1e6:,.0f} MB)")
        for temporary, (file, _, _), checksum in zip(unfinished, wanted, checksums, strict=True):
            try:
                temporary.replace(file)
            except PermissionError:  # Windows, where another process has made the same file and looks at it
                if verified_array(file) is None:
                    raise
            write_json(file.with_suffix(".json"), {"crc32": checksum, "images": len(paths)})
    finally:
        for temporary in unfinished:
            with contextlib.suppress(PermissionError):  # Windows keeps a file that is mapped, as after an unreadable image
                temporary.unlink(missing_ok=True)


def _decode_all(files: Sequence[Path], paths: Sequence[Path], sizes: Sequence[tuple[int, int]], description: str) -> list[int]:
    """Writes one array a size, a thread a core (PIL decodes without the interpreter's lock), and returns their CRC-32s."""
    arrays = [
        np.lib.format.open_memmap(file, "w+", np.uint8, (len(paths), height, width, 3))
        for file, (height, width) in zip(files, sizes, strict=True)
    ]

    def fill(row: int) -> None:
        for array, pixels in zip(arrays, _decode_sizes(paths[row], sizes), strict=True):
            array[row] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), description, "image") as bar:
        for _ in pool.map(fill, range(len(paths))):
            bar.update(1)
    for array in arrays:
        array.flush()
    return [zlib.crc32(array) for array in arrays]


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
