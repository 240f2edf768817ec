"""Readers for the benchmark data sets in their official layouts: a directory goes in, a checked `ReidDataset` comes out.

Market-1501 (Zheng et al., ICCV 2015), DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017), CUHK03-NP (Li et al.,
CVPR 2014; Zhong et al., CVPR 2017) and any `folder` like them hold flat folders of files called <identity>_c<camera>…; MSMT17
(Wei et al., CVPR 2018) has list files. Official counts: data/paper/dataset_protocols.csv. Identity -1 is junk (dropped), 0 is a
distractor (stays in the gallery, matches nobody); neither is trained on. Nothing is written, but `synthetic` is rendered once.
"""

import csv
import hashlib
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from reidlib.errors import ReidError
from reidlib.progress import progress as progress_of

DATA = Path(__file__).resolve().parents[1] / "data"
PROTOCOLS = DATA / "paper" / "dataset_protocols.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MSMT17_LISTS = {"train": "list_train.txt", "val": "list_val.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
MSMT17_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
MARKET_NAME = re.compile(r"(-1|[0-9]{1,18})_c([0-9]{1,9})(?![0-9])", re.IGNORECASE)
MSMT17_LINE = re.compile(r"((?:[^/]+/)*[0-9]+_[0-9]+_([0-9]{1,9})_[^/]*) ([0-9]{1,18})")
# The counts which the table's notes call weakly sourced: a difference warns, it does not stop.
WEAKLY_SOURCED = frozenset({("msmt17", "train_images"), ("dukemtmc-reid", "train_ids")})
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)  # by PIL

Row = tuple[str, int, int, int]  # name relative to the root, identity, camera, size in bytes


class DatasetError(ReidError):
    """The data set on disk, or what was asked of it, is not as expected."""


_CUHK03 = "{} images instead of {} ones, or the old CUHK03 protocol (1367/100 people) instead of the new one (767/700)"
DATASETS: dict[str, tuple[str, ...]] = {  # name: usual folders inside a data root
    "synthetic": ("synthetic",),
    "market1501": ("Market-1501-v15.09.15", "Market-1501", "market1501", "Market1501"),
    "dukemtmc-reid": ("DukeMTMC-reID", "dukemtmc-reid"),
    "cuhk03-np-labeled": ("cuhk03-np/labeled", "CUHK03-NP/labeled", "labeled"),
    "cuhk03-np-detected": ("cuhk03-np/detected", "CUHK03-NP/detected", "detected"),
    "msmt17": ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17"),
    "folder": (),
}
USUAL_CAUSES = {  # of counts that differ, besides a partly extracted archive
    "market1501": "images that were added or deleted, or another data set in the same layout",
    "dukemtmc-reid": "the re-identification split mixed with the tracking or video set (DukeMTMC-VideoReID)",
    "cuhk03-np-labeled": _CUHK03.format("detected", "labeled"),
    "cuhk03-np-detected": _CUHK03.format("labeled", "detected"),
    "msmt17": "lists and images of different versions (V1 and V2 mixed), or edited lists",
}


@dataclass(frozen=True, eq=False)
class Split:
    """N images sorted by name: paths, ids (N,) int64, cameras (N,) int64 and sizes (N,) in bytes, as found when read."""

    paths: tuple[Path, ...]
    ids: np.ndarray
    cameras: np.ndarray
    sizes: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class ReidDataset:
    """A checked data set; `root` directly holds the official sub-folders, `notes` are sentences for the report."""

    name: str
    root: Path
    train: Split
    query: Split
    gallery: Split
    notes: tuple[str, ...] = ()
    includes_val: bool = False  # MSMT17: list_val.txt was added to the training images

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    @property
    def cameras(self) -> np.ndarray:
        """(cameras,) int64, those of any split in ascending order."""
        return np.unique(np.concatenate([split.cameras for split in self.splits.values()]))

    @property
    def is_synthetic(self) -> bool:
        return self.name == "synthetic"

    @cached_property
    def num_train_identities(self) -> int:
        return len(np.unique(self.train.ids))

    @cached_property
    def train_labels(self) -> np.ndarray:
        """(N,) int64 in 0..C-1, by ascending identity."""
        return np.unique(self.train.ids, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over names relative to the root, identities, cameras and sizes in bytes; the root may be anywhere."""
        digest, prefix = hashlib.sha256(), self.root.as_posix().rstrip("/") + "/"
        for name, split in self.splits.items():
            sizes = [path.stat().st_size for path in split.paths] if split.sizes is None else split.sizes.tolist()
            names = [path.as_posix().removeprefix(prefix) for path in split.paths]
            rows = zip(names, split.ids.tolist(), split.cameras.tolist(), sizes, strict=True)
            digest.update("".join([f"{name} {row}\n" for row in rows]).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def statistics(self) -> list[dict]:
        """A row a split: split, identities (distractors are none), images, cameras and, None if unknown, "official identities",
        "official images", "official cameras" (of the whole set). MSMT17's 32621 training images are those with val."""
        official = official_counts(self.name) or {}
        if self.name == "msmt17" and not self.includes_val:
            del official["train_images"]
        rows = []
        for name, split in self.splits.items():
            people = split.ids if name == "train" else split.ids[split.ids > 0]
            row = {"identities": len(np.unique(people)), "images": len(split), "cameras": len(np.unique(split.cameras))}
            expected = {"identities": f"{name}_ids", "images": f"{name}_images", "cameras": "cameras"}
            rows.append({"split": name} | row | {f"official {key}": official.get(column) for key, column in expected.items()})
        return rows


def official_counts(name: str) -> dict[str, int] | None:
    """{train_ids, train_images, query_images, gallery_images, cameras} of an official data set, None for any other name."""
    with PROTOCOLS.open(encoding="utf-8", newline="") as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    return {key: int(value) for key, value in rows[name].items() if key not in ("dataset", "note")} if name in rows else None


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    include_val: bool = False,
    allow_wrong_counts: bool = False,
    synthetic_options: Mapping | None = None,
) -> ReidDataset:
    """Read and check a data set by names and sizes only (`check_images` decodes). DatasetError names the path and the fix.

    root: the folder that holds the official sub-folders, or its parent if the folder has its usual name; None: the one in data/.
    include_val: add MSMT17's list_val.txt to the training images. allow_wrong_counts: warn at unofficial counts, go on.
    synthetic_options: fields of `SyntheticSpec`, and `workers`, `progress` of `ensure_synthetic`; other sets ignore them.
    """
    if name not in DATASETS:
        raise DatasetError(f"There is no data set called {name!r}; use one of {', '.join(DATASETS)}.")
    if include_val and name != "msmt17":
        raise DatasetError(f"include_val=True adds MSMT17's list_val.txt, which {name!r} does not have: leave include_val out.")
    root = _synthetic_root(root, synthetic_options or {}) if name == "synthetic" else _find_root(name, root)
    notes: list[str] = []
    rows = _read_msmt17(root, notes) if name == "msmt17" else _read_market_layout(root, notes)
    if empty := [row[0] for split in rows.values() for row in split if row[3] == 0]:
        raise DatasetError(f"{root}: {len(empty)} images are empty files or broken links ({_some(empty)}): extract them again.")
    if val := rows.pop("val", []):
        used = "added to the training images" if include_val else "not used; include_val=True adds them to the training images"
        notes.append(f"list_train.txt names {len(rows['train'])} images; the {len(val)} of list_val.txt are {used}")
    both = ReidDataset(name, root, **{split: _split(root, [*rows[split], *(val if split == "train" else [])]) for split in rows})
    _check_counts(both, allow_wrong_counts, notes)  # MSMT17's official training images are those of both lists
    dataset = both if include_val else replace(both, train=_split(root, rows["train"]))
    _check_protocol(dataset, notes)
    return replace(dataset, notes=tuple(notes), includes_val=include_val)


def check_images(dataset: ReidDataset, *, progress: bool = True, workers: int | None = None) -> None:
    """Decode every image, in `workers` threads (None: one a core). DatasetError names what is truncated, empty or no image."""

    def problem(path: Path) -> str | None:
        try:
            with Image.open(path) as image:
                image.load()
        except UNREADABLE as error:
            return f"{path} ({error})" if str(path) not in str(error) else str(error)
        return None

    paths = [path for split in dataset.splits.values() for path in split.paths]
    problems = []
    bar = progress_of(len(paths), "checking images", "image") if progress else nullcontext()
    with bar as done, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for found in pool.map(problem, paths):
            problems += [found] if found else []
            if done is not None:
                done.update()
    if problems:
        counts = f"{len(problems)} of {len(paths)} images of {dataset.root} cannot be read"
        raise DatasetError(f"{counts}: {_some(problems)}. Extract or download the data set again, or replace these files.")


def _find_root(name: str, root: str | Path | None) -> Path:
    """The directory that holds the official sub-folders: `root`, or the one of usual name in it. Other nesting is an error."""
    wanted = "list_train.txt, train/, test/ …" if name == "msmt17" else "bounding_box_train/, bounding_box_test/ and query/"
    fix = f"Name the folder that holds {wanted} as --data-root; data/README.md shows the tree."
    usual = DATASETS[name]
    if root is None and not any((DATA / folder).is_dir() for folder in usual):
        place = f"{DATA / usual[0]} does not exist" if usual else f"The data set {name!r} has no place of its own"
        raise DatasetError(f"{place}, and no data root was named. {fix}")
    path = DATA if root is None else Path(root).expanduser().resolve()
    if not path.is_dir():
        problem = "is a file, not a folder (an archive must be extracted first)" if path.exists() else "does not exist"
        raise DatasetError(f"The data root {path} {problem}. {fix}")
    if _has_layout(name, path):
        return path
    # by real path, since two usual names are one folder where the file system does not tell a from A
    found = {(path / folder).resolve(): path / folder for folder in reversed(usual) if _has_layout(name, path / folder)}
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        raise DatasetError(f"{path} holds {_some(sorted(found.values()))}: name the one that is meant as --data-root.")
    children = sorted(path.iterdir())
    if not children:
        raise DatasetError(f"The data root {path} is empty. {fix}")
    if _has_layout(name, path.parent):
        raise DatasetError(f"The data root {path} is one level too deep: did you mean {path.parent}?")
    if inside := [child for child in children if child.is_dir() and _has_layout(name, child)]:
        raise DatasetError(f"The data root {path} is one level too high: did you mean {_some(inside)}?")
    raise DatasetError(f"{path} is not in the layout of {name}. {fix}")


def _has_layout(name: str, path: Path) -> bool:
    """True if any part of the layout is there: what is missing then gets an error of its own."""
    if name != "msmt17":
        return any((path / folder).is_dir() for folder in MARKET_FOLDERS.values())
    lists = any((path / file).is_file() for file in MSMT17_LISTS.values())
    return lists or any(all((path / folder).is_dir() for folder in pair) for pair in MSMT17_FOLDERS.values())


def _synthetic_root(root: str | Path | None, options: Mapping) -> Path:
    from reidlib.synthetic import SyntheticSpec, ensure_synthetic  # here only: data on disk do not need the renderer

    path = DATA / "synthetic" if root is None else Path(root).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise DatasetError(f"The data root {path} is a file: name a folder for the synthetic images, or leave --data-root out.")
    known, running = [item.name for item in fields(SyntheticSpec)], ["workers", "progress"]
    if unknown := [key for key in options if key not in known + running]:
        raise DatasetError(f"There is no synthetic option {_some(unknown)}; use {', '.join(known + running)}.")
    spec = SyntheticSpec(**{key: value for key, value in options.items() if key in known})
    return Path(ensure_synthetic(path, spec, **{key: value for key, value in options.items() if key in running}))


def _scan(folder: Path) -> tuple[dict[str, int], list[str], list[str]]:
    """({image: size in bytes}, sub-folders, other files), names in no order; one stat an image, for MSMT17 has 126 thousand."""
    images, folders, others = {}, [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.lower().endswith(SUFFIXES) or entry.name.startswith("."):
                    others.append(entry.name)  # among them macOS's ._0001_c1….jpg, which are no images
                else:
                    images[entry.name] = entry.stat().st_size if entry.is_file() else 0  # a broken link counts as empty
    except PermissionError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror}): give your account the right to.") from error
    return images, folders, others


def _read_market_layout(root: Path, notes: list[str]) -> dict[str, list[Row]]:
    """The rows of each split, by name. Junk is dropped everywhere, distractors from the training images."""
    if missing := [f"{folder}/" for folder in MARKET_FOLDERS.values() if not (root / folder).is_dir()]:
        raise DatasetError(f"{root} lacks {_some(missing)}: extract the data set again, or add it as data/README.md shows.")
    return {split: _read_market_folder(split, root / folder, notes) for split, folder in MARKET_FOLDERS.items()}


def _read_market_folder(split: str, folder: Path, notes: list[str]) -> list[Row]:
    images, folders, others = _scan(folder)
    pattern = "<identity>_c<camera>…, such as 0001_c1s1_000001_00.jpg"
    if not images:
        inside = f" but the folders {_some(sorted(folders))}" if folders else ""
        raise DatasetError(f"{folder} holds no images{inside}: put images called {pattern} directly there.")
    matches = {name: MARKET_NAME.match(name) for name in sorted(images)}
    if odd := [name for name, match in matches.items() if match is None]:
        raise DatasetError(f"{folder}: {len(odd)} names are not {pattern}: {_some(odd)}. Rename or remove these files.")
    rows = [(f"{folder.name}/{name}", int(match[1]), int(match[2]), images[name]) for name, match in matches.items()]
    junk, distractors = ([row[0] for row in rows if row[1] == reserved] for reserved in (-1, 0))
    if split == "query" and (bad := junk + distractors):
        raise DatasetError(f"{folder}: junk (-1) or a distractor (0000) is no query: {_some(bad)}. Number people from 0001.")
    if junk:
        notes.append(f"{len(junk)} junk images (id -1) dropped from {folder.name}")
    if distractors and split == "gallery":
        notes.append(f"{len(distractors)} distractor images (id 0000) stay in the gallery")
    elif distractors:
        _warn(notes, f"{folder}: {len(distractors)} images of identity 0000 (distractor) are not trained on; number from 0001")
    if others:
        notes.append(f"{len(others)} files of {folder.name} are no images and were left out: {_some(sorted(others))}")
    kept = [row for row in rows if row[1] > 0 or (row[1] == 0 and split == "gallery")]
    if not kept:
        raise DatasetError(f"{folder} holds no images but junk (-1) or distractors (0000): add people numbered from 0001.")
    return kept


def _read_msmt17(root: Path, notes: list[str]) -> dict[str, list[Row]]:
    """The rows of train, val, query, gallery. The lists number the test people from 0 again: here they follow the others."""
    versions = [version for version, pair in MSMT17_FOLDERS.items() if any((root / folder).is_dir() for folder in pair)]
    if len(versions) != 1:
        trees = f"{'both' if versions else 'neither'} of train/, test/ (V1) and mask_train_v2/, mask_test_v2/ (V2)"
        raise DatasetError(f"{root} holds {trees}: keep exactly one of these pairs there, with its own list files.")
    train, test = MSMT17_FOLDERS[versions[0]]
    if missing := [part for part in [*MSMT17_LISTS.values(), train, test] if not (root / part).exists()]:
        raise DatasetError(f"{root} lacks {_some(missing)} (MSMT17 {versions[0]}): extract it again, the lists beside {train}/.")
    sizes: dict[str, int] = {}
    for folder in (train, test):
        for person in _scan(root / folder)[1]:
            sizes |= {f"{folder}/{person}/{name}": size for name, size in _scan(root / folder / person)[0].items()}
    folders = {"train": train, "val": train, "query": test, "gallery": test}
    rows = {split: _read_list(root / file, folders[split], sizes) for split, file in MSMT17_LISTS.items()}
    offset = 1 + max(row[1] for row in rows["train"] + rows["val"])
    for split in ("query", "gallery"):
        rows[split] = [(name, identity + offset, camera, size) for name, identity, camera, size in rows[split]]
    notes.append(f"MSMT17 {versions[0]}: its lists number the test identities from 0 again; {offset} was added to them")
    return rows


def _read_list(file: Path, folder: str, sizes: Mapping[str, int]) -> list[Row]:
    """Lines such as "0000/0000_000_01_0303morning_0008_0.jpg 0": the camera is the third number of the file name."""
    rows = []
    for number, line in enumerate(file.read_text("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        match = MSMT17_LINE.fullmatch(line.strip())
        if match is None:
            expected = "<folder>/<identity>_<number>_<camera>_….jpg <identity>"
            raise DatasetError(f"{file}, line {number}: expected {expected}, found {line[:60]!r}. Restore the official list.")
        name = f"{folder}/{match[1]}"
        rows.append((name, int(match[3]), int(match[2]), sizes.get(name, -1)))
    if missing := [row[0] for row in rows if row[3] < 0]:
        cause = "The archive is partly extracted or the list is of the other version (V1, V2): extract it again."
        raise DatasetError(f"{len(missing)} images of {file} are not in {file.parent}: {_some(missing)}. {cause}")
    if not rows:
        raise DatasetError(f"{file} names no images: restore the official list.")
    return rows


def _split(root: Path, rows: Iterable[Row]) -> Split:
    rows = sorted({*rows})
    ids, cameras, sizes = np.array([row[1:] for row in rows], dtype=np.int64).T.copy()
    return Split(tuple(root / row[0] for row in rows), ids, cameras, sizes)


def _check_counts(dataset: ReidDataset, allow_wrong_counts: bool, notes: list[str]) -> None:
    """Compare with the official counts: an error, or a warning where the count is weakly sourced or going on is allowed."""
    official = official_counts(dataset.name) or {}
    found = {f"{name}_images": len(split) for name, split in dataset.splits.items()}
    found |= {"train_ids": dataset.num_train_identities, "cameras": len(dataset.cameras)}
    differ = {key: f"{key.replace('_', ' ')}: expected {official[key]}, found {found[key]}" for key in official}
    differ = {key: text for key, text in differ.items() if found[key] != official[key]}
    if hard := [text for key, text in differ.items() if (dataset.name, key) not in WEAKLY_SOURCED]:
        message = f"{dataset.root} does not have the official counts of {dataset.name} ({'; '.join(hard)})."
        message += f" Usual causes: a partly extracted archive, {USUAL_CAUSES[dataset.name]}."
        if not allow_wrong_counts:
            raise DatasetError(f"{message} Put it right, read other data as 'folder', or go on with allow_wrong_counts=True.")
        _warn(notes, message)
    if weak := [text for key, text in differ.items() if (dataset.name, key) in WEAKLY_SOURCED]:
        _warn(notes, f"{dataset.root}: not the count of {dataset.name}, which is weakly sourced ({'; '.join(weak)})")


def _check_protocol(dataset: ReidDataset, notes: list[str]) -> None:
    """What retrieval needs: other people in training than in test, several cameras, matches of the queries by other cameras."""
    root, query, gallery = dataset.root, dataset.query, dataset.gallery
    if len(both := np.intersect1d(dataset.train.ids, np.union1d(query.ids, gallery.ids))):
        fix = "Move all images of a person to one side, or renumber them if they are different people."
        raise DatasetError(f"{root}: {len(both)} identities are in both training and test ({_some(both.tolist())}). {fix}")
    fix = "Put the true camera into the file names (_c1, _c2, …), or add images from other cameras to the gallery."
    if len(dataset.cameras) == 1:
        raise DatasetError(f"{root}: all images are from camera {dataset.cameras[0]}, but retrieval is across cameras. {fix}")
    seen: dict[int, set[int]] = {}
    for identity, camera in zip(gallery.ids.tolist(), gallery.cameras.tolist(), strict=True):
        seen.setdefault(identity, set()).add(camera)
    pairs = zip(query.ids.tolist(), query.cameras.tolist(), strict=True)
    alone = [identity for identity, camera in pairs if not seen.get(identity, set()) - {camera}]
    people = _some(sorted(set(alone)))
    lonely = f"{root}: {len(alone)} of {len(query)} queries have no match from another camera in the gallery (identity {people})"
    if 0 < len(alone) < len(query):
        _warn(notes, f"{lonely}: they are not scored")
    elif alone and any(identity in seen for identity in alone):
        raise DatasetError(f"{lonely}, because the cameras of query and gallery coincide. {fix}")
    elif alone:
        raise DatasetError(f"{lonely}: none of them is there at all. query/ and the gallery must show the same people.")


def _warn(notes: list[str], message: str) -> None:
    notes.append(message)
    warnings.warn(message, UserWarning, stacklevel=4)


def _some(items: Iterable, limit: int = 4) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
