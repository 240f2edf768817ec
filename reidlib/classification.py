"""Spatial attention before global average pooling in image classification: data, training, and what the runs say.

The spatial-attention paper (Wang et al., https://arxiv.org/abs/1811.12150) compares GAP with SA → GAP on CIFAR-100 as well. Here
the variants of one seed start from the same weights and see the same batches, so only the pooling differs; all have the same
learning rate, chosen for none of them. The last epoch is reported: the test images choose nothing. SA's shares sum to 1 before
the mean is taken, so it pools to vectors shorter by the number of places; the control has that without the attention.
scikit-learn's digits, which need no download, show the mechanism only. A finished run is one JSON file.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from reidlib.batches import shuffled_batches
from reidlib.config import ConfigError, choose
from reidlib.embedding import best_device
from reidlib.fingerprints import code_digest
from reidlib.labelled_images import ClassificationError, LabelledImages
from reidlib.models.cifar_resnet import CifarResNet
from reidlib.progress import EpochProgress, progress
from reidlib.results import read_json, write_json

VARIANTS = {  # name: (title, CifarResNet's spatial_attention)
    "gap": ("GAP", "none"),
    "gap-short": ("GAP / places (control)", "uniform"),
    "gap+sa-sum": ("GAP + SA (sum, as released)", "sum"),
    "gap+sa-softmax": ("GAP + SA (softmax, as written)", "softmax"),
}


# ---------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the runs are trained. Raises ConfigError for a value of the wrong type or outside its range."""

    depth: int = 20  # of CifarResNet
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1  # linear rise over two epochs or a fifth of all, then a cosine to zero
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 5e-4
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    at_most: int = 0  # only so many training images, and so many test images; 0: all

    def __post_init__(self) -> None:
        if isinstance(self.seeds, list):
            object.__setattr__(self, "seeds", tuple(self.seeds))
        for name, (accepts, expected) in _RULES.items():
            if not accepts(getattr(self, name)):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: expected {expected}.")


def _whole(least: int):
    return (lambda value: type(value) is int and value >= least), f"a whole number, {least} or more"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_RULES = {
    "depth": ((lambda value: type(value) is int and value >= 8 and value % 6 == 2), "6n + 2 (8, 14, 20, …, 56, …, 110)"),
    "epochs": _whole(1),
    "batch_size": _whole(2),
    "learning_rate": ((lambda value: _number(value) and value > 0), "a value above 0"),
    "momentum": ((lambda value: _number(value) and 0 < value < 1), "a value between 0 and 1"),
    "weight_decay": ((lambda value: _number(value) and value >= 0), "0 or more"),
    "seeds": (
        lambda value: (
            type(value) is tuple and value and len(set(value)) == len(value) and all(type(n) is int and n >= 0 for n in value)
        ),
        "different whole numbers, 0 or more",
    ),
    "at_most": _whole(0),
}

SIZES: dict[str, Settings] = {  # by profile
    "smoke": Settings(depth=8, epochs=1, batch_size=32, seeds=(0, 1), at_most=160),
    "demo": Settings(depth=8, epochs=8, batch_size=64, seeds=(0, 1, 2), at_most=2000),
    "full": Settings(depth=20, epochs=30, batch_size=64),
    "paper": Settings(depth=56, epochs=200),
}


def settings_for(profile: str, **overrides: Any) -> Settings:
    """The profile's settings with some overridden; ConfigError for an unknown profile or setting, or an impossible value."""
    for name in overrides:
        choose("setting", name, Settings.__dataclass_fields__)
    return replace(SIZES[choose("profile", profile, SIZES)], **overrides)


# ---------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, eq=False)
class ClassificationRun:
    """A finished run.

    curves: one row an epoch: epoch, loss and accuracy on the training batches, test_accuracy, learning_rate, seconds.
    correct: (test images,) bool, after the last epoch. facts: what `pooling_facts` gives, "before" and "after" training.
    """

    variant: str
    seed: int
    curves: pd.DataFrame
    correct: np.ndarray
    facts: dict[str, dict[str, float]]

    @property
    def title(self) -> str:
        return VARIANTS[self.variant][0]


def fit_variants(data: LabelledImages, settings: Settings, folder: Path) -> list[ClassificationRun]:
    """Every variant with every seed, as <variant>-seed<k>.json in `folder`; by seed, in the order of VARIANTS.

    A finished run of the same settings, images and code is read, not trained again; one of others is kept as
    <name>.superseded and trained anew.

    Raises:
        ClassificationError: a loss became NaN or infinite, or the images do not fill one batch.
    """
    kept = {name: value for name, value in asdict(settings).items() if name not in ("seeds", "at_most")}  # at_most: in `data`
    made_from = {"settings": kept, "data": data.fingerprint, "code": code_digest(__name__)}
    wanted = [(variant, seed) for seed in settings.seeds for variant in VARIANTS]
    runs = []
    with progress(len(wanted) * settings.epochs, f"classification of {data.name}", "epoch") as epochs:
        for variant, seed in wanted:
            path = folder / f"{variant}-seed{seed}.json"
            if path.is_file() and read_json(path)["made_from"] != made_from:
                path.replace(path.with_name(f"{path.name}.superseded"))
                epochs.line(f"{path.name} was made of other settings, images or code: kept as {path.name}.superseded")
            if path.is_file():
                epochs.update(settings.epochs)
            else:
                write_json(path, {"made_from": made_from, **_train(data, settings, variant, seed, epochs)})
            record = read_json(path)
            correct = np.array([mark == "1" for mark in record["correct"]])
            runs.append(ClassificationRun(variant, seed, pd.DataFrame(record["curves"]), correct, record["facts"]))
    return runs


def _train(data: LabelledImages, settings: Settings, variant: str, seed: int, epochs: EpochProgress) -> dict[str, Any]:
    """One run's record, as plain data."""
    device = best_device()
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and guards only against reading such memory
    model = make_model(data, settings, variant, seed).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )
    facts, curves, total = {"before": pooling_facts(model, data)}, [], settings.epochs
    for epoch in range(total):
        started, losses, hits, seen = time.perf_counter(), [], 0, 0
        count = len(data.train_labels) // settings.batch_size
        model.train()
        for step, (images, labels) in enumerate(training_batches(data, settings, seed, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, epoch + step / count)
            logits, target = model(_normalised(images, data, device)), torch.from_numpy(labels).to(device)
            loss = F.cross_entropy(logits, target)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                where = f"{VARIANTS[variant][0]}, seed {seed}, epoch {epoch + 1}, batch {step + 1}"
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
            "learning_rate": learning_rate(settings, epoch),
            "seconds": time.perf_counter() - started,
        }
        curves.append(row)
        epochs.update(1, loss=row["loss"])
        epochs.line(
            f"{variant}-seed{seed}  epoch {epoch + 1:3d}/{total}  loss {row['loss']:6.3f}  accuracy {row['accuracy']:5.1%}  "
            f"test {row['test_accuracy']:5.1%}  {seen / row['seconds']:6.0f} images/s"
        )
    facts["after"] = pooling_facts(model, data)
    made_by = {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()}
    correct = "".join("1" if right else "0" for right in correct)  # a list would be a line an image
    return {"curves": curves, "facts": facts, "weights": _weights_digest(model), "made_by": made_by, "correct": correct}


def make_model(data: LabelledImages, settings: Settings, variant: str, seed: int) -> CifarResNet:
    """The untrained network; its weights depend on the seed, not on the variant."""
    torch.manual_seed(seed)
    channels = data.train_images.shape[3]
    attention = VARIANTS[choose("variant", variant, VARIANTS)][1]
    return CifarResNet(len(data.class_names), depth=settings.depth, channels=channels, spatial_attention=attention)


def training_batches(data: LabelledImages, settings: Settings, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of ((B, H, W, C) bytes, labels (B,)), shifted and mirrored; a function of its arguments, whatever the variant.

    The incomplete last batch is dropped. ClassificationError where the images do not fill one.
    """
    rng = np.random.default_rng([seed, epoch])
    batches = list(shuffled_batches(data.train_labels, settings.batch_size, rng))
    if not batches:
        count = len(data.train_labels)
        raise ClassificationError(f"{count} training images do not fill one batch of {settings.batch_size}: lower batch_size.")
    margin, (height, width) = data.shift, data.train_images.shape[1:3]
    for rows in batches:
        padded = np.pad(data.train_images[rows], ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        top, left = rng.integers(0, 2 * margin + 1, (2, len(rows), 1))
        down, across = top + np.arange(height), left + np.arange(width)  # (B, H), (B, W)
        if data.mirror:
            across = np.where(rng.random((len(rows), 1)) < 0.5, across[:, ::-1], across)
        each = np.arange(len(rows))[:, None, None]
        yield padded[each, down[:, :, None], across[:, None]], data.train_labels[rows]


def learning_rate(settings: Settings, epoch: float) -> float:
    """The rate at a (fractional) epoch: a linear rise from a tenth, then a cosine to zero at the end."""
    rise = min(2.0, settings.epochs / 5)
    if epoch < rise:
        return settings.learning_rate * (0.1 + 0.9 * epoch / rise)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - rise) / (settings.epochs - rise)))


@torch.inference_mode()
def predict(model: CifarResNet, data: LabelledImages) -> np.ndarray:
    """(test images,) int64: the class with the largest logit. The network is left in eval mode."""
    model.eval()
    return np.concatenate([model(batch).argmax(1).cpu().numpy() for batch in _test_batches(model, data)])


@torch.inference_mode()
def pooling_facts(model: CifarResNet, data: LabelledImages) -> dict[str, float]:
    """Means over the test images: `pooled_length`, the pooled vector's L2 norm; `largest_share`, of any one place."""
    model.eval()
    lengths, shares = [], []
    for batch in _test_batches(model, data):
        feature_map = model.feature_map(batch)
        lengths.append(model.pooled(feature_map).norm(dim=1))
        shares.append(model.attention(feature_map).flatten(1).amax(1))
    return {"pooled_length": torch.cat(lengths).mean().item(), "largest_share": torch.cat(shares).mean().item()}


def _test_batches(model: CifarResNet, data: LabelledImages) -> Iterator[torch.Tensor]:
    device = next(model.parameters()).device
    for start in range(0, len(data.test_images), 500):
        yield _normalised(data.test_images[start : start + 500], data, device)


def _normalised(images: np.ndarray, data: LabelledImages, device: torch.device) -> torch.Tensor:
    """(B, H, W, C) bytes → (B, C, H, W) float32."""
    mean, std = (torch.from_numpy(values).to(device) for values in data.normalisation)
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() - mean) / std


def _weights_digest(model: torch.nn.Module) -> str:
    """16 hex digits over the weights, by which two runs can be seen to have ended in the same place, bit for bit."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
