"""Market-1501's layout: three flat folders of files called <identity>_c<camera>….

It is used by Market-1501 (Zheng et al., ICCV 2015), DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al.,
ICCV 2017), CUHK03-NP (Li et al., CVPR 2014; Zhong et al., CVPR 2017), the synthetic people and any `folder`
like them. Identity -1 is junk and is dropped. Identity 0 is a distractor: it stays in the gallery and matches
nobody. Neither is trained on.
"""

import os
import re
from pathlib import Path

from reidlib.datasets.checks import some, warn
from reidlib.datasets.types import DatasetError, ImageRow

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MARKET_NAME = re.compile(r"(-1|[0-9]{1,18})_c([0-9]{1,9})(?![0-9])", re.IGNORECASE)


def has_market_layout(path: Path) -> bool:
    """True if any part of the layout is there; `read_market_layout` reports the missing parts."""
    return any((path / folder).is_dir() for folder in MARKET_FOLDERS.values())


def scan(folder: Path) -> tuple[dict[str, int], list[str], list[str]]:
    """What a folder holds: ({image: size in bytes}, sub-folders, other files), in no order.

    One stat call per image, because MSMT17 has 126 thousand. Links are followed. A broken link and what is no
    regular file (a pipe) have size 0.

    Raises:
        DatasetError: the folder cannot be read.
    """
    images, folders, others = {}, [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder, size = entry.is_dir(), entry.stat().st_size if entry.is_file() else 0
                except OSError:  # a circle of links, or a file that has just been removed
                    is_folder, size = False, 0
                if is_folder:
                    folders.append(entry.name)
                elif not entry.name.lower().endswith(SUFFIXES) or entry.name.startswith("."):
                    others.append(entry.name)  # also macOS's ._0001_c1….jpg, which are not images
                else:
                    images[entry.name] = size
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be read ({error.strerror}): give your account the right to."
        ) from error
    return images, folders, others


def read_market_layout(root: Path, notes: list[str]) -> dict[str, list[ImageRow]]:
    """The rows of each split, by name. Junk is dropped everywhere, distractors only from the training images.

    Raises:
        DatasetError: a folder is missing or empty, or holds files with unexpected names.
    """
    if missing := [f"{folder}/" for folder in MARKET_FOLDERS.values() if not (root / folder).is_dir()]:
        raise DatasetError(
            f"{root} lacks {some(missing)}: extract the data set again, or add it as data/README.md shows."
        )
    return {split: _read_folder(split, root / folder, notes) for split, folder in MARKET_FOLDERS.items()}


def _read_folder(split: str, folder: Path, notes: list[str]) -> list[ImageRow]:
    images, folders, others = scan(folder)
    pattern = "<identity>_c<camera>…, such as 0001_c1s1_000001_00.jpg"
    if not images:
        inside = f" but the folders {some(sorted(folders))}" if folders else ""
        raise DatasetError(f"{folder} holds no images{inside}: put images called {pattern} directly there.")
    matches = {name: MARKET_NAME.match(name) for name in sorted(images)}
    if odd := [name for name, match in matches.items() if match is None]:
        raise DatasetError(
            f"{folder}: {len(odd)} names are not {pattern}: {some(odd)}. Rename or remove these files."
        )
    rows = [
        (f"{folder.name}/{name}", int(match[1]), int(match[2]), images[name])
        for name, match in matches.items()
    ]
    junk, distractors = ([row[0] for row in rows if row[1] == reserved] for reserved in (-1, 0))
    if split == "query" and (bad := junk + distractors):
        raise DatasetError(
            f"{folder}: junk (-1) or a distractor (0000) is no query: {some(bad)}. Number people from 0001."
        )
    if junk:
        notes.append(f"{len(junk)} junk images (id -1) dropped from {folder.name}")
    if distractors and split == "gallery":
        notes.append(f"{len(distractors)} distractor images (id 0000) stay in the gallery")
    elif distractors:
        warn(
            notes,
            f"{folder}: {len(distractors)} images of identity 0000 (distractor) are not trained on; "
            "number from 0001",
        )
    if others:
        notes.append(
            f"{len(others)} files of {folder.name} are no images and were left out: {some(sorted(others))}"
        )
    if folders:
        notes.append(
            f"{len(folders)} folders in {folder.name} were left out, because images lie directly in it: "
            f"{some(sorted(folders))}"
        )
    kept = [row for row in rows if row[1] > 0 or (row[1] == 0 and split == "gallery")]
    if not kept:
        raise DatasetError(
            f"{folder} holds no images but junk (-1) or distractors (0000): add people numbered from 0001."
        )
    return kept
