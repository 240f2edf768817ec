"""A run on disk: the names of its files, and reading a finished run.

runs/<method>-seed<k>/  weights.json      what the weights are made from: training settings, images, code
                        checkpoint.pt     during training: weights, optimiser, epoch; replaced every epoch
                        curves.csv        one row per epoch
                        best-<n>.pt       best epoch's weights; kept after training only if chosen by
                                          validation
                        epoch-<n>.pt      weights after every keep_every-th epoch
                        model.pt          the weights that are scored
                        training.json     how training went, and whether the run learned; if it exists, the
                                          weights are complete
                        scores.json       what the scores are made from: scoring settings, query and
                                          gallery images, code
                        embeddings.npz    embeddings of query and gallery
                        queries.csv       average precision and rank of the first match of every query, and
                                          measures of its features (reference runs: queries.csv.gz)
                        metrics.json      the scores; written last: if it exists, the run is finished
                        digests.json      SHA-256 of model.pt, curves.csv, embeddings.npz, queries.csv and
                                          metrics.json, as they were written
                        README.md         the model card (reidlib.show.model_card), written by 10_train
                        tensorboard/      the curves, if asked for
runs/.<run>.lock                          locked by the process that makes the run
A run that scores released weights has no curves; its weights.json names their file.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reidlib.datasets.types import ReidDataset
from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.files import FileError, file_digest, read_arrays, read_json
from reidlib.settings import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    import torch

METRICS = "metrics.json"  # the last file that a run writes
DID_NOT_LEARN = "did not learn"  # said of a run instead of its scores, see `Run.learned`


class StaleRunError(ReidError):
    """A run was made from other data, or by another version of the study, than asked for."""


class RunFiles:
    """The paths of a run's files, whether or not they exist."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.weights_record = folder / "weights.json"
        self.checkpoint = folder / "checkpoint.pt"
        self.curves = folder / "curves.csv"
        self.model = folder / "model.pt"
        self.training = folder / "training.json"
        self.scores_record = folder / "scores.json"
        self.embeddings = folder / "embeddings.npz"
        self.queries = folder / "queries.csv"
        self.metrics = folder / METRICS
        self.digests = folder / "digests.json"
        self.card = folder / "README.md"
        self.tensorboard = folder / "tensorboard"
        self.lock = folder.with_name(f".{folder.name}.lock")

    @property
    def name(self) -> str:
        return self.folder.name

    def best(self, epoch: int) -> Path:
        """The best epoch's weights.

        The name holds the epoch because a repeated epoch may score differently on a GPU.
        """
        return self.folder / f"best-{epoch:04d}.pt"

    def all_best(self) -> list[Path]:
        return sorted(self.folder.glob("best-*.pt"))

    def epoch(self, number: int) -> Path:
        """The weights after an epoch. Epochs count from 1 and include the warm-up."""
        return self.folder / f"epoch-{number:04d}.pt"

    def recorded_digests(self) -> dict[str, str]:
        """Name of a file → its SHA-256 as it was written; {} if that is not known, as of older runs."""
        try:
            digests = read_json(self.digests)
        except FileError:
            return {}
        return digests if isinstance(digests, dict) else {}

    def is_intact(self, path: Path) -> bool:
        """Whether one of the run's files is there and, as far as is known, what was written."""
        try:
            recorded = self.recorded_digests().get(path.name)
            return path.is_file() and (recorded is None or file_digest(path) == recorded)
        except OSError as error:
            raise FileError(f"The file {path} cannot be read ({error.strerror}). Allow that.") from error

    def require_intact(self, path: Path) -> None:
        """Raises FileError if a file of the run is there, but is not what was written."""
        if path.is_file() and not self.is_intact(path):
            raise FileError(
                f"The file {path} is damaged or was changed: it is not what was written. Run its step again "
                f"(python run_all.py, which makes it again)."
            )


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    experiment: Experiment
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def method(self) -> str:
        return self.experiment.method

    @property
    def seed(self) -> int:
        return self.experiment.seed

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.folder)

    @property
    def learned(self) -> bool | None:
        """Whether its training loss has left its start (`reidlib.training.learning`).

        None: not known, as of released weights and of runs by older versions. They count as learned.
        """
        return self.metrics.get("learned")

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """One row per epoch: the loss terms, learning rate, images per second, seconds."""
        self.files.require_intact(self.files.curves)
        return _read_csv(self.files.curves)

    @cached_property
    def queries(self) -> "pd.DataFrame":
        """One row per query: query (a name), identity, camera, first_match_rank, average_precision, measures.

        first_match_rank and average_precision are NaN if the gallery has no match. Runs that are re-ranked
        also have reranked_average_precision. The measures of its features
        (`reidlib.evaluation.measures.COLUMNS`) are NaN where they are not defined or not made.
        """
        self.files.require_intact(self.files.queries)
        return _read_csv(self.files.queries)

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """`query` (Q, D) and `gallery` (G, D), float32, in the data set's order."""
        return read_embeddings(self.files)

    def model(self) -> "torch.nn.Module":
        """The network that was scored, on the CPU, in eval mode.

        Raises:
            FileError, CheckpointError: its file is missing or damaged.
        """
        # Imported here: torch takes seconds, which tables need not wait for.
        from reidlib.models.networks import model_from_experiment
        from reidlib.torch_files import read_torch_file

        self.files.require_intact(self.files.model)
        # No pretrained weights are loaded, because the file has all weights.
        untrained = replace(self.experiment, pretrained=False, classes=self.metrics["classes"])
        network = model_from_experiment(untrained, 0)
        network.load_state_dict(read_torch_file(self.files.model))
        return network.eval()

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """What the run's "weights" and "scores" are made from, as its two records say."""
        records = {"weights": self.files.weights_record, "scores": self.files.scores_record}
        return {name: read_json(path)["made_from"] for name, path in records.items()}

    def is_of(self, dataset: ReidDataset) -> bool:
        """Whether the run was trained and scored on this data set's images.

        For released weights, only the test images are compared.
        """
        trained_on = self.made_from["weights"].get("data", dataset.fingerprints["training"])
        scored_on = self.made_from["scores"]["data"]
        return (trained_on, scored_on) == (dataset.fingerprints["training"], dataset.fingerprints["test"])


def read_run(folder: Path) -> Run:
    """The finished run in a folder.

    Raises:
        StaleRunError: another version of the study made the run, with other files or settings.
        FileError: metrics.json is missing, so the run is unfinished, or it is damaged.
    """
    files = RunFiles(folder)
    try:
        weights, scores = read_json(files.weights_record), read_json(files.scores_record)
        experiment = Experiment(
            **weights["labels"], **weights["made_from"]["settings"], **scores["made_from"]["settings"]
        )
    except (TypeError, KeyError, ConfigError, FileError) as error:
        raise StaleRunError(
            f"{folder} was made by another version of the study ({error}). Move it away, or train it again "
            "with --force."
        ) from None
    metrics = read_json(files.metrics)
    if not isinstance(metrics, dict) or "map" not in metrics:
        raise FileError(
            f"The file {files.metrics} holds no scores. Delete it and run the step that writes it again."
        )
    return Run(folder, experiment, metrics)


def read_embeddings(files: RunFiles) -> dict[str, np.ndarray]:
    """`query` (Q, D) and `gallery` (G, D), float32. Raises FileError if the file is missing or damaged."""
    files.require_intact(files.embeddings)
    return read_arrays(files.embeddings, ("query", "gallery"))


def _read_csv(path: Path) -> "pd.DataFrame":
    """The table in a file, or in the file of that name with .gz.

    Raises:
        FileError: it is missing or damaged.
    """
    import pandas as pd  # slow to import; listing runs does not need it

    compressed = path.with_name(f"{path.name}.gz")
    try:
        return pd.read_csv(compressed if compressed.is_file() else path)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise FileError(
            f"The file {path} cannot be read ({type(error).__name__}). Delete it and run the step that "
            "writes it again."
        ) from error
