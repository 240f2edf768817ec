"""Measures of attention and diversity: known values, invariances, bounds, precision, and bad input."""

import math

import numpy as np
import pytest
import torch

from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.diversity import (
    activation,
    channel_correlation,
    condition_number,
    correlation_matrices,
    effective_area,
    effective_rank,
    eigenvalues,
    share_on,
    similarity_map,
    spectrum_measures,
    weight_spectra,
)
from reidlib.losses import orthogonality_targets
from reidlib.models import ABDNet, PFSANet

NAN = math.nan
# Measures of maps: (B, C, H, W) → (B,).
OF_MAPS = {
    "correlation": channel_correlation,
    "signed": lambda maps: channel_correlation(maps, signed=True),
    "area": lambda maps: effective_area(activation(maps)),
    "rank": effective_rank,
    "condition": condition_number,
}


def maps_of(*images) -> torch.Tensor:
    """Images as lists of channels, each a list of rows."""
    return torch.tensor(images, dtype=torch.float32)


@pytest.fixture
def maps():
    """Six images with 5 channels at 4 × 3 places, of mixed signs."""
    return torch.randn(6, 5, 4, 3) + 0.3


def close(found, expected, **tolerance):
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True, **tolerance)


# ------------------------------------------------------------------------------------------------ correlation


def test_correlation_of_known_channels():
    up, down, bent = [[1.0, 2], [3, 4]], [[8.0, 6], [4, 2]], [[1.0, -1], [-1, 1]]
    flat = [[7.0, 7], [7, 7]]
    images = maps_of([up, up, up], [up, down, up], [up, bent, flat], [flat, flat, up])
    close(channel_correlation(images), [1.0, 1.0, 0.0, NAN])
    close(channel_correlation(images, signed=True), [1.0, -1 / 3, 0.0, NAN])
    matrix = correlation_matrices(images)
    close(matrix[1], [[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    close(matrix[2], [[1.0, 0, NAN], [0, 1, NAN], [NAN, NAN, NAN]])


def test_correlation_over_all_images_sees_what_tells_images_apart():
    """Within an image the two channels are unrelated; both are higher in the second image."""
    first, second = [[1.0, -1, 1, -1]], [[1.0, 1, -1, -1]]
    higher = maps_of([first, second], [[[9.0, 7, 9, 7]], [[9.0, 9, 7, 7]]])
    close(channel_correlation(higher), [0.0, 0.0])
    # Each has the variance 1 within images and 16 between them.
    close(channel_correlation(higher, together=True), [16 / 17])


def test_correlation_does_not_depend_on_how_many_matrices_fit_into_memory(maps, monkeypatch):
    expected = channel_correlation(maps)
    monkeypatch.setattr("reidlib.evaluation.diversity._BLOCK", 1)
    torch.testing.assert_close(channel_correlation(maps), expected)


# ----------------------------------------------------------------------------------------------------- places


def test_area_of_known_activations():
    flat, single = torch.ones(2, 4), torch.zeros(2, 4)
    single[1, 2] = 5
    half = torch.tensor([[3.0, 3, 3, 3], [0, 0, 0, 0]])
    uneven = torch.tensor([[2.0, 1, 1, 0], [0, 0, 0, 0]])  # shares 1/2, 1/4, 1/4: entropy 1.5 ln 2
    found = effective_area(torch.stack([flat, single, half, uneven, torch.zeros(2, 4)]))
    close(found, [1.0, 1 / 8, 1 / 2, 2**1.5 / 8, NAN])


def test_activation_is_the_sum_of_squares():
    close(activation(maps_of([[[3.0, 0]], [[-4, 2]]])), [[[25.0, 4]]])


def test_share_on_a_mask():
    where = torch.zeros(1, 4, 4, dtype=torch.bool)
    where[:, :2, :2] = True  # the first place of a 2 × 2 map
    where[:, 0, 2] = True  # and a quarter of the second
    close(share_on(torch.tensor([[[6.0, 2], [1, 1]]]), where), [0.65])
    close(share_on(torch.full((1, 2, 2), 0.3), where), [5 / 16])
    close(share_on(torch.ones(1, 2, 2), torch.ones(1, 4, 4)), [1.0])
    close(share_on(torch.zeros(1, 2, 2), where), [NAN])


def test_shares_on_masks_that_cover_an_image_add_up_even_if_places_do_not_divide_it():
    response, one = torch.rand(3, 4, 3), torch.rand(3, 10, 7) > 0.5
    torch.testing.assert_close(share_on(response, one) + share_on(response, ~one), torch.ones(3))


# ----------------------------------------------------------------------------------------------- similarities


def ranked(model, parts_of):
    """Embeddings of two times three images, and their last maps, of a network in evaluation mode."""
    with torch.no_grad():
        outputs = [model.eval()(torch.rand(3, 3, 96, 32)) for _ in range(2)]
    maps = [torch.cat(output.feature_maps[parts_of], 2) for output in outputs]
    return [output.embedding for output in outputs], maps


@pytest.mark.parametrize(("stripes", "per_stripe"), [(1, True), (2, True), (3, False)])
def test_similarity_map_adds_up_to_the_inner_product_of_the_attentive_branch(stripes, per_stripe):
    model = ABDNet(
        4, backbone="resnet18", embedding_dim=8, reduced_dim=16, head_dim=8, stripes=stripes,
        attention_per_stripe=per_stripe,
    )  # fmt: skip
    embeddings, (one, other) = ranked(model, "after")
    expected = (embeddings[0][:, 8:] * embeddings[1][:, 8:]).sum(1)
    terms = similarity_map(one, other, parts=stripes)
    assert terms.shape == (3, 6, 2)
    torch.testing.assert_close(terms.sum((1, 2)), expected)
    torch.testing.assert_close(similarity_map(other, one, parts=stripes).sum((1, 2)), expected)


@pytest.mark.parametrize("parts", [0, 4, 6])  # of 6 rows: 4 parts overlap
def test_similarity_map_adds_up_to_the_inner_product_of_normalised_parts(parts):
    model = PFSANet(4, backbone="resnet18", feature_dim=8, parts=parts, spatial_attention="sa1+sa2")
    embeddings, (one, other) = ranked(model, "final")
    terms = similarity_map(one, other, parts=max(parts, 1), normalised=True)
    torch.testing.assert_close(terms.sum((1, 2)), (embeddings[0] * embeddings[1]).sum(1))
    itself = similarity_map(one, one, parts=max(parts, 1), normalised=True).sum((1, 2))
    torch.testing.assert_close(itself, torch.full((3,), float(max(parts, 1))))


def test_similarity_map_shows_the_place_that_both_images_share():
    one, other = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    one[0, 0, 0, 0], one[0, 1, 1, 2], other[0, 0, 1, 1] = 6, 9, 2  # only channel 0 is in both
    close(similarity_map(one, other), [[[1 / 3, 0, 0], [0, 0, 0]]])
    close(similarity_map(one, other, parts=2), [[[0.0, 0, 0], [0, 0, 0]]])  # not in the same stripe


# ---------------------------------------------------------------------------------------------------- spectra


def test_spectrum_of_known_maps():
    """F with orthogonal rows of lengths 2, 1, 1 has the eigenvalues 4, 1, 1; with equal rows, one."""
    diagonal = torch.diag(torch.tensor([2.0, 1, 1]))[:, :, None]
    maps = torch.stack([diagonal, torch.eye(3)[:, :, None], torch.ones(3, 3, 1), torch.zeros(3, 3, 1)])
    close(eigenvalues(maps), [[4.0, 1, 1], [1, 1, 1], [9, 0, 0], [0, 0, 0]], rtol=0, atol=1e-6)
    p = np.array([4, 1, 1]) / 6
    close(effective_rank(maps), [float(np.exp(-(p * np.log(p)).sum())) / 3, 1.0, 1 / 3, NAN])
    close(condition_number(maps), [math.log10(4), 0.0, 0.0, NAN], rtol=1e-5, atol=1e-6)


def test_the_spectrum_has_as_many_values_as_channels_or_places(maps):
    """Both Gram matrices have the same nonzero eigenvalues; the smaller one is taken."""
    for f in (maps, maps.flatten(2).mT[..., None], maps[:, :, :1, :1]):
        expected = torch.linalg.svdvals(f.flatten(2).double()).square()
        assert eigenvalues(f).shape == (6, min(f.shape[1], f.shape[2] * f.shape[3]))
        torch.testing.assert_close(eigenvalues(f), expected.float())
        rank, condition = spectrum_measures(f)
        assert torch.equal(rank, effective_rank(f)) and torch.equal(condition, condition_number(f))


def test_eigenvalues_that_count_as_zero():
    lengths = torch.tensor([1.0, 1e-3, 1.1e-5, 0.9e-5, 0])
    maps = torch.diag(lengths)[None, :, :, None]
    close(condition_number(maps), [-2 * math.log10(1.1e-5)])


@pytest.mark.parametrize(
    "network", [ABDNet(4, backbone="resnet18", reduced_dim=16, head_dim=8), PFSANet(4, backbone="resnet18")]
)
def test_weight_spectra_are_those_of_the_convolutions_that_ow_means_to_reach(network):
    with torch.no_grad():
        network.stem.conv1.weight.zero_().flatten(1)[:, :64].fill_diagonal_(1)  # 64 orthonormal rows
        network.layer1[0].conv2.weight.fill_(0.5)
    found = weight_spectra(network).set_index("layer")
    parameters = dict(network.named_parameters())
    expected = orthogonality_targets(network, reach="backbone")
    assert [id(parameters[f"{layer}.weight"]) for layer in found.index] == [id(weight) for weight in expected]
    assert found.loc["stem.conv1"].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert found.loc["layer1.0.conv2"].tolist() == pytest.approx([1 / 64, 0], abs=1e-6)
    weight = network.layer2[0].conv1.weight.detach()
    assert found.loc["layer2.0.conv1", "effective_rank"] == pytest.approx(
        float(effective_rank(weight.flatten(1)[None]))
    )


# ------------------------------------------------------------------------------------------------ invariances


@pytest.mark.parametrize("measure", OF_MAPS)
@pytest.mark.parametrize(
    "change",
    [
        lambda maps: 1000 * maps,
        lambda maps: maps / 4096,
        lambda maps: maps[:, [3, 0, 4, 2, 1]],
        lambda maps: maps.flip(2),
        lambda maps: maps.mT,
        lambda maps: maps.to(memory_format=torch.channels_last),
        lambda maps: maps.double(),
    ],
    ids=["larger", "smaller", "channels", "rows", "transposed", "channels_last", "float64"],
)
def test_what_measures_do_not_depend_on(maps, measure, change):
    expected, found = OF_MAPS[measure](maps), OF_MAPS[measure](change(maps))
    assert found.dtype == torch.float32 and found.shape == (6,)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", OF_MAPS)
def test_an_images_measures_do_not_depend_on_the_others(maps, measure):
    alone = torch.cat([OF_MAPS[measure](one[None]) for one in maps])
    torch.testing.assert_close(alone, OF_MAPS[measure](maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", OF_MAPS)
def test_measures_agree_with_a_plain_formulation_in_float64(maps, measure):
    f = maps.double().flatten(2).numpy()

    def spectrum(one):
        return np.linalg.svd(one, compute_uv=False) ** 2

    def entropy(values):
        p = values / values.sum()
        return -(p * np.log(p)).sum()

    off = ~np.eye(5, dtype=bool)
    plain = {
        "correlation": lambda one: np.abs(np.corrcoef(one))[off].mean(),
        "signed": lambda one: np.corrcoef(one)[off].mean(),
        "area": lambda one: np.exp(entropy((one**2).sum(0))) / 12,
        "rank": lambda one: np.exp(entropy(spectrum(one))) / 5,
        "condition": lambda one: np.log10(spectrum(one)[0] / spectrum(one)[-1]),
    }[measure]
    np.testing.assert_allclose(OF_MAPS[measure](maps).numpy(), [plain(one) for one in f], rtol=2e-5)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 4, 2), (2, 8, 1, 2), (2, 700, 4, 2)])
@pytest.mark.parametrize("kind", ["random", "constant", "positive", "sparse"])
def test_bounds(shape, kind):
    maps = {
        "random": torch.randn(shape),
        "constant": torch.full(shape, 0.1),
        "positive": torch.rand(shape) + 100,
        "sparse": torch.randn(shape).relu() * (torch.rand(shape) > 0.7),
    }[kind]
    channels, places = shape[1], shape[2] * shape[3]
    bounds = {
        "correlation": (0, 1),
        "signed": (-1, 1),
        "area": (1 / places, 1),
        "rank": (1 / min(channels, places), 1),
        "condition": (0, 10),
    }
    alive = maps.flatten(1).any(1)
    for name, measure in OF_MAPS.items():
        found, (low, high) = measure(maps), bounds[name]
        if name in ("correlation", "signed"):
            if kind == "constant" or places == 1 or channels == 1:
                assert found.isnan().all(), "no two channels vary"
                continue
            found = found[~found.isnan()]
        else:
            assert (found.isnan() == ~alive).all(), name
            found = found[alive]
        assert ((found >= low - 1e-6) & (found <= high)).all(), (name, found)


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("measure", [*OF_MAPS.values(), activation, eigenvalues, correlation_matrices])
@pytest.mark.parametrize("value", [NAN, math.inf])
def test_maps_that_are_not_finite_are_refused(maps, measure, value):
    maps[[2, 4], 1, 3, 0] = value
    with pytest.raises(EvaluationError, match=r"2 of 6 feature maps hold NaN.*\(first: \[2, 4\]\).*Train"):
        measure(maps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: channel_correlation(torch.ones(3, 4)), r"shape \(3, 4\): \(B, C, H, W\)"),
        (lambda: effective_rank(torch.ones(0, 2, 3, 3)), r"shape \(0, 2, 3, 3\)"),
        (lambda: effective_area(torch.ones(2, 3, 4, 5)), r"shape \(2, 3, 4, 5\): \(B, H, W\)"),
        (lambda: effective_area(torch.tensor([[[1.0, -1]]])), "negative values.*pass activation"),
        (lambda: effective_area(torch.tensor([[[1.0, NAN]]])), "NaN"),
        (lambda: share_on(torch.ones(2, 3, 3), torch.ones(1, 6, 6)), r"\(1, 6, 6\).*one mask"),
        (lambda: similarity_map(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4)), "two equal shapes"),
        (lambda: similarity_map(*[torch.ones(1, 3, 4, 4)] * 2, parts=5), "parts is 5: 1 to 4"),
        (lambda: similarity_map(*[torch.ones(1, 3, 4, 4)] * 2, parts=0), "parts is 0: 1 to 4"),
    ],
)
def test_other_input_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
