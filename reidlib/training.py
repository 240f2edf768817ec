"""One run: batches → network → losses → weights, curves, embeddings and metrics in the run's folder.

Everything random in an epoch is drawn from generators seeded by (seed, epoch), so an interrupted run goes on from its last
finished epoch as if it had not been interrupted.
"""

import csv
import io
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from reidlib import losses
from reidlib.batches import augment, epoch_batches, load_images, normalise
from reidlib.config import Experiment
from reidlib.datasets import ReidDataset
from reidlib.embedding import autocast, best_device, embed
from reidlib.errors import ReidError
from reidlib.evaluation import RetrievalMetrics, colour_histogram_embeddings, retrieval_metrics, retrieval_metrics_from_distances
from reidlib.fingerprints import code_digest
from reidlib.models import ReidNetwork, model_from_experiment
from reidlib.progress import progress
from reidlib.reranking import k_reciprocal_distances
from reidlib.results import read_json, write_atomically, write_json
from reidlib.runs import Run, provenance, set_aside
from reidlib.statistics import bootstrap_interval

RANKS = (1, 5, 10, 20)


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
    _claim(folder, {"experiment": experiment.as_dict(), "data": dataset.fingerprint, "code": code_digest(__name__)})
    if (folder / "metrics.json").is_file():
        return Run(folder, experiment, read_json(folder / "metrics.json"))

    device = best_device()
    started = time.perf_counter()
    size = (experiment.height, experiment.width)
    model, seconds = _train(experiment, dataset, load_images(dataset.train.paths, *size, cache=cache), folder, device)
    embeddings = {
        name: embed(
            model,
            load_images(split.paths, *size, cache=cache, description=f"decoding {name}"),
            flip=experiment.flip_evaluation,
            precision=experiment.precision,
            device=device,
            description=f"embedding {name}",
        )
        for name, split in (("query", dataset.query), ("gallery", dataset.gallery))
    }
    ranked = rank(embeddings["query"], embeddings["gallery"], dataset)
    metrics = {
        **summary(ranked, dataset, resamples=resamples),
        "reranked": summary(rerank(embeddings["query"], embeddings["gallery"], dataset), dataset, resamples=resamples)
        if experiment.family == "pfsa"  # the spatial-attention paper publishes re-ranked numbers only
        else None,
        "train_identities": dataset.num_train_identities,
        "train_images": len(dataset.train),
        "query_images": len(dataset.query),
        "gallery_images": len(dataset.gallery),
        "synthetic": dataset.is_synthetic,
        "train_seconds": seconds,
        "total_seconds": time.perf_counter() - started,
        "images_seen": (experiment.warmup_epochs + experiment.epochs) * _steps(experiment, dataset) * experiment.batch_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_dim": embeddings["query"].shape[1],
        "made_by": provenance(),
    }
    _save(folder / "model.pt", model.state_dict())
    _save_arrays(folder / "embeddings.npz", embeddings)
    write_atomically(folder / "queries.csv", _per_query(ranked, dataset).to_csv(index=False, lineterminator="\n"))
    write_json(folder / "metrics.json", metrics)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return Run(folder, experiment, metrics)


def rank(query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset) -> RetrievalMetrics:
    """Retrieval metrics of (Q, D) and (G, D) embeddings given in the data set's order, by Market-1501's rule."""
    people_and_cameras = (dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras)
    return retrieval_metrics(query, gallery, *people_and_cameras, max_rank=max(RANKS))


def rerank(query: np.ndarray, gallery: np.ndarray, dataset: ReidDataset) -> RetrievalMetrics:
    """As `rank`, by the k-reciprocal distances."""
    people_and_cameras = (dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras)
    return retrieval_metrics_from_distances(k_reciprocal_distances(query, gallery), *people_and_cameras, max_rank=max(RANKS))


def summary(ranked: RetrievalMetrics, dataset: ReidDataset, *, resamples: int = 2000) -> dict[str, Any]:
    """Rank-k, mAP and mINP (fractions) with 95 % bootstrap intervals over the queries' identities."""
    scored = ~np.isnan(ranked.average_precision)
    people = dataset.query.ids[scored]
    rank1 = bootstrap_interval(ranked.hits(1)[scored], people, resamples=resamples)
    mean_ap = bootstrap_interval(ranked.average_precision[scored], people, resamples=resamples)
    return {
        **{f"rank{k}": float(ranked.cmc[min(k, len(ranked.cmc)) - 1]) for k in RANKS},
        "map": ranked.mean_ap,
        "minp": ranked.mean_inp,
        "rank1_interval": [rank1.low, rank1.high],
        "map_interval": [mean_ap.low, mean_ap.high],
        "queries_scored": int(scored.sum()),
    }


def reference_points(experiment: Experiment, dataset: ReidDataset, *, cache: Path, resamples: int = 2000) -> pd.DataFrame:
    """What is reached without learning: a colour histogram, and the experiment's network with random weights.

    Returns:
        A row each: method, rank1, rank1_low, rank1_high, rank5, map, map_low, map_high, minp (fractions).
    """
    torch.manual_seed(experiment.seed)
    untrained = model_from_experiment(replace(experiment, pretrained=False), dataset.num_train_identities)
    size = (experiment.height, experiment.width)
    embeddings: dict[str, list[np.ndarray]] = {"colour histogram": [], "untrained network": []}
    for name, split in (("query", dataset.query), ("gallery", dataset.gallery)):
        images = load_images(split.paths, *size, cache=cache, description=f"decoding {name}")
        embeddings["colour histogram"].append(colour_histogram_embeddings(split.paths))
        embeddings["untrained network"].append(
            embed(
                untrained,
                images,
                flip=experiment.flip_evaluation,
                precision=experiment.precision,
                description=f"embedding {name}",
            )
        )
    rows = []
    for method, (query, gallery) in embeddings.items():
        metrics = summary(rank(query, gallery, dataset), dataset, resamples=resamples)
        bounds = {
            f"{key}_{side}": metrics[f"{key}_interval"][index]
            for key in ("rank1", "map")
            for index, side in enumerate(("low", "high"))
        }
        rows.append({"method": method, **{key: metrics[key] for key in ("rank1", "rank5", "map", "minp")}, **bounds})
    return pd.DataFrame(rows)


def _per_query(ranked: RetrievalMetrics, dataset: ReidDataset) -> pd.DataFrame:
    """What the paired comparisons read: one row a query, in the data set's order."""
    return pd.DataFrame(
        {
            "query": [path.name for path in dataset.query.paths],
            "identity": dataset.query.ids,
            "camera": dataset.query.cameras,
            "first_match_rank": ranked.first_match_rank,
            "average_precision": ranked.average_precision,
        }
    )


# ---------------------------------------------------------------------------------------------------- the loop


def _train(
    experiment: Experiment, dataset: ReidDataset, images: np.ndarray, folder: Path, device: torch.device
) -> tuple[ReidNetwork, float]:
    """The network after the last epoch, and the seconds that all epochs took."""
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
            _save(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows})
            write_atomically(folder / "curves.csv", _as_csv(rows))
            epochs.update(1, loss=row["loss"])
            epochs.line(
                f"epoch {number + 1:3d}/{total}  loss {row['loss']:7.3f}  accuracy {row['accuracy']:5.1%}  "
                f"lr {row['learning_rate']:.1e}  {row['images_per_second']:6.1f} images/s"
            )
    return model, sum(row["seconds"] for row in rows)


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
    experiment: Experiment, model: ReidNetwork, output, target: torch.Tensor, epoch: int
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
    if experiment.of_weight and epoch >= experiment.of_start_epoch:
        terms["orthogonal_features"] = losses.orthogonality_features(output.feature_maps, weight=experiment.of_weight)
    if experiment.ow_weight and epoch >= 0:
        weights = losses.orthogonality_targets(model, reach=experiment.ow_reach)
        terms["orthogonal_weights"] = losses.orthogonality_weights(weights, weight=experiment.ow_weight)
    return terms


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
        aside = set_aside(folder)
        print(f"{folder.name} was made differently ({', '.join(changed)}): kept as {aside.name}, this run starts anew.")
    write_json(note, record)


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
