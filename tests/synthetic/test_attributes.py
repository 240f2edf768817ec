"""What the renderer knows of an image, checked against its own drawings."""

import dataclasses

import numpy as np
import pytest

from reidlib.synthetic import (
    SyntheticError,
    SyntheticSpec,
    View,
    draw_camera,
    draw_person,
    ensure_synthetic,
    render_masks,
)
from reidlib.synthetic.attributes import (
    OCCLUDERS,
    SIDES,
    attributes_of,
    box_overlap,
    people_dressed_alike,
    side_seen,
)
from reidlib.synthetic.person import Pose

SMALL = SyntheticSpec(
    train_identities=2, test_identities=6, images_per_identity=4, cameras=3, height=64, width=32
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "synthetic", SMALL, workers=1)


def test_sides_by_hand():
    for turn in (0, 2 * np.pi, -2 * np.pi):
        assert side_seen(turn) == side_seen(turn + 0.7) == side_seen(turn - 0.7) == "front"
        assert side_seen(turn + np.pi) == side_seen(turn + 2.5) == side_seen(turn - 2.5) == "back"
        assert side_seen(turn + np.pi / 2) == "right side" and side_seen(turn - np.pi / 2) == "left side"
    assert {side_seen(angle) for angle in np.linspace(-9, 9, 99)} == set(SIDES)


@pytest.mark.parametrize(("yaw", "on_left"), [(np.pi / 2, False), (-np.pi / 2, True)])
def test_the_side_that_is_named_faces_the_viewer(yaw, on_left):
    """A handbag on that side is seen whole; one on the other side is hidden behind the person."""
    seen = []
    for bag_on_left in (on_left, not on_left):
        person = dataclasses.replace(draw_person(1), bag="handbag", bag_on_left=bag_on_left)
        arm = {"left_arm" if bag_on_left else "right_arm": "carry"}
        view = View(pose=Pose(yaw=yaw, **arm), occluder="none")
        seen.append(render_masks(person, draw_camera(1), view)["bag"].sum())
    assert seen[0] > 1.2 * seen[1]
    assert side_seen(yaw) == ("left side" if on_left else "right side")


def test_overlap_of_boxes_by_hand():
    person, camera = draw_person(1), dataclasses.replace(draw_camera(1), pitch=0.0)
    height = 1.07 * person.height  # of the exact box; it is half as wide

    def overlap(**changes):
        return box_overlap(person, camera, View(**changes))

    assert overlap() == 1
    assert overlap(shift_x=0.1 * 0.5 * height) == pytest.approx(0.9 / 1.1, abs=0.002)
    assert overlap(shift_x=-0.1 * 0.5 * height) == pytest.approx(0.9 / 1.1, abs=0.002)
    assert overlap(shift_y=0.1 * 1.07) == pytest.approx(0.9 / 1.1, abs=0.002)
    assert overlap(zoom=1.25) == pytest.approx(1 / 1.25**2, abs=0.002), "the exact box lies inside"
    assert overlap(zoom=0.8) == pytest.approx(0.8**2, abs=0.002)
    assert overlap(aspect=0.4) == pytest.approx(0.8, abs=0.002)
    assert overlap(shift_x=2.0) == 0
    assert overlap(pose=Pose(yaw=2.0), occluder="hedge") == 1, "only the box counts"


def test_people_dressed_alike_by_hand():
    clothes, people = np.array(["red", "red", "blue", "green"]), np.array([1, 2, 3, 4])
    worn, wearers = np.array(["red", "red", "red", "blue", "red"]), np.array([1, 1, 5, 3, 6])
    # Person 1 is not another person; 2 is not in the gallery; nobody else wears blue, and nobody green.
    assert people_dressed_alike(clothes, people, worn, wearers).tolist() == [2, 3, 0, 0]


def test_attributes_of_a_data_sets_images(small):
    paths = sorted(small.glob("query/*")) + sorted(small.glob("bounding_box_test/*"))
    found = attributes_of(small, paths)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, len(paths))
    assert {*found["side"]} <= {*SIDES} and {*found["occluder"]} <= {*OCCLUDERS}
    assert (np.abs(found["yaw"]) <= np.pi).all() and [*map(side_seen, found["yaw"])] == found["side"].tolist()
    junk = np.array([path.name.startswith("-1") for path in paths])
    stranger = np.array([path.name.startswith("0000") for path in paths])
    named = np.array([int(path.name.partition("_")[0]) for path in paths])
    known = ~(junk | stranger)
    assert (found["person"][known] == named[known]).all()
    assert len(np.unique(found["person"][~known])) == (~known).sum() > 2, "each is a person of its own"
    assert (
        found["overlap"].min() >= 0 and found["overlap"][junk].mean() < 0.7 < found["overlap"][known].mean()
    )
    for name in ("colours", "clothes"):
        worn = {person: {*found[name][found["person"] == person]} for person in named[known]}
        assert {len(clothes) for clothes in worn.values()} == {1}, "people keep their clothes"
    # Identities 3 and 4 close the first colour group, 5 to 8 are the second; their patterns differ.
    assert len({*found["colours"][known]}) == 2 and len({*found["clothes"][known]}) > 2
    backwards = attributes_of(small, paths[::-1])
    assert all((backwards[name][::-1] == values).all() for name, values in found.items())


def test_an_image_has_an_occluder_where_its_mask_has_one(small):
    from reidlib.synthetic import masks_of

    paths = sorted(small.glob("bounding_box_train/*"))
    hidden, occluder = (
        masks_of(small, paths)["occluder"].any(axis=(1, 2)),
        attributes_of(small, paths)["occluder"],
    )
    assert not (hidden & (occluder == "none")).any()
    assert hidden.any()


def test_photographs_have_no_attributes(tmp_path):
    with pytest.raises(SyntheticError, match="has no readable synthetic.json"):
        attributes_of(tmp_path, [])
