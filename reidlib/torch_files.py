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
from reidlib.files import FileError, absolute_path, file_digest, require_true_size

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
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
# Words of torch's advice to load a file unsafely, which no message of ours may repeat.
_ADVICE = re.compile(r"weights[_ ]only|safe_globals|torch\.load|trusted", re.IGNORECASE)


class CheckpointError(ReidError):
    """A file of weights that cannot be read, or that does not fit the network."""


def read_torch_file(path: Path) -> object:
    """What torch.save put into a file; numpy scalars (a saved score) are allowed, too.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or only running code could restore
            what it holds.
    """
    _require_file(path)
    try:
        require_true_size(path)
    except FileError as error:
        raise CheckpointError(str(error)) from None
    scalars = [
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ]
    dtypes = [np.dtype, *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))]
    try:
        with torch.serialization.safe_globals([*scalars, *dtypes]), warnings.catch_warnings():
            # torch warns of odd files before it fails, and that it ignores `encoding`, which it uses: files
            # saved by Python 2 hold raw bytes in strings.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except _UNREADABLE as error:
        problem = _problem(path, error)
    # Outside `except`: a traceback would show torch's message with its advice.
    raise CheckpointError(f"{path} {problem}")


def _problem(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch.load refused, and what to do. Quotes torch's reason only."""
    text = str(error)
    if path.name == "data.pkl" or re.search("persistent.(id|load)", text):
        return "is a part of an unpacked checkpoint: pass the file as it was downloaded (.pth, .pth.tar)."
    if "TorchScript" in text:
        return "is a TorchScript program: pass a state dict saved by torch.save."
    if "legacy" in text:  # also a file of zeros
        return (
            "is a tar archive or has no content: unpack it if it holds the checkpoint, or download it again."
        )
    needs = re.search(r"(?:Unsupported global|Can only|Trying to)[^\n]*?(?=\. |\.?\n|\.?$)", text)
    if needs and not _ADVICE.search(needs[0]):
        return (
            f"holds more than tensors and plain values ({needs[0]}): "
            "reading it could run code of the file's author, so it is refused. "
            "Where you trust it, load it elsewhere and save its state dict alone with torch.save."
        )
    operand = re.search(r"Unsupported operand \d+", text)  # such as the first byte of a web page
    first = re.split(r"\. |\n", text)[0]
    if operand:
        reason = operand[0]
    elif not first or len(first) > 200 or _ADVICE.search(first):
        reason = type(error).__name__
    else:
        reason = f"{type(error).__name__}: {first}"
    return f"cannot be read as a PyTorch checkpoint ({reason}): download the file again."


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
    absolute_path(path, "The checkpoint")
    if path.is_dir() and (path / "data.pkl").is_file():
        raise CheckpointError(
            f"{path} is an unpacked checkpoint: pass the file as it was downloaded (.pth, .pth.tar)."
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path} is no file: pass the path of a file made by torch.save (.pth, .pth.tar)."
        )
