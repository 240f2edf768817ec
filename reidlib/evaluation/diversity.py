"""Measures of what attention and diversity do to features: tensors in, one number per image out.

Features are maps F of C channels × N places (N = H·W). None of the measures depends on the scale of a map.

- `channel_correlation`: how alike the channels are (ABD-Net's S(Corr)).
- `effective_area`: over how many places an activation is spread; `share_on`: how much of it lies on a mask.
- `effective_rank`, `condition_number`: how flat the spectrum of F Fᵀ is, which O.F. acts on; of weights, too
  (`weight_spectra`), which O.W. acts on.

`similarity_map` is no measure: it shows where in an image the similarity to another image comes from.

Results are float32. Spectra and entropies are computed in float64: in float32, rounding would decide the
smallest eigenvalues. Every function raises EvaluationError if its input holds NaN or infinities, or has
another shape than its docstring says.
"""

from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlib.evaluation.distance_blocks import EvaluationError

if TYPE_CHECKING:
    from reidlib.models.backbone import ReidNetwork

# A channel whose standard deviation is a smaller share of its root mean square than this is constant:
# float32 leaves as much of a constant channel once its mean is subtracted.
CONSTANT = 1e-5
# Eigenvalues of F Fᵀ below this share of the largest count as 0. Rounding of a float32 network leaves about
# 1e-13 where an eigenvalue is 0.
ZERO = 1e-10
_BLOCK = 2**22  # entries of the correlation matrices that are in memory at once


# ------------------------------------------------------------------------------------------------ correlation


def channel_correlation(maps: Tensor, *, signed: bool = False, together: bool = False) -> Tensor:
    """S(Corr): the mean correlation between two different channels. maps: (B, C, H, W) → (B,).

    ABD-Net (Chen et al., ICCV 2019) prints 0.049 for its baseline, 0.368 with attention and 0.214 with
    attention and diversity, but defines S(Corr) nowhere that we could read. The definition is ours: the mean,
    over all pairs of different channels, of the absolute value of Pearson's correlation over the places of
    one image. So 0 means that no channel tells of another, 1 that all are the same up to sign and scale. With
    few places the absolute value of a chance correlation is not small: about 0.8 / √N.

    A channel that is constant over the places has no correlation: it is left out. The result is NaN if fewer
    than two channels are left, as for a constant map or one with a single place.

    Args:
        signed: correlations keep their sign, so that opposite ones cancel.
        together: over the places of all images as one set, → (1,). Channels that only tell images apart then
            correlate, too.
    """
    f = _matrices(maps).float()
    if together:
        f = f.transpose(0, 1).flatten(1)[None]  # (1, C, B·N)
    z, varies = _standardised(f)
    count = varies.sum(1)
    if signed:  # Σ of all entries of Z Zᵀ is ‖Σ of Z's rows‖²
        total = z.sum(1).square().sum(1)
    else:
        step = max(1, _BLOCK // f.shape[1] ** 2)
        total = torch.cat([(part @ part.mT).abs_().sum((1, 2)) for part in z.split(step)])
    pairs = count * (count - 1)
    # The diagonal holds ones. Rounding may leave [−1, 1].
    return torch.where(pairs > 0, (total - count) / pairs, torch.nan).clamp(-1 if signed else 0, 1)


def correlation_matrices(maps: Tensor) -> Tensor:
    """Correlations between channels over places. maps: (B, C, H, W) → (B, C, C); NaN for constant channels.

    `channel_correlation` is the mean of what is off the diagonal.
    """
    z, varies = _standardised(_matrices(maps).float())
    return (z @ z.mT).masked_fill(~(varies[:, :, None] & varies[:, None, :]), torch.nan)


def _standardised(f: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with mean 0 and length 1, (B, C, N), or 0 where constant; and which rows vary, (B, C)."""
    z = f - f.mean(2, keepdim=True)
    length = z.norm(dim=2, keepdim=True)
    varies = length > CONSTANT * f.norm(dim=2, keepdim=True)
    return torch.where(varies, z / length, 0), varies[:, :, 0]


# ----------------------------------------------------------------------------------------------------- places


def activation(maps: Tensor) -> Tensor:
    """How active each place is: the sum of squares over channels. maps: (B, C, H, W) → (B, H, W), ≥ 0.

    Both papers look at the last map. PFSA's attention takes the mean over channels, which needs a map that is
    not negative; ABD-Net's last map ends in a convolution and has negative values. The sum of squares is
    defined for both, and is the place's share of ‖F‖².
    """
    _matrices(maps)
    return maps.float().square().sum(1)


def effective_area(activation: Tensor) -> Tensor:
    """The share of the map that an activation is spread over. activation: (B, H, W), ≥ 0 → (B,) in (0, 1].

    exp(entropy) / N of the activation divided by its sum: k places of equal activation and none elsewhere
    give k / N. So a flat map has 1 and a single place 1 / N. The share of places above half of the maximum
    needs a largest value, which one peak or a ceiling decides; this needs none, and no contrast. It does
    depend on the power: of one map, the sum of squares has a smaller area than the length. NaN for a map of
    zeros.
    """
    p = _shares(activation)
    return (torch.special.entr(p).sum(1).exp() / p.shape[1]).clamp_max(1).float()


def share_on(activation: Tensor, mask: Tensor) -> Tensor:
    """The share of an activation that lies on a mask. activation: (B, h, w), ≥ 0; mask: (B, H, W) → (B,).

    The mask, of booleans or shares, is averaged down to the map's places; a flat activation has the mask's
    own share. A place of the map is under the influence of more of the image than the pixels it lies on, so
    the share is coarse. NaN for a map of zeros.
    """
    p = _shares(activation)
    if mask.ndim != 3 or len(mask) != len(activation):
        raise EvaluationError(
            f"The mask has the shape {tuple(mask.shape)} for an activation of {tuple(activation.shape)}: "
            "one mask (H, W) per image was expected."
        )
    coarse = F.interpolate(mask[:, None].double(), activation.shape[1:], mode="area")
    return (p * coarse.flatten(1)).sum(1).float()


def similarity_map(maps: Tensor, others: Tensor, *, parts: int = 1, normalised: bool = False) -> Tensor:
    """The ranking activation map: which places of an image make it similar to another. → (B, H, W).

    Yang et al., Towards rich feature discovery with class activation maps augmentation for person
    re-identification, CVPR 2019; ABD-Net's author names it as the way its figures were made. An embedding is
    pooled from a map, so the inner product of two embeddings is a sum over the places of the first image.
    The map holds that sum's terms, which may be negative: they add up to the inner product. Squared
    distances of normalised embeddings are 2 minus twice that for each part.

    Args:
        maps, others: the last maps of the images and of those that they are compared with, (B, C, H, W)
            each. Exchange them for the terms of the other images.
        parts: into how many horizontal stripes the map is pooled, one after the other in the embedding.
            ABD-Net's attentive branch: its stripes. PFSA: its parts, or 1.
        normalised: each part's vector is divided by its length, as in PFSA.
    """
    _matrices(maps), _matrices(others)
    if maps.shape != others.shape or maps.ndim != 4:
        raise EvaluationError(
            f"The maps have the shapes {tuple(maps.shape)} and {tuple(others.shape)}: two equal shapes "
            "(B, C, H, W) were expected."
        )
    rows = maps.shape[2]
    if not 1 <= parts <= rows:
        raise EvaluationError(f"parts is {parts}: 1 to {rows}, the rows of the map, were expected.")
    stride = rows // parts
    terms = torch.zeros_like(maps[:, 0], dtype=torch.float32)
    for top in range(0, parts * stride, stride):  # as `reidlib.models.pfsa.stripe_pool`: stripes may overlap
        stripe = slice(top, top + rows - (parts - 1) * stride)
        one, other = maps[:, :, stripe].float(), others[:, :, stripe].float().mean((2, 3))
        term = torch.einsum("bchw,bc->bhw", one, other) / one[0, 0].numel()
        if normalised:
            lengths = one.mean((2, 3)).norm(dim=1) * other.norm(dim=1)
            term = term / lengths.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
        terms[:, stripe] += term
    return terms


def _shares(activation: Tensor) -> Tensor:
    """(B, H, W) → (B, N), float64, each row divided by its sum."""
    if activation.ndim != 3 or not activation.numel():
        raise EvaluationError(
            f"The activation has the shape {tuple(activation.shape)}: (B, H, W) was expected."
        )
    require_finite(activation)
    if (activation < 0).any():
        raise EvaluationError(
            "The activation has negative values, so it has no shares: pass activation(maps), or a map after "
            "ReLU."
        )
    p = activation.flatten(1).double()
    return p / p.sum(1, keepdim=True)


# ---------------------------------------------------------------------------------------------------- spectra


def eigenvalues(maps: Tensor) -> Tensor:
    """The eigenvalues of F Fᵀ that can differ from 0, largest first. maps: (B, C, H, W) → (B, min(C, N)).

    They are the squared singular values of F, taken from the smaller of F Fᵀ and Fᵀ F. F is not centred, as
    in ABD-Net's O.F.
    """
    return _spectra(maps).float()


def effective_rank(maps: Tensor) -> Tensor:
    """How many directions the features use, as a share of those they can have. maps: (B, C, H, W) → (B,).

    exp(entropy) / min(C, N) of the eigenvalues of F Fᵀ divided by their sum, in (0, 1]: 1 if all are equal,
    which O.F. aims at, 1 / min(C, N) if one is left. Roy and Vetterli (The effective rank, EUSIPCO 2007) take
    singular values; O.F. acts on eigenvalues. NaN for a map of zeros.
    """
    return _rank_of(_spectra(maps))


def condition_number(maps: Tensor) -> Tensor:
    """log₁₀ of the largest over the smallest eigenvalue of F Fᵀ that is not 0. maps: (B, C, H, W) → (B,).

    The result lies in [0, 10]: eigenvalues below `ZERO` times the largest count as 0. It is twice the
    logarithm of the ratio of singular values. A map with a single direction has 0, too: look at
    `effective_rank` beside it. NaN for a map of zeros.
    """
    return _condition_of(_spectra(maps))


def spectrum_measures(maps: Tensor) -> tuple[Tensor, Tensor]:
    """`effective_rank` and `condition_number` from one decomposition."""
    spectra = _spectra(maps)
    return _rank_of(spectra), _condition_of(spectra)


@torch.inference_mode()
def weight_spectra(model: "ReidNetwork") -> pd.DataFrame:
    """The spectra of the backbone's convolutions, which O.W. means to reach, in network order.

    They are the targets of `orthogonality_targets(model, reach="backbone")`; the first is the stem, the only
    one that the released O.W. reaches. A weight is the matrix out × rest.

    Returns:
        One row per convolution: `layer` (its name in the network), `effective_rank`, `condition_number`
        (log₁₀), defined as for maps.
    """
    names = {module: name for name, module in model.named_modules()}
    backbone = [module for part in model.trunk_modules() for module in part.modules()]
    rows = []
    for module in backbone:
        if isinstance(module, nn.Conv2d):
            rank, condition = spectrum_measures(module.weight.flatten(1)[None])
            rows.append((names[module], float(rank), float(condition)))
    return pd.DataFrame(rows, columns=["layer", "effective_rank", "condition_number"])


def _spectra(maps: Tensor) -> Tensor:
    """`eigenvalues` in float64."""
    f = _matrices(maps).double()
    gram = f @ f.mT if f.shape[1] <= f.shape[2] else f.mT @ f
    return torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)


def _rank_of(spectra: Tensor) -> Tensor:
    p = spectra / spectra.sum(1, keepdim=True)
    return (torch.special.entr(p).sum(1).exp() / p.shape[1]).clamp_max(1).float()


def _condition_of(spectra: Tensor) -> Tensor:
    largest = spectra[:, :1]
    smallest = spectra.masked_fill(spectra <= ZERO * largest, torch.inf).amin(1)
    ratio = largest[:, 0] / smallest
    return torch.where(ratio > 0, ratio, torch.nan).log10().float()


# ------------------------------------------------------------------------------------------------------ input


def require_finite(maps: Tensor, first: int = 0) -> None:
    """Raises EvaluationError if an image's map holds NaN or infinities; it names the first such images.

    first: the number of the first image.
    """
    bad = first + (~torch.isfinite(maps.flatten(1)).all(1)).nonzero().flatten()
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} of {len(maps)} feature maps hold NaN or infinities (first: {bad[:5].tolist()}): the "
            "weights are broken. Train the run again with a lower learning_rate."
        )


def _matrices(maps: Tensor) -> Tensor:
    """(B, C, H, W) or (B, C, N) → (B, C, N)."""
    if maps.ndim not in (3, 4) or not maps.numel():
        raise EvaluationError(
            f"The feature maps have the shape {tuple(maps.shape)}: (B, C, H, W), without a 0, was expected."
        )
    require_finite(maps)
    return maps.flatten(2)
