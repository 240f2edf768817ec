"""How much of the activation of a network's last map lies on the person, on a part of the body, or beside it.

That needs masks of the images, which only rendered images have (`reidlib.synthetic.masks`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from reidlib.devices import autocast, best_device
from reidlib.evaluation.diversity import activation, share_on
from reidlib.evaluation.measures import last_maps
from reidlib.images.normalisation import normalise
from reidlib.progress import track_progress

if TYPE_CHECKING:
    from reidlib.models.backbone import ReidNetwork


@torch.inference_mode()
def shares_on_masks(
    model: "ReidNetwork",
    images: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    batch_size: int = 32,
    device: torch.device | None = None,
) -> pd.DataFrame:
    """The share of each image's activation that lies on each mask (`share_on`), as fractions.

    The map is the one that the run's other measures are of, in float32. The network is left in eval mode.

    Args:
        images: (N, H, W, 3) RGB bytes, at the size that the network was trained with.
        masks: name → (N, H', W') booleans of the same scenes.

    Returns:
        One row per image and one column per mask; NaN for a map of zeros.

    Raises:
        EvaluationError: a feature map holds NaN or infinities, or there is not one mask per image.
    """
    device = device or best_device()
    model = model.to(device).eval()
    rows = []
    with _only_the_measured_branch(model), track_progress(len(images), "activation on masks", "image") as bar:
        for start in range(0, len(images), batch_size):
            own = slice(start, start + batch_size)
            batch = normalise(torch.from_numpy(np.array(images[own])).to(device))
            with autocast("float32", device):
                active = activation(last_maps(model, batch))
            shares = [share_on(active, torch.from_numpy(mask[own]).to(device)) for mask in masks.values()]
            rows.append(torch.stack(shares, 1).cpu().numpy())
            bar.update(len(batch))
    return pd.DataFrame(np.concatenate(rows), columns=list(masks), dtype=float)


@contextlib.contextmanager
def _only_the_measured_branch(model: "ReidNetwork") -> Iterator[None]:
    """ABD-Net without its global branch, which is a third of the work and has no part in the last map."""
    branch = getattr(model, "global_branch", None)
    if branch is None or model.attentive_branch is None:
        yield
        return
    model.global_branch = None
    try:
        yield
    finally:
        model.global_branch = branch
