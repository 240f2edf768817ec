"""A training run on disk, and what is kept of where it was made.

runs/<method>-seed<k>/  experiment.json   every setting, the data's fingerprint
                        checkpoint.pt     while it trains: weights, optimiser, epoch (replaced after every epoch)
                        best-<n>.pt       the best epoch's weights: while it trains, where they are to be reported; to stay, where
                                          they are the best by validation
                        epoch-<n>.pt      every keep_every-th epoch's weights
                        curves.csv        one row an epoch
                        model.pt          the weights that were scored
                        embeddings.npz    of query and gallery
                        queries.csv       average precision and rank of the first match of every query
                        metrics.json      written last: what has it is finished
                        tensorboard/      the curves, where they are asked for
runs/.<run>.lock                          held by the process that makes the run
A run that scores released weights has no curves; its experiment.json names the file.
"""

import itertools
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib.config import METHODS, PROFILES, ConfigError, Experiment, choose
from reidlib.datasets import ReidDataset, load_dataset
from reidlib.errors import ReidError
from reidlib.models import model_from_experiment
from reidlib.results import REPOSITORY, RUN_METRICS, Study, read_json, require_run
from reidlib.synthetic import SyntheticSpec


class StaleRunError(ReidError):
    """A run was made from other data, or by another version, than what is being looked at."""


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    experiment: Experiment
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row an epoch: the loss terms, learning rate, images per second, seconds."""
        return pd.read_csv(self.folder / "curves.csv")

    @cached_property
    def queries(self) -> pd.DataFrame:
        """One row a query: identity, camera, first_match_rank, average_precision (NaN: no match in the gallery)."""
        return pd.read_csv(self.folder / "queries.csv")

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """`query` (Q, D) and `gallery` (G, D), float32, in the data set's order."""
        with np.load(self.folder / "embeddings.npz") as file:
            return {name: file[name] for name in ("query", "gallery")}

    def model(self) -> torch.nn.Module:
        """The network that was scored, on the CPU, in eval mode."""
        untrained = replace(self.experiment, pretrained=False, classes=self.metrics["classes"])  # all weights are in the file
        network = model_from_experiment(untrained, 0)
        network.load_state_dict(torch.load(self.folder / "model.pt", map_location="cpu", weights_only=True))
        return network.eval()


def load_run(study: Study, method: str, seed: int = 0, *, dataset: ReidDataset | None = None) -> Run:
    """The finished run of one method and seed; with `dataset`, it is checked to have been made from those data.

    Raises:
        MissingRunError: there is none; the message says which command makes it.
        StaleRunError: it was made from other data.
    """
    folder = require_run(study, method, seed)
    record, run = read_json(folder / "experiment.json"), _read_run(folder)
    if dataset is not None and record["data"] != dataset.fingerprint:
        raise StaleRunError(
            f"{folder} was trained on other data (fingerprint {record['data']}) than {dataset.root} holds now "
            f"({dataset.fingerprint}). Name the data root it was made from, or train it again: "
            f"python run_all.py --profile {study.profile} --dataset {study.dataset} --force"
        )
    return run


def set_aside(folder: Path) -> Path | None:
    """Renames a run's folder to the first free <run>.superseded, <run>.superseded-2 …; None where there is no run."""
    if not folder.exists():
        return None
    names = (f"{folder.name}.superseded" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    return folder.rename(next(path for path in map(folder.with_name, names) if not path.exists()))


def finished_runs(study: Study) -> list[Run]:
    """Every finished run of a row of a table, sorted by name; variants of a row and runs set aside as superseded are none."""
    folders = sorted(path.parent for path in study.runs.glob("*/metrics.json") if ".superseded" not in path.parent.name)
    return [run for run in map(_read_run, folders) if run.experiment.method in METHODS]


def finished_run(study: Study, method: str, seed: int) -> Run | None:
    """The finished run of one row or variant and seed, if there is one."""
    folder = study.run(method, seed)
    return _read_run(folder) if (folder / RUN_METRICS).is_file() else None


def _read_run(folder: Path) -> Run:
    try:
        experiment = Experiment(**read_json(folder / "experiment.json")["experiment"])
    except (TypeError, KeyError, ConfigError) as error:
        raise StaleRunError(
            f"{folder} was made by another version of the study ({error}). Move it away, or train it again with --force."
        ) from None
    return Run(folder, experiment, read_json(folder / "metrics.json"))


DATA_OPTIONS = ("include_val", "allow_wrong_counts")  # of the real data sets; the embedded one takes the fields of SyntheticSpec


def study_dataset(study: Study, data_root: str | Path = "", data_options: Mapping[str, Any] | None = None) -> ReidDataset:
    """The study's data set; the embedded one is rendered on the first call.

    Args:
        data_root: its folder; empty: the usual place under data/, for embedded data of other than the default size one
            named after what differs, so that two sizes do not replace each other.
        data_options: `DATA_OPTIONS` for real data; for the embedded data fields of SyntheticSpec, over those of the profile.

    Raises:
        ConfigError: an unknown option. DatasetError, SyntheticError: as `load_dataset`.
    """
    data_options = dict(data_options or {})
    root = Path(data_root).expanduser() if str(data_root) else None
    if study.dataset != "synthetic":
        for name in data_options:
            choose("data option", name, DATA_OPTIONS)
        return load_dataset(study.dataset, root, **data_options)
    options = synthetic_options(study, data_options)
    usual = "-".join(["synthetic", *(f"{name}-{options[name]}" for name in sorted(options))])
    return load_dataset("synthetic", root or REPOSITORY / "data" / usual, synthetic_options=options)


def synthetic_options(study: Study, data_options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SyntheticSpec that differ from its defaults, checked without rendering anything."""
    options = {**PROFILES[choose("profile", study.profile, PROFILES)].synthetic, **data_options}
    for name in options:
        choose("data option", name, (field.name for field in fields(SyntheticSpec)))
    spec, default = SyntheticSpec(**options), SyntheticSpec()
    return {name: getattr(spec, name) for name in options if getattr(spec, name) != getattr(default, name)}


def provenance() -> dict[str, Any]:
    """Where numbers come from: versions, hardware, threads, commit."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _commit() -> str:
    """The checkout's commit, with "+changes" where tracked files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
