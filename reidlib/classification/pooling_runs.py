"""Spatial attention before global average pooling (GAP) in image classification: training and its results.

The spatial-attention paper (Wang et al., https://arxiv.org/abs/1811.12150) also compares GAP with SA → GAP on
CIFAR-100. Here all poolings of one seed start from the same weights and see the same batches, so only the
pooling differs. All have the same learning rate, which was not tuned for any of them. The last epoch is
reported: the test images choose nothing.

SA's weights sum to 1 before the mean is taken, so its pooled vector is shorter, by about the number of
positions. The control ("gap-short") is as short, without attention. scikit-learn's digits, which need no
download, show the mechanism only. A finished run is one JSON file.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from reidlib.classification.labelled_images import ClassificationError, LabelledImages
from reidlib.code_digest import digest_of_code
from reidlib.devices import best_device
from reidlib.files import FileError, read_json, write_json
from reidlib.images.samplers import shuffled_batches
from reidlib.models.cifar_resnet import CifarResNet
from reidlib.progress import Progress, track_progress
from reidlib.settings import (
    LARGEST_SEED,
    Amount,
    Count,
    PositiveAmount,
    Rule,
    at_least,
    at_most,
    check_settings,
    choose,
)
from reidlib.torch_files import state_digest
from reidlib.training.schedule import cosine_with_rise

POOLINGS = {  # name: (title, CifarResNet's spatial_attention)
    "gap": ("GAP", "none"),
    "gap-short": ("GAP / places (control)", "uniform"),
    "gap+sa-sum": ("GAP + SA (sum, as released)", "sum"),
    "gap+sa-softmax": ("GAP + SA (softmax, as written)", "softmax"),
}


# ----------------------------------------------------------------------------------------------------
# settings

DEPTH = Rule(lambda value: value >= 8 and value % 6 == 2, "6n + 2 (8, 14, 20, …, 56, …, 110)")
SEEDS = Rule(
    lambda value: value and len(set(value)) == len(value) and all(seed >= 0 for seed in value),
    "different whole numbers, 0 or more",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the runs are trained. Raises ConfigError for a value of the wrong type or outside its range."""

    depth: Annotated[int, DEPTH] = 20  # of CifarResNet
    epochs: Annotated[int, at_least(1)] = 200
    batch_size: Annotated[int, at_least(2)] = 128
    # The rate rises linearly over two epochs or a fifth of all, then follows a cosine to zero.
    learning_rate: PositiveAmount = 0.1
    # Nesterov momentum.
    momentum: Annotated[float, Rule(lambda value: 0 < value < 1, "a value between 0 and 1")] = 0.9
    weight_decay: Amount = 5e-4
    seeds: Annotated[tuple[int, ...], SEEDS, at_most(LARGEST_SEED)] = (0, 1, 2, 3, 4)
    at_most: Count = 0  # use only this many training images and this many test images; 0: all

    def __post_init__(self) -> None:
        check_settings(self)


SIZES: dict[str, Settings] = {  # by profile
    "smoke": Settings(depth=8, epochs=1, batch_size=32, seeds=(0, 1), at_most=160),
    "demo": Settings(depth=8, epochs=8, batch_size=64, seeds=(0, 1, 2), at_most=2000),
    "full": Settings(depth=20, epochs=30, batch_size=64),
    "paper": Settings(depth=56, epochs=200),
}


def settings_for(profile: str, **overrides: Any) -> Settings:
    """The profile's settings with some overridden.

    Raises:
        ConfigError: an unknown profile or setting, or an impossible value.
    """
    for name in overrides:
        choose("setting", name, Settings.__dataclass_fields__)
    return replace(SIZES[choose("profile", profile, SIZES)], **overrides)


# ----------------------------------------------------------------------------------------------------
# training


@dataclass(frozen=True, eq=False)
class ClassificationRun:
    """A finished run.

    - curves: one row per epoch, with epoch, loss and accuracy on the training batches, test_accuracy,
      learning_rate and seconds.
    - correct: (test images,) bool, after the last epoch.
    - facts: what `pooling_facts` gives, "before" and "after" training.
    - made_from: its settings, the images' fingerprint ("data") and the code's digest ("code").
    """

    pooling: str
    seed: int
    curves: pd.DataFrame
    correct: np.ndarray
    facts: dict[str, dict[str, float]]
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.pooling}-seed{self.seed}"

    @property
    def title(self) -> str:
        return POOLINGS[self.pooling][0]


def fit_poolings(data: LabelledImages, settings: Settings, folder: Path) -> list[ClassificationRun]:
    """Trains every pooling with every seed; returns the runs by seed, in the order of POOLINGS.

    Each run is a file <pooling>-seed<k>.json in `folder`. A finished run of the same settings, images and
    code is read instead of trained again. One of other settings, images or code is kept as <name>.superseded
    and trained anew.

    Raises:
        ClassificationError: a loss became NaN or infinite, or the images do not fill one batch.
    """
    # at_most is covered by the data's fingerprint.
    kept = {name: value for name, value in asdict(settings).items() if name not in ("seeds", "at_most")}
    made_from = {"settings": kept, "data": data.fingerprint, "code": digest_of_code(__name__)}
    wanted = [(pooling, seed) for seed in settings.seeds for pooling in POOLINGS]
    runs = []
    with track_progress(len(wanted) * settings.epochs, f"classification of {data.name}", "epoch") as epochs:
        for pooling, seed in wanted:
            path = folder / f"{pooling}-seed{seed}.json"
            if path.is_file() and _made_from(path) != made_from:
                path.replace(path.with_name(f"{path.name}.superseded"))
                epochs.line(
                    f"{path.name} was made of other settings, images or code: kept as {path.name}.superseded"
                )
            if path.is_file():
                epochs.update(settings.epochs)
            else:
                write_json(path, {"made_from": made_from, **_train(data, settings, pooling, seed, epochs)})
            runs.append(read_pooling_run(path))
    return runs


def _made_from(path: Path) -> Any:
    """What a run's file says that it was made from; None if the file is damaged."""
    try:
        return read_pooling_run(path).made_from
    except FileError:
        return None


def read_pooling_run(path: Path) -> ClassificationRun:
    """The finished run in a file <pooling>-seed<k>.json.

    Raises:
        FileError: the file is missing or damaged.
    """
    record = read_json(path)
    if not _is_whole(record):
        raise FileError(
            f"The file {path} is no whole record of a run. Delete it and run 23_classification again."
        )
    pooling, _, seed = path.stem.rpartition("-seed")
    correct = np.array([mark == "1" for mark in record["correct"]])
    curves = pd.DataFrame(record["curves"])
    return ClassificationRun(pooling, int(seed), curves, correct, record["facts"], record["made_from"])


_EACH_EPOCH = ("epoch", "loss", "accuracy", "test_accuracy", "learning_rate", "seconds")


def _is_whole(record: Any) -> bool:
    """Whether a run's record has every entry that is read, each of its kind."""

    def has_numbers(values: Any, names: tuple[str, ...]) -> bool:
        return isinstance(values, dict) and all(isinstance(values.get(name), int | float) for name in names)

    match record:
        case {
            "made_from": {"settings": dict(settings), "data": str(), "code": str()},
            "curves": [_, *_] as curves,
            "correct": str(correct),
            "facts": {"before": before, "after": after},
        }:
            of_network = ("pooled_length", "largest_share")
            return (
                {*correct} <= {"0", "1"}
                and correct != ""
                and has_numbers(settings, tuple(settings))
                and all(has_numbers(row, _EACH_EPOCH) for row in curves)
                and has_numbers(before, of_network)
                and has_numbers(after, of_network)
            )
    return False


def _train(
    data: LabelledImages, settings: Settings, pooling: str, seed: int, epochs: Progress
) -> dict[str, Any]:
    """One run's record, as plain data."""
    device = best_device()
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Filling uninitialised memory costs time and guards only against reading it.
    torch.utils.deterministic.fill_uninitialized_memory = False
    model = make_model(data, settings, pooling, seed).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=True,
    )
    facts, curves, total = {"before": pooling_facts(model, data)}, [], settings.epochs
    for epoch in range(total):
        started, losses, hits, seen = time.perf_counter(), [], 0, 0
        count = len(data.train_labels) // settings.batch_size
        model.train()
        for step, (images, labels) in enumerate(training_batches(data, settings, seed, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * cosine_with_rise(epoch + step / count, total)
            logits, target = model(_normalised(images, data, device)), torch.from_numpy(labels).to(device)
            loss = F.cross_entropy(logits, target)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                where = f"{POOLINGS[pooling][0]}, seed {seed}, epoch {epoch + 1}, batch {step + 1}"
                fix = f"Lower learning_rate ({settings.learning_rate:g}) in the notebook's overrides."
                raise ClassificationError(f"{where}: the loss became NaN or infinite. {fix}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            hits, seen = hits + (logits.argmax(1) == target).sum().item(), seen + len(labels)
        correct = predict(model, data) == data.test_labels
        row = {
            "epoch": epoch + 1,
            "loss": sum(losses) / len(losses),
            "accuracy": hits / seen,
            "test_accuracy": float(correct.mean()),
            "learning_rate": settings.learning_rate * cosine_with_rise(epoch, total),
            "seconds": time.perf_counter() - started,
        }
        curves.append(row)
        epochs.update(1, loss=row["loss"])
        epochs.line(
            f"{pooling}-seed{seed}  epoch {epoch + 1:3d}/{total}  loss {row['loss']:6.3f}  "
            f"accuracy {row['accuracy']:5.1%}  test {row['test_accuracy']:5.1%}  "
            f"{seen / row['seconds']:6.0f} images/s"
        )
    facts["after"] = pooling_facts(model, data)
    made_by = {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()}
    correct = "".join("1" if right else "0" for right in correct)  # in JSON a list takes a line per image
    return {
        "curves": curves,
        "facts": facts,
        "weights": state_digest(model),
        "made_by": made_by,
        "correct": correct,
    }


def make_model(data: LabelledImages, settings: Settings, pooling: str, seed: int) -> CifarResNet:
    """The untrained network; its weights depend on the seed, not on the pooling."""
    torch.manual_seed(seed)
    channels = data.train_images.shape[3]
    attention = POOLINGS[choose("pooling", pooling, POOLINGS)][1]
    return CifarResNet(
        len(data.class_names), depth=settings.depth, channels=channels, spatial_attention=attention
    )


def training_batches(
    data: LabelledImages, settings: Settings, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of ((B, H, W, C) bytes, labels (B,)), shifted and mirrored.

    The batches depend on the arguments only, not on the pooling. The incomplete last batch is dropped.

    Raises:
        ClassificationError: the images do not fill one batch.
    """
    rng = np.random.default_rng([seed, epoch])
    batches = list(shuffled_batches(data.train_labels, settings.batch_size, rng))
    if not batches:
        count = len(data.train_labels)
        raise ClassificationError(
            f"{count} training images do not fill one batch of {settings.batch_size}: lower batch_size."
        )
    margin, (height, width) = data.shift, data.train_images.shape[1:3]
    for rows in batches:
        padded = np.pad(data.train_images[rows], ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        top, left = rng.integers(0, 2 * margin + 1, (2, len(rows), 1))
        down, across = top + np.arange(height), left + np.arange(width)  # (B, H), (B, W)
        if data.mirror:
            across = np.where(rng.random((len(rows), 1)) < 0.5, across[:, ::-1], across)
        each = np.arange(len(rows))[:, None, None]
        yield padded[each, down[:, :, None], across[:, None]], data.train_labels[rows]


@torch.inference_mode()
def predict(model: CifarResNet, data: LabelledImages) -> np.ndarray:
    """(test images,) int64: the class with the largest logit. Leaves the network in eval mode."""
    model.eval()
    return np.concatenate([model(batch).argmax(1).cpu().numpy() for batch in _test_batches(model, data)])


@torch.inference_mode()
def pooling_facts(model: CifarResNet, data: LabelledImages) -> dict[str, float]:
    """Means over the test images.

    `pooled_length` is the pooled vector's L2 norm, `largest_share` the largest weight of any position.
    """
    model.eval()
    lengths, shares = [], []
    for batch in _test_batches(model, data):
        feature_map = model.feature_map(batch)
        lengths.append(model.pooled(feature_map).norm(dim=1))
        shares.append(model.attention(feature_map).flatten(1).amax(1))
    return {
        "pooled_length": torch.cat(lengths).mean().item(),
        "largest_share": torch.cat(shares).mean().item(),
    }


def _test_batches(model: CifarResNet, data: LabelledImages) -> Iterator[torch.Tensor]:
    device = next(model.parameters()).device
    for start in range(0, len(data.test_images), 500):
        yield _normalised(data.test_images[start : start + 500], data, device)


def _normalised(images: np.ndarray, data: LabelledImages, device: torch.device) -> torch.Tensor:
    """(B, H, W, C) bytes → (B, C, H, W) float32."""
    mean, std = (torch.from_numpy(values).to(device) for values in data.normalisation)
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() - mean) / std
