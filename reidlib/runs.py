"""A training run on disk, and what is kept of where it was made.

runs/<method>-seed<k>/  experiment.json   every setting, the data's fingerprint
                        checkpoint.pt     while it trains: weights, optimiser, epoch (replaced after every epoch)
                        curves.csv        one row an epoch
                        model.pt          the weights after the last epoch
                        embeddings.npz    of query and gallery
                        queries.csv       average precision and rank of the first match of every query
                        metrics.json      written last: what has it is finished
"""

import os
import platform
import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib.config import PROFILES, Experiment, choose
from reidlib.datasets import ReidDataset, load_dataset
from reidlib.errors import ReidError
from reidlib.models import model_from_experiment
from reidlib.results import REPOSITORY, Study, read_json, require_run


class StaleRunError(ReidError):
    """A run was made from other data than what is being looked at."""


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
        """The trained network on the CPU, in eval mode."""
        untrained = replace(self.experiment, pretrained=False)  # all weights are in the file
        network = model_from_experiment(untrained, self.metrics["train_identities"])
        network.load_state_dict(torch.load(self.folder / "model.pt", map_location="cpu", weights_only=True))
        return network.eval()


def load_run(study: Study, method: str, seed: int = 0, *, dataset: ReidDataset | None = None) -> Run:
    """The finished run of one method and seed; with `dataset`, it is checked to have been made from those data.

    Raises:
        MissingRunError: there is none; the message says which command makes it.
        StaleRunError: it was made from other data.
    """
    folder = require_run(study, method, seed)
    record = read_json(folder / "experiment.json")
    if dataset is not None and record["data"] != dataset.fingerprint:
        raise StaleRunError(
            f"{folder} was trained on other data (fingerprint {record['data']}) than {dataset.root} holds now "
            f"({dataset.fingerprint}). Name the data root it was made from, or train it again: "
            f"python run_all.py --profile {study.profile} --dataset {study.dataset} --force"
        )
    return Run(folder, Experiment(**record["experiment"]), read_json(folder / "metrics.json"))


def finished_runs(study: Study) -> list[Run]:
    """Every finished run of the study, sorted by name."""
    folders = sorted(path.parent for path in study.runs.glob("*/metrics.json"))
    return [
        Run(folder, Experiment(**read_json(folder / "experiment.json")["experiment"]), read_json(folder / "metrics.json"))
        for folder in folders
    ]


def study_dataset(study: Study, data_root: str | Path = "") -> ReidDataset:
    """The study's data set; the embedded one is rendered on the first call, in the size that the profile asks for."""
    options = PROFILES[choose("profile", study.profile, PROFILES)].synthetic
    root = Path(data_root).expanduser() if str(data_root) else None
    if study.dataset != "synthetic":
        return load_dataset(study.dataset, root)
    # A profile with a size of its own has a folder of its own, so that the two do not replace each other.
    return load_dataset(
        "synthetic",
        root or REPOSITORY / "data" / (f"synthetic-{study.profile}" if options else "synthetic"),
        synthetic_options=options,
    )


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
