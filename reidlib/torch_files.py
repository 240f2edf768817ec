"""Files written by torch.save, read through PyTorch's safe loader only: tensors and plain values, never code."""

import hashlib
import re
import struct
import warnings
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from reidlib.errors import ReidError

# What torch.load raises on a file that is cut short, damaged or something else altogether.
_UNREADABLE = (UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError, struct.error)


class CheckpointError(ReidError):
    """A file of weights that cannot be read, or that does not fit the network."""


def read_torch_file(path: Path) -> object:
    """What torch.save put into a file; numpy scalars (a saved score) may be among it.

    Raises:
        CheckpointError: there is no such file, it is damaged or something else, or it holds what only running code could make.
    """
    _require_file(path)
    scalars = [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [np.dtype, *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))]
    try:
        with torch.serialization.safe_globals([*scalars, *dtypes]), warnings.catch_warnings():
            # Files saved by Python 2 hold raw bytes in strings. torch passes `encoding` on, though it warns that it does not.
            warnings.filterwarnings("ignore", message="pickle_load_args only works", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except _UNREADABLE as error:
        # torch's own words advise to load the file unsafely: only its reason is passed on.
        needs = re.search(r"(?:Unsupported global|Can only|Cannot use|Trying to)[^\n]*?(?=\. |\.?\n|\.?$)", str(error))
        if needs:
            raise CheckpointError(
                f"{path} holds more than tensors and plain values ({needs[0]}): reading it could run code of the file's author, "
                "so it is refused. Where you trust it, load it elsewhere and save its state dict alone with torch.save."
            ) from error
        operand = re.search(r"Unsupported operand \d+", str(error))  # the first byte of a web page, say
        reason = operand[0] if operand else repr(error)
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint ({reason}): download the file again.") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file of weights, 64 hex digits; CheckpointError where there is none."""
    _require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is no file: pass the path of a file made by torch.save (.pth, .pth.tar), not unpacked.")
