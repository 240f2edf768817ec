"""What is rendered: `SyntheticSpec`, and the list of images that follows from it."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from reidlib.errors import ReidError
from reidlib.settings import between, check_settings
from reidlib.synthetic.views import PLAN, STRANGERS, random_stream


class SyntheticError(ReidError):
    """The synthetic data set cannot be made or used as asked; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What to render.

    Args:
        train_identities, test_identities: numbers of people, disjoint.
        images_per_identity: of each person in bounding_box_train.
        test_images_per_identity: of each person in bounding_box_test, beside the queries.
        cameras: number of cameras; at least two of them see every person.
        height, width: of the images, in pixels.
        seed: another seed gives other people, cameras and images.

    Raises:
        SyntheticError: a value is out of range.
    """

    train_identities: Annotated[int, between(2, 4000)] = 120
    test_identities: Annotated[int, between(2, 4000)] = 200
    images_per_identity: Annotated[int, between(2, 100)] = 12
    test_images_per_identity: Annotated[int, between(2, 100)] = 4
    cameras: Annotated[int, between(2, 9)] = 6
    height: Annotated[int, between(32, 256)] = 128
    width: Annotated[int, between(16, 128)] = 64
    seed: Annotated[int, between(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        check_settings(self, SyntheticError)


@dataclass(frozen=True)
class Task:
    """One image to write.

    index: number of the image among those of its person and camera; junk: whether it is a junk box.
    """

    folder: str
    name: str
    person: int
    camera: int
    index: int
    junk: bool = False


def plan_images(spec: SyntheticSpec) -> list[Task]:
    """Every image of the data set, in a fixed order.

    Training identities are numbered first, test identities follow.
    """
    tasks = []
    for identity in range(1, spec.train_identities + spec.test_identities + 1):
        rng = random_stream(spec.seed, PLAN, identity)
        testing = identity > spec.train_identities
        images = spec.test_images_per_identity if testing else spec.images_per_identity
        most = min(spec.cameras, images)
        seen = np.sort(rng.permutation(spec.cameras)[: int(rng.integers(2, most + 1))]) + 1
        extra = rng.multinomial(images - len(seen), np.full(len(seen), 1 / len(seen)))
        for camera, more in zip(seen.tolist(), extra.tolist(), strict=True):
            count = 1 + more + testing
            frames = int(rng.integers(1, 90_000)) + np.cumsum(rng.integers(3, 60, count))
            query = int(rng.integers(count)) if testing else -1
            for index, frame in enumerate(frames.tolist()):
                folder = (
                    "bounding_box_train"
                    if not testing
                    else "query"
                    if index == query
                    else "bounding_box_test"
                )
                tasks.append(
                    Task(folder, f"{identity:04d}_c{camera}s1_{frame:06d}_00.jpg", identity, camera, index)
                )
    gallery = spec.test_identities * spec.test_images_per_identity
    rng = random_stream(spec.seed, PLAN, 0)
    for label, count, junk in (("0000", max(gallery // 10, 2), False), ("-1", max(gallery // 20, 2), True)):
        for index in range(count):
            camera = int(rng.integers(1, spec.cameras + 1))
            name = f"{label}_c{camera}s1_{index + 1:06d}_00.jpg"
            tasks.append(
                Task("bounding_box_test", name, STRANGERS + 10_000 * (1 + junk) + index, camera, index, junk)
            )
    return tasks
