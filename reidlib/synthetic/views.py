"""Draws people, cameras and views at random, and renders the image that a camera takes of a person.

Every draw has its own random stream with the key (seed, stream, numbers…). So an image does not depend on
which other images are made, in which order, or by which process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from reidlib.synthetic.figure import draw_figure
from reidlib.synthetic.person import Person, Pose
from reidlib.synthetic.scenery import PANORAMA_WIDTH, draw_occluder, window

# How hard the data set is. These values are recorded in synthetic.json; the data is rendered again if one
# changes.
IDENTITIES_PER_COLOUR_GROUP = 4  # identities that share the colours of upper and lower clothes
COLOUR_CAST = 0.04  # standard deviation of a camera's gain per channel (log)
EXPOSURE_RANGE = 0.12  # half the range of a camera's exposure (log); single images add a third of it
OCCLUSION_PROBABILITY = 0.20  # pole, bicycle, hedge or another person in front of the person
CROP_JITTER = 0.035  # standard deviation of the detector box's shift, in body heights
POSE_RANGE = 1.0  # 0: everyone stands still; 1: strides up to 0.45 rad, phones, pockets, turned heads
VIEW_SPREAD = 0.45  # standard deviation of yaw around a camera's two walking directions, in radians
DIFFICULTY = (
    "IDENTITIES_PER_COLOUR_GROUP", "COLOUR_CAST", "EXPOSURE_RANGE", "OCCLUSION_PROBABILITY", "CROP_JITTER",
    "POSE_RANGE", "VIEW_SPREAD",
)  # fmt: skip

PERSON, GROUP, CAMERA, TRACK, IMAGE, PLAN = range(1, 7)  # independent random streams
STRANGERS = 20_000  # first number of people who are not identities: distractors, junk, passers-by

_UPPER_COLOURS = (
    (38, 38, 42), (222, 220, 215), (126, 128, 132), (48, 56, 84), (136, 50, 52), (94, 96, 68),
    (108, 136, 168), (172, 150, 118), (198, 172, 88), (70, 108, 88), (162, 112, 130), (190, 108, 70),
)  # fmt: skip
_LOWER_COLOURS = ((36, 37, 42), (56, 66, 92), (110, 124, 146), (116, 112, 106), (150, 130, 98), (88, 72, 58))
_SKINS = ((238, 204, 180), (222, 180, 150), (198, 152, 120), (156, 110, 82), (108, 74, 56))
_HAIRS = ((26, 22, 22), (36, 28, 24), (62, 42, 30), (104, 72, 44), (146, 112, 70), (124, 120, 116))
_SHOES = ((34, 33, 35), (212, 210, 206), (96, 68, 48), (120, 120, 124), (140, 40, 42))
_BAGS = ((34, 34, 38), (86, 60, 42), (48, 66, 112), (140, 40, 48), (120, 122, 118), (188, 160, 120))

# ---------------------------------------------------------------------------------------------------- people


def random_stream(*key: int) -> np.random.Generator:
    """The random generator of one key. It is the same in every process, as Python's hash() is not used."""
    return np.random.default_rng(np.random.SeedSequence(list(key)))


def _pick(rng: np.random.Generator, choices, weights=None):
    p = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    return choices[int(rng.choice(len(choices), p=p))]


@lru_cache(maxsize=64)
def _colour_group(seed: int, group: int) -> tuple:
    """What the members of a group share: upper, lower and pattern colour, and the order of their patterns."""
    rng = random_stream(seed, GROUP, group)
    upper = _pick(rng, _UPPER_COLOURS, [2, 1.5, 1.2, 1.3, 1.2, 1, 1.2, 1, 0.8, 1, 1, 0.8])
    lower = _pick(rng, _LOWER_COLOURS, [2, 2, 1.5, 1.2, 1.2, 1])
    bright = sum(upper) / 3
    light, dark = (
        [(228, 226, 220), (206, 190, 150), (186, 204, 222)],
        [(34, 34, 38), (44, 52, 92), (120, 40, 44)],
    )
    second = _pick(rng, light if bright < 110 else dark if bright > 160 else light + dark)
    patterns = ["plain", *rng.permutation(["horizontal stripes", "vertical stripes", "checks", "print",
                                           "two-tone", "chest band", "contrast sleeves",
                                           "plain"])]  # fmt: skip
    return upper, lower, second, tuple(str(name) for name in patterns)


@lru_cache(maxsize=64)
def draw_person(identity: int, seed: int = 0) -> Person:
    """The person with an identity number (1, 2, …), in the data set of this seed."""
    rng = random_stream(seed, PERSON, identity)
    group, member = divmod(identity - 1, IDENTITIES_PER_COLOUR_GROUP)
    upper_colour, lower_colour, second, patterns = _colour_group(seed, group)
    feminine = rng.random() < 0.5
    upper = _pick(rng,
                  ("t-shirt", "long sleeve", "shirt", "hoodie", "jacket", "open jacket", "coat", "dress"),
                  [3, 1.5, 1.5, 1.4, 1.6, 1.6, 1.0, 1.2 if feminine else 0])  # fmt: skip
    lower = _pick(rng, ("slim trousers", "trousers", "wide trousers", "shorts", "short skirt", "long skirt"),
                  [2.4, 1.6, 1, 1.4, 1.4, 0.9] if feminine else [1.5, 2.6, 1.2, 1.8, 0, 0])  # fmt: skip
    if feminine:
        haircut = _pick(rng, ("long", "medium", "ponytail", "bun", "short"), [3, 2, 2, 1.2, 0.5])
    else:
        haircut = _pick(rng, ("short", "bald", "medium"), [6, 0.7, 0.7])
    hat = _pick(rng, ("none", "cap", "beanie", "sun hat"), [7, 1.2, 0.9, 0.6])
    weight = float(np.clip(rng.normal(0.93 if feminine else 1.03, 0.13), 0.74, 1.4))
    return Person(
        height=float(np.clip(rng.normal(0.94 if feminine else 1.01, 0.045), 0.82, 1.12)),
        shoulders=float(np.clip(rng.normal(0.90 if feminine else 1.03, 0.05), 0.8, 1.15)),
        hips=float(np.clip(rng.normal(1.03 if feminine else 0.97, 0.05), 0.88, 1.16)),
        weight=weight,
        skin=_pick(rng, _SKINS, [2, 3, 2, 1, 0.7]),
        haircut=haircut,
        hair=_pick(rng, _HAIRS, [3, 3, 2, 1.2, 0.7, 0.6]),
        beard=bool(not feminine and rng.random() < 0.25),
        upper=upper,
        upper_colour=upper_colour,
        pattern=patterns[member % len(patterns)],
        pattern_colour=second,
        pattern_period=float(rng.uniform(0.038, 0.075)),
        pattern_seed=int(rng.integers(1 << 30)),
        inner_colour=_pick(rng, ((222, 220, 214), (60, 60, 66), (150, 152, 156), second)),
        lower=lower,
        lower_colour=lower_colour,
        side_stripe=bool(lower in ("trousers", "shorts") and rng.random() < 0.2),
        shoes=_pick(rng, _SHOES, [3, 2, 1, 1, 0.5]),
        bag=_pick(
            rng, ("none", "backpack", "shoulder bag", "handbag"), [3.6, 2.6, 1.8, 1.4 if feminine else 0.5]
        ),
        bag_colour=_pick(rng, _BAGS, [3, 1.5, 1, 0.8, 1, 0.7]),
        bag_on_left=bool(rng.random() < 0.5),
        hat=hat,
        hat_colour=_pick(rng, (*_BAGS, (210, 206, 196)), [2, 1, 1, 1, 1, 1, 1]),
    )


def describe_person(identity: int, seed: int = 0) -> dict:
    """A person's attributes by name (build, hair, clothes, colours, bag, hat) and colour group."""
    return asdict(draw_person(identity, seed)) | {
        "colour_group": (identity - 1) // IDENTITIES_PER_COLOUR_GROUP
    }


# ---------------------------------------------------------------------------------------------------- cameras


@dataclass(frozen=True)
class Camera:
    """One camera's optics.

    gains are per RGB channel; native_height is the height of a detector box on the sensor, in pixels.
    """

    number: int
    pitch: float
    perspective: float
    heading: float
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    blur: float
    native_height: float
    noise: float
    quality: int
    light: tuple[float, float, float]
    ambient: float


@lru_cache(maxsize=64)
def draw_camera(number: int, seed: int = 0) -> Camera:
    """Camera `number` (1, 2, …) of the data set with this seed.

    Exposures are spread evenly over the cameras.
    """
    rng = random_stream(seed, CAMERA, number)
    exposure = EXPOSURE_RANGE * (((number * 0.618) % 1.0) * 2 - 1)
    indoor = number % 6 in (2, 0)
    ambient = rng.uniform(0.72, 0.85) if indoor else rng.uniform(0.42, 0.68)
    return Camera(
        number=number,
        pitch=float(rng.uniform(0.08, 0.34)),
        perspective=float(rng.uniform(0.03, 0.20)),
        heading=float(rng.uniform(0, np.pi)),
        gains=tuple(float(gain) for gain in np.exp(exposure + rng.normal(0, COLOUR_CAST, 3))),
        gamma=float(rng.uniform(0.92, 1.11)),
        saturation=float(rng.uniform(0.70, 1.12)),
        blur=float(rng.uniform(0.25, 0.75)),
        native_height=float(rng.choice([78.0, 100.0, 130.0, 170.0, 230.0])),
        noise=float(rng.uniform(1.0, 3.5)),
        quality=int(rng.integers(62, 93)),
        light=(
            float(rng.choice([-1, 1]) * rng.uniform(0.35, 0.9)),
            float(rng.uniform(0.5, 0.9)),
            float(rng.uniform(0.2, 0.8)),
        ),
        ambient=float(ambient),
    )


@dataclass(frozen=True)
class View:
    """How one image shows a person.

    place (in the panorama), shift_x and shift_y are in body heights. occluder: "none", "pole", "bicycle",
    "hedge" or "person".
    """

    pose: Pose = Pose()
    place: float = 2.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    aspect: float = 0.5
    occluder: str = "none"
    exposure: float = 0.0
    gradient: float = 0.0
    sharpness: float = 1.0
    noise_seed: int = 0


def draw_view(
    person: Person, camera: Camera, track: tuple[int, ...], image: tuple[int, ...], *, junk: bool = False
) -> View:
    """Draws one image's pose, crop, light and occlusion.

    Args:
        track: key of the random stream that all images of one walk through a camera share.
        image: key of this image's own random stream.
        junk: draw a badly placed box.
    """
    walk, rng = random_stream(*track), random_stream(*image)
    towards = camera.heading + (np.pi if walk.random() < 0.5 else 0.0) + walk.normal(0, VIEW_SPREAD)
    place, walking = walk.uniform(0.6, PANORAMA_WIDTH - 0.6), walk.random() < 0.8
    stride = POSE_RANGE * (walk.uniform(0.24, 0.45) if walking else walk.uniform(0.02, 0.10))
    arms = []
    for on_left in (True, False):
        carries = person.bag == "handbag" and person.bag_on_left == on_left
        manner = _pick(
            walk, ("swing", "phone", "pocket", "strap"), [8, 1, 1.4, 1.2 if person.bag == "backpack" else 0]
        )
        arms.append("carry" if carries else manner if rng.random() < POSE_RANGE * 0.8 else "swing")
    pose = Pose(
        yaw=float(towards + rng.normal(0, 0.5 * VIEW_SPREAD)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(stride * rng.uniform(0.85, 1.15)),
        lean=float(rng.normal(0.04, 0.025)),
        head_yaw=float(POSE_RANGE * rng.normal(0, 0.28)),
        head_nod=float(POSE_RANGE * rng.normal(0.15, 0.3)) + (0.5 if "phone" in arms else 0.0),
        elbow=float(rng.uniform(0.15, 0.5 + 0.3 * walking)),
        abduction=float(rng.uniform(0.08, 0.22)),
        left_arm=arms[0],
        right_arm=arms[1],
        light=camera.light,
        ambient=camera.ambient,
        folds=int(rng.integers(256)),
    )
    occluder = "none"
    if rng.random() < OCCLUSION_PROBABILITY:
        occluder = _pick(rng, ("pole", "bicycle", "hedge", "person"), [1, 1, 0.7, 1.4])
    shift_x, shift_y, zoom = (
        rng.normal(0, CROP_JITTER * 0.7),
        rng.normal(0, CROP_JITTER),
        np.exp(rng.normal(0.02, 1.2 * CROP_JITTER)),
    )
    if rng.random() < 2.0 * CROP_JITTER:  # the lower border cuts the legs, as with people close to the camera
        shift_y, zoom = shift_y + rng.uniform(0.08, 0.22), zoom * 0.9
    if junk:
        shift_x, shift_y, zoom = (
            rng.choice([-1, 1]) * rng.uniform(0.15, 0.6),
            rng.uniform(-0.5, 0.5),
            np.exp(rng.normal(0, 0.4)),
        )
    return View(
        pose=pose,
        place=float(place + rng.normal(0, 0.15)),
        shift_x=float(shift_x),
        shift_y=float(shift_y),
        zoom=float(zoom),
        aspect=float(0.5 * np.exp(rng.normal(0, 0.6 * CROP_JITTER) - (0.12 if junk else 0.0))),
        occluder=occluder,
        exposure=float(rng.normal(0, EXPOSURE_RANGE / 3)),
        gradient=float(rng.normal(0, 0.16)),
        sharpness=float(np.exp(rng.normal(0, 0.22))),
        noise_seed=int(rng.integers(1 << 30)),
    )


# ----------------------------------------------------------------------------------------------------
# rendering


def render_image(
    seed: int, identity: int, camera: int, index: int, *, height: int, width: int, junk: bool = False
) -> tuple[np.ndarray, int]:
    """Image number `index` of an identity by a camera, and the JPEG quality to store it in.

    The image is uint8 RGB, (height, width, 3).
    """
    person, optics, view = draw_scene(seed, identity, camera, index, junk=junk)
    quality = int(np.clip(optics.quality + view.noise_seed % 13 - 6, 45, 96))
    return render_person(person, optics, view, height=height, width=width, seed=seed), quality


def draw_scene(
    seed: int, identity: int, camera: int, index: int, *, junk: bool = False
) -> tuple[Person, Camera, View]:
    """What image number `index` of an identity by a camera shows."""
    person, optics = draw_person(identity, seed), draw_camera(camera, seed)
    track, image = (seed, TRACK, identity, camera), (seed, IMAGE, identity, camera, index)
    return person, optics, draw_view(person, optics, track, image, junk=junk)


def render_person(
    person: Person, camera: Camera, view: View, *, height: int = 128, width: int = 64, seed: int = 0
) -> np.ndarray:
    """One image as a uint8 RGB array (height, width, 3).

    Every size shows the same scene; a larger one is only sharper.
    """
    rng = random_stream(view.noise_seed)
    rows, columns, box, bottom, scale, origin, optics = place_frame(person, camera, view, height)
    left = view.shift_x - 0.5 * columns / scale
    half = (rows // 2, columns // 2)
    image = window(seed, camera.number, view.place, left, bottom, columns / scale, box, half)
    light, coverage = draw_figure(rows, columns, person, view.pose, origin=origin, **optics)
    image = _cast_shadow(image, coverage, origin, scale, view.pose)
    image = _over(image, light, coverage)
    if view.occluder == "person":
        other, pose, at = draw_passer_by(view, seed, origin, scale, rng)
        image = _over(image, *draw_figure(rows, columns, other, pose, origin=at, **optics))
    elif view.occluder != "none":
        draw_occluder(image, view.occluder, scale / 2, (origin[0] / 2, origin[1] / 2), rng)
    return _photograph(image, camera, view, rng, height, width)


class Frame(NamedTuple):
    """Where a person stands in an image. The figure is drawn at twice the image's height.

    rows, columns: size of that drawing; box: its height in body heights; bottom: its lower border, relative
    to the person's feet, in body heights; scale: pixels per body height; origin: column and row of the
    person's feet; optics: arguments of `draw_figure`.
    """

    rows: int
    columns: int
    box: float
    bottom: float
    scale: float
    origin: tuple[float, float]
    optics: dict[str, float]


def place_frame(person: Person, camera: Camera, view: View, height: int) -> Frame:
    rows = 2 * height
    columns = max(int(round(rows * view.aspect)), 8)
    box = (np.cos(camera.pitch) + 0.07) * person.height * view.zoom
    scale = rows / box
    bottom = 0.50 * person.height * np.cos(camera.pitch) - 0.5 * box + view.shift_y * person.height
    origin = (columns * 0.5 - view.shift_x * scale, rows + bottom * scale)
    optics = {"scale": scale, "pitch": camera.pitch, "perspective": camera.perspective}
    return Frame(rows, columns, box, bottom, scale, origin, optics)


def draw_passer_by(
    view: View, seed: int, origin: tuple[float, float], scale: float, rng: np.random.Generator
) -> tuple[Person, Pose, tuple[float, float]]:
    """Who walks in front of the person, how, and where the feet are."""
    other = draw_person(STRANGERS + int(rng.integers(5000)), seed)
    pose = Pose(
        yaw=rng.uniform(0, 6.28),
        phase=rng.uniform(0, 6.28),
        light=view.pose.light,
        ambient=view.pose.ambient,
    )
    aside = rng.choice([-1, 1]) * rng.uniform(0.15, 0.28)
    return other, pose, (origin[0] + aside * scale, origin[1] + 0.05 * scale)


def _over(image: np.ndarray, light: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Lays a figure over the image. The figure has twice the resolution and is premultiplied."""
    size = (image.shape[1], image.shape[0])
    alpha = cv2.resize(coverage, size, interpolation=cv2.INTER_AREA)
    return image * (1 - alpha)[:, :, None] + cv2.resize(light, size, interpolation=cv2.INTER_AREA)


def _cast_shadow(image: np.ndarray, coverage: np.ndarray, origin, scale: float, pose: Pose) -> np.ndarray:
    """Darkens the ground by the figure's shadow, which lies flat away from the light.

    The shadow is weaker under an overcast sky.
    """
    size = (image.shape[1], image.shape[0])
    slant = np.clip(pose.light[0] / max(pose.light[1], 0.3), -1.2, 1.2) * 0.8
    foot_x, foot_y = origin[0] / 2, origin[1] / 2
    flat = 0.28
    matrix = np.array([[0.5, 0.5 * slant, foot_x - 0.5 * origin[0] - 0.5 * slant * origin[1]],
                       [0.0, 0.5 * flat, foot_y - 0.5 * flat * origin[1]]], np.float32)  # fmt: skip
    shadow = cv2.warpAffine(coverage, matrix, size)
    contact = np.zeros(size[::-1], np.float32)
    axes = (max(round(0.085 * scale), 1), max(round(0.022 * scale), 1))
    cv2.ellipse(contact, (round(foot_x), round(foot_y - 0.012 * scale)), axes, 0, 0, 360, 1.0, -1)
    shadow = (1.05 - pose.ambient) * 0.85 * cv2.GaussianBlur(shadow, (0, 0), 0.008 * scale)
    shadow = np.maximum(shadow, 0.55 * cv2.GaussianBlur(contact, (0, 0), 0.014 * scale))
    return image * (1 - shadow)[:, :, None]


def _photograph(image: np.ndarray, camera: Camera, view: View, rng, height: int, width: int) -> np.ndarray:
    """Linear light to 8 bits, as lens and sensor do it.

    Steps: resolution, blur, uneven light, exposure, colour cast, contrast, noise.
    """
    native = camera.native_height * view.sharpness
    if native < height:
        small = (max(round(native * view.aspect), 4), max(round(native), 8))
        image = cv2.resize(
            cv2.resize(image, small, interpolation=cv2.INTER_AREA),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
    else:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), max(camera.blur * height / 128, 0.2))
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(np.cos(7 * view.gradient))
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(7 * view.gradient))
    image = (
        image
        * (np.exp(np.float32(view.gradient) * (across + down)) * np.float32(np.exp(view.exposure)))[
            :, :, None
        ]
    )
    image = np.clip(image * np.asarray(camera.gains, np.float32), 0, None)
    # The division is a soft shoulder: whites do not clip abruptly.
    image = np.power(image / (1 + 0.12 * image), np.float32(0.5 / camera.gamma))
    grey = image.mean(axis=2, keepdims=True)
    image = grey + camera.saturation * (image - grey)
    coarse = rng.standard_normal((height, width, 1), np.float32)
    grain = coarse + 0.5 * rng.standard_normal((height, width, 3), np.float32)
    return np.clip(image * 255 + np.float32(camera.noise * 0.7) * grain + 0.5, 0, 255).astype(np.uint8)
