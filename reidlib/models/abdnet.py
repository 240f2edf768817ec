"""ABD-Net: a ResNet with a global branch and an attentive branch.

ABD-Net: Attentive but Diverse Person Re-Identification (Chen et al., ICCV 2019,
https://arxiv.org/abs/1908.01114). Every row of the paper's Table 1 is this class with parts switched off. Its
penalties for features that are not diverse are in `reidlib.losses`.

From the released code, not from the paper:
- The attention heads run on each stripe; the figure draws them on the whole map (`attention_per_stripe`).
- `before` passes through a DANet head too; the figure draws a straight line (`before_head`).
- Channel attention prefers the least similar channels (`cam_most_similar_first`, see `ChannelAttention`).
- Without CAM and PAM there are no heads and no sum conv: `before` and `after` are the reduced map itself.

From neither: the branches have a fixed order, global first (`branch_order`), and unused modules are not
built.
"""

import copy
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reidlib.errors import ReidError
from reidlib.models.attention import AttentionHead, ChannelAttention, PositionAttention, conv_norm_relu
from reidlib.models.backbone import ReidNetwork, ReidOutput, build_trunk


class ABDNet(ReidNetwork):
    """The whole network: images (B, 3, H, W) → ReidOutput.

    - heads: the global one, then one per stripe; branch_order="attentive-first" puts the stripes first.
      Either branch may be left out.
    - embedding: (B, embedding_dim + stripes · reduced_dim), not normalised.
    - feature_maps: `intermediate` is layer1's output, after the shallow CAM if there is one. The attentive
      branch adds `before`, `cam`, `pam` and `after`, as far as they exist, with one map per stripe each.
      Without attention_per_stripe each has one map, the whole one.

    Shapes in comments are for ResNet-50 at 384 × 128.

    Raises:
        ReidError: settings are out of range or contradict each other.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        cam: bool = True,
        pam: bool = True,
        shallow_cam: bool = True,
        pam_form: Literal["plain", "normalised"] = "plain",
        attention_heads: bool = True,
        global_branch: bool = True,
        attentive_branch: bool = True,
        stripes: int = 2,
        embedding_dim: int = 1024,
        reduced_dim: int = 1024,
        head_dim: int = 512,
        dropout: float = 0.5,
        last_stride: int = 1,
        cam_most_similar_first: bool = False,
        before_head: bool = True,
        attention_per_stripe: bool = True,
        branch_order: Literal["global-first", "attentive-first"] = "global-first",
        global_pooling: Literal["average", "max"] = "average",
        pretrained: bool | str | Path = False,
    ):
        super().__init__()
        if not global_branch and not attentive_branch:
            raise ReidError(
                "global_branch and attentive_branch are both False: a network needs one branch or both."
            )
        if not attentive_branch and (cam or pam):
            raise ReidError(
                "cam and pam sit in the attentive branch: set both to False, or attentive_branch to True."
            )
        if num_classes < 1 or stripes < 1:
            raise ReidError(
                f"num_classes is {num_classes} and stripes is {stripes}: both must be at least 1."
            )
        if branch_order not in ("global-first", "attentive-first"):
            raise ReidError(
                f"branch_order is {branch_order!r}: 'global-first' or 'attentive-first' was expected."
            )
        if global_pooling not in POOLINGS:
            raise ReidError(f"global_pooling is {global_pooling!r}: 'average' or 'max' was expected.")
        trunk = build_trunk(backbone, last_stride=last_stride, pretrained=pretrained)
        channels = trunk.channels[3]
        self.stem, self.layer1, self.layer2, self.layer3 = (
            trunk.stem,
            trunk.layer1,
            trunk.layer2,
            trunk.layer3,
        )
        self.shallow_cam = (
            ChannelAttention(most_similar_first=cam_most_similar_first) if shallow_cam else None
        )
        self.global_branch = None
        if global_branch:
            self.global_branch = GlobalBranch(
                trunk.layer4, channels, embedding_dim, num_classes, dropout, global_pooling
            )
        self.attentive_branch = None
        if attentive_branch:
            modules: dict[str, nn.Module] = {}
            if before_head and attention_heads and (cam or pam):
                modules["before"] = nn.Identity()
            if cam:
                modules["cam"] = ChannelAttention(most_similar_first=cam_most_similar_first)
            if pam:
                modules["pam"] = PositionAttention(head_dim if attention_heads else reduced_dim, pam_form)
            if attention_heads:
                modules = {
                    name: AttentionHead(module, reduced_dim, head_dim) for name, module in modules.items()
                }
            layer4 = copy.deepcopy(trunk.layer4)
            self.attentive_branch = AttentiveBranch(
                layer4, channels, reduced_dim, num_classes, stripes, modules, attention_per_stripe
            )
        self.attentive_first = branch_order == "attentive-first"
        pretrained_layers = {id(module) for part in self.trunk_modules() for module in part.modules()}
        for module in self.modules():
            if id(module) not in pretrained_layers:
                init_new_layer(module)

    def trunk_modules(self) -> list[nn.Sequential]:
        branches = (self.global_branch, self.attentive_branch)
        return [
            self.stem,
            self.layer1,
            self.layer2,
            self.layer3,
            *(b.layer4 for b in branches if b is not None),
        ]

    def forward(self, images: Tensor) -> ReidOutput:
        x = self.layer1(self.stem(images))  # (B, 256, 96, 32)
        if self.shallow_cam is not None:
            x = self.shallow_cam(x)
        feature_maps = {"intermediate": [x]}
        x = self.layer3(self.layer2(x))  # (B, 1024, 24, 8)
        head_embeddings, all_logits = [], []
        branches = [self.global_branch, self.attentive_branch]
        # Dropout draws its random numbers in this order, too.
        for branch in reversed(branches) if self.attentive_first else branches:
            if branch is not None:
                embeddings, logits, maps = branch(x)
                head_embeddings += embeddings
                all_logits += logits
                feature_maps |= maps
        embedding = torch.cat([e.float() for e in head_embeddings], 1)  # (B, 3072)
        return ReidOutput(embedding, all_logits, head_embeddings, feature_maps)


class GlobalBranch(nn.Module):
    """layer4 → average (or max) pool → Linear, BN, ReLU, dropout → classifier."""

    def __init__(
        self,
        layer4: nn.Sequential,
        channels: int,
        embedding_dim: int,
        num_classes: int,
        dropout: float,
        pooling: str,
    ):
        super().__init__()
        self.layer4 = layer4
        self.pool = POOLINGS[pooling]
        self.fc = nn.Sequential(
            nn.Linear(channels, embedding_dim),
            nn.BatchNorm1d(embedding_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Linear(embedding_dim, num_classes)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], dict[str, list[Tensor]]]:
        """x: (B, 1024, 24, 8) → one embedding, its logits and no feature maps."""
        embedding = self.fc(self.pool(self.layer4(x)))  # (B, 1024)
        return [embedding], [self.classifier(embedding)], {}


class AttentiveBranch(nn.Module):
    """layer4 → reduction → attention heads on each horizontal stripe → sum → 1×1 conv → pool → classifier.

    All stripes share the heads; each stripe has its own classifier.

    Args:
        attention: name (`before`, `cam`, `pam`) → attention module, in its head if there are heads; empty: no
            attention. If it has no module, `before` is the reduced map itself.
        per_stripe: True: the heads run on each stripe. False: on the whole map, which is cut afterwards.
    """

    def __init__(
        self,
        layer4: nn.Sequential,
        channels: int,
        reduced_dim: int,
        num_classes: int,
        stripes: int,
        attention: dict[str, nn.Module],
        per_stripe: bool,
    ):
        super().__init__()
        self.layer4 = layer4
        self.reduction = conv_norm_relu(channels, reduced_dim, 1)
        self.heads = nn.ModuleDict(attention)
        self.sum_conv = (
            nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(reduced_dim, reduced_dim, 1)) if attention else None
        )
        self.classifiers = nn.ModuleList(nn.Linear(reduced_dim, num_classes) for _ in range(stripes))
        self.per_stripe = per_stripe

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], dict[str, list[Tensor]]]:
        """x: (B, 1024, 24, 8) → embeddings and logits, one per stripe, and feature maps by position.

        A position has one map per stripe, or a single map without `per_stripe`.
        """
        x = self.reduction(self.layer4(x))
        stripes = self.cut(x)  # stripes × (B, 1024, 12, 8)
        if not self.per_stripe:
            whole = self.attend(x)
            maps = {name: [whole[name]] for name in whole}
        elif self.training:  # one stripe after the other: BN's batch statistics are those of one stripe
            per_stripe = [self.attend(stripe) for stripe in stripes]
            maps = {name: [stripe_maps[name] for stripe_maps in per_stripe] for name in per_stripe[0]}
        else:  # in evaluation mode images do not affect each other: all stripes go through as one batch
            maps = {name: list(m.chunk(len(stripes))) for name, m in self.attend(torch.cat(stripes)).items()}
        pooled = maps["after"] if self.per_stripe else self.cut(whole["after"])
        embeddings = [average_pool(m) for m in pooled]  # stripes × (B, 1024)
        logits = [classifier(e) for classifier, e in zip(self.classifiers, embeddings, strict=True)]
        return embeddings, logits, maps

    def cut(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) → stripes × (B, C, H / stripes, W), from top to bottom."""
        stripes = len(self.classifiers)
        if x.shape[2] % stripes:
            raise ReidError(
                f"The last feature map has {x.shape[2]} rows, which {stripes} stripes cannot share evenly: "
                f"use images whose height is a multiple of {16 * stripes}."
            )
        return x.chunk(stripes, 2)

    def attend(self, stripe: Tensor) -> dict[str, Tensor]:
        """A stripe or the whole map, (B, C, h, W) → position → map (B, C, h, W), from `before` to `after`."""
        if self.sum_conv is None:
            return {"before": stripe, "after": stripe}
        maps = {} if "before" in self.heads else {"before": stripe}
        maps |= {name: head(stripe) for name, head in self.heads.items()}
        return maps | {"after": self.sum_conv(reduce(torch.add, maps.values()))}


def average_pool(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C), in float32."""
    return x.mean((2, 3), dtype=torch.float32)


def max_pool(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C), in float32."""
    return x.amax((2, 3)).float()


POOLINGS = {"average": average_pool, "max": max_pool}


def init_new_layer(module: nn.Module) -> None:
    """Initial values: convolutions Kaiming normal (fan-out), Linear N(0, 0.01), BN N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
