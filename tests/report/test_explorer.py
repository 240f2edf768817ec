"""The explorer's page: where pictures lie in the sheets, and what stands there without a script."""

import re

import numpy as np
import pytest
from test_report import page, write_executed

from reidlib.report import build_report, outside_references
from reidlib.report.explorer import attention_style, explorer_page, position, query_rows
from reidlib.show.explorer import BORDER, Explorer, as_png, as_webp, jet, sheet
from reidlib.study.results import Study

DATA = {
    "models": ["A", "B"],
    "thumbnail": [48, 96],
    "columns": 40,
    "attention": [6, 10, BORDER],
    "gallery": [[7, 1], [8, 2], [7, 2]],
    "queries": [
        {
            "name": "<i>.jpg",
            "identity": 7,
            "camera": 3,
            "rank": [1, 2],
            "precision": [1.0, 0.5],
            "top": [[0, 1, -1], [1, 2, 0]],
            "distance": [[0.25, 12.34, 0.0], [1, 2, 3]],
        }
    ],
}


@pytest.fixture
def study(tmp_path):
    study = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    picture = np.zeros((96, 48, 3), np.uint8)
    study.save_explorer(
        Explorer(DATA, {"query": as_webp(picture), "gallery": as_webp(picture), "attention": as_png(picture)})
    )
    write_executed(study.notebooks / "01_data.ipynb")
    return study


def test_rows_of_a_query():
    (first, second) = query_rows(DATA, 0)["rows"]
    assert [image["label"] for image in first["images"]] == [
        "right: identity 7, camera 1",
        "wrong: identity 8, camera 2",
    ], "the gallery may have fewer images than ranks"
    assert [image["distance_text"] for image in first["images"]] == ["0.25", "12"]
    assert [image["right"] for image in second["images"]] == [False, True, True]


def test_places_in_the_sheets():
    """The n-th cell of a sheet is where `sheet` puts the n-th picture."""
    pictures = np.arange(90, dtype=np.uint8)[:, None, None, None] * np.ones((1, 96, 48, 3), np.uint8)
    whole = sheet(pictures)
    for place in (0, 39, 40, 89):
        left, top = (-int(number) for number in re.findall(r"-?\d+", position(DATA, place, "thumbnail")))
        assert (whole[top : top + 96, left : left + 48] == place).all()
    assert (whole[2 * 96 :, 10 * 48 :] == 0).all(), "the rest of the last row is black"


def test_an_attention_map_fills_a_thumbnail_without_its_border():
    """Enlarged as the style says, the thumbnail begins after the border of its map."""
    heats = np.linspace(0, 1, 41 * 8 * 4, dtype=np.float32).reshape(41, 8, 4)
    whole = sheet(jet(heats))
    style = attention_style(DATA, 40)
    size, left, top = (float(number) for number in re.findall(r"-?[\d.]+", style.replace("px", "")))
    scale = size / whole.shape[1]
    assert scale == 12, "48 pixels for 4 places"
    row, column = round(-top / 12), round(-left / 12)
    np.testing.assert_array_equal(whole[row : row + 8, column : column + 4], jet(heats)[40, 1:-1, 1:-1])
    np.testing.assert_array_equal(whole[row - 1, column], whole[row, column], "the border repeats the edge")


def test_the_page_shows_its_first_queries_without_a_script(study):
    index = build_report(study, title="T", facts={})
    explorer = page(index.parent, "explorer.html")
    assert explorer.select_one("#explorer .files").get_text() == "<i>.jpg"
    assert [tag["aria-label"] for tag in explorer.select("#explorer .right .thumb")] == [
        "right: identity 7, camera 1",
        "right: identity 7, camera 2",
        "right: identity 7, camera 1",
    ]
    assert "<i>" not in explorer.find(id="explorer-data").string
    assert page(index.parent, "index.html").find("a", href="explorer.html")
    assert outside_references(index.parent) == []


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"thumbnail": 3}'])
def test_a_damaged_explorer_is_left_out(study, damage):
    (study.explorer / "explorer.json").write_text(damage)
    assert explorer_page(study) is None
    index = build_report(study, title="T", facts={})
    assert not (index.parent / "explorer.html").exists()
    assert not page(index.parent, "index.html").find("a", href="explorer.html")
