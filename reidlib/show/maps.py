"""Heat maps of a network's attention or class activation, with values 0 to 1, at the image's size."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from reidlib.images.normalisation import normalise
from reidlib.models.backbone import ReidOutput

BATCH = 64  # images


@torch.inference_mode()
def attention_heat(model: torch.nn.Module, images: np.ndarray, position: str = "after") -> np.ndarray:
    """How strongly each place of a feature map responds: its root mean square over channels.

    Each image's map is divided by its largest value. The paper does not say how its maps were made; this is
    the usual choice for maps after attention.

    Args:
        model: a trained ABD-Net.
        images: (N, H, W, 3) RGB bytes.
        position: the feature map's name in `ReidOutput.feature_maps`; its stripes are joined again.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    model.eval()
    heats = []
    for start in range(0, len(images), BATCH):
        maps = model(normalise(torch.from_numpy(np.array(images[start : start + BATCH])))).feature_maps[
            position
        ]
        # (B, 1, h, w)
        response = torch.cat([part.float() for part in maps], dim=2).square().mean(dim=1, keepdim=True).sqrt()
        heats.append(_enlarged(response, images.shape[1:3]))
    return np.concatenate(heats)


def class_activation(model: torch.nn.Module, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Class activation maps of the first classifier: which places of the pooled map speak for the class.

    For one linear classifier after global average pooling, Grad-CAM's weights are the classifier's own. So
    this is the original class activation map (Zhou et al., CVPR 2016) with negative values set to 0.
    pytorch-grad-cam scales each map from its smallest value to its largest.

    Args:
        model: a trained `gap` or `gap+sa1` network.
        images: (N, H, W, 3) RGB bytes.
        classes: (N,) training labels.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    # Imported here because it takes seconds, and attention maps do not need it.
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = _FirstClassifier(model.eval())
    heats = []
    with network.gradients_from_the_pooled_map(), GradCAM(network, target_layers=[model.final]) as camera:
        for start in range(0, len(images), BATCH):
            batch = normalise(torch.from_numpy(np.array(images[start : start + BATCH])))
            targets = [ClassifierOutputTarget(int(label)) for label in classes[start : start + BATCH]]
            heats.append(camera(input_tensor=batch, targets=targets).astype(np.float32))
    return np.concatenate(heats)


def spread(heats: np.ndarray) -> float:
    """The share of places above half of the map's largest value, as the mean over maps (N, H, W)."""
    return float((heats > 0.5 * heats.max(axis=(1, 2), keepdims=True)).mean())


def spread_sentence(label: str, other: str, share: float, other_share: float, profile: str) -> str:
    """Compares two shares of `spread` in words, and with the paper's claim."""
    if share == other_share:
        direction, agrees = "as wide as", "where the paper claims a difference"
    else:
        direction = "wider than" if share > other_share else "narrower than"
        agrees = "as the paper claims" if share > other_share else "the opposite of what the paper claims"
    text = (
        f"{label}, the response covers {100 * share:.1f} % of the image, {other} {100 * other_share:.1f} %: "
    )
    text += f"{direction} {other}, {agrees}."
    return (
        text
        + " One seed of each: the difference between seeds is not known."
        + (" A smoke run means nothing." if profile == "smoke" else "")
    )


class _FirstClassifier(torch.nn.Module):
    """Returns the first classifier's logits as a plain tensor, which pytorch-grad-cam needs."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    @contextlib.contextmanager
    def gradients_from_the_pooled_map(self) -> Iterator[None]:
        """No gradients before the pooled map: Grad-CAM needs none, and they take most of the time."""
        asked_for = [parameter for parameter in self.parameters() if parameter.requires_grad]
        hook = self.model.final.register_forward_pre_hook(lambda _, inputs: (inputs[0].requires_grad_(),))
        try:
            self.requires_grad_(False)
            yield
        finally:
            hook.remove()
            for parameter in asked_for:
                parameter.requires_grad_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: ReidOutput = self.model(images)
        return output.logits[0]


def _enlarged(response: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    heat = torch.nn.functional.interpolate(response, size, mode="bilinear", align_corners=False)[:, 0]
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).numpy()
