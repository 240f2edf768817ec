"""Files of the study: paths, atomic writing, JSON, digests, arrays with a checksum, archives, and locks.

Every file is written under a temporary name in its own folder, brought to the disk and then renamed, so a
file under its final name is complete, also after the machine has lost its power.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reidlib.errors import ReidError
from reidlib.settings import in_short

REPOSITORY = Path(__file__).resolve().parent.parent


# In the environment: a file to which the path of every file is added that this process writes.
WRITTEN = "REIDLIB_WRITTEN"


class FileError(ReidError):
    """A file of the study is missing, damaged, locked by another process, or cannot be written."""


# ------------------------------------------------------------------------------------------------------ paths


def absolute_path(path: str | Path, what: str) -> Path:
    """The absolute path, where "~" is the home folder. Links are not followed. Nothing need be there.

    Args:
        what: what the path is for, to begin an error message with, such as "--results".

    Raises:
        FileError: what is there may not be read, or the file system cannot even look there: the path is too
            long, a folder above is closed, its "~" names nobody, or the current folder is gone.
    """
    name = in_short(str(path))
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError:
        raise FileError(
            f"{what} {name}: that user has no home folder here. Write the path without ~."
        ) from None
    except FileNotFoundError:
        raise FileError(
            f"{what} {name}: the current folder does not exist any more. Change to another one first."
        ) from None
    try:
        absolute.stat()
    except (FileNotFoundError, NotADirectoryError):
        return absolute
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{what} {name} cannot be used as a path ({reason}). Name another one.") from None
    if not os.access(absolute, os.R_OK | (os.X_OK if absolute.is_dir() else 0)):
        raise FileError(f"{what} {name} may not be read by this user. Allow that, or name another one.")
    return absolute


def require_writable(folder: Path) -> None:
    """Checks that files can be made in a folder, which need not exist yet. Writes nothing.

    Raises:
        FileError: a file or a link to nowhere is in the way, or this user may not write there.
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if there.is_symlink() and not there.exists():
        problem = (
            f"is a link to {there.readlink()}, which does not exist: make that folder, or remove the link"
        )
    elif not there.is_dir():
        problem = "is a file, where a folder is needed: move it away"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = "may not be written by this user: allow that"
    else:
        return
    raise FileError(f"{folder} cannot be written: {there} {problem}, or name another folder with --results.")


# ---------------------------------------------------------------------------------------- writing and reading


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`. What the `with` block writes there becomes `path` at its end.

    Missing folders are created. If the block fails, nothing is left.

    Args:
        durable: bring the file to the disk before it gets its name; False: for what is worth nothing after a
            crash, such as a progress bar.

    Raises:
        FileError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if durable:
                bring_to_disk(temporary)
            temporary.replace(path)
            if durable:
                bring_to_disk(path.parent)
                _note_written(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}). Allow that or make room there, or name "
            "another folder."
        ) from error


def _note_written(path: Path) -> None:
    if notes := os.environ.get(WRITTEN):
        with open(notes, "a", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            file.write(f"{path.absolute()}\n")


def written_files(notes: Path) -> list[Path]:
    """The files that were written by a process whose environment had `notes` as `WRITTEN`, sorted."""
    if not notes.is_file():
        return []
    return sorted({Path(line) for line in notes.read_text("utf-8", "surrogateescape").splitlines()})


def bring_to_disk(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk.

    Without that, a file that was renamed may be empty after the machine has lost its power.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: str | Path, content: bytes | str, *, durable: bool = True) -> Path:
    """Writes `content` (text as UTF-8) under a temporary name beside `path`, then renames it. Returns `path`.

    Missing folders are created. `durable` is as in `replacing`.

    Raises:
        FileError: the file cannot be written.
    """
    path = Path(path)
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: str | Path, data: Any) -> Path:
    """Writes plain data, numpy scalars, numpy arrays and paths as JSON. Returns `path`.

    NaN and infinities become null, because JSON has neither. Bytes of a path that are no UTF-8 are written as
    JSON's escapes, and are read back as they were.
    """
    return write_atomically(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: the file is missing, cannot be read, or is not valid JSON.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileError(
                f"The file {path} does not exist. Run the step that writes it again (python run_all.py)."
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"The file {path} cannot be read ({error.strerror}). Allow that.") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or as many brackets
        message = (
            f"The file {path} is not valid JSON ({error}). Delete it and run the step that writes it again."
        )
        raise FileError(message) from error


def plain(value: Any) -> Any:
    """The value in JSON's types, as `write_json` writes it."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -------------------------------------------------------------------------------------- digests and checksums


def digest(data: Any) -> str:
    """SHA-256 of plain data, 64 hex digits."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes <name>.npy and its checksum, for `checked_array`."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
    write_checksum(path, checksum(array))


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array))


def write_checksum(path: Path, crc32: int) -> None:
    """Writes <name>.json beside an array's <name>.npy, for `checked_array`."""
    write_json(path.with_suffix(".json"), {"crc32": crc32})


def checked_array(path: Path) -> np.ndarray | None:
    """The memory map of a .npy file; None if the file or its checksum is missing, damaged or wrong."""
    try:
        array, expected = np.load(path, mmap_mode="r"), read_json(path.with_suffix(".json"))["crc32"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, ReidError):
        return None
    return array if checksum(array) == expected else None


# -------------------------------------------------------------------------------------------------- archives

# Weights hardly compress. What grows more is no file of weights, and would fill the memory.
LARGEST_GROWTH = 4


def require_true_size(path: Path) -> None:
    """Checks, before a zip archive is read, that it does not unpack to many times its own size.

    torch.save and numpy.savez write such archives, without compression. Other files pass.

    Raises:
        FileError: it grows more than `LARGEST_GROWTH` times.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # what reads the file will say so
        return
    size = path.stat().st_size
    if unpacked > LARGEST_GROWTH * size:
        raise FileError(
            f"{path} has {size / 1e6:,.1f} MB but unpacks to {unpacked / 1e6:,.1f} MB, which may fill the "
            "memory: it is refused. PyTorch and numpy write such files without compression, so get it from "
            "its source again."
        )


def is_sound_archive(path: Path) -> bool:
    """Whether a file is a zip archive in which every part has the checksum (CRC-32) that stands beside it.

    torch.save writes these checksums and torch.load does not look at them, so a flipped bit would become a
    flipped bit of a weight.

    Raises:
        FileError: the file cannot be opened or read, which says nothing about its content.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a flipped bit names a place before the file's start
            return False
        raise FileError(f"The file {path} cannot be read ({error.strerror}). Allow that.") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, LookupError, ArithmeticError,
            RuntimeError):  # fmt: skip  # RuntimeError: a flipped bit says that it is encrypted
        return False


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """These arrays of an .npz file.

    Raises:
        FileError: the file is missing, is damaged, lacks one of them, or unpacks to more than its size.
    """
    require_true_size(path)
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, MemoryError, zlib.error,
            zipfile.BadZipFile, NotImplementedError) as error:  # fmt: skip
        raise FileError(
            f"The file {path} cannot be read ({type(error).__name__}). Delete it and run the step that "
            "writes it again."
        ) from error


# ---------------------------------------------------------------------------------------------------- locks


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False, held: str) -> Iterator[None]:
    """Holds the lock file `path` during the `with` block. The lock also ends when the process ends.

    On a file system without locks, a warning is printed and the block runs without a lock.

    Args:
        wait: wait until another process releases the lock; otherwise a held lock is an error.
        held: the error message for a held lock, one or more sentences. The way out of a stale lock is added.

    Raises:
        FileError: another process holds the lock, or its file cannot be written.
    """
    import filelock  # imported here: takes 0.1 s, which only those who lock should wait for

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise FileError(
            f"{held} (If there is none, as may be after a crash on a network file system, delete {path}.)"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.ENOSYS,
            errno.ENOLCK,
            errno.ENOTSUP,
            errno.EOPNOTSUPP,
        ):
            raise FileError(
                f"{path} cannot be written ({error.strerror or error}). Allow that, or name another folder."
            ) from error
        print(
            f"{path.parent} lies on a file system without locks: "
            "see to it that no other process writes there."
        )
    try:
        yield
    finally:
        lock.release()
