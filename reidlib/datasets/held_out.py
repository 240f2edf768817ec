"""Validation on people held out of the training set; the test set is never used for it."""

from dataclasses import replace

import numpy as np

from reidlib.datasets.types import ReidDataset, Split
from reidlib.errors import ReidError


def split_validation(dataset: ReidDataset, identities: int, seed: int) -> tuple[ReidDataset, ReidDataset]:
    """Split people off the training set: returns the rest, and a second data set of the held-out people.

    Of each held-out person, one image per camera, drawn by the seed, is a query. The other images are the
    gallery, as in Market-1501. Only people seen by at least two cameras, with images left for the gallery,
    can be held out: others have no match.

    Args:
        identities: how many people are held out; 0: none, and the second data set is empty.

    Raises:
        ReidError: too few people are left to train on, or can be held out.
    """
    train = dataset.train
    rng = np.random.default_rng([seed, identities])
    queries: dict[int, list[int]] = {}
    for person in np.unique(train.ids):
        rows = np.flatnonzero(train.ids == person)
        seen_by = [rows[train.cameras[rows] == camera] for camera in np.unique(train.cameras[rows])]
        # A query needs a match in the gallery: an image from another camera that is not a query.
        left = [len(images) > 1 for images in seen_by]
        if len(seen_by) >= 2 and any(left):
            queries[int(person)] = [int(rng.choice(images)) for images in seen_by]
    people = dataset.num_train_identities
    if identities > min(len(queries), people - 2):
        raise ReidError(
            f"validation_identities = {identities}: of {people} training people {len(queries)} can be held "
            "out (two cameras and an image beside the queries), and at least 2 must be left to train on. "
            "Hold out fewer."
        )
    chosen = np.sort(rng.choice(np.array(sorted(queries), dtype=np.int64), identities, replace=False))
    held_out = np.isin(train.ids, chosen)
    is_query = np.zeros(len(train), dtype=bool)
    is_query[[row for person in chosen.tolist() for row in queries[person]]] = True
    nothing = np.zeros(len(train), dtype=bool)
    training = replace(dataset, train=_some(train, ~held_out))
    validation = replace(
        dataset,
        train=_some(train, nothing),
        query=_some(train, is_query),
        gallery=_some(train, held_out & ~is_query),
        notes=(),
    )
    return training, validation


def _some(split: Split, chosen: np.ndarray) -> Split:
    return Split(
        tuple(split.paths[row] for row in np.flatnonzero(chosen)),
        split.ids[chosen],
        split.cameras[chosen],
    )
