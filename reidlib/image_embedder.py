"""Embeddings of one's own images: files, PIL images and arrays (`Embedder`), and a folder, with a cache.

The numbers are those of the study's evaluation: the same decoding, network, precision and mirror image. Like
there, distances are squared Euclidean between the embeddings as they are.
"""

import contextlib
import io
import itertools
import os
from collections.abc import Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from reidlib.checkpoints import classes_in, load_released_checkpoint
from reidlib.code_digest import digest_of_code
from reidlib.config import METHODS, experiment_for_file
from reidlib.datasets.own_images import OwnImages, unreadable
from reidlib.devices import best_device, precision_of
from reidlib.errors import ReidError
from reidlib.evaluation.embedding import embed
from reidlib.experiment import Experiment, TrainingSettings
from reidlib.files import FileError, absolute_path, digest, read_arrays, write_atomically
from reidlib.images.contents import ImageError, UnreadableImageError, content_digests
from reidlib.images.decoding import DECODER, decode
from reidlib.models.networks import model_from_experiment
from reidlib.progress import quiet, track_progress
from reidlib.run import METRICS, read_run
from reidlib.settings import choose
from reidlib.torch_files import CheckpointError, read_torch_file, state_digest

BATCH = 128  # images, as in the study's evaluation
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")  # modes of PIL


class Embedder:
    """Turns images into embeddings. Made by `reidlib.embedder`.

    Attributes:
        model: the network, in eval mode.
        experiment: its settings, such as `height` and `width`.
        name: of the run, or of the file of weights.
    """

    def __init__(self, model: torch.nn.Module, experiment: Experiment, name: str):
        self.model, self.experiment, self.name = model.eval(), experiment, name

    def __call__(self, images: Any) -> np.ndarray:
        """Embeds images of any size.

        A file's embedding is that of the study's evaluation, up to how sums are rounded: that depends on the
        images in the same batch, and on the number of threads.

        Args:
            images: one image, or a list or any iterable of images. An image is a path, a PIL image of 8 bits
                a channel, or an array (H, W, 3) of RGB bytes.

        Returns:
            (N, D) float32, in the order given; N is 1 for one image.

        Raises:
            UnreadableImageError, ImageError: an image cannot be used; the message names it.
            ReidError: there is no image, or an embedding is NaN or infinite.
        """
        items = [images] if _is_one(images) else images
        if not isinstance(items, Iterable):
            raise ImageError(
                f"{type(items).__name__} is no image: pass paths, PIL images, arrays, or a list of these."
            )
        total = len(items) if isinstance(items, Sized) else 0
        rows, numbered = [], enumerate(items, 1)
        with contextlib.ExitStack() as open_:
            pool = open_.enter_context(ThreadPoolExecutor(os.cpu_count()))
            bar = open_.enter_context(track_progress(total, "embedding", "image")) if total > BATCH else None
            while batch := [_file_or_rgb(*one) for one in itertools.islice(numbered, BATCH)]:
                rows.append(self._of_pixels(np.stack(list(pool.map(self._pixels, batch)))))
                if bar is not None:
                    bar.update(len(batch))
        if not rows:
            raise ReidError("There is no image to embed: pass at least one.")
        return np.concatenate(rows)

    @cached_property
    def key(self) -> str:
        """Digest, 24 hex digits, of all that an image's embedding depends on but the image itself."""
        experiment, device = self.experiment, best_device()
        precision = str(precision_of(experiment.embedding_precision, device))
        code = digest_of_code("reidlib.evaluation.embedding", "reidlib.models.networks")
        made_by = [experiment.flip_evaluation, precision, device.type, torch.__version__, DECODER, code]
        settings = experiment.group(TrainingSettings)
        return digest([*made_by, sorted(settings.items()), state_digest(self.model)])[:24]

    def _pixels(self, image: Path | Image.Image) -> np.ndarray:
        """(height, width, 3) bytes at the size that the network sees."""
        height, width = self.experiment.height, self.experiment.width
        if isinstance(image, Path):
            return decode(image, height, width)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    def _of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        with quiet():
            return embed(
                self.model,
                pixels,
                flip=self.experiment.flip_evaluation,
                precision=self.experiment.embedding_precision,
            )


def load_embedder(run_or_checkpoint: str | Path, method: str = "", **settings: Any) -> Embedder:
    """What `reidlib.embedder` does; it says what the arguments are.

    Raises:
        StaleRunError, FileError: the folder holds no finished run of this version, or its files are damaged.
        CheckpointError: the file of weights cannot be read or does not fit the method, or no method is named.
        ConfigError: an unknown method or setting.
    """
    place = absolute_path(run_or_checkpoint, "The run or checkpoint")
    if place.is_dir():
        if method or settings:
            raise ReidError(
                f"{place} is a run, which has its own method and settings: leave "
                f"{', '.join(['method'] * bool(method) + sorted(settings))} out."
            )
        if not (place / METRICS).is_file():
            raise FileError(
                f"{place} is no finished run: it has no {METRICS}. Name the folder of one, such as "
                "results/demo-synthetic/runs/abdnet-seed0, or a file of released weights."
            )
        run = read_run(place)
        return Embedder(run.model(), run.experiment, run.name)
    content = read_torch_file(place)
    if not method:
        raise CheckpointError(
            f"{place} is a file of weights, which does not say what network it is of: name its method, "
            f'such as method="abdnet" (--methods abdnet), one of {", ".join(METHODS)}. Of a run, name the '
            "folder."
        )
    experiment = experiment_for_file(choose("method", method, METHODS), **settings)
    untrained = replace(experiment, pretrained=False, classes=classes_in(content, str(place)))
    network = load_released_checkpoint(model_from_experiment(untrained, 0), content, source=str(place))
    return Embedder(network, experiment, place.name)


def embed_own_images(
    embedder: Embedder, own: OwnImages, *, cache: Path, skip_unreadable: bool = False
) -> tuple[OwnImages, dict[str, np.ndarray]]:
    """Embeds a folder of one's own images, and the queries.

    The gallery's embeddings are kept in the cache by the content of each image, for this folder and network:
    only new images are computed, and a second query takes none of that time. Queries are computed each time.

    Args:
        cache: folder of the kept embeddings; its files may be deleted.
        skip_unreadable: leave out images that cannot be read. They are then in the `left_out` of the result.

    Returns:
        The images without those left out, and `query` (Q, D) and `gallery` (G, D), float32.

    Raises:
        UnreadableImageError: images cannot be read; the message lists them, and says how to leave them out.
    """
    own = own.without(unreadable(own.paths, decode=False), skip_unreadable)
    digests = content_digests(own.dataset.gallery.paths, cache=cache)
    folder = digest(str(own.dataset.root))[:8]
    kept = cache / "embeddings" / f"own-{folder}-{embedder.key}.npz"
    known = _kept(kept)
    paths = own.dataset.gallery.paths
    new = [path for path, one in zip(paths, digests, strict=True) if one not in known]
    problems = unreadable([*own.dataset.query.paths, *new])
    own = own.without(problems, skip_unreadable)
    digests = [one for path, one in zip(paths, digests, strict=True) if path not in problems]
    missing = {one: path for path, one in zip(own.dataset.gallery.paths, digests, strict=True)}
    missing = {one: path for one, path in missing.items() if one not in known}
    if missing:
        known |= dict(zip(missing, embedder(list(missing.values())), strict=True))
        _keep(kept, {one: known[one] for one in dict.fromkeys(digests)})
    gallery = np.stack([known[one] for one in digests])
    return own, {"query": embedder(own.dataset.query.paths), "gallery": gallery}


def _kept(file: Path) -> dict[str, np.ndarray]:
    """Digest of an image → its embedding. A file that is missing or damaged counts as empty."""
    try:
        arrays = read_arrays(file, ("digests", "embeddings")) if file.is_file() else None
    except FileError:
        return {}
    return dict(zip(arrays["digests"].tolist(), arrays["embeddings"], strict=True)) if arrays else {}


def _keep(file: Path, embeddings: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(list(embeddings)), embeddings=np.stack(list(embeddings.values())))
    write_atomically(file, buffer.getvalue())


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | os.PathLike | Image.Image)


def _file_or_rgb(number: int, image: Any) -> Path | Image.Image:
    """A path as it is; anything else as an RGB image. For one thread: PIL's images are loaded only here."""
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"Image {number} is an array {image.shape} of {image.dtype}: expected (H, W, 3) RGB bytes "
                "(uint8), values 0 to 255. Convert it, or pass the path."
            )
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ImageError(
            f"Image {number} is of type {type(image).__name__}: expected a path, a PIL image, or an array "
            "(H, W, 3) of RGB bytes."
        )
    name = f"Image {number} ({getattr(image, 'filename', '') or 'a PIL image'})"
    if image.mode not in EIGHT_BITS:
        raise ImageError(
            f"{name} has the mode {image.mode}, not 8 bits a channel: pass the path in its place."
        )
    try:
        upright = ImageOps.exif_transpose(image)  # a copy
        upright.info.pop("transparency", None)  # as for files: PIL would warn that this kind of alpha is lost
        return upright.convert("RGB")
    except Exception as error:  # a damaged file, which PIL reads only now, makes it raise almost anything
        raise UnreadableImageError.of(Path(name), " ".join(str(error).split())) from error
