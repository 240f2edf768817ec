"""Files of the study: atomic writing, JSON, digests, arrays with a checksum, and locks.

Every file is written under a temporary name in its own folder and then renamed, so a file under its final
name is complete.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reidlib.errors import ReidError

REPOSITORY = Path(__file__).resolve().parent.parent


class FileError(ReidError):
    """A file of the study is missing, damaged, locked by another process, or cannot be written."""


# ---------------------------------------------------------------------------------------- writing and reading


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Writes `content` (text as UTF-8) under a temporary name beside `path`, then renames it. Returns `path`.

    Missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, data: Any) -> Path:
    """Writes plain data, numpy scalars, numpy arrays and paths as JSON. Returns `path`.

    NaN and infinities become null, because JSON has neither.
    """
    return write_atomically(
        path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: the file is missing or is not valid JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(
            f"The file {path} does not exist. Run the step that writes it again (python run_all.py)."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
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
                f"{path} cannot be written ({error.strerror}). Allow that, or name another folder."
            ) from error
        print(
            f"{path.parent} lies on a file system without locks: "
            "see to it that no other process writes there."
        )
    try:
        yield
    finally:
        lock.release()
