"""Numbers as text."""

from reidlib.crossed import CrossedEffect
from reidlib.show import text
from reidlib.show.text import DASH
from reidlib.statistics import Interval


def test_percentages():
    assert text.percent(0.8731) == "87.3"
    assert text.percent(0.8731, (0.84, 0.902)) == "87.3 [84.0, 90.2]"
    assert text.percent(None) == DASH
    assert text.percent(1) == "100.0"
    assert text.percent(0.5, (float("nan"), float("nan"))) == "50.0", "without an interval"


def test_differences_are_signed_points():
    assert text.points(0.012, -0.003, 0.027) == "+1.2 [-0.3, +2.7]"
    assert text.points(0.012, float("nan"), float("nan")) == "+1.2"
    assert text.points(0.012, -0.003, 0.027, over="people") == "+1.2, over people [-0.3, +2.7]"
    assert text.points(0.012, float("nan"), float("nan"), over="people") == "+1.2"
    effect = CrossedEffect(-0.25, -0.5, 0.0, 0.05, 3, 60, 9.0, 0.1, 0.2, 0.3)
    assert text.effect_points(effect) == "-25.0 [-50.0, +0.0]"
    over_people = Interval(-0.25, -0.375, -0.125)
    assert text.effect_points(effect, over_people) == "-25.0, over people [-37.5, -12.5]"


def test_p_values_are_not_zero():
    assert [text.p_value(p) for p in (1, 0.0312, 0.001, 0.00099)] == ["1.000", "0.031", "0.001", "< 0.001"]
    assert text.p_value(float("nan")) == DASH, "one seed has no p"


def test_scores_over_seeds_by_hand():
    """Three seeds at 0.5, 0.6 and 0.7: mean 0.6, s 0.1, interval ± 4.303 · 0.1 / √3."""
    assert text.percent_over_seeds([0.5, 0.6, 0.7]) == "60.0 ± 10.0 [35.2, 84.8]"
    assert text.percent_over_seeds([0.5]) == "50.0", "one seed has no deviation"


def test_a_rows_score_by_hand():
    """0.5 and 0.6: the mean is 0.55, s = 0.1 / √2."""
    assert text.percent_of_seeds([0.5, 0.6], (0.4, 0.7)) == "55.0 ± 7.1 (2 seeds)"
    assert text.percent_of_seeds([0.5], (0.4, 0.7)) == "50.0 [40.0, 70.0]", "as before, over people"
    assert text.percent_of_seeds([0.5]) == "50.0"
