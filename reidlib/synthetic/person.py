"""Who is drawn: a person's lasting attributes, the pose in one image, and the colours of the surface.

Patterns are painted in a tube's own coordinates. So a print shows from the front only, and stripes bend
around the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from reidlib.synthetic.tubes import (
    BAG,
    FACE,
    HAIR,
    HAT,
    INNER,
    LOWER,
    SHOE,
    SKIN,
    SKIRT,
    SLEEVE,
    STRAP,
    UPPER,
    Canvas,
)

PATTERNS = (
    "plain",
    "horizontal stripes",
    "vertical stripes",
    "checks",
    "print",
    "two-tone",
    "chest band",
    "contrast sleeves",
)
UPPERS = ("t-shirt", "long sleeve", "shirt", "hoodie", "jacket", "open jacket", "coat", "dress")
LOWERS = ("slim trousers", "trousers", "wide trousers", "shorts", "short skirt", "long skirt")
HAIRCUTS = ("bald", "short", "medium", "long", "bun", "ponytail")
HATS = ("none", "cap", "beanie", "sun hat")
BAGS = ("none", "backpack", "shoulder bag", "handbag")


@dataclass(frozen=True)
class Person:
    """Everything about a person that stays the same in all images. Colours are RGB triples in 0..255."""

    height: float
    shoulders: float
    hips: float
    weight: float
    skin: tuple[int, int, int]
    haircut: str
    hair: tuple[int, int, int]
    beard: bool
    upper: str
    upper_colour: tuple[int, int, int]
    pattern: str
    pattern_colour: tuple[int, int, int]
    pattern_period: float
    pattern_seed: int
    inner_colour: tuple[int, int, int]
    lower: str
    lower_colour: tuple[int, int, int]
    side_stripe: bool
    shoes: tuple[int, int, int]
    bag: str
    bag_colour: tuple[int, int, int]
    bag_on_left: bool
    hat: str
    hat_colour: tuple[int, int, int]


@dataclass(frozen=True)
class Pose:
    """What changes from image to image. Angles are in radians.

    yaw 0 faces the viewer; yaw +π/2 walks to the right of the image.
    """

    yaw: float = 0.0
    phase: float = 0.8
    stride: float = 0.35
    lean: float = 0.03
    head_yaw: float = 0.0
    head_nod: float = 0.0
    elbow: float = 0.3
    abduction: float = 0.12
    left_arm: str = "swing"
    right_arm: str = "swing"
    light: tuple[float, float, float] = (-0.5, 0.6, 0.6)
    ambient: float = 0.5
    folds: int = 0


def paint(canvas: Canvas, person: Person) -> np.ndarray:
    """Albedo (height, width, 3) of every covered pixel.

    It is the material's colour, then patterns, seams, face and straps on top.
    """

    def tone(colour, factor=1.0):
        return np.square(np.asarray(colour, np.float32) / 255.0) * np.float32(factor)

    palette = np.zeros((13, 3), np.float32)
    for material, colour in (
        (SKIN, person.skin), (FACE, person.skin), (HAIR, person.hair), (UPPER, person.upper_colour),
        (SLEEVE, person.upper_colour), (INNER, person.inner_colour), (LOWER, person.lower_colour),
        (SKIRT, person.lower_colour), (SHOE, person.shoes), (BAG, person.bag_colour),
        (HAT, person.hat_colour),
    ):  # fmt: skip
        palette[material] = tone(colour)
    palette[STRAP] = palette[BAG] * 0.7
    material, angle, level = canvas.material, canvas.angle, canvas.level
    albedo = palette[material]
    torso, sleeve = material == UPPER, material == SLEEVE
    second, period = tone(person.pattern_colour), person.pattern_period
    if person.pattern in ("vertical stripes", "checks"):
        around = angle * np.where(sleeve, np.float32(0.032), np.float32(0.095))
    if person.pattern == "horizontal stripes":
        albedo[(torso | sleeve) & (np.mod(level / period, 1.0) < 0.48)] = second
    elif person.pattern == "vertical stripes":
        albedo[(torso | sleeve) & (np.mod(around / (0.75 * period) + 0.25, 1.0) < 0.42)] = second
    elif person.pattern == "checks":
        rows, columns = np.mod(level / period, 1.0) < 0.45, np.mod(around / period + 0.2, 1.0) < 0.45
        garment = torso | sleeve
        albedo[garment & (rows ^ columns)] = 0.5 * (second + palette[UPPER])
        albedo[garment & rows & columns] = second
    elif person.pattern == "print":
        rng = np.random.default_rng(person.pattern_seed)
        shape = cv2.resize(rng.random((4, 4), np.float32), (24, 24), interpolation=cv2.INTER_CUBIC) > 0.42
        u, v = (angle + 0.52) * (24 / 1.04), (0.775 - level) * (24 / 0.115)
        where = torso & (u >= 0) & (u < 24) & (v >= 0) & (v < 24)
        picked = shape[v[where].astype(int), u[where].astype(int)]
        albedo[where] = np.where(picked[:, None], second, albedo[where])
    elif person.pattern == "two-tone":
        albedo[(torso & (level < 0.69)) | (sleeve & (level < 0.66))] = second
    elif person.pattern == "chest band":
        albedo[(torso | sleeve) & (level < 0.755) & (level > 0.755 - 1.3 * period)] = second
    elif person.pattern == "contrast sleeves":
        albedo[sleeve] = second

    front = np.abs(angle)
    if person.upper in ("jacket", "coat", "shirt"):
        albedo[torso & (front < 0.05)] *= 0.55
    if person.upper in ("t-shirt", "long sleeve", "dress"):
        albedo[torso & (front < 1.2) & (level > 0.838 + 0.016 * front**2)] = palette[SKIN]
    elif person.upper == "jacket":
        albedo[torso & (level > 0.795 + 0.35 * front) & (front < 0.25)] = palette[INNER]
    elif person.upper == "hoodie":
        albedo[torso & (level < 0.60) & (level > 0.53) & (front > 0.6) & (front < 0.68)] *= 0.7
    if person.upper != "dress":
        albedo[torso & (level < 0.487) & (person.upper != "coat")] *= 0.75
    legs = material == LOWER
    if person.side_stripe:
        albedo[legs & (np.abs(front - 1.57) < 0.25)] = 0.72
    else:
        albedo[legs & (level > 0.3)] *= 1.06

    if person.bag == "backpack":
        strap = (
            torso
            & (level > 0.66)
            & (front > 0.56 + 0.5 * (0.80 - level))
            & (front < 0.76 + 0.5 * (0.80 - level))
        )
        albedo[strap] = palette[STRAP]
    elif person.bag == "shoulder bag":
        sign = 1.0 if person.bag_on_left else -1.0
        lateral = sign * np.sin(angle) * 0.10
        line = (0.835 - level) / 0.27 * 0.19 - 0.085
        albedo[(torso | (material == INNER)) & (np.abs(lateral - line) < 0.0085) & (level > 0.55)] = palette[
            STRAP
        ]
    bag = material == BAG
    if bag.any():
        albedo[bag & (np.abs(level - (0.68 if person.bag == "backpack" else 0.51)) < 0.006)] *= 0.5
        if person.bag == "backpack":
            albedo[bag & (level < 0.66) & (level > 0.58) & (np.abs(front - 2.45) < 0.03)] *= 0.5

    face = material == FACE
    if face.any():
        if person.haircut == "bald":
            ring = face & (front > 1.15) & (level > 0.26) & (level < 0.84)
            albedo[ring] = 0.4 * albedo[ring] + 0.6 * palette[HAIR]
        eyes = face & (np.abs(front - 0.50) < 0.20) & (np.abs(level - 0.465) < 0.040)
        brows = face & (np.abs(front - 0.52) < 0.28) & (np.abs(level - 0.385) < 0.022)
        mouth = face & (front < 0.34) & (np.abs(level - 0.79) < 0.026)
        albedo[eyes] *= 0.16
        albedo[brows] *= 0.35
        albedo[mouth] *= np.array([0.72, 0.42, 0.42], np.float32)
        albedo[face & (front < 0.16) & (np.abs(level - 0.64) < 0.02)] *= 0.6
        if person.beard:
            jaw = face & (level > 0.70) & (front < 1.5) & ~mouth
            albedo[jaw] = 0.35 * albedo[jaw] + 0.65 * palette[HAIR]
    shoe = material == SHOE
    albedo[shoe & (level > 1.0)] *= 0.9
    return albedo
