"""Where the figures walk: one scene per camera, and what stands in front of people.

A scene is a panorama of PANORAMA_WIDTH × PANORAMA_HEIGHT body heights, painted once per camera; every image
shows a window of it. The floor is drawn in perspective, as seen by a camera three metres high, so the horizon
lies above the people's heads. Colours are linear light, float32, RGB.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

# In body heights. GROUND is where the people's feet are, above the lower edge.
PANORAMA_WIDTH, PANORAMA_HEIGHT, GROUND = 5.0, 2.4, 0.75
_DENSITY = 230  # pixels per body height
# The background decides what a colour histogram finds: the more alike the cameras' scenes are, the more
# people's own colours count.
SCENERY_BRIGHTNESS = 0.22  # mean linear light that every scene is scaled towards
SCENERY_LIKENESS = 0.95  # how far it is scaled: 0 not at all, 1 fully
SCENERY_MUTING = 0.42  # how far colours are mixed with grey: 0 not at all, 1 fully
DIFFICULTY = ("SCENERY_BRIGHTNESS", "SCENERY_LIKENESS", "SCENERY_MUTING")
KINDS = ("street", "corridor", "grass", "plaza", "windows", "shop")


def noise(
    rng: np.random.Generator, shape: tuple[int, int], scales: tuple[float, ...], stretch: float = 1.0
) -> np.ndarray:
    """Smooth noise (height, width) of unit variance: a sum of white noise at each scale.

    Args:
        scales: in pixels.
        stretch: how much wider than high the grains are.
    """
    total = np.zeros(shape, np.float32)
    for scale in scales:
        small = rng.standard_normal(
            (max(int(shape[0] / scale), 2), max(int(shape[1] / scale / stretch), 2))
        ).astype(np.float32)
        total += cv2.resize(
            small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_NEAREST
        )
    return total / max(float(total.std()), 1e-6)


def _tiles(
    image, edge: int, horizon: float, size: float, joint: float, dark: float, rng, vary: float
) -> None:
    """Paves the floor below row `edge`.

    Tiles are `size` body heights wide near the feet and vanish towards row `horizon`.
    """
    height, width = image.shape[:2]
    rows = np.arange(edge, height, dtype=np.float32)[:, None]
    reach = (height - horizon) / np.maximum(rows - horizon, 1.0)
    across = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / _DENSITY * reach / size
    away = np.broadcast_to(reach * 2.2 / size, across.shape)
    seam = (np.mod(across, 1) < joint) | (np.mod(away, 1) < joint * 1.4)
    shade = rng.normal(1.0, vary, 4096).astype(np.float32)
    cell = (np.floor(across).astype(int) * 73 + np.floor(away).astype(int) * 151) % 4096
    image[edge:] *= (shade[cell] * np.where(seam, np.float32(dark), 1))[:, :, None]


def _box(image, x: float, y: float, w: float, h: float, colour) -> None:
    """Filled rectangle, in body heights: lower left corner x, y and size w, h.

    y is measured from the people's ground line.
    """
    rows = image.shape[0] - GROUND * _DENSITY
    left, top = round(x * _DENSITY), round(rows - (y + h) * _DENSITY)
    cv2.rectangle(
        image,
        (left, top),
        (round((x + w) * _DENSITY), round(rows - y * _DENSITY)),
        tuple(map(float, colour)),
        -1,
    )


def _car(image, x: float, y: float, size: float, colour) -> None:
    base = image.shape[0] - (GROUND + y) * _DENSITY
    unit = size * _DENSITY
    body = np.array(
        [
            [0, 0.12],
            [0.02, 0.42],
            [0.35, 0.5],
            [0.7, 0.82],
            [1.6, 0.82],
            [2.0, 0.5],
            [2.4, 0.42],
            [2.42, 0.12],
        ]
    )
    glass = np.array([[0.5, 0.5], [0.78, 0.76], [1.52, 0.76], [1.85, 0.5]])
    cv2.ellipse(
        image,
        (int(x * _DENSITY + 1.2 * unit), int(base)),
        (int(1.3 * unit), int(0.12 * unit)),
        0,
        0,
        360,
        (0.02, 0.02, 0.02),
        -1,
    )
    for outline, fill in ((body, colour), (glass, (0.03, 0.04, 0.05))):
        points = np.stack([x * _DENSITY + outline[:, 0] * unit, base - outline[:, 1] * unit], 1)
        cv2.fillPoly(image, [points.astype(np.int32)], tuple(map(float, fill)), cv2.LINE_AA)
    for wheel in (0.5, 1.95):
        centre = (int(x * _DENSITY + wheel * unit), int(base - 0.13 * unit))
        cv2.circle(image, centre, int(0.18 * unit), (0.015, 0.015, 0.015), -1, cv2.LINE_AA)
        cv2.circle(image, centre, int(0.09 * unit), (0.2, 0.2, 0.2), -1, cv2.LINE_AA)


def _leaves(image, x: float, y: float, radius: float, colour, rng, count: int = 60) -> None:
    rows = image.shape[0] - GROUND * _DENSITY
    for _ in range(count):
        dx, dy = rng.normal(0, radius * 0.45, 2)
        tint = np.asarray(colour) * rng.uniform(0.35, 1.5)
        size = max(int(radius * _DENSITY * rng.uniform(0.06, 0.22)), 1)
        cv2.circle(
            image,
            (int((x + dx) * _DENSITY), int(rows - (y + dy) * _DENSITY)),
            size,
            tuple(map(float, tint)),
            -1,
            cv2.LINE_AA,
        )


@lru_cache(maxsize=16)
def painted_scenery(seed: int, camera: int) -> np.ndarray:
    """The panorama behind one camera, (height, width, 3) linear RGB.

    The kind of scene follows from the camera's number; everything else is random.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3, camera]))
    kind = KINDS[(camera - 1) % len(KINDS)]
    width, height = int(PANORAMA_WIDTH * _DENSITY), int(PANORAMA_HEIGHT * _DENSITY)
    image = np.empty((height, width, 3), np.float32)
    wall_foot = {
        "street": 0.62,
        "corridor": 0.42,
        "grass": 1.02,
        "plaza": 0.86,
        "windows": 0.30,
        "shop": 0.36,
    }[kind] + rng.uniform(-0.06, 0.06)
    edge = int(height - (GROUND + wall_foot) * _DENSITY)
    horizon = edge - rng.uniform(0.5, 0.9) * _DENSITY
    far = slice(0, edge)
    floor = image[edge:]

    def grain(shape, scales, strength, stretch=1.0):
        return np.exp(strength * noise(rng, shape, scales, stretch))[:, :, None]

    if kind == "street":
        image[far] = (0.17, 0.16, 0.155)
        _box(image, 0, wall_foot, PANORAMA_WIDTH, 0.05, (0.30, 0.29, 0.28))
        for x in np.arange(0.1, PANORAMA_WIDTH, 0.55):
            _box(image, x, wall_foot + 0.35, 0.3, 0.5, (0.06, 0.07, 0.08))
        floor[:] = (0.125, 0.125, 0.13)
        for x in (0.3, 2.3, 3.9):
            size = rng.uniform(0.42, 0.5)
            paint = rng.choice([(0.35, 0.35, 0.36), (0.25, 0.03, 0.03), (0.04, 0.06, 0.12)])
            _car(image, x, wall_foot - 0.12, size, paint)
        line = np.array(
            [[0, height - 60], [width, height - 210], [width, height - 196], [0, height - 40]], np.int32
        )
        cv2.fillPoly(image, [line], (0.5, 0.5, 0.47), cv2.LINE_AA)
        floor *= grain(floor.shape[:2], (1, 3, 60), 0.16)
    elif kind == "corridor":
        image[far] = (0.46, 0.43, 0.37)
        floor[:] = (0.36, 0.33, 0.28)
        _tiles(image, edge, horizon, 0.33, 0.035, 0.7, rng, 0.05)
        _box(image, 0, wall_foot - 0.005, PANORAMA_WIDTH, 0.06, (0.12, 0.09, 0.07))
        for x in np.arange(0.35, PANORAMA_WIDTH, 1.25):
            door = rng.choice([(0.16, 0.09, 0.05), (0.10, 0.15, 0.19), (0.28, 0.27, 0.25)])
            _box(image, x, wall_foot, 0.48, 1.05, door * 0.5)
            _box(image, x + 0.025, wall_foot, 0.43, 1.02, door)
            _box(image, x + 0.39, wall_foot + 0.45, 0.03, 0.05, (0.5, 0.5, 0.45))
            _box(image, x + 0.68, wall_foot + 0.55, 0.34, 0.26, rng.uniform(0.1, 0.7, 3))
        image[edge:] += np.clip(noise(rng, floor.shape[:2], (90, 50)), 0, None)[:, :, None] * 0.06
    elif kind == "grass":
        image[far] = (0.05, 0.09, 0.035)
        for x in np.arange(0, PANORAMA_WIDTH, 0.22):
            _leaves(image, x, wall_foot + rng.uniform(0.1, 0.4), 0.35, (0.06, 0.12, 0.03), rng, 45)
        floor[:] = (0.13, 0.20, 0.055)
        floor *= grain(floor.shape[:2], (2, 5, 30, 120), 0.30)
        path = np.array(
            [[0, height - 130], [width, height - 300], [width, height - 240], [0, height - 10]], np.int32
        )
        cv2.fillPoly(image, [path], (0.30, 0.26, 0.20), cv2.LINE_AA)
        for x in rng.uniform(0, PANORAMA_WIDTH, 4):
            _box(image, x, wall_foot - 0.1, rng.uniform(0.08, 0.14), 1.5, (0.06, 0.045, 0.03))
        floor *= grain(floor.shape[:2], (2, 4), 0.12)
    elif kind == "plaza":
        image[far] = (0.38, 0.40, 0.43)
        floor[:] = (0.42, 0.40, 0.37)
        _tiles(image, edge, horizon, 0.42, 0.03, 0.62, rng, 0.10)
        for x in np.arange(0.0, PANORAMA_WIDTH, 0.9):
            _box(image, x, wall_foot, 0.5, 0.8, (0.24, 0.23, 0.24))
            _box(image, x + 0.1, wall_foot + 0.1, 0.12, 0.5, (0.07, 0.08, 0.1))
            _box(image, x + 0.3, wall_foot + 0.1, 0.12, 0.5, (0.07, 0.08, 0.1))
        for x in rng.uniform(0, PANORAMA_WIDTH, 4):
            _box(image, x, wall_foot - 0.18, 0.5, 0.05, (0.16, 0.10, 0.06))
            _box(image, x + 0.05, wall_foot - 0.26, 0.04, 0.1, (0.05, 0.05, 0.05))
            _box(image, x + 0.41, wall_foot - 0.26, 0.04, 0.1, (0.05, 0.05, 0.05))
            _leaves(image, x + 0.7, wall_foot + 0.12, 0.22, (0.07, 0.12, 0.05), rng, 50)
        floor *= grain(floor.shape[:2], (2, 40), 0.07)
    elif kind == "windows":
        image[far] = (0.26, 0.13, 0.09)
        bricks = np.arange(edge)[:, None] // 9
        columns = (np.arange(width)[None, :] + (bricks % 2) * 12) // 24
        image[far] *= rng.normal(1.0, 0.13, 4096).astype(np.float32)[(bricks * 131 + columns * 17) % 4096][
            :, :, None
        ]
        image[far][(np.arange(edge) % 9 == 0)] = (0.30, 0.27, 0.24)
        for x in np.arange(0.2, PANORAMA_WIDTH, 0.85):
            _box(image, x, wall_foot + 0.28, 0.5, 0.72, (0.55, 0.53, 0.5))
            _box(image, x + 0.03, wall_foot + 0.31, 0.44, 0.66, (0.07, 0.10, 0.13))
            _box(image, x + 0.03, wall_foot + 0.31 + rng.uniform(0.1, 0.4), 0.44, 0.12, (0.16, 0.22, 0.28))
            _box(image, x + 0.24, wall_foot + 0.31, 0.02, 0.66, (0.5, 0.48, 0.45))
        floor[:] = (0.24, 0.235, 0.23)
        _tiles(image, edge, horizon, 0.24, 0.05, 0.75, rng, 0.08)
        _box(image, 0, wall_foot - 0.02, PANORAMA_WIDTH, 0.07, (0.13, 0.12, 0.12))
        floor *= grain(floor.shape[:2], (2, 70), 0.12)
    else:
        image[far] = (0.10, 0.105, 0.12)
        for x in np.arange(0.0, PANORAMA_WIDTH, 0.65):
            _box(
                image,
                x + 0.03,
                wall_foot + 0.1,
                0.59,
                0.95,
                rng.uniform(0.10, 0.5) * rng.uniform(0.7, 1.2, 3),
            )
            for _ in range(9):
                w, h = rng.uniform(0.04, 0.16, 2)
                _box(
                    image,
                    x + rng.uniform(0.05, 0.42),
                    wall_foot + rng.uniform(0.12, 0.75),
                    w,
                    h,
                    rng.uniform(0.05, 0.6) * rng.uniform(0.6, 1.2, 3),
                )
        _box(image, 0, wall_foot + 1.06, PANORAMA_WIDTH, 0.16, rng.uniform(0.05, 0.5, 3))
        floor[:] = (0.33, 0.30, 0.28)
        _tiles(image, edge, horizon, 0.5, 0.02, 0.7, rng, 0.04)
        floor *= grain(floor.shape[:2], (2, 60), 0.08)
    image[far] = cv2.GaussianBlur(image[far], (0, 0), 2.2)
    image *= grain((height, width), (3, 150), 0.07)
    image *= grain((height, width), (260, 700), 0.25)  # sun and shade
    image *= np.float32((SCENERY_BRIGHTNESS / image.mean()) ** SCENERY_LIKENESS)
    grey = image.mean(axis=2, keepdims=True)
    image = grey * np.float32([1.03, 1.0, 0.94]) * np.float32(SCENERY_MUTING) + image * np.float32(
        1 - SCENERY_MUTING
    )
    # A soft edge.
    image[edge - 3 : edge + 4] = cv2.GaussianBlur(image[edge - 12 : edge + 12], (0, 0), 1.5)[9:16]
    return np.clip(image, 0.0, 1.2)


def window(
    seed: int,
    camera: int,
    x: float,
    left: float,
    bottom: float,
    box_width: float,
    box_height: float,
    size: tuple[int, int],
) -> np.ndarray:
    """The part of a camera's scenery behind one image, (height, width, 3).

    All lengths are in body heights.

    Args:
        x: where in the panorama the person stands.
        left, bottom: the window's lower left corner, relative to the person.
        box_width, box_height: size of the window.
        size: (height, width) of the image, in pixels.
    """
    pano = painted_scenery(seed, camera)
    height, width = size
    per_x, per_y = box_width * _DENSITY / width, box_height * _DENSITY / height
    start_x = (x + left) * _DENSITY
    start_y = pano.shape[0] - (GROUND + bottom + box_height) * _DENSITY
    matrix = np.array(
        [[per_x, 0, start_x + 0.5 * per_x - 0.5], [0, per_y, start_y + 0.5 * per_y - 0.5]], np.float32
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pano, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def draw_occluder(
    image: np.ndarray, kind: str, scale: float, foot: tuple[float, float], rng: np.random.Generator
) -> None:
    """Draws a pole, a bicycle or a hedge in front of the person, in place.

    Args:
        scale: pixels per body height.
        foot: column and row of the person's feet.
    """
    height, width = image.shape[:2]
    if kind == "pole":
        centre, half = foot[0] + rng.uniform(-0.16, 0.16) * scale, rng.uniform(0.025, 0.05) * scale
        across = (np.arange(width, dtype=np.float32) - centre) / half
        round_shade = np.sqrt(np.clip(1 - across * across, 0, 1)) * 0.8 + 0.15 - 0.25 * across
        colour = rng.choice([(0.30, 0.31, 0.33), (0.08, 0.10, 0.09), (0.45, 0.43, 0.40)])
        opacity = np.clip((1 - np.abs(across)) * half + 0.5, 0, 1)[None, :, None]
        image *= 1 - opacity
        image += opacity * round_shade[None, :, None] * colour
    elif kind == "bicycle":
        colour = tuple(
            map(
                float,
                rng.choice([(0.03, 0.03, 0.035), (0.28, 0.05, 0.04), (0.05, 0.10, 0.22), (0.35, 0.35, 0.36)]),
            )
        )
        radius, thick = 0.17 * scale, max(round(0.015 * scale), 1)
        x, y = foot[0] + rng.uniform(-0.15, 0.15) * scale, foot[1] + 0.03 * scale
        back, ahead = (x - 0.27 * scale, y - radius), (x + 0.27 * scale, y - radius)

        def at(point):
            return round(point[0]), round(point[1])

        for wheel in (back, ahead):
            cv2.circle(image, at(wheel), round(radius), (0.015, 0.015, 0.015), thick, cv2.LINE_AA)
            for turn in np.arange(0, np.pi, np.pi / 6):
                dx, dy = radius * np.cos(turn), radius * np.sin(turn)
                cv2.line(
                    image,
                    at((wheel[0] - dx, wheel[1] - dy)),
                    at((wheel[0] + dx, wheel[1] + dy)),
                    (0.2, 0.2, 0.2),
                    1,
                    cv2.LINE_AA,
                )
        saddle, head, pedal = (
            (x - 0.12 * scale, y - 0.42 * scale),
            (x + 0.2 * scale, y - 0.42 * scale),
            (x - 0.02 * scale, y - 0.15 * scale),
        )
        for a, b in (
            (back, saddle),
            (back, pedal),
            (saddle, pedal),
            (saddle, head),
            (pedal, head),
            (head, ahead),
        ):
            cv2.line(image, at(a), at(b), colour, thick, cv2.LINE_AA)
        cv2.line(
            image, at(head), at((head[0] - 0.02 * scale, head[1] - 0.09 * scale)), colour, thick, cv2.LINE_AA
        )
        cv2.line(
            image,
            at((head[0] - 0.09 * scale, head[1] - 0.1 * scale)),
            at((head[0] + 0.03 * scale, head[1] - 0.09 * scale)),
            (0.02,) * 3,
            thick,
            cv2.LINE_AA,
        )
        cv2.ellipse(
            image,
            at((saddle[0], saddle[1] - 0.02 * scale)),
            (round(0.06 * scale), max(round(0.018 * scale), 1)),
            0,
            0,
            360,
            (0.02,) * 3,
            -1,
            cv2.LINE_AA,
        )
    else:
        tint = np.float32(rng.choice([(0.06, 0.12, 0.04), (0.10, 0.13, 0.05), (0.14, 0.10, 0.06)]))
        top = foot[1] - (rng.uniform(0.16, 0.34) + 0.03 * noise(rng, (1, 64), (16, 5, 2))[0]) * scale
        edge = cv2.resize(top.astype(np.float32)[None, :], (width, 1), interpolation=cv2.INTER_LINEAR)
        depth = (np.arange(height, dtype=np.float32)[:, None] - edge) / scale
        leaf = cv2.resize(noise(rng, (96, 64), (1, 2, 5)), (width, height), interpolation=cv2.INTER_LINEAR)
        opacity = np.clip((depth + 0.012 * leaf) * 60, 0, 1)[:, :, None]
        image *= 1 - opacity
        image += opacity * tint * (np.exp(0.55 * leaf) * np.clip(1.15 - 2.5 * depth, 0.35, None))[:, :, None]
