"""Channels compared on several maps and by several definitions, their order, and spectra: known values."""

import math

import numpy as np
import pytest
import torch

from reidlib.evaluation import channels
from reidlib.evaluation.channels import (
    ABSOLUTE,
    ALL,
    EACH,
    GLOBAL,
    IMAGES,
    LAST,
    LAST_RELU,
    LAYER4,
    POOLED,
    REDUCED,
    REDUCED_RAW,
    SIGNED,
    alike_together,
    alternatives,
    mean_correlation,
    mean_spectrum,
    network_maps,
    spectra,
    weight_spectrum,
)
from reidlib.images.normalisation import normalise
from reidlib.models import ABDNet, PFSANet

pytestmark = pytest.mark.usefixtures("steady")

SMALL = {"backbone": "resnet18", "embedding_dim": 8, "reduced_dim": 16, "head_dim": 8}
PLAIN = {**SMALL, "cam": False, "pam": False, "shallow_cam": False}


def pixels(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 96, 48, 3), dtype=np.uint8)


def maps_of(*images):
    return torch.tensor(images, dtype=torch.float32)


# ------------------------------------------------------------------------------------------------------- maps


def test_the_maps_are_those_of_the_network():
    model, images = ABDNet(4, **SMALL), pixels()
    maps = network_maps(model, images)
    assert tuple(maps) == (LAST, LAST_RELU, REDUCED, REDUCED_RAW, LAYER4, POOLED, GLOBAL)
    with torch.no_grad():
        output = model(normalise(torch.from_numpy(images)))
    close = torch.testing.assert_close
    close(maps[LAST], torch.cat(output.feature_maps["after"], 2))
    close(maps[LAST], network_maps(model, images, batch_size=2)[LAST], atol=1e-3, rtol=1e-2)
    close(maps[GLOBAL], output.head_embeddings[0][:, :, None, None])
    close(maps[POOLED][:, :, 0, 0], maps[LAST].mean((2, 3)))
    assert (maps[LAST] < 0).any() and torch.equal(maps[LAST_RELU], maps[LAST].relu())
    assert (maps[REDUCED_RAW] < 0).any(), "kept before the ReLU, which works in place"
    assert torch.equal(maps[REDUCED], maps[REDUCED_RAW].relu())
    with torch.no_grad():
        close(maps[REDUCED], model.attentive_branch.reduction(maps[LAYER4].clone()))
    assert not any(module._forward_hooks for module in model.modules())


def test_networks_have_the_maps_that_they_have():
    plain = network_maps(ABDNet(4, **PLAIN), pixels())
    assert torch.equal(plain[LAST], plain[REDUCED]), "without attention, the reduced map is the last"
    assert LAYER4 not in network_maps(ABDNet(4, **PLAIN, attentive_branch=False), pixels())
    gap = PFSANet(4, backbone="resnet18", parts=0, deep_supervision=False, spatial_attention="none")
    assert tuple(network_maps(gap, pixels())) == (LAST, LAST_RELU, POOLED)


# ------------------------------------------------------------------------------------------------ correlation

UP, DOWN, BENT, FLAT = [[1.0, 2], [3, 4]], [[8.0, 6], [4, 2]], [[1.0, -1], [-1, 1]], [[7.0, 7], [7, 7]]


def test_the_mean_correlation_has_no_sign_and_leaves_out_constant_channels(monkeypatch):
    maps = maps_of([UP, DOWN, FLAT, BENT], [UP, BENT, FLAT, UP], [UP, FLAT, FLAT, DOWN])
    nan = math.nan
    expected = [[1, 0.5, nan, 2 / 3], [0.5, 1, nan, 0], [nan] * 4, [2 / 3, 0, nan, 1]]
    np.testing.assert_allclose(mean_correlation(maps), expected, atol=1e-6)
    monkeypatch.setattr(channels, "_BLOCK", 1)
    np.testing.assert_allclose(mean_correlation(maps), expected, atol=1e-6)


def test_channels_that_are_alike_stand_together_whatever_their_sign():
    groups = np.array([0, 1, 2, 0, 1, 2, 0, 2])
    matrix = np.where(groups[:, None] == groups, -0.9, 0.1)
    np.fill_diagonal(matrix, 1)
    matrix[7, 0] = matrix[0, 7] = np.nan
    order = alike_together(matrix)
    assert sorted(order) == list(range(8))
    assert (np.diff(groups[order]) != 0).sum() == 2, "each group in one piece"


def test_definitions_of_known_channels():
    """In the second image, both channels are higher; within each image, they oppose each other."""
    higher = maps_of([[[1.0, -1, 1, -1]], [[-1.0, 1, -1, 1]]], [[[9.0, 7, 9, 7]], [[7.0, 9, 7, 9]]])
    found = alternatives({LAST: higher, POOLED: higher.mean((2, 3), keepdim=True)})
    values = found.set_index(["map", "correlation", "over"])["value"].to_dict()
    assert values == pytest.approx(
        {
            (LAST, ABSOLUTE, EACH): 1,
            (LAST, SIGNED, EACH): -1,
            (LAST, ABSOLUTE, ALL): 15 / 17,  # variances 1 within images and 16 between, opposed within
            (LAST, SIGNED, ALL): 15 / 17,
            (POOLED, ABSOLUTE, IMAGES): 1,
            (POOLED, SIGNED, IMAGES): 1,
        },
        abs=1e-5,
    )


# ---------------------------------------------------------------------------------------------------- spectra


def test_the_spectrum_of_features_is_a_mean_of_shares():
    first = maps_of([[[2.0, 0]], [[0, 1.0]]])  # eigenvalues 4 and 1
    second = 10 * maps_of([[[1.0, 0]], [[0, 1.0]]])  # two equal ones: its scale does not count
    found = mean_spectrum(torch.cat([first, second, torch.zeros(1, 2, 1, 2)]))
    np.testing.assert_allclose(found, [0.65, 0.35], rtol=1e-6)


def test_the_spectrum_of_weights_falls_from_one():
    weight = torch.diag(torch.tensor([2.0, 4.0]))[:, :, None, None]
    found = weight_spectrum(weight)
    assert found.shape == (channels.POINTS,)
    np.testing.assert_allclose([found[0], found[-1]], [1, 0.25])
    np.testing.assert_allclose(np.diff(found), np.full(len(found) - 1, -0.75 / (len(found) - 1)))
    flat = torch.linalg.qr(torch.randn(6, 6))[0][:4].reshape(4, 3, 1, 2)
    np.testing.assert_allclose(weight_spectrum(flat), 1, rtol=1e-5)
    np.testing.assert_allclose(weight_spectrum(torch.randn(5, 2, 1, 1))[[0]], 1)


def test_spectra_are_of_the_stem_and_of_all_convolutions_of_the_backbone():
    model = ABDNet(4, **PLAIN)
    table = spectra({"one": model}, {"one": torch.rand(2, 6, 4, 1)})
    features, stem, every = (own for _, own in table.groupby("panel", sort=False))
    assert len(features) == 4 and features["value"].sum() == pytest.approx(1)
    assert "2 images" in features["panel"].iloc[0] and "25 convolutions" in every["panel"].iloc[0]
    np.testing.assert_allclose(stem["value"], weight_spectrum(model.stem[0].weight))
    assert (every["value"].to_numpy()[1:] != stem["value"].to_numpy()[1:]).all()
    assert features["place"].iloc[[0, -1]].tolist() == stem["place"].iloc[[0, -1]].tolist() == [0, 1]
