"""The files of a run while it is made: whose folder it is, checkpoints to go on from, curves, the room all of it takes.

Every file is written under a temporary name and renamed, so that a process may be killed at any moment.
"""

import contextlib
import csv
import errno
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from reidlib.batches import DECODER
from reidlib.config import HOUSEKEEPING, Experiment
from reidlib.embedding import autocast
from reidlib.errors import ReidError
from reidlib.results import RUN_METRICS, read_json, write_atomically, write_json
from reidlib.runs import set_aside
from reidlib.torch_files import CheckpointError, read_torch_file

CHECKPOINT = "checkpoint.pt"


# ---------------------------------------------------------------------------------------------------- whose folder


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """No other process makes this run meanwhile. The lock goes with the process that holds it, however that ends.

    Raises:
        ReidError: another process makes it, or its lock file cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ReidError(
            f"{folder} is being made by another process. Wait for it or end it, then run this again. (If there is none, "
            f"as may be after a crash on a network file system, delete {path}.)"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise ReidError(
                f"{path} cannot be written ({error.strerror}). Allow that, or name another folder with --results."
            ) from error
        print(f"{folder.parent} lies on a file system without locks: see to it that no other process makes this run.")
    try:
        yield
    finally:
        lock.release()


def is_finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very run, whole."""
    note = folder / "experiment.json"
    return (folder / RUN_METRICS).is_file() and note.is_file() and not differences(read_json(note), record)


def claim(folder: Path, record: dict[str, Any]) -> None:
    """Makes the folder this run's: whatever other run lies there is set aside as <folder>.superseded."""
    note = folder / "experiment.json"
    if note.is_file():
        there = read_json(note)
        changed = differences(there, record)
        if changed:
            aside = set_aside(folder)
            print(f"{folder.name} was made differently ({', '.join(changed)}): kept as {aside.name}, this run starts anew.")
        elif there == record:
            return
    elif (folder / RUN_METRICS).is_file():
        print(f"{folder.name} does not say how it was made: kept as {set_aside(folder).name}, this run starts anew.")
    write_json(note, record)


def differences(there: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """In words, what makes the run of one record another than that of the other; [] for the same run."""
    before, now = ({**one.get("experiment", {})} for one in (there, record))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name) and name not in HOUSEKEEPING]
    changed = [f"{name} {before.get(name)!r} → {now.get(name)!r}" for name in names]
    sources = {
        "data": "other images",
        "code": "other code",
        "checkpoint": "another checkpoint",
        "pretrained": "other pretrained weights",
    }
    return changed + [words for name, words in sources.items() if there.get(name) != record.get(name)]


# ---------------------------------------------------------------------------------------------------- checkpoints


def circumstances(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    """What else than the run's own record decides its numbers, and must not change in the middle of it."""
    with autocast(experiment.precision, device):
        precision = "bfloat16" if torch.is_autocast_enabled(device.type) else "float32"
    gpu = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "decoder": DECODER,
        "device": device.type,
        "processor": torch.cuda.get_device_name(device) if gpu else torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


@contextlib.contextmanager
def threads_as_begun(folder: Path) -> Iterator[None]:
    """As many threads as the checkpoint there was written with, if there is one: sums are split among them, and round so."""
    before = torch.get_num_threads()
    try:
        begun = _threads(folder) or before
        if begun != before:
            print(f"{folder.name}: goes on with {begun} threads, as it began, in place of {before}.")
            torch.set_num_threads(begun)
        yield
    finally:
        torch.set_num_threads(before)


def _threads(folder: Path) -> int | None:
    saved = _checkpoint(folder)
    return saved["circumstances"].get("threads") if saved else None


def save_checkpoint(
    folder: Path,
    record: Mapping[str, Any],
    under: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Mapping[str, float]],
) -> None:
    """Weights, optimiser and curves after an epoch, and of which run under which circumstances."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": list(rows)}
    save(folder / CHECKPOINT, {**state, "record": dict(record), "circumstances": dict(under)})


def read_checkpoint(folder: Path, record: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `save_checkpoint` has written, or None where there is nothing yet.

    Raises:
        CheckpointError: the file is damaged, is of another run, or was written under other circumstances, so that going on from
            it would give neither the numbers of these nor of those.
    """
    path, saved = folder / CHECKPOINT, _checkpoint(folder)
    if saved is None:
        return None
    changed = differences(saved["record"], record)
    before = saved["circumstances"]
    changed += [f"{name} {before.get(name)} → {now}" for name, now in under.items() if before.get(name) != now]
    if changed:
        raise CheckpointError(
            f"{path} was written under other circumstances ({', '.join(changed)}), so this run cannot go on from it to the same "
            "numbers. Restore them, or train anew: delete the file, or run the step with --force, which sets the old run aside."
        )
    return saved


def _checkpoint(folder: Path) -> dict[str, Any] | None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        saved = read_torch_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read. Delete it; the run then starts anew.") from error
    if not isinstance(saved, dict) or not {"model", "optimizer", "rows", "record", "circumstances"} <= saved.keys():
        raise CheckpointError(f"{path} is no checkpoint of a run. Delete it; the run then starts anew.")
    return saved


def save(path: Path, state: Any) -> None:
    """torch.save under a temporary name, on the disk before it gets its final name."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def remove_unfinished(folder: Path) -> None:
    """Files that a killed process had not finished writing."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def remove_checkpoints(folder: Path, experiment: Experiment, best_on_validation: Mapping[str, Any] | None) -> None:
    """What a finished run needs no more. The best weights by validation stay, unless they are the ones that were scored."""
    remove_unfinished(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    keep_best(folder, best_on_validation["epoch"] if best_on_validation and experiment.report_epoch == "last" else None)


def best_weights(epoch: int) -> str:
    """The file of the best epoch's weights. It names the epoch: one that is done again need not be the best again (on a GPU)."""
    return f"best-{epoch:04d}.pt"


def keep_best(folder: Path, epoch: int | None) -> None:
    """Removes the best weights of other epochs."""
    for path in folder.glob("best-*.pt"):
        if epoch is None or path.name != best_weights(epoch):
            path.unlink(missing_ok=True)


def kept_epochs(experiment: Experiment, first: int = 0) -> list[int]:
    """The epochs, counted from 1 with the warm-up, whose weights stay as epoch-<number>.pt; those after `first`."""
    total = experiment.warmup_epochs + experiment.epochs
    return [number for number in range(first + 1, total + 1) if experiment.keep_every and number % experiment.keep_every == 0]


def announced_disk_use(experiment: Experiment, model: torch.nn.Module, folder: Path, done: int) -> str:
    """One line about the room that checkpoints will take.

    Raises:
        ReidError: the disk lacks it.
    """
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    moments = 2 if experiment.optimizer == "adam" else 1
    last, kept = (1 + moments) * weights, len(kept_epochs(experiment, done))
    best = keeps_best(experiment)
    needed = 2 * last + (1 + 2 * best + kept) * weights  # a checkpoint and the one that is about to replace it; likewise the best
    needed -= sum(path.stat().st_size for path in [folder / CHECKPOINT, *folder.glob("best-*.pt")] if path.is_file())
    if done == experiment.warmup_epochs + experiment.epochs:
        needed = weights
    free = shutil.disk_usage(folder).free
    parts = [f"last {last / 1e6:,.0f} MB while it trains", f"{kept} of single epochs {kept * weights / 1e6:,.0f} MB"]
    parts += [f"best {weights / 1e6:,.0f} MB"] if best else []
    if needed > free:
        raise ReidError(
            f"{folder}: {needed / 1e9:.1f} GB are needed for checkpoints ({', '.join(parts)}), {free / 1e9:.1f} GB are free. "
            "Make room there, set keep_every higher, or name another folder with --results."
        )
    return f"checkpoints: {', '.join(parts if kept else [parts[0], *parts[2:]])}; {free / 1e9:,.1f} GB free"


def keeps_best(experiment: Experiment) -> bool:
    """Whether the weights of the best epoch so far are kept: by the validation split, or where the best is to be reported."""
    return experiment.report_epoch != "last" or bool(experiment.validation_identities and experiment.validate_every)


# ---------------------------------------------------------------------------------------------------- curves


def as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))  # a term may start later than the first epoch
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def require_tensorboard() -> type:
    """Its writer; it is an optional package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ReidError(
            f"tensorboard = True, but TensorBoard cannot be loaded ({error}): pip install tensorboard, or leave it False. "
            "curves.csv has the same numbers."
        ) from None
    return SummaryWriter


class Board:
    """The curves for TensorBoard, in the run's folder `tensorboard`; does nothing unless the experiment asks for it.

    Raises:
        ReidError: it is asked for and not installed.
    """

    def __init__(self, experiment: Experiment, folder: Path, done: int):
        self.writer = None
        if experiment.tensorboard:  # an epoch done again replaces its point
            self.writer = require_tensorboard()(str(folder / "tensorboard"), purge_step=done + 1)

    def add(self, row: Mapping[str, float]) -> None:
        """One epoch's row of curves.csv."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
