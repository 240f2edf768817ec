"""Reads a folder of one's own person crops as a gallery, and queries, with whatever labels there are.

Names may be any. Where identity and camera come from is one of `LABELS`, or a CSV file with the columns file,
identity and, if known, camera; a file is named as below its folder ("anna/1.jpg").
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reidlib.datasets.checks import some
from reidlib.datasets.market1501 import MARKET_NAME, SUFFIXES
from reidlib.datasets.types import DatasetError, ReidDataset, Split
from reidlib.errors import shown
from reidlib.files import absolute_path
from reidlib.images.contents import UnreadableImageError, state_of
from reidlib.images.decoding import open_rgb
from reidlib.progress import track_progress

LABELS = {
    "auto": "Market-1501's names if all images have them, else folders if all images lie in some, else none",
    "market1501": "names such as 0001_c1s1_000001_00.jpg",
    "folders": "IDENTITY/…, or IDENTITY/CAMERA/… if all images lie that deep",
    "none": "no labels",
}
UNKNOWN = ""  # an identity or a camera that no label names
JUNK, DISTRACTOR = "-1", "0"  # identities that Market-1501's names reserve
LISTED = 20  # unreadable images that an error names

Label = tuple[str, str]  # identity and camera, in words


@dataclass(frozen=True, eq=False)
class OwnImages:
    """A gallery and queries.

    Attributes:
        dataset: `query` and `gallery`, with identities and cameras as numbers; `train` is empty. Without a
            label, a query has the identity and the camera -1, a gallery image 0: nothing matches by them.
        names: path → its name below the folder that it was found in.
        labels: path → identity and camera in words; `UNKNOWN` where there is none.
        has_identities, has_cameras: whether the gallery has any.
        notes: sentences about what was read, the first says where the labels come from.
        left_out: unreadable image → what is wrong with it.
    """

    dataset: ReidDataset
    names: Mapping[Path, str]
    labels: Mapping[Path, Label]
    has_identities: bool
    has_cameras: bool
    notes: tuple[str, ...]
    left_out: Mapping[Path, str]

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.dataset.query.paths, *self.dataset.gallery.paths)

    def without(self, problems: Mapping[Path, str], skip: bool) -> "OwnImages":
        """The images without the unreadable ones.

        Args:
            problems: unreadable image → what is wrong with it.
            skip: leave them out; otherwise they are an error.

        Raises:
            UnreadableImageError: there are some and `skip` is not set, or no query or no gallery is left.
        """
        if not problems:
            return self
        listed = some((f"{path} ({reason})" for path, reason in problems.items()), LISTED)
        counts = f"{len(problems)} of {len(set(self.paths))} images cannot be read"
        if not skip:
            raise UnreadableImageError(
                f"{counts}: {listed}. Mend or remove them, or leave them out with --skip-unreadable "
                "(skip_unreadable=True)."
            )
        parts = {
            name: _kept(split, [path not in problems for path in split.paths])
            for name, split in (("query", self.dataset.query), ("gallery", self.dataset.gallery))
        }
        for name, split in parts.items():
            if not len(split):
                raise UnreadableImageError(f"{counts}, and no {name} image is left: {listed}.")
        dataset = replace(self.dataset, **parts)
        return replace(self, dataset=dataset, left_out={**self.left_out, **problems})


def read_own_images(folder: str | Path, queries: Sequence[str | Path], *, labels: str = "auto") -> OwnImages:
    """Finds the images of a folder and of its sub-folders, the queries, and their labels. Nothing is decoded.

    Args:
        folder: the gallery.
        queries: files, or folders of files. They may lie in the gallery.
        labels: one of `LABELS`, or the path of a CSV file.

    Raises:
        DatasetError: a path leads nowhere, there are no images, or labels do not fit; the message says which.
    """
    root = absolute_path(folder, "The folder of images")
    if not root.is_dir():
        what = "is a file: name a folder of images" if root.exists() else "does not exist: name a folder"
        raise DatasetError(f"The folder of images {root} {what}.")
    gallery, others = find_images(root)
    if not gallery:
        raise DatasetError(f"{root} holds no images ({', '.join(SUFFIXES)}), also not in its sub-folders.")
    if not queries:
        raise DatasetError("There is no query: name at least one image, or a folder of them.")
    names = {path: _below(path, root) for path in gallery}
    found: list[Path] = []
    for place in queries:
        path = absolute_path(place, "The query")
        if path.is_dir():
            within, _ = find_images(path)
            if not within:
                raise DatasetError(f"The folder of queries {path} holds no images ({', '.join(SUFFIXES)}).")
            names = {one: _below(one, path) for one in within} | names
            found += within
        elif os.path.lexists(path):
            names.setdefault(path, _below(path, root) if root in path.parents else path.name)
            found.append(path)
        else:
            raise DatasetError(f"The query {path} does not exist: name an image, or a folder of images.")
    found = list(dict.fromkeys(found))
    kind, known, said = _labels(labels, gallery, found, names)
    has = [any(known[path][part] != UNKNOWN for path in gallery) for part in (0, 1)]
    sentences = [said]
    if others:
        sentences.append(f"{len(others)} files are no images by their names: {some(others)}.")
    reserved = {JUNK: -1, DISTRACTOR: 0} if kind == "market1501" else {}
    query, all_ = (_split(paths, known, reserved, side) for paths, side in ((found, -1), (gallery, 0)))
    nobody = Split((), np.empty(0, np.int64), np.empty(0, np.int64))
    dataset = ReidDataset("folder", root, train=nobody, query=query, gallery=all_)
    return OwnImages(dataset, names, known, *has, notes=tuple(map(shown, sentences)), left_out={})


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """The images below a folder, sorted by name, and the names of other files. Links are followed.

    Hidden files and folders do not count. A folder that is reached twice, as by a circle of links, counts
    once.

    Raises:
        DatasetError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise DatasetError(
            f"{error.filename} cannot be read ({error.strerror}): give your account the right to."
        )

    images, others, seen = [], [], set()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                images.append(Path(place, name))
            elif not name.startswith("."):
                others.append(_below(Path(place, name), folder))
    return sorted(images), sorted(others)


def unreadable(paths: Iterable[Path], *, decode: bool = True) -> dict[Path, str]:
    """The images that cannot be read, each with what is wrong with it.

    Args:
        decode: read them whole; False: only look whether each is a file that this user may read.
    """

    def problem(path: Path) -> str:
        try:
            state_of(path)
            if not os.access(path, os.R_OK):
                return "this user may not read it"
            if decode:
                open_rgb(path)
        except UnreadableImageError as error:
            return error.reason
        return ""

    paths, found = list(dict.fromkeys(paths)), {}
    if not decode:
        return {path: reason for path in paths if (reason := problem(path))}
    with (
        track_progress(len(paths), "checking images", "image") as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for path, reason in zip(paths, pool.map(problem, paths), strict=True):
            found |= {path: reason} if reason else {}
            bar.update()
    return found


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _kept(split: Split, rows: Sequence[bool]) -> Split:
    kept = np.asarray(rows, dtype=bool)
    paths = tuple(path for path, stays in zip(split.paths, rows, strict=True) if stays)
    return Split(paths, split.ids[kept], split.cameras[kept])


# ----------------------------------------------------------------------------------------------------- labels


def _labels(
    asked: str, gallery: Sequence[Path], queries: Sequence[Path], names: Mapping[Path, str]
) -> tuple[str, dict[Path, Label], str]:
    """The kind of the labels, those of every image, and the sentence that says where they come from."""
    every = [*gallery, *queries]
    kind = _guessed(gallery, names) if asked == "auto" else asked
    chosen = "chosen because all images of the gallery fit; " if asked == "auto" and kind != "none" else ""
    another = f" ({chosen}--labels takes another source)" if asked == "auto" else ""
    if kind == "none":
        guess = f": neither names nor folders give any{another}" if asked == "auto" else ""
        return kind, dict.fromkeys(every, (UNKNOWN, UNKNOWN)), f"Labels: none{guess}."
    if kind == "market1501":
        found = {path: MARKET_NAME.match(path.name) for path in every}
        _require_labels(found, every if asked != "auto" else gallery, "are not <identity>_c<camera>…")
        known = {path: (str(int(hit[1])), str(int(hit[2]))) for path, hit in found.items() if hit}
        said = f"Labels: identity and camera from the names, as Market-1501's{another}."
    elif kind == "folders":
        parts = {path: names[path].split("/")[:-1] for path in every}
        _require_labels(parts, gallery, "lie in no sub-folder, whose name would be their identity")
        deep = all(len(parts[path]) > 1 for path in gallery)
        known = {
            path: (own[0], own[1] if deep and len(own) > 1 else UNKNOWN) for path, own in parts.items() if own
        }
        said = f"Labels: identity{' and camera' if deep else ''} from the folders{another}."
    else:
        rows = _read_csv(absolute_path(kind, "--labels"))
        given = {path: rows.get(names[path]) for path in every}
        _require_labels(given, gallery, f"have no row in {kind}")
        known = {path: label for path, label in given.items() if label}
        said = f"Labels: from {Path(kind).name}."
    return kind, {path: known.get(path, (UNKNOWN, UNKNOWN)) for path in every}, said


def _guessed(gallery: Sequence[Path], names: Mapping[Path, str]) -> str:
    if all(MARKET_NAME.match(path.name) for path in gallery):
        return "market1501"
    return "folders" if all("/" in names[path] for path in gallery) else "none"


def _require_labels(found: Mapping[Path, object], needed: Sequence[Path], problem: str) -> None:
    without = [str(path) for path in needed if not found[path]]
    if without:
        raise DatasetError(
            f"{len(without)} of {len(needed)} images {problem}: {some(without)}. Mend that, or choose other "
            f"labels: {', '.join(LABELS)}, or a CSV file."
        )


def _read_csv(path: Path) -> dict[str, Label]:
    """Name → identity and camera. Raises DatasetError if the file is no such table."""
    wanted = "expected a CSV file with the columns file, identity and, if known, camera"
    if not path.is_file():
        raise DatasetError(f"--labels {path} is no file: {wanted}; or one of {', '.join(LABELS)}.")
    try:
        # Bytes that are no UTF-8 are kept, as in the names of files.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, csv.Error) as error:
        raise DatasetError(f"--labels {path} cannot be read ({error}): {wanted}.") from error
    if not rows or not {"file", "identity"} <= rows[0].keys():
        has = ", ".join(map(str, rows[0])) if rows else "no row"
        raise DatasetError(f"--labels {path} has {has}: {wanted}.")
    labels: dict[str, Label] = {}
    for row in rows:
        label = tuple((row.get(name) or UNKNOWN).strip() for name in ("identity", "camera"))
        if labels.setdefault(row["file"], label) != label:
            raise DatasetError(f"--labels {path} names {row['file']} twice, with different labels: keep one.")
    return labels


def _split(
    paths: Sequence[Path],
    labels: Mapping[Path, Label],
    reserved: Mapping[str, int],
    unknown: int,
) -> Split:
    """Images with their labels as numbers: names in order, from 1; `unknown` without a label.

    reserved: identity → its number. A query of one counts as unknown, since nobody is looked for.
    """
    columns = []
    for part, special in ((0, reserved), (1, {})):
        names = sorted({labels[path][part] for path in labels} - {UNKNOWN, *special}, key=_natural)
        codes = {name: number for number, name in enumerate(names, 1)}
        codes |= dict.fromkeys(special, -1) if unknown == -1 else special
        columns.append(np.array([codes.get(labels[path][part], unknown) for path in paths], dtype=np.int64))
    return Split(tuple(paths), *columns)


def _natural(name: str) -> tuple[bool, int, str]:
    """Sorts whole numbers by value, before other names."""
    number = name.isascii() and name.isdigit() and len(name) < 19
    return not number, int(name) if number else 0, name
