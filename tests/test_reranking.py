"""Re-ranked distances against golden values and the dense form; blocks, ties, memory and errors."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from reidlib import reranking
from reidlib.reranking import RerankingError, k_reciprocal_distances

GOLDEN = Path(__file__).parent / "golden" / "re_ranking.npz"


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("final_k1_20_k2_6_l03", {}),
        ("final_k1_6_k2_1_l05", {"k1": 6, "k2": 1, "lambda_value": 0.5}),
        ("python2_k1_20_k2_6_l03", {"merge_threshold": 0.0}),
    ],
)
def test_golden(key, settings):
    with np.load(GOLDEN) as values:
        query, gallery, expected = values["query_features"], values["gallery_features"], values[key]
    result = k_reciprocal_distances(query, gallery, **settings)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    double = k_reciprocal_distances(query.astype(np.float64), torch.as_tensor(gallery).double(), **settings)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, rtol=1e-12)


def dense(query, gallery, k1, k2, lambda_value, threshold, half_precision=False):
    """The definition, with sets and full (N, N) matrices.

    half_precision: round to float16 wherever the released code stores float16.
    """

    def stored(values):
        return values.astype(np.float16).astype(np.float64) if half_precision else values

    features = np.concatenate([query, gallery]).astype(np.float64)
    distance = ((features[:, None] - features) ** 2).sum(axis=2)
    distance = stored(distance / distance.max(axis=1, keepdims=True))
    # an image is its own first neighbour
    rank = np.argsort(distance - np.eye(len(features)), axis=1, kind="stable")

    def reciprocal(i, k):
        return {j for j in rank[i, : k + 1] if i in rank[j, : k + 1]}

    encoding = np.zeros_like(distance)
    for i in range(len(features)):
        near = reciprocal(i, k1)
        members = set(near)
        for candidate in near:
            other = reciprocal(candidate, round(k1 / 2))
            if len(other & near) > threshold * len(other):
                members |= other
        members = sorted(members)
        encoding[i, members] = np.exp(-distance[i, members])
    encoding = stored(encoding / encoding.sum(axis=1, keepdims=True))
    if k2 > 1:
        encoding = stored(np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(len(features))]))
    first, second = encoding[: len(query), None], encoding[None, len(query) :]
    shared = np.minimum(first, second).sum(axis=2)
    # The released code uses Σ max = 2 - Σ min in either precision. For rounded rows of V this is nearly true.
    jaccard = 1 - shared / (2 - shared if half_precision else np.maximum(first, second).sum(axis=2))
    return stored((1 - lambda_value) * jaccard + lambda_value * distance[: len(query), len(query) :])


def people(queries, gallery, identities, dim=6, seed=0):
    """Integer features of people close together, some rows equal: distances are exact, and many are tied."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-3, 4, (identities, dim))
    return [
        (centres[rng.integers(0, identities, count)] + rng.integers(-1, 2, (count, dim))).astype(np.float32)
        for count in (queries, gallery)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        (20, 6, 0.3, 2 / 3),
        (7, 3, 0.0, 2 / 3),
        (5, 9, 0.8, 0.0),
        (2, 1, 0.3, 0.5),
        (9, 2, 0.2, 0.5),
        (150, 6, 0.3, 2 / 3),
    ],
)
def test_equals_the_dense_form(settings):
    query, gallery = people(20, 110, 12, dim=3)
    assert len(np.unique(np.concatenate([query, gallery]), axis=0)) < 130  # there are duplicates
    result = k_reciprocal_distances(query, gallery, *settings[:3], merge_threshold=settings[3])
    np.testing.assert_allclose(result, dense(query, gallery, *settings), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings", [(20, 6, 0.3, 0.0), (20, 6, 0.3, 2 / 3), (6, 1, 0.5, 0.0), (9, 2, 1.0, 0.5)]
)
def test_half_precision_equals_the_dense_form_rounded_at_the_same_places(settings):
    """Features are float64, so only rounding to float16 matters.

    One rounding step too few or too many would change part of the distances.
    """
    query, gallery = (values.astype(np.float64) for values in people(20, 110, 12, dim=3))
    k1, k2, lambda_value, threshold = settings
    result = k_reciprocal_distances(
        query, gallery, k1, k2, lambda_value, merge_threshold=threshold, half_precision=True
    )
    np.testing.assert_array_equal(
        result, result.astype(np.float16), err_msg="the result is stored in half precision"
    )
    expected = dense(query, gallery, *settings, half_precision=True)
    assert (result == expected).mean() > 0.998, "all but where the last rounding is a tie"
    np.testing.assert_allclose(result, expected, atol=2**-10, rtol=0)
    assert (result == dense(query, gallery, *settings)).mean() < 0.5
    single = k_reciprocal_distances(
        *(v.astype(np.float32) for v in (query, gallery)),
        *settings[:3],
        merge_threshold=threshold,
        half_precision=True,
    )
    assert single.dtype == np.float32 and (single == result).mean() > 0.95


@pytest.mark.parametrize("threshold", [0.0, 2 / 3])
def test_half_precision_differs_and_stays_close(threshold):
    """With features that are not integers, nearly all distances differ by rounding.

    Large differences come only from near ties that are ordered differently.
    """
    with np.load(GOLDEN) as values:
        query, gallery = values["query_features"], values["gallery_features"]
    full, half = (
        k_reciprocal_distances(query, gallery, merge_threshold=threshold, half_precision=on)
        for on in (False, True)
    )
    difference = np.abs(full - half)
    assert np.median(difference) < 2**-10  # spacing of float16 from 1 to 2
    assert difference.mean() < 3e-3 and difference.max() < 0.1
    assert (difference > 0).mean() > 0.9
    assert len(np.unique(half)) < len(np.unique(full)) / 3, "many distances are equal"


def test_blocks_change_nothing(monkeypatch):
    query, gallery = people(17, 90, 8)
    whole = k_reciprocal_distances(query, gallery)
    monkeypatch.setattr(reranking, "BLOCK_ROWS", 7)
    np.testing.assert_array_equal(k_reciprocal_distances(query, gallery), whole)


def test_lambda_one_leaves_the_scaled_distances():
    query, gallery = people(4, 30, 5)
    squared = ((query[:, None] - np.concatenate([query, gallery])) ** 2).sum(axis=2)
    expected = (squared / squared.max(axis=1, keepdims=True))[:, 4:]
    np.testing.assert_allclose(k_reciprocal_distances(query, gallery, lambda_value=1.0), expected, rtol=1e-6)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    monkeypatch.setattr(reranking, "BLOCK_ROWS", 32)
    peaks = []
    for total in (1000, 4000):
        query, gallery = people(20, total - 20, total // 15, dim=12)
        tracemalloc.start()
        k_reciprocal_distances(query, gallery)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]  # the square would be 16 times
    assert peaks[1] < 4000 * 4000 * 4  # one dense float32 matrix


def spoiled(value):
    features = np.ones((5, 3), np.float32)
    features[2:, 0] = value
    return features


@pytest.mark.parametrize(
    ("query", "gallery", "settings", "message"),
    [
        (np.ones((2, 3)), spoiled(np.nan), {}, "3 of 7 rows .* hold NaN.* row 4"),
        (np.ones((2, 3)), spoiled(np.inf), {}, "3 of 7 rows"),
        (np.ones((2, 3)), np.ones((4, 5)), {}, "3 dimensions and gallery_embeddings 5"),
        (np.ones((2, 3)), np.ones((0, 3)), {}, "gallery_embeddings must be a non-empty"),
        (np.ones(3), np.ones((4, 3)), {}, "query_embeddings must be a non-empty"),
        (np.ones((2, 3)), np.ones((4, 3)), {}, "All features are equal"),
        (np.ones((2, 3)), spoiled(2), {"k1": 0}, "k1=0"),
        (np.ones((2, 3)), spoiled(2), {"k2": 1.5}, "k2=1.5"),
        (np.ones((2, 3)), spoiled(2), {"lambda_value": 1.5}, "lambda_value=1.5"),
        (np.ones((2, 3)), spoiled(2), {"merge_threshold": -0.1}, "merge_threshold=-0.1"),
        (
            np.ones((2, 3)),
            spoiled(2),
            {"memory_limit_mb": 1e-4},
            "Re-ranking 2 queries against 5 gallery images takes up to",
        ),
    ],
)
def test_refusals(query, gallery, settings, message):
    with pytest.raises(RerankingError, match=message):
        k_reciprocal_distances(query, gallery, **settings)
