"""Reads the finished runs of a study, decides which belong together, and loads the study's data set.

Runs are compared only if they belong together: they were made from the same data, and each with the settings
of its row under this call's profile and overrides. So two of them differ by what their rows differ by. How a
run was kept (`Housekeeping`) does not matter, nor do the settings in `NO_SCORE`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from reidlib.config import METHODS, OF_FILES, PROFILES, SETTINGS, VARIANTS, experiment_for
from reidlib.datasets import DATASET_TITLES, DATASETS, DatasetError, ReidDataset, join_datasets, load_dataset
from reidlib.experiment import Experiment
from reidlib.files import REPOSITORY
from reidlib.run import METRICS, Run, StaleRunError, read_run
from reidlib.settings import ConfigError, choose, in_short
from reidlib.study.alike import (
    OTHER_DATA,
    differences,
    differences_in_words,
    in_words,
    left_out_sentences,
)
from reidlib.study.reference import read_reference, recorded_dataset
from reidlib.study.results import MissingRunError, Study, require_run
from reidlib.synthetic import SyntheticSpec


def load_run(
    study: Study,
    method: str,
    seed: int = 0,
    *,
    dataset: ReidDataset | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """The finished run of one method and seed.

    Args:
        dataset: check that the run was made from these data.
        overrides: check that the run has the settings of its row under these overrides.

    Raises:
        MissingRunError: there is no such run; the message says which command makes it.
        StaleRunError: the run was made from other data or with other settings, or by another version of the
            study.
    """
    if study.reference:
        runs = finished_runs(study, variants=True)
        return _reference_run(study, [run for run in runs if run.seed == seed], method)
    run = read_run(require_run(study, method, seed))
    same_data = dataset is None or run.is_of(dataset)
    unlike = [] if same_data else [OTHER_DATA]
    unlike += [] if overrides is None else _other_settings(run, study, _by_content(overrides))
    if unlike:
        raise _stale(run, study, unlike, dataset)
    return run


def finished_runs(study: Study, *, variants: bool = False) -> list[Run]:
    """The finished runs of all rows of the tables, sorted by name, whether or not they belong together.

    Runs that were set aside as superseded and runs of released weights are left out. Those of a reference
    study belong together.

    Args:
        variants: also those of the rows' variants, which train the sides of the switches.
    """
    known = METHODS | VARIANTS if variants else METHODS
    if study.reference:
        return sorted(
            (run for run in read_reference(study.reference).runs if run.method in known),
            key=lambda run: run.name,
        )
    folders = sorted(
        path.parent for path in study.runs.glob(f"*/{METRICS}") if ".superseded" not in path.parent.name
    )
    runs = map(read_run, folders)
    return [run for run in runs if run.method in known and run.folder == study.run(run.method, run.seed)]


def belonging(
    study: Study,
    runs: Iterable[Run],
    dataset: ReidDataset,
    overrides: Mapping[str, Any],
    *,
    needs: str = "",
) -> tuple[list[Run], list[str]]:
    """Chooses those of a study's finished runs that belong together.

    Args:
        dataset: the data that they must have been made from.
        overrides: this call's settings, which replace the profile's in every run.
        needs: a method without which there is nothing to compare; "": none.

    Returns:
        The runs that belong together, and one sentence (Markdown) for each reason why others are left out.

    Raises:
        MissingRunError: there is no run of `needs`.
        StaleRunError: there are such runs, but none belongs to these data and settings.
        ConfigError: an unknown setting among the overrides.
    """
    runs = list(runs)
    if study.reference:  # `finished_runs` has only those that belong together
        if needs:
            _reference_run(study, runs, needs)
        return runs, read_reference(study.reference).left_out
    chosen, sentences = _chosen(study, runs, [run.is_of(dataset) for run in runs], _by_content(overrides))
    if needs and needs not in {run.method for run in chosen}:
        for run in runs:
            if run.method == needs:
                load_run(study, needs, run.seed, dataset=dataset, overrides=overrides)  # raises
        require_run(study, needs)
    return chosen, sentences


def _reference_run(study: Study, runs: Iterable[Run], method: str) -> Run:
    """The first of a reference study's runs that is of this method."""
    for run in runs:
        if run.method == method:
            return run
    raise MissingRunError(
        f"The reference study {study.reference} has no such run of {method} that belongs to it. "
        "tools/make_reference.py makes it."
    )


def runs_by_dataset(
    study: Study, dataset: ReidDataset, overrides: Mapping[str, Any], *, needs: str = ""
) -> tuple[dict[str, list[Run]], list[str]]:
    """The same profile's runs on each data set, in the same results folder, that belong together.

    Those of the study itself are chosen by `belonging`. On another data set, the images and the overrides of
    its own study are not known here: those of most runs there count.

    Returns:
        Data set → its runs, and the sentences of `belonging` for all data sets. They also say which overrides
        the runs on another data set have, if these are not this call's.
    """
    runs, sentences = {}, []
    for name in DATASETS:
        if name == study.dataset:
            runs[name], own = belonging(study, finished_runs(study), dataset, overrides, needs=needs)
        elif study.reference:  # other studies have other settings
            runs[name], own = [], []
        else:
            other = Study(study.profile, name, study.root.with_name(f"{study.profile}-{name}"))
            runs[name], own = _most_alike(other, finished_runs(other), _by_content(overrides))
            own = [f"{DATASET_TITLES[name]}: {sentence}" for sentence in own]
        sentences += own
    return runs, sentences


def _most_alike(study: Study, runs: list[Run], overrides: dict[str, Any]) -> tuple[list[Run], list[str]]:
    """The runs with the images and the overrides that most runs have, and the sentences.

    Where as many runs have others, the images of the newest run count, and this call's overrides.
    """
    if not runs:
        return [], []
    newest_first = sorted(runs, key=lambda run: run.files.metrics.stat().st_mtime_ns, reverse=True)
    ((images, _),) = Counter(map(_images_of, newest_first)).most_common(1)
    same_data = [_images_of(run) == images for run in runs]
    alike = [run for run, same in zip(runs, same_data, strict=True) if same]
    # What sets a run apart from its row are overrides, or some of them: the row itself may have the others.
    found = [{name: own for name, (own, _) in _differences(run, study, {}).items()} for run in alike]
    together = {name: value for part in found for name, value in part.items()}
    likely = max(
        (overrides, {}, *sorted(found, key=len), together),
        key=lambda tried: sum(not _other_settings(run, study, tried) for run in alike),
    )
    chosen, sentences = _chosen(study, runs, same_data, likely)
    if all(not _other_settings(run, study, overrides) for run in chosen):
        return chosen, sentences
    with_ = ", ".join(in_words(name, value) for name, value in likely.items()) or "no overrides"
    return chosen, [f"the runs were made with {with_}, unlike those of this study.", *sentences]


def _chosen(
    study: Study, runs: Sequence[Run], same_data: Sequence[bool], overrides: Mapping[str, Any]
) -> tuple[list[Run], list[str]]:
    """The runs on the same data with the settings of their rows under these overrides, and the sentences."""
    chosen, left_out = [], []
    for run, same in zip(runs, same_data, strict=True):
        unlike = [*([] if same else [OTHER_DATA]), *_other_settings(run, study, overrides)]
        if unlike:
            left_out.append((run.name, ", ".join(unlike)))
        else:
            chosen.append(run)
    return chosen, left_out_sentences(left_out)


def _stale(run: Run, study: Study, unlike: Sequence[str], dataset: ReidDataset | None) -> StaleRunError:
    asked_for = f"the images in {dataset.root} and the settings" if dataset else "the settings"
    return StaleRunError(
        f"{run.folder} does not fit {asked_for} asked for: it was made with {', '.join(unlike)}. Name the "
        "data root and the settings (--set) that it was made with, or train it again: "
        f"python run_all.py --profile {study.profile} --dataset {study.dataset} --force"
    )


def _images_of(run: Run) -> tuple[str, str]:
    """Fingerprints of the run's training images and of its test images."""
    return run.made_from["weights"]["data"], run.made_from["scores"]["data"]


def _by_content(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides, with the digest of a file in place of its path. A run's record holds the digest, too.

    Raises:
        ConfigError: an unknown setting.
    """
    values = {choose("setting", name, SETTINGS): value for name, value in overrides.items()}
    for name in OF_FILES:
        if values.get(name) and isinstance(values[name], str):
            from reidlib.torch_files import weights_file_digest  # torch takes seconds to import

            values[name] = weights_file_digest(Path(values[name]))
    return values


def _differences(run: Run, study: Study, overrides: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings in which a run differs from its row under these overrides: name → (the run's, the row's).

    Args:
        overrides: as from `_by_content`. Of files, digests are compared.

    Raises:
        ConfigError: the row cannot have these overrides.
    """
    return differences(run, _row_of(run, study, overrides))


def _row_of(run: Run, study: Study, overrides: Mapping[str, Any]) -> Experiment:
    return experiment_for(
        run.method, dataset=study.dataset, profile=study.profile, seed=run.seed, **overrides
    )


def _other_settings(run: Run, study: Study, overrides: Mapping[str, Any]) -> list[str]:
    """The settings in which a run differs from its row under these overrides, in words."""
    try:
        return differences_in_words(_differences(run, study, overrides))
    except ConfigError as error:
        return [f"settings that its row cannot have here ({str(error).rstrip('.')})"]


# Options of the real data sets. The synthetic one takes the fields of SyntheticSpec.
DATA_OPTIONS = ("include_val", "allow_wrong_counts")


def study_dataset(
    study: Study,
    data_root: str | Path = "",
    data_options: Mapping[str, Any] | None = None,
    *,
    keep_digests: bool = True,
) -> ReidDataset:
    """The study's data set. The synthetic one is rendered on the first call.

    That of a reference study has no images, only what its runs record of it.

    Args:
        data_root: folder of the data set; empty: its usual place under data/. Synthetic data that differ from
            the defaults have a folder named after the differences, so two sizes do not replace each other.
        data_options: for real data, `DATA_OPTIONS`; for synthetic data, fields of SyntheticSpec, which
            replace those of the profile; for joined data, `sources`: name → folder, as in `named_dataset`.
        keep_digests: remember the digests of the images in the study's cache; False: write nothing there.

    Raises:
        ConfigError: an unknown option.
        DatasetError, SyntheticError: as in `load_dataset`.
    """
    if study.reference:
        return recorded_dataset(read_reference(study.reference))
    if study.dataset == "joined":
        return _joined(study, data_root, dict(data_options or {}), keep_digests=keep_digests)
    found = _loaded(study, data_root, dict(data_options or {}))
    return replace(found, cache=study.cache, keep_digests=keep_digests)


def _loaded(study: Study, data_root: str | Path, data_options: dict[str, Any]) -> ReidDataset:
    root = Path(data_root).expanduser() if str(data_root) else None
    if study.dataset != "synthetic":
        for name in data_options:
            choose("data option", name, DATA_OPTIONS)
        return load_dataset(study.dataset, root, **data_options)
    options = synthetic_options(study, data_options)
    return load_dataset("synthetic", root or _synthetic_root(options), synthetic_options=options)


def _synthetic_root(options: Mapping[str, Any]) -> Path:
    """Where rendered people with these options lie, unless a folder is named."""
    usual = "-".join(["synthetic", *(f"{name}-{options[name]}" for name in sorted(options))])
    return REPOSITORY / "data" / usual


def _joined(
    study: Study, data_root: str | Path, data_options: dict[str, Any], *, keep_digests: bool
) -> ReidDataset:
    sources = data_options.pop("sources", None)
    if not isinstance(sources, Mapping) or len(sources) < 2 or str(data_root):
        raise ConfigError(
            "Joined data sets need `sources`, a folder for each of two or more names, and no data root: "
            "--sources NAME=DIR NAME=DIR."
        )
    return join_datasets(
        {
            name: named_dataset(study, name, folder, data_options, keep_digests=keep_digests)
            for name, folder in sources.items()
        }
    )


def named_dataset(
    study: Study,
    name: str,
    folder: str | Path = "",
    data_options: Mapping[str, Any] | None = None,
    *,
    keep_digests: bool = True,
) -> ReidDataset:
    """A data set beside the study's own, or a source of a joined one.

    Args:
        name: one of `DATASETS`; or any other name, for a folder in Market-1501's layout. The images of
            `synthetic` must be there: they are read as they are.
        folder: where it lies; "": its usual place under data/.
        data_options: `DATA_OPTIONS`; include_val counts for MSMT17 only.

    Raises:
        ConfigError: an unknown option, or a name of the caller's own without a folder.
        DatasetError: as in `load_dataset`, or the synthetic images are not there.
    """
    options = {choose("data option", key, DATA_OPTIONS): value for key, value in (data_options or {}).items()}
    if name != "msmt17":
        options.pop("include_val", None)
    kind = name if name in DATASETS and name not in ("synthetic", "joined") else "folder"
    if name == "synthetic" and not folder:
        folder = _synthetic_root(synthetic_options(study, {}))
        if not folder.is_dir():
            raise DatasetError(
                f"The synthetic images are not there yet ({folder}). Make them with: "
                f"python run_all.py --profile {study.profile} --only 01_data"
            )
    if kind == "folder" and not folder:
        raise ConfigError(
            f"{in_short(name)} is no known data set, so its folder must be named: {name}=DIR. "
            f"Known: {', '.join(one for one in DATASETS if one not in ('folder', 'joined'))}."
        )
    found = load_dataset(kind, folder or None, **options)
    return replace(found, cache=study.cache, keep_digests=keep_digests)


def target_datasets(
    study: Study,
    targets: Mapping[str, str],
    data_options: Mapping[str, Any] | None = None,
    *,
    keep_digests: bool = True,
) -> dict[str, ReidDataset]:
    """The data sets on which runs are scored beside the study's own: name → data set.

    Args:
        targets: name → folder, as in `named_dataset`.
        data_options: the study's; `DATA_OPTIONS` among them count here, too.
    """
    options = {name: value for name, value in (data_options or {}).items() if name in DATA_OPTIONS}
    return {
        name: named_dataset(study, name, folder, options, keep_digests=keep_digests)
        for name, folder in targets.items()
    }


def synthetic_options(study: Study, data_options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SyntheticSpec that differ from its defaults. Checks them, and renders nothing."""
    options = {**PROFILES[choose("profile", study.profile, PROFILES)].synthetic, **data_options}
    for name in options:
        choose("data option", name, (field.name for field in fields(SyntheticSpec)))
    spec, default = SyntheticSpec(**options), SyntheticSpec()
    return {name: getattr(spec, name) for name in options if getattr(spec, name) != getattr(default, name)}
