"""One clothed human figure: skeleton, body, clothes, hair, hat and bag as tubes.

Lengths are in body heights. The body's own axes are x to its left hand, y up, z forward. Points given to the
canvas are already rotated by the figure's yaw, so that z points to the viewer.
"""

from __future__ import annotations

import numpy as np

from reidlib.synthetic.person import Person, Pose, paint
from reidlib.synthetic.tubes import (
    BAG,
    FACE,
    HAIR,
    HAT,
    INNER,
    LOWER,
    PARTS,
    SHOE,
    SKIN,
    SKIRT,
    SLEEVE,
    STRAP,
    UPPER,
    Canvas,
    profile,
)

# Half-width, half-depth and forward offset of an average torso, by height above the ground.
_TORSO_Y = np.array([0.866, 0.855, 0.842, 0.828, 0.812, 0.794, 0.760, 0.700, 0.630, 0.570, 0.520, 0.470])
_TORSO_W = np.array([0.025, 0.035, 0.054, 0.074, 0.092, 0.102, 0.105, 0.097, 0.087, 0.090, 0.096, 0.096])
_TORSO_D = np.array([0.026, 0.032, 0.040, 0.047, 0.053, 0.059, 0.067, 0.067, 0.060, 0.063, 0.071, 0.071])
_TORSO_O = np.array(
    [-0.01, -0.01, -0.01, -0.009, -0.007, -0.003, 0.006, 0.008, 0.004, -0.002, -0.009, -0.010]
)


def _direction(swing: float, spread: float = 0.0) -> np.ndarray:
    """Unit vector hanging down, swung forward by `swing` and to the body's left by `spread`."""
    return np.array([np.sin(spread), -np.cos(swing) * np.cos(spread), np.sin(swing) * np.cos(spread)])


def _skeleton(person: Person, pose: Pose) -> dict[str, np.ndarray]:
    """Joint positions in the body's own axes, feet on the ground."""
    joints = {}
    pelvis = np.array([0.0, 0.52, 0.0])
    stride = pose.stride * (0.55 if person.lower == "long skirt" else 1.0)
    for side, sign, phase in (("left", 1.0, pose.phase), ("right", -1.0, pose.phase + np.pi)):
        hip = pelvis + [sign * 0.050 * person.hips, -0.005, 0.0]
        thigh = stride * np.sin(phase) + 0.04
        bend = 0.06 + 1.7 * stride * max(0.0, np.cos(phase + 0.2)) + 0.25 * stride * max(0.0, -np.sin(phase))
        knee = hip + 0.242 * _direction(thigh, sign * 0.015)
        ankle = knee + 0.235 * _direction(thigh - bend, -sign * 0.02)
        pitch = min(0.0, thigh - bend) * 0.75 + max(0.0, thigh - bend) * 0.7
        forward = np.array([sign * 0.22, np.sin(pitch), np.cos(pitch)])
        heel = ankle + [0.0, -0.018, -0.018]
        joints |= {f"{side} hip": hip, f"{side} knee": knee, f"{side} ankle": ankle, f"{side} heel": heel}
        joints[f"{side} toe"] = heel + 0.105 * forward / np.linalg.norm(forward) + [0.0, -0.006, 0.0]
    neck = pelvis + [0.0, 0.335, 0.335 * np.sin(pose.lean)]
    joints |= {"pelvis": pelvis, "neck": neck}
    for side, sign, phase, manner in (
        ("left", 1.0, pose.phase, pose.left_arm),
        ("right", -1.0, pose.phase + np.pi, pose.right_arm),
    ):
        shoulder = neck + [sign * 0.092 * person.shoulders, -0.064, -0.004]
        swing, bend, spread, turn = (
            -0.75 * pose.stride * np.sin(phase) - 0.04,
            pose.elbow,
            sign * pose.abduction,
            0.0,
        )
        if manner == "phone":
            swing, bend, turn = 0.45, 2.0, -sign * 0.35
        elif manner == "pocket":
            swing, bend, spread, turn = -0.35, 0.75, sign * 0.28, -sign * 0.25
        elif manner == "strap":
            swing, bend, spread, turn = 0.2, 2.35, sign * 0.25, -sign * 0.1
        elif manner == "carry":
            swing, bend = 0.3 * swing, 0.12
        elbow = shoulder + 0.172 * _direction(swing, spread)
        wrist = elbow + 0.145 * _direction(swing + bend, 0.4 * spread + turn)
        joints |= {f"{side} shoulder": shoulder, f"{side} elbow": elbow, f"{side} wrist": wrist}
        joints[f"{side} fingers"] = wrist + 0.052 * _direction(swing + bend + 0.15, 0.2 * spread + turn)
    lift = 0.040 - min(
        joints["left ankle"][1],
        joints["right ankle"][1],
        joints["left toe"][1] + 0.016,
        joints["right toe"][1] + 0.016,
    )
    for name in joints:
        joints[name] = (joints[name] + [0.0, lift, 0.0]) * person.height
    return joints


def _scaled(
    profile: tuple[np.ndarray, np.ndarray], factor: float, extra: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    return profile[0], profile[1] * factor + extra


_UPPER_ARM = profile((0, 0.029), (0.3, 0.032), (1, 0.025))
_FOREARM = profile((0, 0.025), (0.25, 0.027), (1, 0.017))
_HAND = profile((0, 0.015), (0.5, 0.020), (1, 0.011))
_THIGH = profile((0, 0.060), (0.4, 0.056), (1, 0.038))
_CALF = profile((0, 0.037), (0.3, 0.041), (0.75, 0.028), (1, 0.023))
_SHOE_W = profile((0, 0.022), (0.6, 0.026), (1, 0.019))
_SHOE_D = profile((0, 0.028), (0.5, 0.025), (1, 0.015))
_HEAD_T = np.array([0.0, 0.05, 0.14, 0.30, 0.48, 0.64, 0.80, 0.92, 1.0])
_HEAD_W = np.array([0.004, 0.021, 0.033, 0.043, 0.0445, 0.0425, 0.036, 0.025, 0.008])
_HEAD_D = np.array([0.006, 0.028, 0.043, 0.054, 0.056, 0.053, 0.044, 0.032, 0.010])
_HEAD_O = np.array([-0.004, -0.004, -0.004, -0.003, 0.0, 0.003, 0.008, 0.014, 0.018])


def place(canvas: Canvas, person: Person, pose: Pose) -> None:
    """Draws every tube of the figure onto the canvas."""
    size = person.height
    cos, sin = np.cos(pose.yaw), np.sin(pose.yaw)

    def world(point):
        x, y, z = point
        return x * cos + z * sin, y, z * cos - x * sin

    joints = {name: np.array(world(point)) for name, point in _skeleton(person, pose).items()}
    body = {"yaw": pose.yaw}
    girth = 1.0 + 0.35 * (person.weight - 1.0)
    limb = size * (0.5 + 0.5 * person.weight)
    bare_legs = person.lower in ("shorts", "short skirt", "long skirt") or person.upper == "dress"
    long_sleeves = person.upper not in ("t-shirt", "dress")
    puff = {
        "t-shirt": 0.004,
        "long sleeve": 0.004,
        "shirt": 0.006,
        "hoodie": 0.012,
        "jacket": 0.012,
        "open jacket": 0.010,
    }
    loose = puff.get(person.upper, 0.009)

    hem_level = {"shorts": 0.33, "short skirt": 0.36, "long skirt": 0.17}.get(person.lower, 1.0)
    if person.upper == "dress":
        hem_level = 0.35

    # Legs and feet.
    canvas.part = "legs"
    for side in ("left", "right"):
        hip, knee, ankle, heel, toe = (
            joints[f"{side} {part}"] for part in ("hip", "knee", "ankle", "heel", "toe")
        )
        if bare_legs:

            def below_hem(angle, level):
                return level < hem_level

            canvas.tube(
                hip, knee, _scaled(_THIGH, limb), material=SKIN, levels=(0.52, 0.28), keep=below_hem, **body
            )
            canvas.tube(
                knee, ankle, _scaled(_CALF, limb), material=SKIN, levels=(0.28, 0.04), keep=below_hem, **body
            )
        else:
            cut = {
                "slim trousers": (0.040, 0.029),
                "trousers": (0.045, 0.038),
                "wide trousers": (0.051, 0.057),
            }[person.lower]
            knee_width, hem_width = cut
            calf_top = max(knee_width, 0.042)
            thigh = profile((0, 0.050), (0.2, 0.058), (0.5, 0.5 * (0.058 + knee_width)), (1, knee_width))
            shin = profile(
                (0, knee_width),
                (0.3, calf_top if hem_width < 0.05 else knee_width + 0.002),
                (0.93, hem_width),
                (1, hem_width + 0.002),
            )
            hem = ankle + np.array([0.0, 0.004 if hem_width < 0.035 else -0.014, 0.0]) * size
            canvas.tube(
                hip, knee, _scaled(thigh, limb), material=LOWER, caps=(0.3, 1), levels=(0.52, 0.28), **body
            )
            canvas.tube(
                knee, hem, _scaled(shin, limb), material=LOWER, caps=(1, 0), levels=(0.28, 0.04), **body
            )
            canvas.tube(ankle + [0, 0.02 * size, 0], ankle, _scaled(_CALF, 0.6 * limb), material=SHOE, **body)
        if person.lower == "shorts" and person.upper != "dress":
            end = hip + 0.93 * (knee - hip)
            short = profile((0, 0.052), (0.25, 0.060), (1, 0.063))
            canvas.tube(
                hip, end, _scaled(short, limb), material=LOWER, caps=(0.3, 0), levels=(0.52, 0.30), **body
            )
        canvas.tube(
            heel, toe, _scaled(_SHOE_W, size), _scaled(_SHOE_D, size), material=SHOE, levels=(0, 1), **body
        )

    # Torso: the pelvis, then the upper garment down to its hem.
    canvas.part = "torso"
    neck, pelvis = joints["neck"], joints["pelvis"]
    up = (neck - pelvis) / (0.335 * size)
    sway = np.array([up[0] / up[1], 1.0, up[2] / up[1]]) * size
    base = pelvis - sway * 0.52

    def spine(level):
        return base + sway * level

    def torso(top, bottom, extra, material, flare=0.0, keep=None, caps=(0.0, 0.0), step=0.0, drape=0.006):
        knots = np.concatenate([[top], _TORSO_Y[np.logical_and(top > _TORSO_Y, bottom < _TORSO_Y)], [bottom]])
        t = (top - knots) / (top - bottom)
        upper_part = np.clip((knots - 0.60) / 0.2, 0, 1)
        share = person.shoulders * upper_part + person.hips * (1 - upper_part)
        belly = np.exp(-(((knots - 0.62) / 0.09) ** 2)) * max(person.weight - 1.0, -0.12)
        width = np.interp(-knots, -_TORSO_Y, _TORSO_W) * share * girth + 0.055 * belly
        thick = np.interp(-knots, -_TORSO_Y, _TORSO_D) * girth + 0.10 * belly
        forward = np.interp(-knots, -_TORSO_Y, _TORSO_O) + 0.06 * belly
        cover = np.clip((0.86 - knots) / 0.05, 0.15, 1) * extra + np.clip((0.56 - knots) / 0.06, 0, 1) * drape
        skirt = np.clip((0.56 - knots) / 0.2, 0, 1.6)
        width, thick = width + cover + flare * skirt, thick + cover + (0.9 * flare + step) * skirt
        canvas.tube(
            spine(top), spine(bottom), (t, width * size), (t, thick * size), offset=(t, forward * size),
            material=material, caps=caps, levels=(top, bottom), keep=keep, **body,
        )  # fmt: skip

    stride = 0.16 * pose.stride * abs(np.sin(pose.phase))
    if person.upper != "dress":
        torso(0.60, 0.475, 0.002, LOWER if "skirt" not in person.lower else SKIRT, caps=(0, 0.35), drape=0.0)
        if person.lower == "short skirt":
            torso(0.60, 0.34, 0.006, SKIRT, flare=0.022, step=stride)
        elif person.lower == "long skirt":
            torso(0.60, 0.13, 0.005, SKIRT, flare=0.016, step=0.8 * stride)
    if person.upper == "dress":
        torso(0.866, 0.33, 0.003, UPPER, flare=0.024, step=stride)
    elif person.upper == "coat":
        torso(0.866, 0.33, 0.011, UPPER, flare=0.012, step=0.6 * stride)
    elif person.upper == "open jacket":
        torso(0.858, 0.485, 0.005, INNER)
        opening = 0.38 + 0.1 * np.sin(person.pattern_seed)
        torso(
            0.870,
            0.47,
            0.015,
            UPPER,
            keep=lambda angle, level: np.abs(angle) > opening + 0.8 * (0.62 - level) * (level < 0.62),
        )
    else:
        hem = {"t-shirt": 0.485, "long sleeve": 0.48, "shirt": 0.465, "hoodie": 0.475, "jacket": 0.47}[
            person.upper
        ]
        torso(0.866, hem, loose, UPPER, caps=(0, 0.12 if person.upper in ("hoodie", "jacket") else 0.0))

    # Arms.
    canvas.part = "arms"
    for side in ("left", "right"):
        shoulder, elbow, wrist, fingers = (
            joints[f"{side} {part}"] for part in ("shoulder", "elbow", "wrist", "fingers")
        )
        arm = size * (0.55 + 0.45 * person.weight)
        canvas.tube(wrist, fingers, _scaled(_HAND, size), _scaled(_HAND, 0.7 * size), material=SKIN, **body)
        if long_sleeves:
            canvas.tube(
                shoulder,
                elbow,
                _scaled(_UPPER_ARM, arm, loose * size),
                material=SLEEVE,
                levels=(0.81, 0.63),
                **body,
            )
            cuff = _scaled(_FOREARM, arm, loose * size)
            canvas.tube(elbow, wrist, cuff, material=SLEEVE, caps=(1, 0.2), levels=(0.63, 0.48), **body)
        else:
            canvas.tube(shoulder, elbow, _scaled(_UPPER_ARM, arm), material=SKIN, levels=(0.81, 0.63), **body)
            canvas.tube(elbow, wrist, _scaled(_FOREARM, arm), material=SKIN, levels=(0.63, 0.48), **body)
            end = shoulder + 0.62 * (elbow - shoulder)
            sleeve = profile((0, 0.032), (1, 0.041))
            canvas.tube(
                shoulder, end, _scaled(sleeve, arm), material=SLEEVE, caps=(1, 0), levels=(0.81, 0.69), **body
            )

    _place_head(canvas, person, pose, neck, size)
    _place_bag(canvas, person, joints, spine, size, body)


def _place_head(canvas: Canvas, person: Person, pose: Pose, neck, size: float) -> None:
    canvas.part = "head"
    yaw = pose.yaw + pose.head_yaw
    front = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    side = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    up = np.array([0.0, 1.0, 0.0])
    middle = neck + size * (0.082 * np.array([0.0, 1.0, 0.0]) + (0.012 + 0.02 * pose.head_nod) * front)
    nod = pose.head_nod * 0.06 * front
    top, chin = (
        middle + size * (np.array([0, 0.066, 0]) + nod),
        middle + size * (np.array([0, -0.070, 0]) - nod * 0.6),
    )
    canvas.tube(
        middle - size * 0.01 * front, neck - [0, 0.012 * size, 0],
        profile((0, 0.026 * size), (0.7, 0.028 * size), (1, 0.036 * size)),
        material=SKIN, yaw=yaw, levels=(0.93, 0.84),
    )  # fmt: skip

    def shell(factor, upper, lower, material, keep=None, extra=0.0):
        t = np.linspace(0, 1, 14)
        at = upper + (lower - upper) * t
        on_head = (at - min(upper, 0.0)) / (1.0 - min(upper, 0.0))
        width = np.interp(on_head, _HEAD_T, _HEAD_W) * factor * size + extra * size
        thick = np.interp(on_head, _HEAD_T, _HEAD_D) * factor * size + extra * size
        offset = np.interp(at, _HEAD_T, _HEAD_O) * size
        canvas.tube(
            top + (chin - top) * upper, top + (chin - top) * lower, (t, width), (t, thick),
            offset=(t, offset), material=material, yaw=yaw, caps=(0, 0), levels=(upper, lower), keep=keep,
        )  # fmt: skip

    shell(1.0, 0.0, 1.0, FACE)
    nose = middle + size * (0.057 * front + np.array([0, -0.010, 0]))
    canvas.tube(
        nose + [0, 0.012 * size, 0],
        nose - [0, 0.008 * size, 0],
        profile((0, 0.004 * size), (1, 0.008 * size)),
        material=SKIN,
    )
    for sign in (-1, 1):
        ear = middle + size * (sign * 0.043 * side - 0.004 * front)
        canvas.tube(
            ear + [0, 0.010 * size, 0],
            ear - [0, 0.012 * size, 0],
            profile((0, 0.007 * size), (1, 0.005 * size)),
            material=SKIN,
        )

    cut = person.haircut

    def hairline(angle, level):
        turned = np.abs(angle)
        low = np.where(turned < 0.95, 0.20, np.where(turned < 1.55, 0.46, 0.80 if cut == "short" else 0.9))
        return level < low

    if cut != "bald" and person.hat != "beanie":
        shell(1.07 if cut == "short" else 1.10, -0.04, 0.9, HAIR, keep=hairline, extra=0.002)
    if cut in ("medium", "long"):
        down = 1.18 if cut == "medium" else 1.75
        widths = (
            (np.array([0, 0.25, 0.6, 1]), np.array([0.044, 0.054, 0.058, 0.046])),
            (np.array([0, 0.3, 0.7, 1]), np.array([0.05, 0.056, 0.046, 0.030])),
        )
        t, wide = widths[0][0], widths[0][1] * size
        start = middle + size * (0.040 * up - 0.012 * front)
        canvas.tube(
            start, start - 0.136 * size * (down - 0.18) * up, (t, wide), (widths[1][0], widths[1][1] * size),
            material=HAIR, yaw=yaw, caps=(0, 0.4), levels=(0.18, down),
            keep=lambda angle, level: np.abs(angle) > 0.98,
        )  # fmt: skip
    elif cut == "bun":
        bun = middle + size * (-0.062 * front + np.array([0, 0.045, 0]))
        canvas.tube(
            bun, bun + [0, 0.006 * size, 0], profile((0, 0.026 * size), (1, 0.026 * size)), material=HAIR
        )
    elif cut == "ponytail":
        root = middle + size * (-0.062 * front + np.array([0, 0.025, 0]))
        tip = middle + size * (-0.085 * front + np.array([0, -0.105, 0]))
        canvas.tube(
            root, tip, profile((0, 0.014 * size), (0.4, 0.022 * size), (1, 0.008 * size)), material=HAIR
        )

    if person.hat == "beanie":
        shell(1.14, -0.10, 0.34, HAT, extra=0.004)
        shell(
            1.05,
            0.3,
            0.85,
            HAIR,
            keep=lambda angle, level: (np.abs(angle) > 1.5) & (cut != "bald"),
            extra=0.002,
        )
    elif person.hat in ("cap", "sun hat"):
        shell(1.13, -0.07, 0.26, HAT, extra=0.004)
        brim_y = middle + size * np.array([0, 0.034, 0])
        if person.hat == "cap":
            start, end = (
                brim_y + size * 0.03 * front,
                brim_y + size * (0.098 * front + np.array([0, -0.012, 0])),
            )
            flat = abs(np.cos(yaw))  # the thin brim is broad only when seen from the front or from behind
            brim = profile((0, (0.010 + 0.028 * flat) * size), (1, (0.005 + 0.018 * flat) * size))
            canvas.tube(
                start, end, brim, profile((0, 0.012 * size), (1, 0.008 * size)), material=HAT, caps=(0, 0.6)
            )
        else:
            brim = profile((0, 0.060 * size), (0.5, 0.086 * size), (1, 0.094 * size))
            canvas.tube(
                brim_y + [0, 0.008 * size, 0], brim_y - [0, 0.008 * size, 0], brim, material=HAT, caps=(0, 0)
            )

    canvas.part = "torso"
    if person.upper == "hoodie":
        nape = neck + size * np.array([-0.040 * np.sin(pose.yaw), 0.004, -0.040 * np.cos(pose.yaw)])
        hood = profile((0, 0.040 * size), (0.5, 0.058 * size), (1, 0.046 * size))
        flat = profile((0, 0.026 * size), (1, 0.026 * size))
        canvas.tube(
            nape + [0, 0.022 * size, 0],
            nape - [0, 0.045 * size, 0],
            hood,
            flat,
            material=UPPER,
            yaw=pose.yaw,
            levels=(0.87, 0.80),
        )
    if person.upper in ("shirt", "jacket", "coat", "open jacket", "hoodie"):
        collar = profile((0, 0.037 * size), (1, 0.048 * size))
        canvas.tube(
            neck + [0, 0.028 * size, 0], neck - [0, 0.014 * size, 0], collar, material=UPPER, yaw=pose.yaw,
            caps=(0, 0), levels=(0.885, 0.845),
            keep=lambda angle, level: np.abs(angle) > 0.45 + 8.0 * np.maximum(level - 0.85, 0.0),
        )  # fmt: skip


def _place_bag(canvas: Canvas, person: Person, joints, spine, size: float, body: dict) -> None:
    canvas.part = "bag"
    yaw = body["yaw"]
    front = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    left = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    if person.bag == "backpack":
        behind = -0.096 * size * front
        wide = profile((0, 0.060 * size), (0.2, 0.076 * size), (0.8, 0.084 * size), (1, 0.074 * size))
        deep = profile((0, 0.034 * size), (0.4, 0.046 * size), (0.8, 0.056 * size), (1, 0.044 * size))
        canvas.tube(
            spine(0.800) + behind,
            spine(0.575) + behind,
            wide,
            deep,
            material=BAG,
            caps=(0.4, 0.35),
            levels=(0.82, 0.56),
            **body,
        )
    elif person.bag == "shoulder bag":
        sign = 1.0 if person.bag_on_left else -1.0
        hang = sign * 0.125 * size * person.hips * left
        wide = profile((0, 0.026 * size), (1, 0.032 * size))
        deep = profile((0, 0.066 * size), (1, 0.076 * size))
        canvas.tube(
            spine(0.565) + hang,
            spine(0.445) + hang,
            wide,
            deep,
            material=BAG,
            caps=(0.3, 0.3),
            levels=(0.57, 0.44),
            **body,
        )
    elif person.bag == "handbag":
        hand = joints["left fingers" if person.bag_on_left else "right fingers"]
        wide = profile((0, 0.020 * size), (1, 0.026 * size))
        deep = profile((0, 0.054 * size), (1, 0.064 * size))
        canvas.tube(
            hand - [0, 0.035 * size, 0],
            hand - [0, 0.125 * size, 0],
            wide,
            deep,
            material=BAG,
            caps=(0.3, 0.3),
            levels=(0.4, 0.3),
            **body,
        )
        canvas.tube(
            hand, hand - [0, 0.04 * size, 0], profile((0, 0.008 * size), (1, 0.010 * size)), material=STRAP
        )


def draw_figure(
    height: int, width: int, person: Person, pose: Pose, *, scale: float, origin: tuple[float, float],
    pitch: float = 0.15, perspective: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Draws a person on an empty canvas.

    Returns light (height, width, 3), linear and premultiplied by coverage, and coverage (height, width) in
    0..1, both float32.

    Args:
        scale: pixels per body height.
        origin: column and row of the point on the ground between the feet.
        pitch: how far the camera looks down, in radians.
        perspective: growth of widths from the middle of the body to the head.
    """
    canvas = Canvas(height, width, scale, origin, pitch, perspective)
    place(canvas, person, pose)
    light, coverage = np.zeros((height, width, 3), np.float32), (canvas.material > 0).astype(np.float32)
    box = canvas.crop_to_figure()
    if canvas.material.size:
        light[box] = (
            paint(canvas, person) * canvas.brightness(pose.light, pose.ambient, pose.folds)[:, :, None]
        )
    return light, coverage


def draw_parts(
    height: int, width: int, person: Person, pose: Pose, *, scale: float, origin: tuple[float, float],
    pitch: float = 0.15, perspective: float = 0.1,
) -> np.ndarray:  # fmt: skip
    """Which part of a person covers each pixel, where `draw_figure` draws it. The arguments are the same.

    Returns numbers in `PARTS`, counted from 1, or 0, as (height, width) uint8. Neck and hair belong to the
    head, hood and collar to the torso. What hangs below the hips belongs to the legs: skirts, coats, dresses.
    """
    canvas = Canvas(height, width, scale, origin, pitch, perspective)
    place(canvas, person, pose)
    torso, legs = (PARTS.index(name) + 1 for name in ("torso", "legs"))
    canvas.parts[(canvas.parts == torso) & (canvas.level < _TORSO_Y[-1])] = legs
    return canvas.parts
