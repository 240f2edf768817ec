"""One epoch of a run: its batches through the network, backward, and the optimiser's steps.

Everything random is drawn from generators seeded by (seed, epoch), so that an epoch done again is the same epoch. On a GPU the
host runs a step ahead: the numbers of a step are looked at while the next one is computed.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import torch

from reidlib.augmentation import TrainingImages, draw_augmentation, sent
from reidlib.batches import epoch_batches
from reidlib.config import Experiment
from reidlib.datasets import ReidDataset
from reidlib.embedding import autocast
from reidlib.errors import ReidError
from reidlib.models import ReidNetwork
from reidlib.optimisation import freeze_trunk, learning_rate, loss_terms, weighted_loss
from reidlib.parallel import ALONE, Share
from reidlib.progress import progress

Row = dict[str, float]  # of curves.csv


class DivergedError(ReidError):
    """A loss became NaN or infinite."""


class OutOfMemoryError(ReidError):
    """A batch does not fit the device's memory."""


def train_epoch(
    experiment: Experiment,
    model: ReidNetwork,
    optimizer: torch.optim.Optimizer,
    dataset: ReidDataset,
    images: TrainingImages,
    number: int,
    device: torch.device,
    *,
    network: torch.nn.Module | None = None,
    share: Share = ALONE,
) -> Row:
    """One epoch; `number` counts the warm-up epochs too. network: the compiled model. Returns the epoch's row of curves.csv."""
    warming_up = number < experiment.warmup_epochs
    epoch = number - experiment.warmup_epochs  # negative while warming up
    labels = dataset.train_labels
    batches = epoch_batches(
        labels, experiment.batch_size, experiment.images_per_identity, experiment.steps_per_epoch, experiment.seed, number
    )
    torch.manual_seed(_mix(experiment.seed, number) + share.rank)  # dropout
    draws = torch.Generator().manual_seed(_mix(experiment.seed, number) + 1)
    starts = torch.Generator(device).manual_seed(_mix(experiment.seed, number) + 2)  # start vectors of the power iterations
    network = model if network is None else network  # a compiled model has no truth value
    model.train()
    freeze_trunk(model, warming_up)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sums: Row = {}
    started, peak_rate, behind = time.perf_counter(), 0.0, []
    with progress(len(batches), f"epoch {number + 1}", "batch") as bar:

        def note(step: int, read: Callable[[], Row]) -> None:
            values = read()
            _require_finite(values, number, step, [dataset.train.paths[row] for row in batches[step]])
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            bar.update(1, loss=values["loss"])

        for step, rows in enumerate(batches):
            rate = learning_rate(experiment, epoch + step / len(batches)) if not warming_up else experiment.learning_rate
            peak_rate = max(peak_rate, rate)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            drawn = draw_augmentation(len(rows), *images.size, draws, **experiment.augmentation)
            part = share.of(len(rows))
            target = sent(torch.from_numpy(labels[rows]), device)
            full = False
            try:
                batch = images.batch(rows[part], drawn[part])
                optimizer.zero_grad(set_to_none=True)
                values = gradients_of(experiment, model, network, batch, target, epoch, starts=starts, share=share)
                optimizer.step()
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                full = True  # what does fit is found out below, once this error, which holds on to the batch's memory, is gone
            if full:
                raise _out_of_memory(experiment, model, optimizer, images, labels, device, share)
            behind.append((step, _later(values)))
            if len(behind) > (device.type == "cuda"):  # a GPU is not waited for, but for the step before this one
                note(*behind.pop(0))
        for waiting in behind:
            note(*waiting)
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


def gradients_of(
    experiment: Experiment,
    model: ReidNetwork,
    network: torch.nn.Module,
    batch: torch.Tensor,
    target: torch.Tensor,
    epoch: int,
    *,
    starts: torch.Generator | None = None,
    share: Share = ALONE,
) -> dict[str, torch.Tensor]:
    """Forward and backward of one batch: the gradients are in the model's parameters then.

    Args:
        network: the model, or what torch.compile made of it.
        batch: this process's share of the images.
        target: the labels of the whole batch.

    Returns:
        The loss, its terms and the first head's accuracy, scalars on the device, the means over processes.
    """
    with autocast(experiment.precision, batch.device):
        output = network(batch)
    own = target[share.of(len(target))]
    terms = loss_terms(experiment, model, output, target, epoch, starts=starts, share=share)
    loss = sum(terms.values())
    loss.backward()
    share.average_gradients(model.parameters())
    values = {"loss": loss, **terms}
    if experiment.log_weighted_loss:
        values["weighted_loss"] = weighted_loss(experiment, output, own)
    values["accuracy"] = (output.logits[0].argmax(1) == own).float().mean()
    means = share.mean(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, means, strict=True))


def _later(values: Mapping[str, torch.Tensor]) -> Callable[[], Row]:
    """The values as numbers, once they are asked for: a GPU starts to send them now and is only waited for then."""
    stacked = torch.stack(list(values.values()))
    if not stacked.is_cuda:
        return lambda: dict(zip(values, stacked.tolist(), strict=True))
    here = torch.empty(stacked.shape, pin_memory=True)
    here.copy_(stacked, non_blocking=True)
    sent = torch.cuda.Event()
    sent.record()

    def read() -> Row:
        sent.synchronize()
        return dict(zip(values, here.tolist(), strict=True))

    return read


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 2)


def _require_finite(values: dict[str, float], epoch: int, step: int, paths: list[Path]) -> None:
    broken = [name for name, value in values.items() if name != "loss" and not math.isfinite(value)]
    if broken:
        names = ", ".join(path.name for path in paths)
        raise DivergedError(
            f"{' and '.join(broken)} became NaN or infinite in epoch {epoch + 1}, batch {step + 1} ({names}). "
            "Lower learning_rate, or set precision = 'float32' if that batch is sound."
        )


def _memory(device: torch.device) -> float:
    """Megabytes: the most that PyTorch had taken of a GPU in this epoch, or what this process has of the machine's memory."""
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss) / 1e6


# How PyTorch says it, in lower case: a CPU's allocator on Linux and macOS and on Windows, CUDA, cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed")


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _out_of_memory(
    experiment: Experiment,
    model: ReidNetwork,
    optimizer: torch.optim.Optimizer,
    images: TrainingImages,
    labels: np.ndarray,
    device: torch.device,
    share: Share,
) -> OutOfMemoryError:
    """The error, after whole steps of smaller and smaller batches until one fits. The network is of no use afterwards."""
    if experiment.sync_batch_norm:  # a step needs all processes, and the others may have had memory enough
        return OutOfMemoryError(f"Out of memory at batch_size = {experiment.batch_size} on {device}. Set a smaller one.")
    freeze_trunk(model, False)  # what fits must fit after the warm-up, too
    optimizer.state.clear()
    unit = max(experiment.images_per_identity, 2)
    size, tried = experiment.batch_size // share.count, []
    while size // 2 >= unit * (2 if experiment.triplet_weight else 1):
        size = size // 2 // unit * unit
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            optimizer.zero_grad(set_to_none=True)
            target = torch.from_numpy(labels[:size]).to(device)
            epoch = max(experiment.epochs, experiment.of_start_epoch)  # every term is there
            gradients_of(experiment, model, model, images.batch(np.arange(size)), target, epoch)
            optimizer.step()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            tried.append(size)
            continue
        advice = f"batch_size = {size * share.count} fits" + (f" ({', '.join(map(str, tried))} did not)" if tried else "")
        return OutOfMemoryError(
            f"Out of memory at batch_size = {experiment.batch_size} on {device}: {advice}. Set it (--set "
            f"batch_size={size * share.count}); learning_rate may need the same factor. That is another run: it starts anew."
        )
    return OutOfMemoryError(
        f"Out of memory at batch_size = {experiment.batch_size} on {device}, and no smaller one fits either. Set a smaller "
        "backbone, height or width, or use a device with more memory."
    )
