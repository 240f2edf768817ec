"""One call at a time works on a study. A second one is told who holds it; a killed call holds nothing.

results/.<study>.lock           locked by the call that works on results/<study>
results/.<study>.holder.json    who that is, and a number that grows while it lives

A file system's lock ends with its process. Not every network file system shows it to other machines, so the
holder is looked at, too: a process of this machine is looked up, and one of another machine has to count on.
"""

import contextlib
import datetime
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from reidlib.errors import ReidError
from reidlib.files import FileError, json_bytes, locked, read_json, require_writable, write_atomically
from reidlib.study.results import Study

BEAT = 5  # seconds between two signs of life
WATCH = 20  # seconds without a sign of life after which a call on another machine counts as dead

_held: set[Path] = set()  # by this process


class HeldError(ReidError):
    """Another call works on the study."""


def holder_file(study: Study) -> Path:
    return study.root.with_name(f".{study.root.name}.holder.json")


@contextlib.contextmanager
def held(study: Study) -> Iterator[None]:
    """Holds the study during the `with` block. May be nested.

    Where this user may not write there is nothing to hold: what has to be written is refused later.

    Raises:
        HeldError, FileError: another call works on the study. The message says which, and since when.
    """
    try:
        require_writable(study.root.parent)
    except FileError:
        yield
        return
    if study.root in _held:
        yield
        return
    file = holder_file(study)
    before = _read(file)
    lock = study.root.with_name(f".{study.root.name}.lock")
    with locked(lock, held=_sentence(study, before)):
        if before:
            if _lives(before, file):
                raise HeldError(_sentence(study, before))
            print(
                f"{study.root}: {_who(before)} ended without finishing. This call goes on from there.",
                file=sys.stderr,
                flush=True,
            )
        ended = threading.Event()
        myself = _myself()
        write_atomically(file, json_bytes({**myself, "beat": 0}))
        beating = threading.Thread(target=_beat, args=(file, myself, ended), daemon=True)
        beating.start()
        _held.add(study.root)
        try:
            yield
        finally:
            _held.discard(study.root)
            ended.set()
            beating.join()
            file.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _boot() -> str:
    """Tells a machine from another one of the same name, and from itself before it was started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _beat(file: Path, myself: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        count += 1
        with contextlib.suppress(FileError):  # such as a full disk, which the call itself will meet
            write_atomically(file, json_bytes({**myself, "beat": count}), durable=False)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = read_json(file)
    except FileError:
        return None
    return content if isinstance(content, dict) and {"host", "pid", "since"} <= content.keys() else None


def _lives(holder: dict[str, Any], file: Path) -> bool:
    """Whether a holder whose lock is not seen here lives."""
    if (holder["host"], holder.get("boot")) == (socket.gethostname(), _boot()):
        try:
            return psutil.Process(holder["pid"]).create_time() == holder.get("started")
        except (psutil.Error, TypeError, ValueError):
            return False
    print(f"Looking for {WATCH} s whether {_who(holder)} lives …", file=sys.stderr, flush=True)
    deadline = time.monotonic() + WATCH
    while time.monotonic() < deadline:
        time.sleep(min(1, WATCH / 4))
        if _read(file) != holder:
            return True
    return False


def _who(holder: dict[str, Any]) -> str:
    return (
        f"the call {holder.get('command', '')!r} (process {holder['pid']} on {holder['host']}, since "
        f"{holder['since']})"
    )


def _sentence(study: Study, holder: dict[str, Any] | None) -> str:
    who = _who(holder) if holder else "another call"
    return (
        f"{study.root} is being worked on by {who}. Wait for it or end it, then run this again, or name "
        "another folder with --results."
    )
