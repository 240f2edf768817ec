"""How the learning rates of the small profiles were chosen: the grid that tools/choose_rates.py trained."""

from pathlib import Path

import pandas as pd

from reidlib.files import REPOSITORY
from reidlib.show.text import percent

RATES = REPOSITORY / "results" / "reference" / "rates.csv"
TIE = 0.01  # mAP: rates as near to the best as this count as equal, and the lowest is taken
LEARNED = 0.98  # a row's cross-entropy is below this share of a uniform guess's


def chosen_rates(grid: pd.DataFrame) -> pd.DataFrame:
    """The rate of each family, data set and kind of initial weights.

    It is the lowest whose mAP on held-out people, averaged over the family's rows, is within `TIE` of the
    highest. Rates with which a row did not learn only count where all have such rows.

    Args:
        grid: a line for each trained row, with the columns of `RATES`.

    Returns:
        Columns dataset, weights, family, learning_rate, validation_map (the average), learned (of all rows).
    """
    cases = ["dataset", "weights", "family"]
    grid = grid.assign(learned=grid["cross_entropy"] < LEARNED * grid["uniform_guess"])
    by_rate = grid.groupby([*cases, "learning_rate"], sort=True).agg(
        validation_map=("validation_map", "mean"), learned=("learned", "all")
    )
    chosen = []
    for case, tried in by_rate.reset_index().groupby(cases):
        usable = tried[tried["learned"]] if tried["learned"].any() else tried
        near = usable[usable["validation_map"] >= usable["validation_map"].max() - TIE]
        chosen.append({**dict(zip(cases, case, strict=True)), **near.iloc[0].drop(cases).to_dict()})
    return pd.DataFrame(chosen)


def rates_table(path: Path = RATES) -> pd.DataFrame:
    """The grid for a page: a line for each row, a column for each rate, mAP in % on held-out people.

    A row that did not learn is marked with ✗, the chosen rates of its family with ✓.
    """
    grid = pd.read_csv(path)
    chosen = {
        (row["dataset"], row["weights"], row["family"], row["learning_rate"])
        for _, row in chosen_rates(grid).iterrows()
    }
    cells = []
    for _, row in grid.iterrows():
        mark = "" if row["cross_entropy"] < LEARNED * row["uniform_guess"] else " ✗"
        mark += (
            " ✓" if (row["dataset"], row["weights"], row["family"], row["learning_rate"]) in chosen else ""
        )
        cells.append(percent(row["validation_map"]) + mark)
    frame = grid.assign(cell=cells, optimiser=grid["optimizer"])
    keys = ["dataset", "weights", "method", "optimiser"]
    wide = frame.pivot(index=keys, columns="learning_rate", values="cell").fillna("–")
    wide.columns = [f"rate {rate:g}" for rate in wide.columns]
    return wide.reset_index()
