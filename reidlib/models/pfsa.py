"""PFSA: a ResNet with spatial attention before global average pooling, deep supervision and part classifiers.

Parameter-Free Spatial Attention Network for Person Re-Identification (Wang et al.,
https://arxiv.org/abs/1811.12150).

From the released code, not from the paper (both are the default):
- Attention is normalised by its sum, without a softmax (see `SpatialAttention`).
- SA₁, the attention on the final map, is never applied; `spatial_attention="sa1+sa2"` applies it.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlib.errors import ReidError
from reidlib.models.attention import SpatialAttention
from reidlib.models.backbone import ReidNetwork, ReidOutput, build_trunk

PLACEMENTS = ("none", "sa1", "sa2", "sa1+sa2")
SUPERVISED = ("layer1", "layer2", "layer3")


class PFSANet(ReidNetwork):
    """The whole network: images (B, 3, H, W) → ReidOutput.

    - heads: the parts, the global one, then layer1 … layer3.
    - embedding: (B, C · parts), or (B, C) without parts; channels outermost. It is the pooled final map
      before dropout, each part L2-normalised over channels.
    - feature_maps: `layer1` … `layer4`; `final`, the map that is pooled (layer4, after SA₁ if there is one);
      `attention`, the maps (B, 1, H, W) of layer1 … layer3 and of layer4, as far as attention is applied
      there.

    Shapes in comments are for ResNet-50 at 384 × 128.

    Args:
        parts: P, the number of horizontal stripes of the final map. Each has a classifier; the global
            classifier takes their mean feature. 0: only the global classifier, on the globally pooled vector.
        part_classifiers: False leaves out the parts' classifiers: only their mean feature is classified, as
            in the ablation that the released project's README describes.
        deep_supervision: DS, a classifier on each of layer1 … layer3.
        feature_dim: channels of the 1×1 convolutions before the classifiers; may be None if there are none.
        spatial_attention: "sa1" before the pooling of the final map, "sa2" before those of deep supervision,
            "sa1+sa2", or "none".

    Raises:
        ReidError: settings are out of range or contradict each other.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        parts: int = 6,
        deep_supervision: bool = True,
        spatial_attention: Literal["none", "sa1", "sa2", "sa1+sa2"] = "sa2",
        normalization: Literal["sum", "softmax"] = "sum",
        feature_dim: int | None = 256,
        part_classifiers: bool = True,
        dropout: float = 0.5,
        last_stride: int = 1,
        pretrained: bool | str | Path = False,
    ):
        super().__init__()
        if spatial_attention not in PLACEMENTS:
            raise ReidError(
                f"spatial_attention is {spatial_attention!r}: one of {', '.join(PLACEMENTS)} was expected."
            )
        if "sa2" in spatial_attention and not deep_supervision:
            raise ReidError(
                f"spatial_attention={spatial_attention!r} puts SA2 into deep supervision: "
                "set deep_supervision to True, or spatial_attention to 'none' or 'sa1'."
            )
        if num_classes < 1 or parts < 0:
            raise ReidError(
                f"num_classes is {num_classes} and parts is {parts}: at least 1 and at least 0 were expected."
            )
        if feature_dim is None and (parts or deep_supervision):
            raise ReidError("feature_dim is None, but parts and deep_supervision need a number, such as 256.")
        trunk = build_trunk(backbone, last_stride=last_stride, pretrained=pretrained)
        self.stem, self.layer1, self.layer2, self.layer3, self.layer4 = trunk[:5]
        channels = trunk.channels[3]
        self.parts = parts
        self.sa1 = SpatialAttention(normalization) if "sa1" in spatial_attention else None
        self.sa2 = SpatialAttention(normalization) if "sa2" in spatial_attention else None

        self.final = nn.Identity()  # lets tools that hook a layer see the map that is pooled
        self.bottleneck = None  # shared by all parts
        if parts:
            conv = nn.Conv2d(channels, feature_dim, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.bottleneck = nn.Sequential(
                nn.Dropout(dropout), conv, nn.BatchNorm2d(feature_dim), nn.ReLU(inplace=True)
            )
        self.part_classifiers = nn.ModuleList(
            classifier(feature_dim, num_classes) for _ in range(parts if part_classifiers else 0)
        )
        self.global_classifier = classifier(feature_dim if parts else channels, num_classes)

        # These convolutions keep PyTorch's default initial values, as in the released code.
        self.supervision_convs = nn.ModuleDict()
        self.supervision_classifiers = nn.ModuleDict()
        for name, width in zip(SUPERVISED, trunk.channels, strict=False) if deep_supervision else ():
            self.supervision_convs[name] = nn.Conv2d(width, feature_dim, 1, bias=False)
            self.supervision_classifiers[name] = classifier(feature_dim, num_classes)

    def trunk_modules(self) -> list[nn.Sequential]:
        return [self.stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, images: Tensor) -> ReidOutput:
        x = self.stem(images)  # (B, 64, 96, 32)
        maps, attention = {}, []
        for name in (*SUPERVISED, "layer4"):
            x = getattr(self, name)(x)
            maps[name] = [x]
        supervised = []  # (B, 256) for each of layer1 … layer3
        for name, conv in self.supervision_convs.items():
            pooled, used = pool(maps[name][0], self.sa2)  # (B, C)
            attention += used
            supervised.append(conv(pooled[:, :, None, None]).flatten(1))
        if self.sa1 is not None:
            attention.append(self.sa1.attention(x))
            x = x * attention[-1].to(x.dtype)
        x = self.final(x)
        maps["final"] = [x]
        if attention:
            maps["attention"] = attention

        pooled = stripe_pool(x, max(self.parts, 1))  # (B, 2048, 6, 1)
        features = pooled if self.bottleneck is None else self.bottleneck(pooled)  # (B, 256, 6, 1)
        part_features = features.flatten(2).unbind(2) if len(self.part_classifiers) else ()
        head_embeddings = [*part_features, features.mean((2, 3)), *supervised]
        classifiers = [*self.part_classifiers, self.global_classifier, *self.supervision_classifiers.values()]
        logits = [head(embedding) for head, embedding in zip(classifiers, head_embeddings, strict=True)]
        return ReidOutput(F.normalize(pooled, dim=1).flatten(1), logits, head_embeddings, maps)


def classifier(in_features: int, num_classes: int) -> nn.Linear:
    """A linear classifier with weights from N(0, 0.001) and zero bias."""
    linear = nn.Linear(in_features, num_classes)
    nn.init.normal_(linear.weight, 0, 0.001)
    nn.init.zeros_(linear.bias)
    return linear


def pool(x: Tensor, spatial_attention: SpatialAttention | None) -> tuple[Tensor, list[Tensor]]:
    """Global average pooling, after spatial attention if given.

    (B, C, H, W) → (B, C) and a list of the attention used.
    """
    if spatial_attention is None:
        return x.mean((2, 3), dtype=torch.float32), []
    attention = spatial_attention.attention(x)
    return spatial_attention.pool(x, attention), [attention]


def stripe_pool(x: Tensor, parts: int) -> Tensor:
    """Averages of horizontal stripes, float32. (B, C, H, W) → (B, C, parts, 1).

    Stripes start every ⌊H / parts⌋ rows and are H − (parts − 1)·⌊H / parts⌋ rows high. They overlap unless
    parts divides H.

    Raises:
        ReidError: the map has fewer rows than parts.
    """
    height = x.shape[2]
    if height < parts:
        raise ReidError(
            f"The last feature map has {height} rows, too few for {parts} parts: "
            f"use images at least {16 * parts} pixels high."
        )
    stride = height // parts
    rows = x.mean(3, dtype=torch.float32)  # (B, C, H)
    return F.avg_pool1d(rows, height - (parts - 1) * stride, stride)[..., None]
