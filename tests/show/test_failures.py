"""Where runs fail: groups by hand, and sentences from numbers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up_runs import fabricate

from reidlib.config import METHODS
from reidlib.datasets import Split, load_dataset
from reidlib.evaluation.by_group import group_difference, group_score
from reidlib.show import failures
from reidlib.show.failures import Attribute
from reidlib.study.results import Study
from reidlib.synthetic.attributes import attributes_of

NAN = np.nan
BASELINE = METHODS["baseline"].title


@pytest.fixture
def study(tmp_path):
    return Study("demo", "folder", tmp_path / "demo-folder")


# -------------------------------------------------------------------------------------------------------- CMC


def test_cmc_counts_queries_with_a_match_up_to_each_rank(study):
    ranks = np.repeat([1, 2, 4, 30], 5)
    frame = failures.cmc_frame([fabricate(study, "baseline", ranks=ranks)], ranks=5)
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5] and {*frame["method"]} == {BASELINE}
    assert frame["share"].tolist() == [0.25, 0.5, 0.5, 0.75, 0.75]
    assert (frame["low"] <= frame["share"]).all() and (frame["share"] <= frame["high"]).all()
    assert {*frame["seeds"]} == {1} and {*frame["family"]} == {"abdnet"} and frame["learned"].all()


def test_cmc_of_several_seeds_is_their_mean_with_a_wider_band(study):
    first = fabricate(study, "gap", ranks=np.repeat([1, 9], 10))
    other = fabricate(study, "gap", ranks=1, seed=1)
    one, both = failures.cmc_frame([first], ranks=1), failures.cmc_frame([first, other], ranks=1)
    assert both["share"].tolist() == [0.75] and both["seeds"].tolist() == [2]
    assert (both["high"] - both["low"]).item() > (one["high"] - one["low"]).item()


def test_cmc_leaves_out_what_did_not_learn_or_says_so(study):
    runs = [
        fabricate(study, "baseline", ranks=1),
        fabricate(study, "baseline", ranks=9, seed=1, learned=False),
        fabricate(study, "gap", ranks=9, learned=False),
    ]
    frame = failures.cmc_frame(runs, ranks=1).set_index("method")
    assert frame.loc[BASELINE, ["share", "seeds", "learned"]].tolist() == [1, 1, True]
    assert frame.loc["GAP (did not learn)", ["share", "learned"]].tolist() == [0, False]


def test_cmc_sentence_names_the_best_and_the_worst():
    frame = pd.DataFrame(
        [
            {"method": method, "rank": rank, "share": share}
            for method, shares in {"a": (0.5, 0.75), "b": (0.125, 1.0), "c": (0.25, 0.5)}.items()
            for rank, share in zip((1, 20), shares, strict=True)
        ]
    )
    assert failures.cmc_sentence(frame) == (
        "a has a match at rank 1 for 50.0 % of the queries and among the first 20 for 75.0 %; "
        "b has a match at rank 1 for 12.5 % of the queries and among the first 20 for 100.0 %."
    )


# ----------------------------------------------------------------------------------------------------- groups


PEOPLE = np.repeat(np.arange(40), 2)


def precisions(seeds, *, cost=0.0):
    """(seeds, 80) and an attribute with two levels, of which the second costs average precision."""
    rng = np.random.default_rng(0)
    values = 0.5 + rng.normal(0, 0.05, (seeds, 80))
    hidden = np.arange(80) % 2 == 1
    return values - cost * hidden, Attribute(
        "occluder", ("none", "pole", "hedge"), np.where(hidden, "pole", "none")
    )


def test_levels_are_compared_with_the_first():
    values, attribute = precisions(1, cost=0.2)
    frame = failures.level_frame(values, PEOPLE, [attribute])
    none, pole, hedge = (row for _, row in frame.iterrows())
    first, second = attribute.labels == "none", attribute.labels == "pole"
    assert tuple(none[["map", "low", "high", "queries", "people"]]) == group_score(values, PEOPLE, first)
    assert np.isnan(none["difference"]) and hedge["queries"] == 0 and np.isnan(hedge["difference"])
    effect, over_people = group_difference(values, PEOPLE, second, first)
    assert tuple(pole[["difference", "difference_low", "difference_high"]]) == over_people
    assert np.isnan(pole["p"]) and pole["verdict"] == "one seed: no verdict"


def test_with_several_seeds_there_is_a_verdict_after_holms_correction():
    values, attribute = precisions(3, cost=0.2)
    nothing = Attribute("side seen", ("front", "back"), np.where(np.arange(80) % 4 < 2, "front", "back"))
    frame = failures.level_frame(values, PEOPLE, [attribute, nothing]).set_index("level")
    effect, _ = group_difference(values, PEOPLE, attribute.labels == "pole", attribute.labels == "none")
    assert frame.loc["pole", "p"] == pytest.approx(2 * effect.p), "of two differences"
    assert frame.loc["pole", "verdict"] == "differs" and frame.loc["back", "verdict"] != "differs"
    assert tuple(frame.loc["pole", ["difference", "difference_low", "difference_high"]]) == effect[:3]


def test_queries_without_a_match_or_a_level_are_in_no_group():
    values, attribute = precisions(1)
    values[0, :2] = NAN
    labels = np.where(np.arange(80) > 70, "unknown", attribute.labels)
    frame = failures.level_frame(values, PEOPLE, [attribute._replace(labels=labels)])
    assert frame["queries"].tolist() == [35, 34, 0]


def test_the_first_level_may_be_empty():
    values, attribute = precisions(1)
    swapped = attribute._replace(levels=("hedge", "pole", "none"))
    frame = failures.level_frame(values, PEOPLE, [swapped])
    assert frame["difference"].isna().all() and frame["verdict"].isna().all()
    assert failures.cost_sentence(frame, "X").startswith("No group of queries has 20 people")
    assert failures.level_table(frame)["verdict"].tolist() == ["–"] * 3


def levels(*rows, seeds=1, verdict="one seed: no verdict"):
    """A table as `level_frame` makes it; a row: attribute, level, people, map, difference."""
    frame = pd.DataFrame(rows, columns=["attribute", "level", "people", "map", "difference"])
    frame = frame.assign(queries=2 * frame["people"], seeds=seeds, verdict=verdict, p=NAN)
    frame = frame.assign(low=frame["map"] - 0.01, high=frame["map"] + 0.01)
    frame = frame.assign(
        difference_low=frame["difference"] - 0.05, difference_high=frame["difference"] + 0.05
    )
    return frame.reindex(columns=failures.LEVEL_COLUMNS)


OCCLUDED = (("occluder", "none", 90, 0.5, NAN), ("occluder", "pole", 30, 0.25, -0.25))
SIDES = (("side seen", "front", 90, 0.5, NAN), ("side seen", "back", 30, 0.375, -0.125))


def test_what_costs_most_is_said_with_its_interval():
    assert failures.cost_sentence(levels(*SIDES, *OCCLUDED), "X") == (
        "What costs X most average precision is occluder “pole” against “none”: -25.0 [-30.0, -20.0] points "
        "of mAP (95 % interval over people; 25.0 against 50.0 % on 60 and 180 queries). It is the largest of "
        "2 differences of one training: no verdict rests on it."
    )
    several = failures.cost_sentence(levels(*SIDES, *OCCLUDED, seeds=3, verdict="cannot tell"), "X")
    assert "over seeds and people" in several
    assert several.endswith("As the largest of 2 differences, p corrected: cannot tell.")


@pytest.mark.parametrize("few", [0, 1])
def test_what_costs_most_is_no_group_of_few_people_nor_against_one(few):
    rows = [list(row) for row in OCCLUDED]
    rows[few][2] = 19
    assert "side seen “back” against “front”" in failures.cost_sentence(levels(*rows, *SIDES), "X")


def test_where_nothing_costs_anything_the_sentence_says_so():
    gain = ("occluder", "pole", 30, 0.6, 0.1)
    text = failures.cost_sentence(levels(OCCLUDED[0], gain), "X")
    assert text.startswith("No group of queries costs X average precision.") and "+10.0 [+5.0, +15.0]" in text


def test_the_table_of_a_page_has_percentages_and_points():
    table = failures.level_table(levels(*OCCLUDED))
    assert table["attribute"].tolist() == ["occluder", ""]
    assert table["mAP [95 %]"].tolist() == ["50.0 [49.0, 51.0]", "25.0 [24.0, 26.0]"]
    assert table["− the first [95 %]"].tolist() == ["–", "-25.0, over people [-30.0, -20.0]"]
    assert failures.level_table(levels(*OCCLUDED, seeds=2))["− the first [95 %]"][1] == "-25.0 [-30.0, -20.0]"


# ---------------------------------------------------------------------------------------------------- cameras


def split(*images):
    """A split and its one-dimensional embeddings, from (identity, camera, number) of each image."""
    ids, cameras, values = (np.array(column) for column in zip(*images, strict=True))
    return Split(tuple(Path(f"{row}.jpg") for row in range(len(images))), ids, cameras), values[:, None]


def test_camera_pairs_have_scores_over_their_queries_and_seeds():
    query, asked = split((1, 1, 0.0), (2, 1, 10.0), (1, 2, 0.0))
    gallery, shown = split((1, 2, 1.0), (2, 2, 9.0), (1, 1, 0.0), (2, 1, 0.5))
    dataset = SimpleNamespace(query=query, gallery=gallery)
    runs = [
        SimpleNamespace(embeddings={"query": asked, "gallery": embedded})
        for embedded in (shown, shown[[1, 0, 2, 3]])
    ]
    frame = failures.camera_frame(runs[:1], dataset)
    assert frame[["query_camera", "gallery_camera", "queries", "people"]].values.tolist() == [
        [1, 2, 2, 2],
        [2, 1, 1, 1],
    ]
    assert frame["map"].tolist() == [1, 1] and frame["seeds"].tolist() == [1, 1]
    both = failures.camera_frame(runs, dataset)
    assert both["map"].tolist() == [0.75, 1] and both["seeds"].tolist() == [2, 2], "with places swapped, 1/2"


def test_the_camera_sentence_leaves_out_pairs_of_few_people():
    columns = ["query_camera", "gallery_camera", "people", "map", "low", "high"]
    rows = [(1, 2, 20, 0.5, 0.4, 0.6), (2, 1, 30, 0.25, 0.2, 0.3), (1, 3, 19, 0.1, 0.0, 0.2)]
    frame = pd.DataFrame(rows, columns=columns).assign(queries=40)
    assert failures.camera_sentence(frame) == (
        "The hardest way is from camera 2 to 1 (mAP 25.0 [20.0, 30.0] %, 40 queries), the easiest from "
        "camera 1 to 2 (mAP 50.0 [40.0, 60.0] %, 40 queries)."
    )
    assert "Fewer than two pairs" in failures.camera_sentence(frame[1:])


# ------------------------------------------------------------------------------------------- rendered images


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    options = {
        "train_identities": 2,
        "test_identities": 12,
        "images_per_identity": 2,
        "height": 32,
        "width": 16,
    }
    root = tmp_path_factory.mktemp("data") / "synthetic"
    return load_dataset("synthetic", root, synthetic_options={**options, "workers": 1})


def test_every_query_has_one_level_of_each_attribute(rendered):
    attributes = failures.rendered_attributes(rendered)
    assert len({attribute.title for attribute in attributes}) == len(attributes) == 6
    for attribute in attributes:
        assert len(attribute.labels) == len(rendered.query)
        assert {*attribute.labels} - {""} <= {*attribute.levels}, attribute.title
        assert all(attribute.levels)
    turned = next(attribute for attribute in attributes if attribute.title.startswith("turned"))
    query, gallery = (attributes_of(rendered.root, part.paths) for part in (rendered.query, rendered.gallery))
    for row, (person, camera) in enumerate(zip(rendered.query.ids, rendered.query.cameras, strict=True)):
        matches = (rendered.gallery.ids == person) & (rendered.gallery.cameras != camera)
        away = np.degrees(np.abs(gallery["yaw"][matches] - query["yaw"][row]))
        nearest = np.minimum(away, 360 - away).min()
        level = "below 45°" if nearest < 45 else "45° to 90°" if nearest < 90 else "above 90°"
        assert turned.labels[row] == level


def test_worst_queries_of_rendered_images_say_what_stands_in_front_and_who_is_dressed_alike(rendered):
    query, gallery = (attributes_of(rendered.root, part.paths) for part in (rendered.query, rendered.gallery))
    same = [np.flatnonzero(gallery["colours"] == colours)[0] for colours in query["colours"][:2]]
    other = np.flatnonzero(gallery["colours"] != query["colours"][2])[0]
    worst = pd.DataFrame({"query": [0, 1, 2, 3], "wrong": [same[0], same[1], other, -1]})
    frame = failures.with_attributes(worst, rendered)
    assert frame["same_colours"].tolist() == [True, True, False, False]
    assert frame["occluder"].tolist() == query["occluder"][:4].tolist()
    assert frame["side"].tolist() == query["side"][:4].tolist()


def test_the_worst_queries_in_words():
    worst = pd.DataFrame({"query_identity": [1, 1, 2, 3], "right_rank": [9, 40, 20, 12]})
    plain = "The 4 worst queries show 3 people; their best right image stands at rank 9 to 40."
    assert failures.worst_sentence(worst) == plain
    worst = worst.assign(occluder=["none", "pole", "pole", "none"], same_colours=[True, False, False, False])
    assert failures.worst_sentence(worst, levels(*OCCLUDED, *SIDES)) == (
        f"{plain} The first wrong image shows someone in the same colours for 1 of them. Something stands in "
        "front in 50.0 % of them, and in 25.0 % of all queries."
    )


def test_photographs_say_why_there_are_only_camera_pairs():
    assert "Market-1501, so only the camera pairs" in failures.unknown_sentence(
        SimpleNamespace(name="market1501")
    )
