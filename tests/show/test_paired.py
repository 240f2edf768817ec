"""What a comparison of two methods is allowed to say, from made-up queries."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_runs import fabricate

from reidlib.crossed import crossed_effect
from reidlib.run import read_run
from reidlib.show import tables
from reidlib.show.paired import (
    PairingError,
    by_seed,
    corrected_p,
    over_people,
    paired_effect,
    verdict,
)
from reidlib.study.results import Study

PEOPLE = np.repeat(np.arange(50), 2)


def effect_of(mean, seeds=3, seed_sd=0.001, person_sd=0.01, people=PEOPLE):
    """The effect of made-up average precisions: a difference of `mean` with these deviations."""
    rng = np.random.default_rng(0)
    of_people = rng.standard_normal(people.max() + 1)
    of_people = person_sd * (of_people - of_people.mean()) / (of_people.std() or 1)
    of_seeds = seed_sd * (np.arange(seeds) - (seeds - 1) / 2)
    first = 0.5 + mean + of_seeds[:, None] + of_people[people]
    return crossed_effect(first, np.full_like(first, 0.5), people)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"mean": 0.03}, "differs"),
        ({"mean": -0.03}, "differs"),
        ({"mean": 0.0}, "smaller than 1 point"),
        ({"mean": 0.0, "person_sd": 0.0385}, "smaller than 1 point"),  # ± 0.94 points at 90 %, 1.13 at 95 %
        ({"mean": 0.0049}, "smaller than 1 point"),  # its interval leaves out 0, but nobody cares
        ({"mean": 0.0099}, "differs"),  # the interval reaches beyond a point
        ({"mean": 0.03, "seed_sd": 0.02}, "cannot tell"),  # seeds disagree: 1, 3 and 5 points
        ({"mean": 0.03, "person_sd": 0.2}, "cannot tell"),  # people disagree
        ({"mean": 0.0, "person_sd": 0.1}, "cannot tell"),  # neither a difference nor the lack of one
        ({"mean": 0.03, "seeds": 1}, "one seed: no verdict"),
        ({"mean": 0.0, "seeds": 1}, "one seed: no verdict"),
        ({"mean": 0.3, "people": np.zeros(6, int)}, "cannot tell"),  # one person
    ],
)
def test_the_words(made, words):
    assert verdict(effect_of(**made)) == words


def test_the_words_follow_the_corrected_p_and_the_noise():
    effect = effect_of(0.03)
    assert effect.p < 0.05
    assert verdict(effect, 0.06) == "cannot tell"
    assert verdict(effect, 0.04) == "differs"
    assert verdict(effect, 0.04, noise=0.031) == "cannot tell", "other random draws do as much"
    assert verdict(effect, 0.04, noise=0.029) == "differs"
    assert verdict(effect_of(0.0), 0.0, noise=0.5) == "smaller than 1 point"


def test_p_is_corrected_over_the_effects_that_have_one():
    effects = [effect_of(0.03), effect_of(0.3, seeds=1), effect_of(0.004, person_sd=0.02)]
    first, none, last = corrected_p(effects)
    assert np.isnan(none)
    assert (first, last) == (2 * effects[0].p, effects[2].p), "two of them, not three"
    assert corrected_p([]) == [] and np.isnan(corrected_p(effects[1:2])).all()


def queries(precisions, ranks):
    return pd.DataFrame(
        {"identity": [0, 0, 1, 1], "average_precision": precisions, "first_match_rank": ranks}
    )


def test_the_effect_of_two_seeds_by_hand():
    """Seed 0: 0.2 better for both people, seed 1: 0.4. In seed 1 one query of each person becomes right."""
    base = queries([0.1, 0.1, 0.2, 0.2], [2, 1, 2, 1])
    pairs = [
        (queries([0.3, 0.3, 0.4, 0.4], [2, 1, 2, 1]), base),
        (queries([0.5, 0.5, 0.6, 0.6], [1, 1, 1, 1]), base),
    ]
    effect = paired_effect(pairs)
    assert effect.map_by_seed == pytest.approx([0.2, 0.4])
    assert (effect.second_rank1, effect.second_map) == (0.5, pytest.approx(0.15))
    assert effect.mean_ap.difference == pytest.approx(0.3)
    assert effect.mean_ap.low == pytest.approx(0.3 - 12.706205 * 0.1, rel=1e-5), "s / √2 is 0.1"
    assert (effect.rank1.difference, effect.rank1.seeds) == (0.25, 2)
    assert effect.rank1_over_people is effect.map_over_people is None, "seeds are in the interval"
    alone = paired_effect(pairs[:1])
    assert alone.map_over_people == pytest.approx((0.2, 0.2, 0.2)) and alone.rank1_over_people == (0, 0, 0)
    assert np.isnan([alone.mean_ap.low, alone.mean_ap.high, alone.mean_ap.p]).all()


def test_one_seeds_interval_is_over_people_not_queries():
    """Two people of 50 gain all: resampled people, the interval begins at 0."""
    gain = np.isin(PEOPLE, [3, 4])[None].astype(float)
    interval = over_people(gain, np.zeros_like(gain), PEOPLE)
    assert interval.estimate == 0.04 and interval.low == 0 and 0.08 <= interval.high <= 0.12
    assert over_people(np.tile(gain, (2, 1)), np.zeros((2, 100)), PEOPLE) is None


def test_a_run_that_is_given_twice_counts_once_and_two_runs_of_a_seed_are_refused(tmp_path):
    """Otherwise one training would count as two, and get the verdict that one seed does not give."""
    study = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    base, other = (fabricate(study, method, value) for method, value in (("baseline", 0.2), ("abdnet", 0.3)))
    assert by_seed([other, read_run(other.folder), other]) == {0: other}
    table = tables.effects_table([base, other, base, other], "baseline")
    assert table[["seeds", "verdict"]].to_numpy().tolist() == [["seed 0", "one seed: no verdict"]]
    elsewhere = replace(other, folder=tmp_path / "another")
    for runs in ([base, other, elsewhere], [base, replace(base, folder=tmp_path / "another"), other]):
        with pytest.raises(PairingError, match="have the seed 0: .*-seed0 and another"):
            tables.effects_table(runs, "baseline")
