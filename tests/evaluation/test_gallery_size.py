"""Scores by gallery size: galleries ranked by hand, and comparison with the metrics of the whole gallery."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.datasets import ReidDataset, Split
from reidlib.evaluation import EvaluationError, retrieval_metrics, scores_by_gallery_size


def split(images):
    """A split and its one-dimensional embeddings, from (identity, camera, number) of each image."""
    ids, cameras, values = (np.array(column) for column in zip(*images, strict=True))
    paths = tuple(Path(f"{row}.jpg") for row in range(len(images)))
    return Split(paths, ids, cameras), values[:, None].astype(np.float64)


def case(query, gallery):
    """Embeddings and a data set without training images."""
    (asked, of_query), (shown, of_gallery) = split(query), split(gallery)
    nobody = Split((), np.empty(0, np.int64), np.empty(0, np.int64))
    return {"query": of_query, "gallery": of_gallery}, ReidDataset("folder", Path(), nobody, asked, shown)


def whole(embeddings, dataset):
    query, gallery = dataset.query, dataset.gallery
    return retrieval_metrics(
        embeddings["query"], embeddings["gallery"], query.ids, gallery.ids, query.cameras, gallery.cameras
    )


# Query 1 is at 0 and its match at 1; query 2 is at 10 and its match at 12.
QUERY = [(1, 0, 0.0), (2, 0, 10.0)]
PEOPLE = [(1, 1, 1.0), (2, 1, 12.0)]
# The first is closer to query 1 than its match, the second to query 2.
DISTRACTORS = [(0, 2, 0.5), (0, 2, 11.0)]


@pytest.mark.parametrize("seed", range(6))
def test_other_people_come_first_and_distractors_last(seed):
    """The first other image shows the other person and is farther than the match: rank 1.

    The second is a distractor, whichever: for one of the two queries, the match falls to rank 2. With both
    distractors this happens to both queries.
    """
    embeddings, dataset = case(QUERY, DISTRACTORS + PEOPLE)
    frame = scores_by_gallery_size(embeddings, dataset, [1, 2, 3], seed=seed)
    assert frame["other_images"].tolist() == [1, 2, 3]
    assert frame["rank1"].tolist() == [1, 1 / 2, 0]
    assert frame["map"].tolist() == [1, 3 / 4, 1 / 2]
    assert frame["distractors"].tolist() == [False, True, True]


def test_a_single_distractor_among_the_others_is_reported():
    """Each query has one image of another person, so of two other images one is a distractor."""
    embeddings, dataset = case(QUERY, DISTRACTORS + PEOPLE)
    frame = scores_by_gallery_size(embeddings, dataset, [1, 2, 3])
    assert frame["distractors"].tolist() == [False, True, True]


def test_precision_with_two_matches_by_hand():
    """Matches at 1 and 4, other people at 2, 3 and 5: ranks 1 and 4, so precisions 1 and 2/4.

    The image at 0.1 has the query's person and camera: it is removed, and does not count as another image.
    """
    gallery = [(1, 1, 1.0), (1, 2, 4.0), (1, 0, 0.1), (2, 1, 2.0), (3, 1, 3.0), (3, 2, 5.0)]
    embeddings, dataset = case([(1, 0, 0.0)], gallery)
    frame = scores_by_gallery_size(embeddings, dataset, [3])
    assert frame["rank1"].tolist() == [1]
    assert frame["map"].tolist() == [3 / 4]
    assert frame["distractors"].tolist() == [False]


def test_sizes_are_sorted_and_a_size_beyond_the_gallery_takes_all():
    embeddings, dataset = case(QUERY, PEOPLE + DISTRACTORS)
    frame = scores_by_gallery_size(embeddings, dataset, [100, 1, 4])
    assert frame["other_images"].tolist() == [1, 4, 100]
    assert frame["rank1"].tolist() == [1, 0, 0]
    assert frame["map"].tolist() == [1, 1 / 2, 1 / 2]


def test_a_query_without_a_match_of_another_camera_is_left_out():
    """The gallery has person 3 only in the query's camera, and person 4 not at all."""
    embeddings, dataset = case([*QUERY, (3, 5, 20.0), (4, 0, 20.0)], [*PEOPLE, (3, 5, 20.0)])
    frame = scores_by_gallery_size(embeddings, dataset, [1, 2])
    assert frame["rank1"].tolist() == frame["map"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("count", "sizes"), [(4, [4]), (10, [10]), (11, [10, 11]), (45, [10, 20, 40, 45]), (80, [10, 20, 40, 80])]
)
def test_sizes_are_doubled_from_ten_up_to_all(count, sizes):
    gallery = [*PEOPLE, *((0, 3, 100.0 + number) for number in range(count - 2))]
    frame = scores_by_gallery_size(*case(QUERY, gallery))
    assert frame["other_images"].tolist() == sizes
    assert frame["rank1"].tolist() == frame["map"].tolist() == [1] * len(sizes), "all others are far away"


@pytest.mark.parametrize("sizes", [[0], [-1, 5]])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(EvaluationError, match="give numbers of other images from 1 on"):
        scores_by_gallery_size(*case(QUERY, PEOPLE), sizes)


@st.composite
def crowds(draw):
    """Several queries and images per person, and distractors; no two distances are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = draw(st.integers(2, 5))
    query = [(person, 0, rng.random()) for person in range(1, people + 1) for _ in range(rng.integers(1, 4))]
    gallery = [
        (person, int(rng.integers(0, 3)), rng.random())
        for person in range(1, people + 1)
        for _ in range(rng.integers(0, 5))
    ]
    gallery += [(0, int(rng.integers(0, 3)), rng.random()) for _ in range(draw(st.integers(0, 6)))]
    gallery.append((1, 1, rng.random()))  # at least one match
    return case(query, [gallery[row] for row in rng.permutation(len(gallery))])


@settings(max_examples=60, deadline=None)
@given(crowds(), st.integers(0, 99))
def test_with_all_other_images_the_scores_are_the_usual_ones(crowd, seed):
    embeddings, dataset = crowd
    everything = len(dataset.gallery)
    frame = scores_by_gallery_size(embeddings, dataset, range(1, everything + 1), seed=seed)
    expected = whole(embeddings, dataset)
    assert frame["rank1"].iloc[-1] == pytest.approx(expected.rank1, abs=1e-12)
    assert frame["map"].iloc[-1] == pytest.approx(expected.mean_ap, abs=1e-12)
    for column in ("rank1", "map"):
        assert (frame[column].diff().iloc[1:] <= 1e-12).all(), "another image never helps"
    again = scores_by_gallery_size(embeddings, dataset, range(1, everything + 1), seed=seed)
    assert again.equals(frame)


def test_the_seed_decides_the_order():
    rng = np.random.default_rng(0)
    query = [(person, 0, rng.random()) for person in range(1, 31)]
    gallery = [(person, 1, rng.random()) for person in range(1, 31)]
    embeddings, dataset = case(query, gallery)
    found = [scores_by_gallery_size(embeddings, dataset, [5, 29], seed=seed)["map"] for seed in (0, 1)]
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1] == pytest.approx(whole(embeddings, dataset).mean_ap, abs=1e-12)
