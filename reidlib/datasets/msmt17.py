"""MSMT17's layout: one folder per person, and list files that name the images of each split.

MSMT17: Wei et al., CVPR 2018.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from reidlib.datasets.checks import some
from reidlib.datasets.market1501 import scan
from reidlib.datasets.types import DatasetError, ImageRow

MSMT17_LISTS = {
    "train": "list_train.txt",
    "val": "list_val.txt",
    "query": "list_query.txt",
    "gallery": "list_gallery.txt",
}
MSMT17_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
MSMT17_LINE = re.compile(r"((?:[^/]+/)*[0-9]+_[0-9]+_([0-9]{1,9})_[^/]*\S)\s+([0-9]{1,18})")


def has_msmt17_layout(path: Path) -> bool:
    """True if any part of the layout is there; `read_msmt17` reports the missing parts."""
    lists = any((path / file).is_file() for file in MSMT17_LISTS.values())
    return lists or any(all((path / folder).is_dir() for folder in pair) for pair in MSMT17_FOLDERS.values())


def read_msmt17(root: Path, notes: list[str]) -> dict[str, list[ImageRow]]:
    """The rows of train, val, query and gallery.

    The lists number the test people from 0 again. Here their numbers continue after those of the training
    people.

    Raises:
        DatasetError: a folder, list or image is missing, or both versions (V1, V2) are there.
    """
    versions = [
        version
        for version, pair in MSMT17_FOLDERS.items()
        if any((root / folder).is_dir() for folder in pair)
    ]
    if len(versions) != 1:
        trees = (
            f"{'both' if versions else 'neither'} of train/, test/ (V1) and mask_train_v2/, "
            "mask_test_v2/ (V2)"
        )
        raise DatasetError(
            f"{root} holds {trees}: keep exactly one of these pairs there, with its own list files."
        )
    train, test = MSMT17_FOLDERS[versions[0]]
    if missing := [part for part in [*MSMT17_LISTS.values(), train, test] if not (root / part).exists()]:
        raise DatasetError(
            f"{root} lacks {some(missing)} (MSMT17 {versions[0]}): extract it again, "
            f"the lists beside {train}/."
        )
    sizes: dict[str, int] = {}
    for folder in (train, test):
        for person in scan(root / folder)[1]:
            sizes |= {
                f"{folder}/{person}/{name}": size for name, size in scan(root / folder / person)[0].items()
            }
    folders = {"train": train, "val": train, "query": test, "gallery": test}
    rows = {split: _read_list(root / file, folders[split], sizes) for split, file in MSMT17_LISTS.items()}
    offset = 1 + max(row[1] for row in rows["train"] + rows["val"])
    for split in ("query", "gallery"):
        rows[split] = [
            (name, identity + offset, camera, size) for name, identity, camera, size in rows[split]
        ]
    notes.append(
        f"MSMT17 {versions[0]}: its lists number the test identities from 0 again; {offset} was added to them"
    )
    return rows


def _read_list(file: Path, folder: str, sizes: Mapping[str, int]) -> list[ImageRow]:
    """The rows of one list. The third number of a file name is the camera.

    Example of a line: "0000/0000_000_01_0303morning_0008_0.jpg 0". Any blanks and tabs may lie between
    name and identity, and around them.
    """
    rows = []
    # Names need not be UTF-8: their bytes are kept as the file system's names keep them.
    for number, line in enumerate(file.read_text("utf-8-sig", "surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        match = MSMT17_LINE.fullmatch(line.strip())
        if match is None:
            expected = "<folder>/<identity>_<number>_<camera>_….jpg <identity>"
            raise DatasetError(
                f"{file}, line {number}: expected {expected}, found {line[:60]!r}. Restore the official list."
            )
        name = f"{folder}/{match[1]}"
        rows.append((name, int(match[3]), int(match[2]), sizes.get(name, -1)))
    if missing := [row[0] for row in rows if row[3] < 0]:
        cause = (
            "The archive is partly extracted or the list is of the other version (V1, V2): extract it again."
        )
        raise DatasetError(
            f"{len(missing)} images of {file} are not in {file.parent}: {some(missing)}. {cause}"
        )
    if not rows:
        raise DatasetError(f"{file} names no images: restore the official list.")
    return rows
