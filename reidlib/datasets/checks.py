"""Checks of a data set: official counts, what retrieval needs, and images that can be decoded.

Official counts: data/paper/dataset_protocols.csv.
"""

import csv
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from reidlib.datasets.types import DatasetError, ReidDataset
from reidlib.errors import shown
from reidlib.files import REPOSITORY
from reidlib.images.contents import UnreadableImageError
from reidlib.images.decoding import open_rgb
from reidlib.progress import track_progress

PROTOCOLS = REPOSITORY / "data" / "paper" / "dataset_protocols.csv"
# Counts that the table's notes call weakly sourced: a difference is a warning, not an error.
WEAKLY_SOURCED = frozenset({("msmt17", "train_images"), ("dukemtmc-reid", "train_ids")})

_CUHK03 = (
    "{} images instead of {} ones, "
    "or the old CUHK03 protocol (1367/100 people) instead of the new one (767/700)"
)
USUAL_CAUSES = {  # of wrong counts, besides a partly extracted archive
    "market1501": "images that were added or deleted, or another data set in the same layout",
    "dukemtmc-reid": "the re-identification split mixed with the tracking or video set (DukeMTMC-VideoReID)",
    "cuhk03-np-labeled": _CUHK03.format("detected", "labeled"),
    "cuhk03-np-detected": _CUHK03.format("labeled", "detected"),
    "msmt17": "lists and images of different versions (V1 and V2 mixed), or edited lists",
}


def official_counts(name: str) -> dict[str, int] | None:
    """The official counts of a data set by name; None if it has none.

    Keys: train_ids, train_images, query_images, gallery_images, cameras.
    """
    with PROTOCOLS.open(encoding="utf-8", newline="") as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    return (
        {key: int(value) for key, value in rows[name].items() if key not in ("dataset", "note")}
        if name in rows
        else None
    )


def split_statistics(dataset: ReidDataset) -> list[dict]:
    """One row per split: split, identities (without distractors), images, cameras, and the official counts.

    The latter are "official identities", "official images" and "official cameras" (of the whole set); None if
    unknown. MSMT17's 32621 official training images include val.
    """
    official = official_counts(dataset.name) or {}
    if dataset.name == "msmt17" and not dataset.includes_val:
        del official["train_images"]
    rows = []
    for name, split in dataset.splits.items():
        people = split.ids if name == "train" else split.ids[split.ids > 0]
        row = {
            "identities": len(np.unique(people)),
            "images": len(split),
            "cameras": len(np.unique(split.cameras)),
        }
        expected = {"identities": f"{name}_ids", "images": f"{name}_images", "cameras": "cameras"}
        rows.append(
            {"split": name}
            | row
            | {f"official {key}": official.get(column) for key, column in expected.items()}
        )
    return rows


def check_images(dataset: ReidDataset, *, workers: int | None = None) -> None:
    """Decode every image, as training and scoring do.

    Args:
        workers: number of threads; None: one per core.

    Raises:
        DatasetError: names the files that are truncated, empty or no image, and what is wrong with them.
    """

    def problem(path: Path) -> str | None:
        try:
            open_rgb(path)
        except UnreadableImageError as error:
            return f"{path} ({error.reason})"
        return None

    paths = [path for split in dataset.splits.values() for path in split.paths]
    problems = []
    bar = track_progress(len(paths), "checking images", "image")
    with bar as done, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for found in pool.map(problem, paths):
            problems += [found] if found else []
            done.update()
    if problems:
        counts = f"{len(problems)} of {len(paths)} images of {dataset.root} cannot be read"
        raise DatasetError(
            f"{counts}: {some(problems)}. Extract or download the data set again, or replace these files."
        )


def check_counts(dataset: ReidDataset, allow_wrong_counts: bool, notes: list[str]) -> None:
    """Compare with the official counts.

    A difference is an error. It is only a warning if the official count is weakly sourced or
    allow_wrong_counts is set.
    """
    official = official_counts(dataset.name) or {}
    found = {f"{name}_images": len(split) for name, split in dataset.splits.items()}
    found |= {"train_ids": dataset.num_train_identities, "cameras": len(dataset.cameras)}
    differ = {
        key: f"{key.replace('_', ' ')}: expected {official[key]}, found {found[key]}" for key in official
    }
    differ = {key: text for key, text in differ.items() if found[key] != official[key]}
    if hard := [text for key, text in differ.items() if (dataset.name, key) not in WEAKLY_SOURCED]:
        message = f"{dataset.root} does not have the official counts of {dataset.name} ({'; '.join(hard)})."
        causes = ["a partly extracted archive", *filter(None, [USUAL_CAUSES.get(dataset.name)])]
        message += f" Usual causes: {', '.join(causes)}."
        if not allow_wrong_counts:
            raise DatasetError(
                f"{message} Put it right, read other data as 'folder', or go on with allow_wrong_counts=True."
            )
        warn(notes, message)
    if weak := [text for key, text in differ.items() if (dataset.name, key) in WEAKLY_SOURCED]:
        warn(
            notes,
            f"{dataset.root}: not the count of {dataset.name}, which is weakly sourced ({'; '.join(weak)})",
        )


def check_protocol(dataset: ReidDataset, notes: list[str]) -> None:
    """Check what retrieval needs.

    Training and test show different people, there are several cameras, and the gallery holds a match from
    another camera for the queries (a warning if only some queries lack one).
    """
    root, query, gallery = dataset.root, dataset.query, dataset.gallery
    if len(both := np.intersect1d(dataset.train.ids, np.union1d(query.ids, gallery.ids))):
        fix = "Move all images of a person to one side, or renumber them if they are different people."
        raise DatasetError(
            f"{root}: {len(both)} identities are in both training and test ({some(both.tolist())}). {fix}"
        )
    fix = (
        "Put the true camera into the file names (_c1, _c2, …), "
        "or add images from other cameras to the gallery."
    )
    if len(dataset.cameras) == 1:
        raise DatasetError(
            f"{root}: all images are from camera {dataset.cameras[0]}, but retrieval is across cameras. {fix}"
        )
    seen: dict[int, set[int]] = {}
    for identity, camera in zip(gallery.ids.tolist(), gallery.cameras.tolist(), strict=True):
        seen.setdefault(identity, set()).add(camera)
    pairs = zip(query.ids.tolist(), query.cameras.tolist(), strict=True)
    alone = [identity for identity, camera in pairs if not seen.get(identity, set()) - {camera}]
    people = some(sorted(set(alone)))
    lonely = (
        f"{root}: {len(alone)} of {len(query)} queries have no match from another camera in the gallery "
        f"(identity {people})"
    )
    if 0 < len(alone) < len(query):
        warn(notes, f"{lonely}: they are not scored")
    elif alone and any(identity in seen for identity in alone):
        raise DatasetError(f"{lonely}, because the cameras of query and gallery coincide. {fix}")
    elif alone:
        raise DatasetError(
            f"{lonely}: none of them is there at all. query/ and the gallery must show the same people."
        )


def warn(notes: list[str], message: str) -> None:
    notes.append(message)
    message = shown(message)
    warnings.warn(message, UserWarning, stacklevel=4)


def some(items: Iterable, limit: int = 4) -> str:
    items = [shown(str(item)) for item in items]
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
