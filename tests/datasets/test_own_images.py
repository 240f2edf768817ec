"""One's own images: which files are found, where labels come from, and any names."""

import os

import numpy as np
import pytest
from own_images import NAMES, odd_names, write_noise

from reidlib.datasets.own_images import find_images, read_own_images, unreadable
from reidlib.datasets.types import DatasetError
from reidlib.files import FileError
from reidlib.images.contents import UnreadableImageError


def make(folder, *names):
    return [write_noise(folder / name, number) for number, name in enumerate(names)]


def labels_of(own, split):
    return [own.labels[path] for path in own.dataset.splits[split].paths]


def test_images_of_all_folders_are_found_once_and_other_files_are_named(tmp_path):
    make(tmp_path, "b/2.PNG", "a.jpg", ".hidden/3.png", "b/._2.png")
    (tmp_path / "b" / "list.txt").write_text("x")
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    assert [path.name for path in find_images(tmp_path)[0]] == ["a.jpg", "2.PNG"]
    own = read_own_images(tmp_path, [tmp_path / "a.jpg"])
    assert own.notes[1] == "1 files are no images by their names: b/list.txt."


def test_any_names_are_read_and_said_on_one_line(tmp_path):
    odd_names(tmp_path / "odd")
    own = read_own_images(tmp_path / "odd", [tmp_path / "odd"])
    names = {os.fsencode(name) for name in own.names.values()}
    assert names == set(NAMES) and len(own.dataset.gallery) == len(own.dataset.query) == 4
    assert own.notes[0].startswith("Labels: none: neither names nor folders give any")
    assert len(own.dataset.fingerprints["test"]) == 16
    (tmp_path / "odd" / "two\nlines.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError) as error:
        own.without(unreadable(own.paths), skip=False)
    assert "two\\nlines.png (it is none of" in str(error.value) and "\n" not in str(error.value)


def test_market_names_give_identity_and_camera_and_reserve_two_identities(tmp_path):
    make(tmp_path / "g", "0007_c2s1.png", "0000_c1.png", "-1_c1.png", "0012_c10.png")
    queries = make(tmp_path / "q", "0012_c1.png", "0000_c3.png", "anna.png")
    own = read_own_images(tmp_path / "g", queries)
    assert labels_of(own, "gallery") == [("-1", "1"), ("0", "1"), ("7", "2"), ("12", "10")]
    assert own.dataset.gallery.ids.tolist() == [-1, 0, 1, 2]
    assert own.dataset.query.ids.tolist() == [2, -1, -1], "a distractor and nobody are looked for in vain"
    assert own.dataset.gallery.cameras.tolist() == [1, 1, 2, 4] and own.dataset.query.cameras[0] == 1
    assert "from the names, as Market-1501's (chosen because" in own.notes[0]
    assert own.has_identities and own.has_cameras
    with pytest.raises(DatasetError, match=r"1 of 7 images are not <identity>_c<camera>….*anna\.png"):
        read_own_images(tmp_path / "g", queries, labels="market1501")


@pytest.mark.parametrize(("deep", "cameras"), [(True, ["cam 1", "cam 2"]), (False, ["", ""])])
def test_folders_give_the_identity_and_if_all_are_deep_enough_the_camera(tmp_path, deep, cameras):
    make(tmp_path / "g", "anna/cam 1/a.png", "bob/cam 2/a.png" if deep else "bob/a.png")
    queries = [*make(tmp_path / "q", "bob/cam 3/1.png"), *make(tmp_path, "alone.png")]
    own = read_own_images(
        tmp_path / "g", [tmp_path / "q", queries[1], tmp_path / "g" / "anna" / "cam 1" / "a.png"]
    )
    assert labels_of(own, "gallery") == [("anna", cameras[0]), ("bob", cameras[1])]
    assert [identity for identity, _ in labels_of(own, "query")] == ["bob", "", "anna"]
    assert own.dataset.query.ids.tolist() == [2, -1, 1]
    assert own.has_cameras is deep
    assert ("identity and camera" if deep else "identity from the folders") in own.notes[0]


def test_one_image_beside_the_folders_means_no_labels_unless_folders_are_asked_for(tmp_path):
    make(tmp_path, "anna/1.png", "2.png")
    own = read_own_images(tmp_path, [tmp_path / "2.png"])
    assert not own.has_identities and own.dataset.gallery.ids.tolist() == [0, 0]
    with pytest.raises(DatasetError, match=r"1 of 2 images lie in no sub-folder.*2\.png"):
        read_own_images(tmp_path, [tmp_path / "2.png"], labels="folders")


def test_a_csv_file_names_files_below_their_folder(tmp_path):
    images = [*make(tmp_path / "g", "x/1.png", "2.png"), *odd_names(tmp_path / "g" / "odd")]
    (query,) = make(tmp_path, "3.png")
    table = tmp_path / "labels.csv"
    rows = [b"x/1.png,anna,1", b"2.png,,2", b"3.png,anna,2"]
    rows += [b'"odd/%s",bob,1' % name.replace(b'"', b'""') for name in NAMES]
    table.write_bytes(b"\xef\xbb\xbffile,identity,camera\n" + b"\n".join(rows) + b"\n")
    own = read_own_images(tmp_path / "g", [query], labels=str(table))
    known = dict(zip(own.dataset.gallery.paths, labels_of(own, "gallery"), strict=True))
    assert known[images[0]] == ("anna", "1") and known[images[1]] == ("", "2")
    assert {known[path] for path in images[2:]} == {("bob", "1")}
    assert (
        own.dataset.query.ids.tolist()
        == own.dataset.gallery.ids[[own.dataset.gallery.paths.index(images[0])]]
    )

    for content, says in (
        (b"name,identity\nx,y\n", "has name, identity: expected a CSV file with the columns file, identity"),
        (b"", "has no row"),
        (b"file,identity\n2.png,a\n2.png,b\n", "names 2.png twice"),
        (b"file,identity\n2.png,a\n", r"5 of 6 images have no row in .*labels\.csv"),
    ):
        table.write_bytes(content)
        with pytest.raises(DatasetError, match=says):
            read_own_images(tmp_path / "g", [query], labels=str(table))
    with pytest.raises(DatasetError, match="--labels .*market is no file: .*or one of auto, market1501"):
        read_own_images(tmp_path / "g", [query], labels=str(tmp_path / "market"))


def test_numbers_are_sorted_by_value_and_unknown_cameras_match_no_camera(tmp_path):
    make(tmp_path / "g", "10/1.png", "9/1.png", "b/1.png")
    own = read_own_images(tmp_path / "g", [tmp_path / "g" / "9" / "1.png"])
    assert dict(zip(labels_of(own, "gallery"), own.dataset.gallery.ids.tolist(), strict=True)) == {
        ("9", ""): 1, ("10", ""): 2, ("b", ""): 3,
    }  # fmt: skip
    assert not np.isin(own.dataset.query.cameras, own.dataset.gallery.cameras).any()


def test_places_without_images_are_said(tmp_path):
    (image,) = make(tmp_path / "g", "1.png")
    (tmp_path / "empty").mkdir()
    for folder, queries, says in (
        (tmp_path / "gone", [image], "does not exist: name a folder"),
        (image, [image], "is a file: name a folder of images"),
        (tmp_path / "empty", [image], "holds no images"),
        (tmp_path / "g", [], "There is no query"),
        (tmp_path / "g", [tmp_path / "gone.png"], r"The query .*gone\.png does not exist"),
        (tmp_path / "g", [tmp_path / "empty"], "The folder of queries .*empty holds no images"),
    ):
        with pytest.raises(DatasetError, match=says):
            read_own_images(folder, queries)
    with pytest.raises(FileError, match="cannot be used as a path"):
        read_own_images("x" * 5000, [image])


def test_without_any_image_left_is_an_error_also_when_they_may_be_left_out(tmp_path):
    (image,) = make(tmp_path / "g", "1.png")
    (query,) = make(tmp_path, "q.png")
    query.write_bytes(b"")
    own = read_own_images(tmp_path / "g", [query])
    with pytest.raises(UnreadableImageError, match="no query image is left"):
        own.without(unreadable(own.paths), skip=True)
    assert unreadable([image, image]) == {} and list(unreadable([query])) == [query]
