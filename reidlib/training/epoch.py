"""Trains one epoch: forward, backward and an optimiser step for each batch.

All random numbers come from generators seeded by (seed, epoch), so a repeated epoch is the same epoch. On a
GPU, the losses of a step are read while the next step is computed.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from reidlib.datasets.types import ReidDataset
from reidlib.devices import autocast, on_device
from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.images.augmentation import TrainingImages, draw_augmentation
from reidlib.images.samplers import epoch_batches
from reidlib.models.backbone import ReidNetwork
from reidlib.progress import track_progress
from reidlib.training.objective import (
    freeze_trunk,
    give_gradients,
    learning_rate,
    loss_terms,
    make_optimizer,
    weighted_loss,
)
from reidlib.training.parallel import ALONE, Share
from reidlib.training.wide_convolutions import quicken

Row = dict[str, float]  # a row of curves.csv


class DivergedError(ReidError):
    """A loss became NaN or infinite."""


class OutOfMemoryError(ReidError):
    """A batch does not fit the device's memory."""


class Learner:
    """A network in training with its optimiser, on one device, in one process of `share.count`.

    `model` holds the weights. `network` is what runs: the model itself, or its version from torch.compile.
    """

    def __init__(
        self, experiment: Experiment, model: ReidNetwork, device: torch.device, share: Share = ALONE
    ):
        self.experiment, self.device, self.share = experiment, device, share
        self.model = model
        self.network: torch.nn.Module = model
        if not experiment.compile:
            quicken(model, experiment.precision, device)
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        self.optimizer = make_optimizer(self.experiment, self.model)
        self.parameters = [*self.model.trunk_parameters(), *self.model.new_parameters()]

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the new layers; the trunk's rate stays in proportion."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]

    def step(
        self, batch: torch.Tensor, target: torch.Tensor, epoch: int, starts: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """One step of the optimiser; arguments and result as for `gradients`."""
        self.model.zero_grad(set_to_none=True)
        values = self.gradients(batch, target, epoch, starts)
        give_gradients(self.optimizer, self.parameters)
        self.optimizer.step()
        return values

    def gradients(
        self, batch: torch.Tensor, target: torch.Tensor, epoch: int, starts: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Forward and backward of one batch, which leave the gradients in the model's parameters.

        Args:
            batch: (b, 3, H, W), this process's share of the images.
            target: (B,), the labels of the whole batch.
            epoch: counted from the end of the warm-up; negative during the warm-up.
            starts: draws the start vectors of the power iterations; None: torch's global generator.

        Returns:
            The loss, its terms and the first head's accuracy (with `log_weighted_loss` also that loss), as
            scalars on the device, averaged over processes.
        """
        experiment, share = self.experiment, self.share
        with autocast(experiment.precision, batch.device):
            output = self.network(batch)
        own = target[share.of(len(target))]
        terms = loss_terms(experiment, self.model, output, target, epoch, starts=starts, share=share)
        loss = sum(terms.values())
        loss.backward()
        share.average_gradients(self.model.parameters())
        values = {"loss": loss, **terms}
        if experiment.log_weighted_loss:
            values["weighted_loss"] = weighted_loss(experiment, output, own)
        values["accuracy"] = (output.logits[0].argmax(1) == own).float().mean()
        means = share.mean(torch.stack([value.detach().float() for value in values.values()]))
        return dict(zip(values, means, strict=True))


def augmentation_of(experiment: Experiment) -> dict[str, Any]:
    """The settings that `draw_augmentation` takes."""
    return {
        "crop": experiment.crop_probability,
        "flip": experiment.flip_probability,
        "erase": experiment.erase_probability,
        "corners": experiment.crop_corners,
        "erase_largest": experiment.erase_largest,
        "erase_fill": experiment.erase_fill,
        "jitter": experiment.colour_jitter,
    }


def train_epoch(learner: Learner, dataset: ReidDataset, images: TrainingImages, number: int) -> Row:
    """Trains one epoch. Returns its row of curves.csv.

    Args:
        number: of the epoch, from 0, warm-up included.

    Raises:
        DivergedError: a loss term became NaN or infinite.
        OutOfMemoryError: a batch does not fit the device's memory.
    """
    experiment, device, share = learner.experiment, learner.device, learner.share
    warming_up = number < experiment.warmup_epochs
    epoch = number - experiment.warmup_epochs  # negative while warming up
    labels = dataset.train_labels
    batches = epoch_batches(
        labels,
        experiment.batch_size,
        experiment.images_per_identity,
        experiment.steps_per_epoch,
        experiment.seed,
        number,
    )
    augmentation = augmentation_of(experiment)
    torch.manual_seed(_mix(experiment.seed, number) + share.rank)  # dropout
    draws = torch.Generator().manual_seed(_mix(experiment.seed, number) + 1)
    # for the start vectors of the power iterations
    starts = torch.Generator(device).manual_seed(_mix(experiment.seed, number) + 2)
    learner.model.train()
    freeze_trunk(learner.model, warming_up)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sums: Row = {}
    started, peak_rate, unread = time.perf_counter(), 0.0, []
    with track_progress(len(batches), f"epoch {number + 1}", "batch") as bar:

        def add_up(step: int, read: Callable[[], Row]) -> None:
            values = read()
            _require_finite(values, number, step, [dataset.train.paths[row] for row in batches[step]])
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            bar.update(1, loss=values["loss"])

        for step, rows in enumerate(batches):
            rate = (
                learning_rate(experiment, epoch + step / len(batches))
                if not warming_up
                else experiment.learning_rate
            )
            peak_rate = max(peak_rate, rate)
            learner.set_rate(rate)
            drawn = draw_augmentation(len(rows), *images.size, draws, **augmentation)
            part = share.of(len(rows))
            target = on_device(torch.from_numpy(labels[rows]), device)
            full = False
            try:
                values = learner.step(images.batch(rows[part], drawn[part]), target, epoch, starts)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                # The search for a size that fits is outside `except`: the exception keeps the batch alive.
                full = True
            if full:
                raise _out_of_memory(learner, images, labels)
            unread.append((step, _later(values)))
            if len(unread) > (device.type == "cuda"):  # on a GPU, read one step later
                add_up(*unread.pop(0))
        for waiting in unread:
            add_up(*waiting)
    seconds = time.perf_counter() - started
    count = len(batches) * experiment.batch_size
    return {
        "epoch": number + 1,
        **{name: value / len(batches) for name, value in sums.items()},
        "learning_rate": peak_rate,
        "images_per_second": count / seconds,
        "seconds": seconds,
        "memory_mb": _memory(device),
    }


def _later(values: Mapping[str, torch.Tensor]) -> Callable[[], Row]:
    """Starts an asynchronous copy of the values. The returned function waits for it and gives numbers."""
    stacked = torch.stack(list(values.values()))
    if not stacked.is_cuda:
        return lambda: dict(zip(values, stacked.tolist(), strict=True))
    here = torch.empty(stacked.shape, pin_memory=True)
    here.copy_(stacked, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> Row:
        copied.synchronize()
        return dict(zip(values, here.tolist(), strict=True))

    return read


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 2)


def _require_finite(values: dict[str, float], epoch: int, step: int, paths: list[Path]) -> None:
    broken = [name for name, value in values.items() if name != "loss" and not math.isfinite(value)]
    if broken:
        names = ", ".join(path.name for path in paths)
        raise DivergedError(
            f"{' and '.join(broken)} became NaN or infinite in epoch {epoch + 1}, batch {step + 1} "
            f"({names}). Lower learning_rate, or set precision = 'float32' if that batch is sound."
        )


def _memory(device: torch.device) -> float:
    """Megabytes: PyTorch's peak on the GPU in this epoch, or on a CPU this process's resident memory now."""
    return (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else psutil.Process().memory_info().rss
    ) / 1e6


# In PyTorch's errors, in lower case: CPU allocator on Linux and macOS, on Windows; CUDA; cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed")


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )


def _out_of_memory(learner: Learner, images: TrainingImages, labels: np.ndarray) -> OutOfMemoryError:
    """The error to raise. It names the first batch size that fits, found with steps of ever smaller batches.

    These steps change the weights: the network cannot be used afterwards.
    """
    experiment, device, processes = learner.experiment, learner.device, learner.share.count
    if experiment.sync_batch_norm:  # a step needs all processes, and others may have enough memory
        return OutOfMemoryError(
            f"Out of memory at batch_size = {experiment.batch_size} on {device}. Set a smaller one."
        )
    alone = Learner(experiment, learner.model, device)
    freeze_trunk(alone.model, False)  # the batch must also fit after the warm-up
    learner.optimizer.state.clear()
    unit = max(experiment.images_per_identity, 2)
    size, tried = experiment.batch_size // processes, []
    while size // 2 >= unit * (2 if experiment.triplet_weight else 1):
        size = size // 2 // unit * unit
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            target = torch.from_numpy(labels[:size]).to(device)
            epoch = max(experiment.epochs, experiment.of_start_epoch)  # with every loss term
            alone.step(images.batch(np.arange(size)), target, epoch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            tried.append(size)
            continue
        advice = f"batch_size = {size * processes} fits" + (
            f" ({', '.join(map(str, tried))} did not)" if tried else ""
        )
        return OutOfMemoryError(
            f"Out of memory at batch_size = {experiment.batch_size} on {device}: {advice}. Set it (--set "
            f"batch_size={size * processes}); learning_rate may need the same factor. That is another run: "
            "it starts anew."
        )
    return OutOfMemoryError(
        f"Out of memory at batch_size = {experiment.batch_size} on {device}, and no smaller one fits "
        "either. Set a smaller backbone, height or width, or use a device with more memory."
    )
