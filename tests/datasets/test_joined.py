"""Data sets joined for training: numbers that can be counted by hand, and people who are in two sets."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from reidlib.datasets import DatasetError, join_datasets, load_dataset, people_in_both
from reidlib.datasets.held_out import split_validation

FIRST = {
    "bounding_box_train": ["0002_c1s1_1.jpg", "0002_c2s1_2.jpg", "0007_c3s1_3.jpg"],
    "query": ["0003_c1s1_4.jpg"],
    "bounding_box_test": ["-1_c1s1_5.jpg", "0000_c4s1_6.jpg", "0003_c2s1_7.jpg"],
}
SECOND = {
    "bounding_box_train": ["0002_c1s1_1.jpg", "0002_c2s1_2.jpg", "0009_c2s1_3.jpg"],
    "query": ["0500_c1s1_4.jpg"],
    "bounding_box_test": ["0500_c9s1_5.jpg"],
}


def make(folder, files, what):
    """A data set whose images are never decoded: each has a content of its own."""
    for part, names in files.items():
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / name).write_text(f"{what} {part} {name}")
    return load_dataset("folder", folder)


@pytest.fixture
def first(tmp_path):
    return make(tmp_path / "first", FIRST, "first")


@pytest.fixture
def second(tmp_path):
    return make(tmp_path / "second", SECOND, "second")


def test_people_and_cameras_are_kept_apart_and_labels_have_no_gap(first, second):
    joined = join_datasets({"a": first, "b": second})
    # The first has identities up to 7 and cameras up to 4, so the second's 2 and 9, 1 and 2 begin at 8 and 5.
    assert joined.train.ids.tolist() == [2, 2, 7, 8, 8, 15]
    assert joined.train.cameras.tolist() == [1, 2, 3, 5, 6, 6]
    assert joined.train_labels.tolist() == [0, 0, 1, 2, 2, 3]
    assert joined.train.paths == (*first.train.paths, *second.train.paths)
    assert joined.num_train_identities == 4
    assert (joined.query, joined.gallery) == (first.query, first.gallery)
    assert joined.gallery.ids.tolist() == [0, 3], "the distractor stays one, junk is gone"
    assert not {*joined.train.ids} & {*joined.query.ids, *joined.gallery.ids}
    assert "6 was added to their identities and 4 to their cameras" in " ".join(joined.notes)


def test_test_people_of_the_first_count_when_the_next_are_numbered(tmp_path, second):
    files = FIRST | {"query": ["0100_c1s1_4.jpg"], "bounding_box_test": ["0100_c2s1_7.jpg"]}
    joined = join_datasets({"a": make(tmp_path / "high", files, "high"), "b": second, "c": third(tmp_path)})
    assert joined.train.ids.tolist() == [2, 2, 7, 101, 101, 108, 109, 109, 116]
    assert joined.train.cameras.tolist() == [1, 2, 3, 4, 5, 5, 6, 7, 7]


def third(tmp_path):
    return make(tmp_path / "third", SECOND, "third")


def test_identity_0_of_a_further_source_is_a_person(first, second):
    """MSMT17 numbers its training people from 0."""
    from_0 = replace(second, train=replace(second.train, ids=np.array([0, 0, 3])))
    assert join_datasets({"a": first, "b": from_0}).train.ids.tolist() == [2, 2, 7, 8, 8, 11]


def test_people_of_a_joined_set_can_be_held_out(tmp_path, first):
    names = [f"{person:04d}_c{camera}s1_{number}.jpg" for person in (1, 2, 3)
             for camera, number in ((1, 1), (2, 2), (2, 3))]  # fmt: skip
    more = make(tmp_path / "more", SECOND | {"bounding_box_train": names}, "more")
    rest, validation = split_validation(join_datasets({"a": first, "b": more}), 2, seed=0)
    held_out = {*validation.query.ids.tolist()}
    assert len(held_out) == 2 and held_out < {8, 9, 10}, "the others have no match"
    assert {*rest.train.ids.tolist()} == {2, 7, 8, 9, 10} - held_out
    assert {*validation.query.cameras.tolist()} == {5, 6}


def test_the_fingerprint_covers_the_training_images_of_all_sources(tmp_path, first, second):
    def fingerprints(*sources):
        return join_datasets(dict(zip("ab", sources, strict=True))).fingerprints

    before = fingerprints(first, second)
    assert before["test"] == first.fingerprints["test"]
    assert before["training"] not in (first.fingerprints["training"], second.fingerprints["training"])
    assert join_datasets({"x": first, "y": second}).fingerprints == before, "what sources are called"
    joined = join_datasets({"a": first, "b": second})
    other_labels = replace(joined, train=replace(joined.train, ids=joined.train.ids[::-1]))
    assert other_labels.fingerprints["training"] != before["training"], "how people are numbered"
    moved = load_dataset("folder", shutil.copytree(second.root, tmp_path / "moved"))
    assert fingerprints(first, moved) == before, "where they lie"
    assert fingerprints(second, first)["training"] != before["training"], "the order decides the labels"
    (moved.root / "query" / SECOND["query"][0]).write_text("changed")
    assert fingerprints(first, load_dataset("folder", moved.root)) == before, "a further source's test set"
    (moved.root / "bounding_box_train" / SECOND["bounding_box_train"][0]).write_text("changed")
    after = fingerprints(first, load_dataset("folder", moved.root))
    assert after["training"] != before["training"] and after["test"] == before["test"]


def test_one_data_set_is_no_join(first):
    with pytest.raises(DatasetError, match="expected two or more, got 1"):
        join_datasets({"a": first})


def test_the_same_training_images_in_two_sources_are_refused(tmp_path, first, second):
    shutil.copy(first.train.paths[0], second.train.paths[0])
    with pytest.raises(
        DatasetError, match=r"b and a cannot be joined.*\(1 image is in both\).*Leave one out"
    ):
        join_datasets({"a": first, "b": second})


def test_training_people_of_a_source_who_are_tested_on_are_refused(first, second):
    shutil.copy(first.query.paths[0], second.train.paths[0])
    with pytest.raises(
        DatasetError, match="b cannot be joined to a, because its training people are in the test"
    ):
        join_datasets({"a": first, "b": second})
    joined = join_datasets({"b": second, "a": first})  # then nobody trained on is tested on
    assert people_in_both(joined, first) == "1 image is in both"
    assert people_in_both(first, joined) == ""


@pytest.mark.parametrize(("seed", "shared"), [(0, True), (1, False)])
def test_rendered_people_of_one_seed_are_the_same_under_one_number(tmp_path, first, second, seed, shared):
    for dataset, own in ((first, 0), (second, seed)):
        (dataset.root / "synthetic.json").write_text(json.dumps({"spec": {"seed": own}}))
    found = people_in_both(first, second, ("train",))
    assert found == ("1 people of the renderer's seed 0 are in both" if shared else "")
    assert people_in_both(first, second) == "", "nobody of 2 and 7 is 500"


def test_the_two_forms_of_cuhk03_show_the_same_people(first, second):
    one, other = (replace(dataset, name=f"cuhk03-np-{form}") for dataset, form in
                  ((first, "labeled"), (second, "detected")))  # fmt: skip
    with pytest.raises(DatasetError, match="1 people of CUHK03 are in both"):
        join_datasets({"a": one, "b": other})
    assert people_in_both(first, other, ("train",)) == ""


def test_the_joined_set_is_no_folder(tmp_path):
    with pytest.raises(DatasetError, match="pass them to join_datasets"):
        load_dataset("joined", tmp_path)
