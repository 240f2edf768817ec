"""The verdict on a claim: other numbers give other words."""

from dataclasses import replace

import numpy as np
import pytest

from reidlib.claims import CLAIMS
from reidlib.crossed import CrossedEffect
from reidlib.show import verdicts
from reidlib.show.verdicts import Evidence, judge

NAN = float("nan")
BY_NAME = {claim.name: claim for claim in CLAIMS}
DIVERSITY = BY_NAME["diversity"]  # + 7.4 published, margin 1 point
SA = BY_NAME["SA before GAP"]  # nothing published


def effect(difference, half, seeds=3):
    """An effect with the interval difference ∓ half."""
    bounds = (difference - half, difference + half) if seeds > 1 else (NAN, NAN)
    return CrossedEffect(difference, *bounds, NAN, seeds, 100, 2.0, 0.01, 0.01, 0.01)


def evidence(difference, half=0.02, narrow=0.015, *, seeds=3, **more):
    return Evidence(effect(difference, half, seeds), effect(difference, narrow, seeds), **more)


@pytest.fixture
def needs(monkeypatch):
    """Size → the seeds needed, as a test says. Others are not asked for."""
    table = {}

    def seeds_needed(_, size, power):
        assert power == 0.8
        return table[round(size, 6)]

    monkeypatch.setattr(verdicts, "seeds_needed", seeds_needed)
    return table


@pytest.mark.parametrize(
    ("difference", "sign", "words"),
    [
        (0.05, 1, "as claimed here"),
        (-0.05, 1, "opposite here"),
        (-0.05, -1, "as claimed here"),
        (0.05, -1, "opposite here"),
    ],
)
def test_a_clear_effect_is_judged_by_its_sign(difference, sign, words):
    assert judge(replace(DIVERSITY, sign=sign), evidence(difference), 0.049).words == words


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_verdict_says_where_it_rests_on_two_seeds(seeds):
    said = "from two seeds, a third may undo it" if seeds == 2 else ""
    assert judge(DIVERSITY, evidence(0.05, seeds=seeds), 0.01) == ("as claimed here", said, None)
    inside = evidence(0.004, half=0.007, narrow=0.0059, seeds=seeds)
    assert judge(DIVERSITY, inside, 0.9) == ("smaller than the margin", said, None)
    assert judge(DIVERSITY, inside, 0.01).why == "; ".join(filter(None, ("though it differs from 0", said)))


def test_at_five_percent_nobody_can_tell(needs):
    needs[0.074] = 4
    assert judge(DIVERSITY, evidence(0.05), 0.05).words == "cannot tell"
    assert judge(DIVERSITY, evidence(0.05), 0.0499).words == "as claimed here"


def test_an_effect_within_the_margin_is_small_whatever_its_p(needs):
    needs[0.074] = needs[0.01] = 9
    inside = evidence(0.004, half=0.007, narrow=0.0059)
    assert judge(DIVERSITY, inside, 0.9) == ("smaller than the margin", "", None)
    assert judge(DIVERSITY, inside, 0.01).words == "smaller than the margin"
    assert "differs from 0" in judge(DIVERSITY, inside, 0.01).why
    # One end of the 90 % interval on the margin is enough to leave it, above and below.
    assert judge(DIVERSITY, evidence(0.004, narrow=0.006), 0.9).words == "cannot tell"
    assert judge(DIVERSITY, evidence(-0.004, narrow=0.006), 0.9).words == "cannot tell"
    assert judge(DIVERSITY, evidence(0.004, narrow=0.006), 0.01).words == "as claimed here"
    # The 95 % interval does not decide.
    assert judge(DIVERSITY, evidence(0.0, half=0.5, narrow=0.009), 0.9).words == "smaller than the margin"
    tighter = replace(DIVERSITY, margin=0.005)
    needs[0.005] = 9
    assert judge(tighter, inside, 0.9).words == "cannot tell"


def test_a_relative_margin_is_a_share_of_the_second_row(needs):
    flat = BY_NAME["O.F. flattens"]
    assert flat.relative and flat.margin == 0.05
    within = evidence(0.01, narrow=0.004, level=0.3)  # 0.6 to 1.4 of 1.5 points
    assert judge(flat, within, 0.9).words == "smaller than the margin"
    needs[0.01] = 7
    found = judge(flat, within._replace(level=0.2), 0.9)  # of 1.0 points
    assert found.words == "cannot tell" and found.why == "7 seeds would show an effect of 1.0"


def test_what_would_tell_is_asked_at_the_published_size_or_at_the_margin(needs):
    needs |= {0.074: 5, 0.01: 40}
    assert judge(DIVERSITY, evidence(0.05), 0.2) == (
        "cannot tell", "5 seeds would show the published 7.4", 5,
    )  # fmt: skip
    assert judge(SA, evidence(0.05), 0.2) == ("cannot tell", "40 seeds would show an effect of 1.0", 40)
    needs[0.074] = 3  # these are there: then the effect is smaller than published
    found = judge(DIVERSITY, evidence(0.05), 0.2)
    assert found.seeds == 40
    assert found.why == "3 seeds would have shown the published 7.4; 40 seeds would show an effect of 1.0"
    decorrelates = BY_NAME["diversity decorrelates"]
    needs[0.154] = 6  # a size has no sign
    assert judge(decorrelates, evidence(0.1), 0.2).why == "6 seeds would show the published 0.154"


def test_seeds_that_are_too_many_are_no_advice(needs):
    for many in (None, 1001):
        needs[0.01] = many
        found = judge(SA, evidence(0.05), 0.2)
        assert found.words == "cannot tell" and found.seeds is None and "more people" in found.why
    needs[0.01] = 3  # as many as there are
    assert judge(SA, evidence(0.05), 0.2).seeds == 4


def test_without_an_effect_the_verdict_says_what_lacks():
    found = judge(DIVERSITY, Evidence(missing=("abdnet-xe", "baseline+pam+cam")), NAN)
    assert found == ("not run", "missing: abdnet-xe, baseline+pam+cam", None)
    assert judge(DIVERSITY, Evidence(not_learned=("gap-seed0",)), NAN)[:2] == ("did not learn", "gap-seed0")
    found = judge(BY_NAME["SA spreads"], Evidence(unmeasured=True), NAN)
    assert found.words == "not measured" and "effective_area" in found.why


def test_one_seed_has_no_verdict_however_large_its_effect():
    found = judge(DIVERSITY, evidence(0.5, seeds=1), np.nan)
    assert found.words == "one seed: no verdict" and found.seeds == 3


def test_numbers_in_the_unit_of_the_measure():
    assert verdicts.effect_in_unit(DIVERSITY, 0.0123, -0.004, 0.03) == "+1.2 [-0.4, +3.0]"
    assert verdicts.effect_in_unit(DIVERSITY, 0.0123, NAN, NAN) == "+1.2"
    assert verdicts.effect_in_unit(DIVERSITY, -0.0002, NAN, NAN) == "+0.0", "zero has no other sign"
    assert verdicts.in_unit(BY_NAME["attention correlates"], 0.319) == "0.319"
