"""Scores of groups and their differences, against formulas and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from reidlib.crossed import crossed_effect
from reidlib.evaluation import EvaluationError
from reidlib.evaluation.by_group import group_difference, group_score
from reidlib.statistics import bootstrap_interval

NAN = np.nan


def groups(*numbers, of=6):
    return np.isin(np.arange(of), numbers)


def test_a_score_is_over_the_groups_queries_that_have_a_match():
    values = np.array([[0.1, 0.3, NAN, 0.8, 0.9, 0.5]])
    people = np.array([1, 1, 2, 3, 4, 4])
    score = group_score(values, people, groups(0, 1, 2, 3))
    assert (score.mean, score.queries, score.people) == (pytest.approx(0.4), 3, 2)
    assert (score.low, score.high) == bootstrap_interval([0.1, 0.3, 0.8], [1, 1, 3])[1:]
    alone = group_score(values, people, groups(0, 1))
    assert alone[:1] == (pytest.approx(0.2),) and np.isnan(alone[1:3]).all() and alone[3:] == (2, 1)
    assert group_score(values, people, groups(2))[3:] == (0, 0)


def test_of_several_seeds_the_interval_covers_seeds_and_people():
    rng = np.random.default_rng(0)
    people, seeds = np.repeat(np.arange(30), 2), np.array([[-0.1], [0.0], [0.1]])
    values = np.clip(0.5 + seeds + rng.normal(0, 0.1, (3, 60)), 0, 1)
    score, effect = group_score(values, people, np.ones(60, bool)), crossed_effect(values, 0 * values, people)
    assert score[:3] == pytest.approx(effect[:3])
    one = group_score(values[:1], people, np.ones(60, bool))
    assert score.high - score.low > 4 * (one.high - one.low), "the seeds differ by more than the people"
    low = group_score(values - values.mean() + 0.01, people, np.ones(60, bool))
    assert low.low == 0 and low.high < 1, "shares end at 0 and 1"


def test_a_difference_is_that_of_the_means_in_every_seed():
    values = np.array([[0.5, 0.7, 0.2, 0.4, NAN, 0.0], [0.9, 0.7, 0.2, 0.0, NAN, 0.0]])
    effect, over_people = group_difference(values, [1, 2, 3, 4, 5, 6], groups(0, 1, 4), groups(2, 3))
    assert effect.difference == pytest.approx((0.3 + 0.7) / 2) and over_people is None
    assert (effect.seeds, effect.people) == (2, 4)
    swapped, _ = group_difference(values, [1, 2, 3, 4, 5, 6], groups(2, 3), groups(0, 1))
    assert swapped.difference == pytest.approx(-effect.difference)
    assert (swapped.low, swapped.high) == pytest.approx((-effect.high, -effect.low))


def test_of_people_in_one_group_each_the_interval_is_welchs():
    """Equal seeds and one query a person: nothing but two independent samples of people."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.6, 0.1, 300), rng.normal(0.4, 0.2, 500)])
    first = np.arange(800) < 300
    effect, _ = group_difference(np.stack([values] * 2), np.arange(800), first, ~first)
    welch = stats.ttest_ind(values[first], values[~first], equal_var=False).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx(tuple(welch), abs=2e-4)
    _, over_people = group_difference(values[None], np.arange(800), first, ~first)
    assert over_people[1:] == pytest.approx(tuple(welch), abs=2e-3)


def test_of_people_in_both_groups_what_they_share_cancels():
    """Each person has a level of its own and a query in both groups: a paired difference."""
    rng = np.random.default_rng(2)
    level, noise = rng.uniform(0, 1, 100), rng.normal(0, 0.02, 200)
    values, first = np.repeat(level, 2) + noise + np.tile([0.05, 0.0], 100), np.arange(200) % 2 == 0
    effect, over_people = group_difference(values[None], np.repeat(np.arange(100), 2), first, ~first)
    paired = stats.ttest_rel(values[first], values[~first]).confidence_interval()
    assert over_people[1:] == pytest.approx(tuple(paired), abs=2e-3)
    assert effect.seeds == 1 and np.isnan(effect.low)


@pytest.mark.parametrize(("first", "second"), [((0, 1), (1, 2)), ((), (1,)), ((2,), (1,))])
def test_groups_that_cannot_be_compared_are_refused(first, second):
    values = np.array([[0.1, 0.2, NAN, 0.3, 0.4, 0.5]])
    with pytest.raises(EvaluationError, match="two groups without a common query"):
        group_difference(values, np.arange(6), groups(*first), groups(*second))
