"""Looks at the Python that runs the program, before anything else is imported.

At first only `os`, `sys` and `_signal` are imported: they are part of Python's program, so no file can hide
them.
"""

import _signal  # a part of Python's program, as signal is not
import os
import sys

# Nothing here imports these, and other things often have their names.
_NEVER_IMPORTED = {"antigravity", "idlelib", "test", "this", "turtle", "turtledemo"}


def hiding_files() -> list[str]:
    """The files and folders on PYTHONPATH that are imported in place of a module of Python's own library."""
    names = {*sys.stdlib_module_names} - {*sys.builtin_module_names} - _NEVER_IMPORTED
    own = os.path.realpath(os.path.dirname(os.__file__))  # noqa: PTH120
    found = []
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        place = os.path.realpath(folder)
        if place in (own, os.path.join(own, "lib-dynload")):  # noqa: PTH118
            continue
        try:
            entries = sorted(os.listdir(place))  # noqa: PTH208
        except OSError:
            continue
        for entry in entries:
            path = os.path.join(place, entry)  # noqa: PTH118
            name, _, ending = entry.partition(".")
            package = not ending and os.path.isfile(os.path.join(path, "__init__.py"))  # noqa: PTH113, PTH118
            if name in names and (package or ending == "py" or ending.endswith(("so", "pyd"))):
                found.append(path)
    return found


def end_quietly_if_interrupted() -> None:
    """Ctrl-C ends the program with status 130 and one line, where nothing else handles it.

    That is while the program is imported, and when it has come to its end. An ignored signal stays ignored.
    """

    def end(number, frame):
        os.write(2, b"run_all.py: interrupted.\n")
        os._exit(130)

    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, end)


def require_sound_python() -> None:
    """Ends the program with status 2 and one line if this Python cannot run it.

    Either a file hides a module of Python's standard library, or the study's packages are not installed.
    """
    for path in hiding_files():
        _stop(
            f"{path} has the name of a module of Python's standard library and would be imported in its "
            "place. Rename it, or take its folder out of PYTHONPATH."
        )
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "torch", "papermill") if find_spec(name) is None]
    if missing:
        _stop(
            f"this Python ({sys.executable}) lacks {', '.join(missing)}. Install the study's packages (make, "
            "or pip install -e .), or call the Python that has them, such as .venv/bin/python."
        )


def _stop(problem: str) -> None:
    print(f"run_all.py: {problem}", file=sys.stderr or sys.stdout)
    sys.exit(2)
