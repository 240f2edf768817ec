"""Finds out, for images of a synthetic data set on disk, what was rendered into them."""

import json
from collections.abc import Sequence
from pathlib import Path

from reidlib.synthetic.folder import drawing_code
from reidlib.synthetic.spec import SyntheticError, SyntheticSpec, Task, plan_images


def tasks_of(root: Path, paths: Sequence[Path]) -> tuple[SyntheticSpec, list[Task]]:
    """The specification of a synthetic data set, and the task of each of these images in it.

    Args:
        root: the data set's folder, made by `ensure_synthetic`.
        paths: images in it.

    Raises:
        SyntheticError: root is no synthetic data set or was drawn by other code, or it has no such image.
    """
    try:
        record = json.loads((Path(root) / "synthetic.json").read_text())
        spec, drawn_by = SyntheticSpec(**record["spec"]), record["drawn_by"]
    except (OSError, ValueError, KeyError, TypeError, SyntheticError):
        raise SyntheticError(
            f"{root} has no readable synthetic.json, which says what was rendered: only of rendered images "
            "is known what they show. Give a folder made by ensure_synthetic."
        ) from None
    if drawn_by != drawing_code():
        raise SyntheticError(
            f"The images in {root} were drawn by other code, so what they show is not known. Call "
            "ensure_synthetic, which draws them again."
        )
    tasks = {(task.folder, task.name): task for task in plan_images(spec)}
    found = []
    for path in map(Path, paths):
        task = tasks.get((path.parent.name, path.name))
        if task is None:
            raise SyntheticError(f"{path} is none of the images that were rendered into {root}.")
        found.append(task)
    return spec, found
