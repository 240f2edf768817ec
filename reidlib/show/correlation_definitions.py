"""What S(Corr) may mean: which definition comes nearest to the values that the paper prints."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from reidlib.config import METHODS
from reidlib.evaluation.channels import ABSOLUTE, EACH, LAST
from reidlib.show.published import paper_table

BASELINE, ATTENTION, DIVERSITY = COMPARED = ("baseline", "baseline+pam+cam", "abdnet-xe")
# The published figure's third model is called ABD-Net: with the triplet loss or without it is not said.
IN_THE_FIGURE = {
    BASELINE: "Baseline",
    ATTENTION: "Baseline + PAM + CAM",
    DIVERSITY: "ABD-Net",
    "abdnet": "ABD-Net",
}
SMALLEST = 0.01  # S(Corr) below it is 0 for a ratio
PAPER_PLACES = 24 * 8  # of the paper's last map


def published_correlation(method: str) -> float:
    """S(Corr) in the published figure's titles; NaN for rows that it does not show."""
    published = paper_table("abdnet_channel_correlation").set_index("model")["mean_channel_correlation"]
    return float(published.get(IN_THE_FIGURE.get(method), math.nan))


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
