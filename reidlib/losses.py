"""Training losses: cross-entropy, batch-hard triplet and the orthogonality penalties.

L = L_xent + β_tr·L_triplet + β_OF·L_OF + β_OW·L_OW
(ABD-Net, Chen et al., ICCV 2019, https://arxiv.org/abs/1908.01114)

The orthogonality penalties measure how far the spectrum of F Fᵀ is spread. F is a feature map (channels ×
positions) or a convolution's weight (out × rest). Where paper and released code differ, the released form is
the default:

                  released code                                  paper
    eigenvalues   one power step, Rayleigh quotient pᵀXp / pᵀp   several steps p ← Xq, q ← Xp, ratio ‖q‖/‖p‖
    O.F.          β·(λ₁ − λ₂)                                    β·(λ₁ − λ₂)²
    O.W.          β·10·(λ₁ − λ₂)²                                β·(λ₁ − λ₂)²

Everything runs in float32, under autocast too. F Fᵀ is never formed: every product with it is F(Fᵀv), two
passes over F. The released estimate has its own gradient (`_OneStepSpread`). Maps and weights are read in
memory order, channels_last or not, to avoid a copy: F Fᵀ does not depend on the order of F's columns.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reidlib.errors import ReidError
from reidlib.experiment import OF_POSITIONS
from reidlib.models.backbone import ReidNetwork

Estimator = Literal["rayleigh", "norm_ratio"]
Starts = tuple[Tensor, Tensor]  # start vectors of the iterations for λ₁ and for λ₂, (B, C, 1) each

# Position of the penalty on features → its factor in the released code (the paper has no factors). Start
# vectors are drawn in this order.
FEATURE_POSITIONS = {name: 0.01 if name == "intermediate" else 1.0 for name in OF_POSITIONS}
REFERENCE_BATCH = 32  # the penalty is a sum over images, rescaled to a batch of this size

_TINY = torch.finfo(torch.float32).tiny  # bounds divisors from below: avoids 0/0 for a map that is all zero


def cross_entropy(
    logits: Sequence[Tensor],
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy over several classifier heads. logits: heads × (B, classes); labels: (B,) → scalar.

    Smoothing puts (1 − ε) + ε/classes on the label and ε/classes elsewhere. `reduction` combines the heads:
    ABD-Net averages them (ε 0.1), PFSA sums them (ε 0). Over the batch it is always the mean.

    Raises:
        ReidError: there are no logits, or an unknown reduction.
    """
    if not logits:
        raise ReidError(
            "cross_entropy was given no logits: pass the `logits` list of a ReidOutput, one tensor per head."
        )
    if reduction not in ("mean", "sum"):
        raise ReidError(
            f"reduction is {reduction!r}: 'mean' (over the heads, ABD-Net) or 'sum' (PFSA) was expected."
        )
    per_head = torch.stack(
        [F.cross_entropy(head.float(), labels, label_smoothing=label_smoothing) for head in logits]
    )
    return per_head.mean() if reduction == "mean" else per_head.sum()


def batch_hard_triplet(embedding: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., https://arxiv.org/abs/1703.07737).

    embedding: (B, D); labels: (B,) → scalar: the mean over anchors of max(0, margin + d(hardest positive) −
    d(hardest negative)). d is the Euclidean distance; its square is clamped at 1e-12. An anchor that is alone
    in its class is its own positive; an anchor without a negative in the batch adds nothing.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        x = embedding.float()
        squared_norm = x.square().sum(1)  # (B,)
        squared = squared_norm[:, None] + squared_norm[None, :] - 2 * x @ x.T  # (B, B)
        distance = squared.clamp_min(1e-12).sqrt()
        same = labels[:, None] == labels[None, :]  # (B, B)
        hardest_positive = distance.masked_fill(~same, -torch.inf).amax(1)  # (B,)
        hardest_negative = distance.masked_fill(same, torch.inf).amin(1)  # (B,)
        return F.relu(margin + hardest_positive - hardest_negative).mean()


def spectral_spread(
    matrices: Tensor, starts: Starts, *, estimator: Estimator = "rayleigh", iterations: int = 1
) -> Tensor:
    """λ₁ − λ₂, estimated by power iteration: the largest minus the smallest eigenvalue of F Fᵀ.

    λ₁ comes from X = F Fᵀ, λ₂ from X − λ₁I; the gradient flows through λ₁ in both.
    - "rayleigh" (released code): `iterations` steps p ← Xp, then λ = pᵀXp / pᵀp. As pᵀ(FFᵀ)p = ‖Fᵀp‖², both
      eigenvalues are ‖Fᵀp‖² / ‖p‖², each at its own p. (For λ₂ the quotient of X − λ₁I is smaller by λ₁, and
      λ₂ = λ₁ + quotient.)
    - "norm_ratio" (paper): `iterations` times p ← Xq, q ← Xp, then λ = ‖q‖ / ‖p‖. This ratio has no sign, and
      X − λ₁I has no positive eigenvalue. So λ₂ = λ₁ − ratio, and the spread is the second ratio itself.

    Args:
        matrices: F, (B, C, N); the result is (B,).
        starts: start vectors for λ₁ and for λ₂, (B, C, 1) each.

    Raises:
        ReidError: an unknown estimator, or no iterations.
    """
    if estimator not in ("rayleigh", "norm_ratio"):
        raise ReidError(
            f"estimator is {estimator!r}: 'rayleigh' (released code) or 'norm_ratio' (paper) was expected."
        )
    if iterations < 1:
        raise ReidError(f"iterations is {iterations}: power iteration needs at least 1 step.")
    with torch.autocast(matrices.device.type, enabled=False):
        f = matrices.to(torch.promote_types(matrices.dtype, torch.float32))  # (B, C, N)
        if f.shape[1] == 1:  # a single eigenvalue has no spread; X − λ₁I would be rounding error
            return 0 * f.sum((1, 2))
        # From here on vectors are rows, (B, 1, C) or (B, 1, N): columns are several times slower on a CPU.
        start_largest, start_smallest = (_unit(start.to(f).mT) for start in starts)

        def gram(v: Tensor) -> Tensor:
            return v @ f @ f.mT  # (B, 1, C)

        if estimator == "norm_ratio":
            largest = _norm_ratio(gram, start_largest, iterations)  # (B, 1, 1)
            return _norm_ratio(lambda v: gram(v) - largest * v, start_smallest, iterations).flatten()
        if iterations == 1:
            return _OneStepSpread.apply(f, torch.cat([start_largest, start_smallest], 1))

        def rayleigh(p: Tensor) -> Tensor:
            return (p @ f).square().sum(2, keepdim=True) / p.square().sum(2, keepdim=True).clamp_min(_TINY)

        p = start_largest
        for _ in range(iterations):
            p = _unit(gram(p))
        largest = rayleigh(p)  # (B, 1, 1)
        p = start_smallest
        for _ in range(iterations):
            p = _unit(gram(p) - largest * p)
        return (largest - rayleigh(p)).flatten()


class _OneStepSpread(torch.autograd.Function):
    """`spectral_spread` after one Rayleigh step, with its own gradient.

    f: F (B, C, N); starts: (B, 2, C), s₁ and s₂ as unit rows → (B,). No gradient flows to the start vectors.

    Let p₁ = Xs₁, p₂ = Xs₂ − λ₁s₂, p̂ᵢ = pᵢ / ‖pᵢ‖, λᵢ = ‖Fᵀp̂ᵢ‖² and hᵢ = ∂λᵢ/∂pᵢ = 2 (Xp̂ᵢ − λᵢp̂ᵢ) / ‖pᵢ‖.
    The spread is S = λ₁ − λ₂. Its derivatives dᵢ = ∂S/∂λᵢ are d₂ = −1 and d₁ = 1 + h₂ᵀs₂, as p₂ depends on
    λ₁. With aᵢ = dᵢhᵢ

        ∂S/∂F = Σᵢ 2dᵢ p̂ᵢ(Fᵀp̂ᵢ)ᵀ + aᵢ(Fᵀsᵢ)ᵀ + sᵢ(Fᵀaᵢ)ᵀ

    is one product of C × 6 and 6 × N. Both factors are computed in forward, while F is in the cache. Only
    they are kept for backward, not the float32 copy of a bfloat16 map.
    """

    @staticmethod
    def forward(ctx, f: Tensor, starts: Tensor) -> Tensor:
        start_smallest = starts[:, 1:]
        t = starts @ f  # (B, 2, N), rows Fᵀsᵢ
        g = t @ f.mT  # (B, 2, C), rows Xsᵢ
        p1, z1, largest, norm1 = _quotient(f, g[:, :1])
        p2, z2, smallest, norm2 = _quotient(f, g[:, 1:] - largest * start_smallest)
        p, z = torch.cat([p1, p2], 1), torch.cat([z1, z2], 1)  # (B, 2, C), (B, 2, N)
        h = 2 * (z @ f.mT - torch.cat([largest, smallest], 1) * p) / torch.cat([norm1, norm2], 1)  # (B, 2, C)
        slope = 1 + (h[:, 1:] * start_smallest).sum(2, keepdim=True)  # (B, 1, 1)
        d = torch.cat([slope, -torch.ones_like(slope)], 1)  # (B, 2, 1)
        a = d * h
        ctx.save_for_backward(torch.cat([2 * d * p, a, starts], 1), torch.cat([z, t, a @ f], 1))
        ctx.by_columns = f.stride(1) == 1
        return (largest - smallest).flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        left, right = ctx.saved_tensors  # (B, 6, C), (B, 6, N)
        left = gradient[:, None, None] * left
        with torch.autocast(left.device.type, enabled=False):
            # In F's memory order: adding another gradient of F then reads both sequentially.
            return (right.mT @ left).mT if ctx.by_columns else left.mT @ right, None


def orthogonality_features(
    feature_maps: Mapping[str, Sequence[Tensor]],
    *,
    weight: float = 1e-6,
    squared: bool = False,
    estimator: Estimator = "rayleigh",
    iterations: int = 1,
    starts: Mapping[str, Sequence[Starts]] | None = None,
    generator: torch.Generator | None = None,
    smaller_side: bool = False,
    factors: Mapping[str, float] = FEATURE_POSITIONS,
    batch: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """O.F., the penalty on feature maps (ABD-Net, section 3.3) → scalar.

    weight · Σ over positions of (its factor · the mean over its maps of Σ over images of spread) / (B / 32).

    Args:
        feature_maps: position → maps (B, C, H, W). Positions that are not in `factors` are ignored.
        squared, estimator, iterations: the released form (defaults) or the paper's (True, "norm_ratio",
            several).
        starts: position → one pair of start vectors (B, C, 1) per map. None: standard normal, drawn from
            `generator` or PyTorch's global one.
        smaller_side: use FᵀF where C > N, as in the attentive branch (1024 × 96). There F Fᵀ is rank
            deficient: its smallest eigenvalue is 0 whatever the features are. FᵀF has those N of the
            eigenvalues that can differ from 0; start vectors are then (B, N, 1). Neither paper nor released
            code does so.
        factors: position → its factor, in the order in which start vectors are drawn.
        batch: size of the whole batch, where several processes share it.
        part: the images of that batch that these maps belong to. They get the start vectors that they would
            get in the whole batch.

    Raises:
        ReidError: no position of `factors` is in feature_maps.
    """
    positions = [position for position in factors if position in feature_maps]
    if not positions:
        raise ReidError(
            f"The orthogonality penalty on features finds none of its positions "
            f"{', '.join(factors)} among {', '.join(feature_maps) or 'no feature maps'}: "
            "it is ABD-Net's; use weight 0 for other networks."
        )
    total = 0.0
    for position in positions:
        maps = feature_maps[position]
        for index, feature_map in enumerate(maps):
            f = _as_matrices(feature_map)  # (B, C, H·W)
            if smaller_side and f.shape[1] > f.shape[2]:
                f = f.mT
            if starts is not None:
                pair = starts[position][index]
            else:
                drawn = _draw_starts((batch or len(f), f.shape[1], 1), f.device, generator, torch.randn)
                pair = tuple(start[part] for start in drawn)
            spread = spectral_spread(f, pair, estimator=estimator, iterations=iterations)  # (B,)
            spread = spread.square() if squared else spread
            rescaled = spread.sum() * REFERENCE_BATCH / len(feature_map)
            total = total + factors[position] / len(maps) * rescaled
    return weight * total


def orthogonality_weights(
    weights: Sequence[Tensor],
    *,
    weight: float = 1e-3,
    factor: float = 10.0,
    squared: bool = True,
    estimator: Estimator = "rayleigh",
    iterations: int = 1,
    starts: Sequence[Starts] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """O.W., the penalty on convolution weights (ABD-Net, section 3.3) → scalar.

    weight · factor · Σ over weights of spread², each weight reshaped to out × rest. The paper's form is
    factor 1, "norm_ratio" and several iterations.

    Args:
        weights: (out, in, kh, kw) each; `orthogonality_targets` picks them.
        starts: one pair of start vectors (out, 1) per weight. None: uniform in [0, 1), drawn from `generator`
            or PyTorch's global one.

    Raises:
        ReidError: there are no weights.
    """
    if not weights:
        raise ReidError("orthogonality_weights was given no weights: pass orthogonality_targets(network).")
    # In order of first appearance, which fixes the order of the random draws.
    by_shape: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(weights):
        by_shape.setdefault(tensor.shape, []).append(index)
    total = 0.0
    for members in by_shape.values():
        matrices = [_in_memory_order(weights[i]).flatten(1) for i in members]  # G × (out, rest)
        if starts is None:
            pair = _draw_starts(
                (len(members), len(matrices[0]), 1), matrices[0].device, generator, torch.rand
            )
        else:
            # (G, out, 1) each
            pair = tuple(torch.stack([starts[i][which] for i in members]) for which in (0, 1))
        # On a GPU one batch needs fewer kernel launches. On a CPU one weight at a time is slightly faster: a
        # batch would copy the weights (154 MB for ABD-Net) and not fit the cache.
        batches = [torch.stack(matrices)] if matrices[0].is_cuda else [matrix[None] for matrix in matrices]
        parts = zip(*(start.split(len(batches[0])) for start in pair), strict=True)
        spreads = [
            spectral_spread(batch, part, estimator=estimator, iterations=iterations)
            for batch, part in zip(batches, parts, strict=True)
        ]
        spread = torch.cat(spreads)  # (G,)
        total = total + (spread.square() if squared else spread).sum()
    return weight * factor * total


def orthogonality_targets(
    network: ReidNetwork, *, reach: Literal["stem", "backbone"] = "stem"
) -> list[nn.Parameter]:
    """The convolution weights of the backbone that O.W. acts on, in network order.

    - "stem" (released code): only `nn.Sequential` containers are searched. Residual blocks are none, so only
      the 7×7 convolution of the stem is found.
    - "backbone" (paper): all of them, with each branch's copy of layer4: 63 in ABD-Net with ResNet-50.

    Raises:
        ReidError: an unknown reach.
    """
    if reach not in ("stem", "backbone"):
        raise ReidError(f"reach is {reach!r}: 'stem' (released code) or 'backbone' (paper) was expected.")

    def walk(module: nn.Module) -> list[nn.Parameter]:
        if isinstance(module, nn.Conv2d):
            return [module.weight]
        if reach == "stem" and not isinstance(module, nn.Sequential):
            return []
        return [weight for child in module.children() for weight in walk(child)]

    return [weight for part in network.trunk_modules() for weight in walk(part)]


def _in_memory_order(x: Tensor) -> Tensor:
    """Moves the channels of x (B, C, …) to the end if it is channels_last.

    Flattening all axes after the first then needs no copy.
    """
    return x.movedim(1, -1) if x.stride(1) == 1 else x


def _as_matrices(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, H·W), a view of x where it is contiguous or channels_last."""
    return x.movedim(1, -1).flatten(1, -2).mT if x.stride(1) == 1 else x.flatten(2)


def _unit(v: Tensor) -> Tensor:
    """v / ‖v‖, (B, 1, C), to prevent overflow. Both estimates ignore v's scale: ‖v‖ needs no gradient."""
    return v / v.detach().norm(dim=2, keepdim=True).clamp_min(_TINY)


def _quotient(f: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p (B, 1, C) → p̂ (B, 1, C), Fᵀp̂ (B, 1, N), and (B, 1, 1) each: Rayleigh quotient of F Fᵀ at p, ‖p‖."""
    norm = p.norm(dim=2, keepdim=True).clamp_min(_TINY)
    p = p / norm
    z = p @ f
    return p, z, z.square().sum(2, keepdim=True), norm


def _norm_ratio(product, q: Tensor, iterations: int) -> Tensor:
    """‖q‖ / ‖p‖ after `iterations` times p ← Xq, q ← Xp. product: v → Xv; q: (B, 1, C) → (B, 1, 1)."""
    for _ in range(iterations):
        p = _unit(product(_unit(q)))
        q = product(p)
    return q.norm(dim=2, keepdim=True) / p.norm(dim=2, keepdim=True).clamp_min(_TINY)


def _draw_starts(
    shape: tuple[int, int, int], device: torch.device, generator: torch.Generator | None, distribution
) -> Starts:
    """Two float32 start vectors (B, C, 1) on `device`, drawn on the generator's device (`device` if None)."""
    drawn_on = device if generator is None else generator.device
    return tuple(distribution(shape, generator=generator, device=drawn_on).to(device) for _ in range(2))
