"""Renders the synthetic people into a folder in Market-1501's layout, by several processes."""

import json
import multiprocessing
import os
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import cv2

from reidlib.code_digest import digest_of_code
from reidlib.files import locked
from reidlib.progress import track_progress
from reidlib.synthetic import scenery, views
from reidlib.synthetic.spec import SyntheticError, SyntheticSpec, Task, plan_images
from reidlib.synthetic.views import render_image

_FOLDERS = ("bounding_box_train", "bounding_box_test", "query")


def _write_images(root: str, spec: SyntheticSpec, tasks: list[Task]) -> int:
    """Renders and writes the tasks' images under root; returns how many."""
    for task in tasks:
        image, quality = render_image(
            spec.seed,
            task.person,
            task.camera,
            task.index,
            height=spec.height,
            width=spec.width,
            junk=task.junk,
        )
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if not done:
            raise SyntheticError(
                f"OpenCV could not encode {task.name} as JPEG; "
                "install an opencv-python built with JPEG support."
            )
        Path(root, task.folder, task.name).write_bytes(data.tobytes())
    return len(tasks)


def _usable_cores() -> int:
    # macOS has no sched_getaffinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _render_all(root: Path, spec: SyntheticSpec, workers: int) -> None:
    tasks = plan_images(spec)
    chunks = [tasks[start : start + 32] for start in range(0, len(tasks), 32)]
    with track_progress(len(tasks), "rendering people", "image") as bar:
        if workers == 1:
            for chunk in chunks:
                bar.update(_write_images(str(root), spec, chunk))
            return
        # Not fork: it is unsafe once torch or OpenCV have started threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, len(chunks)), mp_context=context, initializer=_one_thread
        ) as pool:
            jobs = [pool.submit(_write_images, str(root), spec, chunk) for chunk in chunks]
            try:
                for job in jobs:
                    bar.update(job.result())
            except BrokenProcessPool as error:
                raise SyntheticError(
                    "A process that renders the synthetic data set stopped. "
                    "In a script, put the calling code under `if __name__ == '__main__':`; "
                    "otherwise pass workers=1 (memory may have run out)."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def drawing_code() -> str:
    """Digest of the code that draws."""
    return digest_of_code("reidlib.synthetic.folder", words=True)


def _record(spec: SyntheticSpec) -> dict:
    difficulty = {name.lower(): getattr(views, name) for name in views.DIFFICULTY}
    difficulty |= {name.lower(): getattr(scenery, name) for name in scenery.DIFFICULTY}
    return {
        "spec": asdict(spec),
        "drawn_by": drawing_code(),
        "difficulty": difficulty,  # for readers only: drawn_by already covers these constants
        "images": dict(Counter(task.folder for task in plan_images(spec))),
    }


def _is_up_to_date(root: Path, spec: SyntheticSpec) -> bool:
    """Whether root holds what `spec` asks for; False if the code that draws has changed since.

    Raises:
        SyntheticError: root holds anything else.
    """
    remedy = f"Delete {root} to have it rendered again, or give another folder."
    try:
        found = json.loads((root / "synthetic.json").read_text())
        asked_for, drawn_by = dict(found["spec"]), found.get("drawn_by")
    except FileNotFoundError:
        raise SyntheticError(
            f"{root} exists but holds no synthetic.json: it was not made by this renderer. {remedy}"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SyntheticError(
            f"{root / 'synthetic.json'} cannot be read as the record of a synthetic data set ({error}). "
            f"{remedy}"
        ) from None
    wanted = _record(spec)
    differences = [
        f"{name} is {asked_for.get(name)!r} there, {value!r} was asked for"
        for name, value in wanted["spec"].items()
        if asked_for.get(name) != value
    ]
    if differences:
        raise SyntheticError(f"{root} holds another synthetic data set: {'; '.join(differences)}. {remedy}")
    if drawn_by != wanted["drawn_by"]:
        return False
    for folder in _FOLDERS:
        count, expected = sum(1 for _ in (root / folder).glob("*.jpg")), wanted["images"][folder]
        if count != expected:
            raise SyntheticError(f"{root / folder} holds {count} images, {expected} were rendered. {remedy}")
    return True


def _in_child_process() -> bool:
    """Whether multiprocessing started this process.

    `_inheriting` is set while the process still imports the parent's script.
    """
    importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    return importing or multiprocessing.parent_process() is not None


def ensure_synthetic(root: Path, spec: SyntheticSpec | None = None, *, workers: int | None = None) -> Path:
    """Makes the data set under root unless it is there; returns root.

    A root with the same specification is kept once its images are counted. It is rendered again if the code
    that draws has changed. Rendering goes to a hidden folder beside root, which is renamed when complete, so
    that root is never half-made. What an interrupted run left there is removed.

    Args:
        workers: number of processes; None: one per usable core, or one in a child process.

    Raises:
        SyntheticError: root holds anything else, or workers is not a whole number from 1 to 256.
        FileError: another process renders root, and this process may be its child, so it must not wait.
    """
    root, spec = Path(root), spec or SyntheticSpec()
    if workers is None:
        workers = 1 if _in_child_process() else _usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 256:
        raise SyntheticError(
            f"ensure_synthetic: workers is {workers!r}; give a whole number from 1 to 256, "
            "or None for one per core."
        )
    if root.exists() and not root.is_dir():
        raise SyntheticError(
            f"{root} is a file; the synthetic data set needs a folder of that name: "
            "remove it or give another folder."
        )
    if _is_made(root, spec):
        return root
    place = root.absolute()
    lock = place.with_name(f".{place.name}.lock")
    held = (
        f"Another process is rendering {root}. Wait for it to finish; "
        "in a script, put the calling code under `if __name__ == '__main__':`."
    )
    with locked(lock, wait=not _in_child_process(), held=held):  # a child would wait for its own parent
        if not _is_made(root, spec):  # the process that held the lock before may have made it
            _render_beside(place, spec, workers)
    _is_up_to_date(root, spec)
    return root


def _is_made(root: Path, spec: SyntheticSpec) -> bool:
    return root.is_dir() and any(root.iterdir()) and _is_up_to_date(root, spec)


def _render_beside(place: Path, spec: SyntheticSpec, workers: int) -> None:
    """Renders into a hidden folder, which then replaces the existing one."""
    partial, old = (place.with_name(f".{place.name}.{what}") for what in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        for folder in _FOLDERS:
            (partial / folder).mkdir(parents=True)
        _render_all(partial, spec, workers)
        (partial / "synthetic.json").write_text(json.dumps(_record(spec), indent=2) + "\n")
        if place.is_dir():
            place.rename(old)
        partial.rename(place)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
