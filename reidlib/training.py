"""One run: batches → network → losses → weights, curves, embeddings and metrics in the run's folder. `fit` trains and scores,
`evaluate_checkpoint` scores weights that others trained.

Everything random in an epoch is drawn from generators seeded by (seed, epoch), so an interrupted run goes on from its last
finished epoch as if it had not been interrupted.
"""

import csv
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reidlib import losses
from reidlib.batches import augment, epoch_batches, load_images, normalise
from reidlib.checkpoints import classes_in, load_released_checkpoint
from reidlib.config import Experiment
from reidlib.datasets import ReidDataset
from reidlib.embedding import autocast, best_device
from reidlib.errors import ReidError
from reidlib.fingerprints import code_digest
from reidlib.models import ReidNetwork, ReidOutput, model_from_experiment
from reidlib.progress import progress
from reidlib.results import read_json, write_atomically, write_json
from reidlib.runs import Run, provenance, set_aside
from reidlib.scoring import embed_test_set, rank, score
from reidlib.torch_files import file_digest, read_torch_file

WEIGHTED_LOG = (0.8, 0.2)  # of the parts' losses and of the others, in the log of the released spatial-attention code


class DivergedError(ReidError):
    """A loss became NaN or infinite."""


def fit(experiment: Experiment, dataset: ReidDataset, folder: Path, *, cache: Path, resamples: int = 2000) -> Run:
    """Trains and evaluates one run, or goes on with it, or returns it at once where it is finished.

    A folder that holds a run of other settings, data or code is set aside as `<folder>.superseded`, not overwritten.

    Args:
        experiment: every setting.
        dataset: what to train and test on.
        folder: the run's folder (see `reidlib.runs`).
        cache: where decoded images are kept.
        resamples: of the bootstrap behind the confidence intervals.

    Raises:
        DivergedError: a loss term is NaN or infinite; it names the term and the batch's images.
    """
    record = {"experiment": experiment.as_dict(), "data": dataset.fingerprint, "code": code_digest(__name__)}
    if isinstance(experiment.pretrained, str):  # other weights may come to lie under the same path
        record["pretrained"] = file_digest(Path(experiment.pretrained))
    _claim(folder, record)
    if (folder / "metrics.json").is_file():
        _remove_checkpoints(folder)  # left where the process ended just before
        return Run(folder, experiment, read_json(folder / "metrics.json"))

    device = best_device()
    started = time.perf_counter()
    pixels = load_images(dataset.train.paths, experiment.height, experiment.width, cache=cache, description="decoding train")

    def look_at_test_set(model: ReidNetwork) -> dict[str, float]:
        embeddings = embed_test_set(model, experiment, dataset, cache=cache, device=device, keep=False)
        ranked = rank(embeddings["query"], embeddings["gallery"], dataset)
        return {"test_rank1": float(ranked.cmc[0]), "test_map": ranked.mean_ap}

    model, rows = _train(experiment, dataset, pixels, folder, device, look_at_test_set)
    facts = {
        "train_seconds": sum(row["seconds"] for row in rows),
        "images_seen": (experiment.warmup_epochs + experiment.epochs) * _steps(experiment, dataset) * experiment.batch_size,
        "classes": experiment.classes or dataset.num_train_identities,
        "reported_epoch": len(rows),
        "best_on_test": None,
    }
    if experiment.score_test_every:
        best = _best_on_test(rows)
        facts["best_on_test"] = {"epoch": best["epoch"], "rank1": best["test_rank1"], "map": best["test_map"]}
        if experiment.report_epoch == "best_on_test":
            facts["reported_epoch"] = best["epoch"]
            model.load_state_dict(torch.load(folder / "best.pt", map_location=device, weights_only=True))
    run = _evaluate(experiment, dataset, model, folder, facts, started, cache=cache, resamples=resamples, device=device)
    _remove_checkpoints(folder)
    return run


def evaluate_checkpoint(
    experiment: Experiment, dataset: ReidDataset, checkpoint: str | Path, folder: Path, *, cache: Path, resamples: int = 2000
) -> Run:
    """Scores released weights (or those of another run of this study) as a run of their own; nothing is trained.

    Args:
        experiment: the method that the weights are of, and how it is evaluated.
        checkpoint: a `.pth.tar` of the papers' authors, or a `model.pt` of this study. Every key must fit; the number of
            people is the file's own.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the method's network (all keys that do not are listed).
    """
    source = {"file": Path(checkpoint).name, "sha256": file_digest(Path(checkpoint))}
    record = {
        "experiment": experiment.as_dict(),
        "data": dataset.fingerprint,
        "code": code_digest(__name__),
        "checkpoint": source,
    }
    content = read_torch_file(Path(checkpoint))
    classes = classes_in(content, str(checkpoint))
    network = model_from_experiment(replace(experiment, pretrained=False, classes=classes), 0)
    model = load_released_checkpoint(network, content, source=str(checkpoint))
    _claim(folder, record)
    if (folder / "metrics.json").is_file():
        return Run(folder, experiment, read_json(folder / "metrics.json"))
    untrained = {"train_seconds": 0.0, "images_seen": 0, "reported_epoch": None, "best_on_test": None}
    facts = {**untrained, "classes": classes, "checkpoint": source}
    started, device = time.perf_counter(), best_device()
    return _evaluate(experiment, dataset, model, folder, facts, started, cache=cache, resamples=resamples, device=device)


def _evaluate(
    experiment: Experiment,
    dataset: ReidDataset,
    model: ReidNetwork,
    folder: Path,
    facts: Mapping[str, Any],
    started: float,
    *,
    cache: Path,
    resamples: int,
    device: torch.device,
) -> Run:
    """Embeds and scores, and writes the run's files, metrics.json last."""
    # A trained run keeps its embeddings itself; released weights may be scored again under other settings of scoring.
    embeddings = embed_test_set(model, experiment, dataset, cache=cache, device=device, keep="checkpoint" in facts)
    scores, queries = score(embeddings, experiment, dataset, resamples=resamples)
    metrics = {
        **scores,
        "train_identities": dataset.num_train_identities,
        "train_images": len(dataset.train),
        "query_images": len(dataset.query),
        "gallery_images": len(dataset.gallery),
        "synthetic": dataset.is_synthetic,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_dim": embeddings["query"].shape[1],
        **facts,
        "total_seconds": time.perf_counter() - started,
        "made_by": provenance(),
    }
    _save(folder / "model.pt", model.state_dict())
    _save_arrays(folder / "embeddings.npz", embeddings)
    write_atomically(folder / "queries.csv", queries.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "metrics.json", metrics)
    return Run(folder, experiment, metrics)


# ---------------------------------------------------------------------------------------------------- the loop


def _train(
    experiment: Experiment,
    dataset: ReidDataset,
    images: np.ndarray,
    folder: Path,
    device: torch.device,
    look_at_test_set: Callable[[ReidNetwork], dict[str, float]] | None = None,
) -> tuple[ReidNetwork, list[dict[str, float]]]:
    """The network after the last epoch, and the rows of curves.csv. The best epoch's weights are kept in best.pt if asked for."""
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and guards only against reading such memory
    torch.manual_seed(experiment.seed)
    model = model_from_experiment(experiment, dataset.num_train_identities).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(experiment, model)
    rows: list[dict[str, float]] = []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rows = saved["rows"]

    total = experiment.warmup_epochs + experiment.epochs
    with progress(total, folder.name, "epoch") as epochs:
        epochs.update(len(rows))
        if rows:
            epochs.line(f"{folder.name}: goes on after epoch {len(rows)} of {total}")
        for number in range(len(rows), total):
            if number == experiment.warmup_epochs and number:
                optimizer = make_optimizer(experiment, model)  # reset after the warm-up, as the paper's code does
            row = _epoch(experiment, model, optimizer, dataset, images, number, device)
            rows.append(row)
            if experiment.score_test_every and _is_looked_at(experiment, number):
                row |= look_at_test_set(model)
                if experiment.report_epoch == "best_on_test" and _best_on_test(rows) is row:
                    _save(folder / "best.pt", model.state_dict())  # before the checkpoint: an epoch done again writes it again
            _save(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows})
            write_atomically(folder / "curves.csv", _as_csv(rows))
            epochs.update(1, loss=row["loss"])
            epochs.line(
                f"epoch {number + 1:3d}/{total}  loss {row['loss']:7.3f}  accuracy {row['accuracy']:5.1%}  "
                f"lr {row['learning_rate']:.1e}  {row['images_per_second']:6.1f} images/s"
            )
    return model, rows


def _is_looked_at(experiment: Experiment, number: int) -> bool:
    """Whether the test set is looked at after this epoch: every n-th after the warm-up, and the last."""
    done = number + 1 - experiment.warmup_epochs
    return done > 0 and (done % experiment.score_test_every == 0 or done == experiment.epochs)


def _best_on_test(rows: list[dict[str, float]]) -> dict[str, float]:
    """The first row with the highest rank-1 on the test set."""
    return max((row for row in rows if "test_rank1" in row), key=lambda row: row["test_rank1"])


def _epoch(
    experiment: Experiment,
    model: ReidNetwork,
    optimizer: torch.optim.Optimizer,
    dataset: ReidDataset,
    images: np.ndarray,
    number: int,
    device: torch.device,
) -> dict[str, float]:
    """One epoch; `number` counts the warm-up epochs too. Returns its row of curves.csv."""
    warming_up = number < experiment.warmup_epochs
    epoch = number - experiment.warmup_epochs  # negative while warming up
    labels = dataset.train_labels
    batches = epoch_batches(
        labels, experiment.batch_size, experiment.images_per_identity, experiment.steps_per_epoch, experiment.seed, number
    )
    torch.manual_seed(_mix(experiment.seed, number))  # dropout, start vectors of the power iterations
    draws = torch.Generator().manual_seed(_mix(experiment.seed, number) + 1)
    model.train()
    _freeze_trunk(model, warming_up)
    sums: dict[str, float] = {}
    correct, started, peak_rate = 0, time.perf_counter(), 0.0
    with progress(len(batches), f"epoch {number + 1}", "batch") as bar:
        for step, rows in enumerate(batches):
            rate = learning_rate(experiment, epoch + step / len(batches)) if not warming_up else experiment.learning_rate
            peak_rate = max(peak_rate, rate)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            batch = augment(
                normalise(torch.from_numpy(images[rows]).to(device)),
                draws,
                crop=experiment.crop_probability,
                flip=experiment.flip_probability,
                erase=experiment.erase_probability,
            )
            target = torch.from_numpy(labels[rows]).to(device)
            with autocast(experiment.precision, device):
                output = model(batch)
            terms = loss_terms(experiment, model, output, target, epoch)
            loss = sum(terms.values())
            values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
            if experiment.log_weighted_loss:
                values["weighted_loss"] = weighted_loss(experiment, output, target).item()
            _require_finite(values, number, step, [dataset.train.paths[row] for row in rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            correct += (output.logits[0].argmax(1) == target).sum().item()
            bar.update(1, loss=values["loss"])
    seconds = time.perf_counter() - started
    count = len(batches) * experiment.batch_size
    return {
        "epoch": number + 1,
        **{name: value / len(batches) for name, value in sums.items()},
        "accuracy": correct / count,
        "learning_rate": peak_rate,
        "images_per_second": count / seconds,
        "seconds": seconds,
    }


def loss_terms(
    experiment: Experiment, model: ReidNetwork, output: ReidOutput, target: torch.Tensor, epoch: int
) -> Mapping[str, torch.Tensor]:
    """The weighted terms of L = L_xent + β_tr·L_triplet + β_OF·L_OF + β_OW·L_OW that this experiment has in this epoch."""
    terms = {
        "cross_entropy": losses.cross_entropy(
            output.logits, target, label_smoothing=experiment.label_smoothing, reduction=experiment.heads
        )
    }
    if experiment.triplet_weight:
        triplets = [losses.batch_hard_triplet(head, target, margin=experiment.triplet_margin) for head in output.head_embeddings]
        terms["triplet"] = experiment.triplet_weight * sum(triplets) / len(triplets)
    power = {"estimator": experiment.eigenvalues, "iterations": experiment.power_steps}
    if experiment.of_weight and epoch >= experiment.of_start_epoch:
        terms["orthogonal_features"] = losses.orthogonality_features(
            output.feature_maps,
            weight=experiment.of_weight,
            squared=experiment.of_squared,
            smaller_side=experiment.of_smaller_side,
            **power,
        )
    if experiment.ow_weight and epoch >= 0:
        weights = losses.orthogonality_targets(model, reach=experiment.ow_reach)
        terms["orthogonal_weights"] = losses.orthogonality_weights(
            weights, weight=experiment.ow_weight, factor=experiment.ow_factor, **power
        )
    return terms


@torch.no_grad()
def weighted_loss(experiment: Experiment, output: ReidOutput, target: torch.Tensor) -> torch.Tensor:
    """What the released spatial-attention code logs, though it trains the plain sum: 0.8 · parts + 0.2 · all other heads."""
    per_head = [
        losses.cross_entropy([logits], target, label_smoothing=experiment.label_smoothing, reduction="sum")
        for logits in output.logits
    ]
    of_parts, of_others = WEIGHTED_LOG
    return of_parts * sum(per_head[: experiment.parts]) + of_others * sum(per_head[experiment.parts :])


def make_optimizer(experiment: Experiment, model: ReidNetwork) -> torch.optim.Optimizer:
    """Adam or Nesterov SGD with two groups: the pretrained layers at `trunk_rate` × the rate, and the new ones."""
    groups = [
        {"params": model.trunk_parameters(), "rate": experiment.trunk_rate},
        {"params": model.new_parameters(), "rate": 1.0},
    ]
    common = {"lr": experiment.learning_rate, "weight_decay": experiment.weight_decay}
    if experiment.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True, **common)
    return torch.optim.SGD(groups, momentum=experiment.momentum, nesterov=True, fused=True, **common)


def learning_rate(experiment: Experiment, epoch: float) -> float:
    """The rate of the new layers at a (fractional) epoch counted from the end of the warm-up."""
    if experiment.schedule == "steps":
        return experiment.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in experiment.milestones)
    rise = min(2.0, experiment.epochs / 5)
    if epoch < rise:
        return experiment.learning_rate * (0.1 + 0.9 * epoch / rise)
    return experiment.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - rise) / max(experiment.epochs - rise, 1e-9)))


def _freeze_trunk(model: ReidNetwork, frozen: bool) -> None:
    """While warming up, the pretrained layers neither learn nor gather statistics; gradients still cross them."""
    for parameter in model.trunk_parameters():
        parameter.requires_grad_(not frozen)
    for module in model.trunk_modules():
        module.train(not frozen)


# ---------------------------------------------------------------------------------------------------- small parts


def _steps(experiment: Experiment, dataset: ReidDataset) -> int:
    return len(
        epoch_batches(
            dataset.train_labels,
            experiment.batch_size,
            experiment.images_per_identity,
            experiment.steps_per_epoch,
            experiment.seed,
            0,
        )
    )


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


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Makes the folder this run's: whatever other run lies there is set aside."""
    note = folder / "experiment.json"
    if note.is_file():
        there = read_json(note)
        if there == record:
            return
        before, now = there.get("experiment", {}), record["experiment"]
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        changed = [f"{name} {before.get(name)!r} → {now.get(name)!r}" for name in names]
        changed += ["other images"] if there.get("data") != record["data"] else []
        changed += ["other code"] if there.get("code") != record["code"] else []
        changed += ["another checkpoint"] if there.get("checkpoint") != record.get("checkpoint") else []
        changed += ["other pretrained weights"] if there.get("pretrained") != record.get("pretrained") else []
        aside = set_aside(folder)
        print(f"{folder.name} was made differently ({', '.join(changed)}): kept as {aside.name}, this run starts anew.")
    write_json(note, record)


def _remove_checkpoints(folder: Path) -> None:
    """What a finished run needs no more, files that a killed process had not finished writing among them."""
    for path in (folder / "checkpoint.pt", folder / "best.pt", *folder.glob("*.tmp")):
        path.unlink(missing_ok=True)


def _as_csv(rows: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))  # a term may start later than the first epoch
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _save(path: Path, state: Any) -> None:
    """torch.save under a temporary name, on the disk before it gets its final name."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
