"""The figures of failures: what is drawn, and that it fits a phone. Embeddings in a plane."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import AnnotationBbox

from reidlib.show import failure_figures as figures
from reidlib.show import failures, planes
from reidlib.show.drawing import description_of

NAN = np.nan


def drawn(figure):
    figure.canvas.draw()
    assert figure.get_figwidth() < 4 and description_of(figure)
    for text in figure.findobj(plt.Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 8, text
    return figure


def cmc(*methods):
    """A row: name, family, learned, rank-1."""
    return pd.DataFrame(
        [
            {"method": name, "family": family, "learned": learned, "seeds": 1, "rank": rank}
            | {"share": share, "low": share - 0.1, "high": share + 0.1}
            for name, family, learned, first in methods
            for rank, share in enumerate(np.linspace(first, 0.9, 20), 1)
        ]
    )


def test_cmc_has_a_panel_for_each_paper_and_a_band_for_each_row():
    rows = [("one", "abdnet", True, 0.5), ("two", "abdnet", True, 0.4), ("three", "pfsa", False, 0.2)]
    figure = drawn(figures.cmc_curves(cmc(*rows), "CMC"))
    first, second = figure.axes
    assert [axis.get_title("left") for axis in figure.axes] == ["ABD-Net's rows", "Rows of spatial attention"]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["one", "two"]
    np.testing.assert_allclose(first.lines[1].get_ydata()[[0, -1]], [40, 90])
    assert len(first.collections) == 2 and len(second.collections) == 1
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in first.lines}
    assert len(looks) == 2 and second.lines[0].get_color() == figures.GREY, "grey: it did not learn"
    assert "highest for one (50.0 %) and lowest for three (20.0 %)" in description_of(figure)


def groups(*rows, **more):
    frame = pd.DataFrame(rows, columns=["attribute", "level", "map", "low", "high", "queries", "people"])
    return frame.assign(seeds=1, **more)


def test_attributes_are_small_multiples_with_intervals_and_counts():
    frame = groups(
        ("side seen", "front", 0.5, 0.4, 0.6, 1234, 90),
        ("side seen", "back", 0.25, 0.2, 0.3, 40, 19),
        ("occluder", "none", 0.5, NAN, NAN, 2, 1),
    )
    figure = drawn(figures.attribute_panels(frame, 0.45, "By attribute"))
    side, occluder = figure.axes
    assert (side.get_title("left"), occluder.get_title("left")) == ("side seen", "occluder")
    assert [label.get_text() for label in side.get_yticklabels()] == ["front", "back"]
    points = [line for line in side.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [50, 25]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, True], "hollow: few people"
    bars = [
        line.get_xdata() for line in side.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2
    ]
    np.testing.assert_allclose(bars, [[40, 60], [20, 30]])
    assert [text.get_text() for text in side.texts] == ["1,234", "40"]
    low, high = side.get_xlim()
    assert low < 20 and high > 60 and side.get_xlim() == occluder.get_xlim()
    assert side.get_ylim()[0] > side.get_ylim()[1], "the first level stands on top"
    assert "lowest for side seen: back, 25.0 %, where all queries have 45.0 %" in description_of(figure)
    assert "over people" in figure.get_supxlabel() and "fewer than 20 people" in figure.get_supxlabel()


@pytest.mark.parametrize("cameras", [2, 3, 6])
def test_cameras_have_a_panel_each(cameras):
    pairs = [(one, two) for one in range(1, cameras + 1) for two in range(1, cameras + 1) if one != two]
    frame = pd.DataFrame(pairs, columns=["query_camera", "gallery_camera"])
    frame = frame.assign(map=np.linspace(0.2, 0.8, len(pairs)), queries=30, people=25, seeds=3)
    frame = frame.assign(low=frame["map"] - 0.1, high=frame["map"] + 0.1)
    figure = drawn(figures.camera_panels(frame, 0.5, "By camera"))
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title("left") for axis in shown] == [
        f"from camera {one} to" for one in range(1, cameras + 1)
    ]
    for one, axis in enumerate(shown, 1):
        expected = [str(two) for two in range(1, cameras + 1) if two != one]
        assert [label.get_text() for label in axis.get_yticklabels()] == expected
    assert "over seeds and people" in figure.get_supxlabel() and "hollow" not in figure.get_supxlabel()
    assert f"mAP of {len(pairs)} ordered pairs" in description_of(
        figure
    ) and "camera 1 to 2" in description_of(figure)


# ----------------------------------------------------------------------------------------------------- planes


def people(count=8, images=5, spread=1.0):
    """Embeddings (N, 20) of people who lie apart, and their identities."""
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(count), images)
    return 10 * rng.normal(size=(count, 20))[identity] + spread * rng.normal(
        size=(len(identity), 20)
    ), identity


def test_planes_are_the_principal_components_and_neighbourhoods_that_are_kept():
    embeddings, identity = people()
    places, variance = planes.planes(embeddings)
    centred = embeddings - embeddings.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(places["PCA"]), np.abs((left * lengths)[:, :2]), atol=1e-8)
    assert variance == pytest.approx((lengths[:2] ** 2).sum() / (lengths**2).sum())
    assert planes.neighbours_right(places["t-SNE"], identity) == 1, "people who lie apart stay apart"
    again, _ = planes.planes(embeddings)
    np.testing.assert_array_equal(places["t-SNE"], again["t-SNE"])


@pytest.mark.parametrize("images", [3, 4, 7])
def test_a_few_images_are_enough(images):
    places, _ = planes.planes(np.random.default_rng(0).normal(size=(images, 6)).astype(np.float32))
    assert {name: points.shape for name, points in places.items()} == dict.fromkeys(
        ("PCA", "t-SNE"), (images, 2)
    )


def test_neighbours_by_hand():
    places, identity = np.array([[0.0], [1.0], [1.9], [10.0], [10.5]]), np.array([1, 1, 2, 3, 3])
    assert planes.neighbours_right(places, identity) == 3 / 5, "the second's and the third's are each other"


def test_images_of_people_are_all_of_theirs():
    class Dataset:
        class query:
            ids = np.array([5, 1, 3, 5, 7])

        class gallery:
            ids = np.array([0, 1, 5, -1, 7, 3, 1])

    found = planes.images_of_people(Dataset, 2)
    assert found["query"].tolist() == [1, 4] and found["gallery"].tolist() == [1, 4, 6]
    assert found["identity"].tolist() == [1, 7, 1, 7, 1]


def test_planes_have_a_look_for_each_person_and_pictures_that_do_not_touch():
    embeddings, identity = people(count=12)
    places, variance = planes.planes(embeddings)
    pictures = np.random.default_rng(0).integers(0, 256, (len(identity), 16, 8, 3), dtype=np.uint8)
    titles = planes.plane_titles({"embedding": 1.0, "PCA": 0.5, "t-SNE": 0.75}, variance)
    figure = drawn(figures.embedding_planes(places, identity, pictures, titles, "Planes"))
    assert "same person: 50 %" in titles["PCA"] and "t-SNE" in titles["t-SNE"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        str(person) for person in range(12)
    ]
    for axis in figure.axes:
        assert len({(line.get_color(), line.get_marker()) for line in axis.lines}) == 12
        pictures = [one.offsetbox for one in axis.get_children() if isinstance(one, AnnotationBbox)]
        boxes = [picture.get_window_extent() for picture in pictures]
        assert len(boxes) >= 4
        for number, box in enumerate(boxes):
            assert (axis.bbox.min <= box.min).all() and (box.max <= axis.bbox.max).all(), "nothing is cut off"
            assert not any(box.overlaps(other) for other in boxes[:number])
    assert description_of(figure).startswith("60 images of 12 people as points.")
    sentence = planes.plane_sentence({"embedding": 1.0, "PCA": 0.5, "t-SNE": 0.75}, identity)
    assert "in the embedding for 100 %, in PCA for 50 %, in t-SNE for 75 %" in sentence


def test_a_single_person_has_a_plane_too():
    places = {"PCA": np.zeros((3, 2)), "t-SNE": np.ones((3, 2))}
    titles = dict.fromkeys(places, "plane")
    drawn(figures.embedding_planes(places, np.ones(3, int), np.zeros((3, 8, 4, 3), np.uint8), titles, "One"))


def test_the_limit_of_people_is_that_of_the_sentences():
    assert figures.FEWEST_PEOPLE is failures.FEWEST_PEOPLE
