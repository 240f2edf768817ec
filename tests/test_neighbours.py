"""Nearest neighbours of faiss beside brute force: order, ties, what is missing, and measured recall."""

import numpy as np
import pytest
import torch

from reidlib.evaluation import EvaluationError, rank_gallery
from reidlib.neighbours import ApproximateIndex, nearest


def by_sorting(query, gallery, top):
    """Every distance, sorted stably."""
    distances = ((query[:, None].astype(float) - gallery[None].astype(float)) ** 2).sum(2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize("queries", [3, 40])  # faiss has one way for few queries and another one for many
@pytest.mark.parametrize("levels", [1, 2, 50])
def test_exact_search_is_brute_force_with_ties_in_the_gallerys_order(queries, levels):
    """Whole numbers have exact distances. With one level all are equal, with two most are."""
    rng = np.random.default_rng(levels)
    query, gallery = (rng.integers(0, levels, (n, 6)).astype(np.float32) for n in (queries, 1500))
    for top in (1, 7, 120, 1500):  # faiss has a way of its own for more than 100
        indices, distances = nearest(query, gallery, top)
        expected = by_sorting(query, gallery, top)
        np.testing.assert_array_equal(indices, expected[0])
        np.testing.assert_array_equal(distances, expected[1])


def test_exact_search_is_the_studys_ranking_where_no_camera_is_left_out():
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(-3, 4, (n, 4)).astype(np.float32) for n in (30, 90))
    people = np.zeros(30, int), np.ones(90, int)
    ranked, _ = rank_gallery(query, gallery, *people, people[0], people[1], top=12)
    np.testing.assert_array_equal(nearest(query, gallery, 12)[0], ranked)


def test_a_small_gallery_leaves_places_empty():
    gallery = np.array([[3.0], [1.0]])
    indices, distances = nearest(np.array([[0.0]]), gallery, 4)
    assert indices.tolist() == [[1, 0, -1, -1]] and distances.tolist() == [[1, 9, np.inf, np.inf]]
    indices, distances = ApproximateIndex(gallery, lists=1).nearest(np.array([[0.0]]), 4)
    assert indices.tolist() == [[1, 0, -1, -1]] and distances.tolist() == [[1, 9, np.inf, np.inf]]


def test_memory_maps_and_tensors_are_read(tmp_path):
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, 5)) for n in (4, 20))
    np.save(tmp_path / "gallery.npy", gallery.astype(np.float32))
    indices, _ = nearest(torch.from_numpy(query), np.load(tmp_path / "gallery.npy", mmap_mode="r"), 3)
    np.testing.assert_array_equal(indices, by_sorting(query, gallery, 3)[0])


@pytest.fixture
def two_clusters():
    """A query between eight images on its left and eight on its right; its four nearest are two of each."""
    left = [-3, -3.5, -11, -12, -12, -13, -13, -14]
    right = [4, 4.5, 11, 12, 12, 13, 13, 14]
    return np.array([[-0.2]]), np.array(left + right)[:, None]


def test_recall_is_the_share_of_exact_neighbours_found(two_clusters):
    query, gallery = two_clusters
    assert sorted(nearest(query, gallery, 4)[0][0]) == [0, 1, 8, 9]
    index = ApproximateIndex(gallery, lists=2, probes=1)
    assert index.nearest(query, 4)[0][0].tolist() == [0, 1, 2, 3], "one of two lists"
    assert index.recall(query, 4) == 0.5
    assert index.recall(query, 2) == 1.0
    index.probes = 2
    assert index.recall(query, 4) == 1.0


def test_recall_of_a_sample_is_of_its_queries_only(two_clusters):
    query, gallery = two_clusters
    index = ApproximateIndex(gallery, lists=2, probes=1)
    many = np.concatenate([query, np.full((9, 1), -12.0)])
    assert index.recall(many, 4, sample=10) == pytest.approx((0.5 + 9) / 10)
    assert index.recall(many, 4, sample=1) in (0.5, 1.0)


def test_looking_into_every_list_is_exact():
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(0, 9, (n, 8)).astype(np.float32) for n in (10, 300))
    index = ApproximateIndex(gallery, lists=12, probes=12)
    _, distances = index.nearest(query, 20)
    np.testing.assert_array_equal(distances, nearest(query, gallery, 20)[1])


@pytest.mark.parametrize(
    ("query", "gallery", "top", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), 1, "query has 3 dimensions and the gallery 5"),
        (np.ones((2, 3)), np.ones((4, 3)), 0, "top=0"),
        (np.ones(3), np.ones((4, 3)), 1, r"query has shape \(3,\)"),
        (np.ones((2, 3)), np.ones((0, 3)), 1, r"gallery has shape \(0, 3\)"),
        (np.full((2, 3), "a"), np.ones((4, 3)), 1, "real numbers"),
        (np.ones((2, 3)), np.array([[0, 1, 2], [0, np.nan, 0.0]]), 1, "Row 1 of the gallery"),
        (np.full((1, 3), 1e30), np.ones((4, 3)), 1, "Row 0 of the query .* too large to be squared"),
    ],
)
def test_wrong_calls_are_refused(query, gallery, top, message):
    with pytest.raises(EvaluationError, match=message):
        nearest(query, gallery, top)


@pytest.mark.parametrize("wrong", [{"lists": 5}, {"lists": 2, "probes": 3}, {"lists": -1}, {"probes": -1}])
def test_lists_and_probes_must_fit(wrong):
    with pytest.raises(EvaluationError, match="4 gallery images"):
        ApproximateIndex(np.ones((4, 2)), **wrong)
