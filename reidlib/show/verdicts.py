"""Judges a claim by numbers: one function, from which every table, figure and sentence takes its words."""

import math
from typing import NamedTuple

from reidlib.claims import MEASURES, Claim
from reidlib.crossed import CrossedEffect, seeds_needed
from reidlib.show.text import runs_in_short

AS_CLAIMED, OPPOSITE = "as claimed here", "opposite here"
SMALL, UNCLEAR = "smaller than the margin", "cannot tell"
ONE_SEED = "one seed: no verdict"
NOT_RUN, NOT_MEASURED, NOT_LEARNED = "not run", "not measured", "did not learn"

LEVEL = 0.05  # p below it, after Holm's correction, is a difference
POWER = 0.8
MOST = 1000  # seeds that anyone would train
ENOUGH = 3  # seeds, with which a claim of one seed gets a verdict
TWO_SEEDS = "from two seeds, a third may undo it"  # their interval misses the truth more often than 5 %


class Evidence(NamedTuple):
    """What runs say about a claim.

    effect: first minus second row, with its 95 % interval; narrow: the same with its 90 % interval. None:
        there is no pair of runs to compare. level: mean of the second row.
    missing: rows that have no run. unmeasured: the runs do not hold what the claim is measured by.
    not_learned: runs that did not learn. They are left out of the effect.
    """

    effect: CrossedEffect | None = None
    narrow: CrossedEffect | None = None
    level: float = 0.0
    missing: tuple[str, ...] = ()
    unmeasured: bool = False
    not_learned: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """One of the words above, why in a few words ("" if the numbers say it), and how many seeds would tell.

    seeds: of both rows, those there are included; None: more seeds are not needed, or do not help.
    """

    words: str
    why: str = ""
    seeds: int | None = None


def judge(claim: Claim, evidence: Evidence, p: float) -> Verdict:
    """Whether the runs show what the claim predicts.

    - An effect whose 90 % interval lies within ∓ margin is smaller than the margin, whatever its p. (Two
      one-sided tests at 5 % say the same; Schuirmann 1987.)
    - Otherwise p < 0.05 makes it as claimed or opposite, by its sign.
    - Both say so where they rest on two seeds.
    - Otherwise nobody can tell. What would: the seeds that show an effect of the published size with a
      probability of 80 %, or one of the margin's size if none is published, or if those seeds are there.

    Args:
        p: two-sided, of the effect, corrected for the number of claims; not used without an effect.
    """
    effect, narrow = evidence.effect, evidence.narrow
    if evidence.missing:
        return Verdict(NOT_RUN, f"missing: {', '.join(evidence.missing)}")
    if evidence.unmeasured:
        return Verdict(NOT_MEASURED, f"the runs hold no {MEASURES[claim.measure].column}")
    if effect is None:
        return Verdict(NOT_LEARNED, runs_in_short(evidence.not_learned))
    if effect.seeds == 1:
        return Verdict(ONE_SEED, f"at least {ENOUGH} seeds are needed", ENOUGH)
    margin = margin_of(claim, evidence.level)
    rests_on = TWO_SEEDS if effect.seeds < ENOUGH else ""
    if -margin < narrow.low and narrow.high < margin:
        differs = "though it differs from 0" if p < LEVEL else ""
        return Verdict(SMALL, "; ".join(filter(None, (differs, rests_on))))
    if p < LEVEL:
        return Verdict(AS_CLAIMED if effect.difference * claim.sign > 0 else OPPOSITE, rests_on)
    return _what_would_tell(claim, effect, margin)


def margin_of(claim: Claim, level: float) -> float:
    """The claim's margin in its measure's own unit. level: mean of the second row."""
    return claim.margin * level if claim.relative else claim.margin


def _what_would_tell(claim: Claim, effect: CrossedEffect, margin: float) -> Verdict:
    before = ""
    if claim.size:
        size = f"the published {in_unit(claim, abs(claim.size))}"
        seeds = seeds_needed(effect, abs(claim.size), power=POWER)
        if seeds is None or seeds > effect.seeds:
            return _seeds_would_tell(size, seeds)
        before = f"{seeds} seeds would have shown {size}; "
    size, seeds = f"an effect of {in_unit(claim, margin)}", seeds_needed(effect, margin, power=POWER)
    if seeds is not None and seeds <= effect.seeds:
        return Verdict(UNCLEAR, f"a borderline case: {seeds} seeds should tell", effect.seeds + 1)
    found = _seeds_would_tell(size, seeds)
    return found._replace(why=before + found.why)


def _seeds_would_tell(size: str, seeds: int | None) -> Verdict:
    if seeds is None or seeds > MOST:
        return Verdict(UNCLEAR, f"no number of seeds up to {MOST:,} would show {size}: test more people")
    return Verdict(UNCLEAR, f"{seeds} seeds would show {size}", seeds)


def in_unit(claim: Claim, value: float, sign: str = "") -> str:
    """A number in the unit of the claim's measure: 0.011 → "1.1"; sign: "+" for an effect."""
    measure = MEASURES[claim.measure]
    return f"{measure.scale * value:{sign}z.{measure.digits}f}"


def effect_in_unit(claim: Claim, difference: float, low: float, high: float) -> str:
    """An effect with its interval: "+1.2 [-0.3, +2.7]", without one "+1.2"."""
    text = in_unit(claim, difference, "+")
    if math.isnan(low):
        return text
    return f"{text} [{in_unit(claim, low, '+')}, {in_unit(claim, high, '+')}]"
