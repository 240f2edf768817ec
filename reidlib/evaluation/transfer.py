"""Scores a trained run on another data set than its own."""

import numpy as np
import pandas as pd

from reidlib.code_digest import digest_of_code
from reidlib.datasets.types import ReidDataset
from reidlib.devices import best_device, cpu_threads
from reidlib.evaluation.embedding import embed_test_set
from reidlib.evaluation.ranking import rank
from reidlib.files import checked_array, digest, file_digest, save_array
from reidlib.run import Run
from reidlib.training.loop import set_determinism
from reidlib.training.records import scores_record


def transfer_queries(run: Run, dataset: ReidDataset, *, cache) -> pd.DataFrame:
    """One row per query of a data set, as the run ranks its gallery, in the data set's order.

    Image size, flip and precision are the run's, and so is the number of threads. So on the run's own test
    set, on the same machine, these are the scores that the run has. Plain ranking, by Market-1501's rule.

    Args:
        cache: folder in which the result is kept. The file's name is a digest of the run's weights, of the
            settings and the code of scoring, and of the images; a damaged file is replaced.

    Returns:
        Columns identity, first_match_rank, average_precision; NaN if the gallery has no match.

    Raises:
        FileError: the run's weights are missing or damaged.
        ImageError, ReidError: as in `embed_test_set`.
    """
    run.files.require_intact(run.files.model)
    record = {
        "weights": run.files.recorded_digests().get(run.files.model.name) or file_digest(run.files.model),
        "networks": digest_of_code("reidlib.models.networks"),
        **scores_record(run.experiment, dataset),
    }
    file = cache / "transfer" / f"{digest(record)[:24]}.npy"
    scores = checked_array(file)
    if scores is None:
        set_determinism(run.experiment, best_device())
        with cpu_threads(run.metrics["made_by"]["threads"]):
            embedded = embed_test_set(run.model(), run.experiment, dataset, cache=cache, keep=False)
            ranked = rank(embedded["query"], embedded["gallery"], dataset)
        scores = np.stack([ranked.first_match_rank, ranked.average_precision]).astype(float)
        save_array(file, scores)
    return pd.DataFrame(
        {"identity": dataset.query.ids, "first_match_rank": scores[0], "average_precision": scores[1]}
    )
