"""The scores without learning are shown only beside runs on the same test images."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up_runs import IMAGES, fabricate_reference

from reidlib.show import tables
from reidlib.study.points import BOUNDS, SCORES, keep_points, kept_points, reference_points
from reidlib.study.results import REFERENCE, Study

TABLE = pd.DataFrame(
    [{"method": name, **dict.fromkeys((*SCORES, *BOUNDS), 0.25)} for name in ("colours", "untrained")]
)
HERE = SimpleNamespace(fingerprints={"training": "t" * 16, "test": IMAGES})
ELSEWHERE = SimpleNamespace(fingerprints={"training": "t" * 16, "test": "1" * 16})


@pytest.fixture
def study(tmp_path):
    return Study("demo", "folder", tmp_path / "a <b>" / "demo-folder")


def test_points_of_the_same_images_are_read_as_they_were_written(study):
    keep_points(TABLE, IMAGES, study.tables)
    found, sentences = reference_points(study, HERE)
    pd.testing.assert_frame_equal(found, TABLE)
    assert sentences == []
    assert tables.reference_table(found)["rank-1 [95 %]"].tolist() == ["25.0 [25.0, 25.0]"] * 2


def test_points_without_intervals_are_read(study):
    """Of a single person there is none: JSON has no NaN."""
    keep_points(TABLE.assign(**dict.fromkeys(BOUNDS, np.nan)), IMAGES, study.tables)
    found, sentences = reference_points(study, HERE)
    assert sentences == [] and found[[*BOUNDS]].isna().all(axis=None)
    assert tables.reference_table(found)["mAP [95 %]"].tolist() == ["25.0"] * 2


def test_points_of_other_images_are_left_out_with_the_command_that_makes_them_again(study):
    """01_data with --data-root A, then a table of runs with --data-root B."""
    keep_points(TABLE, IMAGES, study.tables)
    found, (sentence,) = reference_points(study, ELSEWHERE)
    assert found.empty and list(found) == list(TABLE)
    assert sentence.startswith(
        "The scores without learning are left out, because their file reference_points"
    )
    assert "belongs to other images; this makes it again: python run" in sentence.replace("&#95;", "_")
    for part in ("profile demo", "dataset folder", "DIR", "only 01_data"):
        assert part in sentence.replace("&#95;", "_")
    assert "<b>" not in sentence, "a name of a folder is text"
    assert tables.scores_frame([], found).empty and tables.reference_table(found).empty


@pytest.mark.parametrize(
    "content",
    [
        None, "", "{}", "[]", "null", '{"data": "0000', '{"points": []}',
        json.dumps({"data": IMAGES, "points": []}),
        json.dumps({"data": IMAGES, "points": {"rank1": 1}}),
        json.dumps({"data": IMAGES, "points": [{"method": "colours"}]}),
        json.dumps({"data": IMAGES, "points": [{**TABLE.iloc[0].to_dict(), "map": None}]}),
        json.dumps({"data": IMAGES, "points": [{**TABLE.iloc[0].to_dict(), "method": 3}]}),
        json.dumps({"data": [], "points": TABLE.to_dict("records")}),
    ],
)  # fmt: skip
def test_damaged_points_are_left_out_and_said(study, content):
    if content is not None:
        study.tables.mkdir(parents=True)
        (study.tables / "reference_points.json").write_text(content)
    found, (sentence,) = reference_points(study, HERE)
    assert found.empty and "is missing or damaged; this makes it again: " in sentence
    assert kept_points(study.tables, IMAGES) == []


def test_points_of_a_reference_study_lie_in_its_folder(study, tmp_path):
    root = fabricate_reference(tmp_path, "pku-reid", {("baseline", 0): 0.5})
    shown = Study("demo", "folder", tmp_path / "results" / "reference-pku-reid", root)
    found, sentences = reference_points(shown, HERE)
    assert found["method"].tolist() == ["colour histogram"] and sentences == []
    found, (sentence,) = reference_points(shown, ELSEWHERE)
    assert found.empty and "make&#95;reference.py" in sentence and "01" not in sentence


def test_the_points_that_are_committed_can_be_read():
    files = sorted(REFERENCE.glob("*/reference_points.json"))
    assert files
    for file in files:
        assert len(kept_points(file.parent, json.loads(file.read_text())["data"])) == 2
