"""Heat maps of trained networks, with values 0 to 1, at the image's size.

They answer different questions: which places speak for a class (`class_activation`), which make an image
similar to another (`ranking_activation`), and how active the places of each stage are (`stage_activation`).
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from reidlib.evaluation.diversity import activation, similarity_map
from reidlib.evaluation.measures import last_maps
from reidlib.images.normalisation import normalise
from reidlib.models import PFSANet
from reidlib.models.backbone import ReidNetwork
from reidlib.models.pfsa import stripe_pool

BATCH = 64  # images
STAGES = ("layer1", "layer2", "layer3", "layer4", "last map")


def class_activation(model: ReidNetwork, images: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Grad-CAM on the final maps: which places speak for a class.

    What is explained is the mean of the classifiers' logits. ABD-Net has a final map in each branch: the maps
    are side by side as channels of one, so Grad-CAM adds what they say. A stripe has a classifier of its own,
    so its channels are its own, too, and 0 outside the stripe.

    Behind a linear classifier on a pooled map, Grad-CAM's weights are the classifier's own. So for `gap`, and
    for each stripe of ABD-Net, this is the original class activation map (Zhou et al., CVPR 2016) with
    negative values set to 0. pytorch-grad-cam scales each image's map from its smallest value to its largest.

    Args:
        model: a trained network.
        images: (N, H, W, 3) RGB bytes.
        classes: (N,) training labels; None: for each image, the class that the network takes it for.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    # Imported here because it takes seconds, and the other maps do not need it.
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, heats = _FromFinalMaps(model.eval()), []
    with network.no_gradients_of_weights():
        camera = GradCAM(network, target_layers=[network.final])
        for start, batch in _batches(images):
            labels = None if classes is None else classes[start : start + BATCH]
            targets = None if labels is None else [ClassifierOutputTarget(int(label)) for label in labels]
            heats.append(camera(input_tensor=batch, targets=targets).astype(np.float32))
        camera.activations_and_grads.release()
    return np.concatenate(heats)


@torch.inference_mode()
def ranking_activation(model: ReidNetwork, images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The ranking activation map: which places of an image make it similar to another (`similarity_map`).

    ABD-Net: the places of the attentive branch's last map, whose stripes are pooled. (The global branch has
    more layers after its pooling, so its part of the similarity is no sum over places.) Places that make the
    two less alike count as 0, and each image's map is divided by its largest value.

    Args:
        model: a trained network.
        images, others: (N, H, W, 3) RGB bytes.

    Returns:
        (N, H, W) float32 in [0, 1].
    """
    model.eval()
    if isinstance(model, PFSANet):
        pooling = {"parts": max(model.parts, 1), "normalised": True}
    else:
        pooling = {"parts": len(model.attentive_branch.classifiers)}
    heats = []
    for (_, batch), (_, other) in zip(_batches(images), _batches(others), strict=True):
        terms = similarity_map(last_maps(model, batch), last_maps(model, other), **pooling)
        heats.append(_enlarged(terms.relu(), images.shape[1:3]))
    return np.concatenate(heats)


@torch.inference_mode()
def stage_activation(model: ReidNetwork, images: np.ndarray) -> np.ndarray:
    """How active the places are after each of `STAGES`: the sum of squares over channels (`activation`).

    Of ABD-Net's two copies of layer4, the attentive branch's. Each map is divided by its largest value.

    Args:
        images: (N, H, W, 3) RGB bytes.

    Returns:
        (stages, N, H, W) float32 in [0, 1].
    """
    layers = model.eval().trunk_modules()
    heats = []
    for _, batch in _batches(images):
        with contextlib.ExitStack() as hooks:
            outputs = [hooks.enter_context(_output_of(layer)) for layer in (*layers[1:4], layers[-1])]
            last = last_maps(model, batch)
        stages = [*(output[0] for output in outputs), last]
        heats.append(np.stack([_enlarged(activation(maps), images.shape[1:3]) for maps in stages]))
    return np.concatenate(heats, axis=1)


class _FromFinalMaps(nn.Module):
    """Images → (B, classes), the mean logits of the classifiers behind the final maps, by way of `final`."""

    def __init__(self, model: ReidNetwork):
        super().__init__()
        self.model = model
        self.final = nn.Identity()  # sees the final maps as one, which is where Grad-CAM looks

    @contextlib.contextmanager
    def no_gradients_of_weights(self) -> Iterator[None]:
        """Grad-CAM needs none, and they take most of the time."""
        asked_for = [parameter for parameter in self.parameters() if parameter.requires_grad]
        try:
            self.requires_grad_(False)
            yield
        finally:
            for parameter in asked_for:
                parameter.requires_grad_()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            maps, heads = _heads(self.model, images)
        joined = self.final(torch.cat(maps, 1).requires_grad_())
        parts = joined.split([part.shape[1] for part in maps], 1)
        return torch.stack([head(part) for head, part in zip(heads, parts, strict=True)]).mean(0)


def _heads(model: ReidNetwork, images: Tensor) -> tuple[list[Tensor], list[Callable[[Tensor], Tensor]]]:
    """The final maps (B, C, h, w), and for each what makes logits of it."""
    if isinstance(model, PFSANet):
        return [last_maps(model, images)], [lambda x: _pfsa_logits(model, x)]
    branch, stripes = model.global_branch, len(model.attentive_branch.classifiers)
    with contextlib.nullcontext([]) if branch is None else _output_of(branch.layer4) as maps:
        last = last_maps(model, images)
    heads = [] if branch is None else [lambda x: branch.classifier(branch.fc(branch.pool(x)))]
    rows = last.shape[2] // stripes
    for number, classifier in enumerate(model.attentive_branch.classifiers):
        own = slice(number * rows, (number + 1) * rows)
        alone = torch.zeros_like(last)
        alone[:, :, own] = last[:, :, own]
        maps.append(alone)
        heads.append(lambda x, own=own, head=classifier: head(x[:, :, own].mean((2, 3))))
    return maps, heads


def _pfsa_logits(model: PFSANet, x: Tensor) -> Tensor:
    """Of the global classifier."""
    pooled = stripe_pool(x, max(model.parts, 1))
    features = pooled if model.bottleneck is None else model.bottleneck(pooled)
    return model.global_classifier(features.mean((2, 3)))


@contextlib.contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which the module's outputs are added."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda *call: found.append(call[2]))
    try:
        yield found
    finally:
        hook.remove()


def _batches(images: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """The number of the first image, and the images as the network gets them."""
    for start in range(0, len(images), BATCH):
        yield start, normalise(torch.from_numpy(np.array(images[start : start + BATCH])))


def _enlarged(response: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(B, h, w) → (B, H, W), divided by the largest value of each."""
    heat = nn.functional.interpolate(response[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).numpy()
