"""Ranking lists and worst queries, by hand: what is chosen, what stands in the tables, what is drawn."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from reidlib.config import METHODS
from reidlib.datasets import Split
from reidlib.show import ranking_figures, selection
from reidlib.show.drawing import description_of
from reidlib.show.figures import QUERY, RIGHT, WRONG
from reidlib.show.rankings import ranking_frame, worst_frame

NAN = np.nan


def split(*images):
    """A split and its one-dimensional embeddings, from (identity, camera, number) of each image."""
    ids, cameras, values = (np.array(column) for column in zip(*images, strict=True))
    paths = tuple(Path(f"{row}.jpg") for row in range(len(images)))
    return Split(paths, ids, cameras), values[:, None].astype(np.float32)


def run_of(method, query, gallery, precisions=(), seed=0):
    queries = pd.DataFrame({"average_precision": precisions})
    return SimpleNamespace(
        method=method, seed=seed, embeddings={"query": query, "gallery": gallery}, queries=queries
    )


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


# -------------------------------------------------------------------------------------------------- selection


RANKS = np.array([[1, 1, 2, NAN, 1, 9], [3, 1, 1, NAN, 1, 9], [2, 1, 1, NAN, 4, 9]])
PRECISIONS = np.array([[0.5, 0.9, 0.4, NAN, 0.9, 0.1], [0.1, 0.9, 0.5, NAN, 0.8, 0.1]])
DATASET = SimpleNamespace(query=split(*[(person, 1, 0) for person in (7, 8, 8, 9, 5, 6)])[0])


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        ("differing", [0, 4, 1, 5]),  # as `telling_queries`
        ("best", [1, 4, 0, 5]),  # 2 is of the same person as 1, 3 has no match
        ("worst", [5, 0, 2, 4]),  # 1 is of the same person as 2
    ],
)
def test_queries_are_chosen_as_said(chosen, rows):
    found = selection.chosen_queries(chosen, RANKS, PRECISIONS, DATASET, 9)
    assert found.tolist() == rows and found.dtype == int
    assert selection.chosen_queries(chosen, RANKS, PRECISIONS, DATASET, 2).tolist() == rows[:2]


def test_random_queries_are_those_of_the_seed_and_any_query_may_come_first():
    drawn = [
        selection.chosen_queries("random", RANKS, PRECISIONS, DATASET, 9, seed=seed).tolist()
        for seed in range(40)
    ]
    again = selection.chosen_queries("random", RANKS, PRECISIONS, DATASET, 9, seed=3)
    assert again.tolist() == drawn[3]
    assert {rows[0] for rows in drawn} == {0, 1, 2, 4, 5}, "never the one without a match"
    assert all(len({*DATASET.query.ids[rows]}) == len(rows) == 4 for rows in drawn)


def test_every_way_to_choose_has_a_sentence():
    for chosen, sentence in selection.CHOSEN.items():
        assert len(selection.chosen_queries(chosen, RANKS, PRECISIONS, DATASET, 1)) == 1
        assert sentence.endswith(".")


def test_the_worst_queries_may_be_of_one_person():
    precisions = np.array([0.3, NAN, 0.1, 0.2, 0.1])
    assert selection.worst_queries(precisions, 3).tolist() == [2, 4, 3]
    assert selection.worst_queries(precisions, 99).tolist() == [2, 4, 3, 0]
    assert selection.worst_queries(np.array([NAN]), 3).tolist() == []


# ----------------------------------------------------------------------------------------------------- tables


def a_case():
    query, asked = split((1, 1, 0.0), (2, 2, 10.0))
    gallery, shown = split((2, 1, 1.0), (1, 2, 2.0), (1, 1, 0.1), (0, 3, 4.0), (2, 3, 8.0), (-1, 1, 0.0))
    return SimpleNamespace(query=query, gallery=gallery), asked, shown


def test_a_ranking_has_identity_camera_and_squared_distance_of_each_image():
    dataset, asked, shown = a_case()
    runs = [run_of("abdnet", asked, shown), run_of("baseline", asked, -2 * shown)]
    frame = ranking_frame(runs, dataset, np.array([1, 0]), 3)
    assert frame["query"].tolist() == [1] * 6 + [0] * 6, "the queries in the order given, whole"
    assert frame["method"].unique().tolist() == [METHODS[name].title for name in ("abdnet", "baseline")]
    own = frame[(frame["query"] == 0) & (frame["method"] == METHODS["abdnet"].title)]
    # Not the image of the query's own camera (2), and not junk (5).
    assert own["gallery"].tolist() == [0, 1, 3] and own["rank"].tolist() == [1, 2, 3]
    assert own["distance"].tolist() == [1, 4, 16] and own["right"].tolist() == [False, True, False]
    assert own[["identity", "camera"]].values.tolist() == [[2, 1], [1, 2], [0, 3]]
    assert own[["query_identity", "query_camera"]].values.tolist() == [[1, 1]] * 3
    other = frame[(frame["query"] == 1) & (frame["method"] == METHODS["baseline"].title)]
    assert other["gallery"].tolist() == [2, 0, 1] and other["distance"].tolist() == pytest.approx(
        [104.04, 144, 196]
    )


def test_a_gallery_with_fewer_images_has_fewer_rows():
    dataset, asked, shown = a_case()
    frame = ranking_frame([run_of("gap", asked, shown)], dataset, np.array([0, 1]), 50)
    assert frame.groupby("query")["gallery"].apply(list).to_dict() == {0: [0, 1, 3, 4], 1: [4, 3, 1, 0, 2]}


def test_the_worst_queries_stand_beside_the_first_wrong_and_the_best_right_image():
    dataset, asked, shown = a_case()
    frame = worst_frame(run_of("gap", asked, shown, [0.5, 0.75]), dataset, 20)
    assert frame["query"].tolist() == [0, 1] and frame["average_precision"].tolist() == [0.5, 0.75]
    first, second = (row for _, row in frame.iterrows())
    assert (first["wrong"], first["wrong_identity"], first["wrong_camera"], first["wrong_rank"]) == (
        0,
        2,
        1,
        1,
    )
    assert (first["right"], first["right_rank"], first["right_distance"]) == (1, 2, 4)
    # The nearest is right: the first wrong one has rank 2.
    assert (second["right"], second["right_rank"]) == (4, 1)
    assert (second["wrong"], second["wrong_rank"], second["wrong_distance"]) == (3, 2, 36)


def test_a_gallery_of_one_person_has_no_wrong_image():
    (query, asked), (gallery, shown) = split((1, 1, 0.0)), split((1, 2, 1.0))
    dataset = SimpleNamespace(query=query, gallery=gallery)
    frame = worst_frame(run_of("gap", asked, shown, [1.0]), dataset, 3)
    assert frame["wrong"].tolist() == [-1] and frame["right"].tolist() == [0]
    assert frame.filter(like="wrong_").isna().all(axis=None)
    figure = ranking_figures.worst_queries(noise(1, 8, 4), noise(1, 8, 4), frame, "Worst")
    assert len(pictures_of(figure)) == 2


# ---------------------------------------------------------------------------------------------------- figures


def pictures_of(figure):
    """The pictures from top left to bottom right: place, pixels, colour of the frame, mark, lines below."""
    (axis,) = figure.axes
    frames = {
        (round(patch.get_x(), 6), round(patch.get_y(), 6)): patch
        for patch in axis.patches
        if isinstance(patch, Rectangle)
    }
    found = []
    for image in axis.images:
        left, right, bottom, top = image.get_extent()
        frame = frames[round(left, 6), round(top, 6)]
        assert (frame.get_width(), frame.get_height()) == pytest.approx((right - left, bottom - top))
        inside = [
            text.get_text() for text in axis.texts
            if left <= text.get_position()[0] <= right and top <= text.get_position()[1] <= bottom
        ]  # fmt: skip
        below = [
            text.get_text() for text in axis.texts
            if left < text.get_position()[0] < right and bottom < text.get_position()[1] < bottom + 0.1
        ]  # fmt: skip
        place = (round(top, 3), round(left, 3))
        found.append((place, image.get_array(), to_hex(frame.get_edgecolor()), inside, below))
    return sorted(found, key=lambda picture: picture[0])


def drawn(figure):
    figure.canvas.draw()
    return figure


def test_the_gallery_frames_right_green_and_wrong_red_with_who_and_how_far_below():
    dataset, asked, shown = a_case()
    runs = [run_of("abdnet", asked, shown), run_of("baseline", asked, -2 * shown)]
    frame = ranking_frame(runs, dataset, np.array([1, 0]), 3)
    queries, gallery = noise(2, 8, 4), noise(6, 8, 4)
    figure = drawn(ranking_figures.ranking_gallery(queries, gallery, frame, "First 3"))
    pictures = pictures_of(figure)
    expected = []
    for query, own in frame.groupby("query", sort=False):
        who = f"{own['query_identity'].iloc[0]} c{own['query_camera'].iloc[0]}"
        for number, (_, rows) in enumerate(own.groupby("method", sort=False)):
            expected += [(queries[query], QUERY, [], [who])] if number == 0 else []
            for _, row in rows.iterrows():
                mark, colour = ("✓", RIGHT) if row["right"] else ("✗", WRONG)
                who_else = f"{row['identity']} c{row['camera']}"
                distance = {1: "1.00", 4: "4.00", 16: "16.0"}.get(row["distance"])
                expected.append((gallery[row["gallery"]], colour, [mark], (who_else, distance)))
    assert len(pictures) == len(expected) == 2 + 12
    for (_, pixels, colour, inside, below), (known, *rest) in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(pixels, known)
        assert [colour, inside] == rest[:2]
        lines = below[0].split("\n")
        assert lines[0] == rest[2][0] and (len(lines) == 1 or rest[2][1] in (None, lines[1]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.startswith("Query")] == [
        "Query: identity 2, camera 2", "Query: identity 1, camera 1",
    ]  # fmt: skip
    assert "ABD-Net: 2 of 6" in description_of(figure) and "2 queries" in description_of(figure)


@pytest.mark.parametrize(("top", "height", "width"), [(5, 128, 64), (10, 64, 64), (7, 128, 48)])
def test_figures_are_as_narrow_as_a_phone_and_nothing_touches(top, height, width):
    rng = np.random.default_rng(0)
    query, asked = split(*[(1500 + person, 1, person) for person in range(4)])
    images = [(1500 + rng.integers(4), 2 + rng.integers(14), rng.normal() * 30) for _ in range(60)]
    gallery, shown = split(*images)
    dataset = SimpleNamespace(query=query, gallery=gallery)
    runs = [run_of(name, asked, shown, [0.1, 0.2, 0.3, 1.0]) for name in ("abdnet", "baseline+pam+cam")]
    pixels = np.zeros((4, height, width, 3), np.uint8), np.zeros((60, height, width, 3), np.uint8)
    frame = ranking_frame(runs, dataset, np.arange(4), top)
    gallery_figure = ranking_figures.ranking_gallery(*pixels, frame, f"First {top}")
    for figure in (
        gallery_figure,
        ranking_figures.worst_queries(*pixels, worst_frame(runs[0], dataset, 4), "Worst"),
    ):
        drawn(figure)
        assert figure.get_figwidth() < 4
        renderer = figure.canvas.get_renderer()
        page, shown_texts = figure.bbox, [text for text in figure.axes[0].texts if text.get_text()]
        assert all(text.get_fontsize() >= 8 for text in shown_texts)
        boxes = [text.get_window_extent(renderer) for text in shown_texts if text.get_text() not in "✓✗"]
        boxes += [image.get_window_extent(renderer) for image in figure.axes[0].images]
        for number, box in enumerate(boxes):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            for other in boxes[:number]:
                apart = (
                    min(box.x1, other.x1) - max(box.x0, other.x0),
                    min(box.y1, other.y1) - max(box.y0, other.y0),
                )
                assert min(apart) < 1.5, (box, other)  # pixels


def test_a_figure_taller_than_a_picture_is_refused_with_what_to_lower():
    row = {"method": "a", "gallery": 0, "distance": 1.0, "right": True, "identity": 1, "camera": 2}
    row |= {"query_identity": 1, "query_camera": 1}
    frame = pd.DataFrame([row | {"query": query, "rank": 50} for query in range(30)])
    with pytest.raises(
        ranking_figures.FigureError, match="30 queries with 50 gallery images.*lower queries or top"
    ):
        ranking_figures.ranking_gallery(noise(30, 8, 4), noise(1, 8, 4), frame, "Many")
