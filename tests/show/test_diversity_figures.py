"""The figures about diversity: what is drawn where, and that each says in words what it shows."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from reidlib.show import diversity_figures as figures
from reidlib.show.beta_sweep import SWEPT
from reidlib.show.diversity import SHOWN
from reidlib.show.drawing import description_of


def drawn(figure):
    figure.canvas.draw()
    return figure


def test_matrices_are_drawn_from_0_to_1_with_their_captions():
    one = np.array([[1, 0.75, 0.25], [0.75, 1, np.nan], [0.25, np.nan, 1]])
    figure = drawn(figures.channel_matrices({"A": one, "B": np.full((2, 2), np.nan)}, ["S 0.5", "S –"]))
    left, right, _ = figure.axes
    assert left.get_title() == "A\nS 0.5" and left.images[0].get_clim() == (0, 1)
    np.testing.assert_array_equal(left.images[0].get_array().filled(np.nan), one)
    assert right.images[0].get_array().mask.all(), "grey"
    said = description_of(figure)
    assert "A: S 0.5; 50 % of the pairs above 0.5" in said and "B: no channel varies" in said


def test_rows_can_be_told_apart():
    looks = [tuple(figures.look(place).values()) for place in range(28)]
    assert len(set(looks)) == 28


def test_spectra_are_lines_on_a_log_scale_without_zeros():
    rows = [("A", panel, place, value) for panel in ("features,\nx", "weights") for place, value in
            ((0, 0.5), (0.5, 0.25), (1, 0.0))]  # fmt: skip
    figure = drawn(figures.spectra(pd.DataFrame(rows, columns=["method", "panel", "place", "value"])))
    left, right = figure.axes
    assert left.get_yscale() == right.get_yscale() == "log"
    assert left.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert "features, x; weights" in description_of(figure) and "A 50 %" in description_of(figure)


def course(seeds):
    rows = [(method, seed, epoch, *(0.1 * epoch + 0.02 * seed,) * 4)
            for method in ("A", "B") for seed in range(seeds) for epoch in (1, 2)]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "seed", "epoch", *SHOWN])


def test_measures_over_epochs_have_a_band_over_seeds_and_their_units():
    figure = drawn(figures.over_epochs(course(2), SHOWN, [2]))
    assert [axis.get_title() for axis in figure.axes] == [title for title, *_ in SHOWN.values()]
    area = figure.axes[1]
    assert area.lines[0].get_ydata() == pytest.approx([11, 21]), "in %"
    assert len(area.collections) == 2
    band = area.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((10, 22))
    assert area.lines[-1].get_xdata() == [1.5, 1.5], "O.F. starts between two epochs"
    assert "S(Corr) goes: A from 0.110 to 0.210" in description_of(figure)
    assert not figures.over_epochs(course(1), SHOWN).axes[1].collections


def test_epochs_that_nobody_measured_are_said():
    figure = drawn(figures.over_epochs(course(1)[:0], SHOWN))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no run holds measures of its epochs"]
    assert "no run holds measures" in description_of(figure)


def sweep(*means):
    frame = pd.DataFrame({"beta": [0.0, 1e-7, 1e-6, 1e-5], "seeds": [int(m == m) for m in means]})
    for name in SWEPT:
        frame = frame.assign(**{f"{name}_mean": means})
        frame = frame.assign(**{f"{name}_low": np.subtract(means, 0.1), f"{name}_high": np.add(means, 0.1)})
    return frame


def test_weights_without_a_run_are_crosses_and_zero_stands_apart():
    figure = drawn(figures.beta_sweep(sweep(0.25, 0.5, np.nan, 0.75), SWEPT, 1e-6))
    first = figure.axes[0]
    joined, points, crosses, usual = first.lines
    assert joined.get_xdata().tolist() == [1e-7, 1e-5], "the line leaves out zero"
    np.testing.assert_allclose(points.get_xdata(), [1e-8, 1e-7, 1e-5])
    np.testing.assert_allclose(points.get_ydata(), [25, 50, 75])
    assert crosses.get_xdata().tolist() == [1e-6] and usual.get_xdata() == [1e-6, 1e-6]
    bars = first.collections[0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[15, 35], [40, 60], [65, 85]])
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["0", "1e-7", "1e-6", "1e-5"]
    said = description_of(figure)
    assert "3 of 4 weights have runs" in said and "25.0 at β = 0 and 75.0 at β = 1e-05" in said


def test_a_sweep_without_runs_and_one_without_zero_are_drawn():
    assert "Extremes of mAP (%): none." in description_of(
        drawn(figures.beta_sweep(sweep(*[np.nan] * 4), SWEPT, 1e-6))
    )
    drawn(figures.beta_sweep(sweep(0.1, 0.2, 0.3, 0.4)[2:3], SWEPT, 1e-6))
    drawn(figures.beta_sweep(sweep(0.1, 0.2, 0.3, 0.4)[:1], SWEPT, 1e-6))
