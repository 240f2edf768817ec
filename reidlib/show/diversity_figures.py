"""Draws the figures about diversity from arrays and tables. Nothing here reads a file or knows a run."""

from reidlib.show.drawing import described, literally, use_own_settings  # first, see `figures`

# isort: split

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

use_own_settings()

# The palette of Okabe and Ito, which colour-blind readers tell apart; the line styles differ, too.
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", "-.", ":")
GREY = "#8c8c8c"
SMALL, PLAIN = 8, 9  # points


def look(place: int) -> dict[str, object]:
    """Colour and line style of the n-th row. 28 rows differ."""
    return {"color": COLOURS[place % 7], "linestyle": STYLES[(place % 7 + place // 7) % 4], "linewidth": 1.6}


def channel_matrices(matrices: Mapping[str, np.ndarray], captions: Sequence[str]) -> Figure:
    """How alike each pair of channels is, one square a model, as in the paper's figure: viridis, 0 to 1.

    Args:
        matrices: title → (C, C) mean absolute correlation in the order to be drawn; NaN is drawn grey.
        captions: below each title, such as S(Corr).
    """
    count = len(matrices)
    figure, axes = plt.subplots(
        1, count, figsize=(2.9 * count + 0.7, 3.4), squeeze=False, layout="constrained"
    )
    colours = plt.get_cmap("viridis").with_extremes(bad="#bbbbbb")
    said = []
    for axis, (title, matrix), caption in zip(axes[0], matrices.items(), captions, strict=True):
        picture = axis.imshow(matrix, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(literally(f"{title}\n{caption}"), fontsize=PLAIN)
        axis.set_xlabel(f"{len(matrix)} channels, ordered", fontsize=SMALL)
        axis.set(xticks=[], yticks=[])
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        known = off[~np.isnan(off)]
        said.append(
            f"{title}: {caption}; {_share(known > 0.5)} of the pairs above 0.5"
            if len(known)
            else f"{title}: no channel varies"
        )
    bar = figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("mean |correlation|", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return described(
        figure,
        f"Heat maps of the mean absolute correlation between channels, one for each of {count} models. "
        f"{'. '.join(said)}.",
    )


def _share(chosen: np.ndarray) -> str:
    return f"{100 * chosen.mean():.0f} %"


def spectra(frame: pd.DataFrame) -> Figure:
    """Spectra of features and weights, one panel each, one line for each row of the table; on a log scale.

    Args:
        frame: columns method, panel (its title), place (0 to 1: from the largest eigenvalue to the smallest),
            value. Values of 0 are not drawn.
    """
    panels, methods = list(dict.fromkeys(frame["panel"])), list(dict.fromkeys(frame["method"]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels), 3.9), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for place, method in enumerate(methods):
            own = frame[(frame["panel"] == panel) & (frame["method"] == method) & (frame["value"] > 0)]
            axis.plot(own["place"], own["value"], label=literally(method), **look(place))
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        low, high = axis.get_ylim()
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter("{x:g}" if high / low < 100 else NullFormatter())
        axis.set_title(panel, fontsize=PLAIN)
        axis.set_xlabel("eigenvalues, largest to smallest", fontsize=SMALL)
        axis.set_xticks([0, 0.5, 1], ["first", "middle", "last"])
        _plain(axis)
    _legend(figure, axes[0, 0], 2)
    first = frame[(frame["panel"] == panels[0]) & (frame["place"] == 0)].set_index("method")["value"]
    said = ", ".join(f"{method} {100 * value:.0f} %" for method, value in first.items())
    return described(
        figure,
        f"Spectra on a log scale: {'; '.join(' '.join(panel.split()) for panel in panels)}. The largest "
        f"eigenvalue of the features has this share of their sum: {said}.",
    )


def over_epochs(
    frame: pd.DataFrame, panels: Mapping[str, tuple[str, float, int]], starts: Sequence[int] = ()
) -> Figure:
    """One small panel for each measure: its course over the epochs, a line for each row.

    With several seeds, the line is their mean and the band their range.

    Args:
        frame: columns method, seed, epoch and those of `panels`. Without lines, the figure says so.
        panels: four columns → title, scale, digits.
        starts: the first epochs in which O.F. acts, marked by dotted lines.
    """
    methods = list(dict.fromkeys(frame["method"]))
    if not methods:
        figure, axis = plt.subplots(figsize=(4.6, 0.8), layout="constrained")
        axis.axis("off")
        axis.text(0.5, 0.5, "no run holds measures of its epochs", ha="center", va="center", fontsize=PLAIN)
        return described(figure, "Nothing is drawn: no run holds measures of its epochs.")
    figure, axes = plt.subplots(
        2, 2, figsize=(4.6, 4.2 + 0.09 * len(methods)), sharex=True, layout="constrained"
    )
    for axis, (column, (title, scale, _)) in zip(axes.flat, panels.items(), strict=True):
        for place, method in enumerate(methods):
            own = (
                frame[frame["method"] == method].groupby("epoch")[column].agg(["mean", "min", "max"]) * scale
            )
            axis.plot(own.index, own["mean"], label=literally(method), **look(place))
            if (own["max"] > own["min"]).any():
                band = {"color": look(place)["color"], "alpha": 0.15, "linewidth": 0}
                axis.fill_between(own.index, own["min"], own["max"], **band)
        for start in starts:
            axis.axvline(start - 0.5, color=GREY, linewidth=1, linestyle=":")
        axis.set_title(title, fontsize=PLAIN)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _plain(axis)
    for axis in axes[1]:
        axis.set_xlabel("epoch" + (" (dotted: O.F. starts)" if starts else ""), fontsize=SMALL)
    _legend(figure, axes[0, 0], 2)
    column, (title, scale, digits) = next(iter(panels.items()))
    over = frame.groupby(["method", "epoch"], sort=False)[column].mean() * scale
    said = "; ".join(
        f"{method} from {over[method].iloc[0]:.{digits}f} to {over[method].iloc[-1]:.{digits}f}"
        for method in methods
    )
    return described(
        figure,
        f"Measures of training images over the epochs, one panel each: "
        f"{', '.join(name for name, *_ in panels.values())}. {title} goes: {said}.",
    )


def beta_sweep(frame: pd.DataFrame, panels: Mapping[str, tuple[str, float, int]], usual: float) -> Figure:
    """One panel for each measure against O.F.'s weight β, with 95 % intervals; crosses below: not run.

    Args:
        frame: columns beta, seeds, not_learned, and for each panel its name with _mean, _low, _high. β = 0
            stands apart from the logarithmic axis.
        panels: name → title, scale, digits.
        usual: the weight of the published code, marked.
    """
    figure, axes = plt.subplots(
        len(panels), figsize=(4.4, 1.75 * len(panels) + 0.6), sharex=True, layout="constrained"
    )
    above = frame.loc[frame["beta"] > 0, "beta"]
    zero = above.min() / 10 if len(above) else 1.0
    places = frame["beta"].where(frame["beta"] > 0, zero)
    run = frame["seeds"] > 0
    for axis, (name, (title, scale, _)) in zip(axes, panels.items(), strict=True):
        axis.set_xscale("log")
        axis.set_xlim(zero / 2, max(usual, places.max()) * 2)
        mean, low, high = (scale * frame[f"{name}_{part}"] for part in ("mean", "low", "high"))
        joined = run & (frame["beta"] > 0)
        axis.plot(places[joined], mean[joined], color=COLOURS[2], linewidth=1.2)
        axis.vlines(places[run], low[run], high[run], color=COLOURS[2], linewidth=2.5, alpha=0.45)
        axis.plot(places[run], mean[run], "o", color=COLOURS[2], markersize=5)
        across = axis.get_xaxis_transform()
        axis.plot(places[~run], np.full((~run).sum(), 0.05), "x", color=GREY, markersize=5, transform=across)
        axis.axvline(usual, color=GREY, linewidth=1, linestyle=":")
        axis.set_ylabel(title, fontsize=SMALL)
        _plain(axis)
        if not run.any():
            axis.set_yticks([])
    decades = (
        10.0 ** np.arange(np.ceil(np.log10(above.min())), np.floor(np.log10(above.max())) + 1)
        if len(above)
        else []
    )
    axes[-1].set_xticks([zero, *decades], ["0", *(f"1e{np.log10(value):.0f}" for value in decades)])
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("β, the weight of O.F. (dotted: published; ×: no run that learned)", fontsize=SMALL)
    name, (title, scale, digits) = next(iter(panels.items()))
    means = (scale * frame[f"{name}_mean"]).set_axis(frame["beta"]).dropna()
    ends = dict.fromkeys([means.idxmin(), means.idxmax()]) if len(means) else {}
    said = " and ".join(f"{means[beta]:.{digits}f} at β = {beta:g}" for beta in ends)
    return described(
        figure,
        f"{', '.join(title for title, *_ in panels.values())} against the weight of O.F., with 95 % "
        f"intervals; {run.sum()} of {len(frame)} weights have runs. Extremes of {title}: {said or 'none'}.",
    )


def _plain(axis: Axes) -> None:
    axis.tick_params(which="both", labelsize=SMALL)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=SMALL,
        frameon=False, handlelength=2.6,
    )  # fmt: skip
