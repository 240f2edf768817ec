"""Retrieval metrics against golden values, hand-computed cases and a direct sort; and all error messages."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.evaluation import (
    EvaluationError,
    cuhk03_single_shot,
    rank_gallery,
    retrieval_metrics,
    retrieval_metrics_by_gallery_size,
    retrieval_metrics_from_distances,
)
from reidlib.evaluation import metrics as counting

FIELDS = ("cmc", "mean_ap", "mean_inp", "average_precision", "first_match_rank", "inverse_negative_penalty")


def golden(name):
    with np.load(GOLDEN / f"metrics_{name}.npz") as file:
        return dict(file)


def labels_of(values):
    return values["q_pids"], values["g_pids"], values["q_camids"], values["g_camids"]


def assert_same(first, second):
    """Equal to the last bit."""
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)


def sorted_ranks(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """By definition: for each query, the order of the gallery images that count and the ranks of matches."""
    for row, identity, camera in zip(distances, query_ids, query_cameras, strict=True):
        left = [
            j
            for j in range(len(row))
            if gallery_ids[j] != -1 and not (gallery_ids[j] == identity and gallery_cameras[j] == camera)
        ]
        order = sorted(left, key=lambda j, row=row: (row[j], j))
        yield order, [rank for rank, j in enumerate(order, 1) if gallery_ids[j] == identity]


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("source", ["features", "distances"])
def test_golden_metrics(name, source):
    values = golden(name)
    if source == "features":
        metrics = retrieval_metrics(values["query_features"], values["gallery_features"], *labels_of(values))
    else:
        metrics = retrieval_metrics_from_distances(values["squared_distance"], *labels_of(values))
    np.testing.assert_allclose(metrics.cmc, values["market_cmc"], rtol=1e-6)
    np.testing.assert_allclose(metrics.mean_ap, values["market_mAP"], rtol=1e-12)
    np.testing.assert_allclose(metrics.mean_inp, values["mINP"], rtol=1e-12)
    # NaN where golden is
    np.testing.assert_allclose(metrics.average_precision, values["per_query_ap"], rtol=1e-12)
    assert metrics.rank1 == metrics.rank(1) == metrics.cmc[0] == np.nanmean(metrics.hits(1))
    assert metrics.rank(5) == pytest.approx(np.nanmean(metrics.hits(5)))


HAND = {  # 3 queries, 4 gallery images; the last is junk; identity 3 has no match
    "query_ids": np.array([1, 2, 3]),
    "gallery_ids": np.array([1, 2, 1, -1]),
    "query_cameras": np.array([0, 0, 0]),
    "gallery_cameras": np.array([1, 1, 2, 1]),
}
HAND_DISTANCES = np.array([[0.5, 0.2, 0.3, 0.1], [0.1, 0.4, 0.9, 0.0], [0.1, 0.2, 0.3, 0.4]])


def test_hand_computed():
    metrics = retrieval_metrics_from_distances(HAND_DISTANCES, **HAND, max_rank=5)
    # query 0: image 1, then its matches 2 and 0 at ranks 2 and 3; query 1: image 0, then its match at rank 2
    np.testing.assert_allclose(metrics.average_precision, [(1 / 2 + 2 / 3) / 2, 1 / 2, np.nan])
    np.testing.assert_array_equal(metrics.first_match_rank, [2, 2, np.nan])
    np.testing.assert_allclose(metrics.inverse_negative_penalty, [2 / 3, 1 / 2, np.nan])
    np.testing.assert_array_equal(metrics.cmc, [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(metrics.hits(1), [0, 0, np.nan])
    assert metrics.mean_ap == pytest.approx(13 / 24)
    assert metrics.mean_inp == pytest.approx(7 / 12)


def test_same_identity_and_camera_is_removed_and_nothing_else():
    labels = HAND | {"query_cameras": np.array([2, 0, 0])}  # query 0 loses image 2
    metrics = retrieval_metrics_from_distances(HAND_DISTANCES, **labels)
    np.testing.assert_allclose(metrics.average_precision, [1 / 2, 1 / 2, np.nan])
    # query 1 loses its only match; other identities of camera 1 stay
    labels = HAND | {"query_cameras": np.array([0, 1, 0])}
    metrics = retrieval_metrics_from_distances(HAND_DISTANCES, **labels)
    np.testing.assert_array_equal(metrics.first_match_rank, [2, np.nan, np.nan])


def test_the_earlier_of_two_tied_images_ranks_first():
    ids, cameras = np.array([2, 1, 2, 1]), np.zeros(4, int)
    gallery = np.zeros((4, 3))
    metrics = retrieval_metrics(np.ones((1, 3)), gallery, [1], ids, [1], cameras)
    assert metrics.first_match_rank[0] == 2
    assert metrics.average_precision[0] == (1 / 2 + 2 / 4) / 2
    indices, matches = rank_gallery(np.ones((1, 3)), gallery, [1], ids, [1], cameras, top=3)
    np.testing.assert_array_equal(indices, [[0, 1, 2]])
    np.testing.assert_array_equal(matches, [[False, True, False]])


@st.composite
def integer_cases(draw):
    """Few dimensions and values, so there are many ties and duplicates."""
    queries, gallery, dim = draw(st.integers(1, 9)), draw(st.integers(1, 14)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64]))
    case = {
        "query_embeddings": rng.integers(-2, 3, (queries, dim)).astype(dtype),
        "gallery_embeddings": rng.integers(-2, 3, (gallery, dim)).astype(dtype),
        "query_ids": rng.integers(0, 3, queries),
        "gallery_ids": rng.integers(-1, 3, gallery),
        "query_cameras": rng.integers(0, 2, queries),
        "gallery_cameras": rng.integers(0, 2, gallery),
    }
    # at least one query and one gallery image match
    case["query_ids"][draw(st.integers(0, queries - 1))] = 1
    at = draw(st.integers(0, gallery - 1))
    case["gallery_ids"][at], case["gallery_cameras"][at] = 1, 2
    return case


def budget_for(case, rows):
    """A budget (MB) for float64 distances of `rows` queries at a time; embeddings are read in pieces."""
    return rows * 2 * 9 * len(case["gallery_ids"]) / 2**20


def permuted(case, side, order):
    return {name: value[order] if name.startswith(side) else value for name, value in case.items()}


@settings(max_examples=150, deadline=None)
@given(integer_cases(), st.data())
def test_equals_a_direct_sort_whatever_the_block_size(case, data):
    metrics = retrieval_metrics(**case)
    squared = (
        (case["query_embeddings"][:, None].astype(int) - case["gallery_embeddings"].astype(int)) ** 2
    ).sum(axis=2)
    labels = [case[name] for name in ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")]
    orders, ranks = zip(*sorted_ranks(squared, *labels), strict=True)
    for q, found in enumerate(ranks):
        if not found:
            unknown = (metrics.average_precision, metrics.first_match_rank, metrics.inverse_negative_penalty)
            assert np.isnan([values[q] for values in unknown]).all()
            continue
        assert metrics.first_match_rank[q] == found[0]
        assert metrics.inverse_negative_penalty[q] == len(found) / found[-1]
        assert metrics.average_precision[q] == pytest.approx(
            np.mean([i / rank for i, rank in enumerate(found, 1)]), abs=1e-12
        )
    assert metrics.mean_ap == pytest.approx(np.nanmean(metrics.average_precision), abs=1e-12)
    np.testing.assert_allclose(
        metrics.cmc, [np.mean([f[0] <= k for f in ranks if f]) for k in range(1, 51)], atol=1e-12
    )

    budget = budget_for(case, data.draw(st.integers(1, 4)))
    assert_same(metrics, retrieval_metrics(**case, memory_budget_mb=budget))
    assert_same(metrics, retrieval_metrics_from_distances(squared, *labels, memory_budget_mb=budget))

    top = data.draw(st.integers(1, 16))
    indices, matches = rank_gallery(**case, top=top, memory_budget_mb=budget)
    for q, order in enumerate(orders):
        np.testing.assert_array_equal(indices[q], (order + [-1] * top)[:top])
        np.testing.assert_array_equal(
            matches[q], [j >= 0 and case["gallery_ids"][j] == case["query_ids"][q] for j in indices[q]]
        )


@settings(max_examples=100, deadline=None)
@given(integer_cases(), st.randoms(use_true_random=False))
def test_order_and_duplicates_of_queries_change_nothing(case, random):
    metrics = retrieval_metrics(**case)
    order = list(range(len(case["query_ids"])))
    random.shuffle(order)
    shuffled = retrieval_metrics(**permuted(case, "query", order))
    np.testing.assert_array_equal(shuffled.average_precision, metrics.average_precision[order])
    np.testing.assert_array_equal(shuffled.first_match_rank, metrics.first_match_rank[order])
    doubled = retrieval_metrics(**permuted(case, "query", order + order))
    for other in (shuffled, doubled):
        np.testing.assert_array_equal(other.cmc, metrics.cmc)
        assert (other.mean_ap, other.mean_inp) == (metrics.mean_ap, metrics.mean_inp)


@settings(max_examples=100, deadline=None)
@given(integer_cases(), st.randoms(use_true_random=False))
def test_gallery_images_that_are_removed_change_nothing(case, random):
    metrics = retrieval_metrics(**case)
    junk = dict(case)
    where = [random.randint(0, len(case["gallery_ids"])) for _ in range(3)]
    junk["gallery_ids"] = np.insert(case["gallery_ids"], where, -1)
    junk["gallery_cameras"] = np.insert(case["gallery_cameras"], where, 0)
    junk["gallery_embeddings"] = np.insert(case["gallery_embeddings"], where, 0, axis=0)
    assert_same(metrics, retrieval_metrics(**junk))

    # a copy of query q in the gallery: its own identity and camera, at distance 0
    q = random.randrange(len(case["query_ids"]))
    one = permuted(case, "query", [q])
    copied = dict(one)
    for name in ("embeddings", "ids", "cameras"):
        copied[f"gallery_{name}"] = np.concatenate([case[f"query_{name}"][[q]], case[f"gallery_{name}"]])
    if not np.isnan(metrics.first_match_rank[q]):
        assert_same(retrieval_metrics(**one), retrieval_metrics(**copied))


@settings(max_examples=100, deadline=None)
@given(integer_cases())
def test_counting_and_sorting_agree(case):
    metrics = retrieval_metrics(**case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "SORT_ABOVE", 0)
        assert_same(metrics, retrieval_metrics(**case))


@settings(max_examples=100, deadline=None)
@given(integer_cases(), st.integers(1, 4))
def test_the_code_path_for_a_gpu_gives_the_same(case, rows):
    """The CPU is treated as another device: a few queries at a time, and the gallery in pieces."""
    metrics = retrieval_metrics(**case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "device", lambda name: SimpleNamespace(type="not the CPU"))
        patch.setattr(counting, "SORT_ABOVE", None)  # this path must not read it
        case["gallery_embeddings"] = torch.as_tensor(case["gallery_embeddings"])
        budget = 3 * budget_for(case, rows)
        assert_same(metrics, retrieval_metrics(**case, device="cpu", memory_budget_mb=budget))


def test_on_a_gpu(gpu):
    values = golden("large")
    metrics = retrieval_metrics(
        torch.as_tensor(values["query_features"]).to(gpu), values["gallery_features"], *labels_of(values)
    )
    np.testing.assert_allclose(metrics.average_precision, values["per_query_ap"], rtol=1e-12)


def test_memory_maps_and_tensors(tmp_path):
    values = golden("small")
    labels = labels_of(values)
    query, gallery = values["query_features"], values["gallery_features"]
    expected = retrieval_metrics(query, gallery, *labels)
    np.save(tmp_path / "gallery.npy", gallery)
    assert_same(expected, retrieval_metrics(query, np.load(tmp_path / "gallery.npy", mmap_mode="r"), *labels))
    tensors = [torch.as_tensor(x) for x in labels]
    assert_same(
        expected,
        retrieval_metrics(torch.as_tensor(query).requires_grad_(), torch.as_tensor(gallery), *tensors),
    )
    assert_same(expected, retrieval_metrics(query, np.asfortranarray(gallery), *labels, memory_budget_mb=0.1))
    rounded = torch.as_tensor(gallery).bfloat16()
    assert_same(
        retrieval_metrics(query, rounded.float().numpy(), *labels),
        retrieval_metrics(query, rounded, *labels, memory_budget_mb=0.1),
    )


def test_memory_stays_within_the_budget(tmp_path):
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((500, 16), np.float32), rng.standard_normal((20_000, 16), np.float32)
    labels = rng.integers(0, 999, 500), rng.integers(0, 999, 20_000), np.zeros(500, int), np.ones(20_000, int)
    np.save(tmp_path / "gallery.npy", gallery.astype(np.float16))  # float16 must be converted, piece by piece
    peaks = []
    for source in (gallery, np.load(tmp_path / "gallery.npy", mmap_mode="r")):
        tracemalloc.start()
        retrieval_metrics(query, source, *labels, memory_budget_mb=4)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert max(peaks) < 4 + 1  # 1 MB for label arrays; all distances would take 38 MB


def test_a_given_distance_matrix_is_not_changed():
    distances = HAND_DISTANCES.copy()
    retrieval_metrics_from_distances(distances, **HAND)
    np.testing.assert_array_equal(distances, HAND_DISTANCES)


def usual(**changes):
    case = {
        "query_embeddings": np.ones((2, 3), np.float32),
        "gallery_embeddings": np.ones((4, 3), np.float32),
    }
    case |= {"query_ids": np.array([1, 2]), "gallery_ids": np.array([1, 2, 3, -1])}
    case |= {"query_cameras": np.array([0, 0]), "gallery_cameras": np.array([1, 1, 1, 1])}
    return case | changes


def spoiled(value, count, at):
    embeddings = np.ones((count, 3), np.float32)
    embeddings[at:, 1] = value
    return embeddings


REFUSED = [
    ({"query_embeddings": spoiled(np.nan, 2, 1)}, "1 of 2 rows of query_embeddings hold NaN.*first is row 1"),
    (
        {"gallery_embeddings": spoiled(np.inf, 4, 2)},
        "2 of 4 rows of gallery_embeddings hold NaN or infinite.*first is row 2",
    ),
    (
        {"gallery_embeddings": spoiled(1e30, 4, 0)},
        "4 of 4 rows of gallery_embeddings are too large to be squared in float32",
    ),
    ({"gallery_embeddings": np.ones((4, 5))}, "3 dimensions and gallery_embeddings 5"),
    (
        {"gallery_embeddings": np.ones((3, 3))},
        r"gallery_embeddings has shape \(3, 3\), but gallery_ids has 4",
    ),
    ({"query_embeddings": np.ones(2)}, r"query_embeddings has shape \(2,\)"),
    ({"query_embeddings": np.ones((2, 0)), "gallery_embeddings": np.ones((4, 0))}, "0 dimensions"),
    ({"query_embeddings": np.ones((2, 3), complex)}, "real numbers"),
    ({"query_cameras": np.array([0])}, "query_ids has 2 entries but query_cameras has 1"),
    ({"gallery_cameras": np.arange(5)}, "gallery_ids has 4 entries but gallery_cameras has 5"),
    ({"query_ids": np.array([1.0, 2.0])}, "query_ids must be .* integers, not float64"),
    ({"gallery_ids": np.array([], int), "gallery_cameras": np.array([], int)}, "gallery is empty"),
    ({"query_ids": np.array([], int), "query_cameras": np.array([], int)}, "query is empty"),
    ({"gallery_ids": np.full(4, -1)}, "All 4 gallery images are junk"),
    ({"query_cameras": np.array([1, 1])}, "None of the 2 queries has a match: 2 share .* cameras coincide"),
    (
        {"query_ids": np.array([8, -1])},
        "None of the 2 queries has a match: no query identity occurs among the 4",
    ),
    ({"memory_budget_mb": 1e-9}, "memory_budget_mb is too small: one query against 4 gallery images"),
    ({"max_rank": 0}, "max_rank=0"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals(changes, message):
    with pytest.raises(EvaluationError, match=message):
        retrieval_metrics(**usual(**changes))


def test_refusals_of_the_other_functions():
    labels = {name: value for name, value in usual().items() if not name.endswith("embeddings")}
    with pytest.raises(EvaluationError, match=r"distances has shape \(2, 3\).*\(2, 4\)"):
        retrieval_metrics_from_distances(np.ones((2, 3)), **labels)
    with pytest.raises(
        EvaluationError, match="1 of 2 rows of distances hold NaN or infinity; the first is row 1"
    ):
        retrieval_metrics_from_distances(np.array([[1, 1, 1, 1], [1, 1, np.inf, 1]]), **labels)
    with pytest.raises(EvaluationError, match="top=0"):
        rank_gallery(**usual(), top=0)
    with pytest.raises(EvaluationError, match="cameras coincide"):
        cuhk03_single_shot(**usual(query_cameras=np.array([1, 1])))
    with pytest.raises(EvaluationError, match=r"rank\(51\).*1 to 50"):
        retrieval_metrics(**usual()).rank(51)


# ---- growing galleries


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_growing_galleries_equal_joined_ones(data):
    """Embeddings are integers, so distances are exact and many are tied."""
    draw = data.draw
    whole = st.integers(-2, 2)
    queries, gallery, distractors = draw(st.integers(1, 5)), draw(st.integers(2, 8)), draw(st.integers(0, 9))
    points = st.lists(whole, min_size=2, max_size=2)
    array = [
        np.array(draw(st.lists(points, min_size=n, max_size=n)), np.float32).reshape(n, 2)
        for n in (queries, gallery, distractors)
    ]
    ids = [
        np.array(draw(st.lists(st.integers(low, 3), min_size=n, max_size=n)))
        for n, low in ((queries, 1), (gallery, -1))
    ]
    cameras = [
        np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))) for n in (queries, gallery)
    ]
    sizes = draw(st.lists(st.integers(0, distractors), min_size=1, max_size=4))
    budget = draw(st.sampled_from([512, 1e-3]))
    labels = (ids[0], ids[1], cameras[0], cameras[1])

    def joined(size):
        nobody = np.zeros(size, dtype=int)  # no query has identity 0
        everything = np.concatenate([array[1], array[2][:size]])
        return retrieval_metrics(
            array[0],
            everything,
            ids[0],
            np.concatenate([ids[1], nobody]),
            cameras[0],
            np.concatenate([cameras[1], nobody]),
        )

    def growing():
        return retrieval_metrics_by_gallery_size(
            array[0], array[1], *labels, array[2], sizes, memory_budget_mb=budget
        )

    try:
        expected = [joined(size) for size in sizes]
    except EvaluationError:
        with pytest.raises(EvaluationError):
            growing()
        return
    for one, other in zip(growing(), expected, strict=True):
        assert_same(one, other)


def test_a_distractor_pushes_a_match_back_by_hand():
    query, gallery = np.array([[0.0]]), np.array([[1.0], [3.0]])
    distractors = np.array([[2.0], [0.5], [1.0], [9.0]])  # at 2, 0.5, 1 (tied with the first match) and 9
    found = retrieval_metrics_by_gallery_size(
        query, gallery, [1], [1, 1], [0], [1, 1], distractors, [0, 1, 2, 4]
    )
    assert [metrics.mean_ap for metrics in found] == pytest.approx(
        [1, (1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, (1 / 2 + 2 / 5) / 2]
    )
    assert [metrics.rank1 for metrics in found] == [1, 1, 0, 0]
    assert [metrics.mean_inp for metrics in found] == pytest.approx([1, 2 / 3, 2 / 4, 2 / 5])


@pytest.mark.parametrize("sizes", [[], [-1], [0, 5]])
def test_sizes_beyond_the_distractors_are_refused(sizes):
    with pytest.raises(EvaluationError, match="numbers of distractors from 0 to the 4"):
        retrieval_metrics_by_gallery_size(
            np.ones((1, 1)), np.ones((1, 1)), [1], [1], [0], [1], np.ones((4, 1)), sizes
        )
