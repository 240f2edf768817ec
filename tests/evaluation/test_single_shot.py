"""CUHK03's classic protocol against golden values and against all galleries that can be drawn."""

import itertools

import numpy as np
import pytest
from conftest import GOLDEN

from reidlib.evaluation import cuhk03_single_shot


@pytest.mark.parametrize("name", ["small", "large"])
def test_golden_single_shot(name):
    with np.load(GOLDEN / f"metrics_{name}.npz") as file:
        values = dict(file)
    labels = [values[key] for key in ("q_pids", "g_pids", "q_camids", "g_camids")]
    scores = cuhk03_single_shot(values["query_features"], values["gallery_features"], *labels)
    tolerance = 4 * values["cuhk03_rank1_std_of_one_run"] / np.sqrt(30)
    np.testing.assert_allclose(scores.cmc, values["cuhk03_cmc_mean"], atol=tolerance, rtol=0)
    assert abs(scores.mean_ap - values["cuhk03_mAP_mean"]) < tolerance


def test_single_shot_equals_all_possible_galleries():
    query, gallery = np.array([[0.0]]), np.array([[1.0], [4], [2], [3], [5], [0.5], [0.1]])
    ids, cameras = np.array([1, 1, 2, 2, 3, 3, -1]), np.array([1, 1, 0, 1, 1, 1, 1])
    scores = cuhk03_single_shot(query, gallery, [1], ids, [0], cameras, max_rank=4)
    ranks = [
        1 + sum(gallery[j, 0] < gallery[own, 0] for j in others)
        for own, *others in itertools.product([0, 1], [2, 3], [4, 5])
    ]
    np.testing.assert_allclose(scores.cmc, [np.mean(np.array(ranks) <= k) for k in range(1, 5)])
    assert scores.mean_ap == pytest.approx(np.mean([1 / rank for rank in ranks]))
    np.testing.assert_allclose(scores.average_precision, [scores.mean_ap])
