"""Reads the finished runs of a study, and loads the study's data set."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from reidlib.config import METHODS, PROFILES, VARIANTS
from reidlib.datasets import DATASETS, ReidDataset, load_dataset
from reidlib.files import REPOSITORY
from reidlib.run import METRICS, Run, StaleRunError, read_run
from reidlib.settings import choose
from reidlib.study.results import Study, require_run
from reidlib.synthetic import SyntheticSpec


def load_run(study: Study, method: str, seed: int = 0, *, dataset: ReidDataset | None = None) -> Run:
    """The finished run of one method and seed.

    Args:
        dataset: check that the run was made from these data.

    Raises:
        MissingRunError: there is no such run; the message says which command makes it.
        StaleRunError: the run was made from other data, or by another version of the study.
    """
    run = read_run(require_run(study, method, seed))
    if dataset is not None and not run.is_of(dataset):
        raise StaleRunError(
            f"{run.folder} was made from other data than {dataset.root} holds now. "
            "Name the data root it was made from, or train "
            f"it again: python run_all.py --profile {study.profile} --dataset {study.dataset} --force"
        )
    return run


def finished_runs(study: Study, *, variants: bool = False) -> list[Run]:
    """The finished runs of all rows of the tables, sorted by name.

    Runs that were set aside as superseded and runs of released weights are left out.

    Args:
        variants: also those of the rows' variants, which train the sides of the switches.
    """
    known = METHODS | VARIANTS if variants else METHODS
    folders = sorted(
        path.parent for path in study.runs.glob(f"*/{METRICS}") if ".superseded" not in path.parent.name
    )
    runs = map(read_run, folders)
    return [run for run in runs if run.method in known and run.folder == study.run(run.method, run.seed)]


def runs_by_dataset(study: Study) -> dict[str, list[Run]]:
    """The finished runs of the same profile on each data set, in the same results folder."""
    roots = {dataset: study.root.with_name(f"{study.profile}-{dataset}") for dataset in DATASETS}
    return {dataset: finished_runs(Study(study.profile, dataset, root)) for dataset, root in roots.items()}


# Options of the real data sets. The synthetic one takes the fields of SyntheticSpec.
DATA_OPTIONS = ("include_val", "allow_wrong_counts")


def study_dataset(
    study: Study, data_root: str | Path = "", data_options: Mapping[str, Any] | None = None
) -> ReidDataset:
    """The study's data set. The synthetic one is rendered on the first call.

    Args:
        data_root: folder of the data set; empty: its usual place under data/. Synthetic data that differ from
            the defaults have a folder named after the differences, so two sizes do not replace each other.
        data_options: for real data, `DATA_OPTIONS`; for synthetic data, fields of SyntheticSpec, which
            replace those of the profile.

    Raises:
        ConfigError: an unknown option.
        DatasetError, SyntheticError: as in `load_dataset`.
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
    """The fields of SyntheticSpec that differ from its defaults. Checks them, and renders nothing."""
    options = {**PROFILES[choose("profile", study.profile, PROFILES)].synthetic, **data_options}
    for name in options:
        choose("data option", name, (field.name for field in fields(SyntheticSpec)))
    spec, default = SyntheticSpec(**options), SyntheticSpec()
    return {name: getattr(spec, name) for name in options if getattr(spec, name) != getattr(default, name)}
