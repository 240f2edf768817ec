"""Images to embeddings with a trained network."""

import contextlib
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from reidlib.augmentation import normalise
from reidlib.batches import load_images, verified_array
from reidlib.errors import ReidError
from reidlib.fingerprints import code_digest
from reidlib.progress import progress
from reidlib.results import write_atomically, write_json


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(precision: str, device: torch.device):
    """The context in which networks run: `auto` is bfloat16 where the hardware has it, else float32."""
    if precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@torch.inference_mode()
def embed(
    model: torch.nn.Module,
    images: np.ndarray,
    *,
    flip: bool,
    precision: str = "auto",
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
        ReidError: an embedding is NaN or infinite (the rows are named).
    """
    device = device or best_device()
    model = model.to(device).eval()
    rows: list[np.ndarray] = []
    with progress(len(images), description, "image") as bar:
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
            f"{len(bad)} of {len(embeddings)} embeddings hold NaN or infinities (first: {bad[:5].tolist()}): the weights are "
            "broken. Train the run again with a lower learning_rate."
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
    precision: str = "auto",
    device: torch.device | None = None,
    what: str = "images",
    keep: Mapping[str, object] | None = None,
) -> np.ndarray:
    """Test embeddings of image files (of any size and mode, see `batches.decode`).

    Args:
        cache: folder of decoded images and embeddings; what it holds may be deleted.
        what: the images are called so in progress bars.
        keep: the settings that shape the network beside its weights. Given, embeddings are kept in the cache, in a file named
            after them, the weights, the images, their size, `flip`, precision, device, torch's version and the code of
            networks and embedding; a damaged file is made again.

    Returns:
        (N, D) float32, in the order of the paths.

    Raises:
        ImageError: an image is unreadable (named), or the disk lacks the room. ReidError: an embedding is NaN or infinite.
    """
    device = device or best_device()
    images = load_images(paths, height, width, cache=cache, description=f"decoding {what}")
    file = None
    if keep is not None:
        half = not isinstance(autocast(precision, device), contextlib.nullcontext)
        code = [code_digest(module) for module in ("reidlib.embedding", "reidlib.models")]
        made_by = [flip, half, device.type, torch.__version__, *code, weights_digest(model), sorted(keep.items())]
        key = hashlib.sha256(repr([Path(images.filename).name, *made_by]).encode()).hexdigest()[:24]
        file = cache / "embeddings" / f"{key}.npy"
        kept = verified_array(file)
        if kept is not None:
            return np.array(kept)
    embeddings = embed(model, images, flip=flip, precision=precision, device=device, description=f"embedding {what}")
    if file is None:
        return embeddings
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    write_atomically(file, buffer.getvalue())
    write_json(file.with_suffix(".json"), {"crc32": zlib.crc32(np.ascontiguousarray(embeddings)), "images": len(paths)})
    return embeddings


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over the names, types and values of a network's state."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        values = value.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.view(-1).view(torch.uint8).numpy().data if values.ndim else str(values.item()).encode())
    return digest.hexdigest()
