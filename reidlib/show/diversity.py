"""Tables and sentences about diversity: S(Corr), spectra, and their course over the epochs.

Values of queries come with a 95 % interval: over seeds and people together, or with one seed over people, by
name. Runs that did not learn count for nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from reidlib.config import METHODS
from reidlib.crossed import crossed_effect
from reidlib.datasets import PLACES
from reidlib.evaluation.channels import LAST, alike_together, mean_correlation
from reidlib.evaluation.measures import COLUMNS, WEIGHTS
from reidlib.run import Run
from reidlib.show.correlation_definitions import (
    ATTENTION,
    BASELINE,
    COMPARED,
    DIVERSITY,
    IN_THE_FIGURE,
    published_correlation,
)
from reidlib.show.learning import learned, over_learned
from reidlib.show.paired import over_people
from reidlib.show.tables import by_method
from reidlib.show.text import DASH, NOT_RUN
from reidlib.statistics import bootstrap_interval, seed_summary

# The measures of a query's last map: column → title, scale to the unit shown, digits.
SHOWN = {
    "channel_correlation": ("S(Corr)", 1, 3),
    "effective_area": ("area (%)", 100, 1),
    "effective_rank": ("effective rank (%)", 100, 1),
    "condition_number": ("log₁₀ condition number", 1, 2),
}


class Level(NamedTuple):
    """The mean of a column of the queries over runs of several seeds, with its 95 % interval.

    With one seed, the interval is over people only. Bounds are NaN for a single person.
    """

    mean: float
    low: float
    high: float
    seeds: int


def level(runs: Sequence[Run], column: str) -> Level | None:
    """The mean of a column of `Run.queries` over runs of one row; None if a run lacks the column.

    Queries that are NaN in a run, as those beyond the measured ones, are left out.

    Args:
        runs: of different seeds, scored on the same queries.
    """
    if not runs or any(column not in run.queries for run in runs):
        return None
    values = np.stack([run.queries[column].to_numpy(float) for run in runs])
    people = runs[0].queries["identity"].to_numpy()
    known = ~np.isnan(values).any(axis=0)
    if not known.any():
        return None
    values, people = values[:, known], people[known]
    if len(np.unique(people)) == 1:
        return Level(float(values.mean()), math.nan, math.nan, len(runs))
    if len(runs) == 1:
        return Level(*bootstrap_interval(values[0], people), 1)
    effect = crossed_effect(values, np.zeros_like(values), people)
    return Level(effect.difference, effect.low, effect.high, len(runs))


def first_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Row → its run of the first seed; of those that learned, if any did. In table order."""
    return {method: (learned(members) or members)[0] for method, members in by_method(runs).items()}


def drawn_matrices(maps: Mapping[str, Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """Title of each row of `COMPARED` → how alike its channels are, (C, C), ordered by `alike_together`.

    Each row has an order of its own: the channels of two trainings do not correspond.

    Args:
        maps: row → `channels.network_maps`. Rows that are missing are left out.
    """
    found = {}
    for method in COMPARED:
        if method in maps:
            matrix = mean_correlation(maps[method][LAST])
            order = alike_together(matrix)
            found[METHODS[method].title] = matrix[np.ix_(order, order)]
    return found


def captions(runs: Sequence[Run]) -> list[str]:
    """S(Corr) of each row of `COMPARED` that there is, ours over all queries and the published one."""
    own = by_method(runs)
    return [
        f"S(Corr) {_cell(own[method], 'channel_correlation').partition(' [')[0]} "
        f"(published {published_correlation(method):.3f})"
        for method in COMPARED
        if method in own
    ]


def missing_sentences(runs: Sequence[Run], profile: str, dataset: str) -> list[str]:
    """Which rows of `COMPARED` have no run, and the command that makes them (Markdown); [] if all have."""
    missing = [method for method in COMPARED if method not in by_method(runs)]
    if not missing:
        return []
    command = f"python run_all.py --profile {profile} --dataset {dataset} --methods {' '.join(missing)}"
    command += PLACES.get(dataset, "")
    names = ", ".join(METHODS[method].title for method in missing)
    return [f"Not run: {names}. With the other options of this study, this makes them:\n\n    {command}"]


def correlation_table(runs: Sequence[Run]) -> pd.DataFrame:
    """S(Corr) of the published figure's rows beside the published values; and each as a multiple of another.

    Attention is compared with the baseline, diversity with attention.
    """
    own = by_method(runs)
    rows = []
    for method in IN_THE_FIGURE:
        other = {BASELINE: None, ATTENTION: BASELINE}.get(method, ATTENTION)
        published = published_correlation(method)
        values = [level(learned(own.get(one, [])), "channel_correlation") for one in (method, other) if one]
        ratio = f"{values[0].mean / values[1].mean:.2f}" if len(values) == 2 and all(values) else DASH
        rows.append(
            {
                "model": METHODS[method].title,
                "published S(Corr)": f"{published:.3f}",
                "ours [95 %]": _cell(own.get(method, []), "channel_correlation"),
                "interval over": _interval_over(own.get(method, [])),
                "as a multiple of": METHODS[other].title if other else DASH,
                "published multiple": f"{published / published_correlation(other):.2f}" if other else DASH,
                "our multiple": ratio,
            }
        )
    return pd.DataFrame(rows)


def measures_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The measures of every query's last map, one line for each row that there is, with 95 % intervals."""
    return pd.DataFrame(
        [
            {
                "method": METHODS[method].title,
                "seeds": len(learned(members)),
                "interval over": _interval_over(members),
                **{f"{title} [95 %]": _cell(members, column) for column, (title, *_) in SHOWN.items()},
            }
            for method, members in by_method(runs).items()
        ]
    )


def weights_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Effective rank and condition number of the backbone's convolutions: their mean, and those of the stem.

    Of several seeds mean ± standard deviation. Weights know no people, so one seed has no interval.
    """
    names = [f"{part}{name}" for part in ("", "stem_") for name in ("effective_rank", "condition_number")]
    rows = []
    for method, members in by_method(runs).items():
        row = {"method": METHODS[method].title, "seeds": len(learned(members))}
        for name in names:
            column = name.removeprefix("stem_")
            where = "the stem" if name.startswith("stem_") else "all convolutions"
            row[f"{where}: {SHOWN[column][0]}"] = over_learned(members, _of_weights(name, column))
        rows.append(row)
    return pd.DataFrame(rows)


def _of_weights(name: str, column: str) -> Callable[[Sequence[Run]], str]:
    def form(runs: Sequence[Run]) -> str:
        values = [run.metrics.get(WEIGHTS, {}).get(name) for run in runs]
        if None in values:
            return DASH
        _, scale, digits = SHOWN[column]
        over = seed_summary([scale * value for value in values])
        text = f"{over.mean:.{digits}f}"
        return text if over.std is None else f"{text} ± {over.std:.{digits}f}"

    return form


def _cell(members: Sequence[Run], column: str) -> str:
    """A row's level: "0.335 [0.331, 0.340]", "not run", or that it did not learn."""

    def form(runs: Sequence[Run]) -> str:
        found, (_, scale, digits) = level(runs, column), SHOWN[column]
        if found is None:
            return DASH
        mean, low, high = (scale * value for value in found[:3])
        text = f"{mean:.{digits}f}"
        return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"

    return over_learned(members, form) if members else NOT_RUN


def _interval_over(members: Sequence[Run]) -> str:
    count = len(learned(members))
    return DASH if not count else "people" if count == 1 else "seeds and people"


# ------------------------------------------------------------------------------------------------ over epochs


def epochs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The measures of each epoch of the runs that learned: method (title), seed, epoch, `COLUMNS`.

    They are means over training images. Epochs and runs that were not measured are left out.
    """
    frames = [
        run.curves[["epoch", *COLUMNS]].assign(method=METHODS[method].title, seed=run.seed).dropna()
        for method, members in by_method(runs).items()
        for run in learned(members)
        if set(COLUMNS) <= set(run.curves)
    ]
    columns = ["method", "seed", "epoch", *COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def first_of_epochs(runs: Sequence[Run]) -> list[int]:
    """The epochs, counted from 1, in which O.F. begins to act in one of the runs."""
    settings = [run.experiment for run in runs if run.experiment.of_weight]
    return sorted({1 + own.warmup_epochs + own.of_start_epoch for own in settings})


def epochs_sentence(frame: pd.DataFrame) -> str:
    """How S(Corr) and the effective rank moved from the first to the last measured epoch, in words."""
    if frame.empty:
        return "No run here holds measures of its epochs: they are older than that. New trainings have them."
    parts = []
    for method, own in frame.groupby("method", sort=False):
        over = own.groupby("epoch")[list(COLUMNS)].mean()
        first, last = over.iloc[0], over.iloc[-1]
        parts.append(
            f"{method}: S(Corr) {first['channel_correlation']:.2f} → {last['channel_correlation']:.2f}, "
            f"effective rank {100 * first['effective_rank']:.0f} → {100 * last['effective_rank']:.0f} %"
        )
    return f"From epoch {frame['epoch'].min()} to {frame['epoch'].max()}: {'; '.join(parts)}."


# --------------------------------------------------------------------------------------------------- takeaway


def mechanism_sentence(runs: Sequence[Run]) -> str:
    """How attention and diversity move S(Corr) and the effective rank over the same queries, in words."""
    own, sentences, seeds = by_method(runs), [], []
    for what, one, other in (("Attention", ATTENTION, BASELINE), ("Diversity", DIVERSITY, ATTENTION)):
        pairs = _pairs(own.get(one, ()), own.get(other, ()))
        moved = [_moved(pairs, column) for column in ("channel_correlation", "effective_rank")]
        if None in moved:
            sentences.append(
                f"{what} cannot be told: {METHODS[one].title} and {METHODS[other].title} have no measured "
                "runs of one seed that learned."
            )
            continue
        seeds.append(len(pairs))
        published = published_correlation(one) - published_correlation(other)
        sentences.append(
            f"{what} moves S(Corr) by {moved[0]} (published: {published:+z.3f}) and the effective rank by "
            f"{moved[1]} points of its largest value."
        )
    if seeds:
        sentences.append(
            "Intervals are 95 % over seeds and people together; `05_findings` has the verdicts."
            if min(seeds) > 1
            else "With one seed, intervals are 95 % over people, and no verdict rests on them: another "
            "training may differ more."
        )
    return " ".join(sentences)


def _pairs(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of equal seeds that learned."""
    others = {run.seed: run for run in learned(second)}
    return [(run, others[run.seed]) for run in learned(first) if run.seed in others]


def _moved(pairs: Sequence[tuple[Run, Run]], column: str) -> str | None:
    """First minus second: "+0.193 [+0.180, +0.206]"; None without pairs, or if they were not measured."""
    if not pairs or any(column not in run.queries for pair in pairs for run in pair):
        return None
    values = [np.stack([pair[side].queries[column].to_numpy(float) for pair in pairs]) for side in (0, 1)]
    known = ~np.isnan(values).any(axis=(0, 1))
    if not known.any():
        return None
    one, other = (side[:, known] for side in values)
    people = pairs[0][0].queries["identity"].to_numpy()[known]
    effect = over_people(one, other, people) or crossed_effect(one, other, people)
    _, scale, digits = SHOWN[column]
    mean, low, high = (scale * value for value in effect[:3])
    text = f"{mean:+z.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:+z.{digits}f}, {high:+z.{digits}f}]"
