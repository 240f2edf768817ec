"""Digests of image files' content: each file is read once, and its digest is remembered.

A digest is used again while the file's size, its two times and its inode are the same. So an unchanged data
set of any size costs one `stat` per file. The inode and the time of the last change of any kind (ctime)
count, too, because copying tools set the modification time as they like.
"""

import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from reidlib.errors import ReidError
from reidlib.files import digest, file_digest, read_json, write_atomically
from reidlib.progress import track_progress

# A file that was changed less than so many seconds ago is not remembered: the clock of its file system may be
# too coarse to tell the next change from the last.
SETTLED = 2


class ImageError(ReidError):
    """An image cannot be read, or what is kept of it cannot be written."""


class UnreadableImageError(ImageError):
    """A file cannot be read as an image. `reason` says what is wrong with it."""

    reason = ""

    @classmethod
    def of(cls, path: Path, reason: str) -> Self:
        error = cls(
            f"{path} cannot be read as an image ({reason}). "
            "Restore it from the data set's archive or remove it."
        )
        error.reason = reason
        return error


def state_of(path: Path) -> os.stat_result:
    """The state of an image file, links followed.

    Raises:
        UnreadableImageError: there is no such file, or it is no regular one (reading a pipe would wait).
    """
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise UnreadableImageError.of(path, getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(state.st_mode):
        raise UnreadableImageError.of(path, "it is no regular file")
    return state


def content_digests(paths: Sequence[Path], *, cache: Path | None = None, keep: bool = True) -> list[str]:
    """A digest of each file's content, 32 hex digits.

    Args:
        cache: the folder in which digests are remembered; None: every file is read.
        keep: write new digests there; False: only use those that are there.

    Raises:
        UnreadableImageError: a file cannot be read; the message names it.
        FileError: the cache cannot be written.
    """
    states = [_as_listed(state_of(path)) for path in paths]
    names = [str(path) for path in paths]
    folder = os.path.commonprefix(names).rpartition(os.sep)[0]
    names = [name[len(folder) :] for name in names]
    note = None if cache is None else cache / "contents" / f"{digest(folder)[:16]}.json"
    known = {} if note is None else _remembered(note)
    new = [row for row, name in enumerate(names) if known.get(name, [None])[:-1] != states[row]]
    now = time.time_ns()
    for row, found in zip(new, _read([paths[row] for row in new]), strict=True):
        known[names[row]] = [*states[row], found]
    digests = [known[name][-1] for name in names]
    if note is not None and keep:
        settled = now - int(SETTLED * 1e9)
        known = {name: entry for name, entry in known.items() if max(entry[1:3]) < settled}
        if any(names[row] in known for row in new):
            write_atomically(note, json.dumps(known))
    return digests


def _as_listed(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _read(paths: Sequence[Path]) -> list[str]:
    def digest_of(path: Path) -> str:
        try:
            return file_digest(path)[:32]
        except OSError as error:
            raise UnreadableImageError.of(path, error.strerror or str(error)) from error

    if not paths:
        return []
    digests = []
    bar = track_progress(len(paths), "reading images", "image")
    with bar as done, ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(digest_of, paths):
            digests.append(found)
            done.update(1)
    return digests


def _remembered(note: Path) -> dict[str, list]:
    """Name → [size, two times, inode, digest]. A note that is missing or damaged counts as empty."""
    try:
        known = read_json(note)
    except ReidError:
        return {}
    whole = isinstance(known, dict) and all(
        isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str) for entry in known.values()
    )
    return known if whole else {}
