"""Which trainings and which data sets make up the matrix "trained on × tested on"."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reidlib.datasets import DATASET_TITLES, JoinedDataset, ReidDataset
from reidlib.run import METRICS, Run, read_run
from reidlib.study.results import MissingRunError, Study
from reidlib.study.runs import runs_by_dataset

NOT_KNOWN = (
    "What the runs of {} were trained on is not among the data sets of this page: whether their training "
    "people are among those they are tested on was not looked at."
)


class Trained(NamedTuple):
    """Runs of the same training images.

    name: of what they were trained on. images: that data set; None: it is not known here.
    """

    name: str
    runs: list[Run]
    images: ReidDataset | None


def tested_on(study: Study, data: ReidDataset, targets: Mapping[str, ReidDataset]) -> dict[str, ReidDataset]:
    """Title → data set, the columns of the matrix: what the study trains on, then the targets.

    A target with the study's own test images is that column, under the target's name.
    """
    own = data.sources if isinstance(data, JoinedDataset) else {study.dataset: data}
    names = {target.fingerprints["test"]: name for name, target in targets.items()}
    columns = {names.get(one.fingerprints["test"], name): one for name, one in own.items()}
    columns |= {name: target for name, target in targets.items() if name not in columns}
    return {DATASET_TITLES.get(name, name): one for name, one in columns.items()}


def trained_on(
    study: Study,
    data: ReidDataset,
    columns: Mapping[str, ReidDataset],
    overrides: Mapping[str, Any],
    methods: Sequence[str],
    checkpoint: str = "",
) -> tuple[list[Trained], list[str]]:
    """The rows of the matrix, in the order of the columns: the study's runs, and those of its neighbours.

    Neighbours are the same profile's studies of other data sets in the same results folder, as
    `runs_by_dataset` chooses their runs.

    Args:
        methods: whose runs are shown; without a run of the first, there is nothing to show.
        checkpoint: released weights that were scored; their run is the only row. "": none.

    Returns:
        The rows, and sentences (Markdown) on what is left out or not known.

    Raises:
        MissingRunError, StaleRunError: as in `belonging`.
    """
    if checkpoint:
        rows, sentences = [_of_checkpoint(study, methods[0], checkpoint)], []
    else:
        by_dataset, sentences = runs_by_dataset(study, data, overrides, needs=methods[0])
        chosen = {name: [run for run in runs if run.method in methods] for name, runs in by_dataset.items()}
        rows = [_row(study, data, columns, name, runs) for name, runs in chosen.items() if runs]
    order = [*columns]
    rows.sort(key=lambda row: order.index(row.name) if row.name in order else len(order))
    unknown = [row.name for row in rows if row.images is None]
    return rows, [*sentences, *([NOT_KNOWN.format(" and ".join(unknown))] if unknown else [])]


def _row(
    study: Study, data: ReidDataset, columns: Mapping[str, ReidDataset], name: str, runs: list[Run]
) -> Trained:
    """The runs of one study. By their images, they belong to a column, whatever the study is called."""
    if name == study.dataset and isinstance(data, JoinedDataset):
        return Trained(" + ".join(DATASET_TITLES.get(one, one) for one in data.sources), runs, data)
    images = runs[0].made_from["weights"]["data"]
    for title, column in columns.items():
        if column.fingerprints["training"] == images:
            return Trained(title, runs, column)
    return Trained(DATASET_TITLES[name], runs, None)


def _of_checkpoint(study: Study, method: str, checkpoint: str) -> Trained:
    folder = study.checkpoint_run(method, checkpoint)
    if not (folder / METRICS).is_file():
        command = f"python run_all.py --checkpoint FILE --methods {method} --dataset {study.dataset}"
        raise MissingRunError(
            f"The weights of {Path(checkpoint).name} were not scored yet ({folder}). Do that with: {command}"
        )
    return Trained(Path(checkpoint).name, [read_run(folder)], None)
