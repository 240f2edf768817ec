"""One run: batches → network → losses → weights, curves, embeddings and metrics in the run's folder. `fit` trains and scores,
`evaluate_checkpoint` scores weights that others trained.

An interrupted run goes on from its last finished epoch as if it had not been interrupted.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reidlib.augmentation import TrainingImages, enlarged_size
from reidlib.batches import epoch_batches, load_sizes
from reidlib.checkpoints import classes_in, load_released_checkpoint
from reidlib.config import Experiment
from reidlib.datasets import ReidDataset
from reidlib.embedding import best_device
from reidlib.epochs import Row, train_epoch
from reidlib.errors import ReidError
from reidlib.fingerprints import code_digest
from reidlib.models import ReidNetwork, model_from_experiment
from reidlib.optimisation import make_optimizer
from reidlib.parallel import ALONE, Share, require_devices, run_in_processes
from reidlib.progress import progress
from reidlib.results import read_json, write_atomically, write_json
from reidlib.run_files import (
    Board,
    announced_disk_use,
    as_csv,
    best_weights,
    circumstances,
    claim,
    is_finished,
    keep_best,
    keeps_best,
    kept_epochs,
    only_one,
    read_checkpoint,
    remove_checkpoints,
    remove_unfinished,
    require_tensorboard,
    save,
    save_arrays,
    save_checkpoint,
    threads_as_begun,
)
from reidlib.runs import Run, provenance
from reidlib.scoring import embed_test_set, rank, score
from reidlib.torch_files import file_digest, read_torch_file
from reidlib.validation import split_validation


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
        OutOfMemoryError: a batch does not fit; it names the batch size that does.
        CheckpointError: the checkpoint to go on from is damaged, or was written under other circumstances: versions of PyTorch,
            numpy and Pillow, device, processor, precision. (The number of threads is taken over from it.)
        ReidError: another process makes this run, or this machine lacks what the settings need; nothing is changed then.
    """
    record = {"experiment": experiment.as_dict(), "data": dataset.fingerprint, "code": code_digest(__name__)}
    if isinstance(experiment.pretrained, str):  # other weights may come to lie under the same path
        record["pretrained"] = file_digest(Path(experiment.pretrained))
    if is_finished(folder, record):
        return _finished(experiment, folder, record)
    device = best_device()
    trained_on, _ = split_validation(dataset, experiment.validation_identities, experiment.seed)
    with only_one(folder):
        if is_finished(folder, record):  # by the process that held the lock until now
            return _finished(experiment, folder, record)
        _require_what_it_takes(experiment, trained_on, device)
        claim(folder, record)
        remove_unfinished(folder)
        with threads_as_begun(folder):
            return _fit(experiment, dataset, trained_on, folder, record, device, cache=cache, resamples=resamples)


def _finished(experiment: Experiment, folder: Path, record: dict[str, Any]) -> Run:
    claim(folder, record)
    metrics = read_json(folder / "metrics.json")
    remove_checkpoints(folder, experiment, metrics.get("best_on_validation"))  # left where the process ended just before
    return Run(folder, experiment, metrics)


def _fit(
    experiment: Experiment,
    dataset: ReidDataset,
    trained_on: ReidDataset,
    folder: Path,
    record: Mapping[str, Any],
    device: torch.device,
    *,
    cache: Path,
    resamples: int,
) -> Run:
    """`fit` once it is clear that there is something to do, and that it can be done."""
    started = time.perf_counter()
    under = circumstances(experiment, device)
    arguments = (experiment, dataset, folder, record, under, cache)
    if experiment.processes > 1:
        _training_images(experiment, trained_on, cache, torch.device("cpu"))  # decoded here, by all cores, not by each process
        run_in_processes(experiment.processes, device, _train_share, *arguments)
        saved = read_checkpoint(folder, record, under)
        model, rows = model_from_experiment(replace(experiment, pretrained=False), trained_on.num_train_identities), saved["rows"]
        model.load_state_dict(saved["model"])
    else:
        model, rows = _train_share(ALONE, device, *arguments)
    facts = {
        "train_seconds": sum(row["seconds"] for row in rows),
        "images_seen": _steps(experiment, trained_on) * experiment.batch_size,
        "classes": experiment.classes or trained_on.num_train_identities,
        "train_identities": trained_on.num_train_identities,
        "train_images": len(trained_on.train),
        "reported_epoch": len(rows),
        "best_on_test": _best_facts(rows, "test", "rank1") if experiment.score_test_every else None,
        "best_on_validation": _best_facts(rows, "validation", "map") if experiment.validation_identities else None,
    }
    if experiment.report_epoch != "last":
        facts["reported_epoch"] = facts[experiment.report_epoch]["epoch"]
        model.load_state_dict(read_torch_file(folder / best_weights(facts["reported_epoch"])))
    run = _evaluate(experiment, dataset, model, folder, facts, started, cache=cache, resamples=resamples, device=device)
    remove_checkpoints(folder, experiment, facts["best_on_validation"])
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
    with only_one(folder):
        claim(folder, record)
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
        "train_identities": dataset.num_train_identities,  # unless the facts say that some were held out
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
    save(folder / "model.pt", model.state_dict())
    save_arrays(folder / "embeddings.npz", embeddings)
    write_atomically(folder / "queries.csv", queries.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "metrics.json", metrics)
    return Run(folder, experiment, metrics)


# ---------------------------------------------------------------------------------------------------- the loop


def _train_share(
    share: Share,
    device: torch.device,
    experiment: Experiment,
    dataset: ReidDataset,
    folder: Path,
    record: Mapping[str, Any],
    under: Mapping[str, Any],
    cache: Path,
) -> tuple[ReidNetwork, list[Row]]:
    """One process's part in training a run, all of it where it is alone."""
    trained_on, validation = split_validation(dataset, experiment.validation_identities, experiment.seed)
    images = _training_images(experiment, trained_on, cache, device)

    def look(model: ReidNetwork, at: ReidDataset, name: str) -> Row:
        embeddings = embed_test_set(model, experiment, at, cache=cache, device=device, keep=False)
        ranked = rank(embeddings["query"], embeddings["gallery"], at)
        return {f"{name}_rank1": float(ranked.cmc[0]), f"{name}_map": ranked.mean_ap}

    looks = []
    if experiment.validation_identities:
        looks.append((experiment.validate_every, lambda model: look(model, validation, "validation")))
    if experiment.score_test_every:
        looks.append((experiment.score_test_every, lambda model: look(model, dataset, "test")))
    return _train(experiment, trained_on, images, folder, device, record=record, under=under, looks=looks, share=share)


def _training_images(experiment: Experiment, dataset: ReidDataset, cache: Path, device: torch.device) -> TrainingImages:
    size = (experiment.height, experiment.width)
    sizes = [size, enlarged_size(*size)] if experiment.crop_probability else [size]
    decoded = load_sizes(dataset.train.paths, sizes, cache=cache, description="decoding train")
    return TrainingImages(decoded[0], decoded[1] if experiment.crop_probability else None, device)


def _train(
    experiment: Experiment,
    dataset: ReidDataset,
    images: TrainingImages,
    folder: Path,
    device: torch.device,
    *,
    record: Mapping[str, Any] | None = None,
    under: Mapping[str, Any] | None = None,
    looks: Sequence[tuple[int, Callable[[ReidNetwork], Row]]] = (),
    share: Share = ALONE,
) -> tuple[ReidNetwork, list[Row]]:
    """The network after the last epoch, and the rows of curves.csv.

    record: of the run, and under: its circumstances, both kept in its checkpoints. looks: what scores the network (new columns of
    the epoch's row), and every how many epochs after the warm-up; 0: after the last one.
    """
    _prepare(experiment, device)
    torch.manual_seed(experiment.seed)
    model = model_from_experiment(experiment, dataset.num_train_identities)
    if experiment.sync_batch_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(experiment, model)
    record, under = record or {}, under or circumstances(experiment, device)
    saved = read_checkpoint(folder, record, under)
    rows: list[Row] = saved["rows"] if saved else []
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        saved = None  # three times the weights' memory
    network = torch.compile(model) if experiment.compile else model
    total, first = experiment.warmup_epochs + experiment.epochs, share.rank == 0
    room = announced_disk_use(experiment, model, folder, len(rows))
    board = Board(experiment, folder, len(rows)) if first else None
    share.wait()  # nobody may still be reading the checkpoint when the next one is written
    with progress(total, folder.name, "epoch") as epochs:
        epochs.update(len(rows))
        epochs.line(f"{folder.name}: goes on after epoch {len(rows)} of {total}" if rows else room)
        for number in range(len(rows), total):
            if number == experiment.warmup_epochs and number:
                optimizer = make_optimizer(experiment, model)  # reset after the warm-up, as the paper's code does
            row = train_epoch(experiment, model, optimizer, dataset, images, number, device, network=network, share=share)
            rows.append(row)
            if first:
                for every, look in looks:
                    if _is_looked_at(experiment, number, every):
                        row |= look(model)
                # The checkpoint last: an epoch that is not in it is done again, and writes all of this again.
                best = _best(rows, _decides(experiment))
                if keeps_best(experiment) and best is row:
                    save(folder / best_weights(number + 1), model.state_dict())
                if number + 1 in kept_epochs(experiment, number):
                    save(folder / f"epoch-{number + 1:04d}.pt", model.state_dict())
                write_atomically(folder / "curves.csv", as_csv(rows))
                board.add(row)
                save_checkpoint(folder, record, under, model, optimizer, rows)
                keep_best(folder, best["epoch"] if best else None)
            epochs.update(1, loss=row["loss"])
            epochs.line(
                f"epoch {number + 1:3d}/{total}  loss {row['loss']:7.3f}  accuracy {row['accuracy']:5.1%}  "
                f"lr {row['learning_rate']:.1e}  {row['images_per_second']:6.1f} images/s"
                + (f"  validation mAP {row['validation_map']:5.1%}" if "validation_map" in row else "")
            )
    if first:
        board.close()
    return model, rows


def _prepare(experiment: Experiment, device: torch.device) -> None:
    """PyTorch's settings for this run: the same bits every time on a CPU, and on a GPU where that is asked for."""
    exact = device.type == "cpu" or experiment.deterministic
    if exact and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic otherwise
    torch.use_deterministic_algorithms(exact)
    torch.backends.cudnn.benchmark = not exact
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and guards only against reading such memory


def _require_what_it_takes(experiment: Experiment, dataset: ReidDataset, device: torch.device) -> None:
    """Found out before anything is decoded, or an older run set aside."""
    with torch.device("cpu" if experiment.pretrained else "meta"):  # where no weights are read, no numbers are needed
        model_from_experiment(experiment, dataset.num_train_identities)  # too few classes, weights that do not fit
    _steps(experiment, dataset)  # too few images for a batch
    if experiment.processes > 1:
        require_devices(experiment.processes, device)
    if experiment.tensorboard:
        require_tensorboard()
    if experiment.sync_batch_norm and device.type == "cpu":
        raise ReidError(
            "sync_batch_norm = True needs GPUs: PyTorch has no synchronised batch normalisation on CPUs. Leave it False."
        )
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # the one PyTorch takes
    if experiment.compile and device.type == "cpu" and not shutil.which(compiler):
        raise ReidError(
            f"compile = True needs a C++ compiler, and {compiler} is not on the PATH. Install it, name another one in the "
            "environment variable CXX, or leave it False."
        )
    if experiment.compile and device.type == "cuda" and not importlib.util.find_spec("triton"):
        raise ReidError(
            "compile = True needs the package triton on a GPU, and it is not installed. Install it, or leave it False."
        )


def _is_looked_at(experiment: Experiment, number: int, every: int) -> bool:
    """Whether there is a look after this epoch: after every n-th counted from the end of the warm-up, and after the last."""
    done = number + 1 - experiment.warmup_epochs
    return done == experiment.epochs or (every > 0 and done > 0 and done % every == 0)


def _decides(experiment: Experiment) -> str:
    """The column of curves.csv by which the best epoch is chosen."""
    return "test_rank1" if experiment.report_epoch == "best_on_test" else "validation_map"


def _best(rows: list[Row], column: str) -> Row | None:
    """The first row with the highest value; None where no epoch has been looked at."""
    return max((row for row in rows if column in row), key=lambda row: row[column], default=None)


def _best_facts(rows: list[Row], where: str, by: str) -> dict[str, float]:
    best = _best(rows, f"{where}_{by}")
    return {"epoch": best["epoch"], "rank1": best[f"{where}_rank1"], "map": best[f"{where}_map"]}


def _steps(experiment: Experiment, dataset: ReidDataset) -> int:
    """Of the whole run; batches of people and images of each are not as many in every epoch."""
    sizes = (experiment.batch_size, experiment.images_per_identity, experiment.steps_per_epoch, experiment.seed)
    epochs = range(experiment.warmup_epochs + experiment.epochs)
    return sum(len(epoch_batches(dataset.train_labels, *sizes, number)) for number in epochs)
