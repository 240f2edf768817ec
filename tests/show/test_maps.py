"""Heat maps of networks: Grad-CAM against its closed form, ranking activation and stages by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reidlib.evaluation.diversity import activation
from reidlib.evaluation.measures import last_maps
from reidlib.images.normalisation import normalise
from reidlib.models import build_model
from reidlib.show import maps

pytestmark = pytest.mark.usefixtures("steady")

SMALL = {"backbone": "resnet18"}
ABDNET = {**SMALL, "reduced_dim": 16, "embedding_dim": 16, "head_dim": 16}


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def seen(images):
    """The images as a network gets them."""
    return normalise(torch.from_numpy(images))


def at_centres(heats):
    """A map's cell is 16 pixels: its centre lies between pixels 7 and 8."""
    return heats[:, 8::16, 8::16]


def scaled(heats):
    """As pytorch-grad-cam scales them."""
    heats = heats - heats.min(axis=(1, 2), keepdims=True)
    return heats / heats.max(axis=(1, 2), keepdims=True)


# --------------------------------------------------------------------------------------------------- Grad-CAM


@pytest.mark.parametrize("method", ["gap", "gap+sa1"])
def test_class_activation_is_the_classifiers_weighted_map(method, monkeypatch):
    """Zhou et al. 2016: channels summed with the class's weights, rectified, divided by the maximum."""
    model, images, classes = build_model(method, 5, **SMALL).eval(), noise(3, 96, 48), np.array([4, 0, 2])
    with torch.no_grad():
        final = model(seen(images)).feature_maps["final"][0]  # (3, C, 6, 3)
        mean = final.mean((0, 2, 3))
        # weights orthogonal to the mean feature, so every map has both signs
        random = torch.randn(5, len(mean))
        model.global_classifier.weight.copy_(random - torch.outer(random @ mean, mean) / (mean @ mean))
    weights = model.global_classifier.weight[torch.from_numpy(classes)].detach()  # (3, C)
    expected = torch.relu(torch.einsum("bchw,bc->bhw", final, weights)).numpy()
    assert (expected.max(axis=(1, 2)) > 0).all() and (expected.min(axis=(1, 2)) == 0).all()
    found = maps.class_activation(model, images, classes)
    assert found.shape == (3, 96, 48) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(at_centres(found), scaled(expected), atol=0.06)
    monkeypatch.setattr(maps, "BATCH", 2)
    np.testing.assert_allclose(maps.class_activation(model, images, classes), found, atol=1e-3)
    assert not np.allclose(maps.class_activation(model, images, classes[::-1].copy()), found, atol=0.05)


@pytest.mark.parametrize("method", ["baseline", "abdnet-xe"])
def test_class_activation_of_each_stripe_has_its_own_classifiers_weights(method):
    """Without the global branch all heads are linear, so Grad-CAM is the class activation of each stripe."""
    model, images = build_model(method, 5, **ABDNET, global_branch=False).eval(), noise(3, 96, 48)
    classes = np.array([4, 0, 2])
    with torch.no_grad():
        after = last_maps(model, seen(images))  # (3, 16, 6, 3)
        for number, classifier in enumerate(model.attentive_branch.classifiers):
            mean = after[:, :, 3 * number : 3 * number + 3].mean((0, 2, 3))
            random = torch.randn(5, len(mean))
            own = random - torch.outer(random @ mean, mean) / (mean @ mean)
            classifier.weight.copy_(own * (1, 4)[number])  # the second stripe speaks louder
    parts = [
        torch.einsum("bchw,bc->bhw", part, head.weight[torch.from_numpy(classes)].detach())
        for part, head in zip(after.chunk(2, 2), model.attentive_branch.classifiers, strict=True)
    ]
    expected = torch.relu(torch.cat(parts, 1)).numpy()
    assert (expected.max(axis=(1, 2)) > 0).all()
    found = maps.class_activation(model, images, classes)
    np.testing.assert_allclose(at_centres(found), scaled(expected), atol=0.06)


def test_class_activation_adds_the_branches_in_the_unit_of_the_logit():
    """The global branch has further layers: its weights are the gradient of its logit."""
    model, images, classes = build_model("abdnet-xe", 5, **ABDNET).eval(), noise(2, 96, 48), np.array([3, 1])
    branch, rows = model.global_branch, torch.arange(2)
    with torch.no_grad():
        shared = model.layer3(model.layer2(model.shallow_cam(model.layer1(model.stem(seen(images))))))
        last = branch.layer4(shared)
        after = last_maps(model, seen(images))
        for linear in [branch.classifier, *model.attentive_branch.classifiers]:
            linear.weight.normal_()
    pooled = last.mean((2, 3)).requires_grad_()
    branch.classifier(branch.fc(pooled))[rows, classes].sum().backward()
    parts = [
        torch.einsum("bchw,bc->bhw", part, head.weight[torch.from_numpy(classes)].detach())
        for part, head in zip(after.chunk(2, 2), model.attentive_branch.classifiers, strict=True)
    ]
    # A logit's gradient is 1 / 18 of the weight at each of the global branch's places, and 1 / 9 at each of a
    # stripe's, which are half of all: Grad-CAM's mean over all places is 1 / 18 of the weight for both.
    expected = torch.relu(torch.einsum("bchw,bc->bhw", last, pooled.grad) + torch.cat(parts, 1)).numpy()
    found = maps.class_activation(model, images, classes)
    np.testing.assert_allclose(at_centres(found), scaled(expected), atol=0.06)


@pytest.mark.parametrize("method", ["baseline", "abdnet-xe", "gap+sa1"])
def test_what_is_explained_are_the_networks_own_logits(method, monkeypatch):
    """Their mean over the heads; without classes, those of the class that the network takes an image for."""
    model = build_model(method, 5, **(SMALL if method == "gap+sa1" else ABDNET)).eval()
    images, explained = noise(3, 96, 48), []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[0] == 5:
                parameter.normal_()
        logits = torch.stack(model(seen(images)).logits).mean(0)
    forward = maps._FromFinalMaps.forward
    monkeypatch.setattr(
        maps._FromFinalMaps, "forward", lambda *call: explained.append(forward(*call)) or explained[-1]
    )
    found = maps.class_activation(model, images)
    torch.testing.assert_close(explained[0].detach(), logits, atol=1e-4, rtol=1e-4)
    taken_for = logits.argmax(1).numpy()
    np.testing.assert_array_equal(found, maps.class_activation(model, images, taken_for))
    assert not np.allclose(found, maps.class_activation(model, images, (taken_for + 1) % 5), atol=0.05)


@pytest.mark.parametrize("method", ["abdnet-xe", "gap+sa1"])
def test_class_activation_leaves_the_network_as_it_was(method):
    """No gradient reaches a weight: those of the trunk would take most of the time."""
    model = build_model(method, 5, **(SMALL if method == "gap+sa1" else ABDNET)).eval()
    model.stem.requires_grad_(False)
    asked_for = [parameter.requires_grad for parameter in model.parameters()]
    for classes in (np.array([0, 1]), np.array([0, 5])):
        if classes.max() < 5:
            maps.class_activation(model, noise(2, 96, 48), classes)
        else:  # pytorch-grad-cam's own context would hide the error
            with pytest.raises(IndexError):
                maps.class_activation(model, noise(2, 96, 48), classes)
        assert [parameter.requires_grad for parameter in model.parameters()] == asked_for
        assert len(set(asked_for)) == 2
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())


def test_class_activation_is_scaled_from_its_smallest_to_its_largest():
    """As documented: pytorch-grad-cam subtracts the minimum before it divides by the maximum."""
    found = maps.class_activation(build_model("gap", 5, **SMALL).eval(), noise(2, 96, 48), np.array([0, 1]))
    np.testing.assert_allclose(found.min(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, atol=1e-5)


# ----------------------------------------------------------------------------------------- ranking activation


def test_ranking_activation_by_hand(monkeypatch):
    """Two stripes of one row and two places: each place's product with the other's mean of the stripe."""
    one = torch.tensor([[[[3.0, 1.0], [-2.0, 1.0]]]])  # (1, 1, 2, 2)
    other = torch.tensor([[[[2.0, 2.0], [1.0, 3.0]]]])  # means 2 and 2
    given = iter([one, other])
    monkeypatch.setattr(maps, "last_maps", lambda model, images: next(given))
    model = SimpleNamespace(eval=lambda: None, attentive_branch=SimpleNamespace(classifiers=[None, None]))
    found = maps.ranking_activation(model, noise(1, 2, 2), noise(1, 2, 2))
    # terms 3, 1, -2, 1 (times 2 / 2): the negative one is 0, the largest 1
    np.testing.assert_allclose(found, [[[1, 1 / 3], [0, 1 / 3]]], atol=1e-6)


@pytest.mark.parametrize("method", ["baseline", "gap"])
def test_ranking_activation_looks_at_the_first_image(method, monkeypatch):
    model = build_model(method, 5, **(SMALL if method == "gap" else ABDNET)).train()
    images, others = noise(3, 96, 48), noise(6, 96, 48)[3:]
    found = maps.ranking_activation(model, images, others)
    assert found.shape == (3, 96, 48) and found.dtype == np.float32 and not model.training
    assert found.min() >= 0
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, atol=1e-6)
    assert not np.allclose(maps.ranking_activation(model, others, images), found, atol=0.05)
    monkeypatch.setattr(maps, "BATCH", 2)
    np.testing.assert_allclose(maps.ranking_activation(model, images, others), found, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize("method", ["baseline+pam+cam", "gap+sa1"])
def test_stages_are_those_that_an_image_passes(method, monkeypatch):
    """From layer1 to the map that is pooled. ABD-Net: by way of the attentive branch's layer4."""
    model = build_model(method, 5, **(SMALL if method == "gap+sa1" else ABDNET)).train()
    images = noise(3, 96, 48)
    found = maps.stage_activation(model, images)
    assert found.shape == (len(maps.STAGES), 3, 96, 48) and not model.training
    np.testing.assert_allclose(found.max(axis=(2, 3)), 1, atol=1e-6)
    with torch.no_grad():
        layer1 = model.layer1(model.stem(seen(images)))
        shallow = model.shallow_cam(layer1) if method == "baseline+pam+cam" else layer1
        layer2 = model.layer2(shallow)
        layer3 = model.layer3(layer2)
        layer4 = (model.attentive_branch if method == "baseline+pam+cam" else model).layer4(layer3)
        stages = [layer1, layer2, layer3, layer4, last_maps(model, seen(images))]
    for heats, stage in zip(found, stages, strict=True):
        expected = maps._enlarged(activation(stage), (96, 48))
        np.testing.assert_allclose(heats, expected, atol=1e-4)
    assert not any(module._forward_hooks for module in model.modules())
    monkeypatch.setattr(maps, "BATCH", 2)
    np.testing.assert_allclose(maps.stage_activation(model, images), found, atol=1e-3)
