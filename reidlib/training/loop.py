"""Trains the weights of a run, epoch by epoch, in one process or several.

An interrupted run resumes after its last finished epoch and gives the same weights. The record of the weights
(`reidlib.training.records`) holds the digest of this module and all that it imports.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reidlib.checkpoints import load_released_checkpoint
from reidlib.datasets.held_out import split_validation
from reidlib.datasets.types import ReidDataset
from reidlib.devices import precision_of
from reidlib.experiment import Experiment
from reidlib.images.augmentation import TrainingImages, enlarged_size
from reidlib.images.decoding import DECODER, load_sizes
from reidlib.images.samplers import epoch_batches
from reidlib.models.backbone import ReidNetwork
from reidlib.models.networks import model_from_experiment
from reidlib.progress import track_progress
from reidlib.training.epoch import Learner, Row, train_epoch
from reidlib.training.parallel import ALONE, Share, run_in_processes

if TYPE_CHECKING:
    from reidlib.training.run_folder import RunFolder

# Scores a network on a data set's query and gallery:
# (network, data set, column prefix, device) → columns of curves.csv.
Scorer = Callable[[ReidNetwork, ReidDataset, str, torch.device], Row]
# Measures a network's features on training images: (network, data set, device) → columns of curves.csv.
Measurer = Callable[[ReidNetwork, ReidDataset, torch.device], Row]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that training one run needs; every process gets a copy.

    Attributes:
        record: what the weights are made from; kept in checkpoints.
        environment: see the function `environment`; kept in checkpoints.
        scorer: scores the network on the validation people or the test set between epochs.
        measurer: measures its features between epochs; None: they are not measured.
    """

    experiment: Experiment
    dataset: ReidDataset
    folder: "RunFolder"
    cache: Path
    record: Mapping[str, Any]
    environment: Mapping[str, Any]
    scorer: Scorer
    measurer: Measurer | None = None

    @property
    def trained_on(self) -> ReidDataset:
        """The data set without the people held out for validation."""
        return split_validation(self.dataset, self.experiment.validation_identities, self.experiment.seed)[0]


def environment(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    """Software and hardware facts that change the numbers; a run may only be resumed under the same ones."""
    gpu = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "decoder": DECODER,
        "device": device.type,
        "processor": torch.cuda.get_device_name(device) if gpu else torch.backends.cpu.get_cpu_capability(),
        "precision": str(precision_of(experiment.precision, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def train(training: Training, device: torch.device) -> tuple[ReidNetwork, list[Row]]:
    """Trains the run, or resumes it. Returns the network after the last epoch, and the rows of curves.csv.

    Checkpoints, curves and the best weights are in the run's folder.
    """
    experiment = training.experiment
    if experiment.processes == 1:
        return _train_share(ALONE, device, training)
    load_training_images(training, torch.device("cpu"))  # decoded once, with all cores
    run_in_processes(experiment.processes, device, _train_share, training)
    saved = training.folder.read_checkpoint(training.record, training.environment)
    untrained = replace(experiment, pretrained=False)
    model = model_from_experiment(untrained, training.trained_on.num_train_identities)
    model.load_state_dict(saved["model"])
    return model, saved["rows"]


def steps_in(experiment: Experiment, dataset: ReidDataset) -> int:
    """The number of steps of the whole run, warm-up included.

    It is a sum over epochs because batches of people × images make epochs of different length.

    Raises:
        ReidError: there are too few images for a batch.
    """
    sizes = (
        experiment.batch_size,
        experiment.images_per_identity,
        experiment.steps_per_epoch,
        experiment.seed,
    )
    epochs = range(experiment.warmup_epochs + experiment.epochs)
    return sum(len(epoch_batches(dataset.train_labels, *sizes, number)) for number in epochs)


def initial_model(experiment: Experiment, num_identities: int) -> ReidNetwork:
    """The network before its first step: random, from a pretrained trunk, or from a whole network's file.

    Raises:
        ConfigError, CheckpointError: the weights' file does not fit, or cannot be read.
    """
    if not experiment.start_from:
        return model_from_experiment(experiment, num_identities)
    model = model_from_experiment(replace(experiment, pretrained=False), num_identities)
    return load_released_checkpoint(
        model,
        experiment.start_from,
        drop_classifiers=not experiment.start_classifiers,
        if_people_differ="set start_classifiers = False, which leaves out the file's",
    )


def load_training_images(training: Training, device: torch.device) -> TrainingImages:
    """The decoded training set of one run, at the sizes that its augmentation needs."""
    experiment = training.experiment
    size = (experiment.height, experiment.width)
    sizes = [size, enlarged_size(*size)] if experiment.crop_probability else [size]
    decoded = load_sizes(
        training.trained_on.train.paths, sizes, cache=training.cache, description="decoding train"
    )
    return TrainingImages(decoded[0], decoded[1] if experiment.crop_probability else None, device)


def best_row(rows: list[Row], where: str) -> Row | None:
    """The first row with the highest rank-1 on the "test" set or mAP on "validation" people; None without."""
    column = {"test": "test_rank1", "validation": "validation_map"}[where]
    return max((row for row in rows if column in row), key=lambda row: row[column], default=None)


def reported_epoch(experiment: Experiment, rows: list[Row]) -> int:
    """The epoch whose weights are the run's, counted from 1 with the warm-up."""
    if experiment.report_epoch == "last":
        return len(rows)
    return best_row(rows, experiment.report_epoch.removeprefix("best_on_"))["epoch"]


def _train_share(share: Share, device: torch.device, training: Training) -> tuple[ReidNetwork, list[Row]]:
    """Trains one process's share of a run: all of it, if there is only one process."""
    experiment, folder = training.experiment, training.folder
    dataset = training.trained_on
    images = load_training_images(training, device)
    learner = _new_learner(experiment, dataset, device, share)
    model, rows = learner.model, _resumed_rows(training, learner)
    if experiment.compile:
        learner.network = torch.compile(model)
    total = experiment.warmup_epochs + experiment.epochs
    room = folder.announced_disk_use(experiment, model, len(rows))
    board = folder.open_board(experiment, len(rows)) if share.rank == 0 else None
    share.wait()  # until every process has read the checkpoint, which is then overwritten
    with track_progress(total, folder.name, "epoch") as epochs:
        epochs.update(len(rows))
        epochs.line(f"{folder.name}: goes on after epoch {len(rows)} of {total}" if rows else room)
        for number in range(len(rows), total):
            if number == experiment.warmup_epochs and number:
                learner.reset_optimizer()  # after the warm-up, as the paper's code does
            row = train_epoch(learner, dataset, images, number)
            rows.append(row)
            if share.rank == 0:
                row |= _scores_after(training, model, number, device)
                best = best_row(rows, "test" if experiment.report_epoch == "best_on_test" else "validation")
                folder.keep_epoch(experiment, model, rows, is_best=experiment.keeps_best and best is row)
                board.add(row)
                # The checkpoint comes last: an epoch that is not in it is trained and written again.
                folder.save_checkpoint(training.record, training.environment, model, learner.optimizer, rows)
                folder.keep_best(best["epoch"] if best else None)
            epochs.update(1, loss=row["loss"])
            epochs.line(
                f"epoch {number + 1:3d}/{total}  loss {row['loss']:7.3f}  accuracy {row['accuracy']:5.1%}  "
                f"lr {row['learning_rate']:.1e}  {row['images_per_second']:6.1f} images/s"
                + (f"  validation mAP {row['validation_map']:5.1%}" if "validation_map" in row else "")
            )
    if board is not None:
        board.close()
    return model, rows


def set_determinism(experiment: Experiment, device: torch.device) -> None:
    """Makes PyTorch repeat results bit by bit: always on a CPU, on a GPU if the experiment asks for it."""
    exact = device.type == "cpu" or experiment.deterministic
    if exact and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic otherwise
    torch.use_deterministic_algorithms(exact)
    torch.backends.cudnn.benchmark = not exact
    # It costs time, and only guards against reading uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False


def _new_learner(experiment: Experiment, dataset: ReidDataset, device: torch.device, share: Share) -> Learner:
    """The run's network before training, with its optimiser; sets determinism and the seed first."""
    set_determinism(experiment, device)
    torch.manual_seed(experiment.seed)
    model = initial_model(experiment, dataset.num_train_identities)
    if experiment.sync_batch_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Learner(experiment, model.to(device, memory_format=torch.channels_last), device, share)


def _resumed_rows(training: Training, learner: Learner) -> list[Row]:
    """Loads the checkpoint, if there is one, into the learner. Returns the rows of the finished epochs."""
    saved = training.folder.read_checkpoint(training.record, training.environment)
    if saved is None:
        return []
    learner.model.load_state_dict(saved["model"])
    learner.optimizer.load_state_dict(saved["optimizer"])
    return saved["rows"]


def _scores_after(training: Training, model: ReidNetwork, number: int, device: torch.device) -> Row:
    """Scores the data sets that are due after this epoch, and measures features. Returns both as columns."""
    experiment, columns = training.experiment, {}
    if experiment.validation_identities and is_scored(experiment, number, experiment.validate_every):
        validation = split_validation(training.dataset, experiment.validation_identities, experiment.seed)[1]
        columns |= training.scorer(model, validation, "validation", device)
    if experiment.score_test_every and is_scored(experiment, number, experiment.score_test_every):
        columns |= training.scorer(model, training.dataset, "test", device)
    if training.measurer and is_scored(experiment, number, experiment.measure_every):
        columns |= training.measurer(model, training.trained_on, device)
    return columns


def is_scored(experiment: Experiment, number: int, every: int) -> bool:
    """Whether an epoch is followed by scoring: the last, and every n-th after the warm-up (n = `every`)."""
    done = number + 1 - experiment.warmup_epochs
    return done == experiment.epochs or (every > 0 and done > 0 and done % every == 0)
