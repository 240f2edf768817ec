"""Which images make a batch: rows of the training set, drawn by seed and epoch only."""

from collections.abc import Iterator

import numpy as np

from reidlib.errors import ReidError


def shuffled_batches(labels: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One pass over all images in random order.

    The incomplete last batch is dropped, as in both papers' loaders.
    """
    order = rng.permutation(len(labels))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def identity_batches(
    labels: np.ndarray, batch_size: int, images_per_identity: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """One pass of batches of P people with K images each: ABD-Net's sampler.

    Each person's images are shuffled and cut into groups of K; the remainder is dropped. A person with fewer
    than K images gives one group, drawn with replacement. A batch takes P random people, each with the next
    group. The pass ends when fewer than P people have a group left.
    """
    k, people_per_batch = images_per_identity, batch_size // images_per_identity
    groups: dict[int, list[np.ndarray]] = {}
    for person in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == person))
        if len(images) < k:
            images = rng.choice(images, k, replace=True)
        groups[int(person)] = [images[start : start + k] for start in range(0, len(images) - k + 1, k)]
    left = sorted(groups)
    while len(left) >= people_per_batch:
        chosen = rng.choice(len(left), people_per_batch, replace=False)
        people = [left[index] for index in chosen]
        yield np.concatenate([groups[person].pop(0) for person in people])
        left = [person for person in left if groups[person]]


def epoch_batches(
    labels: np.ndarray, batch_size: int, images_per_identity: int, steps: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """The rows of every batch of one epoch.

    They depend on the arguments only, so a resumed run sees the same batches.

    Args:
        steps: number of batches: passes over the training set are joined or cut to it. 0: one pass.

    Raises:
        ReidError: the set is too small for one batch.
    """
    batches: list[np.ndarray] = []
    for number in range(max(1, steps) if steps else 1):
        rng = np.random.default_rng([seed, epoch, number])
        if images_per_identity:
            batches += identity_batches(labels, batch_size, images_per_identity, rng)
        else:
            batches += shuffled_batches(labels, batch_size, rng)
        if not batches:
            raise ReidError(
                f"{len(labels)} training images of {len(np.unique(labels))} people "
                f"do not fill one batch of {batch_size}"
                + (f" with {images_per_identity} images of each person" if images_per_identity else "")
                + ". Set a smaller batch_size."
            )
        if steps and len(batches) >= steps:
            return batches[:steps]
    return batches
