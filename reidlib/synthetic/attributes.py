"""What the renderer knows of an image: the side seen, what stands in front, the box's error, the clothes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidlib.synthetic.lookup import tasks_of
from reidlib.synthetic.person import Person
from reidlib.synthetic.views import Camera, View, draw_scene, place_frame

SIDES = ("front", "right side", "left side", "back")
OCCLUDERS = ("none", "pole", "bicycle", "hedge", "person")


def attributes_of(root: Path, paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """What images of a synthetic data set show. No image is read or drawn.

    Args:
        root: the data set's folder, made by `ensure_synthetic`.
        paths: N images in it.

    Returns:
        Name → (N,) values, in the order of the paths:

        - person: number of who is drawn. Every distractor is a person of its own.
        - yaw: how far the person is turned away from the viewer, in radians from -π to π. 0 faces the viewer.
        - side: which of `SIDES` is seen.
        - occluder: which of `OCCLUDERS` stands in front.
        - overlap: intersection over union of the image's box and a box that is centred on the person.
        - colours: those of upper and lower clothes.
        - clothes: the same with the upper's pattern.

    Raises:
        SyntheticError: as in `tasks_of`.
    """
    spec, tasks = tasks_of(root, paths)
    scenes = [draw_scene(spec.seed, task.person, task.camera, task.index, junk=task.junk) for task in tasks]
    yaw = np.array([_wrapped(view.pose.yaw) for _, _, view in scenes])
    colours = [_colours(person) for person, _, _ in scenes]
    clothes = [f"{_colours(person)}, {_pattern(person)}" for person, _, _ in scenes]
    return {
        "person": np.array([task.person for task in tasks], dtype=np.int64),
        "yaw": yaw,
        "side": np.array([side_seen(angle) for angle in yaw], dtype=np.str_),
        "occluder": np.array([view.occluder for _, _, view in scenes], dtype=np.str_),
        "overlap": np.array([box_overlap(*scene) for scene in scenes], dtype=float),
        "colours": np.array(colours, dtype=np.str_),
        "clothes": np.array(clothes, dtype=np.str_),
    }


def side_seen(yaw: float) -> str:
    """Which of `SIDES` faces the viewer: a quarter turn each. At yaw +π/2 it is the person's right side."""
    quarter = round(_wrapped(yaw) / (np.pi / 2))
    return {0: "front", 1: "right side", -1: "left side"}.get(quarter, "back")


def box_overlap(person: Person, camera: Camera, view: View) -> float:
    """Intersection over union of the image's box and of the same camera's box without any error of crop."""
    exact = replace(view, shift_x=0.0, shift_y=0.0, zoom=1.0, aspect=0.5)
    boxes = [_box(person, camera, one) for one in (view, exact)]
    lows, highs = (np.array([box[side] for box in boxes]) for side in (0, 1))
    common = np.prod(np.maximum(highs.min(0) - lows.max(0), 0))
    return float(common / (np.prod(highs - lows, axis=1).sum() - common))


def people_dressed_alike(
    clothes: np.ndarray, people: np.ndarray, other_clothes: np.ndarray, other_people: np.ndarray
) -> np.ndarray:
    """(Q,) how many other people in the gallery wear what a query's person wears.

    Args:
        clothes, people: (Q,) of the queries, as in `attributes_of`: its colours or clothes, and its person.
        other_clothes, other_people: (G,) of the gallery.
    """
    worn = {(one, int(person)) for one, person in zip(other_clothes, other_people, strict=True)}
    names, counts = np.unique([one for one, _ in worn], return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    asked = zip(clothes.tolist(), people.tolist(), strict=True)
    return np.array([found.get(one, 0) - ((one, person) in worn) for one, person in asked], dtype=np.int64)


def _wrapped(angle: float) -> float:
    """The same angle between -π and π."""
    return float(np.angle(np.exp(1j * angle)))


def _colours(person: Person) -> str:
    return " over ".join("-".join(map(str, colour)) for colour in (person.upper_colour, person.lower_colour))


def _pattern(person: Person) -> str:
    """A plain upper shows no second colour."""
    own = "" if person.pattern == "plain" else " in " + "-".join(map(str, person.pattern_colour))
    return person.pattern + own


def _box(person: Person, camera: Camera, view: View) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lower left and upper right corner, in body heights from the person's feet."""
    # The size of the drawing only rounds the width.
    frame = place_frame(person, camera, view, 1000)
    left = view.shift_x - 0.5 * frame.columns / frame.scale
    return (left, frame.bottom), (left + frame.columns / frame.scale, frame.bottom + frame.box)
