"""Measures of the last maps of several methods, with intervals: numbers, a table and a sentence.

The measures are those of `reidlib.evaluation.diversity` on the map that the embedding is pooled from: the
effective area, and the shares of the activation that lie on masks, where the images have masks. Neither needs
a contrast or a largest value, so no scaling of a picture decides them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from reidlib.crossed import crossed_effect
from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.diversity import effective_area
from reidlib.evaluation.mask_shares import shares_on_masks
from reidlib.models.backbone import ReidNetwork
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.learning import learned
from reidlib.show.text import DASH, NOT_RUN, percent, points
from reidlib.statistics import Interval, bootstrap_interval
from reidlib.synthetic.masks import masks_of

AREA = "effective_area"
FLAT = "flat map"  # what a map has that is equally active everywhere
NO_PAIR = "no seed in common"
_ROWS = {
    AREA: "effective area (% of the map)",
    "person": "on the person (% of the activation)",
    "head": "of that, on the head",
    "torso": "on the torso",
    "arms": "on the arms",
    "legs": "on the legs",
    "bag": "on the bag",
    "occluder": "on what stands in front",
    "background": "on the background",
}


def known_masks(
    dataset: ReidDataset, rows: np.ndarray, height: int, width: int
) -> dict[str, np.ndarray] | None:
    """Masks of some queries, (n, height, width) booleans each; None: the data set has none.

    Raises:
        SyntheticError: as in `masks_of`.
    """
    if not dataset.is_synthetic:
        return None
    paths = [dataset.query.paths[row] for row in rows]
    return masks_of(dataset.root, paths, height=height, width=width)


def measures_of(
    run: Run,
    images: np.ndarray,
    rows: np.ndarray,
    masks: Mapping[str, np.ndarray] | None,
    model: ReidNetwork | None = None,
) -> pd.DataFrame:
    """A run's measures of every query, as fractions: `AREA`, and a column for each mask.

    The area is the run's own record. A share is NaN for queries other than `rows`.

    Args:
        images: (Q, H, W, 3) RGB bytes, all queries.
        rows, masks: as in `known_masks`.
        model: the run's network, if it is loaded already.
    """
    frame = run.queries[["identity", AREA]].copy()
    if masks is not None:
        shares = shares_on_masks(model or run.model(), images[rows], masks)
        frame = frame.join(shares.set_index(rows))
    return frame


def measure_numbers(
    columns: Mapping[str, Sequence[Run]],
    measured: Mapping[str, pd.DataFrame],
    pairs: Sequence[tuple[str, str]],
    masks: Mapping[str, np.ndarray] | None,
    *,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Each measure of each method, and the differences between methods, with 95 % intervals.

    A method's number is the mean over queries. With several seeds its interval is over seeds and people
    (`crossed_effect`), with one over people, by resampling them. Differences are paired, over the seeds that
    both have. Runs that did not learn are left out; if none of a method's did, its mean stands without an
    interval. A query without a value in one of the runs is left out of all of them.

    Args:
        columns: title → the runs of a method, one a seed; []: not run.
        measured: name of a run → what `measures_of` gives.
        pairs: titles of the methods (first, second) whose difference first − second is taken.
        masks: those of `measures_of`. Their own areas are what a flat map has.

    Returns:
        Columns measure, first, second (titles; second is "" for the mean of one method or of `FLAT`),
        estimate, low, high (fractions; NaN: there is none), queries and seeds (how many), and state ("",
        "not run", "did not learn" or `NO_PAIR`).
    """
    rows = []
    for measure in (AREA, *(masks or {})):

        def values_of(runs: Sequence[Run], measure: str = measure) -> np.ndarray:
            return np.stack([measured[run.name][measure].to_numpy(float) for run in runs])  # (S, Q)

        flat = 1.0 if measure == AREA else float(masks[measure].mean())
        rows.append((measure, FLAT, "", flat, np.nan, np.nan, 0, 0, ""))
        for title, runs in columns.items():
            known, found, queries = learned(runs), *_NOTHING
            if runs:
                shown = known or runs
                found, queries = _interval(values_of(shown), _people(measured[shown[0].name]), resamples)
            if not known:
                found = found._replace(low=np.nan, high=np.nan)
            state = "" if known else DID_NOT_LEARN if runs else NOT_RUN
            rows.append((measure, title, "", *found, queries, len(known), state))
        for first, second in pairs:
            one, two = ({run.seed: run for run in learned(columns[title])} for title in (first, second))
            seeds, found, queries = [seed for seed in one if seed in two], *_NOTHING
            if seeds:
                sides = [values_of([side[seed] for seed in seeds]) for side in (one, two)]
                people = _people(measured[one[seeds[0]].name])
                found, queries = _interval(sides[0] - sides[1], people, resamples)
            state = "" if seeds else _why_no_pair(columns[first], columns[second])
            rows.append((measure, first, second, *found, queries, len(seeds), state))
    names = ["measure", *_KEYS, "estimate", "low", "high", "queries", "seeds", "state"]
    return pd.DataFrame(rows, columns=names)


_KEYS = ["first", "second"]
_NOTHING = (Interval(np.nan, np.nan, np.nan), 0)


def _people(measured: pd.DataFrame) -> np.ndarray:
    return measured["identity"].to_numpy()


def _why_no_pair(first: Sequence[Run], second: Sequence[Run]) -> str:
    if not first or not second:
        return NOT_RUN
    if not learned(first) or not learned(second):
        return DID_NOT_LEARN
    return NO_PAIR


def _interval(values: np.ndarray, people: np.ndarray, resamples: int) -> tuple[Interval, int]:
    """The mean of (S, Q) values with its interval over seeds and people, of one seed over people.

    And of how many queries it is.
    """
    known = ~np.isnan(values).any(axis=0)
    values, people = values[:, known], people[known]
    if not known.any():
        return _NOTHING
    if len(values) > 1:
        found = Interval(*crossed_effect(values, np.zeros_like(values), people)[:3])
    elif len(np.unique(people)) == 1:
        found = Interval(float(values.mean()), np.nan, np.nan)
    else:
        found = bootstrap_interval(values[0], people, resamples=resamples)
    return found, len(people)


def measures_table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`measure_numbers` as a table: one row per measure, in %, differences in points.

    A column's title says what its intervals are over.
    """
    rows: dict[str, dict[str, str | int]] = {}
    queries = numbers.groupby("measure")["queries"].max()
    for _, number in numbers.iterrows():
        measure = number["measure"]
        row = rows.setdefault(measure, {"measure": _ROWS[measure], "queries": int(queries[measure])})
        row[_heading(number)] = _cell(number)
    return pd.DataFrame(list(rows.values()))


def _heading(number: pd.Series) -> str:
    title = f"{number['first']} − {number['second']}" if number["second"] else number["first"]
    if not number["seeds"]:
        return title
    over = "people" if number["seeds"] == 1 else f"{number['seeds']} seeds and people"
    return f"{title} [95 %, {over}]"


def _cell(number: pd.Series) -> str:
    estimate, bounds = number["estimate"], (number["low"], number["high"])
    if np.isnan(estimate):
        return number["state"] or DASH
    if number["state"]:
        return f"{number['state']} ({percent(estimate)})"
    return points(estimate, *bounds) if number["second"] else percent(estimate, bounds)


def takeaway(numbers: pd.DataFrame, claims: Sequence[tuple[str, str]], subject: str, profile: str) -> str:
    """What the numbers say of a claim that one method's map is wider than another's, in Markdown.

    A claim is judged by the interval of the effective area over seeds and people: above 0 it is as the paper
    claims, below 0 the opposite, and otherwise one cannot tell. Both papers claim that the map spreads over
    the person: a wider map of which less lies on the person is said to be that. From one seed there is no
    verdict.

    Args:
        claims: titles of the methods (wider, narrower), each one of the pairs of `measure_numbers`.
        subject: what is claimed to widen the map, such as "Diversity".
    """
    table = numbers.set_index(["measure", *_KEYS])
    area, person = table.loc[AREA], table.loc["person"] if "person" in table.index else None
    lines = [f"- **Effective area** of the last map: {_levels(area)}."]
    for pair in claims:
        on_person = None if person is None else person.loc[pair]
        lines.append(f"- {_judged(area.loc[pair], on_person, subject, pair)}")
    if person is not None:
        flat = percent(person.loc[(FLAT, ""), "estimate"])
        lines.append(
            f"- **On the person** lies this share of the activation: {_levels(person)}. A flat map has "
            f"{flat} % there: a share near it tells little of where the person is, however wide the map."
        )
    else:
        lines.append("- These images have no masks, so how much lies on the person is not known.")
    lines += ["- A smoke run means nothing."] if profile == "smoke" else []
    return "\n".join(lines)


def _levels(table: pd.DataFrame) -> str:
    """The means of all methods in words."""
    means = table[(table.index.get_level_values("second") == "")].drop((FLAT, ""))
    return ", ".join(f"{title} {_level(number)}" for (title, _), number in means.iterrows())


def _level(number: pd.Series) -> str:
    if np.isnan(number["estimate"]):
        return number["state"] or DASH
    text = f"{percent(number['estimate'])} %"
    return f"{text} ({number['state']})" if number["state"] else text


def _judged(number: pd.Series, on_person: pd.Series | None, subject: str, pair: tuple[str, str]) -> str:
    what = f"{subject} ({pair[0]} − {pair[1]})"
    if np.isnan(number["estimate"]):
        return f"{what} cannot be judged: {number['state'] or 'nothing is measured'}."
    low, high = number["low"], number["high"]
    effect = points(number["estimate"], low, high)
    if number["seeds"] == 1:
        words = f"{_direction(number['estimate'])} in this one training"
        words += f"{_there(on_person)}. The interval is over people only: no verdict"
        return f"{what}: {effect} points, {words}."
    words = "one cannot tell: the interval holds 0"
    if low > 0 or high < 0:
        agrees = "as the paper claims" if low > 0 else "the opposite of what the paper claims"
        words = f"{_direction(number['estimate'])}, {agrees}"
        if low > 0 and on_person is not None and on_person["high"] < 0:
            words = "wider, but with less on the person, which is not what the paper claims"
    return f"{what}: {effect} points over {number['seeds']} seeds and people, {words}{_there(on_person)}."


def _there(on_person: pd.Series | None) -> str:
    """The difference in the share on the person, in brackets; "" without masks."""
    if on_person is None or np.isnan(on_person["estimate"]):
        return ""
    return f" (of the activation, {points(*on_person[['estimate', 'low', 'high']])} points lie on the person)"


def _direction(difference: float) -> str:
    shown = round(100 * difference, 1)
    return "wider" if shown > 0 else "narrower" if shown < 0 else "as wide"


def heat_text(what: str, heats: Mapping[str, np.ndarray], labels: Mapping[str, str]) -> str:
    """The alternative text of `figures.heat_rows`: what it shows, and how wide the drawn maps are.

    Args:
        what: the images and the kind of map, such as "6 people with Grad-CAM maps".
        heats, labels: as in `figures.heat_rows`.
    """
    areas = {name: effective_area(torch.from_numpy(heat)) for name, heat in heats.items()}
    found = ", ".join(_area_in_words(labels[name], area) for name, area in areas.items())
    return (
        f"{what} of {len(heats)} models, in jet and in viridis. Mean effective area of these maps: {found}."
    )


def _area_in_words(label: str, areas: torch.Tensor) -> str:
    empty = int(areas.isnan().sum())
    text = f"{label} {percent(float(areas.nanmean()))} %" if empty < len(areas) else f"{label} none"
    return f"{text} ({empty} without any positive place)" if empty else text
