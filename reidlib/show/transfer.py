"""The matrix "trained on × tested on": its numbers, its cells as text, and sentences."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidlib.config import title_of
from reidlib.datasets import ReidDataset, people_in_both
from reidlib.datasets.joined import sources_of
from reidlib.evaluation.by_group import group_score
from reidlib.evaluation.transfer import transfer_queries
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.learning import learned
from reidlib.show.tables import by_method
from reidlib.show.text import in_markdown, percent
from reidlib.statistics import hits

SAME_PEOPLE = "same people"
KEYS = {"map": "mAP", "rank1": "rank-1"}


def transfer_frame(rows: Iterable[Any], columns: Mapping[str, ReidDataset], *, cache: Path) -> pd.DataFrame:
    """One line for each row, method and column of the matrix.

    On its own test set, a run has the scores that it was finished with. Elsewhere it is scored as
    `transfer_queries` does. A cell whose test people are known from training is not scored.

    Args:
        rows: trainings with `name`, `runs` and `images` (see `study.transfer.Trained`).
        columns: title → data set.
        cache: where scores on other data sets are kept.

    Returns:
        trained on, method, tested on, seeds (how many), own (whether the training images of the data set were
        trained on), rank1, rank1_low, rank1_high, map, map_low, map_high (fractions), over (what the 95 %
        intervals are over: people, or seeds and people), queries, people, not scored ("" or why not; then
        the numbers are NaN).
    """
    found = []
    for row in rows:
        for method, runs in by_method(row.runs).items():
            for title, dataset in columns.items():
                cell = {"trained on": row.name, "method": title_of(method), "tested on": title}
                found.append(cell | _cell(learned(runs), row.images, dataset, cache))
    return pd.DataFrame(found)


def _cell(runs: list[Run], images: ReidDataset | None, dataset: ReidDataset, cache: Path) -> dict[str, Any]:
    trained = [one.fingerprints["training"] for one in sources_of(images)] if images is not None else []
    own = dataset.fingerprints["training"] in trained
    reason, detail = ("", "") if runs else (DID_NOT_LEARN, "")
    if runs and images is not None:
        # The data set's own training people are others than its test people: that was checked on loading.
        foreign = [one for one in sources_of(images) if one.fingerprints != dataset.fingerprints]
        details = [people_in_both(one, dataset) for one in foreign]
        detail = next(filter(None, details), "")
        reason = SAME_PEOPLE if detail else ""
    scores = {} if reason else _scores(runs, dataset, cache)
    return {
        "seeds": len(runs),
        "own": own,
        **dict.fromkeys((f"{key}{end}" for key in KEYS for end in ("", "_low", "_high")), np.nan),
        "over": "seeds and people" if len(runs) > 1 else "people",
        "queries": 0,
        "people": 0,
        **scores,
        "not scored": f"{reason}: {detail}" if detail else reason,
    }


def _scores(runs: list[Run], dataset: ReidDataset, cache: Path) -> dict[str, Any]:
    test = dataset.fingerprints["test"]
    queries = [
        run.queries
        if run.made_from["scores"]["data"] == test
        else transfer_queries(run, dataset, cache=cache)
        for run in runs
    ]
    people = dataset.query.ids
    values = {
        "map": np.stack([one["average_precision"].to_numpy(float) for one in queries]),
        "rank1": np.stack([hits(one["first_match_rank"]) for one in queries]),
    }
    scores: dict[str, Any] = {}
    for key, value in values.items():
        score = group_score(value, people, np.ones(len(people), dtype=bool))
        scores |= {key: score.mean, f"{key}_low": score.low, f"{key}_high": score.high}
    return scores | {"queries": score.queries, "people": score.people}


def transfer_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The matrix as text, one line for each row and method: rank-1 / mAP in % with 95 % intervals."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for _, cell in frame.iterrows():
        seeds = f", {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
        line = rows.setdefault((cell["trained on"], cell["method"] + seeds), {})
        scores = [percent(cell[key], (cell[f"{key}_low"], cell[f"{key}_high"])) for key in ("rank1", "map")]
        line[cell["tested on"]] = cell["not scored"].partition(":")[0] or " / ".join(scores)
    return pd.DataFrame(
        [{"trained on": name, "method": method, **line} for (name, method), line in rows.items()]
    )


def interval_sentence(frame: pd.DataFrame) -> str:
    """What the numbers and their intervals are."""
    text = (
        "Rank-1 / mAP in %, without re-ranking, with image size, flip and precision of the run. In brackets "
    )
    several = frame["seeds"] > 1
    if several.all():
        return text + "the 95 % interval over seeds and people together."
    if several.any():
        text += (
            "the 95 % interval over seeds and people together where a row has several seeds, and otherwise "
        )
        return text + "over people, which says nothing about another training."
    text += "the 95 % interval over people; each row has one seed, so nothing is said about another training."
    return text


def not_scored_sentences(frame: pd.DataFrame) -> list[str]:
    """One sentence (Markdown) for each reason why cells were not scored; [] if all were."""
    left_out = frame[frame["not scored"] != ""].drop_duplicates(["trained on", "tested on", "not scored"])
    return [
        f"Trained on {in_markdown(cell['trained on'])}, tested on {in_markdown(cell['tested on'])}: not "
        f"scored, {cell['not scored']}."
        for _, cell in left_out.iterrows()
    ]


def transfer_sentence(frame: pd.DataFrame) -> str:
    """What training elsewhere gives on a test set, beside training on that data set itself (Markdown)."""
    known = frame[frame["not scored"] == ""]
    foreign = known[~known["own"]]
    if not len(foreign):
        return (
            "There is no score on another data set: name some with `--targets NAME=DIR`, such as "
            "`python run_all.py --dataset market1501 --targets msmt17=DIR`."
        )
    method = foreign["method"].mode().iloc[0]
    parts = []
    for title, cells in foreign[foreign["method"] == method].groupby("tested on", sort=False):
        at_home = known[known["own"] & (known["method"] == method) & (known["tested on"] == title)]
        itself = f", against {_in_words(at_home)}" if len(at_home) else ""
        parts.append(f"{in_markdown(str(title))}: {_in_words(cells)}{itself}")
    return (
        f"mAP (%) of {in_markdown(method)} by test set. {'; '.join(parts)}. Only numbers on the same "
        "test set compare: test sets differ in how hard they are."
    )


def _in_words(cells: pd.DataFrame) -> str:
    return ", ".join(
        f"{percent(cell['map'])} trained on {in_markdown(cell['trained on'])}" for _, cell in cells.iterrows()
    )
