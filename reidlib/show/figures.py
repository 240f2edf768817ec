"""Draws matplotlib figures from arrays and tables. Nothing here reads a file or knows a run."""

from reidlib.show.drawing import (
    described,
    literally,
    use_own_settings,
)  # first: it decides how matplotlib starts

# isort: split

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reidlib.run import DID_NOT_LEARN
from reidlib.show.paired import DIFFERS

RIGHT, WRONG, QUERY = "#1a9641", "#d7191c", "#404040"  # ✓ and ✗ also mark them, for colour-blind readers
BLUE, GREY = "#2b5c8a", "#8c8c8c"  # points of methods, and of references without learning

use_own_settings()
sns.set_theme(
    style="ticks",
    context="notebook",
    rc={"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False},
)


def image_grid(
    images: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str],
    *,
    title: str = "",
    column_labels: Sequence[str] = (),
) -> Figure:
    """Rows of images with a label left of each row.

    Args:
        images: rows × columns of (H, W, 3) bytes; rows may differ in length.
    """
    columns = max(len(row) for row in images)
    height, width = images[0][0].shape[:2]
    cell = 0.85
    figure, axes = plt.subplots(
        len(images),
        columns,
        figsize=(cell * columns + 0.9, cell * height / width * len(images) + 0.5),
        squeeze=False,
    )
    for row, label, row_axes in zip(images, row_labels, axes, strict=True):
        for axis in row_axes:
            axis.axis("off")
        for image, axis in zip(row, row_axes, strict=False):
            axis.imshow(image, interpolation="lanczos")
        row_axes[0].text(
            -0.12,
            0.5,
            literally(label),
            transform=row_axes[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    for label, axis in zip(column_labels, axes[0], strict=False):
        axis.set_title(literally(label), fontsize=9)
    if title:
        figure.suptitle(literally(title), fontsize=11)
    figure.subplots_adjust(left=0.9 / (cell * columns + 0.9), right=1, wspace=0.04, hspace=0.04)
    rows = ", ".join(f"{label} ({len(row)})" for row, label in zip(images, row_labels, strict=True))
    return described(figure, f"{title or 'Sample images'}. Rows of pictures: {rows}.")


def training_curves(curves: pd.DataFrame, title: str) -> Figure:
    """Loss terms, accuracy on the training batches, and learning rate over the epochs of one run.

    If epochs were scored during training, a fourth panel shows rank-1 and mAP on validation people or test
    set.
    """
    scored = [name for name in ("validation", "test") if f"{name}_map" in curves]
    panels = 4 if scored else 3
    figure, axes = plt.subplots(1, panels, figsize=(11 / 3 * panels, 3), layout="constrained")
    losses, accuracy, rate = axes[:3]
    terms = [
        name
        for name in ("cross_entropy", "triplet", "orthogonal_features", "orthogonal_weights")
        if name in curves
    ]
    for name in terms if len(terms) > 1 else []:
        losses.plot(curves["epoch"], curves[name], marker="o", markersize=3, label=name.replace("_", " "))
    losses.plot(curves["epoch"], curves["loss"], color="black", marker="o", markersize=3, label="loss (sum)")
    losses.set(xlabel="epoch", ylabel="loss", title="loss terms as weighted")
    positive = curves[["loss", *terms]].min().min() > 0
    if positive and curves["loss"].max() / curves[["loss", *terms]].min().min() > 30:
        losses.set_yscale("log")
    losses.legend(fontsize=8, frameon=False)
    accuracy.plot(curves["epoch"], 100 * curves["accuracy"], color="C2", marker="o", markersize=3)
    accuracy.set(
        xlabel="epoch", ylabel="training accuracy (%)", ylim=(0, 100), title="first head on augmented batches"
    )
    rate.plot(curves["epoch"], curves["learning_rate"], color="C3", marker="o", markersize=3)
    rate.set(xlabel="epoch", ylabel="largest rate in the epoch", title="learning rate", ylim=(0, None))
    for name in scored:
        for key, label, colour in (("rank1", "rank-1", "C0"), ("map", "mAP", "C1")):
            looked_at = curves[["epoch", f"{name}_{key}"]].dropna()
            style = {
                "linestyle": "--" if name == "test" else "-",
                "marker": "o",
                "markersize": 3,
                "color": colour,
            }
            axes[3].plot(
                looked_at["epoch"], 100 * looked_at[f"{name}_{key}"], label=f"{label}, {name}", **style
            )
        axes[3].set(
            xlabel="epoch", ylabel="score (%)", title="retrieval", xlim=losses.get_xlim(), ylim=(0, 100)
        )
        axes[3].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(literally(title))
    first, last = curves.iloc[0], curves.iloc[-1]
    return described(
        figure,
        f"{title}. Over {len(curves)} epochs the loss goes from {first['loss']:.2f} to {last['loss']:.2f}, "
        f"and accuracy on training batches from {first['accuracy']:.0%} to {last['accuracy']:.0%}.",
    )


def scores(frame: pd.DataFrame, title: str) -> Figure:
    """One row per method: a point with a bar; rank-1 left and mAP right.

    Of one seed, the bar is the 95 % interval over people. Of several seeds, the point is their mean, the bar
    (with caps) ± their standard deviation, and a small point below stands for each seed. What the bars are is
    said in the title, or in a legend if there are several seeds.

    Args:
        frame: columns method, seeds (how many), rank1, rank1_low, rank1_high, map, map_low, map_high
            (fractions; NaN bounds: no bar), reference (bool: a reference point without learning, drawn grey),
            learned (bool, True if missing: False is drawn as a hollow grey point with words), and for methods
            with several seeds rank1_by_seed, map_by_seed (lists). See `tables.scores_frame`.
    """
    several = frame["seeds"] > 1
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(10, 0.42 * len(frame) + (1.7 if several.any() else 1.4)),
        sharey=True,
        layout="constrained",
    )
    bar, cap = {"linewidth": 2.5, "alpha": 0.45}, {"marker": "|", "markersize": 9, "markeredgewidth": 2}
    positions = np.arange(len(frame))[::-1]
    highest = np.nanmax([0, *frame[["rank1", "rank1_high", "map", "map_high"]].to_numpy(float).ravel()])
    most = min(100, 5 * math.ceil(23 * highest) or 10)  # with room for the words beside a point
    for axis, key, label in zip(axes, ("rank1", "map"), ("rank-1 (%)", "mAP (%)"), strict=True):
        for position, (_, row) in zip(positions, frame.iterrows(), strict=True):
            learned = row.get("learned", True)
            colour = BLUE if learned and not row["reference"] else GREY
            value, bounds = 100 * row[key], [100 * row[f"{key}_low"], 100 * row[f"{key}_high"]]
            own = row["seeds"] > 1
            axis.plot(bounds, [position] * 2, color=colour, **bar, **(cap if own else {}))
            filled = colour if learned else "white"
            axis.plot(value, position, "o", color=colour, markersize=5 if own else 7, markerfacecolor=filled)
            if own:
                of_seeds = 100 * np.array(row[f"{key}_by_seed"])
                axis.plot(of_seeds, [position - 0.27] * len(of_seeds), "o", color=colour, markersize=3)
            text = f"{value:.1f} ± {bounds[1] - value:.1f}" if own else f"{value:.1f}"
            # Not over the frame.
            side = "left" if value < 0.04 * most else "right" if value > 0.96 * most else "center"
            if not learned:
                text, side = f"{DID_NOT_LEARN} ({text})", "left" if value < most / 2 else "right"
            axis.annotate(text, (value, position), (0, 7), textcoords="offset points", ha=side, fontsize=8)
        axis.set(xlabel=label, ylim=(-0.6, len(frame) - 0.3), xlim=(0, most))
        axis.grid(axis="x", alpha=0.4)
    labels = frame["method"].tolist()
    if several.any():
        counts = np.where(several, ", " + frame["seeds"].astype(str) + " seeds", ", 1 seed")
        counts = np.where(frame["reference"], "", counts)
        labels = [name + count for name, count in zip(labels, counts, strict=True)]
        # A colour that only references have is grey in the legend, too.
        colour = GREY if several[~frame["reference"]].all() else BLUE
        of_seeds = (_handle(BLUE, **bar, **cap), _handle(BLUE, marker="o", markersize=5))
        each = _handle(BLUE, marker="o", markersize=3, linestyle="")
        one = (_handle(colour, **bar), _handle(colour, marker="o", markersize=7))
        handles = {"mean ± standard deviation over seeds": of_seeds, "each seed": each}
        handles |= {} if several.all() else {"95 % interval over people": one}
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=3,
            fontsize=9,
            frameon=False,
        )
    axes[0].set_yticks(positions, labels)
    figure.suptitle(title if several.any() else f"{title}, 95 % intervals over people")
    told = [
        f"{row['method']} {100 * row['rank1']:.1f} / {100 * row['map']:.1f}"
        + ("" if row.get("learned", True) else f" ({DID_NOT_LEARN})")
        for _, row in frame.iterrows()
    ]
    return described(figure, f"{title}. Rank-1 / mAP in %: {'; '.join(told)}.")


def _handle(colour: str, **style) -> plt.Line2D:
    """A line for a legend."""
    return plt.Line2D([], [], color=colour, **style)


def heat_overlay(
    image: np.ndarray, heat: np.ndarray, strength: float = 0.5, colours: str = "jet"
) -> np.ndarray:
    """Lays a heat map (H, W, values 0 to 1) over an image (H, W, 3), by default in both papers' jet colours.

    Returns:
        (H, W, 3) bytes.
    """
    shades = plt.get_cmap(colours)(np.clip(heat, 0, 1))[..., :3] * 255
    return ((1 - strength) * image + strength * shades).round().astype(np.uint8)


HEAT_COLOURS = {"jet": "jet, as in the papers", "viridis": "viridis"}  # the second for colour-blind readers


def heat_rows(
    images: Mapping[str, np.ndarray],
    heats: Mapping[str, np.ndarray],
    labels: Mapping[str, str],
    title: str,
    over: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """One row per person: images, then each heat map over the first of them, in jet and again in viridis.

    Args:
        images: label → (N, H, W, 3) bytes.
        heats: name → (N, H, W), values 0 to 1, as shares of the strongest place of the same map.
        labels: name → title of its columns, of one or more short lines.
        over: name → (N, H, W, 3) bytes, for maps that lie over other images than the first.
    """
    shown, over = next(iter(images.values())), over or {}
    people, height, width = shown.shape[:3]
    blocks = [
        list(images.values()),
        *(
            [_overlays(over.get(name, shown), heat, colours) for name, heat in heats.items()]
            for colours in HEAT_COLOURS
        ),
    ]
    # All pictures are one canvas: a hundred axes would take seconds.
    line, gap = max(width // 24, 1), max(width // 5, 1)  # white pixels between pictures and between blocks
    wide = sum(len(block) * (width + line) for block in blocks) + 2 * gap
    canvas = np.full((people * (height + line), wide, 3), 255, np.uint8)
    lefts, left = [], 0
    for block in blocks:
        for column in block:
            for person in range(people):
                top = person * (height + line)
                canvas[top : top + height, left : left + width] = column[person]
            lefts.append(left)
            left += width + line
        left += gap
    inch = (width + line) / 0.64  # pixels
    full, panel = wide / inch + 0.1, len(canvas) / inch
    title = "\n".join(textwrap.wrap(title, int(11 * full)))
    headings = [*images, *(labels[name] for name in heats), *(labels[name] for name in heats)]
    lines, title_lines = max(text.count("\n") for text in headings) + 1, title.count("\n") + 1
    above, below = 0.24 + 0.16 * lines + 0.22 * title_lines, 0.55
    tall = above + panel + below

    figure = plt.figure(figsize=(full, tall))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, full), ylim=(0, tall))  # in inches
    axis.axis("off")
    axis.imshow(
        canvas, interpolation="bilinear", aspect="auto", extent=(0.05, full - 0.05, below, below + panel)
    )
    axis.set(xlim=(0, full), ylim=(0, tall))
    centred = {"ha": "center", "va": "bottom", "fontsize": 9}
    for text, left in zip(headings, lefts, strict=True):
        axis.text(0.05 + (left + width / 2) / inch, tall - above + 0.05, literally(text), **centred)
    for number, (colours, name) in enumerate(HEAT_COLOURS.items()):
        first = len(images) + number * len(heats)
        start, end = (0.05 + (lefts[i] + w) / inch for i, w in ((first, 0), (first + len(heats) - 1, width)))
        axis.text((start + end) / 2, tall - above + 0.09 + 0.16 * lines, name, **centred)
        place = (start / full, (below - 0.16) / tall, (end - start) / full, 0.09 / tall)
        scale = plt.cm.ScalarMappable(cmap=colours)
        bar = figure.colorbar(scale, cax=figure.add_axes(place), orientation="horizontal", ticks=[0, 0.5, 1])
        bar.ax.tick_params(labelsize=8.5, pad=1, length=2)
        ends = bar.ax.set_xticklabels(["0", "0.5", "1"])
        ends[0].set_ha("left")  # the two scales are too close for centred labels
        ends[-1].set_ha("right")
        bar.outline.set_visible(False)
    axis.text(full / 2, 0.04, "share of the strongest place of the same map", **centred)
    axis.text(full / 2, tall - 0.03, literally(title), ha="center", va="top", fontsize=10.5)
    return figure


def _overlays(images: np.ndarray, heats: np.ndarray, colours: str) -> list[np.ndarray]:
    return [heat_overlay(image, heat, colours=colours) for image, heat in zip(images, heats, strict=True)]


def gallery_sizes(frames: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """rank-1 and mAP against the number of other images in the gallery, one line per method.

    Args:
        frames: method → table of `evaluation.scores_by_gallery_size`. Points with distractors are hollow.
    """
    sizes = sorted({size for frame in frames.values() for size in frame["other_images"]})
    if len(sizes) > 1 and sizes[-1] < 1.5 * sizes[-2]:
        sizes.pop(-2)  # its label would run into the last one's
    distractors = any(frame["distractors"].any() for frame in frames.values())
    below = "other images in the gallery" + ("; hollow: with distractors" if distractors else "")
    figure, axes = plt.subplots(2, figsize=(3.9, 6.2), layout="constrained")
    for axis, key, label in zip(axes, ("rank1", "map"), ("rank-1", "mAP"), strict=True):
        for number, (name, frame) in enumerate(frames.items()):
            colour, marker = _look(number)
            axis.plot(frame["other_images"], 100 * frame[key], color=colour, linewidth=1.5)
            for hollow, points in frame.groupby("distractors"):
                axis.plot(
                    points["other_images"],
                    100 * points[key],
                    marker,
                    color=colour,
                    markersize=6,
                    markerfacecolor="white" if hollow else colour,
                    label="" if hollow and not frame["distractors"].all() else literally(name),
                )
        axis.set(xscale="log", ylim=(0, 100))
        axis.set_title(label, fontsize=10)
        axis.set_ylabel("score (%)", fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        axis.set_xlabel(below, fontsize=9)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.4)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=8, frameon=False
    )
    figure.suptitle(literally(title), fontsize=10)
    falls = [
        f"{name} from {100 * frame['rank1'].iloc[0]:.1f} to {100 * frame['rank1'].iloc[-1]:.1f} %"
        for name, frame in frames.items()
    ]
    return described(
        figure,
        f"rank-1 and mAP against the number of other images in the gallery, {sizes[0]:,} to {sizes[-1]:,}. "
        f"rank-1 goes: {', '.join(falls)}.",
    )


def classification_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Training loss and test accuracy over the epochs (mean and range over seeds), and each seed's result.

    Args:
        frame: one row per run and epoch: pooling (in the order of the legend), seed, epoch, loss,
            test_accuracy (a fraction).
    """
    figure, (losses, tests, last) = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
    poolings = list(dict.fromkeys(frame["pooling"]))
    for number, (pooling, marker) in enumerate(zip(poolings, "osD^v", strict=False)):
        own, colour = frame[frame["pooling"] == pooling], f"C{number}"
        for axis, values in ((losses, own["loss"]), (tests, 100 * own["test_accuracy"])):
            over = values.groupby(own["epoch"]).agg(["mean", "min", "max"])
            axis.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.18, linewidth=0)
            every = max(1, len(over) // 15)
            axis.plot(
                over.index,
                over["mean"],
                color=colour,
                marker=marker,
                markersize=4,
                markevery=every,
                label=pooling,
            )
        final = 100 * own[own["epoch"] == own["epoch"].max()]["test_accuracy"]
        position = len(poolings) - 1 - number
        last.plot(
            final, [position] * len(final), marker, color=colour, alpha=0.45, markersize=7, markeredgewidth=0
        )
        last.plot([final.mean()] * 2, [position - 0.22, position + 0.22], color=colour, linewidth=2.5)
        text = f"{final.mean():.1f}"
        last.annotate(
            text, (final.mean(), position + 0.22), (0, 3), textcoords="offset points", ha="center", fontsize=9
        )
    losses.set(xlabel="epoch", ylabel="cross-entropy", title="loss on the training batches", ylim=(0, None))
    tests.set(xlabel="epoch", ylabel="accuracy (%)", title="test images", ylim=(0, 102))
    last.set(
        xlabel="accuracy (%)",
        title="last epoch: seeds and mean",
        xlim=(0, 105),
        ylim=(-0.6, len(poolings) - 0.3),
    )
    last.set_yticks([])
    last.grid(axis="x", alpha=0.4)
    for axis in (losses, tests):
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        *tests.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False
    )
    figure.suptitle(literally(title))
    last_epoch = frame[frame["epoch"] == frame["epoch"].max()].groupby("pooling", sort=False)["test_accuracy"]
    told = [f"{pooling} {100 * accuracy:.1f}" for pooling, accuracy in last_epoch.mean().items()]
    return described(
        figure,
        f"{title}. Accuracy on test images after the last epoch, mean over seeds, in %: {'; '.join(told)}.",
    )


def switch_panels(untrained: pd.DataFrame, effects: pd.DataFrame, title: str) -> Figure:
    """What each switch between paper and released code changes.

    The panels show gradients and distances on the same weights, and mAP where both sides were scored: with
    its interval over seeds and people, or with one seed dashed over people.

    Args:
        untrained: `switch_effects.untrained_effects`, one row for each side.
        effects: `switch_effects.trained_effects`, one row for each side, also of switches that only change
            scoring or the schedule.
    """
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 0.34 * len(effects) + 1.9), sharey=True, layout="constrained"
    )
    sides = list(zip(effects["name"], effects["side"], strict=True))
    positions = {side: len(effects) - 1 - number for number, side in enumerate(sides)}
    gradients, distances, scores = axes
    for _, row in untrained.iterrows():
        position = positions[row["name"], row["side"]]
        gradients.plot(row["gradient_cosine"], position, "o", color="#2b5c8a")
        distances.plot(100 * row["distance_change"], position, "o", color="#2b5c8a")
    for _, row in effects[effects["seeds"] > 0].iterrows():
        position = positions[row["name"], row["side"]]
        colour = "#b2452a" if row["verdict"] == DIFFERS else "#8c8c8c"
        low, high = (100 * row[f"map_difference_{bound}"] for bound in ("low", "high"))
        style = "--" if row["seeds"] == 1 else "-"
        scores.plot([low, high], [position] * 2, color=colour, linewidth=2.5, alpha=0.5, linestyle=style)
        scores.plot(100 * row["map_difference"], position, "o", color=colour)
    scores.axvline(0, color="black", linewidth=0.8)
    if not (effects["seeds"] > 0).any():
        scores.set(xlim=(-1, 1), xticks=[0])

    def write_in(axis, position: int, text: str) -> None:
        axis.annotate(
            text, (0.5, position), xycoords=("axes fraction", "data"), ha="center", va="center",
            fontsize=8, color="#6f6f6f", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip

    drawn = set(zip(untrained["name"], untrained["side"], strict=True))
    for side, (_, row) in zip(sides, effects.iterrows(), strict=True):
        if row["seeds"] == 0:
            write_in(scores, positions[side], row["verdict"])
        for axis in (gradients, distances) if side not in drawn else ():
            write_in(
                axis, positions[side], "no change" if row["effect"] == "training" else f"{row['effect']} only"
            )
    gradients.set(
        xlim=(min([0, *untrained["gradient_cosine"]]) - 0.05, 1.05), ylim=(-0.6, len(effects) - 0.4)
    )
    distances.set(xlim=(-2, None))
    intervals = ["95 % over seeds and people (red: differs)"] if (effects["seeds"] > 1).any() else []
    intervals += ["dashed: one seed, 95 % over people"] if (effects["seeds"] == 1).any() else []
    texts = (
        (gradients, "same weights, one training batch", "cosine of the sides' gradients"),
        (distances, "same weights, test images", "change of distances (%)"),
        (scores, "\n".join(intervals) or "both sides scored", "mAP, other side − released (points)"),
    )
    first = effects["paper"].drop_duplicates().index[1:]  # where the next paper begins
    for axis, above, below in texts:
        axis.set_title(above, fontsize=10)
        axis.set_xlabel(below, fontsize=10)
        axis.grid(axis="x", alpha=0.4)
        for number in first:
            axis.axhline(len(effects) - number - 0.5, color="#6f6f6f", linewidth=0.6, linestyle=":")
    labels = [
        f"{row['what'].replace('`', '')}  ·  {row['paper']} {row['number'].strip('–')}".rstrip()
        for _, row in effects.iterrows()
    ]
    gradients.set_yticks(list(positions.values()), labels, fontsize=9)
    figure.suptitle(literally(title))
    differing = effects[effects["verdict"] == DIFFERS]
    told = [
        f"{row['what'].replace('`', '')} ({row['side']}) {100 * row['map_difference']:+z.1f}"
        for _, row in differing.iterrows()
    ]
    return described(
        figure,
        f"{title}. {len(effects)} sides of switches; differences in mAP that differ from 0 over seeds and "
        f"people, in points: {'; '.join(told) or 'none'}.",
    )


CLAIM_MARKS = {
    "as claimed here": "✓",
    "opposite here": "✗",
    "smaller than the margin": "≈",
    "cannot tell": "?",
}
# The palette of Okabe and Ito, which colour-blind readers tell apart; the markers differ, too.
DATA_SET_COLOURS, DATA_SET_MARKERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000"), "osD^v"


def claims_forest(frame: pd.DataFrame, title: str) -> Figure:
    """The effect behind each claim with its 95 % interval, one line for each data set; as narrow as a phone.

    Above them stand the claim, an arrow in the direction that it predicts, and the published effect. Grey is
    what is smaller than the margin. The last column is the verdict. An interval that leaves the panel ends in
    an arrowhead.

    Args:
        frame: `findings.findings`. Claims without an effect are left out.
    """
    order = {name: place for place, name in enumerate(dict.fromkeys(frame["name"]))}
    drawn = frame[frame["seeds"] > 0].sort_values("name", key=lambda names: names.map(order), kind="stable")
    data_sets = [name for name in dict.fromkeys(frame["data_set"]) if name in set(drawn["data_set"])]
    panels = list(drawn.groupby(["question", "measure", "unit"], sort=False))
    lanes = [sum(_lanes(members) for _, members in part.groupby("name", sort=False)) for _, part in panels]
    figure, axes = plt.subplots(
        max(1, len(panels)),
        figsize=(3.9, 0.19 * sum(lanes) + 0.95 * len(panels) + 0.2 * len(data_sets) + 1.5),
        height_ratios=lanes or None,
        squeeze=False,
        layout="constrained",
    )
    if not panels:
        axes[0, 0].axis("off")
        axes[0, 0].set_title(literally(title), fontsize=10)
        axes[0, 0].text(0.5, 0.5, "no claim has runs to compare", ha="center", va="center", fontsize=9)
        return described(figure, f"{title}: no claim has runs to compare.")
    for axis, ((question, measure, unit), part), height in zip(axes.flat, panels, lanes, strict=True):
        _claims_panel(axis, part, data_sets, height)
        axis.set_title(literally(question), fontsize=9, fontweight="bold", loc="left")
        axis.set_xlabel(f"{measure} ({unit})", fontsize=8)
    handles = {
        literally(name): _handle(_look(place)[0], marker=_look(place)[1], markersize=5, linewidth=1.5)
        for place, name in enumerate(data_sets)
    }
    handles["published"] = _handle("black", marker="d", markerfacecolor="white", markersize=6, linestyle="")
    handles["claimed direction"] = _handle(GREY, marker=r"$\rightarrow$", markersize=10, linestyle="")
    handles["smaller than the margin"] = plt.Rectangle((0, 0), 1, 1, color="#dddddd")
    figure.legend(
        list(handles.values()),
        list(handles),
        title=literally(title),
        loc="outside upper left",
        alignment="left",
        fontsize=8,
        title_fontsize=10,
        frameon=False,
    )
    marks = [f"{mark} {words}" for words, mark in CLAIM_MARKS.items()] + ["no mark, no interval: one seed"]
    lines = ["   ".join(marks[:2]), "   ".join(marks[2:4]), marks[4]]
    figure.supxlabel("\n".join(lines), fontsize=8)
    return described(figure, f"{title}. {_claims_in_words(drawn)}")


def _claims_in_words(drawn: pd.DataFrame) -> str:
    """How many claims each data set has of each verdict."""
    parts = []
    for data_set, own in drawn.groupby("data_set", sort=False):
        counts = own["verdict"].value_counts(sort=False)
        parts.append(f"{data_set}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return "; ".join(parts) + "."


def _look(place: int) -> tuple[str, str]:
    """Colour and marker of a data set."""
    return DATA_SET_COLOURS[place % 5], DATA_SET_MARKERS[place % 5]


def _lanes(members: pd.DataFrame) -> float:
    """Height of a claim: its text, the published effect, its data sets, and a gap."""
    return len(_wrapped(members)) + 1 + len(members) + 0.5


def _wrapped(members: pd.DataFrame) -> list[str]:
    return textwrap.wrap(members["claim"].iloc[0], 54)


def _claims_panel(axis, part: pd.DataFrame, data_sets: Sequence[str], height: float) -> None:
    scale = part["scale"].iloc[0]
    shown = scale * part[["difference", "published", "margin"]].assign(other=-part["margin"])
    left, right = shown.min().min(), shown.max().max()
    room = 0.15 * (right - left)
    left, right = left - room, right + room
    top = 0.0
    for _, members in part.groupby("name", sort=False):
        text, one = _wrapped(members), members.iloc[0]
        axis.text(
            0, top + len(text) / 2, literally("\n".join(text)), fontsize=8.5, va="center",
            transform=axis.get_yaxis_transform(),
        )  # fmt: skip
        start = top + len(text)
        band = scale * one["margin"]
        axis.fill_between([-band, band], start, start + 1 + len(members), color="#dddddd", linewidth=0)
        axis.vlines(0, start, start + 1 + len(members), color="black", linewidth=0.8)
        axis.annotate(
            "", (one["sign"] * 0.12 * (right - left), start + 0.5), (0, start + 0.5),
            arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        if not np.isnan(one["published"]):
            axis.plot(
                scale * one["published"], start + 0.5, "d", color="black", markerfacecolor="white",
                markersize=6,
            )  # fmt: skip
        for lane, (_, row) in enumerate(members.iterrows()):
            _claim_lane(axis, row, _look(data_sets.index(row["data_set"])), start + 1.5 + lane, (left, right))
        top += _lanes(members)
    axis.set(xlim=(left, right), ylim=(height, 0), yticks=[])
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="x", labelsize=8, labeltop=True, pad=2)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)


def _claim_lane(axis, row: pd.Series, look: tuple[str, str], position: float, limits: tuple) -> None:
    colour, marker = look
    ends = [row["scale"] * row[bound] for bound in ("low", "high")]
    if not np.isnan(ends).any():
        inside = np.clip(ends, *limits)
        axis.plot(inside, [position] * 2, color=colour, linewidth=1.5)
        for end, shown, head in zip(ends, inside, "<>", strict=True):
            if end != shown:
                axis.plot(shown, position, head, color=colour, markersize=4, clip_on=False)
    axis.plot(row["scale"] * row["difference"], position, marker, color=colour, markersize=5)
    axis.text(
        1.01, position, CLAIM_MARKS.get(row["verdict"], ""), fontsize=8, va="center", color=colour,
        transform=axis.get_yaxis_transform(),
    )  # fmt: skip
