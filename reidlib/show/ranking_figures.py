"""Draws queries with gallery images: as narrow as a phone, and with text of at least 8 points below each."""

from reidlib.show.drawing import described, literally  # first: it decides how matplotlib starts

# isort: split

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reidlib.errors import ReidError
from reidlib.show.figures import QUERY, RIGHT, WRONG

# Inches.
WIDTH = 3.9
PITCH, PICTURE = 0.65, 0.55  # from one picture to the next, and a picture's width
LINE = 0.135  # of text of 8 points
PER_ROW = 5  # gallery images in one row
TALLEST = 300  # inches: matplotlib draws fewer than 2¹⁶ pixels, of which an inch has 200 in a file


class FigureError(ReidError):
    """What is asked for is too large for a figure."""


def ranking_gallery(queries: np.ndarray, gallery: np.ndarray, frame: pd.DataFrame, title: str) -> Figure:
    """Queries below each other, each with its first gallery images by several models.

    The query's person has a green frame with ✓, anybody else a red one with ✗. More than five images of a
    model take several rows.

    Args:
        queries, gallery: (Q, H, W, 3), (G, H, W, 3) bytes.
        frame: `rankings.ranking_frame`.

    Raises:
        FigureError: the figure would be taller than a picture can be.
    """
    text = (
        "From left to right by rank. Green, ✓: the query's person. Red, ✗: someone else. Below each picture: "
        "identity and camera (c); the squared distance to the query. Identity 0 is a distractor."
    )
    tall = PICTURE * queries.shape[1] / queries.shape[2]  # height of a picture
    row = tall + 2 * LINE + 0.08
    parts = [
        (query, list(part.groupby("method", sort=False)))
        for query, part in frame.groupby("query", sort=False)
    ]
    rows = [[-(-int(own["rank"].max()) // PER_ROW) for _, own in models] for _, models in parts]
    heights = [0.35 + sum(0.2 + row * count for count in counts) for counts in rows]
    if sum(heights) > TALLEST:
        raise FigureError(
            f"{len(parts)} queries with {frame['rank'].max()} gallery images each make a figure of "
            f"{sum(heights):.0f} inches, and a picture holds {TALLEST}: lower queries or top."
        )
    axis, top = _sheet(title, text, sum(heights))
    for (query, models), counts, height in zip(parts, rows, heights, strict=True):
        first = models[0][1].iloc[0]
        axis.plot([0, WIDTH], [top, top], color="#bbbbbb", linewidth=0.8)
        top += 0.05  # below the text of the query before
        name = f"Query: identity {first['query_identity']}, camera {first['query_camera']}"
        axis.text(0, top + 0.15, name, fontsize=9, fontweight="bold", va="center")
        below = top + 0.3
        _picture(axis, queries[query], (0, below + 0.2), tall, QUERY, "", [_who(first, "query_")])
        for (method, own), count in zip(models, counts, strict=True):
            axis.text(PITCH, below + 0.09, literally(method), fontsize=8.5, va="center")
            for _, image in own.iterrows():
                line, place = divmod(image["rank"] - 1, PER_ROW)
                at = (PITCH * (1 + place), below + 0.2 + line * row)
                look = (RIGHT, "✓") if image["right"] else (WRONG, "✗")
                _picture(
                    axis, gallery[image["gallery"]], at, tall, *look, [_who(image), _short(image["distance"])]
                )
            below += 0.2 + row * count
        top += height - 0.05
    return described(axis.figure, _ranking_text(frame))


def worst_queries(queries: np.ndarray, gallery: np.ndarray, frame: pd.DataFrame, title: str) -> Figure:
    """Queries with the first wrong gallery image and the best right one, two queries side by side.

    Args:
        queries, gallery: (Q, H, W, 3), (G, H, W, 3) bytes.
        frame: `rankings.worst_frame`.
    """
    text = (
        "From left to right: a query with its average precision (AP, %), the first wrong gallery image (red, "
        "✗) and the best right one (green, ✓) with their ranks. Below each picture: identity and camera (c)."
    )
    tall = PICTURE * queries.shape[1] / queries.shape[2]
    row = tall + 2 * LINE + 0.14
    axis, top = _sheet(title, text, row * -(-len(frame) // 2))
    for number, (_, one) in enumerate(frame.iterrows()):
        line, side = divmod(number, 2)
        left, below = side * (WIDTH - 3 * PITCH + 0.05), top + 0.05 + line * row
        lines = [_who(one, "query_"), f"AP {100 * one['average_precision']:.1f}"]
        _picture(axis, queries[int(one["query"])], (left, below), tall, QUERY, "", lines)
        for place, (name, colour, mark) in enumerate((("wrong", WRONG, "✗"), ("right", RIGHT, "✓")), 1):
            if one[name] >= 0:
                lines = [_who(one, f"{name}_"), f"rank {one[f'{name}_rank']:.0f}"]
                at = (left + place * PITCH, below)
                _picture(axis, gallery[int(one[name])], at, tall, colour, mark, lines)
    return described(
        axis.figure,
        f"{title}, each with the first wrong gallery image and the best right one. "
        f"Average precision is at most {100 * frame['average_precision'].max():.1f} %; the best right "
        f"image stands at rank {frame['right_rank'].median():.0f} in the median.",
    )


def _sheet(title: str, text: str, height: float) -> tuple[plt.Axes, float]:
    """An axis measured in inches from the upper left corner, with a title; and where the free part begins."""
    lines = textwrap.wrap(text, 66)
    top = 0.3 + LINE * len(lines) + 0.12
    figure = plt.figure(figsize=(WIDTH, top + height))
    figure.suppressComposite = True  # a PDF would lay each picture onto a sheet of the whole figure's size
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(top + height, 0))
    axis.axis("off")
    axis.set_autoscale_on(False)
    axis.text(0, 0.12, literally(title), fontsize=10, va="center")
    axis.text(0, 0.27, "\n".join(lines), fontsize=8, va="top", linespacing=1.2)
    return axis, top


def _picture(
    axis: plt.Axes, image: np.ndarray, at: tuple[float, float], tall: float, colour: str, mark: str,
    lines: Sequence[str],
) -> None:  # fmt: skip
    """A framed picture with its upper left corner at (column, row), and lines of text below it."""
    left, top = at
    extent = (left + 0.03, left + 0.03 + PICTURE, top + tall, top)
    axis.imshow(image, extent=extent, interpolation="lanczos", aspect="auto")
    axis.add_patch(
        Rectangle((extent[0], top), PICTURE, tall, fill=False, edgecolor=colour, linewidth=2.5, zorder=3)
    )
    if mark:
        axis.text(
            extent[0] + 0.03, top + 0.03, mark, fontsize=8, color="white", fontweight="bold", va="top",
            zorder=4, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip
    axis.text(
        left + 0.03 + PICTURE / 2, top + tall + 0.04, "\n".join(lines), fontsize=8, ha="center", va="top",
        linespacing=1.15,
    )  # fmt: skip


def _who(row: pd.Series, name: str = "") -> str:
    return f"{row[f'{name}identity']:.0f} c{row[f'{name}camera']:.0f}"


def _short(distance: float) -> str:
    """Three digits or more, without an exponent."""
    return f"{distance:.{max(0, 2 - int(np.floor(np.log10(max(distance, 0.1)))))}f}"


def _ranking_text(frame: pd.DataFrame) -> str:
    parts = [
        f"{method}: {own['right'].sum()} of {len(own)}" for method, own in frame.groupby("method", sort=False)
    ]
    return (
        f"{frame['query'].nunique()} queries and their first {frame['rank'].max()} gallery images under "
        f"{len(parts)} models. Of these images, the query's person is on: {'; '.join(parts)}."
    )
