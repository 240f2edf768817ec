"""Reads and writes the folder of a run that is being made: its owner, checkpoints, curves and disk space.

Every file is written under a temporary name and then renamed, so the process may be killed at any moment.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib.devices import cpu_threads
from reidlib.errors import ReidError
from reidlib.experiment import Experiment, Housekeeping
from reidlib.files import (
    FileError,
    file_digest,
    is_sound_archive,
    json_bytes,
    locked,
    read_json,
    replacing,
    write_atomically,
    write_json,
)
from reidlib.run import RunFiles, read_embeddings
from reidlib.torch_files import CheckpointError, read_torch_file
from reidlib.training.epoch import Row
from reidlib.training.records import same_embeddings, same_measures, what_differs
from reidlib.training.tensorboard import Board

Record = Mapping[str, Any]


class RunFolder(RunFiles):
    """A run's files, as the process that makes the run reads and writes them."""

    # ---------------------------------------------------------------------------------------- ownership

    @contextlib.contextmanager
    def only_one(self) -> Iterator[None]:
        """Locks the run: no other process can make it meanwhile.

        Raises:
            FileError: another process makes it, or its lock file cannot be written.
        """
        with locked(
            self.lock,
            held=f"{self.folder} is being made by another process. "
            "Wait for it or end it, then run this again.",
        ):
            yield

    def has_weights(self, record: Record) -> bool:
        """Whether complete weights made from this record exist, as they were written."""
        whole = self.model.is_file() and _holds(self.training, "parameters")
        return whole and _is_made_from(self.weights_record, record) and self._is_as_written(self.model)

    def has_scores(self, record: Record) -> bool:
        """Whether complete scores made from this record exist, as they were written."""
        scores = (self.embeddings, self.queries, self.metrics)
        whole = all(path.is_file() for path in scores) and _is_made_from(self.scores_record, record)
        return whole and all(map(self._is_as_written, scores)) and _holds(self.metrics, "map")

    def _is_as_written(self, path: Path) -> bool:
        """`is_intact`. Says so if a file is not, because it is made again then."""
        intact = self.is_intact(path)
        if not intact:
            print(f"{self.name}: {path.name} is not what was written, so it is made again.")
        return intact

    def mend_curves(self) -> None:
        """Writes curves.csv again if it is missing or is not what was written."""
        rows = read_json(self.training).get("epochs")
        if rows and not self.is_intact(self.curves):
            print(f"{self.name}: {self.curves.name} is not what was written, so it is written again.")
            self.write_curves(rows)

    def is_settled(self, experiment: Experiment, record: Record) -> bool:
        """Whether nothing is left to write or to remove in the folder of a finished run."""
        leftover = self.checkpoint.exists() or any(self.folder.glob("*.tmp"))
        return not leftover and read_json(self.weights_record) == _claim_of(experiment, record)

    def claim(self, experiment: Experiment, record: Record) -> None:
        """Makes the folder this run's. The folder of another run is first renamed to <run>.superseded."""
        content = _claim_of(experiment, record)
        if self.weights_record.is_file():
            before = _made_from(self.weights_record)
            changed = what_differs(before, record) if before else [f"{self.weights_record.name} is damaged"]
            if changed:
                aside = self.set_aside()
                print(
                    f"{self.name} was made differently ({', '.join(changed)}): kept as {aside.name}, this "
                    "run starts anew."
                )
            elif read_json(self.weights_record) == content:
                return
        elif self.metrics.is_file() or self.training.is_file():
            aside = self.set_aside()
            print(f"{self.name} does not say how it was made: kept as {aside.name}, this run starts anew.")
        write_json(self.weights_record, content)

    def set_aside(self) -> Path | None:
        """Renames the folder to the first free one of <run>.superseded, <run>.superseded-2, ….

        Returns:
            The new path, or None if there is no folder.
        """
        if not self.folder.exists():
            return None
        numbered = (f"{self.name}.superseded" + (f"-{n}" if n > 1 else "") for n in itertools.count(1))
        return self.folder.rename(
            next(path for path in map(self.folder.with_name, numbered) if not path.exists())
        )

    # ---------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(
        self,
        record: Record,
        environment: Mapping[str, Any],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        rows: Sequence[Row],
    ) -> None:
        """Saves weights, optimiser and curves after an epoch, with the run's record and environment."""
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": list(rows)}
        save(self.checkpoint, {**state, "record": dict(record), "environment": dict(environment)})

    def read_checkpoint(self, record: Record, environment: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `save_checkpoint` wrote, or None if there is no checkpoint.

        Raises:
            CheckpointError: the file is damaged, belongs to another run, or was written in another
                environment. Resuming would mix two environments.
        """
        saved = self._checkpoint()
        if saved is None:
            return None
        changed = what_differs(saved["record"], record)
        before = saved["environment"]
        changed += [
            f"{name} {before.get(name)} → {now}"
            for name, now in environment.items()
            if before.get(name) != now
        ]
        if changed:
            raise CheckpointError(
                f"{self.checkpoint} was written under other circumstances ({', '.join(changed)}), so this "
                "run cannot go on from it to the same numbers. Restore them, or train anew: delete the "
                "file, or run the step with --force, which sets the old run aside."
            )
        return saved

    def set_damaged_checkpoint_aside(self) -> None:
        """Renames a checkpoint that is not what was written, so that the run starts anew.

        A file that cannot be opened or does not fit into memory is not damaged: it stays.
        """
        if self.checkpoint.is_file() and not is_sound_archive(self.checkpoint):
            aside = self.checkpoint.replace(self._damaged_checkpoint)
            print(
                f"{self.name}: {self.checkpoint.name} is damaged and kept as {aside.name}; the run starts "
                "anew."
            )

    @property
    def _damaged_checkpoint(self) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}.damaged")

    def best_weights(self, epoch: int) -> dict[str, torch.Tensor]:
        """The best epoch's weights.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = self.best(epoch)
        if path.is_file() and not is_sound_archive(path):
            raise CheckpointError(
                f"{path} is damaged: it is not what was written. Train the run anew (--force), or copy the "
                "file back."
            )
        return read_torch_file(path)

    @contextlib.contextmanager
    def threads_as_begun(self) -> Iterator[None]:
        """Uses the checkpoint's thread count, if there is one: the count changes how sums are rounded."""
        now = torch.get_num_threads()
        saved = self._checkpoint()
        begun = (saved["environment"].get("threads") if saved else None) or now
        if begun != now:
            print(f"{self.name}: goes on with {begun} threads, as it began, in place of {now}.")
        with cpu_threads(begun):
            yield

    def _checkpoint(self) -> dict[str, Any] | None:
        if not self.checkpoint.is_file():
            return None
        try:
            saved = read_torch_file(self.checkpoint)
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.checkpoint} cannot be read. Delete it; the run then starts anew."
            ) from error
        if (
            not isinstance(saved, dict)
            or not {"model", "optimizer", "rows", "record", "environment"} <= saved.keys()
        ):
            raise CheckpointError(
                f"{self.checkpoint} is no checkpoint of a run. Delete it; the run then starts anew."
            )
        return saved

    def keep_best(self, epoch: int | None) -> None:
        """Removes the saved best weights of all epochs but this one; None: of all epochs."""
        for path in self.all_best():
            if epoch is None or path != self.best(epoch):
                path.unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Removes files that a killed process had not finished writing."""
        for path in self.folder.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def remove_checkpoints(
        self, experiment: Experiment, best_on_validation: Mapping[str, Any] | None
    ) -> None:
        """Removes what a finished run no longer needs.

        The best weights by validation stay, unless they are the scored ones.
        """
        self.remove_unfinished()
        self.checkpoint.unlink(missing_ok=True)
        self._damaged_checkpoint.unlink(missing_ok=True)
        self.keep_best(
            best_on_validation["epoch"] if best_on_validation and experiment.report_epoch == "last" else None
        )

    def announced_disk_use(self, experiment: Experiment, model: torch.nn.Module, done: int) -> str:
        """One line about the disk space that checkpoints will take.

        Args:
            done: the number of finished epochs.

        Raises:
            ReidError: the disk has too little space.
        """
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        moments = 2 if experiment.optimizer == "adam" else 1
        last, kept = (1 + moments) * weights, len(kept_epochs(experiment, done))
        best = experiment.keeps_best
        # Twice: a new checkpoint is written before it replaces the old one; likewise the best weights.
        needed = 2 * last + (1 + 2 * best + kept) * weights
        needed -= sum(path.stat().st_size for path in [self.checkpoint, *self.all_best()] if path.is_file())
        if done == experiment.warmup_epochs + experiment.epochs:
            needed = weights
        free = shutil.disk_usage(self.folder).free
        parts = [
            f"last {last / 1e6:,.0f} MB while it trains",
            f"{kept} of single epochs {kept * weights / 1e6:,.0f} MB",
        ]
        parts += [f"best {weights / 1e6:,.0f} MB"] if best else []
        if needed > free:
            raise ReidError(
                f"{self.folder}: {needed / 1e9:.1f} GB are needed for checkpoints ({', '.join(parts)}), "
                f"{free / 1e9:.1f} GB are free. Make room there, set keep_every higher, or name another "
                "folder with --results."
            )
        return (
            f"checkpoints: {', '.join(parts if kept else [parts[0], *parts[2:]])}; {free / 1e9:,.1f} GB free"
        )

    # ---------------------------------------------------------------------------------------- results

    def keep_epoch(
        self, experiment: Experiment, model: torch.nn.Module, rows: Sequence[Row], *, is_best: bool
    ) -> None:
        """Writes the curves, and the last epoch's weights if it is the best or a `keep_every`-th epoch."""
        number = len(rows)
        if is_best:
            save(self.best(number), model.state_dict())
        if number in kept_epochs(experiment, number - 1):
            save(self.epoch(number), model.state_dict())
        self.write_curves(rows)

    def open_board(self, experiment: Experiment, done: int) -> Board:
        """Opens TensorBoard's curves for the epochs after `done`."""
        return Board(experiment, self, done)

    def write_curves(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes curves.csv, one row per epoch. A cell is empty if the epoch has no such value."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.curves, text.getvalue())

    def write_weights(self, model: torch.nn.Module, facts: Mapping[str, Any]) -> None:
        """Writes the weights to score, then training.json, which marks the run as trained.

        Scores of other weights are removed first: they must never stand beside these.
        """
        for old in (self.metrics, self.scores_record, self.training, self.digests):
            old.unlink(missing_ok=True)
        save(self.model, model.state_dict())
        written = [path for path in (self.model, self.curves) if path.is_file()]
        write_json(self.digests, {path.name: file_digest(path) for path in written})
        write_json(self.training, facts)

    def embeddings_for(self, record: Record) -> dict[str, np.ndarray] | None:
        """The embeddings of the last scoring, or None if this record of scores needs others."""
        try:
            before = _made_from(self.scores_record)
            return read_embeddings(self) if before and same_embeddings(before, record) else None
        except (FileError, KeyError):
            return None

    def measures_for(self, record: Record) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """queries.csv and metrics.json of the last scoring, or None if this record needs other measures.

        None, too, if a file is missing or damaged.
        """
        before = _made_from(self.scores_record)
        if not before or not same_measures(before, record):
            return None
        try:
            self.require_intact(self.queries)
            self.require_intact(self.metrics)
            return pd.read_csv(self.queries), read_json(self.metrics)
        except (FileError, OSError, ValueError):
            return None

    def write_scores(
        self,
        record: Record,
        embeddings: dict[str, np.ndarray],
        queries: pd.DataFrame,
        metrics: Mapping[str, Any],
    ) -> None:
        """Writes the scores and their record. metrics.json is last and marks the run as finished.

        The old record is removed first, so that it is never found beside new embeddings.
        """
        for old in (self.metrics, self.scores_record):
            old.unlink(missing_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **embeddings)
        write_atomically(self.embeddings, buffer.getvalue())
        write_atomically(self.queries, queries.to_csv(index=False, lineterminator="\n"))
        write_json(self.scores_record, {"made_from": dict(record)})
        digests = {path.name: file_digest(path) for path in (self.embeddings, self.queries)}
        digests[self.metrics.name] = hashlib.sha256(json_bytes(metrics)).hexdigest()
        write_json(self.digests, self.recorded_digests() | digests)
        write_json(self.metrics, metrics)


def kept_epochs(experiment: Experiment, first: int = 0) -> list[int]:
    """The epochs after `first` whose weights stay as epoch-<number>.pt; from 1, warm-up included."""
    total = experiment.warmup_epochs + experiment.epochs
    return [
        number
        for number in range(first + 1, total + 1)
        if experiment.keep_every and number % experiment.keep_every == 0
    ]


def save(path: Path, state: Any) -> None:
    """torch.save to a temporary file, which is renamed once it is on the disk."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save(state, file)


def _claim_of(experiment: Experiment, record: Record) -> dict[str, Any]:
    """The content of weights.json."""
    return {
        "labels": {name: getattr(experiment, name) for name in ("method", "dataset", "profile")},
        "housekeeping": experiment.group(Housekeeping),
        "made_from": dict(record),
    }


def _is_made_from(path: Path, record: Record) -> bool:
    before = _made_from(path)
    return bool(before) and not what_differs(before, record)


def _made_from(path: Path) -> dict[str, Any]:
    """What a file of records says that the run was made from; {} if it is missing or damaged."""
    try:
        record = read_json(path)["made_from"]
        return record if isinstance(record["settings"], dict) else {}
    except (FileError, KeyError, TypeError):
        return {}


def _holds(path: Path, name: str) -> bool:
    """Whether a file holds a JSON object with an entry of this name."""
    try:
        content = read_json(path)
    except FileError:
        return False
    return isinstance(content, dict) and name in content
