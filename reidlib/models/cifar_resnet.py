"""The ResNet for small images, with spatial attention before global average pooling (GAP).

Deep Residual Learning for Image Recognition (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385, section
4.2): a 3×3 convolution, three stages of n blocks with 16, 32 and 64 channels, GAP and one linear classifier,
so 6n + 2 weighted layers. Shortcuts are the paper's option A, without parameters: at the start of a stage
they take every second pixel and fill the new channels with zeros.

Not from that paper: `spatial_attention` (see `SpatialAttention`), which the spatial-attention paper compares
on CIFAR-100. It has no parameters, so networks of one seed start from the same weights, whatever their
attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlib.errors import ReidError
from reidlib.models.attention import SpatialAttention

CHANNELS = (16, 32, 64)


class Block(nn.Module):
    """Two 3×3 convolutions and the shortcut around them.

    (B, C, H, W) → (B, C', ⌈H / stride⌉, ⌈W / stride⌉), C' ≥ C.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride, self.new_channels = stride, out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        x = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(x)) + shortcut).relu()


class CifarResNet(nn.Module):
    """images: (B, channels, H, W) → logits (B, num_classes); the pooled map is (B, 64, ⌈H/4⌉, ⌈W/4⌉).

    Args:
        depth: 6n + 2, at least 8.
        channels: of the images, 1 (grey) or 3.
        spatial_attention: "none" (GAP), "sum" (SA as released), "softmax" (SA as the paper writes) or
            "uniform". "uniform" is a control from no paper: every position has the same weight. The pooled
            vector is as short as with SA, but nothing is attended to.

    Raises:
        ReidError: any other depth or spatial_attention.
    """

    def __init__(
        self, num_classes: int, *, depth: int = 20, channels: int = 3, spatial_attention: str = "none"
    ):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ReidError(f"depth is {depth}: 6n + 2 was expected (8, 14, 20, …, 56, …, 110).")
        if spatial_attention not in ("none", "uniform", "sum", "softmax"):
            raise ReidError(
                f"spatial_attention is {spatial_attention!r}: "
                "'none', 'uniform', 'sum' or 'softmax' was expected."
            )
        self.stem = nn.Sequential(
            nn.Conv2d(channels, CHANNELS[0], 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS[0]), nn.ReLU()
        )
        blocks, width = [], CHANNELS[0]
        for stage, out in enumerate(CHANNELS):
            for number in range((depth - 2) // 6):
                blocks.append(Block(width, out, 2 if stage and not number else 1))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.reweights = spatial_attention != "none"
        self.share = SpatialAttention(spatial_attention) if spatial_attention in ("sum", "softmax") else None
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al., ICCV 2015
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, 64, h, w), not negative (it comes from a ReLU)."""
        return self.blocks(self.stem(images))

    def attention(self, feature_map: Tensor) -> Tensor:
        """(B, 64, h, w) → (B, 1, h, w), weights that sum to 1; all are 1 / (h·w) without SA."""
        if self.share is None:
            return torch.full_like(feature_map[:, :1], 1 / feature_map[0, 0].numel())
        return self.share.attention(feature_map)

    def pooled(self, feature_map: Tensor) -> Tensor:
        """(B, 64, h, w) → (B, 64).

        The attention sums to 1 and the mean divides by h·w again, so the vector is short with SA and with
        "uniform".
        """
        return (feature_map * self.attention(feature_map) if self.reweights else feature_map).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pooled(self.feature_map(images)))
