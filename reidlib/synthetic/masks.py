"""Where in a rendered image the person, the parts of the body, an occluder and the background are.

Masks follow from the same drawings as the image. They are made apart from it, so no pixel depends on them.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from reidlib.synthetic.figure import draw_parts
from reidlib.synthetic.lookup import tasks_of
from reidlib.synthetic.person import Person
from reidlib.synthetic.scenery import draw_occluder
from reidlib.synthetic.tubes import PARTS
from reidlib.synthetic.views import (
    Camera,
    Frame,
    View,
    draw_passer_by,
    draw_scene,
    place_frame,
    random_stream,
)

MASKS = ("person", *PARTS, "occluder", "background")


def render_masks(
    person: Person, camera: Camera, view: View, *, height: int = 128, width: int = 64, seed: int = 0
) -> dict[str, np.ndarray]:
    """Masks of the image that `render_person` gives for the same arguments.

    Returns:
        Name of `MASKS` → (height, width) booleans. Each pixel is person, occluder or background, whichever
        covers most of it. `person` is all that is seen of the person, clothes, hat and bag included, and is
        made of the five parts (`reidlib.synthetic.figure.draw_parts`). `occluder` is what stands in front,
        another person included. Shadows are background. What covers less of a pixel has no mask there, and
        blur carries colours across the border: up to 4 pixels of an image 128 pixels high.
    """
    frame, size = place_frame(person, camera, view, height), (width, height)
    parts = draw_parts(frame.rows, frame.columns, person, view.pose, origin=frame.origin, **frame.optics)
    hidden = cv2.resize(_opacity(view, frame, seed), size, interpolation=cv2.INTER_AREA)
    shares = [
        cv2.resize((parts == number).astype(np.float32), size, interpolation=cv2.INTER_AREA) * (1 - hidden)
        for number in range(1, len(PARTS) + 1)
    ]
    whole = np.sum(shares, axis=0)
    largest = np.argmax([whole, hidden, 1 - whole - hidden], axis=0)
    part = np.argmax(shares, axis=0)
    masks = {"person": largest == 0, "occluder": largest == 1, "background": largest == 2}
    masks |= {name: masks["person"] & (part == number) for number, name in enumerate(PARTS)}
    return {name: masks[name] for name in MASKS}


def masks_of(
    root: Path, paths: Sequence[Path], *, height: int | None = None, width: int | None = None
) -> dict[str, np.ndarray]:
    """Masks of images in a synthetic data set.

    Args:
        root: the data set's folder, made by `ensure_synthetic`.
        paths: images in it.
        height, width: of the masks; None: those of the images. Every size shows the same scene.

    Returns:
        Name of `MASKS` → (N, height, width) booleans, in the order of the paths.

    Raises:
        SyntheticError: as in `tasks_of`.
    """
    spec, tasks = tasks_of(root, paths)
    size = {"height": height or spec.height, "width": width or spec.width}
    found = []
    for task in tasks:
        scene = draw_scene(spec.seed, task.person, task.camera, task.index, junk=task.junk)
        found.append(render_masks(*scene, **size, seed=spec.seed))
    return {name: np.array([masks[name] for masks in found]) for name in MASKS}


def _opacity(view: View, frame: Frame, seed: int) -> np.ndarray:
    """How far what stands in front covers the image, 0 to 1, at the drawing's size or half of it."""
    rng = random_stream(view.noise_seed)  # as `render_person` draws it
    if view.occluder == "person":
        other, pose, at = draw_passer_by(view, seed, frame.origin, frame.scale, rng)
        return (draw_parts(frame.rows, frame.columns, other, pose, origin=at, **frame.optics) > 0).astype(
            np.float32
        )
    if view.occluder == "none":
        return np.zeros((frame.rows, frame.columns), np.float32)
    over_black, over_white = (
        np.full((frame.rows // 2, frame.columns // 2, 3), value, np.float32) for value in (0, 1)
    )
    for image in (over_black, over_white):  # what is left of white is not covered
        feet = (frame.origin[0] / 2, frame.origin[1] / 2)
        draw_occluder(image, view.occluder, frame.scale / 2, feet, random_stream(view.noise_seed))
    return 1 - (over_white - over_black)[:, :, 0]
