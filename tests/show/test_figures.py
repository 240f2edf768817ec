"""Figures and the selection of images, on inputs small enough to be checked by hand."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from reidlib.datasets import Split
from reidlib.show import figures, ranking_figures, selection
from reidlib.show.drawing import description_of


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def texts(axis):
    return [text.get_text() for text in axis.texts]


def drawn(figure: Figure) -> Figure:
    """Renders the figure, which finds bad layouts, missing fonts and impossible limits."""
    figure.canvas.draw()
    return figure


# ---------------------------------------------------------------------------------------------------- figures


def test_image_grid_takes_rows_of_different_lengths():
    rows = [noise(3, 8, 4), noise(1, 8, 4)]
    figure = drawn(
        figures.image_grid(rows, ["camera 1", "camera 2"], title="Sheet", column_labels=["a", "b"])
    )
    assert len(figure.axes) == 6
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 0, 0]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), rows[1][0])
    assert texts(figure.axes[0]) == ["camera 1"] and texts(figure.axes[3]) == ["camera 2"]
    assert [axis.get_title() for axis in figure.axes[:3]] == ["a", "b", ""]
    assert figure.get_suptitle() == "Sheet"
    assert not any(axis.axison for axis in figure.axes)


def curves(**more):
    steps = np.arange(1, 5)
    columns = {
        "epoch": steps,
        "loss": 4.0 / steps,
        "cross_entropy": 3.0 / steps,
        "accuracy": steps / 10,
        "learning_rate": 1e-3,
    }
    return pd.DataFrame({**columns, **more})


def test_training_curves_have_a_line_for_each_term():
    late = [np.nan, np.nan, 0.5, 0.25]
    frame = curves(triplet=1.0 / np.arange(1, 5), orthogonal_features=late)
    figure = drawn(figures.training_curves(frame, "ABD-Net, seed 0"))
    losses, accuracy, rate = figure.axes
    assert [line.get_label() for line in losses.lines] == [
        "cross entropy",
        "triplet",
        "orthogonal features",
        "loss (sum)",
    ]
    np.testing.assert_array_equal(losses.lines[2].get_ydata(), late)
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [10, 20, 30, 40])
    assert accuracy.get_ylabel() == "training accuracy (%)" and rate.get_ylim()[0] == 0
    assert figure.get_suptitle() == "ABD-Net, seed 0"
    single = drawn(figures.training_curves(curves(), "Baseline")).axes[0]
    assert [line.get_label() for line in single.lines] == ["loss (sum)"], "the sum of one term is that term"


def test_training_curves_show_scores_between_epochs_if_there_are_any():
    nan = np.nan
    frame = curves(validation_rank1=[nan, 0.5, nan, 0.75], validation_map=[nan, 0.25, nan, 0.5])
    retrieval = drawn(figures.training_curves(frame, "t")).axes[3]
    rank1, mean_ap = retrieval.lines
    assert [line.get_label() for line in retrieval.lines] == ["rank-1, validation", "mAP, validation"]
    np.testing.assert_array_equal(rank1.get_xdata(), [2, 4])
    np.testing.assert_allclose(rank1.get_ydata(), [50, 75])
    np.testing.assert_allclose(mean_ap.get_ydata(), [25, 50])
    both = figures.training_curves(frame.assign(test_rank1=0.5, test_map=0.25), "t").axes[3]
    assert {(line.get_label(), line.get_linestyle()) for line in both.lines[2:]} == {
        ("rank-1, test", "--"),
        ("mAP, test", "--"),
    }


def test_training_curves_use_a_log_axis_only_if_it_helps():
    assert figures.training_curves(curves(), "t").axes[0].get_yscale() == "linear"
    assert figures.training_curves(curves(orthogonal_weights=1e-3), "t").axes[0].get_yscale() == "log"
    assert figures.training_curves(curves(triplet=0.0), "t").axes[0].get_yscale() == "linear", (
        "zero has no logarithm"
    )


def scores_of(*rows):
    """A table for `figures.scores`, from rows in the order of its columns."""
    keys = [f"{key}{end}" for key in ("rank1", "map") for end in ("", "_low", "_high", "_by_seed")]
    return pd.DataFrame(rows, columns=["method", "seeds", *keys, "reference"])


def labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


NAN = float("nan")
ONE = ("one", 1, 0.5, 0.4, 0.6, [0.5], 0.25, 0.2, 0.3, [0.25], False)
TWO = ("two", 1, 0.75, 0.7, 0.8, [0.75], 0.5, 0.45, 0.55, [0.5], False)
THREE = ("three", 3, 0.6, 0.5, 0.7, [0.5, 0.6, 0.7], 0.3, 0.2, 0.4, [0.2, 0.3, 0.4], False)
HISTOGRAM = ("histogram", 1, 0.1, NAN, NAN, NAN, 0.05, NAN, NAN, NAN, True)


def test_scores_draws_points_intervals_and_references():
    figure = drawn(figures.scores(scores_of(ONE, TWO, HISTOGRAM), "Scores"))
    left, right = figure.axes
    assert [axis.get_xlabel() for axis in (left, right)] == ["rank-1 (%)", "mAP (%)"]
    assert labels(figure) == ["one", "two", "histogram"]
    assert left.get_yticks().tolist() == [2, 1, 0], "the first method is on top"
    assert texts(left) == ["50.0", "75.0", "10.0"] and texts(right) == ["25.0", "50.0", "5.0"]
    intervals, points = left.lines[0::2], left.lines[1::2]
    np.testing.assert_allclose(intervals[0].get_xdata(), [40, 60])
    np.testing.assert_allclose([point.get_xdata()[0] for point in points], [50, 75, 10])
    colours = [to_hex(point.get_color()) for point in points]
    assert colours[0] == colours[1] != colours[2]
    assert figure.get_suptitle() == "Scores, 95 % intervals over people" and not figure.legends


@pytest.mark.parametrize(("highest", "end"), [(0.08, 10), (0.19, 25), (0.85, 100), (1.0, 100), (NAN, 5)])
def test_low_scores_have_a_scale_on_which_they_can_be_told_apart(highest, end):
    row = ("low", 1, highest, NAN, NAN, [highest], 0.01, NAN, 0.015, [0.01], False)
    left, right = figures.scores(scores_of(row), "Scores").axes
    assert left.get_xlim() == right.get_xlim() == (0, end), "from 0, and the same for both scores"


def test_scores_of_several_seeds_are_told_from_those_of_one():
    figure = drawn(figures.scores(scores_of(THREE, ONE, HISTOGRAM), "Scores"))
    left, right = figure.axes
    assert labels(figure) == ["three, 3 seeds", "one, 1 seed", "histogram"]
    assert texts(left) == ["60.0 ± 10.0", "50.0", "10.0"] and texts(right)[0] == "30.0 ± 10.0"
    bar, mean, each, interval, *_ = left.lines
    np.testing.assert_allclose(bar.get_xdata(), [50, 70])
    np.testing.assert_allclose(mean.get_xdata(), [60])
    np.testing.assert_allclose(each.get_xdata(), [50, 60, 70])
    assert set(each.get_ydata()) == {2 - 0.27} and each.get_markersize() < mean.get_markersize()
    np.testing.assert_allclose(interval.get_xdata(), [40, 60])
    assert (bar.get_marker(), interval.get_marker()) == ("|", "None"), "the two kinds of bars look different"
    assert figure.get_suptitle() == "Scores", "not every bar is an interval"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean ± standard deviation over seeds", "each seed", "95 % interval over people",
    ]  # fmt: skip


def test_scores_of_several_seeds_only_have_no_interval_in_the_legend():
    figure = drawn(figures.scores(scores_of(THREE), "Scores"))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean ± standard deviation over seeds", "each seed",
    ]  # fmt: skip


def test_scores_mark_what_did_not_learn():
    """A hollow grey point with words: it must not look like a score."""
    frame = scores_of(ONE, TWO).assign(learned=[True, False])
    left, right = drawn(figures.scores(frame, "Scores")).axes
    assert texts(left) == ["50.0", "did not learn (75.0)"]
    assert texts(right) == ["25.0", "did not learn (50.0)"]
    learned, other = left.lines[1::2]
    assert learned.get_markerfacecolor() == learned.get_color() != other.get_color() == figures.GREY
    assert other.get_markerfacecolor() == "white"


def untrained_and_effects():
    """Two switches of each paper. The first and the last were run; the last needs no training."""
    nan = float("nan")
    untrained = pd.DataFrame(
        {
            "name": ["sign", "head", "sa1"],
            "gradient_cosine": [0.5, -0.25, 1.0],
            "distance_change": [0.125, 0.0, 0.5],
        }
    )
    effects = pd.DataFrame(
        [
            ["ABD-Net", "4", "sign", "sign of `cam`", 2, -0.02, -0.03, -0.01, "differs"],
            ["ABD-Net", "5", "head", "the plain path, `before`", 0, nan, nan, nan, "not run"],
            ["PFSA", "2", "sa1", "SA₁", 0, nan, nan, nan, "not run"],
            ["PFSA", "5", "reranking", "scores published", 1, 0.01, -0.005, 0.025, "one seed: no verdict"],
        ],
        columns=[
            "paper",
            "number",
            "name",
            "what",
            "seeds",
            "map_difference",
            "map_difference_low",
            "map_difference_high",
            "verdict",
        ],
    ).assign(side="as-written", effect=["training"] * 3 + ["scoring"])
    return untrained.assign(side="as-written"), effects


def test_switch_panels_draw_what_was_run_and_name_what_was_not():
    figure = drawn(figures.switch_panels(*untrained_and_effects(), "Paper against code"))
    gradients, distances, scores = figure.axes
    assert [label.get_text() for label in gradients.get_yticklabels()] == [
        "sign of cam  ·  ABD-Net 4",
        "the plain path, before  ·  ABD-Net 5",
        "SA₁  ·  PFSA 2",
        "scores published  ·  PFSA 5",
    ]
    assert gradients.get_yticks().tolist() == [3, 2, 1, 0], "the first switch is on top"

    def points(axis):
        return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "o"]

    assert points(gradients) == [(0.5, 3), (-0.25, 2), (1.0, 1)]
    assert points(distances) == [(12.5, 3), (0.0, 2), (50.0, 1)]
    np.testing.assert_allclose(points(scores), [(-2, 3), (1, 0)])
    intervals = [line for line in scores.lines if line.get_linewidth() == 2.5]
    np.testing.assert_allclose([line.get_xdata() for line in intervals], [[-3, -1], [-0.5, 2.5]])
    certain, uncertain = (to_hex(line.get_color()) for line in intervals)
    assert int(certain[1:3], 16) > 2 * int(certain[3:5], 16), "red where they differ"
    assert uncertain[1:3] == uncertain[3:5] == uncertain[5:7]
    assert [line.get_linestyle() for line in intervals] == ["-", "--"], "an interval of one seed is dashed"
    assert scores.get_title() == (
        "95 % over seeds and people (red: differs)\ndashed: one seed, 95 % over people"
    )
    assert gradients.get_xlim()[0] < -0.25, "an opposite gradient has to be seen"

    def notes(axis):
        return [(note.get_text(), note.xy[1]) for note in axis.texts]

    assert notes(gradients) == notes(distances) == [("scoring only", 0)]
    assert notes(scores) == [("not run", 2), ("not run", 1)]
    for axis in figure.axes:
        dotted = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"]
        assert dotted == [1.5], "between the papers"
    assert figure.get_suptitle() == "Paper against code"
    assert "other side − released" in scores.get_xlabel()


def test_switch_panels_have_a_row_for_each_side():
    """Sides of one switch do not fall onto one row; what is not drawn says why."""
    untrained, effects = untrained_and_effects()
    effects.loc[2, ["name", "side", "verdict"]] = ["sign", "one-branch", "the same with these settings"]
    effects.loc[1, "effect"] = "schedule"
    untrained = untrained.iloc[[0, 2]].assign(name="sign", side=["as-written", "one-branch"])
    gradients, _, scores = drawn(figures.switch_panels(untrained, effects, "t")).axes
    assert [line.get_ydata()[0] for line in gradients.lines if line.get_marker() == "o"] == [3, 1]
    assert texts(gradients) == ["schedule only", "scoring only"]
    assert texts(scores) == ["not run", "the same with these settings"]


def test_switch_panels_where_nothing_was_run():
    untrained, effects = untrained_and_effects()
    effects[["seeds", "verdict"]] = 0, "not run"
    effects.loc[:, "map_difference":"map_difference_high"] = float("nan")
    *_, scores = drawn(figures.switch_panels(untrained, effects, "t")).axes
    assert texts(scores) == ["not run"] * 4
    assert scores.get_xticks().tolist() == [0] and scores.get_xlim() == (-1, 1), "no scale is made up"
    assert scores.get_title() == "both sides scored", "there is no interval to explain"


def test_switch_panels_write_their_notes_from_top_to_bottom():
    """The order must be fixed: that of a set changes from process to process, and with it the PDF's bytes."""
    untrained, effects = untrained_and_effects()
    figure = drawn(figures.switch_panels(untrained.iloc[:0], effects, "t"))
    for axis in figure.axes[:2]:
        assert [note.xy[1] for note in axis.texts] == [3, 2, 1, 0]


def test_heat_overlay_by_hand():
    """Half image and half colour map; the ends of "jet" are (0, 0, 0.5) and (0.5, 0, 0)."""
    image = np.full((1, 2, 3), 200, np.uint8)
    overlay = figures.heat_overlay(image, np.array([[0.0, 1.0]]))
    assert overlay.dtype == np.uint8 and overlay.shape == (1, 2, 3)
    assert overlay.tolist() == [[[100, 100, 164], [164, 100, 100]]]
    middle = figures.heat_overlay(image, np.array([[0.5, 0.5]]), strength=1.0)[0, 0]
    assert middle[1] == 255 and abs(int(middle[0]) - int(middle[2])) < 10, "jet's middle is green"
    np.testing.assert_array_equal(figures.heat_overlay(image, np.array([[0.3, 0.7]]), strength=0.0), image)
    assert figures.heat_overlay(image, np.array([[0.0, 1.0]]), colours="viridis").tolist() != overlay.tolist()
    np.testing.assert_array_equal(
        figures.heat_overlay(image, np.array([[-1.0, 9.0]])),
        figures.heat_overlay(image, np.array([[0.0, 1.0]])),
    )


def canvas(figure, columns, height, width):
    """The pictures of `heat_rows`: (people, columns, H, W, 3); how wide the white between blocks is."""
    pixels = figure.axes[0].images[0].get_array()
    line = max(width // 24, 1)
    filled = ~(pixels == 255).all(axis=(0, 2))
    starts = np.flatnonzero(filled & ~np.r_[False, filled[:-1]])
    assert len(starts) == columns
    rows = [
        [pixels[top : top + height, left : left + width] for left in starts]
        for top in range(0, len(pixels), height + line)
    ]
    return np.array(rows), np.diff(starts) - width


@pytest.mark.parametrize("people", [1, 6])
def test_heat_rows_has_each_map_in_jet_and_in_viridis(people):
    images, match = noise(people, 24, 12), noise(2 * people, 24, 12)[people:]
    ramp = np.linspace(0, 1, people * 24 * 12).reshape(people, 24, 12)
    heats = {"a-seed0": ramp, "b-seed0": 1 - ramp}
    labels = {"a-seed0": "attention", "b-seed0": "+ SA\n(sum)"}
    figure = drawn(figures.heat_rows({"query": images, "match": match}, heats, labels, "Maps"))
    pictures, gaps = canvas(figure, 6, 24, 12)
    assert len(pictures) == people
    for person in range(people):
        overlays = [
            figures.heat_overlay(images[person], heat[person], colours=colours)
            for colours in ("jet", "viridis")
            for heat in heats.values()
        ]
        expected = [images[person], match[person], *overlays]
        np.testing.assert_array_equal(pictures[person], expected)
    assert gaps.tolist() == [1, 3, 1, 3, 1], "blocks stand apart"
    shown = texts(figure.axes[0])
    assert shown[:6] == ["query", "match", *2 * ["attention", "+ SA\n(sum)"]]
    assert shown[6:] == [
        "jet, as in the papers",
        "viridis",
        "share of the strongest place of the same map",
        "Maps",
    ]
    assert not np.array_equal(pictures[0, 2], pictures[0, 4])


def test_heat_rows_keeps_texts_apart_and_inside():
    """Even with two narrow blocks, a long title and labels of three lines."""
    heats = {"a": np.zeros((2, 24, 12)), "b": np.ones((2, 24, 12))}
    labels = {"a": "GAP", "b": "+ SA₁\n(did not\nlearn)"}
    figure = drawn(
        figures.heat_rows(
            {"image": noise(2, 24, 12)}, heats, labels, "Class activation of each person's own class"
        )
    )
    ticks = [label for axis in figure.axes[1:] for label in axis.get_xticklabels()]
    boxes = [text.get_window_extent() for text in [*figure.axes[0].texts, *ticks]]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[number + 1 :]), number


def test_names_are_no_formulas():
    """Figures show names and titles as they are, whatever signs of a formula they hold."""
    name = r"a$\frac{1}{$_x^2 $\nosuch$ \$ 5$"
    pixels, sizes = noise(1, 8, 4), {"other_images": [10, 20], "rank1": 0.5, "map": 0.5, "distractors": False}
    heat = np.zeros((1, 8, 4))
    ranked = {"query": [0], "query_identity": 1, "query_camera": 1, "method": name, "rank": 1, "gallery": 0}
    ranked |= {"identity": 1, "camera": 2, "distance": 1.0, "right": True}
    for figure in (
        figures.image_grid([pixels], [name], title=name, column_labels=[name]),
        figures.training_curves(curves(), name),
        figures.heat_rows({name: pixels}, {"a": heat}, {"a": name}, name),
        ranking_figures.ranking_gallery(pixels, pixels, pd.DataFrame(ranked), name),
        figures.gallery_sizes({name: pd.DataFrame(sizes)}, name),
    ):
        drawn(figure)  # a formula that cannot be set is an error
        shown = [text for text in figure.findobj(Text) if "nosuch" in text.get_text()]
        assert shown and not any(is_math_text(text.get_text()) for text in shown)
        assert {text.get_text().replace(r"\$", "$").replace("\n", " ") for text in shown} == {name}


def test_gallery_sizes_has_a_line_a_method_and_hollow_points_for_distractors():
    def scores(first, distractors):
        rank1 = [first, first - 0.25, first - 0.5]
        return pd.DataFrame(
            {
                "other_images": [10, 20, 40],
                "rank1": rank1,
                "map": [share / 2 for share in rank1],
                "distractors": distractors,
            }
        )

    frames = {"one": scores(0.75, [False, False, True]), "two": scores(0.5, [False] * 3)}
    figure = drawn(figures.gallery_sizes({**frames, "three": scores(1.0, [True] * 3)}, "Sizes"))
    for axis, title, factor in zip(figure.axes, ("rank-1", "mAP"), (1, 0.5), strict=True):
        assert axis.get_title() == title
        assert axis.get_xlabel() == "other images in the gallery; hollow: with distractors"
        assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "20", "40"]
        assert axis.get_xscale() == "log" and axis.get_ylim() == (0, 100)
        lines = [line for line in axis.lines if line.get_linestyle() == "-"]
        assert [line.get_xdata().tolist() for line in lines] == [[10, 20, 40]] * 3
        expected = [[75, 50, 25], [50, 25, 0], [100, 75, 50]]
        np.testing.assert_allclose([line.get_ydata() for line in lines], factor * np.array(expected))
        points = [line for line in axis.lines if line.get_linestyle() == "None"]
        shown = [(line.get_xdata().tolist(), line.get_markerfacecolor() == "white") for line in points]
        assert shown == [([10, 20], False), ([40], True), ([10, 20, 40], False), ([10, 20, 40], True)]
        colours = [to_hex(line.get_color()) for line in lines]
        assert len(set(colours)) == 3
        assert [to_hex(line.get_color()) for line in points] == [colours[0], colours[0], *colours[1:]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "three"]
    assert figure.get_suptitle() == "Sizes"
    assert "one from 75.0 to 25.0 %, two from 50.0 to 0.0 %" in description_of(figure)
    assert figure.get_figwidth() < 4, "as narrow as a phone"


def test_gallery_sizes_names_no_distractors_where_there_are_none_and_no_label_hides_another():
    frame = pd.DataFrame({"other_images": [10, 20, 28], "rank1": 0.5, "map": 0.25, "distractors": False})
    for axis in drawn(figures.gallery_sizes({"one": frame}, "Sizes")).axes:
        assert axis.get_xlabel() == "other images in the gallery"
        assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "28"]


# -------------------------------------------------------------------------------------------------- selection


def split(ids, cameras=None):
    cameras = np.ones(len(ids), np.int64) if cameras is None else np.array(cameras)
    return Split(tuple(Path(f"{row:03d}.png") for row in range(len(ids))), np.array(ids), cameras)


def test_spread_identities_by_hand():
    ids = np.array([9, 3, 3, 5, 1, 7, -1, 0])
    assert selection.spread_identities(ids, 3).tolist() == [1, 5, 9]
    assert selection.spread_identities(ids, 2).tolist() == [1, 9]
    assert selection.spread_identities(ids, 1).tolist() == [1]
    assert selection.spread_identities(ids, 99).tolist() == [1, 3, 5, 7, 9]
    assert selection.spread_identities(np.array([0, -1]), 3).tolist() == []


def test_one_image_per_person_takes_the_middle_one():
    rows = selection.one_image_each(split([1, 1, 1, 2, 2, 0, 3]), 3)
    assert rows.tolist() == [1, 4, 6]
    nobody = selection.one_image_each(split([0, 0]), 3)
    assert noise(2, 4, 4)[nobody].shape == (0, 4, 4, 3), "rows can be used as an index"


def test_rows_by_camera_takes_the_first_image_of_each_person():
    found = selection.rows_by_camera(split([1, 1, 2, 2, 3, 0], [1, 1, 2, 1, 1, 3]), 2)
    assert list(found) == [1, 2, 3]
    assert found[1].tolist() == [0, 4]  # the first and the last of the people 1, 2 and 3
    assert found[2].tolist() == [2]
    assert noise(6, 4, 4)[found[3]].shape == (0, 4, 4, 3), "distractors are nobody"


def test_telling_queries_show_where_models_differ():
    nan = np.nan
    ranks = np.array(
        [
            # 0  1  2  3    4  5  6
            [1, 1, 2, nan, 1, 1, 1],
            [1, 3, 1, nan, 2, 1, 2],
            [1, 4, 1, nan, 1, 5, 9],
        ]
    )
    dataset = SimpleNamespace(query=split([10, 11, 12, 13, 14, 15, 11]))
    # Both other models are wrong: 1 and 6 (the same person). One is wrong: 4, 5. None: 0. The best model is
    # wrong: 2. No match: 3.
    assert selection.telling_queries(ranks, dataset, 3).tolist() == [1, 4, 5]
    assert selection.telling_queries(ranks, dataset, 99).tolist() == [1, 4, 5, 0, 2]
    assert selection.telling_queries(np.full((3, 7), -1), dataset, 3).tolist() == []
    assert selection.telling_queries(np.full((3, 7), -1), dataset, 3).dtype == int


def claims_of(*rows):
    """A table as `findings.findings` makes it; a row: name, data set, effect, low, high, verdict, …"""
    defaults = {
        "question": "Does it help?", "measure": "mAP", "unit": "points", "scale": 100, "seeds": 3, "sign": 1,
        "margin": 0.01, "published": np.nan,
    }  # fmt: skip
    columns = ("name", "data_set", "difference", "low", "high", "verdict")
    given = [{**defaults, **dict(zip(columns, row, strict=False)), **row[6]} for row in rows]
    return pd.DataFrame(given).assign(claim=lambda frame: "Claim " + frame["name"])


def test_the_forest_draws_each_claim_on_each_data_set():
    nan = float("nan")
    frame = claims_of(
        ("one", "a", 0.03, 0.01, 0.05, "as claimed here", {"published": 0.074}),
        ("less", "a", -0.02, -0.03, -0.01, "as claimed here", {"sign": -1}),
        ("none", "a", nan, nan, nan, "not run", {"seeds": 0}),
        ("one", "b", -0.02, nan, nan, "one seed: no verdict", {"seeds": 1}),
        ("far", "b", 0.01, -0.5, 0.5, "cannot tell", {}),
        ("other", "b", 0.2, 0.1, 0.3, "opposite here", {"unit": "correlation", "scale": 1}),
    )
    figure = drawn(figures.claims_forest(frame, "Claims"))
    points, correlation = figure.axes
    assert (points.get_xlabel(), correlation.get_xlabel()) == ("mAP (points)", "mAP (correlation)")
    markers = {"o": [], "s": [], "d": [], "<": [], ">": []}
    for line in points.lines:
        if line.get_marker() in markers:
            markers[line.get_marker()] += [(x, y) for x, y in zip(*line.get_data(), strict=True)]
    # Lanes from top to bottom: text, published, data sets in the order of the table, half an empty one.
    assert markers["o"] == [(pytest.approx(3), 2.5), (pytest.approx(-2), 7.0)]
    assert markers["s"] == [(pytest.approx(-2), 3.5), (pytest.approx(1), 10.5)]
    assert markers["d"] == [(pytest.approx(7.4), 1.5)]
    left, right = points.get_xlim()
    assert -50 < left < -2 and 7.4 < right < 50, "one wide interval does not shrink all others"
    assert markers["<"] == [(left, 10.5)] and markers[">"] == [(right, 10.5)], "it ends in arrowheads"
    bands = [band.get_paths()[0].get_extents() for band in points.collections if band.get_paths()]
    assert sum(np.allclose((band.x0, band.x1), (-1, 1)) for band in bands) == 3
    written = texts(points)
    assert [text for text in written if text.startswith("Claim")] == ["Claim one", "Claim less", "Claim far"]
    assert [text for text in written if text in ("✓", "✗", "≈", "?")] == ["✓", "✓", "?"]
    arrows = [text for text in points.texts if getattr(text, "arrow_patch", None)]
    assert [np.sign(arrow.xyann[0] - arrow.xy[0]) for arrow in arrows] == [-1, 1, -1], "from 0 to the claim"
    assert [text.get_text() for text in figure.legends[0].get_texts()[:2]] == ["a", "b"]
    assert figure.get_figwidth() < 4


def test_the_forest_without_runs_says_so():
    frame = claims_of(("one", "a", *[float("nan")] * 3, "not run", {"seeds": 0}))
    (axis,) = drawn(figures.claims_forest(frame, "Claims")).axes
    assert texts(axis) == ["no claim has runs to compare"]


def test_even_rows_by_hand():
    assert selection.even_rows(9, 3).tolist() == [0, 4, 8]
    assert selection.even_rows(3, 99).tolist() == [0, 1, 2]
    assert selection.even_rows(5, 1).tolist() == [0]


def test_one_image_per_person_can_be_chosen_among_some():
    """A person without any of them is left out, and so are images that come into no question."""
    rows = selection.one_image_each(split([1, 1, 1, 2, 2, 3]), 9, np.array([1, 0, 0, 0, 0, 1], bool))
    assert rows.tolist() == [0, 5]


def test_the_match_is_the_right_image_that_the_models_together_rank_first():
    """Positions on a line. The query's own camera and other people do not count."""
    query = SimpleNamespace(ids=np.array([7, 8]), cameras=np.array([1, 1]))
    gallery = SimpleNamespace(ids=np.array([7, 7, 7, 8, 9]), cameras=np.array([1, 2, 3, 2, 2]))
    data = SimpleNamespace(query=query, gallery=gallery)
    near_second = {"query": np.zeros((2, 1)), "gallery": np.array([[0.0], [1], [2], [3], [4]])}
    near_third = {"query": np.zeros((2, 1)), "gallery": np.array([[0.0], [9], [1], [2], [3]])}
    rows = np.array([1, 0])
    assert selection.best_right_matches([near_second], data, rows).tolist() == [3, 1]
    assert selection.best_right_matches([near_third], data, rows).tolist() == [3, 2]
    # the second's places are 1 and 4, the third's 2 and 1
    assert selection.best_right_matches([near_second, near_third], data, rows).tolist() == [3, 2]
    longer = {"query": np.full((2, 1), 2.0), "gallery": np.array([[0.0], [1], [2.5], [9], [9]])}
    assert selection.best_right_matches([longer], data, rows)[1] == 2, "by distance, not by inner product"
    farther = {"query": np.full((2, 1), 2.0), "gallery": np.array([[0.0], [2], [3], [9], [9]])}
    assert selection.best_right_matches([farther], data, rows)[1] == 1
