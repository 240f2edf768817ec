"""The synthetic data set: files, determinism, locks, errors; what is seen of a person from each side."""

import dataclasses
import errno
import json
import multiprocessing
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import filelock
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.code_digest import COMPUTES_NOTHING, Code
from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, FileError
from reidlib.synthetic import (
    SyntheticError,
    SyntheticSpec,
    View,
    describe_person,
    draw_camera,
    draw_person,
    ensure_synthetic,
    plan_images,
    render_person,
    views,
)
from reidlib.synthetic import folder as on_disk
from reidlib.synthetic.figure import draw_figure
from reidlib.synthetic.person import BAGS, HAIRCUTS, HATS, LOWERS, PATTERNS, UPPERS, Pose

SMALL = SyntheticSpec(
    train_identities=3,
    test_identities=3,
    images_per_identity=5,
    test_images_per_identity=5,
    cameras=3,
    height=64,
    width=32,
)
FOLDERS = ("bounding_box_train", "bounding_box_test", "query")
NAME = re.compile(r"(-1|\d{4,})_c(\d)s1_(\d{6})_00\.jpg")


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def images_of(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if name.endswith(".jpg")}


def left_in(folder: Path) -> list[str]:
    """The names in a folder, except lock files, which some versions of filelock leave there."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def copy_of(small: Path, root: Path) -> Path:
    for name, data in contents(small).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def must_not_render(*arguments, **options):
    pytest.fail("rendered")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "nested" / "synthetic", SMALL, workers=1)


@pytest.fixture
def plain_person():
    return dataclasses.replace(
        draw_person(1), upper="t-shirt", pattern="plain", lower="trousers", bag="none", hat="none",
        haircut="short", upper_colour=(200, 60, 60), pattern_colour=(20, 20, 40), bag_colour=(20, 60, 20),
        weight=1.0,
    )  # fmt: skip


def figure(person, yaw: float, **pose) -> np.ndarray:
    """Light and coverage of a person, (200, 120, 4), seen from the angle `yaw`."""
    light, coverage = draw_figure(200, 120, person, Pose(yaw=yaw, **pose), scale=180, origin=(60, 192))
    return np.dstack([light, coverage])


def changed(first: np.ndarray, second: np.ndarray) -> int:
    return int((np.abs(first - second).max(axis=2) > 0.02).sum())


# ------------------------------------------------------------------------------------------------------ files


def test_same_pixels_whatever_the_number_of_workers(small, tmp_path):
    again = ensure_synthetic(tmp_path / "again", SMALL, workers=2)
    assert contents(again) == contents(small)


def test_another_seed_is_another_data_set(small, tmp_path):
    spec = dataclasses.replace(SMALL, seed=1, train_identities=2, test_identities=2)
    other = ensure_synthetic(tmp_path / "other", spec, workers=1)
    images = set(contents(small).values())
    assert not images & set(contents(other).values())


def test_layout_names_and_sizes(small):
    record = json.loads((small / "synthetic.json").read_text())
    assert re.fullmatch("[0-9a-f]{16}", record["drawn_by"])
    assert record["spec"] == dataclasses.asdict(SMALL)
    assert record["difficulty"]["crop_jitter"] == views.CROP_JITTER
    assert sorted(path.name for path in small.iterdir()) == sorted([*FOLDERS, "synthetic.json"])
    seen = defaultdict(set)
    for folder in FOLDERS:
        files = sorted((small / folder).iterdir())
        assert len(files) == record["images"][folder]
        for path in files:
            identity, camera, _ = NAME.fullmatch(path.name).groups()
            assert 1 <= int(camera) <= SMALL.cameras
            seen[folder].add(int(identity))
            assert cv2.imread(str(path)).shape == (64, 32, 3)
    assert seen["bounding_box_train"] == {1, 2, 3}
    assert seen["query"] == {4, 5, 6}
    assert seen["bounding_box_test"] == {-1, 0, 4, 5, 6}


def test_images_of_one_identity_differ(small):
    images = contents(small)
    assert len(set(images.values())) == len(images)


def test_default_plan():
    spec = SyntheticSpec()
    counts, labels = defaultdict(int), defaultdict(int)
    for task in plan_images(spec):
        counts[task.folder] += 1
        if task.folder == "bounding_box_test":
            labels[NAME.fullmatch(task.name)[1]] += 1
    assert (spec.height, spec.width) == (128, 64)
    assert counts["bounding_box_train"] == 120 * 12
    assert counts["bounding_box_test"] == 200 * 4 + 80 + 40
    assert 2 * 200 <= counts["query"] <= 4 * 200
    assert labels["0000"] == 80 and labels["-1"] == 40


def test_market_sized_plan():
    images = {"images_per_identity": 17, "test_images_per_identity": 17}
    tasks = plan_images(SyntheticSpec(train_identities=751, test_identities=750, **images))
    assert sum(task.folder == "bounding_box_train" for task in tasks) == 751 * 17
    assert 16_000 < sum(task.folder != "bounding_box_train" for task in tasks) < 20_000
    assert len({(task.folder, task.name) for task in tasks}) == len(tasks)


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        SyntheticSpec, train_identities=st.integers(2, 9), test_identities=st.integers(2, 9),
        images_per_identity=st.integers(2, 20), test_images_per_identity=st.integers(2, 20),
        cameras=st.integers(2, 9), seed=st.integers(0, 2**31 - 1),
    )
)  # fmt: skip
def test_every_plan_can_be_evaluated(spec):
    tasks = plan_images(spec)
    assert len({(task.folder, task.name) for task in tasks}) == len(tasks)
    by_folder = {
        folder: [NAME.fullmatch(t.name).groups()[:2] for t in tasks if t.folder == folder]
        for folder in FOLDERS
    }
    train, query, gallery = (by_folder[name] for name in ("bounding_box_train", "query", "bounding_box_test"))
    assert not {identity for identity, _ in train} & {identity for identity, _ in query + gallery}
    assert len(set(query)) == len(query), "one query per identity and camera"
    for identity, camera in query:
        assert any(other == identity and elsewhere != camera for other, elsewhere in gallery)
    for number in {identity for identity, _ in train}:
        assert sum(identity == number for identity, _ in train) == spec.images_per_identity
        assert len({camera for identity, camera in train if identity == number}) >= 2


# -------------------------------------------------------------------------------------- what is there already


def test_same_spec_is_not_rendered_again(small, monkeypatch):
    monkeypatch.setattr(on_disk, "render_image", must_not_render)
    assert ensure_synthetic(small, SMALL, workers=1) == small


def test_another_spec_is_refused_and_named(small):
    before = contents(small)
    with pytest.raises(SyntheticError, match=r"height is 64 there, 128 was asked for.*Delete") as caught:
        ensure_synthetic(small, dataclasses.replace(SMALL, height=128))
    assert "seed" not in str(caught.value) and isinstance(caught.value, ReidError)
    assert contents(small) == before


def test_images_that_other_code_drew_are_rendered_again(small, tmp_path, monkeypatch):
    root = copy_of(small, tmp_path / "copy")
    (root / "query" / "of_the_old_code.jpg").write_bytes(b"another image")
    monkeypatch.setattr(on_disk, "digest_of_code", lambda *modules, **options: "other code")
    assert ensure_synthetic(root, SMALL, workers=1) == root
    assert json.loads((root / "synthetic.json").read_text())["drawn_by"] == "other code"
    assert images_of(root) == images_of(small)
    assert left_in(tmp_path) == ["copy"]
    monkeypatch.setattr(on_disk, "render_image", must_not_render)
    assert ensure_synthetic(root, SMALL, workers=1) == root


def test_a_record_that_names_no_code_counts_as_other_code(small, tmp_path):
    root = copy_of(small, tmp_path / "copy")
    record = json.loads((root / "synthetic.json").read_text())
    del record["drawn_by"]
    (root / "synthetic.json").write_text(json.dumps(record | {"renderer_version": 1}))
    ensure_synthetic(root, SMALL, workers=1)
    assert contents(root) == contents(small)


def test_another_spec_is_refused_even_if_other_code_drew_it(small, monkeypatch):
    before = contents(small)
    monkeypatch.setattr(on_disk, "digest_of_code", lambda *modules, **options: "other code")
    with pytest.raises(SyntheticError, match=r"height is 64 there, 128 was asked for.*Delete"):
        ensure_synthetic(small, dataclasses.replace(SMALL, height=128), workers=1)
    assert contents(small) == before


def test_the_old_images_stay_until_the_new_ones_are_complete(small, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    root = copy_of(small, tmp_path / "copy")
    monkeypatch.setattr(on_disk, "digest_of_code", lambda *modules, **options: "other code")
    monkeypatch.setattr(on_disk, "render_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic(root, SMALL, workers=1)
    assert contents(root) == contents(small)
    assert left_in(tmp_path) == ["copy"]


def test_the_record_covers_all_code_that_draws(small, tmp_path, monkeypatch):
    """The record names the digest of these modules and of all that they import."""
    asked = []

    def digest(*modules, **options):
        asked.extend(modules)
        return "other code"

    monkeypatch.setattr(on_disk, "digest_of_code", digest)
    ensure_synthetic(copy_of(small, tmp_path / "copy"), SMALL, workers=1)
    drawing = {
        f"reidlib.synthetic.{name}" for name in ("spec", "views", "figure", "person", "tubes", "scenery")
    }
    assert drawing <= set(Code().used([(module, "") for module in asked])) - COMPUTES_NOTHING


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: next((root / "query").iterdir()).unlink(),
            r"query holds \d+ images, \d+ were rendered. Delete",
        ),
        (lambda root: (root / "synthetic.json").unlink(), "holds no synthetic.json"),
        (lambda root: (root / "synthetic.json").write_text("{"), "cannot be read"),
        (lambda root: (root / "synthetic.json").write_text('{"drawn_by": ""}'), "cannot be read"),
        (lambda root: (root / "synthetic.json").write_text('{"spec": 3}'), "cannot be read"),
        (
            lambda root: (root / "synthetic.json").write_text('{"spec": {}}'),
            "seed is None there, 0 was asked",
        ),
        (lambda root: (root / "synthetic.json").write_text("[]"), "cannot be read"),
    ],
)
def test_damaged_data_set_is_refused(small, tmp_path, damage, message):
    root = copy_of(small, tmp_path / "copy")
    assert ensure_synthetic(root, SMALL, workers=1) == root
    damage(root)
    before = contents(root)
    with pytest.raises(SyntheticError, match=message):
        ensure_synthetic(root, SMALL, workers=1)
    assert contents(root) == before


def test_foreign_folder_and_file_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SyntheticError, match="not made by this renderer"):
        ensure_synthetic(tmp_path / "mine", SMALL)
    with pytest.raises(SyntheticError, match="is a file"):
        ensure_synthetic(tmp_path / "file", SMALL)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_interrupted_rendering_leaves_nothing_and_the_next_one_succeeds(small, tmp_path, monkeypatch):
    render, calls = on_disk.render_image, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return render(*args, **kwargs)

    root = tmp_path / "synthetic"
    monkeypatch.setattr(on_disk, "render_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic(root, SMALL, workers=1)
    assert len(calls) == 7 and left_in(tmp_path) == []
    monkeypatch.setattr(on_disk, "render_image", render)
    killed = tmp_path / ".synthetic.partial" / "query"  # as left by a killed process
    killed.mkdir(parents=True)
    (killed / "0001_c1s1_000001_00.jpg").write_bytes(b"half an image")
    root.mkdir()  # an empty folder is no obstacle
    assert ensure_synthetic(root, SMALL, workers=1) == root
    assert contents(root) == contents(small) and left_in(tmp_path) == ["synthetic"]


# ------------------------------------------------------------------------------------------------------ locks


def test_two_callers_at_once_render_once(small, tmp_path, monkeypatch):
    render, calls = on_disk.render_image, []

    def counted(*args, **kwargs):
        calls.append(1)
        return render(*args, **kwargs)

    monkeypatch.setattr(on_disk, "render_image", counted)
    root = tmp_path / "synthetic"
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ensure_synthetic, root, SMALL, workers=1) for _ in range(2)]
        assert [job.result() for job in jobs] == [root, root]
    assert len(calls) == len(plan_images(SMALL)) and contents(root) == contents(small)
    assert left_in(tmp_path) == ["synthetic"]


def test_a_process_that_waited_for_the_lock_uses_the_others_images(small, tmp_path, monkeypatch):
    """The other process holds the lock file, and finishes just when this one begins to wait."""
    monkeypatch.setattr(on_disk, "render_image", must_not_render)
    acquire, other = filelock.FileLock.acquire, filelock.FileLock(tmp_path / ".synthetic.lock")
    timeouts = []

    def acquire_after_the_other(lock, *args, **kwargs):
        timeouts.append(kwargs["timeout"])
        copy_of(small, tmp_path / "synthetic")
        other.release()
        return acquire(lock, *args, **kwargs)

    with other:
        monkeypatch.setattr(filelock.FileLock, "acquire", acquire_after_the_other)
        root = ensure_synthetic(tmp_path / "synthetic", SMALL, workers=1)
    assert contents(root) == contents(small)
    assert timeouts == [-1], "for as long as it takes"


def test_a_process_that_the_renderer_may_have_started_does_not_wait(tmp_path, monkeypatch):
    """Otherwise it could wait for its own parent, which waits for it."""
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    monkeypatch.setattr(on_disk, "render_image", must_not_render)
    with filelock.FileLock(tmp_path / ".synthetic.lock"), pytest.raises(FileError) as caught:
        ensure_synthetic(tmp_path / "synthetic", SMALL)
    text = str(caught.value)
    assert f"Another process is rendering {tmp_path / 'synthetic'}. Wait for it to finish" in text
    assert "__main__" in text
    assert f"delete {tmp_path / '.synthetic.lock'}" in text
    assert not (tmp_path / "synthetic").exists()


@pytest.mark.parametrize("refusal", [NotImplementedError(), OSError(errno.ENOLCK, "No locks available")])
def test_a_file_system_without_locks_is_reported_and_used(small, tmp_path, monkeypatch, capsys, refusal):
    def refuse(lock, *args, **kwargs):
        raise refusal

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    root = ensure_synthetic(tmp_path / "synthetic", SMALL, workers=1)
    assert contents(root) == contents(small)
    assert f"{tmp_path} lies on a file system without locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(lock, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(FileError, match=r"\.synthetic\.lock cannot be written \(Permission denied\)"):
        ensure_synthetic(tmp_path / "synthetic", SMALL, workers=1)
    assert left_in(tmp_path) == []


def test_a_script_without_a_main_guard_gets_advice(tmp_path):
    script = tmp_path / "script.py"
    spec = (
        "train_identities=2, test_identities=2, images_per_identity=40, test_images_per_identity=40, "
        "cameras=2, height=32, width=16"
    )
    script.write_text(
        "from pathlib import Path\nfrom reidlib.synthetic import SyntheticSpec, ensure_synthetic\n"
        f"ensure_synthetic(Path({str(tmp_path / 'out')!r}), SyntheticSpec({spec}), workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "SyntheticError" in done.stderr.splitlines()[-1] and "__main__" in done.stderr.splitlines()[-1]
    assert left_in(tmp_path) == ["script.py"]


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [
        ("train_identities", 1, 2, 4000),
        ("train_identities", 4001, 2, 4000),
        ("test_identities", 0, 2, 4000),
        ("images_per_identity", 1, 2, 100),
        ("test_images_per_identity", 101, 2, 100),
        ("cameras", 1, 2, 9),
        ("cameras", 10, 2, 9),
        ("height", 16, 32, 256),
        ("height", 257, 32, 256),
        ("width", 8, 16, 128),
        ("width", 129, 16, 128),
        ("seed", -1, 0, 2**31 - 1),
        ("seed", 2**31, 0, 2**31 - 1),
    ],
)
def test_bad_spec_names_parameter_value_and_range(name, value, low, high):
    with pytest.raises(SyntheticError) as caught:
        SyntheticSpec(**{name: value})
    assert str(caught.value) == f"{name} = {value}: expected a whole number from {low} to {high}."


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("height", 128.0, "float"),
        ("cameras", "6", "str"),
        ("seed", True, "bool"),
        ("width", None, "NoneType"),
    ],
)
def test_spec_of_another_type_is_refused(name, value, kind):
    with pytest.raises(SyntheticError) as caught:
        SyntheticSpec(**{name: value})
    assert str(caught.value) == f"{name} = {value!r}: expected a whole number, got {kind}."


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_bad_number_of_workers(tmp_path, workers):
    with pytest.raises(SyntheticError, match="workers is"):
        ensure_synthetic(tmp_path / "out", SMALL, workers=workers)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- people


def test_colours_are_shared_within_groups_and_people_are_not():
    people = [describe_person(identity) for identity in range(1, 181)]
    groups = defaultdict(list)
    for person in people:
        groups[person["colour_group"]].append(person)
    assert all(len(members) == views.IDENTITIES_PER_COLOUR_GROUP for members in groups.values())
    for members in groups.values():
        assert len({(member["upper_colour"], member["lower_colour"]) for member in members}) == 1
        looks = {
            tuple(member[key] for key in ("pattern", "upper", "lower", "bag", "hat", "haircut"))
            for member in members
        }
        assert len(looks) == len(members)
    assert len({(members[0]["upper_colour"], members[0]["lower_colour"]) for members in groups.values()}) > 15
    for key, kinds in (
        ("upper", UPPERS),
        ("lower", LOWERS),
        ("haircut", HAIRCUTS),
        ("hat", HATS),
        ("bag", BAGS),
    ):
        assert {person[key] for person in people} == set(kinds)
    assert {draw_person(identity).pattern for identity in range(1, 600)} <= set(PATTERNS)
    assert describe_person(5) == describe_person(5) != describe_person(5, seed=1)


def test_proportions_of_a_person(plain_person):
    coverage = figure(plain_person, 0.0, stride=0.05)[:, :, 3]
    rows = np.flatnonzero(coverage.any(axis=1))
    tall = rows[-1] - rows[0] + 1
    assert 0.9 * 180 * plain_person.height < tall < 1.1 * 180 * plain_person.height
    widths = coverage[rows[0] : rows[-1] + 1].sum(axis=1) / tall
    head, neck, shoulders = (
        widths[int(0.05 * tall)],
        widths[int(0.12 * tall) : int(0.18 * tall)].min(),
        widths[int(0.26 * tall)],
    )
    assert 0.06 < head < 0.13 and neck < head and 0.2 < shoulders < 0.36
    between = coverage[rows[0] + int(0.8 * tall)]
    assert np.count_nonzero(np.diff(between)) == 4, "two legs, apart below the knees"


def test_backpack_is_seen_from_behind(plain_person):
    carrying = dataclasses.replace(plain_person, bag="backpack")
    behind = changed(figure(carrying, np.pi), figure(plain_person, np.pi))
    front = changed(figure(carrying, 0.0), figure(plain_person, 0.0))
    assert behind > 900 and front < 0.3 * behind  # from the front only its straps
    with_side = figure(carrying, np.pi / 2)[:, :, 3].sum() - figure(plain_person, np.pi / 2)[:, :, 3].sum()
    assert with_side > 200  # from the side it sticks out


def test_print_is_seen_from_the_front(plain_person):
    printed = dataclasses.replace(plain_person, pattern="print")
    assert changed(figure(printed, 0.0), figure(plain_person, 0.0)) > 100
    assert changed(figure(printed, np.pi), figure(plain_person, np.pi)) == 0


def test_stripes_go_around_the_body(plain_person):
    striped = dataclasses.replace(plain_person, pattern="horizontal stripes")
    for yaw in (0.0, np.pi / 2, np.pi):
        assert changed(figure(striped, yaw), figure(plain_person, yaw)) > 400


def test_open_jacket_shows_the_shirt_from_the_front(plain_person):
    def shirt_pixels(yaw):
        white, black = (
            dataclasses.replace(plain_person, upper="open jacket", inner_colour=colour)
            for colour in ((230, 230, 230), (10, 10, 10))
        )
        return changed(figure(white, yaw), figure(black, yaw))

    assert shirt_pixels(0.0) > 300 and shirt_pixels(np.pi) < 30


def test_light_comes_from_its_side(plain_person):
    from_left, from_right = (
        figure(plain_person, 0.0, light=(side, 0.3, 0.3))[:, :, :3].sum(axis=2) for side in (-1.0, 1.0)
    )
    assert from_left[:, :60].sum() > 1.2 * from_right[:, :60].sum()


# ----------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(("height", "width"), [(64, 32), (128, 64), (256, 128), (128, 48)])
def test_sizes(plain_person, height, width):
    camera = dataclasses.replace(draw_camera(1), noise=0.0, native_height=400.0)
    view = View(pose=Pose(yaw=0.4), noise_seed=3)
    image = render_person(plain_person, camera, view, height=height, width=width)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    reference = render_person(plain_person, camera, view, height=128, width=64)
    same = cv2.resize(image, (32, 64), interpolation=cv2.INTER_AREA).astype(float)
    difference = np.abs(same - cv2.resize(reference, (32, 64), interpolation=cv2.INTER_AREA))
    assert difference.mean() < 4.0 < same.std(), "the same scene at every size"


def test_cameras_differ(plain_person):
    images = [render_person(plain_person, draw_camera(number), View()) for number in range(1, 7)]
    for index, image in enumerate(images):
        assert image.std() > 15
        assert all(np.abs(image.astype(float) - other).mean() > 8 for other in images[index + 1 :])


@pytest.mark.parametrize("occluder", ["pole", "bicycle", "hedge", "person"])
def test_occluders_hide_something(plain_person, occluder):
    free, hidden = (
        render_person(plain_person, draw_camera(2), View(occluder=kind)) for kind in ("none", occluder)
    )
    share = (np.abs(free.astype(float) - hidden).max(axis=2) > 40).mean()
    assert 0.01 < share < 0.8
