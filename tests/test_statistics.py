"""Intervals against their definitions and by simulated coverage, significance tests by hand, errors."""

import tracemalloc

import numpy as np
import pytest

from reidlib.statistics import (
    StatisticsError,
    bootstrap_interval,
    hits,
    holm,
    interval_columns,
    paired_difference,
    seed_summary,
)


def clustered(rng, clusters=40, spread=0.1, noise=0.05, mean=0.6):
    """Values of queries, 1 to 8 per person. They vary more between people than between a person's queries."""
    groups = np.repeat(np.arange(clusters), rng.integers(1, 9, clusters))
    people, queries = rng.standard_normal(clusters)[groups], rng.standard_normal(len(groups))
    return mean + spread * people + noise * queries, groups


def written_out(values, groups, resamples, seed):
    """The 95 % percentile interval by its definition, with independent resamples."""
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    return np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])


def test_interval_is_that_of_the_definition():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(15), rng.integers(1, 6, 15))
    values = rng.exponential(size=15)[groups] ** 3 + 0.01 * rng.random(len(groups))
    interval = bootstrap_interval(values, groups, resamples=400_000)
    expected = written_out(values, groups, 400_000, seed=1)
    width = interval.high - interval.low
    np.testing.assert_allclose(interval[1:], expected, atol=0.02 * width, rtol=0)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low < interval.estimate < interval.high


def test_many_people_are_resampled_in_pieces():
    """All at once, 300 resamples of 60,000 people would take 144 MB for each of three arrays."""
    values = np.random.default_rng(0).standard_normal(60_000)
    tracemalloc.start()
    interval = bootstrap_interval(values, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    margin = 1.96 * values.std() / len(values) ** 0.5
    expected = (values.mean() - margin, values.mean() + margin)
    np.testing.assert_allclose(interval[1:], expected, atol=0.4 * margin, rtol=0)


def test_interval_is_reproducible_and_ignores_group_names_and_nan():
    values, groups = clustered(np.random.default_rng(0))
    interval = bootstrap_interval(values, groups)
    assert bootstrap_interval(values, groups) == interval
    assert bootstrap_interval(values, groups, seed=1) != interval
    assert bootstrap_interval(values, groups * 7 + 100) == interval
    assert bootstrap_interval(np.append(values, np.nan), np.append(groups, 999)) == interval
    wider = bootstrap_interval(values, groups, confidence=0.99)
    assert wider.low < interval.low < interval.high < wider.high


def test_repeated_queries_of_a_person_do_not_narrow_the_interval():
    values = np.random.default_rng(0).random(50)
    once = bootstrap_interval(values, np.arange(50))
    repeated = bootstrap_interval(np.repeat(values, 10), np.repeat(np.arange(50), 10))
    np.testing.assert_allclose(repeated, once)
    ungrouped = bootstrap_interval(np.repeat(values, 10))
    assert ungrouped.high - ungrouped.low < 0.5 * (once.high - once.low)


def test_coverage():
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(800):
        values, groups = clustered(rng, clusters=100)
        low, high = bootstrap_interval(values, groups, resamples=500, seed=seed)[1:]
        wrong_low, wrong_high = bootstrap_interval(values, resamples=200, seed=seed)[1:]
        covered.append((low <= 0.6 <= high, wrong_low <= 0.6 <= wrong_high))
    by_identity, by_query = np.mean(covered, axis=0)
    # With many more simulations, coverage is 0.94. Three standard errors are 0.025.
    assert 0.915 < by_identity < 0.97
    assert by_query < 0.80  # intervals that ignore the clusters are too narrow


def test_constant_values_give_a_point():
    assert bootstrap_interval(np.full(9, 0.25), np.arange(9) // 2) == (0.25, 0.25, 0.25)
    assert paired_difference(np.full(9, 0.25), np.full(9, 0.25)) == (0, 0, 0, 1)


def test_paired_p_value_by_hand():
    zeros = np.zeros(6)
    # Three people, all differences of one sign: 2 of the 8 swaps are as extreme.
    difference = paired_difference(
        np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), zeros, np.array([0, 1, 2, 0, 1, 2])
    )
    assert difference.p_value == 2 / 8
    assert difference.estimate == pytest.approx(0.2)
    # Without people, 2 of 64. The sign changes with the order of the methods.
    assert paired_difference(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), zeros).p_value == 2 / 64
    assert paired_difference(zeros, np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])).estimate == pytest.approx(-0.2)
    # The differences +3 and -1 sum to 2. Of the swaps' sums, ±4 and ±2, half are at least 2: p is twice that.
    assert paired_difference(np.array([3.0, 0.0]), np.array([0.0, 1.0])).p_value == 1


def test_paired_difference_finds_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    values, groups = clustered(rng)
    better = values + 0.01 + 0.005 * rng.standard_normal(len(values))
    difference = paired_difference(better, values, groups)
    assert difference.low > 0.005
    assert difference.high < 0.015
    assert difference.p_value < 0.002
    # Two separate intervals overlap, so they show no difference.
    assert bootstrap_interval(better, groups).low < bootstrap_interval(values, groups).high


def test_paired_test_keeps_its_level():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        first, groups = clustered(rng, clusters=20, mean=0)
        second, _ = clustered(np.random.default_rng(1), clusters=20, mean=0)
        p_values.append(paired_difference(first, np.zeros_like(first), groups, resamples=200).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.4 < np.mean(np.array(p_values) < 0.5) < 0.6


def test_a_single_person_has_a_difference_but_no_interval_and_proves_nothing():
    difference = paired_difference([1.0, 0.5, np.nan], [0.5, 0.25, np.nan], [7, 7, 8])
    assert difference.estimate == 0.375 and difference.p_value == 1
    assert np.isnan([difference.low, difference.high]).all()
    with pytest.raises(
        StatisticsError, match="0 of 2 values are usable, of 0 groups .identities., but 1 are"
    ):
        paired_difference([np.nan, np.nan], [np.nan, np.nan])


def test_hits_by_hand():
    ranks = [1, 3, np.nan, 2]
    np.testing.assert_array_equal(hits(ranks), [1, 0, np.nan, 0])
    np.testing.assert_array_equal(hits(np.array(ranks), 2), [1, 0, np.nan, 1])
    np.testing.assert_array_equal(hits(ranks, 3), [1, 1, np.nan, 1])
    assert hits([]).shape == (0,)


def test_an_interval_as_columns():
    assert interval_columns("rank1", (0.25, 0.75)) == {"rank1_low": 0.25, "rank1_high": 0.75}
    assert np.isnan([*interval_columns("rank1", None).values()]).tolist() == [True, True]
    with pytest.raises(ValueError, match="zip"):
        interval_columns("map", (0.5, 0.25, 0.75))


def test_constant_people_give_a_point_even_where_their_queries_differ():
    values, groups = np.array([0.0, 1.0, 0.5, 0.25, 0.75]), np.array([0, 0, 1, 2, 2])
    assert bootstrap_interval(values, groups) == (0.5, 0.5, 0.5)


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
        (lambda: paired_difference([1.0, 2.0], [1.0, 2.0, 3.0]), "values_a has 2 queries and values_b 3"),
        (
            lambda: paired_difference([1.0, np.nan], [1.0, 2.0]),
            "1 queries have a match for one method only.*query 1",
        ),
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
