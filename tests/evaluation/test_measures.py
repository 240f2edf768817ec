"""The measures that a run keeps: of which map, of which queries, and of broken weights."""

import numpy as np
import pytest
import torch

from reidlib.config import experiment_for
from reidlib.evaluation import diversity, measures
from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.measures import COLUMNS, last_maps, measure, measure_run
from reidlib.evaluation.scoring import score
from reidlib.images.decoding import load_images
from reidlib.images.normalisation import normalise
from reidlib.models import ABDNet, PFSANet

pytestmark = pytest.mark.usefixtures("steady")

SMALL = {"backbone": "resnet18", "embedding_dim": 8, "reduced_dim": 16, "head_dim": 8}


@pytest.fixture(scope="module")
def pixels(dataset, cache):
    return load_images(dataset.query.paths, 96, 48, cache=cache)


@pytest.fixture
def images(pixels):
    return normalise(torch.from_numpy(np.array(pixels)))


def settings(**changes):
    return experiment_for(
        "gap", dataset="folder", height=96, width=48, backbone="resnet18", bootstrap_resamples=100, **changes
    )


def gap(**changes):
    return PFSANet(
        4, backbone="resnet18", parts=0, deep_supervision=False, spatial_attention="none", **changes
    )


@torch.no_grad()
def test_the_map_is_the_one_that_the_embedding_is_pooled_from(images):
    model = ABDNet(4, **SMALL).eval()
    maps, output = last_maps(model, images), model(images)
    assert maps.shape == (4, 16, 6, 3), "two stripes, joined"
    pooled = torch.cat([stripe.mean((2, 3)) for stripe in maps.chunk(2, 2)], 1)
    torch.testing.assert_close(pooled, output.embedding[:, 8:])
    whole = ABDNet(4, **SMALL, attention_per_stripe=False).eval()
    assert last_maps(whole, images).shape == (4, 16, 6, 3)

    model = PFSANet(4, backbone="resnet18", feature_dim=8, parts=0, spatial_attention="sa1+sa2").eval()
    pooled = last_maps(model, images).mean((2, 3))
    torch.testing.assert_close(torch.nn.functional.normalize(pooled), model(images).embedding)

    model = ABDNet(4, **SMALL, cam=False, pam=False, shallow_cam=False, attentive_branch=False).eval()
    embedding = model.global_branch.fc(last_maps(model, images).mean((2, 3)))
    torch.testing.assert_close(embedding, model(images).embedding)
    assert not model.global_branch.layer4._forward_hooks, "nothing stays on the network"


def test_measures_of_images_are_those_of_their_maps(pixels, images):
    model = ABDNet(4, **SMALL).train()
    found = measure(model, pixels, batch_size=3)
    assert list(found) == list(COLUMNS) and not model.training
    with torch.no_grad():
        maps = last_maps(model, images)
    expected = [
        diversity.channel_correlation(maps), diversity.effective_area(diversity.activation(maps)),
        diversity.effective_rank(maps), diversity.condition_number(maps),
    ]  # fmt: skip
    np.testing.assert_allclose(found.to_numpy(), torch.stack(expected, 1).numpy(), rtol=1e-4, atol=1e-6)
    assert found.equals(measure(model, pixels, batch_size=3)), "bit for bit"
    assert found.nunique().min() == len(pixels), "images differ"


@pytest.mark.parametrize(("flip", "precision"), [(True, "float32"), (False, "bfloat16")])
def test_measures_do_not_depend_on_how_a_network_is_scored(dataset, cache, pixels, flip, precision):
    model = gap()
    experiment = settings(flip_evaluation=flip, embedding_precision=precision)
    found = measure_run(model, experiment, dataset, cache=cache)
    assert found.queries.equals(measure(model, pixels))
    spectra = diversity.weight_spectra(model)
    assert found.weights["convolutions"] == len(spectra) == 20
    assert found.weights["effective_rank"] == pytest.approx(spectra["effective_rank"].mean())
    assert found.weights["stem_condition_number"] == spectra["condition_number"][0]


def test_queries_beyond_the_limit_have_no_measures(dataset, cache, pixels, monkeypatch):
    model, experiment = gap(), settings()
    monkeypatch.setattr(measures, "MOST_QUERIES", 3)
    found = measure_run(model, experiment, dataset, cache=cache)
    assert found.queries[:3].equals(measure(model, pixels[:3]))
    assert len(found.queries) == len(dataset.query) == 4 and found.queries[3:].isna().all(axis=None)
    assert found.summary()["queries_measured"] == 3
    assert found.summary()["effective_area"] == found.queries["effective_area"][:3].mean()


def test_scores_with_and_without_measures(dataset, cache):
    rng = np.random.default_rng(0)
    embeddings = {
        name: rng.standard_normal((len(split.ids), 4)).astype(np.float32)
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    }
    found = measure_run(gap(), settings(), dataset, cache=cache)
    plain_metrics, plain = score(embeddings, settings(), dataset)
    metrics, queries = score(embeddings, settings(), dataset, found)
    assert list(queries) == [*plain, *COLUMNS]
    assert queries[list(plain)].equals(plain) and queries[list(COLUMNS)].equals(found.queries)
    assert metrics == plain_metrics | found.summary()
    assert set(metrics) - set(plain_metrics) == {*COLUMNS, "queries_measured", "weight_spectra"}


def test_a_map_of_one_place_or_of_zeros_has_the_measures_that_are_defined(pixels):
    model = gap(last_stride=2)
    one_place = measure(model, pixels[:, :32, :16])
    assert one_place["channel_correlation"].isna().all()
    assert (one_place[["effective_area", "effective_rank"]] == 1).all(axis=None)
    assert (one_place["condition_number"] == 0).all()
    with torch.no_grad():
        model.layer4[-1].bn2.weight.zero_()
        model.layer4[-1].bn2.bias.fill_(-1e6)
    assert measure(model, pixels).isna().all(axis=None)


def test_broken_weights_are_named_with_the_first_images(pixels):
    model = gap().eval()
    real = model.layer4.forward

    def broken(x):
        return real(x) * (float("nan") if len(x) == 1 else 1)  # the last batch is one image

    model.layer4.forward = broken
    with pytest.raises(EvaluationError, match=r"1 of 1 feature maps hold NaN.*\(first: \[3\]\).*Train the"):
        measure(model, pixels, batch_size=3)
