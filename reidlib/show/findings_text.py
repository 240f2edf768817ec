"""The findings as text: one table for the first screen, one for each data set, and what is open."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from reidlib.claims import CLAIMS, MEASURES, Claim
from reidlib.config import METHODS, VARIANTS
from reidlib.show.findings import RunsByDataset, runs_of
from reidlib.show.text import DASH, p_value, runs_in_short
from reidlib.show.verdicts import (
    AS_CLAIMED,
    ENOUGH,
    NOT_LEARNED,
    NOT_MEASURED,
    NOT_RUN,
    ONE_SEED,
    OPPOSITE,
    SMALL,
    UNCLEAR,
    effect_in_unit,
    in_unit,
)

BY_NAME: Mapping[str, Claim] = {claim.name: claim for claim in CLAIMS}
TOLD = (AS_CLAIMED, OPPOSITE, SMALL)
JUDGED = (*TOLD, UNCLEAR)
# What follows the number of claims in a sentence.
_IN_WORDS = {
    OPPOSITE: "opposite",
    SMALL: "smaller than the margin",
    UNCLEAR: "cannot be told",
    ONE_SEED: "with one seed, so without a verdict",
    NOT_LEARNED: "without a verdict, because a row did not learn",
    NOT_MEASURED: "not measured",
}


def answer(found: pd.DataFrame, runs: RunsByDataset) -> str:
    """The findings in a few lines (Markdown): for each data set how many claims hold, and what is open.

    Where several data sets tell something, the first line says in what they agree.

    Args:
        found: table of `findings.findings`, from these runs.
    """
    several = found.loc[found["verdict"].isin(TOLD), "data_set"].nunique() > 1
    lines = [f"- **All together:** {across_data_sets(found)}"] if several else []
    for data_set, members in found.groupby("data_set", sort=False):
        names = {words: part["name"].tolist() for words, part in members.groupby("verdict")}
        judged, held = sum(len(names.get(words, ())) for words in JUDGED), names.get(AS_CLAIMED, ())
        if set(names) == {NOT_RUN}:
            lines.append(f"- **{data_set}:** nothing was run.")
            continue
        parts = [f"{len(held)} of {judged} claims hold" + _listed(held) if judged else "no verdict yet"]
        parts += [
            f"{len(names[words])} {said}{_listed(names[words] if words in JUDGED else ())}"
            for words, said in _IN_WORDS.items()
            if words in names
        ]
        parts += [f"{len(names[NOT_RUN])} not run"] if NOT_RUN in names else []
        own = runs.get(data_set, ())
        lines.append(f"- **{data_set}:** {'; '.join(parts)}.{_cost(members, own)}{_not_learned(own)}")
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _not_learned(runs: Sequence) -> str:
    names = [run.name for run in runs if run.learned is False]
    return f" No verdict rests on runs that did not learn: {runs_in_short(names)}." if names else ""


def _cost(members: pd.DataFrame, runs: Sequence) -> str:
    """How many more trainings would tell what is open. A row that several claims need counts once."""
    more: dict[str, int] = {}  # row → trainings
    hours: dict[str, float] = {}  # row → of one training
    for claim in members[members["seeds_needed"] > 0].itertuples():
        for trained in (runs_of(row, runs) for row in (claim.first, claim.second)):
            if trained:  # a variant may be shown by its row
                row = next(iter(trained.values())).method
                have = sum(run.learned is not False for run in trained.values())
                more[row] = max(more.get(row, 0), int(claim.seeds_needed) - have)
                hours[row] = np.mean([run.metrics["train_seconds"] for run in trained.values()]) / 3600
    count = sum(more.values())
    if not count:
        return ""
    time = in_hours(sum(more[row] * hours[row] for row in more))
    return f" Telling what is open would take {count} more trainings, {time} at the recorded times."


def in_hours(hours: float) -> str:
    return f"about {hours:.1f} hours" if hours >= 1 else f"about {max(1, round(60 * hours))} minutes"


def overview(found: pd.DataFrame) -> pd.DataFrame:
    """The answer in one table: a row for each claim, a column for each data set, with verdict and effect.

    What was run nowhere is left out.
    """
    run = found[found["verdict"] != NOT_RUN]
    data_sets = list(dict.fromkeys(run["data_set"]))
    rows = []
    for claim in CLAIMS:
        members = run[run["name"] == claim.name].set_index("data_set")
        if len(members):
            cells = {
                data_set: _verdict_and_effect(members.loc[data_set]) if data_set in members.index else NOT_RUN
                for data_set in data_sets
            }
            rows.append({"claim": claim.text, **cells, "published": _published(claim)})
    return pd.DataFrame(rows, columns=["claim", *data_sets, "published"])


def _verdict_and_effect(row: pd.Series) -> str:
    seeds = f", {row['seeds']} seeds" if 1 < row["seeds"] < ENOUGH else ""
    return row["verdict"] + (f", {_effect(row)}{seeds}" if row["seeds"] else "")


def _effect(row: pd.Series) -> str:
    if not row["seeds"]:
        return DASH
    return effect_in_unit(BY_NAME[row["name"]], row["difference"], row["low"], row["high"])


def _published(claim: Claim) -> str:
    return DASH if claim.size is None else in_unit(claim, claim.size, "+")


def data_set_table(found: pd.DataFrame, data_set: str) -> pd.DataFrame:
    """The findings on one data set, without the claims that were not run there."""
    rows = [
        {
            "claim": row["claim"],
            "verdict": ": ".join(filter(None, (row["verdict"], row["why"]))),
            "effect [95 %]": _effect(row),
            "published": _published(BY_NAME[row["name"]]),
            "measured": row["measure"],
            "seeds": row["seeds"],
            "p (Holm)": DASH if np.isnan(row["p_holm"]) else p_value(row["p_holm"]),
            "did not learn": row["not_learned"] or DASH,
        }
        for _, row in found[(found["data_set"] == data_set) & (found["verdict"] != NOT_RUN)].iterrows()
    ]
    columns = ["claim", "verdict", "effect [95 %]", "published", "measured", "seeds", "p (Holm)"]
    return pd.DataFrame(rows, columns=[*columns, "did not learn"])


def open_table(found: pd.DataFrame) -> pd.DataFrame:
    """What cannot be told, what would tell it, and what that costs for this claim alone."""
    rows = [
        {
            "claim": row["claim"],
            "data set": row["data_set"],
            "effect [95 %]": _effect(row),
            "seeds": row["seeds"],
            "what would tell": row["why"],
            "more training": DASH if np.isnan(row["more_hours"]) else in_hours(row["more_hours"]),
        }
        for _, row in found[found["verdict"].isin([UNCLEAR, ONE_SEED])].iterrows()
    ]
    columns = ["claim", "data set", "effect [95 %]", "seeds", "what would tell", "more training"]
    return pd.DataFrame(rows, columns=columns)


def claims_table(claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Every claim: who says it, what is measured, on which rows, what is predicted and published."""
    return pd.DataFrame(
        [
            {
                "claim": claim.text,
                "who says it": claim.source,
                "measured": MEASURES[claim.measure].title,
                "rows": f"{claim.first}: with − without"
                if claim.first == claim.second
                else f"{claim.first} − {claim.second}",
                "predicted": "more" if claim.sign > 0 else "less",
                "published": _published(claim) + (f" ({claim.size_source})" if claim.size else ""),
                "margin": f"{claim.margin:.0%}" if claim.relative else in_unit(claim, claim.margin),
            }
            for claim in claims
        ]
    )


def how_to_run(found: pd.DataFrame, data_set: str, profile: str, dataset: str) -> str:
    """The command that trains what one study lacks (Markdown): rows without a run, or with one seed only.

    Args:
        data_set: of `found`, in words; profile, dataset: of that study.
    """
    lacking = found[(found["data_set"] == data_set) & found["verdict"].isin([NOT_RUN, ONE_SEED])]
    rows = {*lacking["first"], *lacking["second"]}
    if not rows:
        return f"{data_set}: every claim has runs of several seeds."
    bases = {VARIANTS[row].differs_from if row in VARIANTS else row for row in rows}
    switches = dict.fromkeys(row.split(".")[1] for row in VARIANTS if row in rows)
    command = f"python run_all.py --profile {profile} --dataset {dataset}"
    command += f" --methods {' '.join(row for row in METHODS if row in bases)}"
    command += f" --seeds {' '.join(map(str, range(ENOUGH)))}"
    command += f" --switches {' '.join(switches)}" if switches else ""
    return (
        f"{data_set}: {len(lacking)} claims lack runs or have one seed. With the other options of this "
        f"study, this trains what is missing:\n\n    {command}"
    )


def across_data_sets(found: pd.DataFrame) -> str:
    """In which claims the data sets agree, in words."""
    told = found[found["verdict"].isin(TOLD)]
    if told.empty:
        return "No data set can tell any claim: runs are missing, have one seed, or leave it open."
    agreed: dict[str, list[str]] = {}
    differing = []
    for name, members in told.groupby("name", sort=False):
        words = members["verdict"].unique()
        if len(words) > 1:
            differing.append(name)
        else:
            agreed.setdefault(words[0], []).append(name)
    parts = [f"{len(names)} {words}{_listed(names)}" for words, names in agreed.items()]
    open_ = [name for name in found["name"].unique() if name not in set(told["name"])]
    text = f"Wherever it can be told, {'; '.join(parts)}." if parts else ""
    text += f" The data sets differ in {len(differing)}{_listed(differing)}." if differing else ""
    return (text + (f" Told nowhere: {len(open_)}{_listed(open_)}." if open_ else "")).strip()
