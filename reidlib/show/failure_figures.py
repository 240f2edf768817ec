"""Draws where runs fail: CMC curves, scores of groups, embeddings in a plane; as narrow as a phone."""

from reidlib.show.drawing import described, literally  # first: it decides how matplotlib starts

# isort: split

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from reidlib.show.failures import FEWEST_PEOPLE
from reidlib.show.figures import BLUE, DATA_SET_COLOURS, GREY
from reidlib.show.text import percent

# The palette of Okabe and Ito without its yellow, which is too light for points.
COLOURS = (*DATA_SET_COLOURS, "#e69f00", "#56b4e9")
MARKERS = "osD^vP*X<>dp"  # 7 colours and 12 markers: 84 pairs
LINES = ("-", "--", "-.", ":")
PLANE, MARGIN = 3.6, 0.14  # inches of a plane's side; empty part at each border, of the points' extent
FAMILIES = {"abdnet": "ABD-Net's rows", "pfsa": "Rows of spatial attention"}


def cmc_curves(frame: pd.DataFrame, title: str) -> Figure:
    """The share of queries with a match among the first k images, a panel for each paper's rows.

    Args:
        frame: `failures.cmc_frame`.
    """
    families = list(frame.groupby("family", sort=False))
    rows = [own["method"].nunique() for _, own in families]
    figure, axes = plt.subplots(
        len(families),
        figsize=(3.9, sum(2.5 + 0.19 * count for count in rows) + 0.7),
        height_ratios=[2.5 + 0.19 * count for count in rows],
        squeeze=False,
        layout="constrained",
    )
    for axis, (family, own) in zip(axes.flat, families, strict=True):
        for number, (method, curve) in enumerate(own.groupby("method", sort=False)):
            colour = COLOURS[number % 7] if curve["learned"].all() else GREY
            share, low, high = (100 * curve[name] for name in ("share", "low", "high"))
            axis.fill_between(curve["rank"], low, high, color=colour, alpha=0.13, linewidth=0)
            axis.plot(
                curve["rank"], share, LINES[number % 4], color=colour, linewidth=1.4, label=literally(method),
                marker=MARKERS[number % 12], markersize=4, markevery=(number % 3, 3),
            )  # fmt: skip
        lowest = np.nanmin(100 * own[["share", "low"]].to_numpy())
        axis.set(ylim=(10 * (lowest // 10), 100), xlim=(0.6, frame["rank"].max() + 0.4))
        axis.set_xticks([1, *range(5, int(frame["rank"].max()) + 1, 5)])
        axis.set_title(FAMILIES.get(family, family), fontsize=9, loc="left", fontweight="bold")
        axis.set_ylabel("queries with a match (%)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0)
        axis.set_xlabel("among the first k gallery images", fontsize=8)
    figure.suptitle(literally(textwrap.fill(title, 52)), fontsize=10)
    first = frame[frame["rank"] == 1].set_index("method")["share"]
    return described(
        figure,
        f"CMC curves with 95 % intervals of {len(first)} methods up to rank {frame['rank'].max()}. "
        f"rank-1 is highest for {first.idxmax()} ({percent(first.max())} %) and lowest for {first.idxmin()} "
        f"({percent(first.min())} %).",
    )


def attribute_panels(frame: pd.DataFrame, overall: float, title: str) -> Figure:
    """mAP at each level of each attribute, a panel for each attribute.

    Args:
        frame: `failures.level_frame`.
        overall: mAP of all queries, drawn as a line.
    """
    panels = list(frame.groupby("attribute", sort=False))
    figure = _panels(panels, overall, title, columns=1, line="all queries")
    lowest = frame.loc[frame["map"].idxmin()]
    return described(
        figure,
        f"mAP of groups of queries with 95 % intervals, by {', '.join(frame['attribute'].unique())}. It is "
        f"lowest for {lowest['attribute']}: {lowest['level']}, {percent(lowest['map'])} %, where all queries "
        f"have {percent(overall)} %.",
    )


def camera_panels(frame: pd.DataFrame, overall: float, title: str) -> Figure:
    """mAP of each camera's queries among each other camera's images, a panel for each camera.

    Args:
        frame: `failures.camera_frame`.
        overall: mean of the pairs, drawn as a line.
    """
    named = frame.assign(level=[f"{camera:.0f}" for camera in frame["gallery_camera"]])
    panels = [(f"from camera {camera} to", own) for camera, own in named.groupby("query_camera")]
    figure = _panels(panels, overall, title, columns=min(2, len(panels)), line="mean of the pairs")
    lowest = frame.loc[frame["map"].idxmin()]
    return described(
        figure,
        f"mAP of {len(frame)} ordered pairs of cameras with 95 % intervals. It is lowest from camera "
        f"{lowest['query_camera']:.0f} to {lowest['gallery_camera']:.0f}, {percent(lowest['map'])} %; the "
        f"mean of the pairs is {percent(overall)} %.",
    )


def _panels(
    panels: Sequence[tuple[str, pd.DataFrame]], overall: float, title: str, *, columns: int, line: str
) -> Figure:
    """Small multiples: a panel for each table, a line for each of its rows, and at the right the queries."""
    rows = -(-len(panels) // columns)
    most = [max(len(own) for _, own in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    heights = [0.2 * count + 0.4 for count in most]
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.9, sum(heights) + 1.1), height_ratios=heights, squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    values = 100 * np.concatenate([own[["map", "low", "high"]].to_numpy().ravel() for _, own in panels])
    limits = (max(0, np.nanmin(values) - 4), min(100, np.nanmax(values) + 4))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, own) in zip(axes.flat, panels, strict=False):
        axis.axvline(100 * overall, color=GREY, linewidth=0.8)
        for place, (_, row) in enumerate(own.iterrows()):
            few = row["people"] < FEWEST_PEOPLE
            axis.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=BLUE, linewidth=2, alpha=0.45)
            inside = "white" if few else BLUE
            axis.plot(100 * row["map"], place, "o", color=BLUE, markersize=5, markerfacecolor=inside)
            axis.text(
                1.03, place, f"{row['queries']:,.0f}", fontsize=8, va="center", color="#505050",
                transform=axis.get_yaxis_transform(),
            )  # fmt: skip
        axis.set_yticks(range(len(own)), [literally(text) for text in own["level"]], fontsize=8)
        axis.set(ylim=(max(most) - 0.4 if columns > 1 else len(own) - 0.4, -0.6), xlim=limits)
        axis.set_title(literally(name), fontsize=9, loc="left", fontweight="bold")
        axis.tick_params(axis="x", labelsize=8, labelbottom=True)
        axis.grid(axis="x", alpha=0.3)
    every = pd.concat([own for _, own in panels])
    notes = [
        f"mAP (%) with 95 % intervals over {'people' if every['seeds'].max() == 1 else 'seeds and people'}"
    ]
    notes.append(f"grey line: {line}; at the right: how many queries")
    notes += [f"hollow: fewer than {FEWEST_PEOPLE} people"] if every["people"].min() < FEWEST_PEOPLE else []
    figure.supxlabel("\n".join(notes), fontsize=8)
    figure.suptitle(literally(textwrap.fill(title, 52)), fontsize=10)
    return figure


def embedding_planes(
    places: Mapping[str, np.ndarray],
    identity: np.ndarray,
    pictures: Sequence[np.ndarray],
    titles: Mapping[str, str],
    title: str,
) -> Figure:
    """Images as points in planes below each other: a colour and marker for each person, some with a picture.

    Of each person, the image nearest to the middle of that person's points has its picture, if there is room.

    Args:
        places: name → (N, 2).
        identity: (N,) of the images.
        pictures: N images, (H, W, 3) bytes.
        titles: name → what stands above the plane.
    """
    people = np.unique(identity)
    height = len(places) * (PLANE + 0.45) + 0.19 * -(-len(people) // 4) + 0.6
    figure, axes = plt.subplots(len(places), figsize=(3.9, height), layout="constrained")
    for axis, (name, points) in zip(np.atleast_1d(axes), places.items(), strict=True):
        for number, person in enumerate(people):
            own = points[identity == person]
            axis.plot(
                *own.T, MARKERS[number % 12], color=COLOURS[number % 7], markersize=6, markeredgewidth=0.5,
                markeredgecolor="white", label=str(person), zorder=3,
            )  # fmt: skip
        axis.set(xticks=[], yticks=[])
        axis.margins(MARGIN)
        axis.spines[:].set(visible=True, color=GREY, linewidth=0.8)
        axis.set_title(literally(titles[name]), fontsize=9, loc="left")
        for row, number, offset in _with_room(points, identity, people):
            box = OffsetImage(pictures[row], zoom=34 / pictures[row].shape[0], interpolation="lanczos")
            colour = COLOURS[number % 7]
            axis.add_artist(
                AnnotationBbox(
                    box, points[row], 72 * offset, boxcoords="offset points", pad=0, zorder=2,
                    bboxprops={"edgecolor": colour, "linewidth": 1.5, "boxstyle": "square,pad=0"},
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1},
                )
            )  # fmt: skip
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="identity", loc="outside lower center", ncols=4, fontsize=8, title_fontsize=8,
        frameon=False,
    )  # fmt: skip
    figure.suptitle(literally(textwrap.fill(title, 52)), fontsize=10)
    return described(
        figure,
        f"{len(identity)} images of {len(people)} people as points. "
        + " ".join(above.replace("\n", ": ") + "." for above in titles.values()),
    )


def _with_room(
    points: np.ndarray, identity: np.ndarray, people: np.ndarray
) -> list[tuple[int, int, np.ndarray]]:
    """Where pictures find room: row, number of the person, and how far off the point (2,) in inches.

    A picture lies beside its point, on the side where it covers the fewest points, and touches no other one.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    place = (points - low) / np.maximum(high - low, 1e-12) * (PLANE / (1 + 2 * MARGIN))  # inches
    reach, beside = (
        MARGIN * PLANE / (1 + 2 * MARGIN),
        np.array([[0.4, 0], [0, 0.55], [0.35, 0.45], [0.35, -0.45]]),
    )
    room, chosen = np.array([0.3, 0.53]), []
    for number, person in enumerate(people):
        own = np.flatnonzero(identity == person)
        row = own[np.square(place[own] - place[own].mean(axis=0)).sum(axis=1).argmin()]
        sides = {}
        for offset in np.concatenate([beside, -beside]):
            centre = place[row] + offset
            inside = (centre > room / 2 - reach).all() and (centre < place.max() + reach - room / 2).all()
            if inside and all((np.abs(centre - other) > room).any() for *_, other in chosen):
                covered = (np.abs(place - centre) < room / 2 + 0.04).all(axis=1).sum()
                sides.setdefault(int(covered), (int(row), number, offset, centre))
        if sides:
            chosen.append(sides[min(sides)])
    return [(row, number, offset) for row, number, offset, _ in chosen]
