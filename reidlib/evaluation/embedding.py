"""Computes the embeddings of images with a trained network."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from reidlib.code_digest import digest_of_code
from reidlib.datasets.types import ReidDataset
from reidlib.devices import autocast, best_device, precision_of
from reidlib.errors import ReidError
from reidlib.experiment import Experiment, TrainingSettings
from reidlib.files import checked_array, save_array
from reidlib.images.decoding import load_images
from reidlib.images.normalisation import normalise
from reidlib.progress import track_progress
from reidlib.torch_files import state_digest


@torch.inference_mode()
def embed(
    model: torch.nn.Module,
    images: np.ndarray,
    *,
    flip: bool,
    precision: str = "float32",
    batch_size: int = 128,
    device: torch.device | None = None,
    description: str = "embedding",
) -> np.ndarray:
    """Test embeddings of decoded images; the network is left in eval mode.

    Args:
        images: (N, H, W, 3) RGB bytes, as `load_images` gives them.
        flip: average the embeddings of image and mirror image (ABD-Net's flip evaluation).

    Returns:
        (N, D) float32.

    Raises:
        ReidError: an embedding is NaN or infinite (the message names the first rows).
    """
    device = device or best_device()
    # As in training: a network that lies otherwise would copy its maps at every convolution. Its weights must
    # not become inference tensors, which cannot be trained on.
    with torch.inference_mode(False):
        model = model.to(device, memory_format=torch.channels_last).eval()
    rows: list[np.ndarray] = []
    with track_progress(len(images), description, "image") as bar:
        for start in range(0, len(images), batch_size):
            batch = normalise(torch.from_numpy(np.array(images[start : start + batch_size])).to(device))
            with autocast(precision, device):
                embedding = model(batch).embedding.float()
                if flip:
                    embedding = (embedding + model(batch.flip(3)).embedding.float()) / 2
            rows.append(embedding.cpu().numpy())
            bar.update(len(batch))
    embeddings = np.concatenate(rows)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ReidError(
            f"{len(bad)} of {len(embeddings)} embeddings hold NaN or infinities (first: "
            f"{bad[:5].tolist()}): the weights are broken. Train the run again with a lower learning_rate."
        )
    return embeddings


def embed_files(
    model: torch.nn.Module,
    paths: Sequence[Path],
    height: int,
    width: int,
    *,
    cache: Path,
    flip: bool,
    precision: str = "float32",
    device: torch.device | None = None,
    what: str = "images",
    keep: Mapping[str, object] | None = None,
) -> np.ndarray:
    """Test embeddings of image files (of any size and mode, see `images.decoding.decode`).

    Args:
        cache: folder for decoded images and embeddings; its files may be deleted.
        what: what progress bars call the images.
        keep: the settings that shape the network, apart from its weights. If given, embeddings are kept in
            the cache. The file name is a digest of these settings, the weights, the images, their size,
            `flip`, precision, device, torch's version and the code of networks and embedding. A damaged file
            is replaced.

    Returns:
        (N, D) float32, in the order of the paths.

    Raises:
        ImageError: an image cannot be read (the message names it), or the disk is too full.
        ReidError: an embedding is NaN or infinite.
    """
    device = device or best_device()
    images = load_images(paths, height, width, cache=cache, description=f"decoding {what}")
    file = None
    if keep is not None:
        computed_in = [str(precision_of(precision, device)), device.type, torch.__version__]
        code = digest_of_code("reidlib.evaluation.embedding", "reidlib.models.networks")
        made_by = [flip, *computed_in, code, state_digest(model), sorted(keep.items())]
        key = hashlib.sha256(repr([Path(images.filename).name, *made_by]).encode()).hexdigest()[:24]
        file = cache / "embeddings" / f"{key}.npy"
        kept = checked_array(file)
        if kept is not None:
            return np.array(kept)
    embeddings = embed(
        model, images, flip=flip, precision=precision, device=device, description=f"embedding {what}"
    )
    if file is not None:
        save_array(file, embeddings)
    return embeddings


def embed_test_set(
    model: torch.nn.Module,
    experiment: Experiment,
    dataset: ReidDataset,
    *,
    cache: Path,
    device: torch.device | None = None,
    keep: bool = True,
) -> dict[str, np.ndarray]:
    """Embeds a data set's query and gallery with the experiment's image size, flip and precision.

    Args:
        keep: keep the embeddings in the cache. This does not pay for weights that still change.

    Returns:
        `query` (Q, D) and `gallery` (G, D), float32, in the data set's order.
    """
    settings = experiment.group(TrainingSettings)
    return {
        name: embed_files(
            model,
            split.paths,
            experiment.height,
            experiment.width,
            cache=cache,
            flip=experiment.flip_evaluation,
            precision=experiment.embedding_precision,
            device=device,
            what=name,
            keep=settings if keep else None,
        )
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    }
