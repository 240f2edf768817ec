"""Shows the progress of long work. How it is shown depends on where the code runs.

    in the pipeline (REIDLIB_PROGRESS names a file)   the state in that file; lines also in the cell's output
    in another Jupyter kernel                         a widget
    in a terminal                                     a bar
    elsewhere (a log file, a pipe)                    only the lines

Contexts may be nested, as batches within epochs. Only contexts with the unit "epoch" move the study's bar: it
would jump with short work such as decoding images.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reidlib.files import FileError, write_atomically

VARIABLE = "REIDLIB_PROGRESS"  # path of the state file; lines are appended to this path + ".lines"
MAIN_UNIT = "epoch"
WRITE_EVERY = 0.25  # seconds between two writes of the state file

_silent = False  # see `silence`
_stack: list["Progress"] = []  # open contexts, outermost first
_last_write = float("-inf")


class Progress:
    """The progress of one piece of work. `track_progress` makes it."""

    def __init__(self, total: int, description: str, unit: str):
        self.total, self.description, self.unit = total, description, unit
        self.n = 0
        self.postfix: dict[str, Any] = {}
        self._bar = None

    def update(self, n: int = 1, **postfix) -> None:
        """Counts `n` more units as done. Keyword arguments are shown beside the bar, floats shortened."""
        self.n += n
        self.postfix.update(postfix)
        if self._bar is not None:
            if postfix:
                self._bar.set_postfix(self.postfix, refresh=False)
            self._bar.update(n)
        _write_state()

    def line(self, text: str) -> None:
        """Prints a line that stays, such as one per epoch: in the terminal, the log or the cell's output.

        A widget shows no lines, because its bar is enough.
        """
        where = situation()
        if where == "pipeline":
            # Work goes on where its progress cannot be shown, as on a full disk.
            with suppress(OSError):
                write_line(Path(os.environ[VARIABLE] + ".lines"), text)
        if where == "terminal":
            tqdm_class().write(text, file=sys.stderr)
        elif where not in ("widget", "nowhere"):
            print(text, flush=True)


@contextmanager
def track_progress(total: int, description: str, unit: str = "it") -> Iterator[Progress]:
    """Shows work of `total` units while the context is open. Example:

    with track_progress(epochs, "baseline", "epoch") as epochs_done:
        ...
        epochs_done.update(1, loss=0.42)
        epochs_done.line("epoch 3/40  loss 0.420")
    """
    entry = Progress(total, description, unit)
    where = situation()
    nested = bool(_stack)
    if where == "widget":
        from tqdm.notebook import tqdm as bar  # needs ipywidgets, so only where it is shown

        entry._bar = bar(total=total, desc=description, unit=unit, leave=not nested)
    elif where == "terminal":
        entry._bar = tqdm_class()(
            total=total, desc=description, unit=unit, leave=not nested, file=sys.stderr, dynamic_ncols=True
        )
    _stack.append(entry)
    try:
        _write_state(force=not nested)
        yield entry
        if not nested:
            # The last update may have been skipped, because writes are `WRITE_EVERY` seconds apart.
            _write_state(force=True)
    finally:
        _stack.remove(entry)
        if entry._bar is not None:
            entry._bar.close()


def write_line(path: Path, text: str) -> None:
    """Adds a line to a file."""
    with path.open("a", encoding="utf-8") as lines:
        lines.write(text + "\n")


def tqdm_class() -> type:
    """tqdm's bar; imported only where one is shown, since a plan shows none."""
    from tqdm import tqdm

    return tqdm


def silence() -> None:
    """Shows nothing in this process from now on, because another process shows their common work."""
    global _silent
    _silent = True


@contextmanager
def quiet() -> Iterator[None]:
    """Shows nothing while the context is open, because the caller shows the work as a whole."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def situation() -> str:
    """Where this process shows progress: "pipeline", "widget", "terminal", "log" or, silenced, "nowhere"."""
    if _silent:
        return "nowhere"
    if os.environ.get(VARIABLE):
        return "pipeline"
    if _in_kernel():
        return "widget"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "log"


def read_state(path: str | Path) -> list[dict]:
    """The open contexts as last written, outermost first; [] without a file that can be read.

    Each has description, unit, n, total and postfix.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def fraction(contexts: list[dict]) -> float:
    """Share of the work that is done, 0 to 1. A nested context is a part of the current unit around it."""
    share = 0.0
    for context in reversed(contexts):
        share = min(
            1.0,
            (context["n"] + (share if context["n"] < context["total"] else 0.0)) / max(context["total"], 1),
        )
    return share


def _in_kernel() -> bool:
    """Whether a Jupyter kernel runs this code (IPython in a terminal is none)."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def _write_state(force: bool = False) -> None:
    global _last_write
    path = os.environ.get(VARIABLE)
    if _silent or not path or (not force and time.monotonic() - _last_write < WRITE_EVERY):
        return
    _last_write = time.monotonic()
    contexts = [
        {
            "description": entry.description,
            "unit": entry.unit,
            "n": entry.n,
            "total": entry.total,
            "postfix": {
                key: format(value, ".4g") if isinstance(value, float) else str(value)
                for key, value in entry.postfix.items()
            },
        }
        for entry in _stack
    ]
    with suppress(FileError):  # as in `Progress.line`
        write_atomically(path, json.dumps(contexts), durable=False)
