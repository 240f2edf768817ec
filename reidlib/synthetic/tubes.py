"""Shaded tubes: what a figure is made of.

A tube has an axis between two joints and an elliptical cross-section that changes along it. The visible
surface point under a pixel has a closed form. So one pass over a tube's bounding box gives depth, surface
normal and position on the tube (angle around it, level along it). The canvas keeps the nearest tube of each
pixel; colour and light are added once, at the end.

Lengths are in body heights (1.0 is a person of average height), x to the right, y up from the ground, z
towards the viewer.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

# Materials: what a tube is made of, painted after all tubes are placed.
(NOTHING, SKIN, FACE, HAIR, UPPER, SLEEVE, INNER, LOWER, SKIRT, SHOE, BAG, STRAP, HAT) = range(13)
# Parts of a person; only masks ask for them.
PARTS = ("head", "torso", "arms", "legs", "bag")
_CLOTH = np.zeros(13, np.float32)
_CLOTH[[UPPER, SLEEVE, LOWER]] = 1.0
_CLOTH[HAIR] = 1.6
_CLOTH[[INNER, SKIRT, BAG, HAT]] = 0.55
_CLOTH[[SKIN, SHOE]] = 0.15
# Crease coordinates: texels per level, texels per radian.
_ALONG, _AROUND = np.full(13, 430, np.float32), np.full(13, 32, np.float32)
_ALONG[[FACE, HAIR, HAT]], _AROUND[HAIR] = 40, 110  # levels on the head run from 0 (crown) to 1 (chin)
_STEPS = 48
_COUNT = np.arange(_STEPS, dtype=np.float64)


def profile(*knots: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Knots (position, radius) as two arrays; positions run down the axis."""
    table = np.asarray(knots, np.float64)
    return table[:, 0], table[:, 1]


@functools.cache
def _fold_texture() -> np.ndarray:
    """Tileable (256, 256) relief of soft creases, longer around a limb than along it, with unit variance."""
    rng = np.random.default_rng(20)
    relief = np.zeros((256, 256), np.float32)
    for sigma_along, sigma_around, weight in ((4.0, 8.0, 0.7), (9.0, 13.0, 1.2), (16.0, 9.0, 1.2)):
        noise = np.tile(rng.standard_normal((256, 256)).astype(np.float32), (2, 2))
        smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma_around, sigmaY=sigma_along)[128:384, 128:384]
        relief += weight * smooth / smooth.std()
    relief -= 0.5 * (np.roll(relief, 6, axis=0) + np.roll(relief, (3, 5), axis=(0, 1)))
    return relief / relief.std()


class Canvas:
    """Depth, normal and surface position of the nearest tube under every pixel; (height, width) each.

    Attributes:
        part: the part, one of `PARTS`, that the next tubes belong to.
        parts: number of each pixel's part in `PARTS`, counted from 1; 0: no tube.
    """

    def __init__(
        self,
        height: int,
        width: int,
        scale: float,
        origin: tuple[float, float],
        pitch: float,
        perspective: float,
    ):
        self.scale, (self.origin_x, self.origin_y) = scale, origin
        self.pitch_cos, self.pitch_sin, self.perspective = np.cos(pitch), np.sin(pitch), perspective
        self.shape = (height, width)
        self.depth = np.full(self.shape, -1e9, np.float32)
        self.normal_x = np.zeros(self.shape, np.float32)
        self.normal_y = np.zeros(self.shape, np.float32)
        self.angle = np.zeros(self.shape, np.float32)
        self.level = np.zeros(self.shape, np.float32)
        self.material = np.zeros(self.shape, np.uint8)
        self.part, self.parts = PARTS[0], np.zeros(self.shape, np.uint8)

    def project(self, point) -> tuple[float, float, float, float]:
        """A point (x, y, z) as column, row, depth in pixels, and pixels per body height there."""
        x, y, z = point
        near = self.scale * (1.0 + self.perspective * (y - 0.5))
        row = self.origin_y - self.scale * (y * self.pitch_cos - z * self.pitch_sin)
        return self.origin_x + near * x, row, self.scale * (z * self.pitch_cos + y * self.pitch_sin), near

    def tube(
        self,
        start,
        end,
        width,
        depth=None,
        *,
        material,
        yaw=0.0,
        offset=None,
        caps=(1.0, 1.0),
        levels=(0.0, 1.0),
        keep=None,
    ):
        """Draws one tube from `start` to `end` (x, y, z).

        Args:
            width, depth: half-axes of the cross-section as (positions 0..1, radii); depth defaults to width.
            material: what the surface is made of.
            yaw: the direction in which the cross-section's depth points.
            offset: forward shift of the cross-section, as (positions 0..1, shifts).
            caps: how far each end is rounded off, in radii; 0: cut flat.
            levels: the surface coordinate at the two ends.
            keep: keep(angle, level) → boolean mask of the surface that exists (an open jacket, hair around a
                face).
        """
        x0, y0, z0, near0 = self.project(start)
        x1, y1, z1, near1 = self.project(end)
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
        along_x, along_y = ((x1 - x0) / length, (y1 - y0) / length) if length > 0.05 else (0.0, 1.0)
        near = 0.5 * (near0 + near1)
        depth = width if depth is None else depth
        head, tail = caps[0] * width[1][0] * near, caps[1] * width[1][-1] * near
        total = head + length + tail
        # As np.linspace and np.clip compute it, without their overhead: an image has some 25 tubes.
        position = _COUNT * ((length + tail + head) / (_STEPS - 1)) - head
        position[-1] = length + tail
        fraction = (position / length).clip(0.0, 1.0)
        rounding = np.ones(_STEPS)
        if head > 0:
            rounding *= np.sqrt((1.0 - np.square(np.minimum(position, 0.0) / head)).clip(1e-4, 1.0))
        if tail > 0:
            rounding *= np.sqrt((1.0 - np.square(np.maximum(position - length, 0.0) / tail)).clip(1e-4, 1.0))
        radius_w = np.maximum(np.interp(fraction, *width) * near * rounding, 0.05)
        radius_d = np.maximum(np.interp(fraction, *depth) * near * rounding, 0.05)
        shift = np.interp(fraction, *offset) * near if offset is not None else np.zeros(_STEPS)
        cos, sin = np.cos(yaw), np.sin(yaw)
        a = (sin / radius_w) ** 2 + (cos / radius_d) ** 2
        silhouette = np.sqrt(a) * radius_w * radius_d
        slant = cos * sin * (1.0 / radius_w**2 - 1.0 / radius_d**2) / a * silhouette
        bulge = 1.0 / np.sqrt(a)
        turn = np.arctan2(-sin / radius_w, cos / radius_d)
        slope = np.empty(_STEPS)
        slope[1:-1] = (silhouette[:-2] - silhouette[2:]) / (2 * (position[1] - position[0]))
        slope[0], slope[-1] = slope[1], slope[-2]
        steepness = 1.0 / np.sqrt(1.0 + slope**2)
        base = z0 + (z1 - z0) * fraction + shift * cos
        centre = shift * sin

        reach = float(silhouette.max() + np.abs(centre).max()) + 1.0
        left, right = min(x0, x1) - reach - head, max(x0, x1) + reach + tail
        top, bottom = min(y0, y1) - reach - head, max(y0, y1) + reach + tail
        if abs(along_x) < 0.5:  # mostly upright: caps extend it up and down, not sideways
            spread = reach + (head + tail) * abs(along_x)
            left, right = min(x0, x1) - spread, max(x0, x1) + spread
            top, bottom = (
                min(y0, y1) - head - reach * abs(along_x) - 1,
                max(y0, y1) + tail + reach * abs(along_x) + 1,
            )
        columns = slice(max(int(left), 0), min(int(right) + 2, self.shape[1]))
        rows = slice(max(int(top), 0), min(int(bottom) + 2, self.shape[0]))
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return
        dx = (np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x0))[None, :]
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y0))[:, None]
        step = (dx * np.float32(along_x) + dy * np.float32(along_y) + np.float32(head)) * np.float32(
            (_STEPS - 1) / total
        )
        index = (step + np.float32(0.5)).clip(0, _STEPS - 1).astype(np.intp)
        across = dx * np.float32(along_y) - dy * np.float32(along_x)

        def along(table):
            return table.astype(np.float32)[index]

        tau = (across - along(centre)) * along(1.0 / silhouette)
        root = 1.0 - tau * tau
        mask = (root > 0) & (step > -0.5) & (step < _STEPS - 0.5)
        root = np.sqrt(np.maximum(root, 0))
        surface = along(base) + along(slant) * tau + along(bulge) * root
        mask &= surface > self.depth[rows, columns]
        if not mask.any():
            return
        angle = np.arcsin(tau.clip(-1, 1)) + along(turn)
        angle = angle - np.float32(2 * np.pi) * np.round(angle * np.float32(0.5 / np.pi))
        level = np.float32(levels[0]) + (
            step * np.float32(total / (_STEPS - 1)) - np.float32(head)
        ) * np.float32((levels[1] - levels[0]) / length)
        if keep is not None:
            mask &= keep(angle, level)
        steep = along(steepness)
        tilt = along(slope * steepness)
        np.copyto(self.depth[rows, columns], surface, where=mask)
        np.copyto(
            self.normal_x[rows, columns],
            tau * steep * np.float32(along_y) + tilt * np.float32(along_x),
            where=mask,
        )
        np.copyto(
            self.normal_y[rows, columns],
            tilt * np.float32(along_y) - tau * steep * np.float32(along_x),
            where=mask,
        )
        np.copyto(self.angle[rows, columns], angle, where=mask)
        np.copyto(self.level[rows, columns], level, where=mask)
        self.material[rows, columns][mask] = material
        np.copyto(self.parts[rows, columns], PARTS.index(self.part) + 1, where=mask)

    def crop_to_figure(self) -> tuple[slice, slice]:
        """Crops the canvas to the rows and columns that tubes cover.

        Returns these slices; they are empty if there are no tubes.
        """
        covered = self.material > NOTHING
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        box = (
            (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            if rows.size
            else (slice(0, 0), slice(0, 0))
        )
        for name in ("depth", "normal_x", "normal_y", "angle", "level", "material"):
            setattr(self, name, getattr(self, name)[box])
        return box

    def brightness(self, light: tuple[float, float, float], ambient: float, folds: int) -> np.ndarray:
        """Light that reaches each pixel's surface, (height, width), 0 where there is no surface.

        Args:
            light: direction towards the lamp (x, y, z).
            ambient: the sky's share of the light, 0..1.
            folds: which creases the clothes have.
        """
        inside = (self.material > NOTHING).astype(np.float32)
        # Creases: a relief that is fixed to the cloth and slightly oblique around the limbs.
        fine, streaks = _ALONG[self.material], _AROUND[self.material]
        askew = 9 * np.sin(1.7 * self.angle + folds) + 18 * np.abs(self.angle)
        row = (self.level * fine + askew + folds * 37 % 256).astype(np.int32) & 255
        column = (self.angle * streaks + self.level * (0.22 * fine) + folds * 101 % 256).astype(
            np.int32
        ) & 255
        relief = _fold_texture()[row, column] * _CLOTH[self.material]

        # Ambient light is weaker where neighbouring pixels are nearer to the viewer: between legs, under arms
        # and chin.
        size = (2 * round(0.028 * self.scale) + 1,) * 2

        def smooth(values):
            return cv2.blur(cv2.blur(values, size), size)

        depth = np.where(inside > 0, self.depth, np.float32(0))
        around = smooth(depth) / np.maximum(smooth(inside), 1e-3)
        shade = 1.0 / (1.0 + np.clip((around - depth) / (0.055 * self.scale), 0.0, 4.0))

        lx, ly, lz = np.asarray(light, np.float32) / np.float32(np.linalg.norm(light))
        nx, ny = self.normal_x, self.normal_y
        nz = np.sqrt(np.clip(1.0 - nx * nx - ny * ny, 0.0, 1.0))
        direct = np.clip(nx * lx - ny * ly + nz * lz + 0.12 + 0.085 * relief, 0.0, None)
        sky = (0.62 + 0.38 * nz - 0.22 * ny) * (1.0 + 0.065 * relief)
        return (ambient * sky * shade + (1.25 - ambient) * direct * (0.45 + 0.55 * shade)) * inside
