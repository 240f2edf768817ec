"""Readers for the benchmark data sets in their official layouts.

    from reidlib.datasets import load_dataset
    dataset = load_dataset("market1501", "/data/Market-1501-v15.09.15")
    dataset.train.paths, dataset.query.ids, dataset.gallery.cameras

`load_dataset` takes a directory and returns a checked `ReidDataset`. `known` lists the data sets by name,
each with its reader; there is one module per layout: `market1501` (most data sets share it) and `msmt17`.
`types` has the classes, `checks` compares with the official counts, `held_out` splits people off for
validation, and `joined` puts several data sets together for training. Nothing is written, except that
`synthetic` is rendered once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from reidlib.datasets.checks import (
    check_counts,
    check_images,
    check_protocol,
    official_counts,
    some,
    split_statistics,
)
from reidlib.datasets.joined import JoinedDataset, join_datasets, people_in_both
from reidlib.datasets.known import DATASET_TITLES, DATASETS
from reidlib.datasets.types import DatasetError, ImageRow, ReidDataset, Split
from reidlib.errors import shown
from reidlib.files import REPOSITORY

__all__ = [
    "DATASETS", "DATASET_TITLES", "PLACES", "DatasetError", "JoinedDataset", "ReidDataset", "Split",
    "check_images", "join_datasets", "load_dataset", "official_counts", "people_in_both", "split_statistics",
]  # fmt: skip

DATA = REPOSITORY / "data"
# What a command that names the data set must also name.
PLACES = {"folder": " --data-root DIR", "joined": " --sources NAME=DIR NAME=DIR"}


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    include_val: bool = False,
    allow_wrong_counts: bool = False,
    synthetic_options: Mapping | None = None,
) -> ReidDataset:
    """Read a data set and check it by names and sizes only (`check_images` decodes).

    Args:
        root: the folder that holds the official sub-folders, or its parent if the folder has its usual name;
            None: the one in data/.
        include_val: add MSMT17's list_val.txt to the training images.
        allow_wrong_counts: warn about counts that are not the official ones, instead of raising.
        synthetic_options: fields of `SyntheticSpec`, and `workers` of `ensure_synthetic`; other sets ignore
            them.

    Raises:
        DatasetError: the data set is not as expected; the message names the path and the fix.
    """
    if name not in DATASETS:
        raise DatasetError(f"There is no data set called {name!r}; use one of {', '.join(DATASETS)}.")
    if include_val and name != "msmt17":
        raise DatasetError(
            f"include_val=True adds MSMT17's list_val.txt, which {name!r} does not have: "
            "leave include_val out."
        )
    if name == "joined":
        raise DatasetError(
            "'joined' has no folder of its own: load the data sets and pass them to join_datasets."
        )
    notes: list[str] = []
    try:
        root = (
            _synthetic_root(root, synthetic_options or {}) if name == "synthetic" else _find_root(name, root)
        )
        rows = DATASETS[name].read(root, notes)
    except OSError as error:
        what = error.filename or root
        raise DatasetError(
            f"{what} cannot be read or written ({error.strerror}): give your account the right to, "
            "or name another data root."
        ) from error
    if lacking := [split for split in ("train", "query", "gallery") if not rows.get(split)]:
        raise DatasetError(
            f"{root} holds no images for {some(lacking)}. A root of {name} holds {DATASETS[name].holds}."
        )
    if empty := [row[0] for split in rows.values() for row in split if row[3] == 0]:
        raise DatasetError(
            f"{root}: {len(empty)} images are empty, broken links or no regular files ({some(empty)}): "
            "extract them again."
        )
    if val := rows.pop("val", []):
        used = (
            "added to the training images"
            if include_val
            else "not used; include_val=True adds them to the training images"
        )
        notes.append(
            f"list_train.txt names {len(rows['train'])} images; the {len(val)} of list_val.txt are {used}"
        )
    both = ReidDataset(
        name,
        root,
        **{split: _split(root, [*rows[split], *(val if split == "train" else [])]) for split in rows},
    )
    check_counts(both, allow_wrong_counts, notes)  # MSMT17's official training images are those of both lists
    dataset = both if include_val else replace(both, train=_split(root, rows["train"]))
    check_protocol(dataset, notes)
    return replace(dataset, notes=tuple(map(shown, notes)), includes_val=include_val)


def _find_root(name: str, root: str | Path | None) -> Path:
    """The directory that holds the official sub-folders: `root`, or the one in it that has a usual name.

    Raises:
        DatasetError: no such directory is there; the message says where one was found instead.
    """
    known = DATASETS[name]
    fix = f"Name the folder that holds {known.holds} as --data-root; data/README.md shows the tree."
    usual = known.folders
    if root is None and not any((DATA / folder).is_dir() for folder in usual):
        place = (
            f"{DATA / usual[0]} does not exist" if usual else f"The data set {name!r} has no place of its own"
        )
        raise DatasetError(f"{place}, and no data root was named. {fix}")
    path = DATA if root is None else _absolute(root)
    if not path.is_dir():
        problem = (
            "is a file, not a folder (an archive must be extracted first)"
            if path.exists()
            else "does not exist"
        )
        raise DatasetError(f"The data root {path} {problem}. {fix}")
    if known.is_there(path):
        return path
    # By real path: if the file system ignores case, two usual names can be the same folder.
    found = {
        (path / folder).resolve(): path / folder
        for folder in reversed(usual)
        if known.is_there(path / folder)
    }
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        raise DatasetError(
            f"{path} holds {some(sorted(found.values()))}: name the one that is meant as --data-root."
        )
    children = sorted(path.iterdir())
    if not children:
        raise DatasetError(f"The data root {path} is empty. {fix}")
    if known.is_there(path.parent):
        raise DatasetError(f"The data root {path} is one level too deep: did you mean {path.parent}?")
    if inside := [child for child in children if child.is_dir() and known.is_there(child)]:
        raise DatasetError(f"The data root {path} is one level too high: did you mean {some(inside)}?")
    raise DatasetError(f"{path} is not in the layout of {name}. {fix}")


def _absolute(root: str | Path) -> Path:
    """A data root's absolute path. Raises DatasetError if it cannot be a path.

    Links stay: a link with a plain name may stand for a folder whose name is no UTF-8.
    """
    try:
        path = Path(root).expanduser().absolute()
        path = path.resolve() if ".." in path.parts else path
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path  # the caller says what is there instead
    except (OSError, RuntimeError, ValueError) as error:  # also: no such user, a circle of links, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(
            f"The data root {str(root)[:200]!r} cannot be a folder ({reason}): name another one."
        ) from None
    return path


def _synthetic_root(root: str | Path | None, options: Mapping) -> Path:
    # Imported here: other data sets do not need the renderer.
    from reidlib.synthetic import SyntheticSpec, ensure_synthetic

    path = DATA / "synthetic" if root is None else _absolute(root)
    if path.exists() and not path.is_dir():
        raise DatasetError(
            f"The data root {path} is a file: name a folder for the synthetic images, "
            "or leave --data-root out."
        )
    known, running = [item.name for item in fields(SyntheticSpec)], ["workers"]
    if unknown := [key for key in options if key not in known + running]:
        raise DatasetError(f"There is no synthetic option {some(unknown)}; use {', '.join(known + running)}.")
    spec = SyntheticSpec(**{key: value for key, value in options.items() if key in known})
    return Path(
        ensure_synthetic(path, spec, **{key: value for key, value in options.items() if key in running})
    )


def _split(root: Path, rows: Iterable[ImageRow]) -> Split:
    rows = sorted({*rows})
    ids, cameras = np.array([row[1:3] for row in rows], dtype=np.int64).T.copy()
    return Split(tuple(root / row[0] for row in rows), ids, cameras)
