"""Checks whether this machine can run the study, before gigabytes are installed. It only needs Python."""

import ctypes
import os
import shutil
import sys

NEEDED_GB = 9  # PyPI's torch for Linux includes CUDA's libraries


def problems() -> list[str]:
    """One sentence for each thing that is missing, with what to do about it."""
    found = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found.append(
            f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}. Name another: make study "
            "PYTHON=python3.12"
        )
    if sys.platform == "linux":
        missing = [name for name in ("libGL.so.1", "libglib-2.0.so.0", "libxcb.so.1") if not _loads(name)]
        if missing:
            found.append(
                f"OpenCV needs {', '.join(missing)}. On Debian and Ubuntu: apt-get install -y libgl1 "
                "libglib2.0-0 libxcb1 (as root; run apt-get update first)"
            )
    free = shutil.disk_usage(os.curdir).free / 1e9
    if free < NEEDED_GB:
        found.append(
            f"About {NEEDED_GB} GB are needed for the environment, {free:.1f} GB are free here. Make room."
        )
    try:
        import ensurepip  # noqa: F401  (python -m venv fails without it)
    except ImportError:
        found.append(
            "Python's venv module is incomplete. On Debian and Ubuntu: apt-get install -y python3-venv"
        )
    return found


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sentences = problems()
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    sys.exit(1 if sentences else 0)
