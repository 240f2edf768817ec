"""The embedded default data set: procedurally rendered people, written once in Market-1501's layout.

    root/bounding_box_train/0001_c1s1_000101_00.jpg     training identities
    root/query/…                                        one image per test identity and camera
    root/bounding_box_test/…                            the other images of the test identities, distractors (0000), junk (-1)
    root/synthetic.json                                 what was asked for, and the renderer's version

Identities come in colour groups: the members of a group wear the same two colours and are told apart by pattern, cut, bag, hat,
hair and build, so that a colour histogram confuses them. Cameras differ in scenery, colour cast, exposure, blur, resolution and
angle. The same specification gives the same pixels whatever the number of workers: every image draws from its own seed sequence.

Who is seen how, and how hard that is to recognise, is in _view_drawing.py; figures in the _figure modules;
what surrounds them in _scene_drawing.py.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from reidlib import _scene_drawing, _view_drawing
from reidlib._view_drawing import (
    PLAN,
    STRANGERS,
    Camera,
    View,
    describe_person,
    draw_camera,
    draw_person,
    random_stream,
    render_image,
    render_person,
)  # fmt: skip
from reidlib.errors import ReidError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "Camera", "SyntheticError", "SyntheticSpec", "View", "describe_person", "draw_camera", "draw_person", "ensure_synthetic",
    "plan_images", "render_person",
]  # fmt: skip

RENDERER_VERSION = 1  # raise it whenever the pixels of an unchanged specification change
_FOLDERS = ("bounding_box_train", "bounding_box_test", "query")


class SyntheticError(ReidError):
    """The synthetic data set cannot be made or used as asked; the message says what to change."""


@dataclass(frozen=True)
class SyntheticSpec:
    """What to render.

    train_identities, test_identities: numbers of people, disjoint; images_per_identity: of each person in bounding_box_train, or
    in bounding_box_test beside the queries; cameras: how many (every person is seen by two of them or more); height, width: of
    the images in pixels; seed: another seed is another set of people, cameras and images. Raises SyntheticError for values out
    of range.
    """

    train_identities: int = 120
    test_identities: int = 60
    images_per_identity: int = 12
    cameras: int = 6
    height: int = 128
    width: int = 64
    seed: int = 0

    RANGES = {
        "train_identities": (2, 4000), "test_identities": (2, 4000), "images_per_identity": (2, 100), "cameras": (2, 9),
        "height": (32, 256), "width": (16, 128), "seed": (0, 2**31 - 1),
    }  # fmt: skip

    def __post_init__(self):
        for name, (low, high) in self.RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise SyntheticError(f"SyntheticSpec: {name} is {value!r}; give a whole number from {low} to {high}.")
            if not low <= value <= high:
                raise SyntheticError(f"SyntheticSpec: {name} is {value}; give a whole number from {low} to {high}.")
            object.__setattr__(self, name, int(value))


# ------------------------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class _Task:
    """One image to write: its folder and name, whose, seen by which camera, in which order, and whether it is a junk box."""

    folder: str
    name: str
    person: int
    camera: int
    index: int
    junk: bool = False


def plan_images(spec: SyntheticSpec) -> list[_Task]:
    """Every image of the data set, in a fixed order. Training identities are numbered first, test identities follow."""
    tasks = []
    for identity in range(1, spec.train_identities + spec.test_identities + 1):
        rng = random_stream(spec.seed, PLAN, identity)
        testing = identity > spec.train_identities
        most = min(spec.cameras, spec.images_per_identity)
        seen = np.sort(rng.permutation(spec.cameras)[: int(rng.integers(2, most + 1))]) + 1
        extra = rng.multinomial(spec.images_per_identity - len(seen), np.full(len(seen), 1 / len(seen)))
        for camera, more in zip(seen.tolist(), extra.tolist(), strict=True):
            count = 1 + more + testing
            frames = int(rng.integers(1, 90_000)) + np.cumsum(rng.integers(3, 60, count))
            query = int(rng.integers(count)) if testing else -1
            for index, frame in enumerate(frames.tolist()):
                folder = "bounding_box_train" if not testing else "query" if index == query else "bounding_box_test"
                tasks.append(_Task(folder, f"{identity:04d}_c{camera}s1_{frame:06d}_00.jpg", identity, camera, index))
    gallery = spec.test_identities * spec.images_per_identity
    rng = random_stream(spec.seed, PLAN, 0)
    for label, count, junk in (("0000", max(gallery // 10, 2), False), ("-1", max(gallery // 20, 2), True)):
        for index in range(count):
            camera = int(rng.integers(1, spec.cameras + 1))
            name = f"{label}_c{camera}s1_{index + 1:06d}_00.jpg"
            tasks.append(_Task("bounding_box_test", name, STRANGERS + 10_000 * (1 + junk) + index, camera, index, junk))
    return tasks


def _write_images(root: str, spec: SyntheticSpec, tasks: list[_Task]) -> int:
    """Renders and writes the tasks' images under root; returns how many."""
    for task in tasks:
        image, quality = render_image(
            spec.seed, task.person, task.camera, task.index, height=spec.height, width=spec.width, junk=task.junk
        )
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise SyntheticError(
                f"OpenCV could not encode {task.name} as JPEG; install an opencv-python built with JPEG support."
            )
        Path(root, task.folder, task.name).write_bytes(data.tobytes())
    return len(tasks)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _render_all(root: Path, spec: SyntheticSpec, workers: int, progress: bool) -> None:
    tasks = plan_images(spec)
    chunks = [tasks[start : start + 32] for start in range(0, len(tasks), 32)]
    with tqdm(total=len(tasks), desc="rendering people", unit="image", disable=not progress) as bar:
        if workers == 1:
            for chunk in chunks:
                bar.update(_write_images(str(root), spec, chunk))
            return
        context = multiprocessing.get_context("spawn")  # fork is unsafe once torch or OpenCV have started threads
        with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context, initializer=_one_thread) as pool:
            jobs = [pool.submit(_write_images, str(root), spec, chunk) for chunk in chunks]
            try:
                for job in jobs:
                    bar.update(job.result())
            except BrokenProcessPool as error:
                raise SyntheticError(
                    "A process that renders the synthetic data set stopped. In a script, put the calling code under "
                    "`if __name__ == '__main__':`; otherwise pass workers=1 (memory may have run out)."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _record(spec: SyntheticSpec) -> dict:
    difficulty = {name.lower(): getattr(_view_drawing, name) for name in _view_drawing.DIFFICULTY}
    difficulty |= {name.lower(): getattr(_scene_drawing, name) for name in _scene_drawing.DIFFICULTY}
    return {
        "renderer_version": RENDERER_VERSION,
        "spec": asdict(spec),
        "difficulty": difficulty,
        "images": dict(Counter(task.folder for task in plan_images(spec))),
    }


def _check_existing(root: Path, spec: SyntheticSpec) -> None:
    """Raises unless root holds exactly the data set that spec asks for."""
    remedy = f"Delete {root} to have it rendered again, or give another folder."
    try:
        found = json.loads((root / "synthetic.json").read_text())
        flat = {"renderer_version": found["renderer_version"], **found["spec"], **found["difficulty"]}
    except FileNotFoundError:
        raise SyntheticError(f"{root} exists but holds no synthetic.json: it was not made by this renderer. {remedy}") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SyntheticError(
            f"{root / 'synthetic.json'} cannot be read as the record of a synthetic data set ({error}). {remedy}"
        ) from None
    wanted = _record(spec)
    asked = {"renderer_version": RENDERER_VERSION, **wanted["spec"], **wanted["difficulty"]}
    differences = [
        f"{name} is {flat.get(name)!r} there, {asked[name]!r} was asked for" for name in asked if flat.get(name) != asked[name]
    ]
    if differences:
        raise SyntheticError(f"{root} holds another synthetic data set: {'; '.join(differences)}. {remedy}")
    for folder in _FOLDERS:
        count, expected = sum(1 for _ in (root / folder).glob("*.jpg")), wanted["images"][folder]
        if count != expected:
            raise SyntheticError(f"{root / folder} holds {count} images, {expected} were rendered. {remedy}")


def _in_child_process() -> bool:
    """Whether multiprocessing started this process; `_inheriting` is set while it still imports the parent's script."""
    importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    return importing or multiprocessing.parent_process() is not None


@contextlib.contextmanager
def _partial_folder(root: Path) -> Iterator[Path | None]:
    """An empty, locked folder beside root to render into; None where another process has finished root in the meantime.

    The lock lies on the folder itself: what an interrupted process left there is nobody's, and is removed. Afterwards the folder
    is gone, renamed or deleted.
    """
    partial = root.absolute().with_name(f".{root.absolute().name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:  # folders cannot be locked there: that it is there is the lock
        try:
            partial.mkdir()
        except FileExistsError:
            raise SyntheticError(
                f"{partial} is there: another process renders {root}, or was interrupted. Wait for it, or delete the folder."
            ) from None
        try:
            yield None if (root / "synthetic.json").exists() else partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # renamed by now, unless something went wrong
        return

    def is_ours(handle: int) -> bool:
        """Whether the folder locked still lies there: its earlier owner may have renamed or removed it."""
        try:
            return partial.stat().st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            return False

    while True:
        partial.mkdir(exist_ok=True)
        try:
            handle = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # renamed by its owner in this very moment
            continue
        try:
            try:
                # A child must not wait: it could be for its own parent.
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if _in_child_process() else 0))
            except BlockingIOError:
                raise SyntheticError(
                    f"Another process is rendering {root}. Wait for it to finish; in a script, put the calling code under "
                    "`if __name__ == '__main__':`."
                ) from None
            if not is_ours(handle):
                continue
            try:
                for leftover in partial.iterdir():
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                yield None if (root / "synthetic.json").exists() else partial
            finally:
                if is_ours(handle):
                    shutil.rmtree(partial)
            return
        finally:
            os.close(handle)


def ensure_synthetic(
    root: Path, spec: SyntheticSpec | None = None, *, workers: int | None = None, progress: bool = True
) -> Path:  # fmt: skip
    """Makes the data set under root unless it is there; returns root.

    A root that holds the same specification is counted and kept. Rendering goes to a hidden folder beside root, which is renamed
    when complete, so that root is never half-made; what an interrupted run left is removed. workers: number of processes
    (default: one per usable core). Raises SyntheticError where root holds anything else, or workers is not a whole number above
    zero.
    """
    root, spec = Path(root), spec or SyntheticSpec()
    if workers is None:
        workers = 1 if _in_child_process() else _usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 256:
        raise SyntheticError(
            f"ensure_synthetic: workers is {workers!r}; give a whole number from 1 to 256, or None for one per core."
        )
    if root.exists() and not root.is_dir():
        raise SyntheticError(
            f"{root} is a file; the synthetic data set needs a folder of that name: remove it or give another folder."
        )
    if root.is_dir() and any(root.iterdir()):
        _check_existing(root, spec)
        return root
    with _partial_folder(root) as partial:
        if partial is not None:
            for folder in _FOLDERS:
                (partial / folder).mkdir()
            _render_all(partial, spec, workers, progress)
            (partial / "synthetic.json").write_text(json.dumps(_record(spec), indent=2) + "\n")
            if fcntl is None and root.is_dir():  # empty, but Windows renames onto nothing that is there
                root.rmdir()
            partial.rename(root)
    _check_existing(root, spec)
    return root
