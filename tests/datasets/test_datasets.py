"""Readers of the data sets, on small fake data sets in each official layout.

Each mistake gets a message that names the path and the fix.
"""

import contextlib
import csv
import dataclasses
import io
import os
import shutil
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidlib import datasets
from reidlib.datasets import (
    DATASETS,
    DatasetError,
    check_images,
    checks,
    load_dataset,
    official_counts,
    split_statistics,
)
from reidlib.datasets.known import KnownDataset
from reidlib.errors import ReidError
from reidlib.evaluation import retrieval_metrics
from reidlib.evaluation.scoring import per_query
from reidlib.images.decoding import load_images

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000776_01.jpg", "0007_c3s3_077419_03.jpg"],
    "query": ["0003_c1s6_015971_00.jpg", "0005_c3s1_000001_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0000_c4s1_000151_01.jpg",
        "0003_c4s6_015641_02.jpg",
        "0005_c1s1_000002_00.jpg",
    ],
}
MARKET_COUNTS = {"train_ids": 2, "train_images": 3, "query_images": 2, "gallery_images": 4, "cameras": 4}
MSMT17_LISTS = {
    "train": [
        "0000/0000_000_01_0303morning_0008_0.jpg 0",
        "0000/0000_001_05_0303noon_0009_1.jpg 0",
        "0001/0001_000_14_x_1_0.jpg 1",
    ],
    "val": ["0001/0001_001_02_0303morning_0010_0.jpg 1"],
    "query": ["0000/0000_000_03_0113morning_0001_0.jpg 0", "0001/0001_000_04_0113morning_0001_0.jpg 1"],
    "gallery": ["0000/0000_001_15_0113noon_0002_0.jpg 0", "0001/0001_001_06_0113noon_0002_1.jpg 1"],
}
MSMT17_COUNTS = {"train_ids": 2, "train_images": 4, "query_images": 2, "gallery_images": 2, "cameras": 8}


def picture(name: str = "x.jpg", size: tuple[int, int] = (4, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(
        buffer, Image.registered_extensions()[Path(name).suffix.lower()]
    )
    return buffer.getvalue()


PICTURE = picture()


def put(path: Path, content: bytes = PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def market(root: Path, files: dict[str, list[str]] = MARKET) -> Path:
    for folder, names in files.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            put(root / folder / name)
    return root


def msmt17(
    root: Path, version: str = "V1", lists: dict[str, list[str]] = MSMT17_LISTS, newline: str = "\n"
) -> Path:
    train, test = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}[version]
    for name, lines in lists.items():
        for line in lines:
            put(root / (train if name in ("train", "val") else test) / line.split()[0])
        put(root / f"list_{name}.txt", (newline.join(lines) + newline).encode())
    return root


@pytest.fixture
def counts(monkeypatch, tmp_path):
    """Replaces the official counts by those given, through a table in the same format."""

    def use(**expected: dict[str, int]) -> None:
        table = tmp_path / "protocols.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["dataset", *MARKET_COUNTS, "note"])
            for name, values in expected.items():
                writer.writerow([name.replace("_", "-"), *values.values(), "made up, for a test"])
        monkeypatch.setattr(checks, "PROTOCOLS", table)

    return use


def message(*arguments, **options) -> str:
    with pytest.raises(DatasetError) as error:
        load_dataset(*arguments, **options)
    assert isinstance(error.value, ReidError)
    assert "\n" not in str(error.value)
    return str(error.value)


def listing(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


# ---- what is read


def test_market_layout(tmp_path, counts):
    counts(market1501=MARKET_COUNTS)
    root = market(tmp_path / "Market")
    put(root / "bounding_box_train" / "Thumbs.db", b"not an image")
    put(root / "bounding_box_train" / "._0002_c1s1_000451_03.jpg", b"macOS")
    data = load_dataset("market1501", root)
    assert data.name == "market1501"
    assert data.root == root.resolve()
    assert not data.is_synthetic
    assert [path.name for path in data.train.paths] == MARKET["bounding_box_train"]
    assert data.train.ids.tolist() == [2, 2, 7]
    assert data.train.cameras.tolist() == [1, 2, 3]
    assert data.train_labels.tolist() == [0, 0, 1]
    assert data.num_train_identities == 2
    assert data.query.ids.tolist() == [3, 5]
    assert data.gallery.ids.tolist() == [0, 0, 3, 5], "junk is dropped, distractors stay"
    assert data.gallery.cameras.tolist() == [1, 4, 4, 1]
    assert len(data.gallery) == 4
    for split in (data.train, data.query, data.gallery):
        assert split.ids.dtype == split.cameras.dtype == np.int64
        assert all(path.is_file() for path in split.paths)
    assert data.notes == (
        "2 files of bounding_box_train are no images and were left out: ._0002_c1s1_000451_03.jpg, Thumbs.db",
        "1 junk images (id -1) dropped from bounding_box_test",
        "2 distractor images (id 0000) stay in the gallery",
    )


def test_statistics_leave_out_distractors_and_show_official_counts(tmp_path, counts):
    counts(market1501=MARKET_COUNTS)
    rows = split_statistics(load_dataset("market1501", market(tmp_path / "Market")))
    assert [row["split"] for row in rows] == ["train", "query", "gallery"]
    assert [row["identities"] for row in rows] == [2, 2, 2]
    assert [row["images"] for row in rows] == [3, 2, 4]
    assert [row["cameras"] for row in rows] == [3, 2, 2]
    assert [row["official identities"] for row in rows] == [2, None, None]
    assert [row["official images"] for row in rows] == [3, 2, 4]
    assert [row["official cameras"] for row in rows] == [4, 4, 4]
    rows = split_statistics(load_dataset("folder", tmp_path / "Market"))
    assert {row["official images"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        (
            "dukemtmc-reid",
            ["0001_c2_f0046182.jpg", "0005_c8_f0051341.jpg", "0002_c1_f0044158.jpg", "0002_c2_f0044158.jpg"],
        ),
        ("cuhk03-np-labeled", ["0001_c1_1.png", "0004_c2_7.png", "0003_c1_22.png", "0003_c2_10.png"]),
        ("cuhk03-np-detected", ["0001_c1_1.png", "0004_c2_7.png", "0003_c1_22.png", "0003_c2_10.png"]),
    ],
)
def test_other_data_sets_in_the_layout_of_market1501(tmp_path, counts, name, names):
    files = {"bounding_box_train": names[:2], "query": names[2:3], "bounding_box_test": names[3:]}
    inside = market(tmp_path / DATASETS[name].folders[0], files)
    cameras = len({file.split("_")[1] for file in names})
    counts(**{name.replace("-", "_"): dict(zip(MARKET_COUNTS, (2, 2, 1, 1, cameras), strict=True))})
    for root in (tmp_path, inside):  # the parent with the usual folder name is accepted too
        data = load_dataset(name, root)
        assert data.root == inside.resolve()
        assert data.train.cameras.tolist() == [int(file.split("_c")[1][0]) for file in sorted(names[:2])]
        assert data.query.ids.tolist() == data.gallery.ids.tolist()
        assert data.notes == ()


def test_folder_takes_any_suffix_and_case(tmp_path):
    files = {
        "bounding_box_train": [
            "1_c1.jpeg",
            "0002_C12s1_a.PNG",
            "3_c1-x.bmp",
            "12345678901_c2.webp",
            "5_c1.tif",
            "6_c1.JPG",
        ],
        "query": ["0100_c1s1_1.JPEG"],
        "bounding_box_test": ["0100_c2s1_1.TIFF", "-1_c1.jpg", "100_c1_2.ppm"],
    }
    for folder, names in files.items():
        for name in names:
            put(tmp_path / folder / name, picture(name))
    data = load_dataset("folder", tmp_path)
    assert sorted(data.train.ids.tolist()) == [1, 2, 3, 5, 6, 12345678901]
    assert data.train.cameras[data.train.ids == 2].tolist() == [12]
    assert data.train_labels.tolist() == [
        np.unique(data.train.ids).tolist().index(i) for i in data.train.ids.tolist()
    ]
    assert data.gallery.ids.tolist() == [100, 100]
    check_images(data, workers=2)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_msmt17(tmp_path, counts, version):
    counts(msmt17=MSMT17_COUNTS)
    root = msmt17(tmp_path / f"MSMT17_{version}", version, newline="\r\n" if version == "V2" else "\n")
    # a byte order mark and a blank line
    put(root / "list_train.txt", b"\xef\xbb\xbf" + (root / "list_train.txt").read_bytes() + b"\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset("msmt17", tmp_path)
        with_val = load_dataset("msmt17", root, include_val=True)
    train = {"V1": "train", "V2": "mask_train_v2"}[version]
    assert [path.relative_to(data.root).as_posix() for path in data.train.paths] == [
        f"{train}/{line.split()[0]}" for line in MSMT17_LISTS["train"]
    ]
    assert data.train.ids.tolist() == [0, 0, 1], "identity 0 is a person here, no distractor"
    assert data.train.cameras.tolist() == [1, 5, 14]
    assert data.num_train_identities == 2
    assert data.query.ids.tolist() == data.gallery.ids.tolist() == [2, 3], (
        "test people are other people than 0 and 1"
    )
    assert data.query.cameras.tolist() == [3, 4]
    assert data.gallery.cameras.tolist() == [15, 6]
    assert any(note.startswith(f"MSMT17 {version}") and "2 was added" in note for note in data.notes)
    assert any("1 of list_val.txt are not used" in note for note in data.notes)
    assert with_val.train.ids.tolist() == [0, 0, 1, 1]
    assert with_val.train.cameras.tolist() == [1, 5, 14, 2]
    assert with_val.query.ids.tolist() == [2, 3]
    assert with_val.fingerprints["training"] != data.fingerprints["training"]
    assert with_val.fingerprints["test"] == data.fingerprints["test"], "the same queries and gallery"
    assert split_statistics(data)[0]["identities"] == 2
    assert split_statistics(data)[0]["official images"] is None, "the official number is that of both lists"
    assert split_statistics(with_val)[0]["official images"] == 4


def test_msmt17_is_sorted_and_an_image_in_two_lists_counts_once(tmp_path, counts):
    counts(msmt17=MSMT17_COUNTS)
    lists = {name: lines[::-1] for name, lines in MSMT17_LISTS.items()}
    expected = load_dataset("msmt17", msmt17(tmp_path / "sorted"), include_val=True)
    lists["val"] = [*lists["val"], lists["train"][0]]
    data = load_dataset("msmt17", msmt17(tmp_path / "reversed", lists=lists), include_val=True)
    assert data.fingerprints == expected.fingerprints
    assert [path.name for path in data.gallery.paths] == [path.name for path in expected.gallery.paths]


def test_include_val_is_for_msmt17_only(tmp_path):
    text = message("folder", market(tmp_path), include_val=True)
    assert "list_val.txt" in text
    assert "leave include_val out" in text


def test_without_a_data_root_data_in_the_repository_is_used(tmp_path, counts, monkeypatch):
    monkeypatch.setattr(datasets, "DATA", tmp_path / "data")
    counts(market1501=MARKET_COUNTS)
    text = message("market1501")
    assert str(tmp_path / "data" / "Market-1501-v15.09.15") in text
    assert "--data-root" in text
    root = market(tmp_path / "data" / "Market-1501-v15.09.15")
    assert load_dataset("market1501").root == root
    assert "no data root was named" in message("folder")


def test_relative_root_and_home(tmp_path, monkeypatch):
    market(tmp_path / "people")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_dataset("folder", "people").root == (tmp_path / "people").resolve()
    assert (
        load_dataset("folder", "~/people").fingerprints
        == load_dataset("folder", tmp_path / "people").fingerprints
    )


# ---- synthetic (the renderer has tests of its own)


@dataclasses.dataclass(frozen=True)
class FakeSpec:
    seed: int = 0
    cameras: int = 4


@pytest.fixture
def renderer(monkeypatch):
    calls = []

    def ensure_synthetic(root, spec, **running):
        calls.append((root, spec, running))
        return market(root)

    module = types.SimpleNamespace(SyntheticSpec=FakeSpec, ensure_synthetic=ensure_synthetic)
    monkeypatch.setitem(sys.modules, "reidlib.synthetic", module)
    return calls


def test_synthetic_is_rendered_and_read(tmp_path, renderer, monkeypatch):
    data = load_dataset("synthetic", tmp_path / "made", synthetic_options={"seed": 3, "workers": 1})
    assert renderer == [((tmp_path / "made").resolve(), FakeSpec(seed=3), {"workers": 1})]
    assert data.is_synthetic
    assert data.train.ids.tolist() == [2, 2, 7]
    monkeypatch.setattr(datasets, "DATA", tmp_path / "data")
    assert load_dataset("synthetic").root == tmp_path / "data" / "synthetic"


def test_synthetic_refuses_what_it_cannot_use(tmp_path, renderer):
    text = message("synthetic", tmp_path / "made", synthetic_options={"sede": 3})
    assert "sede" in text
    assert "use seed, cameras, workers." in text
    text = message("synthetic", put(tmp_path / "file"))
    assert str(tmp_path / "file") in text
    assert "is a file" in text
    assert renderer == []


# ---- official counts


def test_table_of_official_counts():
    assert official_counts("market1501") == dict(
        zip(MARKET_COUNTS, (751, 12936, 3368, 15913, 6), strict=True)
    )
    assert official_counts("msmt17") == dict(zip(MARKET_COUNTS, (1041, 32621, 11659, 82161, 15), strict=True))
    assert official_counts("folder") is None
    with checks.PROTOCOLS.open(encoding="utf-8") as file:
        rows = {row["dataset"]: row["note"] for row in csv.DictReader(file)}
    assert set(rows) == set(checks.USUAL_CAUSES)
    assert set(rows) | {"folder", "synthetic", "joined"} == set(DATASETS)
    assert "32621" in rows["msmt17"]
    assert "only warn" in rows["msmt17"]
    assert "train-id count was not seen" in rows["dukemtmc-reid"]
    assert {("msmt17", "train_images"), ("dukemtmc-reid", "train_ids")} == checks.WEAKLY_SOURCED


@pytest.mark.parametrize("count", list(MARKET_COUNTS))
def test_wrong_counts_stop_unless_allowed(tmp_path, counts, count):
    counts(market1501=MARKET_COUNTS | {count: 99})
    root = market(tmp_path / "Market")
    text = message("market1501", root)
    assert str(root.resolve()) in text
    assert f"({count.replace('_', ' ')}: expected 99, found {MARKET_COUNTS[count]})" in text
    assert "partly extracted archive" in text
    assert "allow_wrong_counts=True" in text
    assert "'folder'" in text
    with pytest.warns(UserWarning, match="expected 99") as caught:
        data = load_dataset("market1501", root, allow_wrong_counts=True)
    assert str(caught[0].message) in data.notes
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert load_dataset("folder", root).train.ids.tolist() == data.train.ids.tolist()


def test_wrong_counts_name_the_cause_that_is_usual_for_each_set(tmp_path):
    files = {"bounding_box_train": ["1_c1.jpg"], "query": ["2_c1.jpg"], "bounding_box_test": ["2_c2.jpg"]}
    root = market(tmp_path / "set", files)
    assert "DukeMTMC-VideoReID" in message("dukemtmc-reid", root)
    assert "detected images instead of labeled" in message("cuhk03-np-labeled", root)
    assert "old CUHK03 protocol" in message("cuhk03-np-detected", root)
    text = message("msmt17", msmt17(tmp_path / "MSMT17_V1"))
    assert "V1 and V2 mixed" in text
    assert "train images" not in text, "weakly sourced: no error"


def test_a_set_that_was_added_has_counts_without_a_usual_cause(tmp_path, counts, monkeypatch):
    counts(corridor=MARKET_COUNTS | {"train_images": 99})
    monkeypatch.setitem(DATASETS, "corridor", KnownDataset("Corridor", ()))
    text = message("corridor", market(tmp_path / "Corridor"))
    assert "(train images: expected 99, found 3)" in text
    assert "Usual causes: a partly extracted archive. Put it right" in text


def test_a_reader_that_finds_no_queries_is_told_by_name(tmp_path, monkeypatch):
    def read(root, notes):
        return {"train": [("1.png", 1, 1, 10)], "query": [], "gallery": [("2.png", 2, 2, 10)]}

    monkeypatch.setitem(DATASETS, "corridor", KnownDataset("Corridor", (), read, Path.is_dir, "cam1/, cam2/"))
    expected = f"{tmp_path} holds no images for query. A root of corridor holds cam1/, cam2/."
    assert message("corridor", tmp_path) == expected


def test_weakly_sourced_counts_only_warn(tmp_path, counts):
    duke = market(tmp_path / "duke")
    counts(msmt17=MSMT17_COUNTS | {"train_images": 32621}, dukemtmc_reid=MARKET_COUNTS | {"train_ids": 702})
    with pytest.warns(UserWarning, match="weakly sourced .train ids: expected 702, found 2"):
        data = load_dataset("dukemtmc-reid", duke)
    assert "weakly sourced" in data.notes[-1]
    msmt17(tmp_path / "MSMT17_V1")
    for include_val in (False, True):
        with pytest.warns(UserWarning, match="weakly sourced .train images: expected 32621, found 4"):
            load_dataset("msmt17", tmp_path, include_val=include_val)


# ---- finding the data: each mistake names the path and the fix, and writes nothing


def test_unknown_name(tmp_path):
    text = message("Market-1501", tmp_path)
    assert "'Market-1501'" in text
    assert all(name in text for name in DATASETS)


@pytest.mark.parametrize("name", ["market1501", "msmt17", "folder"])
def test_missing_file_and_empty_roots(tmp_path, name):
    (tmp_path / "empty").mkdir()
    put(tmp_path / "archive.zip", b"zip")
    put(tmp_path / "other" / "0001.jpg")
    before = listing(tmp_path)
    for folder, expected in (
        ("missing", "does not exist"),
        ("archive.zip", "is a file, not a folder (an archive must be extracted first)"),
        ("empty", "is empty"),
        ("other", f"is not in the layout of {name}"),
    ):
        text = message(name, tmp_path / folder)
        assert f"{tmp_path.resolve() / folder} {expected}" in text
        assert ("list_train.txt" if name == "msmt17" else "bounding_box_train/") in text
        assert "--data-root" in text
        assert "data/README.md" in text
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["market1501", "msmt17", "folder"])
def test_a_root_too_high_or_too_low_is_refused_with_the_right_folder(tmp_path, name):
    root = tmp_path / "downloads" / "people"
    inside = msmt17(root) / "test" if name == "msmt17" else market(root) / "query"
    assert f"did you mean {root.resolve()}?" in message(name, inside)
    text = message(name, tmp_path / "downloads")
    assert "one level too high" in text
    assert f"did you mean {root.resolve()}?" in text


def test_two_versions_of_msmt17_side_by_side_are_refused(tmp_path):
    for version in ("V1", "V2"):
        msmt17(tmp_path / f"MSMT17_{version}", version)
    text = message("msmt17", tmp_path)
    assert str(tmp_path / "MSMT17_V1") in text
    assert str(tmp_path / "MSMT17_V2") in text
    assert "name the one that is meant" in text
    root = msmt17(msmt17(tmp_path / "mixed"), "V2")
    text = message("msmt17", root)
    assert f"{root} holds both of train/, test/ (V1) and mask_train_v2/" in text
    assert "keep exactly one" in text


@pytest.mark.parametrize("folder", list(MARKET))
def test_missing_sub_folder(tmp_path, folder):
    root = market(tmp_path / "people")
    shutil.rmtree(root / folder)
    text = message("folder", root)
    assert f"{root} lacks {folder}/" in text
    assert "extract the data set again" in text


@pytest.mark.parametrize("part", ["list_val.txt", "list_query.txt", "test"])
def test_missing_part_of_msmt17(tmp_path, part):
    root = msmt17(tmp_path / "MSMT17")
    path = root / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    text = message("msmt17", root)
    assert f"{root} lacks {part}" in text
    assert "extract it again" in text


def test_no_images(tmp_path):
    root = market(tmp_path / "people", MARKET | {"query": []})
    text = message("folder", root)
    assert f"{root / 'query'} holds no images:" in text
    assert "0001_c1s1_000001_00.jpg" in text
    put(root / "query" / "0003" / "0003_c1.jpg")
    assert f"{root / 'query'} holds no images but the folders 0003: put" in message("folder", root)
    junk = market(tmp_path / "junk", MARKET | {"bounding_box_test": ["-1_c1.jpg"]})
    assert f"{junk / 'bounding_box_test'} holds no images but junk" in message("folder", junk)


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    root = market(tmp_path / "people")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{root / 'bounding_box_train'} cannot be read (Permission denied)" in message("folder", root)


# ---- names, lists and files


def test_names_that_do_not_match(tmp_path):
    odd = [
        "IMG_1.jpg",
        "0001c1.jpg",
        "x_c1.jpg",
        "-2_c1.jpg",
        "0001_cam1.jpg",
        "00_c.jpg",
        "0001_c1234567890.jpg",
    ]
    root = market(tmp_path / "people", MARKET | {"bounding_box_train": [*MARKET["bounding_box_train"], *odd]})
    text = message("folder", root)
    assert f"{root / 'bounding_box_train'}: 7 names are not <identity>_c<camera>" in text
    assert "-2_c1.jpg, 0001_c1234567890.jpg, 0001_cam1.jpg, 0001c1.jpg and 3 more" in text
    assert "Rename or remove" in text


@pytest.mark.parametrize("name", ["0000_c1s1_000001_00.jpg", "-1_c1s1_000001_00.jpg"])
def test_junk_and_distractors_as_queries_are_refused(tmp_path, name):
    root = market(tmp_path / "people", MARKET | {"query": [name]})
    text = message("folder", root)
    assert f"{root / 'query'}: junk (-1) or a distractor (0000) is no query: query/{name}" in text
    assert "from 0001" in text


def test_training_images_without_an_identity_are_not_trained_on(tmp_path):
    files = [*MARKET["bounding_box_train"], "0000_c1_1.jpg", "0000_c2_1.jpg", "-1_c2_1.jpg"]
    root = market(tmp_path / "people", MARKET | {"bounding_box_train": files})
    with pytest.warns(
        UserWarning, match="2 images of identity 0000 .distractor. are not trained on; number from 0001"
    ):
        data = load_dataset("folder", root)
    assert data.train.ids.tolist() == [2, 2, 7]
    assert data.notes[0] == "1 junk images (id -1) dropped from bounding_box_train"


def test_empty_files_and_broken_links_are_found_without_decoding(tmp_path):
    root = market(tmp_path / "people")
    put(root / "query" / "0003_c1s6_015971_00.jpg", b"")
    text = message("folder", root)
    assert text == (
        f"{root}: 1 images are empty, broken links or no regular files (query/0003_c1s6_015971_00.jpg): "
        "extract them again."
    )
    if os.name == "posix":
        (root / "query" / "0003_c2.jpg").symlink_to(tmp_path / "nowhere.jpg")
        assert "2 images are empty, broken links or no regular files" in message("folder", root)
    root = msmt17(tmp_path / "MSMT17")
    put(root / "test" / MSMT17_LISTS["gallery"][0].split()[0], b"")
    assert "test/0000/0000_001_15_0113noon_0002_0.jpg" in message("msmt17", root)


@pytest.mark.parametrize(
    "line", ["0000/0000_000_01_x.jpg", "0000/0000_000_01_x.jpg one", "0000/face.jpg 0", "0000_c1_1.jpg 0"]
)
def test_line_of_a_list_that_does_not_match(tmp_path, line):
    root = msmt17(tmp_path / "MSMT17")
    (root / "list_query.txt").write_text(f"{MSMT17_LISTS['query'][0]}\n{line}\n", encoding="utf-8")
    text = message("msmt17", root)
    assert f"{root / 'list_query.txt'}, line 2: expected <folder>/<identity>_<number>_<camera>" in text
    assert repr(line) in text
    assert "Restore the official list" in text


def test_list_that_is_no_text(tmp_path):
    root = msmt17(tmp_path / "MSMT17")
    put(root / "list_val.txt", PICTURE)
    assert f"{root / 'list_val.txt'}, line 1: expected <folder>" in message("msmt17", root)


@pytest.mark.skipif(sys.platform != "linux", reason="only there file names may be no text")
def test_names_of_odd_bytes_can_be_read_decoded_scored_and_said(tmp_path):
    """GBK, line breaks, control characters: names are bytes, and what is shown is printable text."""
    odd = ["\u884c\u4eba".encode("gbk"), b"a\nb", b"\x1b[2J", b"<b>|`", b" ", b"x" * 230, "\u202e".encode()]
    root = market(tmp_path / "people")
    for number, name in enumerate(odd):
        for folder, camera in (("query", 1), ("bounding_box_test", 2)):
            put(
                Path(
                    os.fsdecode(
                        os.fsencode(root / folder) + b"/0003_c%d_%d" % (camera, number) + name + b".jpg"
                    )
                )
            )
        put(Path(os.fsdecode(os.fsencode(root / "query") + b"/" + name + b".txt")), b"no image")
    data = load_dataset("folder", root)
    assert len(data.query) == 2 + len(odd)
    assert len(set(data.fingerprints.values())) == 2
    assert load_images(data.query.paths, 8, 4, cache=tmp_path / "cache").shape == (len(data.query), 8, 4, 3)
    check_images(data)
    ranked = retrieval_metrics(
        np.eye(len(data.query), 3),
        np.eye(len(data.gallery), 3),
        *(data.query.ids, data.gallery.ids, data.query.cameras, data.gallery.cameras),
    )
    shown_names = per_query(ranked, data)["query"]
    assert shown_names.is_unique
    said = [*data.notes, *shown_names]
    for path in data.query.paths:
        content = path.read_bytes()
        path.write_bytes(b"no image")
        for fails in (
            lambda: check_images(data),
            lambda: load_images(data.query.paths, 8, 4, cache=tmp_path),
        ):
            with pytest.raises(ReidError) as error:
                fails()
            said.append(str(error.value))
        path.write_bytes(content)
    put(root / "query" / os.fsdecode(b"\xd0\xd0.jpg"))
    said.append(message("folder", root))
    assert any(r"\xd0\xd0" in text for text in said)
    for text in said:
        assert text.isprintable() and text.encode(), repr(text)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.filterwarnings("ignore:.*not the count of msmt17")
def test_lists_of_msmt17_take_any_blanks_and_names_of_any_bytes(tmp_path, counts, version):
    counts(msmt17=MSMT17_COUNTS)
    expected = load_dataset("msmt17", msmt17(tmp_path / "plain", version))
    root = msmt17(tmp_path / "blanks", version)
    for name, lines in MSMT17_LISTS.items():
        apart = [
            "  ".join(lines[0].split()),
            *("\t ".join(f" {line} \t".split()) + " \t" for line in lines[1:]),
        ]
        (root / f"list_{name}.txt").write_text("\r\n \r\n".join(apart))
    assert load_dataset("msmt17", root).fingerprints == expected.fingerprints
    if sys.platform == "linux":
        train = {"V1": "train", "V2": "mask_train_v2"}[version]
        name = b"0001/0001_002_02_\xd0\xd0 \xc8\xcb.jpg"  # GBK, and a blank of its own
        put(Path(os.fsdecode(os.fsencode(root / train) + b"/" + name)))
        with (root / "list_train.txt").open("ab") as file:
            file.write(b"\n" + name + b" 1\n")
        data = load_dataset("msmt17", root, allow_wrong_counts=True)
        assert os.fsencode(data.train.paths[-1]).endswith(name)


@pytest.mark.parametrize("kind", ["pipe", "circle of links", "folder", "unreadable link"])
def test_what_is_named_like_an_image_but_is_none(tmp_path, kind):
    """Found before anything is decoded, and nothing waits for a pipe."""
    root = market(tmp_path / "people")
    odd = root / "query" / "0003_c5.jpg"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "circle of links":
        odd.symlink_to(odd.name)
    elif kind == "unreadable link":
        odd.symlink_to(put(tmp_path / "file") / "below a file.jpg")
    else:
        odd.mkdir()
        assert any(
            "1 folders in query were left out" in note and odd.name in note
            for note in load_dataset("folder", root).notes
        )
        return
    assert "1 images are empty, broken links or no regular files (query/0003_c5.jpg)" in message(
        "folder", root
    )


@pytest.mark.parametrize("when", ["fingerprints", "decoding", "checking"])
def test_an_image_that_goes_away_after_the_listing_is_named(tmp_path, when):
    data = load_dataset("folder", market(tmp_path / "people"))
    data.query.paths[0].unlink()
    with pytest.raises(ReidError, match=f"{data.query.paths[0].name}.*No such file"):
        if when == "fingerprints":
            data.fingerprints  # noqa: B018
        elif when == "decoding":
            load_images(data.query.paths, 8, 4, cache=tmp_path / "cache")
        else:
            check_images(data)


@pytest.mark.parametrize("name", ["folder", "msmt17", "synthetic"])
def test_a_data_root_that_cannot_be_a_path_is_one_sentence(tmp_path, name):
    (tmp_path / "circle").symlink_to("circle")
    for root in ("x" * 5000, "x" * 300, "a\0b", "~nobody-of-that-name/x", tmp_path / "circle", "a\nb\udcff"):
        if name == "synthetic" and root == "a\nb\udcff":
            continue  # a folder of that name would be made
        assert len(message(name, root)) < 1000


@pytest.mark.parametrize("part", ["list_val.txt", "train", "test/0000"])
def test_a_part_of_a_data_set_that_cannot_be_read_is_named(tmp_path, monkeypatch, part):
    root = msmt17(tmp_path / "MSMT17")

    def refusing(real):
        def refuse(path, *arguments, **options):
            if Path(path) == root / part:
                raise OSError(5, "Input/output error", str(path))
            return real(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(Path, "read_text", refusing(Path.read_text))
    assert f"{root / part} cannot be read" in message("msmt17", root)


def test_list_that_names_nothing_or_what_is_missing(tmp_path):
    root = msmt17(tmp_path / "MSMT17")
    (root / "train" / MSMT17_LISTS["train"][2].split()[0]).unlink()
    text = message("msmt17", root)
    assert (
        f"1 images of {root / 'list_train.txt'} are not in {root}: train/0001/0001_000_14_x_1_0.jpg" in text
    )
    assert "other version (V1, V2)" in text
    (root / "list_train.txt").write_text("\n\n")
    assert f"{root / 'list_train.txt'} names no images" in message("msmt17", root)


def test_check_images_lists_what_does_not_decode(tmp_path):
    root = market(tmp_path / "people")
    good = picture(size=(64, 128))
    for folder, names in MARKET.items():
        for name in names:
            put(root / folder / name, good)
    data = load_dataset("folder", root)
    check_images(data)
    truncated = put(data.train.paths[1], good[: len(good) // 2])
    text_file = put(data.query.paths[0], b"<html>404 not found</html>")
    empty = put(data.gallery.paths[0], b"")
    png = picture("x.png", (64, 128))
    broken_png = put(data.gallery.paths[2], png[:60] + bytes(8) + png[68:])
    data.gallery.paths[3].unlink()
    with pytest.raises(DatasetError) as error:
        check_images(data, workers=2)
    text = str(error.value)
    assert text.startswith(f"5 of 9 images of {root} cannot be read: ")
    for path in (truncated, text_file, empty, broken_png):
        assert str(path) in text
    assert "and 1 more" in text
    assert "Extract or download" in text
    put(data.gallery.paths[3])
    for path in (truncated, text_file, empty, broken_png):
        put(path)
    check_images(data)


# ---- what retrieval needs


def test_training_and_test_people_must_differ(tmp_path):
    root = market(
        tmp_path / "people", MARKET | {"bounding_box_train": ["0003_c1.jpg", "0005_c2.jpg", "0009_c2.jpg"]}
    )
    text = message("folder", root)
    assert f"{root}: 2 identities are in both training and test (3, 5)" in text
    assert "renumber" in text
    only_gallery = MARKET["bounding_box_test"] + ["0007_c1.jpg"]
    assert "(7)" in message("folder", market(tmp_path / "more", MARKET | {"bounding_box_test": only_gallery}))


def test_one_camera(tmp_path):
    files = {"bounding_box_train": ["1_c3.jpg"], "query": ["2_c3.jpg"], "bounding_box_test": ["2_c3_2.jpg"]}
    text = message("folder", market(tmp_path / "people", files))
    assert f"{tmp_path / 'people'}: all images are from camera 3" in text
    assert "_c1, _c2" in text


def test_queries_without_a_match_from_another_camera(tmp_path):
    train = {"bounding_box_train": ["1_c1.jpg", "1_c2.jpg"]}
    some = train | {
        "query": ["2_c1.jpg", "3_c1.jpg", "4_c1.jpg"],
        "bounding_box_test": ["2_c2.jpg", "3_c1_2.jpg", "0000_c2.jpg"],
    }
    with pytest.warns(
        UserWarning,
        match="2 of 3 queries have no match from another camera in the gallery .identity 3, 4.: they are",
    ):
        data = load_dataset("folder", market(tmp_path / "some", some))
    assert len(data.query) == 3, "they stay, retrieval_metrics gives NaN for them"
    assert any("2 of 3 queries" in note for note in data.notes)

    same = train | {"query": ["2_c1.jpg", "3_c2.jpg"], "bounding_box_test": ["2_c1_2.jpg", "3_c2_2.jpg"]}
    text = message("folder", market(tmp_path / "same", same))
    assert f"{tmp_path / 'same'}: 2 of 2 queries" in text
    assert "the cameras of query and gallery coincide" in text
    assert "_c1, _c2" in text

    none = train | {"query": ["2_c1.jpg"], "bounding_box_test": ["5_c2.jpg", "0000_c2.jpg"]}
    text = message("folder", market(tmp_path / "none", none))
    assert "none of them is there at all" in text
    assert "must show the same people" in text


# ---- fingerprints


def test_fingerprints_depend_on_the_images_not_on_the_folder(tmp_path):
    root = market(tmp_path / "people")
    first = load_dataset("folder", root).fingerprints
    assert list(first) == ["training", "test"]
    assert first["training"] != first["test"]
    for fingerprint in first.values():
        assert len(fingerprint) == 16
        assert int(fingerprint, 16) >= 0
    os.utime(root / "query" / MARKET["query"][0], (1, 1))
    moved = Path(shutil.move(root, tmp_path / "elsewhere"))
    assert load_dataset("folder", moved).fingerprints == first

    changed = [first]
    path = moved / "query" / MARKET["query"][0]
    put(path, PICTURE + b"\0")
    changed.append(load_dataset("folder", moved).fingerprints)
    path.rename(path.with_name("0003_c2s6_015971_00.jpg"))
    changed.append(load_dataset("folder", moved).fingerprints)
    put(moved / "bounding_box_test" / "0003_c4s6_000000_00.jpg")
    changed.append(load_dataset("folder", moved).fingerprints)
    assert len({fingerprints["test"] for fingerprints in changed}) == 4
    assert len({fingerprints["training"] for fingerprints in changed}) == 1, "no training image has changed"


def test_a_fingerprint_covers_the_images_through_links_and_nothing_else(tmp_path):
    """A study may keep its results inside the data root, and macOS may leave its files anywhere."""
    kept = market(tmp_path / "kept")
    root = tmp_path / "people"
    root.mkdir()
    for folder in MARKET:
        (root / folder).symlink_to(kept / folder)
    first = load_dataset("folder", root).fingerprints
    assert first == load_dataset("folder", kept).fingerprints, "links are followed"
    for name in (
        ".DS_Store",
        "results/demo-folder/runs/x/metrics.json",
        "query/.DS_Store",
        "query/Thumbs.db",
    ):
        put(root / name, b"no image")
    put(root / "bounding_box_test" / "-1_c9s1_000001_00.jpg", PICTURE + b"junk is not read")
    assert load_dataset("folder", root).fingerprints == first

    path = kept / "query" / MARKET["query"][0]
    state = path.stat()
    another = PICTURE[:-1] + b"\0"  # another picture of the same size and time
    path.write_bytes(another)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    second = load_dataset("folder", root).fingerprints
    assert second["test"] != first["test"] and second["training"] == first["training"]


def test_fingerprints_survive_a_cache(tmp_path):
    data = load_dataset("folder", market(tmp_path / "people"))
    for _ in range(2):
        kept = dataclasses.replace(data, cache=tmp_path / "cache")
        assert kept.fingerprints == data.fingerprints


@pytest.mark.parametrize("change", ["content", "name", "another image"])
def test_training_images_change_only_the_fingerprint_of_training(tmp_path, change):
    root = market(tmp_path / "people")
    first = load_dataset("folder", root).fingerprints
    path = root / "bounding_box_train" / MARKET["bounding_box_train"][0]
    if change == "content":
        put(path, PICTURE + b"\0")
    elif change == "name":
        path.rename(path.with_name("0002_c4s1_000451_03.jpg"))
    else:
        put(path.with_name("0009_c1s1_000001_00.jpg"))
    second = load_dataset("folder", root).fingerprints
    assert second["training"] != first["training"]
    assert second["test"] == first["test"]


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    root = market(tmp_path / "people")
    for folder in MARKET:
        put(root / folder / "Thumbs.db", b"not an image")
        put(root / folder / "readme.txt", b"not an image")
    expected = load_dataset("folder", root)
    real = os.scandir
    for backwards in (False, True):

        @contextlib.contextmanager
        def in_that_order(folder, backwards=backwards):
            with real(folder) as entries:
                yield sorted(entries, key=lambda entry: entry.name, reverse=backwards)

        monkeypatch.setattr(os, "scandir", in_that_order)
        again = load_dataset("folder", root)
        assert again.gallery.paths == expected.gallery.paths
        assert again.notes == expected.notes
        assert again.fingerprints == expected.fingerprints
