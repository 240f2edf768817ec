"""Decodes every image once, into a memory-mapped array.

The decoded set (`load_images`) holds RGB bytes, resized with PIL's bilinear filter. The papers' loaders do
the same anew for every batch.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from reidlib.errors import ReidError
from reidlib.files import checked_array, checksum, write_checksum
from reidlib.progress import track_progress

# Part of the decoded sets' names: raise the number when `decode` gives other pixels.
DECODER = f"1:{PIL.__version__}"


class ImageError(ReidError):
    """An image cannot be read, or the disk has no room for the decoded ones."""


# ----------------------------------------------------------------------------------------------------
# decoding


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """An image file as (height, width, 3) RGB bytes, resized bilinearly.

    It is rotated as EXIF says; alpha is dropped and 16-bit grey scaled to 8 bits.

    Raises:
        ImageError: the file is no image or is damaged.
    """
    return _decode_sizes(path, [(height, width)])[0]


def _decode_sizes(path: Path, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """`decode` to several sizes. The file is read once; each size is resized from the original image."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # PIL's own conversion clips 16 bits at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
            return [
                np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
                for height, width in sizes
            ]
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be read as an image ({error}). "
            "Restore it from the data set's archive or remove it."
        ) from None


def load_images(
    paths: Sequence[Path], height: int, width: int, *, cache: Path, description: str = "decoding"
) -> np.ndarray:
    """All images as one read-only memory map, (N, height, width, 3) RGB bytes.

    The first call makes a file in `cache`; later calls reuse it. Its name depends on the images' names, sizes
    in bytes and modification times, the target size and the decoder. A checksum beside it is verified once
    per call; a damaged file is made again.

    Raises:
        ImageError: an image is unreadable (named), or the disk lacks the room.
    """
    return load_sizes(paths, [(height, width)], cache=cache, description=description)[0]


def load_sizes(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], *, cache: Path, description: str = "decoding"
) -> list[np.ndarray]:
    """`load_images` at several (height, width), one file each.

    Every image is read once for all sizes that are missing.
    """
    states = [path.stat() for path in paths]
    # Modification times, too: uncompressed images of one shape all have the same size in bytes.
    listing = "".join(
        f"{path.parent.name}/{path.name}:{state.st_size}:{state.st_mtime_ns}\n"
        for path, state in zip(paths, states, strict=True)
    )
    files = []
    for height, width in sizes:
        key = hashlib.sha256(f"{DECODER}:{height}x{width}{listing}".encode()).hexdigest()
        files.append(cache / f"{key[:16]}-{height}x{width}.npy")
    found = [checked_array(file) for file in files]
    missing = [index for index, images in enumerate(found) if images is None]
    if missing:
        _make(paths, [(files[index], *sizes[index]) for index in missing], cache, description)
        for index in missing:
            found[index] = np.load(files[index], mmap_mode="r")
    return found


def _make(
    paths: Sequence[Path], wanted: Sequence[tuple[Path, int, int]], cache: Path, description: str
) -> None:
    """Writes a file for each (file, height, width)."""
    size = sum(len(paths) * height * width * 3 for _, height, width in wanted)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if size > 0.95 * free:
        raise ImageError(
            f"{cache}: {size / 1e9:.1f} GB are needed for the decoded images, {free / 1e9:.1f} GB are free. "
            "Make room there."
        )
    # Processes that do this at the same time write separate files with the same bytes; the last rename wins.
    own = f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    unfinished = [file.with_name(file.stem + own) for file, _, _ in wanted]
    try:
        shapes = [(height, width) for _, height, width in wanted]
        checksums = _decode_all(unfinished, paths, shapes, f"{description} ({size / 1e6:,.0f} MB)")
        for temporary, (file, _, _), crc32 in zip(unfinished, wanted, checksums, strict=True):
            try:
                temporary.replace(file)
            except PermissionError:  # Windows: another process has made the same file and has it open
                if checked_array(file) is None:
                    raise
            write_checksum(file, crc32)
    finally:
        for temporary in unfinished:
            # Windows cannot delete a file that is still mapped, as after an unreadable image.
            with contextlib.suppress(PermissionError):
                temporary.unlink(missing_ok=True)


def _decode_all(
    files: Sequence[Path], paths: Sequence[Path], sizes: Sequence[tuple[int, int]], description: str
) -> list[int]:
    """Writes one array per size and returns their CRC-32s.

    It uses one thread per core: PIL decodes without the interpreter's lock.
    """
    arrays = [
        np.lib.format.open_memmap(file, "w+", np.uint8, (len(paths), height, width, 3))
        for file, (height, width) in zip(files, sizes, strict=True)
    ]

    def fill(row: int) -> None:
        for array, pixels in zip(arrays, _decode_sizes(paths[row], sizes), strict=True):
            array[row] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool, track_progress(len(paths), description, "image") as bar:
        for _ in pool.map(fill, range(len(paths))):
            bar.update(1)
    for array in arrays:
        array.flush()
    return [checksum(array) for array in arrays]
