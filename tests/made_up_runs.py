"""Made-up finished runs: all files of a run except the weights, with the scores that a test asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidlib.config import experiment_for
from reidlib.evaluation.measures import COLUMNS, WEIGHTS
from reidlib.experiment import Housekeeping, ScoringSettings, TrainingSettings
from reidlib.files import read_json, write_json
from reidlib.run import Run, RunFiles, read_run
from reidlib.study.points import keep_points
from reidlib.study.reference import plan_of
from reidlib.study.reference_files import keep_run
from reidlib.study.results import Study

IMAGES = "0" * 16  # fingerprint of the images of a run, unless a test asks for others
PEOPLE = np.arange(20) // 2  # identities of the queries: ten people with two queries each


def fabricate(
    study: Study,
    method: str,
    precisions: float | Sequence[float] = 0.25,
    *,
    ranks: float | Sequence[float] = 1,
    rank1: float = 0.5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
    trained_on: str = IMAGES,
    scored_on: str = IMAGES,
    **metrics: Any,
) -> Run:
    """Writes a finished run's files, and reads the run from them.

    Args:
        precisions: average precision of each query, or one value for 20 queries; NaN: no match in the
            gallery. Each person has two queries. The mean is the run's mAP.
        ranks: rank of each query's first match, or one value for all queries.
        rank1: rank-1 in metrics.json. It need not agree with `ranks`.
        settings: settings of the experiment that replace those of method and profile.
        embeddings: content of embeddings.npz; None: the file is not written.
        trained_on, scored_on: fingerprints of the images.
        metrics: other entries of metrics.json.
    """
    files = RunFiles(study.run(method, seed))
    files.folder.mkdir(parents=True)
    experiment = experiment_for(
        method, dataset=study.dataset, profile=study.profile, seed=seed, **(settings or {})
    )
    labels = {name: getattr(experiment, name) for name in ("method", "dataset", "profile")}
    trained = {"settings": experiment.group(TrainingSettings), "data": trained_on, "code": "made up"}
    scored = {"settings": experiment.group(ScoringSettings), "data": scored_on, "code": "made up"}
    write_json(
        files.weights_record,
        {"labels": labels, "housekeeping": experiment.group(Housekeeping), "made_from": trained},
    )
    parts = {"embedding_code": "made up", "measures_code": "made up"}
    write_json(files.scores_record, {"made_from": {**scored, **parts}})
    if embeddings is not None:
        np.savez(files.embeddings, **embeddings)

    precisions = np.full(len(PEOPLE), precisions) if np.ndim(precisions) == 0 else np.asarray(precisions)
    people = np.arange(len(precisions)) // 2
    queries = {"query": [f"{row}.png" for row in range(len(people))], "identity": people, "camera": 1}
    ranks = np.where(np.isnan(precisions), np.nan, ranks)
    queries |= {"first_match_rank": ranks, "average_precision": precisions}
    queries |= {"reranked_average_precision": precisions + 0.2} if experiment.rerank else {}
    measured = dict.fromkeys(COLUMNS, 0.5)
    pd.DataFrame({**queries, **measured}).to_csv(files.queries, index=False)

    mean_ap = float(np.nanmean(precisions))
    scores = {
        "rank1": rank1, "rank5": 0.75, "rank10": 0.9, "rank20": 1.0, "map": mean_ap, "minp": 0.125,
        "rank1_interval": [rank1 - 0.1, rank1 + 0.1], "map_interval": [mean_ap - 0.05, mean_ap + 0.05],
        "queries_scored": int(np.isfinite(precisions).sum()),
    }  # fmt: skip
    again = {
        **scores, "rank1": rank1 + 0.1, "map": mean_ap + 0.2,
        "rank1_interval": [0.11, 0.99], "map_interval": [0.12, 0.98],
    }  # fmt: skip
    made_by = {"commit": "abc", "torch": "2"}
    training = {
        "started_from": None, "train_seconds": 12.4, "images_seen": 12345, "classes": 6,
        "train_identities": 6, "train_images": 24,
        "learned": True, "last_cross_entropy": 1.0, "guess_cross_entropy": 1.79,
        "reported_epoch": 1, "best_on_test": None, "best_on_validation": None, "parameters": 11_250_000,
        "measured_with": "c",
        "made_by": made_by,
    }  # fmt: skip
    rest = {
        "reranked": again if experiment.rerank else None, "single_shot": None, "query_images": len(people),
        "gallery_images": 40, "synthetic": False, "embedding_dim": 48, "score_seconds": 7.6,
        "scored_by": made_by, **measured, "queries_measured": len(people), WEIGHTS: {"convolutions": 20},
    }  # fmt: skip
    epochs = [{"epoch": 1, "loss": 1.0}]
    pd.DataFrame(epochs).to_csv(files.curves, index=False)
    between_epochs = {"flip_evaluation": experiment.flip_evaluation, "data": scored_on, "code": "c"}
    write_json(files.training, {**training, "epochs": epochs, "scored_with": between_epochs})
    write_json(files.metrics, {**scores, **training, **rest, **metrics})
    return read_run(files.folder)


def fabricate_reference(
    root: Path,
    name: str,
    runs: Mapping[tuple[str, int], float | Sequence[float]],
    *,
    code: str = "made up",
    settings: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """Adds finished runs to a reference study, and returns its folder, root/name.

    Args:
        runs: (method, seed) → average precisions, as in `fabricate`.
        code: digest of the code of training.
        settings: settings that replace those of the plan.
        facts: as in `fabricate`.
    """
    plan = plan_of(name)
    work = Study(plan.profile, plan.dataset, root / f".work-{name}-{len(list(root.glob('.work-*')))}")
    where = {
        "commit": "abc",
        "python": "3",
        "torch": "2",
        "processor": "made up",
        "cores": 2,
        "device": "cpu",
    }
    for (method, seed), precisions in runs.items():
        overrides = {**plan.overrides(method, "/home/someone/my weights.pth"), **(settings or {})}
        run = fabricate(
            work,
            method,
            precisions,
            seed=seed,
            settings=overrides,
            **{"made_by": where, "scored_by": where, **facts},
        )
        record = read_json(run.files.weights_record)
        record["made_from"] |= {"code": code, **({"pretrained": "f" * 64} if plan.pretrained else {})}
        write_json(run.files.weights_record, record)
        keep_run(read_run(run.folder), root / name)
    points = [
        {"method": "colour histogram", **dict.fromkeys(("rank1", "rank5", "map", "minp"), 0.1)}
        | dict.fromkeys(("rank1_low", "rank1_high", "map_low", "map_high"), 0.1)
    ]
    keep_points(pd.DataFrame(points), IMAGES, root / name)
    return root / name
