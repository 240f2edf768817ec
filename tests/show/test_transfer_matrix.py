"""The matrix "trained on × tested on" of made-up runs: numbers, what is left out, and how it is drawn."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from made_up_runs import PEOPLE, fabricate

from reidlib.crossed import crossed_effect
from reidlib.datasets import ReidDataset, Split
from reidlib.show import transfer, transfer_figures
from reidlib.show.drawing import description_of
from reidlib.statistics import bootstrap_interval
from reidlib.study.results import Study
from reidlib.study.transfer import Trained


def data_set(name):
    """A data set with 20 queries of ten people, whose fingerprints are made of its name."""
    nothing = Split((), np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    query = Split(tuple(Path(f"{row}.png") for row in range(20)), PEOPLE, np.ones(20, dtype=np.int64))
    dataset = ReidDataset("folder", Path(name), nothing, query, nothing)
    dataset.__dict__["fingerprints"] = {"training": f"{name} train", "test": f"{name} test"}
    return dataset


A, B = data_set("a"), data_set("b")
ELSEWHERE = np.linspace(0.1, 0.3, 20)  # average precision of each query on another data set


@pytest.fixture(autouse=True)
def scored(monkeypatch):
    """Scores on other data sets are made up, and nobody is in two: (run, data set) of each scoring."""
    calls = []

    def queries(run, dataset, *, cache):
        calls.append((run.name, dataset.root.name))
        shift = 0.01 * run.seed
        return pd.DataFrame(
            {
                "identity": PEOPLE,
                "first_match_rank": np.where(PEOPLE < 3, 1, 4),
                "average_precision": ELSEWHERE + shift,
            }
        )

    monkeypatch.setattr(transfer, "transfer_queries", queries)
    monkeypatch.setattr(transfer, "people_in_both", lambda one, other: "")
    return calls


@pytest.fixture
def row(tmp_path):
    """A call that makes the row of a data set: runs of these seeds with this mAP on their own test set."""

    def make(dataset, seeds=(0,), mean_ap=0.75, **options):
        name = dataset.root.name
        study = Study("demo", "folder", tmp_path / f"demo-{name}")
        trained = {"trained_on": f"{name} train", "scored_on": f"{name} test"} | options
        return Trained(
            name.upper(),
            [fabricate(study, "baseline", mean_ap, seed=seed, **trained) for seed in seeds],
            dataset,
        )

    return make


def cell(frame, trained, tested):
    found = frame[(frame["trained on"] == trained) & (frame["tested on"] == tested)]
    assert len(found) == 1
    return found.iloc[0]


def test_the_diagonal_is_what_the_runs_were_finished_with(row, tmp_path, scored):
    frame = transfer.transfer_frame([row(A), row(B, mean_ap=0.5)], {"A": A, "B": B}, cache=tmp_path)
    assert cell(frame, "A", "A")["map"] == 0.75 and cell(frame, "B", "B")["map"] == 0.5
    assert cell(frame, "A", "A")["rank1"] == 1.0, "of the queries, not of metrics.json"
    assert frame["own"].tolist() == [True, False, False, True]
    assert scored == [("baseline-seed0", "b"), ("baseline-seed0", "a")], "own scores are not made again"
    assert cell(frame, "A", "B")["map"] == pytest.approx(0.2) and cell(frame, "A", "B")["rank1"] == 0.3


def test_one_seed_has_an_interval_over_people(row, tmp_path):
    found = cell(transfer.transfer_frame([row(A)], {"A": A, "B": B}, cache=tmp_path), "A", "B")
    expected = bootstrap_interval(ELSEWHERE, PEOPLE)
    assert (found["over"], found["seeds"], found["people"], found["queries"]) == ("people", 1, 10, 20)
    assert (found["map_low"], found["map_high"]) == pytest.approx((expected.low, expected.high))


def test_several_seeds_have_an_interval_over_seeds_and_people(row, tmp_path):
    found = cell(transfer.transfer_frame([row(A, (0, 1, 2))], {"A": A, "B": B}, cache=tmp_path), "A", "B")
    values = np.stack([ELSEWHERE + 0.01 * seed for seed in (0, 1, 2)])
    expected = crossed_effect(values, np.zeros_like(values), PEOPLE)
    assert (found["over"], found["seeds"]) == ("seeds and people", 3)
    assert found[["map", "map_low", "map_high"]].tolist() == pytest.approx(list(expected[:3]))


def test_what_did_not_learn_has_no_score(row, tmp_path, scored):
    one = row(A)
    none = row(B, learned=False)
    frame = transfer.transfer_frame([one, none], {"A": A, "B": B}, cache=tmp_path)
    assert cell(frame, "B", "B")["not scored"] == "did not learn" and np.isnan(cell(frame, "B", "A")["map"])
    assert scored == [("baseline-seed0", "b")]
    mixed = one._replace(runs=[*one.runs, *row(data_set("c"), (1,), learned=False).runs])
    assert cell(transfer.transfer_frame([mixed], {"A": A}, cache=tmp_path), "A", "A")["seeds"] == 1


def test_people_known_from_training_are_not_scored_and_that_is_said(row, tmp_path, scored, monkeypatch):
    both = {("a", "b"): "3 images are in both"}
    monkeypatch.setattr(
        transfer, "people_in_both", lambda one, other: both.get((one.root.name, other.root.name), "")
    )
    frame = transfer.transfer_frame([row(A), row(B)], {"A": A, "B": B}, cache=tmp_path)
    assert cell(frame, "A", "B")["not scored"] == "same people: 3 images are in both"
    assert np.isnan(cell(frame, "A", "B")["map"]) and scored == [("baseline-seed0", "a")]
    assert transfer.not_scored_sentences(frame) == [
        "Trained on A, tested on B: not scored, same people: 3 images are in both."
    ]
    assert transfer.transfer_table(frame)["B"].tolist()[0] == "same people"


def test_the_table_has_a_line_for_each_training_and_a_column_for_each_test_set(row, tmp_path):
    frame = transfer.transfer_frame([row(A, (0, 1)), row(B)], {"A": A, "B": B}, cache=tmp_path)
    table = transfer.transfer_table(frame)
    assert list(table) == ["trained on", "method", "A", "B"]
    assert table["trained on"].tolist() == ["A", "B"] and table["method"].tolist()[0].endswith(", 2 seeds")
    assert table["A"].tolist()[0] == "100.0 [100.0, 100.0] / 75.0 [75.0, 75.0]"
    assert table["A"].tolist()[1].startswith("30.0 [") and " / 20.0 [" in table["A"].tolist()[1]


def test_sentences_compare_on_the_same_test_set_only(row, tmp_path):
    rows = [row(A), row(B, mean_ap=0.5)]
    said = transfer.transfer_sentence(transfer.transfer_frame(rows, {"A": A, "B": B}, cache=tmp_path))
    assert "B: 20.0 trained on A, against 50.0 trained on B" in said
    assert "Only numbers on the same test set compare" in said
    alone = transfer.transfer_frame(rows[:1], {"A": A}, cache=tmp_path)
    assert "There is no score on another data set" in transfer.transfer_sentence(alone)


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ([1, 1], "over people; each row has one seed"),
        ([3, 3], "over seeds and people together."),
        ([3, 1], "where a row has several seeds, and otherwise over people"),
    ],
)
def test_what_the_intervals_are_over_is_said(seeds, says):
    assert says in transfer.interval_sentence(pd.DataFrame({"seeds": seeds}))


def test_the_figure_has_every_number_and_frames_what_was_trained_on(row, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "people_in_both", lambda one, other: "x" if one is B and other is A else "")
    frame = transfer.transfer_frame([row(A, (0, 1)), row(B)], {"A": A, "B": B}, cache=tmp_path)
    figure = transfer_figures.transfer_matrix(frame, "Costs $5")
    figure.canvas.draw()
    upper, lower = figure.axes
    texts = [text.get_text() for text in upper.texts]
    assert texts.count("75.0") == 2 and "20.5" in texts and "same\npeople" in texts
    assert [text.get_text() for text in lower.texts].count("100.0") == 2
    frames = [(round(patch.get_x()), round(patch.get_y())) for patch in upper.patches]
    assert frames == [(0, 0), (1, 1)]
    assert [label.get_text() for label in lower.get_xticklabels()] == ["A", "B"]
    assert upper.get_yticklabels()[0].get_text().endswith(", 2 seeds")
    assert np.isnan(upper.images[0].get_array().filled(np.nan)[1, 0])
    note = " ".join(figure.get_supxlabel().split())
    assert "95 % interval over people (one seed), over seeds and people (several seeds)" in note
    said = description_of(figure)
    assert "trained on A, tested on B: 20.5" in said and "trained on B, tested on A" not in said
