"""Intervals against SciPy and by simulated coverage, the paired test against enumeration, Holm by hand, and refusals."""

import numpy as np
import pytest
from scipy import stats

from reidlib.statistics import StatisticsError, bootstrap_interval, holm, paired_difference, seed_summary


def clustered(rng, clusters=40, spread=0.1, noise=0.05, mean=0.6):
    """Values of people who differ among themselves more than their queries do; 1 to 8 queries each."""
    groups = np.repeat(np.arange(clusters), rng.integers(1, 9, clusters))
    return mean + spread * rng.standard_normal(clusters)[groups] + noise * rng.standard_normal(len(groups)), groups


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_agrees_with_scipy(method):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(15), rng.integers(1, 6, 15))
    values = rng.exponential(size=15)[groups] ** 3 + 0.01 * rng.random(len(groups))  # skewed: every term of BCa counts
    interval = bootstrap_interval(values, groups, resamples=50_000, method=method)
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    expected = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=50_000,
        batch=5000,
        method=method,
        random_state=np.random.default_rng(0),
    )
    width = interval.high - interval.low
    np.testing.assert_allclose(interval[1:], expected.confidence_interval, atol=0.02 * width, rtol=0)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low < interval.estimate < interval.high


def test_methods_differ_where_values_are_skewed():
    values = np.random.default_rng(0).exponential(size=30) ** 2
    percentile, bca = (bootstrap_interval(values, resamples=5000, method=method) for method in ("percentile", "bca"))
    assert bca.high > percentile.high
    assert bca.low > percentile.low


def test_interval_is_reproducible_and_ignores_group_names_and_nan():
    values, groups = clustered(np.random.default_rng(0))
    interval = bootstrap_interval(values, groups)
    assert bootstrap_interval(values, groups) == interval
    assert bootstrap_interval(values, groups, seed=1) != interval
    assert bootstrap_interval(values, groups * 7 + 100) == interval
    assert bootstrap_interval(np.append(values, np.nan), np.append(groups, 999)) == interval
    wider = bootstrap_interval(values, groups, confidence=0.99)
    assert wider.low < interval.low < interval.high < wider.high


def test_repeated_queries_of_a_person_add_no_certainty():
    values = np.random.default_rng(0).random(50)
    once = bootstrap_interval(values, np.arange(50))
    repeated = bootstrap_interval(np.repeat(values, 10), np.repeat(np.arange(50), 10))
    np.testing.assert_allclose(repeated, once)
    ungrouped = bootstrap_interval(np.repeat(values, 10))
    assert ungrouped.high - ungrouped.low < 0.5 * (once.high - once.low)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage(method):
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(800):
        values, groups = clustered(rng, clusters=100)
        low, high = bootstrap_interval(values, groups, resamples=500, method=method, seed=seed)[1:]
        wrong_low, wrong_high = bootstrap_interval(values, resamples=200, method=method, seed=seed)[1:]
        covered.append((low <= 0.6 <= high, wrong_low <= 0.6 <= wrong_high))
    by_identity, by_query = np.mean(covered, axis=0)
    assert 0.915 < by_identity < 0.97  # over many more simulations it is 0.94; three standard errors are 0.025
    assert by_query < 0.80  # what goes wrong without clusters


def test_constant_values_give_a_point():
    assert bootstrap_interval(np.full(9, 0.25), np.arange(9) // 2, method="bca") == (0.25, 0.25, 0.25)
    assert paired_difference(np.full(9, 0.25), np.full(9, 0.25)) == (0, 0, 0, 1)


def test_paired_p_value_by_hand():
    zeros = np.zeros(6)
    # three people with differences of one sign: 2 of the 8 swaps are as extreme
    difference = paired_difference(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), zeros, np.array([0, 1, 2, 0, 1, 2]))
    assert difference.p_value == 2 / 8
    assert difference.estimate == pytest.approx(0.2)
    # without people, 2 of 64; the sign turns with the order of the methods
    assert paired_difference(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), zeros).p_value == 2 / 64
    assert paired_difference(zeros, np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])).estimate == pytest.approx(-0.2)
    # sums of +3 and -1: ±4 and ±2, and +2 or more comes up in 2 of 4 swaps
    assert paired_difference(np.array([3.0, 0.0]), np.array([0.0, 1.0])).p_value == 1


def test_paired_difference_is_sharper_than_two_intervals_and_finds_it():
    rng = np.random.default_rng(0)
    values, groups = clustered(rng)
    better = values + 0.01 + 0.005 * rng.standard_normal(len(values))
    difference = paired_difference(better, values, groups)
    assert difference.low > 0.005
    assert difference.high < 0.015
    assert difference.p_value < 0.002
    assert bootstrap_interval(better, groups).low < bootstrap_interval(values, groups).high  # apart, nothing could be said


def test_paired_test_keeps_its_level():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        first, groups = clustered(rng, clusters=20, mean=0)
        second, _ = clustered(np.random.default_rng(1), clusters=20, mean=0)
        p_values.append(paired_difference(first, np.zeros_like(first), groups, resamples=200).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.4 < np.mean(np.array(p_values) < 0.5) < 0.6


def test_seed_summary_by_hand():
    assert seed_summary([0.5]) == (0.5, None, None, None, 1)
    mean, std, low, high, seeds = seed_summary([0.1, 0.2, 0.3])
    assert (mean, std, seeds) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    margin = 4.302653 * 0.1 / 3**0.5  # Student's t, 2 degrees of freedom, 97.5 %
    assert (low, high) == (pytest.approx(0.2 - margin), pytest.approx(0.2 + margin))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.4]), [0.8, 0.8])
    np.testing.assert_allclose(holm([0.9, 0.8, 0.7]), [1, 1, 1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.ones((2, 2))), r"values must be one-dimensional.*\(2, 2\)"),
        (lambda: bootstrap_interval([1.0, np.inf, 2.0]), "1 of 3 values are infinite, the first at 1"),
        (lambda: bootstrap_interval([1.0, 2.0], [1, 1]), "2 of 2 values are usable, of 1 groups"),
        (lambda: bootstrap_interval([np.nan, np.nan]), "0 of 2 values are usable"),
        (lambda: bootstrap_interval([1.0, 2.0], [1]), r"groups has shape \(1,\), but there are 2 values"),
        (lambda: bootstrap_interval([1.0, 2.0], confidence=95), "confidence=95 must lie between 0 and 1"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=10), "resamples=10 is too few"),
        (lambda: bootstrap_interval([1.0, 2.0], method="basic"), '"basic" is not known'),
        (lambda: paired_difference([1.0, 2.0], [1.0, 2.0, 3.0]), "values_a has 2 queries and values_b 3"),
        (lambda: paired_difference([1.0, np.nan], [1.0, 2.0]), "1 queries have a match for one method only.*query 1"),
        (lambda: seed_summary([]), "one finite value per seed"),
        (lambda: seed_summary([0.1, np.nan]), "one finite value per seed"),
        (lambda: seed_summary([0.1, 0.2], confidence=1), "confidence=1"),
        (lambda: holm([0.1, 1.2]), "numbers from 0 to 1"),
        (lambda: holm([np.nan]), "numbers from 0 to 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(StatisticsError, match=message):
        call()
