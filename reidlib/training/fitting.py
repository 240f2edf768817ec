"""Trains and scores one run (`fit`), or scores released weights (`evaluate_checkpoint`).

Results of the same record are kept: weights are trained once, and scored again if only scoring changed.
"""

import functools
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reidlib.checkpoints import classes_in, load_released_checkpoint
from reidlib.code_digest import digest_of_code
from reidlib.datasets.types import ReidDataset
from reidlib.devices import best_device, cpu_threads
from reidlib.errors import ReidError
from reidlib.evaluation.embedding import embed_test_set
from reidlib.evaluation.measures import kept_measures, measure_run, measure_some
from reidlib.evaluation.ranking import split_scores
from reidlib.evaluation.scoring import score
from reidlib.experiment import Experiment
from reidlib.files import read_json
from reidlib.models.backbone import ReidNetwork
from reidlib.models.networks import model_from_experiment
from reidlib.provenance import provenance_here
from reidlib.run import Run
from reidlib.torch_files import read_torch_file
from reidlib.training.epoch import Row
from reidlib.training.learning import learning_facts
from reidlib.training.loop import (
    Training,
    best_row,
    environment,
    initial_model,
    reported_epoch,
    set_determinism,
    steps_in,
    train,
)
from reidlib.training.parallel import require_devices
from reidlib.training.records import (
    MEASURES_CODE,
    checkpoint_record,
    scores_between_epochs,
    scores_record,
    weights_record,
)
from reidlib.training.run_folder import RunFolder
from reidlib.training.tensorboard import require_tensorboard


def fit(experiment: Experiment, dataset: ReidDataset, folder: Path, *, cache: Path) -> Run:
    """Trains and scores one run. An unfinished run is resumed, and a finished one is returned at once.

    If the folder holds weights of other settings, images or code, it is renamed to `<folder>.superseded`, not
    overwritten. If only the settings, images or code of scoring changed, the weights are kept and scored
    again.

    Args:
        experiment: every setting.
        dataset: what to train and test on.
        folder: the run's folder (see `reidlib.run`).
        cache: where decoded images are kept.

    Raises:
        DivergedError: a loss term is NaN or infinite; it names the term and the batch's images.
        OutOfMemoryError: a batch does not fit; it names the batch size that does.
        CheckpointError: the checkpoint to resume from was written in another environment:
            versions of PyTorch, numpy or Pillow, device, processor, precision. (The number of threads is
            taken from the checkpoint.)
        ReidError: another process makes this run, or this machine lacks what the settings need. Nothing is
            changed in either case.
    """
    files = RunFolder(folder)
    weights, scores = weights_record(experiment, dataset), scores_record(experiment, dataset)
    made = files.has_weights(weights) and files.has_scores(scores)
    if made and files.is_intact(files.curves) and files.is_settled(experiment, weights):
        return Run(files.folder, experiment, read_json(files.metrics))
    with files.only_one():
        if not files.has_weights(weights):  # another process may have made them meanwhile
            _train_into(files, experiment, dataset, weights, cache)
        files.mend_curves()
        if not files.has_scores(scores):
            _score_into(files, experiment, dataset, scores, cache)
        return _finished(experiment, files, weights)


def evaluate_checkpoint(
    experiment: Experiment, dataset: ReidDataset, checkpoint: str | Path, folder: Path, *, cache: Path
) -> Run:
    """Scores released weights, or those of another run of this study, as a run without training.

    Args:
        experiment: the method of the weights, and how it is evaluated.
        checkpoint: a `.pth.tar` of the papers' authors, or a `model.pt` of this study. Every key must fit;
            the number of identities is read from the file.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the method's network (the message
            has the number of keys that do not fit and the first ten of each kind).
    """
    files, checkpoint = RunFolder(folder), Path(checkpoint)
    weights, scores = checkpoint_record(experiment, checkpoint), scores_record(experiment, dataset)
    with files.only_one():
        if not files.has_weights(weights):
            _read_into(files, experiment, checkpoint, weights)
        if not files.has_scores(scores):
            _score_into(files, experiment, dataset, scores, cache)
        return _finished(experiment, files, weights)


def _finished(experiment: Experiment, files: RunFolder, weights: Mapping[str, Any]) -> Run:
    files.claim(experiment, weights)  # housekeeping settings may have changed
    metrics = read_json(files.metrics)
    # Checkpoints are still there if the process ended after writing the scores.
    files.remove_checkpoints(experiment, metrics["best_on_validation"])
    return Run(files.folder, experiment, metrics)


# ---------------------------------------------------------------------------------------------------- weights


def _train_into(
    files: RunFolder, experiment: Experiment, dataset: ReidDataset, record: Mapping[str, Any], cache: Path
) -> None:
    device = best_device()
    training = Training(
        experiment=experiment,
        dataset=dataset,
        folder=files,
        cache=cache,
        record=record,
        environment={},
        scorer=functools.partial(_scores_between_epochs, experiment, cache),
        measurer=functools.partial(measure_some, experiment, cache),
    )
    trained_on = training.trained_on
    _require_what_it_takes(experiment, trained_on, device)
    files.claim(experiment, record)
    files.remove_unfinished()
    files.set_damaged_checkpoint_aside()
    with files.threads_as_begun():
        training = replace(training, environment=environment(experiment, device))
        model, rows = train(training, device)
        reported = reported_epoch(experiment, rows)
        if experiment.report_epoch != "last":
            model.load_state_dict(files.best_weights(reported))
        facts = {
            "started_from": _file_facts(experiment.start_from, record),
            "train_seconds": sum(row["seconds"] for row in rows),
            "images_seen": steps_in(experiment, trained_on) * experiment.batch_size,
            "classes": experiment.classes or trained_on.num_train_identities,
            "train_identities": trained_on.num_train_identities,
            "train_images": len(trained_on.train),
            **learning_facts(experiment, model, rows[-1], trained_on.train_labels),
            "reported_epoch": reported,
            "best_on_test": _best_facts(rows, "test"),
            "best_on_validation": _best_facts(rows, "validation"),
            "scored_with": scores_between_epochs(experiment, dataset),
            "measured_with": digest_of_code(MEASURES_CODE),
            "parameters": _parameters(model),
            "epochs": rows,
            "made_by": provenance_here(),
        }
        files.write_weights(model, facts)


def _read_into(files: RunFolder, experiment: Experiment, checkpoint: Path, record: Mapping[str, Any]) -> None:
    content = read_torch_file(checkpoint)
    classes = classes_in(content, str(checkpoint))
    network = model_from_experiment(replace(experiment, pretrained=False, classes=classes), 0)
    model = load_released_checkpoint(network, content, source=str(checkpoint))
    files.claim(experiment, record)
    facts = {
        "checkpoint": record["checkpoint"],
        "classes": classes,
        **dict.fromkeys(("reported_epoch", "best_on_test", "best_on_validation")),
        "parameters": _parameters(model),
        "train_seconds": 0.0,
        "images_seen": 0,
        "made_by": provenance_here(),
    }
    files.write_weights(model, facts)


def _scores_between_epochs(
    experiment: Experiment,
    cache: Path,
    model: ReidNetwork,
    dataset: ReidDataset,
    name: str,
    device: torch.device,
) -> Row:
    """rank-1 and mAP on a data set's query and gallery, as columns of curves.csv."""
    scores = split_scores(model, experiment, dataset, cache=cache, device=device)
    return {f"{name}_{key}": value for key, value in scores.items()}


def _file_facts(path: str, record: Mapping[str, Any]) -> dict[str, str] | None:
    return {"file": Path(path).name, "sha256": record["start_from"]} if path else None


def _best_facts(rows: list[Row], where: str) -> dict[str, float] | None:
    best = best_row(rows, where)
    return best and {"epoch": best["epoch"], "rank1": best[f"{where}_rank1"], "map": best[f"{where}_map"]}


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _require_what_it_takes(experiment: Experiment, dataset: ReidDataset, device: torch.device) -> None:
    """Fails early: before decoding images or moving an older run."""
    # Raises for too few classes, or weights that do not fit. On "meta", a network takes no memory.
    with torch.device("cpu" if experiment.pretrained or experiment.start_from else "meta"):
        initial_model(experiment, dataset.num_train_identities)
    steps_in(experiment, dataset)  # raises for too few images
    if experiment.processes > 1:
        require_devices(experiment.processes, device)
    if experiment.tensorboard:
        require_tensorboard()
    if experiment.sync_batch_norm and device.type == "cpu":
        raise ReidError(
            "sync_batch_norm = True needs GPUs: PyTorch has no synchronised batch normalisation on CPUs. "
            "Leave it False."
        )
    # the compiler that PyTorch uses
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if experiment.compile and device.type == "cpu" and not shutil.which(compiler):
        raise ReidError(
            f"compile = True needs a C++ compiler, and {compiler} is not on the PATH. Install it, name "
            "another one in the environment variable CXX, or leave it False."
        )
    if experiment.compile and device.type == "cuda" and not importlib.util.find_spec("triton"):
        raise ReidError(
            "compile = True needs the package triton on a GPU, and it is not installed. Install it, or "
            "leave it False."
        )


# ---------------------------------------------------------------------------------------------------- scores


def _score_into(
    files: RunFolder, experiment: Experiment, dataset: ReidDataset, record: Mapping[str, Any], cache: Path
) -> None:
    """Embeds, measures and scores the run's weights. Nothing is written until everything is computed."""
    started, facts = time.perf_counter(), read_json(files.training)
    facts.pop("epochs", None)  # they are in curves.csv
    if facts.pop("scored_with", None) != scores_between_epochs(experiment, dataset):
        facts["best_on_test"] = None  # not comparable with these scores
    set_determinism(experiment, best_device())
    embeddings = files.embeddings_for(record)
    measures = kept_measures(files.measures_for(record), dataset)
    with cpu_threads(facts["made_by"]["threads"]):  # as in training, so that scores repeat bit by bit
        if embeddings is None or measures is None:
            untrained = replace(experiment, pretrained=False, classes=facts["classes"])
            network = model_from_experiment(untrained, 0).to(memory_format=torch.channels_last)
            network.load_state_dict(read_torch_file(files.model))
        if embeddings is None:
            # The cache knows which precision "auto" meant here, so that a page can compare it with another.
            keep = experiment.embedding_precision == "auto"
            embeddings = embed_test_set(network, experiment, dataset, cache=cache, keep=keep)
        if measures is None:
            measures = measure_run(network, experiment, dataset, cache=cache)
        scores, queries = score(embeddings, experiment, dataset, measures)
        scored_by = provenance_here()
    metrics = {
        **scores,
        "train_identities": dataset.num_train_identities,  # `facts` has other counts if some were held out
        "train_images": len(dataset.train),
        "query_images": len(dataset.query),
        "gallery_images": len(dataset.gallery),
        "synthetic": dataset.is_synthetic,
        "embedding_dim": embeddings["query"].shape[1],
        **facts,
        "score_seconds": time.perf_counter() - started,
        "scored_by": scored_by,
    }
    files.write_scores(record, embeddings, queries, metrics)
