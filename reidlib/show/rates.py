"""How the learning rates of the small profiles were chosen: the grid that tools/choose_rates.py trained."""

from pathlib import Path

import pandas as pd

from reidlib.config import title_of
from reidlib.files import REPOSITORY
from reidlib.show.text import DASH, percent

RATES = REPOSITORY / "results" / "reference" / "rates.csv"
TIE = 0.01  # mAP: rates as near to the best as this count as equal, and the lowest is taken
LEARNED = 0.98  # share of a uniform guess's cross-entropy, as in reidlib.training.learning


def chosen_rates(grid: pd.DataFrame) -> pd.DataFrame:
    """The rate of each family, data set and kind of initial weights.

    Only rates count that all of the family's rows were trained with, and of these the ones with which most
    rows learned. It is the lowest of them whose mAP on held-out people, averaged over the rows, is within
    `TIE` of the highest.

    Args:
        grid: a line for each trained row, with the columns of `RATES`.

    Returns:
        Columns dataset, weights, family, learning_rate, validation_map (the average), learned (rows).
    """
    cases = ["dataset", "weights", "family"]
    by_rate = grid.assign(learned=_learned(grid)).groupby([*cases, "learning_rate"], sort=True)
    averages = by_rate.agg(
        validation_map=("validation_map", "mean"), learned=("learned", "sum"), rows=("learned", "size")
    )
    chosen = []
    for case, tried in averages.reset_index().groupby(cases):
        tried = tried[tried["rows"] == tried["rows"].max()].drop(columns="rows")
        usable = tried[tried["learned"] == tried["learned"].max()]
        near = usable[usable["validation_map"] >= usable["validation_map"].max() - TIE]
        chosen.append({**dict(zip(cases, case, strict=True)), **near.iloc[0].drop(cases).to_dict()})
    return pd.DataFrame(chosen)


def rates_table(path: Path = RATES) -> pd.DataFrame:
    """The grid for a page: a line for each row, mAP in % on held-out people for each rate.

    ✓ marks the family's chosen rate, ✗ a row that did not learn.
    """
    grid = pd.read_csv(path)
    key = ["dataset", "weights", "family", "learning_rate"]
    chosen = set(chosen_rates(grid)[key].itertuples(index=False, name=None))
    marks = [
        ("" if learned else " ✗") + (" ✓" if row in chosen else "")
        for learned, row in zip(_learned(grid), grid[key].itertuples(index=False, name=None), strict=True)
    ]
    cells = [percent(score) + mark for score, mark in zip(grid["validation_map"], marks, strict=True)]
    lines: dict[tuple, dict] = {}
    for cell, row in zip(cells, grid.to_dict("records"), strict=True):
        line = {"data": row["dataset"], "initial weights": row["weights"], "row": title_of(row["method"])}
        line["optimiser"] = {"adam": "Adam", "sgd": "SGD"}[row["optimizer"]]
        lines.setdefault(tuple(line.values()), line)[f"{row['learning_rate']:g}"] = cell
    frame = pd.DataFrame(lines.values())
    rates = sorted(frame.columns[4:], key=float)
    return frame[[*frame.columns[:4], *rates]].fillna(DASH)


def _learned(grid: pd.DataFrame) -> pd.Series:
    return grid["cross_entropy"] <= LEARNED * grid["uniform_guess"]
