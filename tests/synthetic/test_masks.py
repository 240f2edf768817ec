"""Masks of rendered images: where the person, the parts, an occluder and the background are."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from reidlib.synthetic import (
    SyntheticError,
    SyntheticSpec,
    View,
    draw_camera,
    draw_person,
    ensure_synthetic,
    masks_of,
    render_masks,
    render_person,
)
from reidlib.synthetic.person import Pose

PARTS = ("head", "torso", "arms", "legs", "bag")
OCCLUDERS = ("none", "pole", "bicycle", "hedge", "person")
SMALL = SyntheticSpec(
    train_identities=2, test_identities=3, images_per_identity=5, cameras=3, height=64, width=32
)
# Lens and sensor carry colours across a mask's border. Farther away than this many of 128 rows, a pixel moves
# by at most 8 of 255 levels (shadows do not change with the person's colours).
BLUR = 4


@pytest.fixture
def dressed():
    """A person with a backpack, in colours that none of `recoloured` has."""
    return dataclasses.replace(
        draw_person(1), upper="jacket", lower="trousers", pattern="plain", bag="backpack", hat="cap",
        haircut="short", hair=(20, 20, 20), hat_colour=(20, 20, 20), skin=(60, 40, 30), beard=False,
        upper_colour=(30, 30, 30), lower_colour=(30, 30, 30), bag_colour=(30, 30, 30), shoes=(20, 20, 20),
        inner_colour=(30, 30, 30), side_stripe=False,
    )  # fmt: skip


# Part → the colours that show on it.
COLOURS = {
    "head": ("hair", "hat_colour"),
    "torso": ("upper_colour", "inner_colour"),
    "legs": ("lower_colour", "shoes"),
    "bag": ("bag_colour",),
}


def recoloured(person, *names):
    return dataclasses.replace(person, **dict.fromkeys(names, (240, 235, 245)))


def changed(person, other, view, camera=2):
    """Where the images of two people in the same view differ by more than 8 levels."""
    images = [render_person(one, draw_camera(camera), view).astype(int) for one in (person, other)]
    return np.abs(images[0] - images[1]).max(2) > 8


def grown(mask, pixels=BLUR):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2)) > 0


def shrunk(mask, pixels=BLUR):
    return ~grown(~mask, pixels)


# ------------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_every_pixel_is_in_one_mask_and_every_pixel_of_the_person_in_one_part(dressed, occluder):
    masks = render_masks(dressed, draw_camera(1), View(pose=Pose(yaw=2.2), occluder=occluder, noise_seed=5))
    assert all(mask.shape == (128, 64) and mask.dtype == bool for mask in masks.values())
    assert (sum(masks[name].astype(int) for name in ("person", "occluder", "background")) == 1).all()
    np.testing.assert_array_equal(sum(masks[name].astype(int) for name in PARTS), masks["person"])
    assert masks["occluder"].any() == (occluder != "none")
    assert all(masks[name].any() for name in PARTS)


@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_masks_change_no_pixel(dressed, occluder):
    view, camera = View(occluder=occluder, noise_seed=8), draw_camera(3)
    before = render_person(dressed, camera, view).tobytes()
    first = render_masks(dressed, camera, view)
    assert render_person(dressed, camera, view).tobytes() == before
    again = render_masks(dressed, camera, view)
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("occluder", OCCLUDERS)
@pytest.mark.parametrize("yaw", [0.3, 2.6])
def test_the_person_is_drawn_on_its_mask_and_nowhere_else(dressed, yaw, occluder):
    """Only a person's colours differ between the images: what changes is what is seen of the person."""
    view = View(pose=Pose(yaw=yaw), occluder=occluder, noise_seed=3, shift_x=0.05, zoom=0.9)
    other = recoloured(dressed, "skin", *(name for names in COLOURS.values() for name in names))
    where, masks = changed(dressed, other, view), render_masks(dressed, draw_camera(2), view)
    assert where.sum() > 500
    assert not (where & ~grown(masks["person"])).any()
    assert where[shrunk(masks["person"], 1)].mean() > 0.95
    assert not (where & shrunk(masks["occluder"])).any()


@pytest.mark.parametrize("part", COLOURS)
@pytest.mark.parametrize("yaw", [2.2, 3.4])
def test_each_part_is_drawn_on_its_mask(dressed, part, yaw):
    view = View(pose=Pose(yaw=yaw))
    where = changed(dressed, recoloured(dressed, *COLOURS[part]), view)
    masks = render_masks(dressed, draw_camera(2), view)
    allowed = masks[part] | masks["arms"] if part == "torso" else masks[part]  # sleeves have the same colour
    if part == "bag":
        allowed = allowed | masks["torso"]  # straps are painted on the torso
    assert not (where & ~grown(allowed)).any()
    assert where[masks[part]].mean() > (0.6 if part == "head" else 0.9)  # a face is no hair


@pytest.mark.parametrize("occluder", OCCLUDERS[1:])
def test_an_occluder_lies_on_its_mask(dressed, occluder):
    view = View(occluder=occluder, noise_seed=4)
    camera = dataclasses.replace(draw_camera(2), noise=0.0)
    free, hidden = (
        render_person(dressed, camera, dataclasses.replace(view, occluder=kind)).astype(int)
        for kind in ("none", occluder)
    )
    where = np.abs(free - hidden).max(2) > 8
    masks = render_masks(dressed, camera, view)
    alone = render_masks(dressed, camera, dataclasses.replace(view, occluder="none"))
    assert not (where & ~grown(masks["occluder"])).any()
    assert where[masks["occluder"]].mean() > 0.7
    assert not (masks["person"] & ~alone["person"]).any()
    assert (masks["person"] < alone["person"]).any(), "a part of the person is hidden"


def test_skirts_belong_to_the_legs_and_parts_stand_above_each_other(dressed):
    skirt = dataclasses.replace(dressed, lower="long skirt", bag="none")
    masks = render_masks(skirt, draw_camera(2), View())
    assert not masks["bag"].any()
    rows = {name: np.flatnonzero(masks[name].any(1)).mean() for name in ("head", "torso", "legs")}
    assert rows["head"] < rows["torso"] < rows["legs"]
    where = changed(skirt, recoloured(skirt, "lower_colour"), View())
    assert (masks["legs"] & where).sum() > 0.8 * where.sum()


def test_every_size_has_the_same_masks(dressed):
    view = View(pose=Pose(yaw=1.0), occluder="hedge", noise_seed=2)
    small, large = (
        render_masks(dressed, draw_camera(4), view, height=height, width=height // 2) for height in (64, 256)
    )
    for name in ("person", "background", "legs"):
        shares = cv2.resize(large[name].astype(np.float32), (32, 64), interpolation=cv2.INTER_AREA)
        assert ((shares > 0.5) == small[name]).mean() > 0.95, name


# ------------------------------------------------------------------------------------------------- a data set


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "synthetic", SMALL, workers=1)


def test_masks_of_a_data_sets_images(small):
    paths = sorted((small / "query").iterdir()) + sorted((small / "bounding_box_test").glob("0000*"))[:1]
    masks = masks_of(small, paths)
    assert {mask.shape for mask in masks.values()} == {(len(paths), 64, 32)}
    for number, path in enumerate(paths):
        image = cv2.imread(str(path)).astype(float)
        one = {name: mask[number] for name, mask in masks.items()}
        inside, outside = (image[one[name]].mean(0) for name in ("person", "background"))
        assert np.abs(inside - outside).max() > 3, "another image's mask would be a mixture"
    backwards = masks_of(small, paths[::-1], height=32, width=16)
    assert backwards["person"].shape == (len(paths), 32, 16)
    coarse = cv2.resize(masks["person"][0].astype(np.float32), (16, 32), interpolation=cv2.INTER_AREA) > 0.5
    assert (coarse == backwards["person"][-1]).mean() > 0.95


def test_images_without_masks_are_refused(small, tmp_path):
    with pytest.raises(SyntheticError, match=r"x\.jpg is none of the images"):
        masks_of(small, [small / "query" / "x.jpg"])
    with pytest.raises(SyntheticError, match="has no readable synthetic.json.*ensure_synthetic"):
        masks_of(tmp_path, [])
    for content in ("{", "[]", '{"spec": {"height": 3}, "drawn_by": ""}', '{"spec": {"size": 3}}'):
        (tmp_path / "synthetic.json").write_text(content)
        with pytest.raises(SyntheticError, match="has no readable"):
            masks_of(tmp_path, [])
    record = json.loads((small / "synthetic.json").read_text())
    (tmp_path / "synthetic.json").write_text(json.dumps(record | {"drawn_by": "other"}))
    with pytest.raises(SyntheticError, match="drawn by other code.*draws them again"):
        masks_of(tmp_path, [])
