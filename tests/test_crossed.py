"""The interval over seeds and people: by hand, by its properties, and by simulated coverage and power."""

import numpy as np
import pytest

from reidlib.crossed import (
    CrossedEffect,
    crossed_effect,
    crossed_interval,
    person_values,
    power_of,
    seeds_needed,
)
from reidlib.statistics import StatisticsError

NAN = float("nan")
# Two seeds, three people with one query each. The means of seeds are 3 and 1, those of people 4, 2 and 0.
LAYOUT = np.array([[6.0, 3.0, 0.0], [2.0, 1.0, 0.0]])


def drawn(rng, seeds=3, count=60, seed_sd=1.0, person_sd=8.0, interaction_sd=8.0, mean=0.0):
    """(S, Q) differences in points and (Q,) people with 1 to 6 queries each."""
    people = np.repeat(np.arange(count), rng.integers(1, 7, count))
    of_people = person_sd * rng.standard_normal(count)
    of_people = of_people + interaction_sd * rng.standard_normal((seeds, count))
    of_seeds = seed_sd * rng.standard_normal((seeds, 1))
    return mean + of_seeds + of_people[:, people] + rng.standard_normal((seeds, len(people))), people


def effect_of(differences, people, **options):
    second = np.linspace(0, 1, np.size(differences)).reshape(np.shape(differences)) + 0 * differences
    return crossed_effect(differences + second, second, people, **options)


def made(seed_sd=0.01, person_sd=0.2, interaction_sd=0.2, seeds=3, people=200):
    return CrossedEffect(0.01, NAN, NAN, NAN, seeds, people, NAN, seed_sd, person_sd, interaction_sd)


# ---------------------------------------------------------------------------------------------------- by hand


def test_a_layout_by_hand():
    """Mean squares: seeds 3 (1² + 1²) / 1 = 6, people 2 (2² + 0 + 2²) / 2 = 8, the rest 4 · 1² / 2 = 2."""
    effect = crossed_effect(LAYOUT, np.zeros_like(LAYOUT), ["a", "b", "c"])
    assert (effect.difference, effect.seeds, effect.people) == (2, 2, 3)
    assert effect.seed_sd**2 == pytest.approx((6 - 2) / 3)
    assert effect.person_sd**2 == pytest.approx((8 - 2) / 2)
    assert effect.interaction_sd**2 == pytest.approx(2)
    # The parts are 2 / 3 with 1 degree of freedom and 4 / 3 with 2, together 2.
    assert effect.degrees_of_freedom == pytest.approx(2**2 / ((2 / 3) ** 2 / 1 + (4 / 3) ** 2 / 2))
    half = (12.706205**2 * 2 / 3 + 4.302653**2 * 4 / 3) ** 0.5
    assert (effect.low, effect.high) == (pytest.approx(2 - half, rel=1e-6), pytest.approx(2 + half, rel=1e-6))


def test_components_do_not_fall_below_zero():
    """All three mean squares are 4: seeds and people do nothing, the rest is the whole variance, 4 / 4."""
    effect = crossed_effect(np.array([[4.0, 0.0], [0.0, 0.0]]), np.zeros((2, 2)), [1, 2])
    assert (effect.seed_sd, effect.person_sd, effect.interaction_sd) == (0, 0, 2)
    assert effect.high - effect.difference == pytest.approx(12.706205, rel=1e-6)


def test_only_seeds_vary():
    """Student's interval of the seeds' means, 0.1, 0.2 and 0.3, and its p."""
    differences = np.repeat([[0.1], [0.2], [0.3]], 5, axis=1)
    effect = effect_of(differences, [0, 0, 1, 2, 2])
    assert effect.seed_sd == pytest.approx(0.1) and effect.degrees_of_freedom == pytest.approx(2)
    assert effect.low == pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert effect.p == pytest.approx(0.0742, abs=1e-4), "t = 3.464 with 2 degrees of freedom"


def test_only_people_vary():
    """Student's interval of the people's differences, 1, 2 and 3, however many seeds repeat them."""
    for seeds in (2, 7):
        effect = crossed_effect(np.tile([1.0, 2.0, 3.0], (seeds, 1)), np.zeros((seeds, 3)), [5, 6, 7])
        assert effect.person_sd == pytest.approx(1) and effect.degrees_of_freedom == pytest.approx(2)
        assert effect.high == pytest.approx(2 + 4.302653 / 3**0.5)


def test_a_person_counts_by_the_number_of_queries():
    """One person with one query and one with three: mAP is the mean over queries, 2.5 and 6.5."""
    differences = np.array([[1.0, 3, 3, 3], [2, 8, 8, 8]])
    people = np.array([0, 1, 1, 1])
    values = person_values(differences, people)
    assert values.tolist() == [[2.5 - 1.5 / 2, 2.5 + 1.5 / 2], [6.5 - 4.5 / 2, 6.5 + 4.5 / 2]]
    assert crossed_effect(differences, np.zeros((2, 4)), people).difference == 4.5


def test_equal_methods_have_no_difference():
    values = np.random.default_rng(0).random((3, 8))
    effect = crossed_effect(values, values, np.arange(8) // 2)
    assert effect[:4] == (0, 0, 0, 1)


def test_rounding_is_no_difference():
    """0.1 more for half of the queries, 0.1 less for the others: their floating-point sum is not quite 0."""
    second = np.random.default_rng(0).random((2, 40))
    effect = crossed_effect(second + np.tile([0.1, -0.1], 20), second, np.arange(40) // 2)
    assert effect.difference == 0 and effect.p == 1


# ------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_p_says_whether_the_interval_leaves_out_zero(seeds):
    rng = np.random.default_rng(seeds)
    seen = set()
    for mean in np.linspace(-12, 12, 40):
        differences, people = drawn(rng, seeds, count=12, mean=mean)
        for confidence in (0.5, 0.9, 0.95):
            effect = effect_of(differences, people, confidence=confidence)
            apart = effect.low > 0 or effect.high < 0
            assert (effect.p < 1 - confidence) == apart
            seen.add(apart)
        at_p = crossed_interval(effect, 1 - effect.p)
        assert min(abs(at_p.low), abs(at_p.high)) < 1e-6, "the interval with confidence 1 - p ends at 0"
    assert seen == {True, False}


def test_shift_scale_and_sign():
    differences, people = drawn(np.random.default_rng(0))
    effect = effect_of(differences, people)
    shifted, scaled = effect_of(differences + 3, people), effect_of(-2 * differences, people)
    np.testing.assert_allclose(shifted[:3], np.add(effect[:3], 3))
    np.testing.assert_allclose(shifted[4:], effect[4:])
    np.testing.assert_allclose(scaled[:3], np.multiply(-2, (effect.difference, effect.high, effect.low)))
    np.testing.assert_allclose(scaled[3:7], effect[3:7])
    np.testing.assert_allclose(scaled[7:], np.multiply(2, effect[7:]))


def test_order_and_names_do_not_matter():
    rng = np.random.default_rng(0)
    differences, people = drawn(rng)
    rows, columns = rng.permutation(3), rng.permutation(len(people))
    again = effect_of(differences[rows][:, columns], [f"person {name}" for name in people[columns]])
    np.testing.assert_allclose(again, effect_of(differences, people))


def test_repeated_queries_of_each_person_change_nothing():
    differences, people = drawn(np.random.default_rng(0))
    effect = effect_of(differences, people)
    np.testing.assert_allclose(effect_of(np.tile(differences, 5), np.tile(people, 5)), effect)


def test_queries_without_a_match_are_left_out():
    differences, people = drawn(np.random.default_rng(0))
    effect = effect_of(differences, people)
    without = np.hstack([differences, np.full((3, 2), NAN)])
    np.testing.assert_allclose(effect_of(without, [*people, 999, people[0]]), effect)


def test_one_seed_has_a_difference_and_nothing_else():
    effect = crossed_effect(LAYOUT[:1], np.zeros((1, 3)), [0, 1, 1])
    assert (effect.difference, effect.seeds, effect.people) == (3, 1, 2)
    assert np.isnan([*effect[1:4], *effect[6:]]).all()
    assert np.isnan(crossed_interval(effect, 0.9)[1:]).all()


def test_one_person_has_a_difference_and_nothing_else():
    effect = crossed_effect(LAYOUT, np.zeros((2, 3)), [4, 4, 4])
    assert (effect.difference, effect.seeds, effect.people) == (2, 2, 1)
    assert np.isnan([*effect[1:4], *effect[6:]]).all()


# --------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.0), (3, 3.0), (8, 1.0)])
def test_coverage(seeds, seed_sd):
    """With many more simulations coverage is 0.95 to 0.97. Three standard errors are 0.03."""
    rng = np.random.default_rng(seeds)
    held = []
    for _ in range(500):
        effect = crossed_effect(*_against_zero(*drawn(rng, seeds, seed_sd=seed_sd)))
        held.append(effect.low <= 0 <= effect.high)
    assert 0.92 < np.mean(held) < 0.995


def test_an_interval_over_people_of_these_seeds_is_too_narrow():
    """The mean of three seeds varies by 3 / √3 points with the seeds, and by about 0.7 with 100 people."""
    rng = np.random.default_rng(5)
    crossed, people_only = [], []
    for _ in range(300):
        differences, people = drawn(rng, 3, 100, seed_sd=3.0, person_sd=4.0)
        effect = crossed_effect(*_against_zero(differences, people))
        crossed.append(effect.low <= 0 <= effect.high)
        values = person_values(differences, people).mean(axis=0)
        people_only.append(abs(values.mean()) < 2 * values.std(ddof=1) / len(values) ** 0.5)
    assert np.mean(crossed) > 0.9 > 0.7 > np.mean(people_only)


def _against_zero(differences, people):
    return differences, np.zeros_like(differences), people


# ------------------------------------------------------------------------------------------------------ power


def test_power_is_that_of_simulated_studies():
    rng = np.random.default_rng(0)
    effect = made(seed_sd=2.0, person_sd=8.0, interaction_sd=8.0, people=60)
    for seeds, size in ((3, 4.0), (6, 4.0), (6, 2.0)):
        found = []
        for _ in range(400):
            people = np.arange(60)
            values = size + 2 * rng.standard_normal((seeds, 1)) + 8 * rng.standard_normal(60)
            values = values + 8 * rng.standard_normal((seeds, 60))
            found.append(crossed_effect(*_against_zero(values, people)).p < 0.05)
        # three standard errors are at most 0.075
        assert power_of(effect, size, seeds) == pytest.approx(np.mean(found), abs=0.075)


def test_the_seeds_needed_are_the_fewest_that_do():
    effect = made()
    needed = seeds_needed(effect, 0.06)
    assert needed > 2
    assert power_of(effect, 0.06, needed) >= 0.8 > power_of(effect, 0.06, needed - 1)
    assert seeds_needed(effect, -0.06) == needed
    assert seeds_needed(effect, 0.06, power=0.9) > needed
    assert seeds_needed(effect, 0.06, confidence=0.8) < needed


def test_larger_differences_need_fewer_seeds():
    needed = [seeds_needed(made(people=2000), size) for size in (0.014, 0.02, 0.03, 0.05, 0.5)]
    assert needed == sorted(needed, reverse=True) and needed[0] > needed[2] > needed[-1] == 2


def test_seeds_cannot_make_up_for_people():
    """With 20 points per person and 200 people, people alone have a standard error of 1.4 points."""
    assert seeds_needed(made(seed_sd=0.0), 0.03) is None
    assert seeds_needed(made(seed_sd=0.0, people=20_000), 0.03) is not None
    assert seeds_needed(made(people=20_000), 0.01, most=5) is None


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crossed_effect([1.0], [1.0], [0]), r"first has shape \(1,\).*\(seeds, queries\)"),
        (lambda: crossed_effect(LAYOUT, LAYOUT[:1], [0, 1, 2]), r"\(2, 3\) and second \(1, 3\)"),
        (lambda: crossed_effect(np.ones((0, 3)), np.ones((0, 3)), [0, 1, 2]), r"shape \(0, 3\)"),
        (lambda: crossed_effect(LAYOUT, LAYOUT, [0, 1]), r"people has shape \(2,\).*3 queries"),
        (lambda: crossed_effect(LAYOUT, [[0, 0, 0], [0, np.inf, 0]], [0, 1, 2]), "1 values are .* query 1"),
        (lambda: crossed_effect(LAYOUT, LAYOUT * NAN, [0, 1, 2]), "3 queries have .* some runs.*query 0"),
        (
            lambda: crossed_effect([[1, 1], [1, NAN]], [[1, 1], [1, NAN]], [0, 1]),
            "1 queries have a match for some runs only .NaN., the first is query 1",
        ),
        (
            lambda: crossed_effect([[NAN, 1], [1, 1]], [[NAN, 1], [NAN, 1]], [0, 1]),
            "1 queries have .* query 0",
        ),
        (lambda: crossed_effect(LAYOUT * NAN, LAYOUT * NAN, [0, 1, 2]), "0 of 3 queries are usable"),
        (lambda: crossed_effect(LAYOUT, LAYOUT, [0, 1, 2], confidence=95), "confidence=95"),
        (lambda: crossed_interval(made(), 0), "confidence=0"),
        (lambda: power_of(made(), 0.1, 1), "seeds=1 and people=200 must both be at least 2"),
        (lambda: seeds_needed(made(), 0), "size=0 must be a difference other than 0"),
        (lambda: seeds_needed(made(), 0.1, power=1), "power=1 must lie between 0.05"),
        (lambda: seeds_needed(made(NAN, NAN, NAN, seeds=1), 0.1), "1 seed.s. and 200 person.s. does not"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(StatisticsError, match=message):
        call()
