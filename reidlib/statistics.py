"""How sure a score is: intervals over queries, spread over seeds, and paired comparisons of two methods.

Queries of one person are not independent: they show the same clothes and share their true matches. So people
are resampled, not queries (the cluster bootstrap; Davison & Hinkley 1997). Cluster c = 1..C has sum S_c and
size n_c. One resample draws C clusters with replacement; if cluster c comes up w_c times, the mean is
Σ_c w_c S_c / Σ_c w_c n_c. Queries without a match (NaN in the metrics) are left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from reidlib.errors import ReidError


class StatisticsError(ReidError):
    """There are too few values, or they do not belong together."""


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean of a - b with its interval; p_value is two-sided, for the hypothesis of no difference.

    low and high are NaN for a single cluster.
    """

    estimate: float
    low: float
    high: float
    p_value: float


class SeedSummary(NamedTuple):
    """Summary over seeds; std, low and high are None for a single seed."""

    mean: float
    std: float | None
    low: float | None
    high: float | None
    seeds: int


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of per-query values (Q,), such as average precision or `RetrievalMetrics.hits(1)`.

    Its bounds are the (1 ∓ confidence) / 2 quantiles of the resampled means (scipy.stats.bootstrap).

    The same seed gives the same interval. If all resampled means are equal (constant values), the interval is
    that one point. With few people it is too narrow: in simulations, 95 % intervals hold the truth in 94 % of
    cases with 100 people, in 92 to 93 % with 20 to 40, and in 87 to 88 % with 10.

    Args:
        groups: (Q,) identities of the queries; None: each query is its own cluster.

    Raises:
        StatisticsError: fewer than two clusters, infinite values, or unequal lengths.
    """
    values = _per_query("values", values)
    sums, sizes = _clusters(values, _group_labels(groups, len(values)))
    return _interval(sums, sizes, confidence, resamples, seed)


def paired_difference(
    values_a: np.ndarray,
    values_b: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Mean of a - b over the same queries (Q,), with its interval and a paired permutation test's p-value.

    The interval is that of `bootstrap_interval`. The test (scipy.stats.permutation_test) swaps the two
    methods cluster by cluster, which flips the sign of the cluster's summed difference. p is twice the
    smaller share of swaps whose total is as small, or as large, as the observed one. All 2^C swaps are used
    if `resamples` allows, otherwise `resamples` random ones. Equal values give p = 1. Correct several
    comparisons with `holm`.

    A single cluster has no interval (NaN), and its two swaps give p = 1.

    Raises:
        StatisticsError: there are no usable values, lengths are unequal, or a query is NaN for only one of
            the two.
    """
    values_a, values_b = _per_query("values_a", values_a), _per_query("values_b", values_b)
    if len(values_a) != len(values_b):
        raise StatisticsError(
            f"values_a has {len(values_a)} queries and values_b {len(values_b)}: "
            "compare two methods on the same queries."
        )
    unequal = np.flatnonzero(np.isnan(values_a) != np.isnan(values_b))
    if len(unequal):
        raise StatisticsError(
            f"{len(unequal)} queries have a match for one method only (NaN), "
            f"the first is query {unequal[0]}: both must have the same gallery."
        )
    sums, sizes = _clusters(values_a - values_b, _group_labels(groups, len(values_a)), fewest=1)
    if len(sizes) == 1:
        return Difference(float(sums[0] / sizes[0]), np.nan, np.nan, 1.0)
    interval = _interval(sums, sizes, confidence, resamples, seed)
    swapped = stats.permutation_test(
        (sums, np.zeros_like(sums)),  # swapping a pair flips the sign of its difference
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(resamples, len(sums)),
        random_state=np.random.default_rng([seed, 1]),  # independent of the interval's random stream
    )
    return Difference(*interval, float(swapped.pvalue))


def hits(first_match_rank: Sequence[float], k: int = 1) -> np.ndarray:
    """(Q,): 1.0 if a query's first match is among the first k images, 0.0 if not.

    It is NaN if the gallery holds no match.
    """
    ranks = np.asarray(first_match_rank, dtype=np.float64)
    return np.where(np.isnan(ranks), np.nan, ranks <= k)


def interval_columns(name: str, interval: Sequence[float] | None) -> dict[str, float]:
    """An interval as two columns of a table, <name>_low and <name>_high; NaN without an interval."""
    bounds = (np.nan, np.nan) if interval is None else interval
    return {f"{name}_{side}": bound for side, bound in zip(("low", "high"), bounds, strict=True)}


def seed_summary(values: Sequence[float], *, confidence: float = 0.95) -> SeedSummary:
    """Mean, standard deviation s (n - 1 in the denominator) and the interval mean ∓ t s / √n.

    t is Student's, for n - 1 degrees of freedom.

    Raises:
        StatisticsError: there are no values, or not all are finite.
    """
    values = _per_query("values", values)
    if len(values) == 0 or np.isnan(values).any():
        raise StatisticsError(f"seed_summary needs one finite value per seed, not {values.tolist()}.")
    check_confidence(confidence)
    mean, count = float(values.mean()), len(values)
    if count == 1:
        return SeedSummary(mean, None, None, None, 1)
    std = float(values.std(ddof=1))
    margin = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * std / count**0.5
    return SeedSummary(mean, std, mean - margin, mean + margin, count)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """(K,) p-values adjusted for K comparisons, in the order given (Holm 1979; SciPy has no such function).

    The i-th smallest becomes the maximum over j ≤ i of min(1, (K - j + 1) p_(j)).
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise StatisticsError(f"p_values must be a list of numbers from 0 to 1, not {p_values.tolist()}.")
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)))
    return adjusted


def _per_query(name: str, values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise StatisticsError(
            f"{name} must be one-dimensional, one value per query or seed, not of shape {values.shape}."
        )
    if np.isinf(values).any():
        raise StatisticsError(
            f"{np.isinf(values).sum()} of {len(values)} {name} are infinite, "
            f"the first at {np.flatnonzero(np.isinf(values))[0]}."
        )
    return values


def _group_labels(groups: np.ndarray | None, count: int) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise StatisticsError(
            f"groups has shape {groups.shape}, but there are {count} values: give the identity of each query."
        )
    return groups


def _clusters(values: np.ndarray, groups: np.ndarray, fewest: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Sums (C,) and sizes (C,) of the clusters, without NaN."""
    known = ~np.isnan(values)
    _, cluster = np.unique(groups[known], return_inverse=True)
    sizes = np.bincount(cluster)
    if len(sizes) < fewest:
        raise StatisticsError(
            f"{known.sum()} of {len(values)} values are usable, of {len(sizes)} groups (identities), "
            f"but {fewest} are needed: check that queries have matches, or evaluate on more people."
        )
    return np.bincount(cluster, weights=values[known]), sizes


def check_confidence(confidence: float) -> None:
    """Raises StatisticsError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise StatisticsError(f"confidence={confidence} must lie between 0 and 1, for example 0.95.")


def _batch(resamples: int, clusters: int) -> int:
    """How many resamples scipy draws at once, so that their array stays near 32 MB.

    The random stream does not depend on it.
    """
    return min(resamples, max(1, 2**22 // clusters))


def _interval(sums: np.ndarray, sizes: np.ndarray, confidence: float, resamples: int, seed: int) -> Interval:
    check_confidence(confidence)
    if resamples < 100:
        raise StatisticsError(
            f"resamples={resamples} is too few for an interval: use at least 100, better 2000."
        )
    estimate = float(sums.sum() / sizes.sum())
    # Equal means are one point; resampling would add rounding.
    if np.ptp(sums / sizes) <= 1e-12 * max(1.0, abs(estimate)):
        return Interval(estimate, estimate, estimate)
    found = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
        n_resamples=resamples,
        batch=_batch(resamples, len(sums)),
        vectorized=True,
        paired=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high))
