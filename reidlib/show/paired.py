"""Compares two methods over the same queries: runs of equal seeds are paired, and the verdict is in words."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reidlib.crossed import CrossedEffect, crossed_effect, crossed_interval
from reidlib.errors import ReidError
from reidlib.statistics import Interval, hits, holm, paired_difference

MARGIN = 0.01  # a difference below one point of mAP counts as none
DIFFERS, SMALL, CANNOT_TELL = "differs", f"smaller than {100 * MARGIN:.0f} point", "cannot tell"
NO_VERDICT = "one seed: no verdict"


class PairingError(ReidError):
    """Runs cannot be paired by their seeds."""


def by_seed(runs: Iterable[Any]) -> dict[int, Any]:
    """Seed → the run of one method. A run that is given twice counts once.

    Args:
        runs: anything with a `name` and a `seed`.

    Raises:
        PairingError: two runs have the same seed. They would count as two trainings, and share its draws.
    """
    found: dict[int, Any] = {}
    for run in runs:
        if found.setdefault(run.seed, run) != run:
            raise PairingError(
                f"Two runs that are to be compared have the seed {run.seed}: {found[run.seed].name} and "
                f"{run.name}. Only one of them can be: leave the other out."
            )
    return found


class PairedEffect(NamedTuple):
    """First minus second method. With one seed, the crossed effects have no interval.

    rank1_over_people, map_over_people: with one seed the interval over people, by resampling them; with
    several None. It holds for this training only. map_by_seed: the difference in mAP of each seed.
    second_rank1, second_map: scores of the second method, means over seeds.
    """

    rank1: CrossedEffect
    mean_ap: CrossedEffect
    rank1_over_people: Interval | None
    map_over_people: Interval | None
    map_by_seed: list[float]
    second_rank1: float
    second_map: float


def paired_effect(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> PairedEffect:
    """The difference between two methods, over seeds and people together.

    Args:
        pairs: for each seed, the queries of the first and of the second method (`Run.queries`): the same
            queries in the same order, in every pair.

    Raises:
        StatisticsError: as in `crossed_effect`.
    """
    people = pairs[0][0]["identity"].to_numpy()
    precisions = [
        np.stack([sides[side]["average_precision"].to_numpy(float) for sides in pairs]) for side in (0, 1)
    ]
    right = [np.stack([hits(sides[side]["first_match_rank"]) for sides in pairs]) for side in (0, 1)]
    rank1, mean_ap = crossed_effect(*right, people), crossed_effect(*precisions, people)
    return PairedEffect(
        rank1=rank1,
        mean_ap=mean_ap,
        rank1_over_people=over_people(*right, people),
        map_over_people=over_people(*precisions, people),
        map_by_seed=[float(np.nanmean(one) - np.nanmean(two)) for one, two in zip(*precisions, strict=True)],
        second_rank1=float(np.nanmean(right[1])),
        second_map=float(np.nanmean(precisions[1])),
    )


def over_people(first: np.ndarray, second: np.ndarray, people: np.ndarray, **options: int) -> Interval | None:
    """The interval over people of one seed's difference (1, Q); None with several seeds.

    Args:
        options: of `paired_difference`, such as resamples.
    """
    if len(first) > 1:
        return None
    difference = paired_difference(first[0], second[0], people, **options)
    return Interval(difference.estimate, difference.low, difference.high)


def corrected_p(effects: Sequence[CrossedEffect]) -> list[float]:
    """The effects' p, Holm-corrected over those that have one; NaN for the others."""
    p = np.array([effect.p for effect in effects], dtype=float)
    known = ~np.isnan(p)
    p[known] = holm(p[known])
    return p.tolist()


def verdict(effect: CrossedEffect, p: float | None = None, *, noise: float = 0.0) -> str:
    """What an effect tells about other seeds and other people, in words.

    "smaller than 1 point": the 90 % interval lies within ± `MARGIN` (two one-sided tests at 5 %), whether or
    not it leaves out 0. "differs": p < 0.05, and the difference is larger than the noise. "cannot tell":
    neither. From one seed there is no verdict.

    Args:
        p: corrected for the number of comparisons; None: the effect's own.
        noise: the difference that other random draws alone have made, over as many seeds; 0: not known.
    """
    if effect.seeds == 1:
        return NO_VERDICT
    p = effect.p if p is None else p
    interval = crossed_interval(effect, 0.90)
    if interval.low > -MARGIN and interval.high < MARGIN:
        return SMALL
    return DIFFERS if p < 0.05 and abs(effect.difference) > noise else CANNOT_TELL
