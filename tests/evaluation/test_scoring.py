"""The scores that a run keeps: with intervals, re-ranked, and by CUHK03's classic protocol."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reidlib.config import experiment_for
from reidlib.datasets import ReidDataset, Split
from reidlib.evaluation import cuhk03_single_shot, retrieval_metrics
from reidlib.evaluation.scoring import rerank, score
from reidlib.statistics import bootstrap_interval

RANKS = ["rank1", "rank5", "rank10", "rank20"]


@pytest.fixture(scope="module")
def crowd():
    """30 people with two queries and three gallery images each, 25 distractors, a query without a match."""
    rng = np.random.default_rng(0)
    people = np.arange(1, 31)
    centres = {int(person): rng.standard_normal(8) for person in (*people, 99)}
    query_ids, gallery_ids = np.append(np.repeat(people, 2), 99), np.append(np.repeat(people, 3), [0] * 25)

    def split(name, ids, cameras):
        return Split(tuple(Path(f"{name}_{row}.jpg") for row in range(len(ids))), ids, cameras)

    def embedded(ids):
        noise = rng.standard_normal((len(ids), 8))
        return np.stack(
            [centres.get(int(identity), 0) + step for identity, step in zip(ids, noise, strict=True)]
        )

    query = split("query", query_ids, np.arange(len(query_ids)) % 2)
    gallery = split("gallery", gallery_ids, 2 + np.arange(len(gallery_ids)) % 3)
    dataset = ReidDataset("folder", Path(), gallery, query, gallery)
    return {"query": embedded(query_ids), "gallery": embedded(gallery_ids)}, dataset


def labels(dataset):
    return dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras


def tried(**settings):
    return experiment_for("baseline", dataset="folder", bootstrap_resamples=300, **settings)


def test_scores_are_the_retrieval_metrics_with_their_intervals(crowd):
    embeddings, dataset = crowd
    metrics, queries = score(embeddings, tried(), dataset)
    expected = retrieval_metrics(embeddings["query"], embeddings["gallery"], *labels(dataset))
    assert [metrics[name] for name in RANKS] == [expected.rank(k) for k in (1, 5, 10, 20)]
    assert 0 < metrics["rank1"] < metrics["rank20"] <= 1
    assert (metrics["map"], metrics["minp"]) == (expected.mean_ap, expected.mean_inp)
    assert metrics["queries_scored"] == 60, "one of 61 has no match"
    people = dataset.query.ids[:60]
    interval = bootstrap_interval(expected.hits(1)[:60], people, resamples=300)
    assert metrics["rank1_interval"] == [interval.low, interval.high]
    interval = bootstrap_interval(expected.average_precision[:60], people, resamples=300)
    assert metrics["map_interval"] == [interval.low, interval.high]
    assert metrics["reranked"] is None and metrics["single_shot"] is None

    assert list(queries) == ["query", "identity", "camera", "first_match_rank", "average_precision"]
    assert queries["query"].tolist() == [path.name for path in dataset.query.paths]
    assert queries["identity"].tolist() == dataset.query.ids.tolist()
    assert queries["camera"].tolist() == dataset.query.cameras.tolist()
    np.testing.assert_array_equal(queries["first_match_rank"], expected.first_match_rank)
    np.testing.assert_array_equal(queries["average_precision"], expected.average_precision)


def test_the_queries_of_one_person_are_scored_without_intervals(crowd):
    """People are resampled for an interval, and here is only one who has a match."""
    embeddings, dataset = crowd
    chosen = np.isin(dataset.query.ids, [7, 99])
    query = Split(
        tuple(path for path, kept in zip(dataset.query.paths, chosen, strict=True) if kept),
        dataset.query.ids[chosen],
        dataset.query.cameras[chosen],
    )
    one = replace(dataset, query=query)
    ours = {"query": embeddings["query"][chosen], "gallery": embeddings["gallery"]}
    metrics, queries = score(ours, tried(rerank=True), one)
    expected = retrieval_metrics(ours["query"], ours["gallery"], *labels(one))
    assert (metrics["map"], metrics["rank1"]) == (expected.mean_ap, expected.rank(1))
    assert metrics["queries_scored"] == 2 and len(queries) == 3
    for scores in (metrics, metrics["reranked"]):
        assert scores["rank1_interval"] is None and scores["map_interval"] is None


def test_the_number_of_resamples_is_a_setting(crowd):
    embeddings, dataset = crowd
    few, many = (
        score(embeddings, replace(tried(), bootstrap_resamples=resamples), dataset)[0]
        for resamples in (300, 400)
    )
    assert few["map_interval"] != many["map_interval"]
    assert few["map"] == many["map"]


def test_reranked_scores_follow_the_settings(crowd):
    embeddings, dataset = crowd
    forms = {
        "released": ({}, {"merge_threshold": 0.0, "half_precision": True}),
        "published": (
            {"rerank_merge_threshold": 2 / 3, "rerank_half_precision": False},
            {"merge_threshold": 2 / 3, "half_precision": False},
        ),
    }
    found = {}
    for name, (settings, form) in forms.items():
        metrics, queries = score(embeddings, tried(rerank=True, **settings), dataset)
        expected = rerank(embeddings["query"], embeddings["gallery"], dataset, **form)
        found[name] = metrics["reranked"]
        assert found[name]["map"] == expected.mean_ap != metrics["map"]
        assert [found[name][key] for key in RANKS] == [expected.rank(k) for k in (1, 5, 10, 20)]
        assert set(found[name]) == set(metrics) - {"reranked", "single_shot"}
        plain, plain_queries = score(embeddings, tried(), dataset)
        assert {**metrics, "reranked": None} == plain, "the scores without re-ranking stay"
        again = queries.pop("reranked_average_precision")
        np.testing.assert_array_equal(again, expected.average_precision)
        assert queries.equals(plain_queries)
    assert found["released"]["map"] != found["published"]["map"]


@pytest.mark.parametrize("name", ["cuhk03-np-labeled", "cuhk03-np-detected"])
def test_cuhk03_is_scored_single_shot_too(crowd, name):
    embeddings, dataset = crowd
    metrics, _ = score(embeddings, tried(), replace(dataset, name=name))
    shots = cuhk03_single_shot(embeddings["query"], embeddings["gallery"], *labels(dataset))
    assert metrics["single_shot"] == {
        **{f"rank{k}": pytest.approx(shots.cmc[k - 1], abs=1e-12) for k in (1, 5, 10, 20)},
        "map": pytest.approx(shots.mean_ap, abs=1e-12),
    }
    assert metrics["single_shot"]["rank1"] != metrics["rank1"]
    plain, _ = score(embeddings, tried(), dataset)
    assert {**metrics, "single_shot": None} == plain, "the other scores stay"


@pytest.mark.parametrize("name", ["market1501", "dukemtmc-reid", "msmt17", "synthetic"])
def test_other_sets_are_not_scored_single_shot(crowd, name):
    embeddings, dataset = crowd
    other = replace(dataset, name=name)
    assert score(embeddings, tried(), other)[0]["single_shot"] is None
    asked = score(embeddings, tried(single_shot=True), other)[0]["single_shot"]
    cuhk03 = score(embeddings, tried(), replace(dataset, name="cuhk03-np-detected"))[0]["single_shot"]
    assert asked == cuhk03, "unless it is asked for: the released --use-metric-cuhk03"
