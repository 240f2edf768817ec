"""Tables and sentences about diversity: S(Corr) by several definitions, spectra, their course over epochs.

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
from reidlib.evaluation.channels import ABSOLUTE, EACH, LAST, alike_together, mean_correlation
from reidlib.evaluation.measures import COLUMNS, WEIGHTS
from reidlib.run import Run
from reidlib.show.learning import learned, over_learned
from reidlib.show.paired import over_people
from reidlib.show.published import paper_table
from reidlib.show.tables import by_method
from reidlib.show.text import DASH, NOT_RUN
from reidlib.statistics import bootstrap_interval, seed_summary

BASELINE, ATTENTION, DIVERSITY = COMPARED = ("baseline", "baseline+pam+cam", "abdnet-xe")
# The published figure's third model is called ABD-Net: with the triplet loss or without it is not said.
_AS_PUBLISHED = {
    BASELINE: "Baseline",
    ATTENTION: "Baseline + PAM + CAM",
    DIVERSITY: "ABD-Net",
    "abdnet": "ABD-Net",
}
SMALLEST = 0.01  # S(Corr) below it is 0 for a ratio
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


def published_correlation(method: str) -> float:
    """S(Corr) in the published figure's titles; NaN for rows that it does not show."""
    published = paper_table("abdnet_channel_correlation").set_index("model")["mean_channel_correlation"]
    return float(published.get(_AS_PUBLISHED.get(method), math.nan))


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
    command += " --data-root DIR" if dataset == "folder" else ""
    names = ", ".join(METHODS[method].title for method in missing)
    return [f"Not run: {names}. With the other options of this study, this makes them:\n\n    {command}"]


def correlation_table(runs: Sequence[Run]) -> pd.DataFrame:
    """S(Corr) of the published figure's rows beside the published values; and each as a multiple of another.

    Attention is compared with the baseline, diversity with attention.
    """
    own = by_method(runs)
    rows = []
    for method in _AS_PUBLISHED:
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


# ------------------------------------------------------------------------------------------------ definitions


def compared_alternatives(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`channels.alternatives` of the three rows of `COMPARED` side by side, with both ratios.

    Args:
        found: row → its table. Rows that are missing have NaN.

    Returns:
        Columns map, correlation, over, one with the title of each row, "attention / baseline", "diversity /
        attention", and apart: how far the ratios are from the published ones, as |log₂| of both quotients
        added up (1: one of them is off by a factor of 2). It is NaN where a value is missing or below
        `SMALLEST`, whose ratios are noise.
    """
    keys = ["map", "correlation", "over"]
    first = next(iter(found.values()))[keys]
    values = {
        method: first.merge(found[method], on=keys, how="left")["value"] if method in found else math.nan
        for method in COMPARED
    }
    titles = [METHODS[method].title for method in COMPARED]
    table = first.assign(**dict(zip(titles, values.values(), strict=True)))
    ratios = published_ratios()
    pairs = {"attention / baseline": (ATTENTION, BASELINE), "diversity / attention": (DIVERSITY, ATTENTION)}
    apart = 0.0
    for (name, (one, other)), published in zip(pairs.items(), ratios, strict=True):
        table[name] = table[METHODS[one].title] / table[METHODS[other].title]
        apart += np.abs(np.log2((table[name] / published).where((table[titles] >= SMALLEST).all(axis=1))))
    return table.assign(apart=apart)


def published_ratios() -> tuple[float, float]:
    """S(Corr) of attention over that of the baseline, and of diversity over that of attention."""
    one, two, three = map(published_correlation, COMPARED)
    return two / one, three / two


def alternatives_sentence(table: pd.DataFrame) -> str:
    """Which definition comes nearest to the published ratios, in words, and where ours stands."""
    known = table.dropna(subset="apart").sort_values("apart", kind="stable")
    wanted = " and ".join(f"{ratio:.2f}" for ratio in published_ratios())
    if known.empty:
        return (
            f"No definition can be compared with the published ratios ({wanted}): one of the three models "
            f"was not run, or no definition gives all three {SMALLEST} or more."
        )
    nearest = known.iloc[0]
    text = (
        f"The published ratios are {wanted} (attention over baseline, diversity over attention). Of "
        f"{len(known)} definitions by which all three models have {SMALLEST} or more, the nearest is "
        f"{_definition(nearest)}: {_ratios(nearest)}."
    )
    ours = known[_is_ours(known)]
    if len(ours) and not _is_ours(known).iloc[0]:
        place = int(np.flatnonzero(_is_ours(known))[0]) + 1
        text += f" Ours ({_definition(ours.iloc[0])}) is number {place}: {_ratios(ours.iloc[0])}."
    elif len(ours):
        text += " That is the definition used here."
    text += _against_chance()
    agree = int(((known["attention / baseline"] > 1) & (known["diversity / attention"] < 1)).sum())
    return (
        f"{text} By {agree} of the {len(known)}, attention makes channels more alike and diversity less, as "
        "published. One training each: this tells definitions apart only as far as another training agrees."
    )


PAPER_PLACES = 24 * 8  # of the paper's last map


def chance_correlation(places: int) -> float:
    """The mean absolute correlation of unrelated normal values over so many places: √(2 / π) / √(N − 1)."""
    return math.sqrt(2 / math.pi / (places - 1))


def _against_chance() -> str:
    chance, published = chance_correlation(PAPER_PLACES), published_correlation(BASELINE)
    if published >= chance:
        return ""
    return (
        f" The published {published:.3f} of the baseline is less than unrelated channels have by chance over "
        f"the {PAPER_PLACES} places of one image of the paper's ({chance:.3f}), so it is hardly an absolute "
        "correlation over the places of each image."
    )


def _is_ours(table: pd.DataFrame) -> pd.Series:
    return (table[["map", "correlation", "over"]] == [LAST, ABSOLUTE, EACH]).all(axis=1)


def _definition(row: pd.Series) -> str:
    return f"the {row['correlation']} correlation of the {row['map']} over the {row['over']}"


def _ratios(row: pd.Series) -> str:
    return f"{row['attention / baseline']:.2f} and {row['diversity / attention']:.2f}"


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
            f"{what} moves S(Corr) by {moved[0]} (published: {published:+.3f}) and the effective rank by "
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
    text = f"{mean:+.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"
