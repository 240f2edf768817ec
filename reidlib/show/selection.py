"""Selects the people and images of a figure by a rule that is said, instead of picking them by hand."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reidlib.datasets.types import ReidDataset, Split

# Ways to choose the queries of a figure, and the sentence that says which.
CHOSEN = {
    "differing": "These queries show differences: those that the first model gets right and the others get "
    "wrong come first.",
    "best": "These are the queries with the highest average precision, as a mean over the models.",
    "worst": "These are the queries with the lowest average precision, as a mean over the models.",
    "random": "These queries were drawn at random, whatever their scores.",
}


def spread_identities(ids: np.ndarray, count: int) -> np.ndarray:
    """At most `count` identities, evenly spread over the sorted list (without distractors and junk)."""
    people = np.unique(ids[ids > 0])
    return people[np.unique(np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int))]


def one_image_each(split: Split, count: int, among: np.ndarray | None = None) -> np.ndarray:
    """(≤ count,) rows: the middle image, by file name, of evenly spread identities.

    among: (N,) booleans, the images that come into question; None: all.
    """
    ids = split.ids if among is None else np.where(among, split.ids, 0)
    rows = [np.flatnonzero(ids == person) for person in spread_identities(ids, count)]
    return np.array([row[len(row) // 2] for row in rows], dtype=int)


def even_rows(total: int, count: int) -> np.ndarray:
    """At most `count` of `total` rows, evenly spread; all of them if there are no more."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def best_right_matches(
    embeddings: Sequence[Mapping[str, np.ndarray]], dataset: ReidDataset, rows: np.ndarray
) -> np.ndarray:
    """The right gallery image that several models together rank first, for some queries: (n,) gallery rows.

    It has the smallest sum of its places in the models' rankings. Images by the query's own camera do not
    count, as in the scores.

    Args:
        embeddings: of each model, `query` (Q, D) and `gallery` (G, D).
        rows: (n,) queries that have a right match.
    """
    places = 0
    for one in embeddings:
        query, gallery = one["query"][rows], one["gallery"]
        distances = np.square(gallery).sum(1) - 2 * query @ gallery.T  # up to a number for each query
        order = np.argsort(distances, axis=1, kind="stable")
        places = places + np.argsort(order, axis=1)
    right = dataset.query.ids[rows, None] == dataset.gallery.ids
    right &= dataset.query.cameras[rows, None] != dataset.gallery.cameras
    return np.where(right, places, np.inf).argmin(1)


def rows_by_camera(split: Split, count: int) -> dict[int, np.ndarray]:
    """Camera → rows of up to `count` evenly spread identities that it saw: the first image of each."""
    chosen = {}
    for camera in np.unique(split.cameras):
        here = np.flatnonzero(split.cameras == camera)
        firsts = {int(split.ids[row]): row for row in reversed(here)}
        chosen[int(camera)] = np.array(
            [firsts[int(person)] for person in spread_identities(split.ids[here], count)], dtype=int
        )
    return chosen


def telling_queries(first_match_ranks: np.ndarray, dataset: ReidDataset, count: int) -> np.ndarray:
    """Selects queries on which models differ: their ranking lists show differences, not average quality.

    Args:
        first_match_ranks: (models, Q), the best model first; −1 or NaN: no match in the gallery.

    Returns:
        (≤ count,) rows of different people. First come those that the best model gets right and most others
        get wrong; ties are ordered by file name.
    """
    right = first_match_ranks == 1
    score = right[0] * 1.0 + right[0] * (~right[1:]).sum(axis=0)
    known = (first_match_ranks > 0).all(axis=0)
    return _of_different_people(np.argsort(-score, kind="stable"), known, dataset, count)


def chosen_queries(
    chosen: str,
    first_match_ranks: Sequence[Sequence[float]],
    precisions: Sequence[Sequence[float]],
    dataset: ReidDataset,
    count: int,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Selects queries of different people that have a match in the gallery.

    Args:
        chosen: one of `CHOSEN`. "differing": `telling_queries`. "best", "worst": by average precision, as a
            mean over the models, so that none is favoured; ties are ordered by file name. "random": each
            query is as likely as any other to come first.
        first_match_ranks: (models, Q), as for `telling_queries`.
        precisions: (models, Q) average precision; NaN: no match.
        seed: of the random choice.

    Returns:
        (≤ count,) rows.
    """
    if chosen == "differing":
        return telling_queries(np.asarray(first_match_ranks, dtype=float), dataset, count)
    mean = np.asarray(precisions, dtype=float).mean(axis=0)
    if chosen == "random":
        order = np.random.default_rng(seed).permutation(len(mean))
    else:
        order = np.argsort(mean if chosen == "worst" else -mean, kind="stable")
    return _of_different_people(order, ~np.isnan(mean), dataset, count)


def worst_queries(precisions: np.ndarray, count: int) -> np.ndarray:
    """(≤ count,) rows of the lowest average precisions (Q,), the lowest first, also several of one person.

    Queries without a match (NaN) are left out; ties are ordered by file name.
    """
    order = np.argsort(precisions, kind="stable")
    return order[~np.isnan(np.asarray(precisions, dtype=float)[order])][:count]


def _of_different_people(
    order: Iterable[int], known: np.ndarray, dataset: ReidDataset, count: int
) -> np.ndarray:
    """The first `count` rows in this order that are known, each of another person."""
    chosen: dict[int, int] = {}
    for row in order:
        if known[row] and len(chosen) < count:
            chosen.setdefault(int(dataset.query.ids[row]), int(row))
    return np.array(list(chosen.values()), dtype=int)
