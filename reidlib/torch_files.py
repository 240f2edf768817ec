"""Reads files written by torch.save, without running code from them.

PyTorch's safe loader is used throughout: it restores tensors and plain values only.
"""

import hashlib
import re
import struct
import warnings
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from reidlib.errors import ReidError
from reidlib.files import file_digest

# What torch.load raises for a file that is truncated, damaged or of another kind.
_UNREADABLE = (
    UnpicklingError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AssertionError,
    struct.error,
)


class CheckpointError(ReidError):
    """A file of weights that cannot be read, or that does not fit the network."""


def read_torch_file(path: Path) -> object:
    """What torch.save put into a file; numpy scalars (a saved score) are allowed, too.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or only running code could restore
            what it holds.
    """
    _require_file(path)
    scalars = [
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ]
    dtypes = [np.dtype, *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))]
    try:
        with torch.serialization.safe_globals([*scalars, *dtypes]), warnings.catch_warnings():
            # Files saved by Python 2 hold raw bytes in strings, hence `encoding`. torch warns that it ignores
            # this argument, but uses it.
            warnings.filterwarnings("ignore", message="pickle_load_args only works", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except _UNREADABLE as error:
        # torch's message advises to load the file unsafely, so only its reason is quoted.
        needs = re.search(
            r"(?:Unsupported global|Can only|Cannot use|Trying to)[^\n]*?(?=\. |\.?\n|\.?$)", str(error)
        )
        if needs:
            raise CheckpointError(
                f"{path} holds more than tensors and plain values ({needs[0]}): "
                "reading it could run code of the file's author, so it is refused. "
                "Where you trust it, load it elsewhere and save its state dict alone with torch.save."
            ) from error
        operand = re.search(r"Unsupported operand \d+", str(error))  # such as the first byte of a web page
        reason = operand[0] if operand else repr(error)
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}): download the file again."
        ) from error


def weights_file_digest(path: Path) -> str:
    """SHA-256 of a file of weights, 64 hex digits; CheckpointError if it is missing."""
    _require_file(path)
    return file_digest(path)


def state_digest(model: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of a network's state.

    Two networks have the same digest if they are equal bit for bit.
    """
    state = hashlib.sha256()
    for name, value in model.state_dict().items():
        values = value.detach().cpu().contiguous()
        state.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        state.update(
            values.view(-1).view(torch.uint8).numpy().data if values.ndim else str(values.item()).encode()
        )
    return state.hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is no file: pass the path of a file made by torch.save (.pth, .pth.tar), not unpacked."
        )
