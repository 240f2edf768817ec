"""Selects the people and images of a figure, evenly spread over the identities instead of picked by hand."""

import numpy as np

from reidlib.datasets.types import ReidDataset, Split


def spread_identities(ids: np.ndarray, count: int) -> np.ndarray:
    """At most `count` identities, evenly spread over the sorted list (without distractors and junk)."""
    people = np.unique(ids[ids > 0])
    return people[np.unique(np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int))]


def one_image_each(split: Split, count: int) -> np.ndarray:
    """(≤ count,) rows: the middle image, by file name, of evenly spread identities."""
    rows = [np.flatnonzero(split.ids == person) for person in spread_identities(split.ids, count)]
    return np.array([row[len(row) // 2] for row in rows], dtype=int)


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
    score[~(first_match_ranks > 0).all(axis=0)] = -1
    chosen: list[int] = []
    for row in np.argsort(-score, kind="stable"):
        if (
            dataset.query.ids[row] not in dataset.query.ids[chosen]
            and len(chosen) < count
            and score[row] >= 0
        ):
            chosen.append(int(row))
    return np.array(chosen, dtype=int)
