"""Draws the matrix "trained on × tested on"."""

from reidlib.show.drawing import described, literally, use_own_settings  # first, see `figures`

# isort: split

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reidlib.show.text import percent

use_own_settings()

FRAME = "#d55e00"
PANELS = {"map": "mAP (%)", "rank1": "rank-1 (%)"}
SMALL, PLAIN = 8, 9  # points


def transfer_matrix(frame: pd.DataFrame, title: str) -> Figure:
    """Two heat maps, mAP and rank-1: a line for each training and method, a column for each test set.

    A cell holds the score and its 95 % interval; a cell that was not scored is grey and says why. The cells
    of data sets that were trained on have a frame.

    Args:
        frame: as from `transfer.transfer_frame`.
    """
    lines = list(dict.fromkeys(zip(frame["trained on"], frame["method"], strict=True)))
    columns = list(dict.fromkeys(frame["tested on"]))
    seeds = {(cell["trained on"], cell["method"]): cell["seeds"] for _, cell in frame.iterrows()}
    figure, axes = plt.subplots(
        2,
        1,
        figsize=(1.9 + 1.05 * len(columns), 1.5 + 2 * (0.3 + 0.52 * len(lines))),
        sharex=True,
        layout="constrained",
    )
    places = {
        "row": {line: place for place, line in enumerate(lines)},
        "column": {column: place for place, column in enumerate(columns)},
    }
    for axis, (key, label) in zip(axes, PANELS.items(), strict=True):
        _panel(axis, frame, key, places)
        axis.set_title(label, fontsize=PLAIN, loc="left")
        axis.set_yticks(range(len(lines)), [_label(line, seeds[line]) for line in lines], fontsize=SMALL)
        axis.set_ylabel("trained on", fontsize=PLAIN)
    axes[1].set_xticks(
        range(len(columns)), [literally(textwrap.fill(column, 14)) for column in columns], fontsize=SMALL
    )
    axes[1].set_xlabel("tested on", fontsize=PLAIN)
    figure.supxlabel(textwrap.fill(_note(frame), 20 + 16 * len(columns)), fontsize=SMALL)
    figure.suptitle(literally(textwrap.fill(title, 20 + 16 * len(columns))), fontsize=PLAIN + 1)
    scored = frame[frame["not scored"] == ""]
    said = [
        f"{cell['method']} trained on {cell['trained on']}, tested on {cell['tested on']}: "
        f"{percent(cell['map'])}"
        for _, cell in scored.iterrows()
    ]
    return described(
        figure,
        f"{title}. Heat maps of mAP and rank-1, a line for each training, a column for each test set. mAP in "
        f"%: {'; '.join(said)}.",
    )


def _note(frame: pd.DataFrame) -> str:
    """What brackets and frames are."""
    known = {"people": "over people (one seed)", "seeds and people": "over seeds and people (several seeds)"}
    over = ", ".join(known[one] for one in sorted(set(frame.loc[frame["not scored"] == "", "over"])))
    brackets = f"In brackets: 95 % interval {over}. " if over else ""
    return f"{brackets}Framed: trained on this data set's training images."


def _label(line: tuple[str, str], seeds: int) -> str:
    name, method = line
    how_often = f", {seeds} seeds" if seeds > 1 else ""
    return literally(f"{textwrap.fill(name, 24)}\n{textwrap.fill(method + how_often, 24)}")


def _panel(axis: Axes, frame: pd.DataFrame, key: str, places: dict[str, dict]) -> None:
    matrix = np.full((len(places["row"]), len(places["column"])), np.nan)
    cells = [
        (places["row"][cell["trained on"], cell["method"]], places["column"][cell["tested on"]], cell)
        for _, cell in frame.iterrows()
    ]
    for row, column, cell in cells:
        matrix[row, column] = cell[key]
    colours = plt.get_cmap("cividis").with_extremes(bad="#cccccc")
    highest = np.nanmax(matrix) if np.isfinite(matrix).any() else 1.0
    picture = axis.imshow(matrix, cmap=colours, vmin=0, vmax=max(highest, 1e-9), aspect="auto")
    for row, column, cell in cells:
        red, green, blue, _ = picture.to_rgba(cell[key]) if np.isfinite(cell[key]) else (1, 1, 1, 1)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.45
        ink = {"color": "black" if light else "white", "ha": "center", "fontsize": SMALL}
        if cell["not scored"]:
            axis.text(
                column, row, textwrap.fill(cell["not scored"].partition(":")[0], 10), va="center", **ink
            )
        else:
            interval = f"[{100 * cell[f'{key}_low']:.1f}, {100 * cell[f'{key}_high']:.1f}]"
            known = np.isfinite(cell[f"{key}_low"])
            text = percent(cell[key])
            axis.text(column, row, text, va="bottom" if known else "center", **ink | {"fontsize": PLAIN + 1})
            if known:
                axis.text(column, row + 0.05, interval, va="top", **ink)
        if cell["own"]:
            axis.add_patch(
                Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=FRAME, linewidth=2)
            )
    axis.tick_params(length=0)
    for place in range(1, len(places["row"])):
        axis.axhline(place - 0.5, color="white", linewidth=1)
    for place in range(1, len(places["column"])):
        axis.axvline(place - 0.5, color="white", linewidth=1)
