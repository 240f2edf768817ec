"""The ResNet trunk, the output type and the base class of all networks.

Deep Residual Learning for Image Recognition (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385), as
torchvision builds it. Not from that paper: `layer4` keeps the resolution (last stride 1), as
re-identification networks usually do.
"""

from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision.models as tvm
from torch import Tensor, nn

from reidlib.errors import ReidError
from reidlib.torch_files import CheckpointError, read_torch_file

BACKBONES = {
    "resnet18": (tvm.resnet18, tvm.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (tvm.resnet34, tvm.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (tvm.resnet50, tvm.ResNet50_Weights.IMAGENET1K_V1),
}


class ReidOutput(NamedTuple):
    """What every network returns, in training and in evaluation mode alike."""

    embedding: Tensor  # (B, D), the test embedding, float32
    logits: list[Tensor]  # heads × (B, num_classes)
    head_embeddings: list[Tensor]  # heads × (B, d), each classifier's input; for the triplet loss
    feature_maps: dict[str, list[Tensor]]  # position → maps (B, C, H, W), several if computed per stripe


class ReidNetwork(nn.Module):
    """A network made of a pretrained trunk and new layers; it tells their parameters apart."""

    def trunk_modules(self) -> list[nn.Sequential]:
        """The modules that come from the pretrained backbone, in the order in which an image passes them."""
        raise NotImplementedError

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Parameters of the pretrained backbone."""
        return [parameter for module in self.trunk_modules() for parameter in module.parameters()]

    def new_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""
        trunk = {id(parameter) for parameter in self.trunk_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in trunk]


class Trunk(NamedTuple):
    """The parts of a ResNet: stem (stride 4), layer1 … layer4, and the output channels of layer1 … layer4."""

    stem: nn.Sequential
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    channels: tuple[int, int, int, int]


def build_trunk(
    backbone: str = "resnet50", *, last_stride: int = 1, pretrained: bool | str | Path = False
) -> Trunk:
    """A torchvision ResNet cut into its parts.

    Args:
        pretrained: False (random), True (torchvision's ImageNet weights, downloaded once) or the path of a
            state-dict file with torchvision's names.

    Raises:
        ReidError: the backbone or stride is unknown, the download fails, or the file does not fit.
    """
    if backbone not in BACKBONES:
        raise ReidError(f"backbone is {backbone!r}: one of {', '.join(BACKBONES)} was expected.")
    if last_stride not in (1, 2):
        raise ReidError(
            f"last_stride is {last_stride!r}: 1 (layer4 keeps layer3's resolution) or 2 was expected."
        )
    constructor, weights = BACKBONES[backbone]
    resnet = constructor(weights=None)
    if isinstance(pretrained, (str, Path)):
        load_backbone_file(resnet, Path(pretrained))
    elif pretrained:
        resnet.load_state_dict(download_weights(weights))

    first = resnet.layer4[0]
    # The stride is in conv1 of a BasicBlock, in conv2 of a Bottleneck.
    for conv in (first.conv1, first.conv2, first.downsample[0]):
        if conv.stride == (2, 2):
            conv.stride = (last_stride, last_stride)

    stem = nn.Sequential()
    for name in ("conv1", "bn1", "relu", "maxpool"):
        stem.add_module(name, getattr(resnet, name))
    layers = (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    return Trunk(stem, *layers, channels=tuple(_out_channels(layer) for layer in layers))


def download_weights(weights: tvm.WeightsEnum) -> dict[str, Tensor]:
    """torchvision's state dict for `weights`, from its cache or the network.

    Raises:
        ReidError: the download failed; the message says how to get the file by hand.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    # In this order: no network, a cut connection, a file with the wrong hash.
    except (OSError, HTTPException, RuntimeError) as error:
        raise ReidError(
            f"The ImageNet weights could not be downloaded ({error}). Fetch {weights.url} on a machine with "
            "a network, then pass that file's path as pretrained=PATH, or put it into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}."
        ) from error


def load_backbone_file(resnet: tvm.ResNet, path: Path) -> None:
    """Fill a torchvision ResNet from a state-dict file.

    Every key must match, except `fc.*`, which no network here uses, and BN's batch counts (see
    `with_batch_counts`).

    Raises:
        CheckpointError: the file cannot be read, or keys are missing, left over or of another shape (their
            numbers and the first ten of each).
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no plain state dict (names to tensors): "
            "save model.state_dict() and pass that file."
        )
    own = resnet.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith("fc.")}
    wanted = {name: value for name, value in own.items() if not name.startswith("fc.")}
    given = with_batch_counts(given, wanted)
    problems = describe_mismatch(given, wanted)
    if problems:
        message = (
            f"{path} does not fit this backbone: {problems}. "
            "Pass a file for the same ResNet, or change `backbone`."
        )
        raise CheckpointError(message)
    resnet.load_state_dict(given, strict=False)  # because of fc.* only: the other keys were compared above


def require_backbone_file(backbone: str, path: Path) -> None:
    """Checks that a state-dict file fits a backbone. Raises CheckpointError as `load_backbone_file` does."""
    constructor, _ = BACKBONES[backbone]
    load_backbone_file(constructor(weights=None), path)


def with_batch_counts(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`given`, with BN's batch counts from `own` if it has none.

    PyTorch before 0.4.1 wrote none, and nothing here uses them.
    """
    if any(name.endswith("num_batches_tracked") for name in given):
        return given
    return given | {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}


def describe_mismatch(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Names, in words, the keys missing from `given`, left over in it and of another shape; "" if none.

    Of each kind it gives the number and the first ten.
    """
    missing = [name for name in wanted if name not in given]
    left_over = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = (("missing", missing), ("left over", left_over), ("of another shape", shapes))
    return "; ".join(f"{len(names)} {label}: {_first_ten(names)}" for label, names in parts if names)


def _first_ten(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _out_channels(layer: nn.Sequential) -> int:
    block = layer[-1]
    return (block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels
