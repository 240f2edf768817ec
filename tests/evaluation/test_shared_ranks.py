"""scikit-learn's rule for tied distances, beside ours."""

import numpy as np
import pytest
from conftest import golden

from reidlib.evaluation import retrieval_metrics
from reidlib.evaluation.distance_blocks import Labels
from reidlib.evaluation.shared_ranks import average_precision_with_shared_ranks


def test_tied_images_share_the_precision_after_the_last_of_them():
    """Gallery at distances 0, 1, 1, 4 from the query; the first of the two at 1 is the match.

    Ours: rank 2, average precision 1/2. Shared: both have rank 3, so 1/3.
    """
    gallery = np.array([[0.0], [1.0], [-1.0], [2.0]])
    labels = (np.array([7]), np.array([1, 7, 2, 3]), np.array([1]), np.array([2, 2, 2, 2]))
    query = np.zeros((1, 1))
    assert average_precision_with_shared_ranks(query, gallery, Labels(*labels)) == pytest.approx([1 / 3])
    assert retrieval_metrics(query, gallery, *labels).average_precision == pytest.approx([1 / 2])


def test_removed_images_do_not_count_and_queries_without_a_match_are_nan():
    """The nearest image is the person's own by the same camera, the second is junk: both are removed."""
    gallery = np.array([[0.0], [0.1], [1.0], [2.0]])
    query, people = np.zeros((2, 1)), np.array([7, -1, 1, 7])
    labels = (np.array([7, 8]), people, np.array([1, 1]), np.array([1, 2, 2, 2]))
    found = average_precision_with_shared_ranks(query, gallery, Labels(*labels))
    assert found[0] == pytest.approx(1 / 2) and np.isnan(found[1])


@pytest.mark.parametrize("size", ["small", "large"])
def test_without_ties_both_rules_agree_with_the_released_values(size):
    values = golden(f"metrics_{size}")
    labels = Labels(*(values[name] for name in ("q_pids", "g_pids", "q_camids", "g_camids")))
    found = average_precision_with_shared_ranks(values["query_features"], values["gallery_features"], labels)
    np.testing.assert_allclose(found, values["per_query_ap"], rtol=1e-6)
