"""Looks for files that hide Python's own modules, before anything else is imported.

Only `os` and `sys` are imported here: they are part of Python's program, so no file can hide them.
"""

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


def require_own_library() -> None:
    """Ends the program with status 2 and one line if a file hides a module of Python's own library."""
    for path in hiding_files():
        message = (
            f"run_all.py: {path} has the name of a module of Python's standard library and would be "
            "imported in its place. Rename it, or take its folder out of PYTHONPATH."
        )
        print(message, file=sys.stderr or sys.stdout)
        sys.exit(2)
