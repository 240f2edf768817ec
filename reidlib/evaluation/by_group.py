"""Scores of groups of queries and differences between two groups, with intervals over seeds and people.

Queries of one person may lie in several groups, so people are what is drawn at random in both, not queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reidlib.crossed import CrossedEffect, crossed_effect
from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.statistics import Interval, bootstrap_interval


class GroupScore(NamedTuple):
    """Mean over a group's queries and the seeds, with its 95 % interval, and how many there are.

    The interval is over seeds and people together; with one seed it is over people. low and high are NaN
    where the group has fewer than two people.
    """

    mean: float
    low: float
    high: float
    queries: int
    people: int


def group_score(values: np.ndarray, people: Sequence[int] | np.ndarray, group: np.ndarray) -> GroupScore:
    """The mean of a group of queries. Queries that are NaN (no match in the gallery) are left out.

    Args:
        values: (S, Q) a value from 0 to 1 of each seed and query, such as average precision.
        people: (Q,) identities of the queries.
        group: (Q,) which queries belong to the group.
    """
    values, people, members = _known(values, people, group)
    values, people = values[:, members], people[members]
    count = len(np.unique(people))
    if count == 0:
        return GroupScore(np.nan, np.nan, np.nan, 0, 0)
    if count == 1:
        return GroupScore(float(values.mean()), np.nan, np.nan, values.shape[1], 1)
    found = _over_people(values, people) or crossed_effect(values, np.zeros_like(values), people)
    low, high = (float(np.clip(bound, 0, 1)) for bound in (found.low, found.high))
    return GroupScore(float(values.mean()), low, high, values.shape[1], count)


def group_difference(
    values: np.ndarray, people: Sequence[int] | np.ndarray, group: np.ndarray, other: np.ndarray
) -> tuple[CrossedEffect, Interval | None]:
    """The mean of a group minus the mean of another, over other queries.

    Both means are ratios of sums over people. Their difference is linear in them up to terms that vanish with
    many people (Cochran 1977): with the means m and n of K and L queries, a query of the group counts as
    m - n + (value - m) (K + L) / K, one of the other as m - n - (value - n) (K + L) / L. The mean of these
    numbers is m - n in every seed, and their interval is that of `crossed_effect`.

    Args:
        values, people: as in `group_score`.
        group, other: (Q,) two groups without a common query.

    Returns:
        The difference with its interval over seeds and people; and with one seed the interval over people,
        otherwise None. Without two people there is neither.

    Raises:
        EvaluationError: a group has no query with a match, or the groups have a query in common.
    """
    values, people, first, second = _known(values, people, group, other)
    if (first & second).any() or not (first.any() and second.any()):
        raise EvaluationError(
            f"The groups have {first.sum()} and {second.sum()} queries with a match, "
            f"{(first & second).sum()} of them in both: give two groups without a common query."
        )
    counts = np.empty_like(values)
    for members, sign in ((first, 1), (second, -1)):
        own = values[:, members]
        deviations = own - own.mean(axis=1, keepdims=True)
        counts[:, members] = sign * deviations * ((first | second).sum() / members.sum())
    difference = values[:, first].mean(axis=1, keepdims=True) - values[:, second].mean(axis=1, keepdims=True)
    both = first | second
    counts, people = (difference + counts)[:, both], people[both]
    return crossed_effect(counts, np.zeros_like(counts), people), _over_people(counts, people)


def _known(values: np.ndarray, people: Sequence[int] | np.ndarray, *groups: np.ndarray) -> tuple:
    """Everything without the queries that have no match."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values).any(axis=0)
    return values[:, known], np.asarray(people)[known], *(np.asarray(group)[known] for group in groups)


def _over_people(values: np.ndarray, people: np.ndarray) -> Interval | None:
    if len(values) > 1 or len(np.unique(people)) < 2:
        return None
    return bootstrap_interval(values[0], people)
