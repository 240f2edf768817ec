"""The attention layers of the study: feature maps in, feature maps of the same shape out.

Every softmax runs in float32, under autocast too: bfloat16 would round energies of a few hundred to whole
numbers.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from reidlib.errors import ReidError


class ChannelAttention(nn.Module):
    """Channel attention (CAM): each channel adds γ times a mixture of all channels, weighted by similarity.

    Dual Attention Network for Scene Segmentation (Fu et al., CVPR 2019, https://arxiv.org/abs/1809.02983),
    used by ABD-Net (https://arxiv.org/abs/1908.01114).

    In the papers the weights are softmax(energy): the most similar channels weigh most. Both released codes
    subtract the energy from its row maximum, which gives softmax(−energy): the *least* similar channels weigh
    most. The released form is the default; `most_similar_first=True` is the papers'.

    Scaled dot-product attention (query −x, key and value x) is the same function, but no faster on a CPU
    (benchmarks/bench_training.py --attention).
    """

    def __init__(self, *, most_similar_first: bool = False):
        super().__init__()
        self.most_similar_first = most_similar_first
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, C, C), rows sum to 1, float32."""
        with torch.autocast(x.device.type, enabled=False):
            a = x.flatten(2).float()  # (B, C, N)
            energy = a @ a.mT  # (B, C, C)
            return (energy if self.most_similar_first else -energy).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = (self.attention(x).to(x.dtype) @ x.flatten(2)).view_as(x)  # (B, C, H, W)
        return x + (self.gamma * mixed).to(x.dtype)


class PositionAttention(nn.Module):
    """Position attention (PAM): each position adds γ times a mixture of all positions' values.

    Dual Attention Network for Scene Segmentation (Fu et al., CVPR 2019, https://arxiv.org/abs/1809.02983),
    used by ABD-Net (https://arxiv.org/abs/1908.01114). Energies are not divided by √d: this is PyTorch's
    scaled dot-product attention with scale 1. `attention` returns the weights, for inspection only.

    Query, key and value come from 1×1 convolutions. "plain" (released code, default): with bias; query and
    key have C/8 channels (at least 1). "normalised" (weakly sourced: two readers' notes of ABD-Net's paper,
    and the C × H × W labels in its attention figure): C channels each, then batch normalisation and ReLU.
    """

    def __init__(self, channels: int, form: Literal["plain", "normalised"] = "plain"):
        super().__init__()
        if form not in ("plain", "normalised"):
            raise ReidError(
                f"form is {form!r}: 'plain' (released code) or 'normalised' (readers' notes) was expected."
            )
        if form == "plain":
            inner = max(channels // 8, 1)
            self.query = nn.Conv2d(channels, inner, 1)
            self.key = nn.Conv2d(channels, inner, 1)
            self.value = nn.Conv2d(channels, channels, 1)
        else:
            self.query, self.key, self.value = (conv_norm_relu(channels, channels, 1) for _ in range(3))
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, N, N) float32, N = H·W: row i holds position i's weights, which sum to 1."""
        query, key = (places(layer(x)) for layer in (self.query, self.key))  # (B, N, C/8)
        with torch.autocast(x.device.type, enabled=False):
            energy = query.float() @ key.float().mT  # (B, N, N)
            return energy.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        # One head: (B, 1, N, channels). Energies and softmax are float32, even for bfloat16 inputs.
        query, key, value = (places(layer(x)).unsqueeze(1) for layer in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)  # (B, N, C)
        return x + (self.gamma * mixed.mT.reshape(x.shape)).to(x.dtype)


class SpatialAttention(nn.Module):
    """Parameter-free spatial attention: multiplies every channel by one map of how active each position is.

    Parameter-Free Spatial Attention Network for Person Re-Identification (Wang et al.,
    https://arxiv.org/abs/1811.12150).
    - "softmax" (paper): softmax over positions of the channel sum.
    - "sum" (released code, default): the channel mean divided by its sum over positions. The channel sum
      would give the same quotient. The input must not be negative (it comes from a ReLU).
    """

    def __init__(self, normalization: Literal["softmax", "sum"] = "sum"):
        super().__init__()
        if normalization not in ("softmax", "sum"):
            raise ReidError(
                f"normalization is {normalization!r}: "
                "'softmax' (paper) or 'sum' (released code) was expected."
            )
        self.normalization = normalization

    def attention(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) → (B, 1, H, W), sums to 1 over positions, float32."""
        energy = x.sum(1, keepdim=True, dtype=torch.float32)  # (B, 1, H, W)
        if self.normalization == "softmax":
            return energy.flatten(1).softmax(1).view_as(energy)
        # The lower bound avoids 0/0 for a map that is zero everywhere.
        return energy / energy.sum((2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def pool(self, x: Tensor, attention: Tensor) -> Tensor:
        """Global average pooling of x · attention, without storing that product.

        x: (B, C, H, W); attention: (B, 1, H, W) → (B, C), float32.
        """
        summed = x.flatten(2) @ attention.flatten(2).mT.to(x.dtype)  # (B, C, 1)
        return summed.float().squeeze(2) / attention.shape[2:].numel()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x).to(x.dtype)

    def extra_repr(self) -> str:
        return f"normalization={self.normalization!r}"


class AttentionHead(nn.Module):
    """The convolutions that DANet puts around an attention module.

    3×3 conv, BN, ReLU → `module` on `inner` channels → 3×3 conv, BN, ReLU → dropout 0.1 of whole channels →
    1×1 conv. (B, channels, H, W) → (B, channels, H, W). Source: Fu et al., CVPR 2019,
    https://arxiv.org/abs/1809.02983. ABD-Net wraps CAM and PAM in it and, unlike its figure, the plain path
    (nn.Identity).
    """

    def __init__(self, module: nn.Module, channels: int, inner: int):
        super().__init__()
        self.before = conv_norm_relu(channels, inner, 3)
        self.module = module
        self.after = conv_norm_relu(inner, inner, 3)
        self.out = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(inner, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.after(self.module(self.before(x))))


def places(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C), a view; it is contiguous if x is channels_last."""
    return x.flatten(2).mT


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """kernel × kernel convolution without bias that keeps the resolution, then BN and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
