"""Tables and sentences about the sweep of O.F.'s weight β (`reidlib.config.of_beta_runs`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reidlib.config import OF_BETA, OF_BETA_ROW, experiment_for, of_beta_runs, settings_of
from reidlib.datasets import PLACES
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.diversity import SHOWN, Level, level
from reidlib.show.findings import runs_of
from reidlib.show.learning import learned
from reidlib.show.text import DASH, NOT_RUN

# Columns of a run's queries, as in `diversity.SHOWN`.
SWEPT = {
    "average_precision": ("mAP (%)", 100, 1),
    **{column: SHOWN[column] for column in ("channel_correlation", "effective_rank")},
}
USUAL = settings_of(OF_BETA_ROW)["of_weight"]  # the released code's


def sweep_frame(runs: Sequence[Run], profile: str, overrides: Mapping[str, Any]) -> pd.DataFrame:
    """The sweep of O.F.'s weight: one line for each weight of the profile, smallest first.

    Returns:
        Columns beta, run (a row or variant), seeds (runs that learned), not_learned (runs that did not), and
        for each of `SWEPT` its name with _mean, _low, _high (fractions, NaN without a run; bounds as in
        `Level`).
    """
    rows = []
    for name in of_beta_runs(profile, **overrides):
        every = list(runs_of(name, runs).values())
        members = learned(every)
        beta = experiment_for(name, profile=profile, **overrides).of_weight
        row = {"beta": beta, "run": name, "seeds": len(members), "not_learned": len(every) - len(members)}
        for column in SWEPT:
            found = level(members, column) or Level(*[math.nan] * 3, 0)
            row |= {f"{column}_{part}": getattr(found, part) for part in ("mean", "low", "high")}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("beta", ignore_index=True)


def sweep_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`sweep_frame` as it is shown. Without a run that learned, the cells say so."""
    rows = []
    for row in frame.to_dict("records"):
        missing = DID_NOT_LEARN if row["not_learned"] else NOT_RUN
        cells = {"β": f"{row['beta']:g}", "run": row["run"], "seeds": row["seeds"]}
        for column, (title, scale, digits) in SWEPT.items():
            mean, low, high = (scale * row[f"{column}_{part}"] for part in ("mean", "low", "high"))
            text = DASH if math.isnan(mean) else f"{mean:.{digits}f}"
            bounds = "" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
            cells[f"{title} [95 %]"] = text + bounds if row["seeds"] else missing
        rows.append(cells)
    return pd.DataFrame(rows)


def sweep_sentence(frame: pd.DataFrame) -> str:
    """What the weights that were run show, in words."""
    run = frame[frame["seeds"] > 0]
    text = f"Of {len(frame)} weights of O.F., {len(run)} {'was' if len(run) == 1 else 'were'} run."
    if len(run) < 2:
        return f"{text} Two are needed to see what the weight does."
    best, first, last = run.loc[run["average_precision_mean"].idxmax()], run.iloc[0], run.iloc[-1]
    moves = [
        f"{title} goes from {scale * first[column]:.{digits}f} to {scale * last[column]:.{digits}f}"
        for title, column, scale, digits in (
            (title, f"{name}_mean", scale, digits) for name, (title, scale, digits) in SWEPT.items()
        )
        if not math.isnan(first[column] + last[column])
    ]
    text = (
        f"{text} From β = {first['beta']:g} to {last['beta']:g}, {', '.join(moves)}. mAP is highest at "
        f"β = {best['beta']:g} ({100 * best['average_precision_mean']:.1f}). "
    )
    if run["seeds"].min() == 1:
        return f"{text}No verdict rests on one seed."
    return f"{text}The highest of several scores is too high by chance: look at the intervals."


def how_to_sweep(frame: pd.DataFrame, profile: str, dataset: str, *, reference: bool = False) -> str:
    """Which weights of the sweep are missing, and the command that trains them (Markdown)."""
    missing = [f"{beta:g}" for beta in frame.loc[frame["seeds"] + frame["not_learned"] == 0, "beta"]]
    if not missing:
        return "Every weight of the sweep was run."
    shown = missing if len(missing) < 8 else [*missing[:3], "…", missing[-1]]
    how = (
        "The reference runs have no sweep; this trains one of your own"
        if reference
        else "With the other options of this study, this trains them"
    )
    command = f"python run_all.py --profile {profile} --dataset {dataset} --switches {OF_BETA}"
    command += PLACES.get(dataset, "")
    return f"Not run: {len(missing)} weights (β = {', '.join(shown)}). {how}:\n\n    {command}"
