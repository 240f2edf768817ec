"""How alike a trained network's channels are, on several maps and by several definitions; and spectra.

ABD-Net's paper prints S(Corr) without a definition that we could read. `alternatives` computes what it may
have meant; ours is that of `reidlib.evaluation.diversity.channel_correlation` on the last map.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from reidlib.evaluation.diversity import channel_correlation, correlation_matrices, eigenvalues
from reidlib.evaluation.measures import last_maps
from reidlib.images.normalisation import normalise
from reidlib.models.backbone import ReidNetwork

LAST, LAST_RELU = "last map", "last map after ReLU"
REDUCED, REDUCED_RAW = "map before attention", "map before attention and ReLU"
LAYER4, POOLED = "layer4 map of the attentive branch", "pooled last map"
GLOBAL = "global branch's embedding"
NAMES = (LAST, LAST_RELU, REDUCED, REDUCED_RAW, LAYER4, POOLED, GLOBAL)
ABSOLUTE, SIGNED = "absolute", "signed"
EACH, ALL = "places of each image", "places of all images"
IMAGES = "images"  # what is correlated over where there are no places
FEW = 32  # query images that networks are run on here
POINTS = 100  # of a spectrum as `weight_spectrum` gives it
_BLOCK = 2**24  # entries of the correlation matrices that are in memory at once


@torch.inference_mode()
def network_maps(model: ReidNetwork, images: np.ndarray, *, batch_size: int = 32) -> dict[str, Tensor]:
    """The maps of a network on which channels may be compared, (N, C, h, w) each, float32 on the CPU.

    What a network lacks is left out: networks without ABD-Net's attentive branch have `LAST`, `LAST_RELU` and
    `POOLED` only. The network is left in eval mode.

    - `LAST`: what the embedding is pooled from (`measures.last_maps`); `LAST_RELU`: its positive part;
      `POOLED`: its mean over places, (N, C, 1, 1).
    - `LAYER4`: the attentive branch's layer4. `REDUCED`: after the 1×1 convolution behind it, before
      attention; `REDUCED_RAW`: the same before its ReLU.
    - `GLOBAL`: the embedding of the global branch, (N, C, 1, 1).

    Args:
        images: (N, H, W, 3) RGB bytes.
    """
    model.eval()
    watched = _watched(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in (LAST, *watched)}

    def keep(name: str):
        # a copy, because the ReLU after it works in place
        return lambda module, inputs, output: seen[name].append(output.float().clone())

    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    try:
        for start in range(0, len(images), batch_size):
            batch = normalise(torch.from_numpy(np.array(images[start : start + batch_size])))
            seen[LAST].append(last_maps(model, batch).float())
    finally:
        for hook in hooks:
            hook.remove()
    maps = {name: torch.cat(parts) for name, parts in seen.items()}
    maps |= {LAST_RELU: maps[LAST].clamp_min(0), POOLED: maps[LAST].mean((2, 3), keepdim=True)}
    if GLOBAL in maps:
        maps[GLOBAL] = maps[GLOBAL][:, :, None, None]
    return {name: maps[name] for name in NAMES if name in maps}


def _watched(model: ReidNetwork) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    if branch := getattr(model, "attentive_branch", None):
        found |= {LAYER4: branch.layer4, REDUCED_RAW: branch.reduction[1], REDUCED: branch.reduction}
    if branch := getattr(model, "global_branch", None):
        found[GLOBAL] = branch.fc
    return found


def mean_correlation(maps: Tensor) -> np.ndarray:
    """The channels' absolute correlation over the places of an image, as the mean over images.

    Args:
        maps: (N, C, H, W).

    Returns:
        (C, C) float32. A pair counts in the images in which both channels vary; NaN if there are none.
    """
    channels = maps.shape[1]
    total, count = torch.zeros(channels, channels), torch.zeros(channels, channels)
    for part in maps.split(max(1, _BLOCK // channels**2)):
        matrices = correlation_matrices(part).abs_()
        known = ~matrices.isnan()
        count += known.sum(0)
        total += matrices.nan_to_num_(0).sum(0)
    return torch.where(count > 0, total / count, torch.nan).numpy()


def alike_together(correlation: np.ndarray) -> np.ndarray:
    """An order of the channels in which those that are alike stand together. (C, C) → (C,) rows.

    Hierarchical clustering with average linkage of the distance 1 − |correlation|. Unknown pairs count as
    unrelated.
    """
    distance = 1 - np.nan_to_num(np.abs(correlation.astype(float)))
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform((distance + distance.T) / 2, checks=False), "average"))


def alternatives(maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """S(Corr) of one network by every definition.

    Args:
        maps: of `network_maps`.

    Returns:
        One row each: map, correlation (`ABSOLUTE`, `SIGNED`), over (`EACH`: the mean over images of each
        image's own value; `ALL`: one set of places; `IMAGES`: where there is one place), value.
    """
    rows = []
    for (name, one), signed in itertools.product(maps.items(), (False, True)):
        ways = {EACH: False, ALL: True} if one[0, 0].numel() > 1 else {IMAGES: True}
        for over, together in ways.items():
            values = channel_correlation(one, signed=signed, together=together)
            rows.append((name, SIGNED if signed else ABSOLUTE, over, float(values.nanmean())))
    return pd.DataFrame(rows, columns=["map", "correlation", "over", "value"])


def mean_spectrum(maps: Tensor) -> np.ndarray:
    """The eigenvalues of F Fᵀ as shares of their sum, largest first, as the mean over images.

    (N, C, H, W) → (min(C, H·W),) float64. Images whose map is 0 do not count.
    """
    spectra = eigenvalues(maps).double()
    return (spectra / spectra.sum(1, keepdim=True)).nanmean(0).numpy()


def weight_spectrum(weight: Tensor) -> np.ndarray:
    """A convolution's eigenvalues of W Wᵀ over the largest, at `POINTS` even places of their order.

    (out, in, h, w) → (`POINTS`,) float64 in [0, 1], falling from 1. So spectra of convolutions of different
    size can be averaged. W Wᵀ is float32, which is enough to draw what lies above 1e-6 of the largest.
    """
    w = weight.detach().float().flatten(1)
    gram = w @ w.T if len(w) <= w.shape[1] else w.T @ w
    spectrum = torch.linalg.eigvalsh(gram.double()).flip(0).clamp_min(0).numpy()
    places = np.linspace(0, 1, len(spectrum))
    return np.interp(np.linspace(0, 1, POINTS), places, spectrum / spectrum[0])


def spectra(models: Mapping[str, ReidNetwork], maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """The spectra of features and of the backbone's weights, as a table to draw.

    Args:
        models: name → network.
        maps: name → its last maps, (N, C, H, W).

    Returns:
        Columns method (the name), panel (what the spectrum is of), place (0 to 1, from the largest eigenvalue
        to the smallest), value: for features as in `mean_spectrum`, for weights as in `weight_spectrum`,
        there the mean over convolutions.
    """
    frames = []
    for name, model in models.items():
        convolutions = [
            module
            for part in model.trunk_modules()
            for module in part.modules()
            if isinstance(module, nn.Conv2d)
        ]
        weights = np.stack([weight_spectrum(module.weight) for module in convolutions])
        panels = {
            f"features of {len(maps[name])} images,\nshare of the sum": mean_spectrum(maps[name]),
            "weights of the stem,\nrelative to the largest": weights[0],
            f"weights of {len(weights)} convolutions,\nrelative to the largest": weights.mean(0),
        }
        frames += [
            pd.DataFrame(
                {"method": name, "panel": panel, "place": np.linspace(0, 1, len(values)), "value": values}
            )
            for panel, values in panels.items()
        ]
    return pd.concat(frames, ignore_index=True)
