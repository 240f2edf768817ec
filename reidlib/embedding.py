"""Images to embeddings with a trained network."""

import contextlib

import numpy as np
import torch

from reidlib.batches import bfloat16_is_fast, normalise
from reidlib.errors import ReidError
from reidlib.progress import progress


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
