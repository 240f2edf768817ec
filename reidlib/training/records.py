"""What a run is made from: one record for its weights and one for its scores.

A run stays the same run while its records are equal. A record holds settings by value, images by fingerprint
and code by digest, and nothing else: not the words of messages, not the settings of the other group, not the
code that draws synthetic people if the data set has none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidlib.code_digest import digest_of_code
from reidlib.datasets.types import ReidDataset
from reidlib.experiment import Experiment, ScoringSettings, TrainingSettings
from reidlib.torch_files import weights_file_digest

WEIGHTS_CODE = "reidlib.training.loop"
RELEASED_WEIGHTS_CODE = ("reidlib.checkpoints", "reidlib.models.networks")
EMBEDDING_CODE = "reidlib.evaluation.embedding"
RANKING_CODE = "reidlib.evaluation.ranking"  # scores between epochs
SCORES_CODE = "reidlib.evaluation.scoring"
MEASURES_CODE = "reidlib.evaluation.measures"  # a part of SCORES_CODE, as EMBEDDING_CODE is

# The settings of scoring that decide the embeddings.
OF_EMBEDDINGS = frozenset({"flip_evaluation", "embedding_precision"})

_IN_WORDS = {
    "data": "other images",
    "code": "other code",
    "checkpoint": "another checkpoint",
    "pretrained": "other pretrained weights",
    "start_from": "other weights to start from",
    "chosen_by": "another choice of the best epoch",
}


def weights_record(experiment: Experiment, dataset: ReidDataset) -> dict[str, Any]:
    """What the weights of a trained run are made from."""
    record: dict[str, Any] = {
        "settings": experiment.group(TrainingSettings),
        "data": dataset.fingerprints["training"],
        "code": digest_of_code(WEIGHTS_CODE),
    }
    for name in ("pretrained", "start_from"):
        path = getattr(experiment, name)
        if path and isinstance(path, str):  # the file at this path may change
            record[name] = weights_file_digest(Path(path))
    if experiment.report_epoch != "last":  # scores decide which weights are the run's
        record["chosen_by"] = scores_between_epochs(experiment, dataset)
        if experiment.report_epoch == "best_on_validation":
            del record["chosen_by"]["data"]  # held-out people are among the training images
    return record


def scores_between_epochs(experiment: Experiment, dataset: ReidDataset) -> dict[str, Any]:
    """What scores of the test set between epochs are made from, besides the weights."""
    return {
        "flip_evaluation": experiment.flip_evaluation,
        "embedding_precision": experiment.embedding_precision,
        "data": dataset.fingerprints["test"],
        "code": digest_of_code(RANKING_CODE),
    }


def checkpoint_record(experiment: Experiment, checkpoint: Path) -> dict[str, Any]:
    """What the weights are made from in a run that scores a released file."""
    return {
        "settings": experiment.group(TrainingSettings),
        "checkpoint": {"file": checkpoint.name, "sha256": weights_file_digest(checkpoint)},
        "code": digest_of_code(*RELEASED_WEIGHTS_CODE),
    }


def scores_record(experiment: Experiment, dataset: ReidDataset) -> dict[str, Any]:
    """What the scores of given weights are made from."""
    return {
        "settings": experiment.group(ScoringSettings),
        "data": dataset.fingerprints["test"],
        "code": digest_of_code(SCORES_CODE),
        "embedding_code": digest_of_code(EMBEDDING_CODE),
        "measures_code": digest_of_code(MEASURES_CODE),
    }


def same_embeddings(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two records of scores, for the same weights, have the same embeddings."""
    one, two = (
        [
            {name: record["settings"].get(name) for name in OF_EMBEDDINGS},
            record["data"],
            record["embedding_code"],
        ]
        for record in (before, now)
    )
    return one == two


def same_measures(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two records of scores, for the same weights, have the same measures: no setting counts."""
    return all(before.get(name) == now[name] for name in ("data", "measures_code"))


def what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two records, in words; [] if they are of the same run."""
    one, two = ({**record.get("settings", {})} for record in (before, now))
    for name in ("pretrained", "start_from"):
        if name in before and name in now:  # two files count by content, wherever they lie
            one[name] = two[name]
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    changed = [f"{name} {one.get(name)!r} → {two.get(name)!r}" for name in names]
    return changed + [words for name, words in _IN_WORDS.items() if before.get(name) != now.get(name)]
