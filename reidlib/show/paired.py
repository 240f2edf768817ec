"""Compares two methods over the same queries: runs of equal seeds are paired, people are resampled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reidlib.statistics import Difference, hits, paired_difference, seed_summary


class PairedEffect(NamedTuple):
    """First minus second method, averaged over seeds; intervals and p are over people.

    map_by_seed: the difference in mAP of each seed. second_rank1, second_map: scores of the second method,
    means over seeds.
    """

    rank1: Difference
    mean_ap: Difference
    map_by_seed: list[float]
    second_rank1: float
    second_map: float


def paired_effect(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> PairedEffect:
    """The difference between two methods, from each query's scores averaged over the seeds.

    Interval and p hold for these trainings. They do not tell what other seeds give: map_by_seed shows that.

    Args:
        pairs: for each seed, the queries of the first and of the second method (`Run.queries`): the same
            queries in the same order, in every pair.

    Raises:
        StatisticsError: as in `paired_difference`.
    """
    people = pairs[0][0]["identity"].to_numpy()
    precisions = [
        np.stack([sides[side]["average_precision"].to_numpy(float) for sides in pairs]) for side in (0, 1)
    ]
    right = [np.stack([hits(sides[side]["first_match_rank"]) for sides in pairs]) for side in (0, 1)]
    by_seed = [float(np.nanmean(one) - np.nanmean(two)) for one, two in zip(*precisions, strict=True)]
    right, precisions = ([values.mean(axis=0) for values in sides] for sides in (right, precisions))
    return PairedEffect(
        rank1=paired_difference(*right, people),
        mean_ap=paired_difference(*precisions, people),
        map_by_seed=by_seed,
        second_rank1=float(np.nanmean(right[1])),
        second_map=float(np.nanmean(precisions[1])),
    )


def verdict(p: float, difference: float, by_seed: Sequence[float], noise: float = 0.0) -> str:
    """Whether a difference in mAP differs from 0, in words.

    It has to differ over people, exceed the noise and, with several seeds, differ over seeds, too.

    Args:
        p: over people, corrected for the number of comparisons.
        difference: averaged over seeds; by_seed: of each seed.
        noise: the largest difference that other random draws alone have made; 0: not known.
    """
    if p >= 0.05:
        return "indistinguishable"
    if abs(difference) <= noise:
        return "within the noise"
    if len(by_seed) == 1:
        return "differs (one seed)"
    over_seeds = seed_summary(by_seed)
    return "differs" if over_seeds.low > 0 or over_seeds.high < 0 else "varies with the seed"
