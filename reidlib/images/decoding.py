"""Decodes every image once, into a memory-mapped array.

The decoded set (`load_images`) holds RGB bytes, resized with PIL's bilinear filter. The papers' loaders do
the same anew for every batch. `open_rgb` is the one place where an image file is opened.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from reidlib.files import checked_array, checksum, write_checksum
from reidlib.images.contents import ImageError, UnreadableImageError, content_digests, state_of
from reidlib.progress import track_progress

# Part of the decoded sets' names: raise the number when `decode` gives other pixels.
DECODER = f"2:{PIL.__version__}"
# By content, whatever the file's suffix says. Some of PIL's other readers start programs (EPS: Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Tags of a TIFF file, and values of them (TIFF 6.0, sections 8 and 19).
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_TURNS = {  # EXIF's orientation, and what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# ----------------------------------------------------------------------------------------------------
# decoding


def open_rgb(path: Path) -> Image.Image:
    """An image file as a viewer shows it: upright, in 8-bit RGB, at its own size.

    - Of several frames or pages, the first is read. Alpha is dropped; a colour profile is not applied.
    - Channels of 16 bits keep their high byte.
    - Grey of 12, 16 or 32 bits: the largest value that the file's sample type can hold is white (a PNM file
      names it). Grey of floats: 0 is black, 1 is white.
    - Values outside this range are an error, and so is an image that would be black although it is not.
    - EXIF turns the image; nothing else of it is read. An EXIF block that is damaged turns nothing.

    Raises:
        UnreadableImageError: the file is no image, or it is damaged.
    """
    state_of(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            image.info.pop("transparency", None)  # PIL would warn that this kind of alpha is lost
            return _eight_bits(_upright(image), getattr(image, "tag_v2", {})).convert("RGB")
    except Exception as error:  # a damaged file makes PIL raise almost anything
        raise UnreadableImageError.of(path, _reason(error)) from error


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """An image file as (height, width, 3) RGB bytes: `open_rgb`, resized bilinearly.

    Raises:
        UnreadableImageError: the file is no image, or it is damaged.
    """
    return _decode_sizes(path, [(height, width)])[0]


def _decode_sizes(path: Path, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """`decode` to several sizes. The file is read once; each size is resized from the original image."""
    image = open_rgb(path)
    return [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for height, width in sizes]


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says. PIL has turned a TIFF file already.

    PIL's own function also writes the other entries of the block again, and fails on a damaged one.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 — a damaged block makes PIL raise almost anything
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of more than 8 bits with 8 bits; any other image as it is. PIL would clip everything at 255.

    tags: those of a TIFF file.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        white = 1
    else:
        (bits,), signed = tags.get(_BITS, (16,)), tags.get(_SAMPLE_FORMAT) == (_SIGNED,)
        if bits == 32 and not signed:
            values = values.view(np.uint32)
        bits -= signed
        white = 2**bits - 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # not (…): NaN is neither
        raise ValueError(f"its values reach from {low} to {high}, where 0 to {white} were expected")
    levels = np.rint(values * 255) if image.mode == "F" else values >> (bits - 8)
    if high > 0 and not levels.any():
        raise ValueError(
            f"its values reach from {low} to {high} where {white} is white, so it would be black: "
            "save it with 8 bits, or with values that use the whole range"
        )
    levels = levels.astype(np.uint8)
    return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    expected = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError)
    return text if text and expected else f"{type(error).__name__}: {text}".removesuffix(": ")


def load_images(
    paths: Sequence[Path], height: int, width: int, *, cache: Path, description: str = "decoding"
) -> np.ndarray:
    """All images as one read-only memory map, (N, height, width, 3) RGB bytes.

    The first call makes a file in `cache`; later calls reuse it. Its name depends on the content of the
    images, their order, the target size and the decoder. A checksum beside it is verified once per call; a
    damaged file is made again.

    Raises:
        ImageError: an image is unreadable (named), or the cache cannot be written or lacks the room.
    """
    return load_sizes(paths, [(height, width)], cache=cache, description=description)[0]


def load_sizes(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], *, cache: Path, description: str = "decoding"
) -> list[np.ndarray]:
    """`load_images` at several (height, width), one file each.

    Every image is read once for all sizes that are missing.
    """
    listing = "\n".join(content_digests(paths, cache=cache))
    files = []
    for height, width in sizes:
        key = hashlib.sha256(f"{DECODER}:{height}x{width}:{listing}".encode()).hexdigest()
        files.append(cache / f"{key[:16]}-{height}x{width}.npy")
    found = [checked_array(file) for file in files]
    missing = [index for index, images in enumerate(found) if images is None]
    if missing:
        try:
            _make(paths, [(files[index], *sizes[index]) for index in missing], cache, description)
        except OSError as error:
            raise ImageError(
                f"{cache} cannot be written ({error.strerror or error}). Allow that or make room there, or "
                "name another results folder."
            ) from error
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
