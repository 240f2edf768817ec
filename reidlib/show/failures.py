"""Where runs fail: scores of groups of queries, with intervals, and what costs most, in words.

With one seed the intervals are over people, and no verdict rests on them. With several they are over seeds
and people together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reidlib.config import title_of
from reidlib.crossed import CrossedEffect
from reidlib.datasets import DATASET_TITLES
from reidlib.datasets.types import ReidDataset
from reidlib.evaluation.by_group import group_difference, group_score
from reidlib.evaluation.camera_pairs import camera_pair_precision
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.learning import learned
from reidlib.show.paired import corrected_p, verdict
from reidlib.show.tables import by_method
from reidlib.show.text import DASH, p_value, percent, points
from reidlib.statistics import hits
from reidlib.synthetic.attributes import OCCLUDERS, SIDES, attributes_of, people_dressed_alike

FEWEST_PEOPLE = 20  # of a group that a sentence may name: with fewer, intervals over people are too narrow


LEVEL_COLUMNS = [
    "attribute", "level", "queries", "people", "seeds", "map", "low", "high",
    "difference", "difference_low", "difference_high", "p", "verdict",
]  # fmt: skip


class Attribute(NamedTuple):
    """What queries are grouped by.

    levels: the first is the one that the others are compared with. labels: (Q,) the level of each query; a
    query whose label is none of them is left out.
    """

    title: str
    levels: tuple[str, ...]
    labels: np.ndarray


def cmc_frame(runs: Sequence[Run], ranks: int = 20) -> pd.DataFrame:
    """The share of queries with a match among the first k images, for k up to `ranks`, of each method.

    Of a method, only the runs that learned count, if any did.

    Returns:
        Columns method (title, with the words if no run learned), family, learned, seeds, rank, share, low,
        high (fractions; see `group_score`).
    """
    rows = []
    for method, members in by_method(runs).items():
        used = learned(members) or members
        people = used[0].queries["identity"].to_numpy()
        everyone = np.ones(len(people), dtype=bool)
        facts = {
            "method": title_of(method) + ("" if learned(members) else f" ({DID_NOT_LEARN})"),
            "family": used[0].experiment.family,
            "learned": bool(learned(members)),
            "seeds": len(used),
        }
        for rank in range(1, ranks + 1):
            found = np.stack([hits(run.queries["first_match_rank"], rank) for run in used])
            score = group_score(found, people, everyone)
            rows.append({**facts, "rank": rank, "share": score.mean, "low": score.low, "high": score.high})
    return pd.DataFrame(rows)


def rendered_attributes(dataset: ReidDataset) -> list[Attribute]:
    """The attributes of the queries that the renderer knows, of a synthetic data set.

    Raises:
        SyntheticError: as in `attributes_of`.
    """
    query, gallery = (attributes_of(dataset.root, split.paths) for split in (dataset.query, dataset.gallery))
    ranked = dataset.gallery.ids != -1
    alike = {
        name: people_dressed_alike(
            query[name], query["person"], gallery[name][ranked], gallery["person"][ranked]
        )
        for name in ("colours", "clothes")
    }
    overlap, turn = 100 * query["overlap"], np.degrees(_turn_to_nearest_match(query, gallery, dataset))
    return [
        Attribute("side seen", SIDES, query["side"]),
        Attribute(
            "turned from the nearest match", *_binned(turn, {45: "below 45°", 90: "45° to 90°"}, "above 90°")
        ),
        Attribute("occluder", OCCLUDERS, query["occluder"]),
        Attribute(
            "overlap of the box with a centred one",
            *_binned(-overlap, {-90: "above 90 %", -80: "80 % to 90 %"}, "below 80 %"),
        ),
        Attribute(
            "others in the same colours",
            *_binned(alike["colours"], {4: "up to 3", 8: "4 to 7"}, "8 or more"),
        ),
        Attribute(
            "others in the same colours and pattern",
            *_binned(alike["clothes"], {1: "none", 2: "1"}, "2 or more"),
        ),
    ]


def level_frame(precisions: np.ndarray, people: np.ndarray, attributes: Sequence[Attribute]) -> pd.DataFrame:
    """Average precision at each level of each attribute, and its difference from the attribute's first level.

    Args:
        precisions: (S, Q) average precision of each seed's run; NaN: no match.
        people: (Q,) identities.

    Returns:
        Columns attribute, level, queries, people, seeds, map, low, high (fractions); and for the levels after
        the first, where both have queries: difference, difference_low, difference_high, p (Holm-corrected
        over all rows; NaN with one seed), verdict.
    """
    rows: list[dict] = []
    effects: dict[int, CrossedEffect] = {}  # by number of the row
    for attribute in attributes:
        first = attribute.labels == attribute.levels[0]
        for level in attribute.levels:
            members = attribute.labels == level
            score = group_score(precisions, people, members)
            row = {"attribute": attribute.title, "level": level, "queries": score.queries}
            row |= {"people": score.people, "seeds": len(precisions), "map": score.mean}
            row |= {"low": score.low, "high": score.high}
            if level != attribute.levels[0] and score.queries and (first & ~np.isnan(precisions[0])).any():
                effect, of_people = group_difference(precisions, people, members, first)
                effects[len(rows)] = effect
                found = of_people or effect
                row |= {"difference": effect.difference}
                row |= {"difference_low": found.low, "difference_high": found.high}
            rows.append(row)
    for number, p in zip(effects, corrected_p(list(effects.values())), strict=True):
        rows[number] |= {"p": p, "verdict": verdict(effects[number], p)}
    return pd.DataFrame(rows, columns=LEVEL_COLUMNS)


def level_table(levels: pd.DataFrame) -> pd.DataFrame:
    """`level_frame` for a page: mAP in % and differences in points, with 95 % intervals."""
    over = "people" if levels["seeds"].max() == 1 else ""

    def difference(row: pd.Series) -> str:
        known = not np.isnan(row["difference"])
        return points(*row[["difference", "difference_low", "difference_high"]], over) if known else DASH

    return pd.DataFrame(
        {
            "attribute": levels["attribute"].where(~levels["attribute"].duplicated(), ""),
            "level": levels["level"],
            "queries": levels["queries"],
            "people": levels["people"],
            "mAP [95 %]": [
                percent(row["map"], (row["low"], row["high"])) if row["queries"] else DASH
                for _, row in levels.iterrows()
            ],
            "− the first [95 %]": [difference(row) for _, row in levels.iterrows()],
            "p (Holm)": [p_value(p) for p in levels["p"]],
            "verdict": levels["verdict"].astype(object).fillna(DASH),
        }
    )


def camera_frame(runs: Sequence[Run], dataset: ReidDataset) -> pd.DataFrame:
    """Average precision of the queries of each camera among the images of each other camera.

    Args:
        runs: seeds of one method.

    Returns:
        Columns query_camera, gallery_camera, queries, people, seeds, map, low, high (fractions). Pairs that
        see no person together have no row.
    """
    by_seed = [camera_pair_precision(run.embeddings, dataset) for run in runs]
    rows = []
    for camera in np.unique(dataset.query.cameras):
        own = dataset.query.cameras == camera
        for other in by_seed[0]:
            precisions = np.stack([precision[other] for precision in by_seed])
            score = group_score(precisions, dataset.query.ids, own)
            if score.queries:
                row = {"query_camera": int(camera), "gallery_camera": other, "queries": score.queries}
                row |= {"people": score.people, "seeds": len(runs), "map": score.mean}
                rows.append(row | {"low": score.low, "high": score.high})
    return pd.DataFrame(rows)


def precisions_of(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """(S, Q) average precisions of one method's runs, and the queries' (Q,) identities."""
    precisions = np.stack([run.queries["average_precision"].to_numpy(float) for run in runs])
    return precisions, runs[0].queries["identity"].to_numpy()


# --------------------------------------------------------------------------------------------------- in words


def cost_sentence(levels: pd.DataFrame, method: str) -> str:
    """Which level of an attribute costs most average precision, with its interval.

    Levels with fewer than `FEWEST_PEOPLE` people are not named, and not compared with. With several seeds,
    the words are those of `paired.verdict`; with one, that no verdict rests on it.

    Args:
        levels: `level_frame`.
        method: title of the method.
    """
    first = levels.groupby("attribute", sort=False)[["level", "people", "map", "queries"]].first()
    people = np.minimum(levels["people"], levels["attribute"].map(first["people"]))
    enough = levels[(people >= FEWEST_PEOPLE) & levels["difference"].notna()]
    if enough.empty:
        return f"No group of queries has {FEWEST_PEOPLE} people: what costs average precision cannot be told."
    worst = enough.loc[enough["difference"].idxmin()]
    other = first.loc[worst["attribute"]]
    one_seed = worst["seeds"] == 1
    change = points(*worst[["difference", "difference_low", "difference_high"]])
    groups = (
        f"{worst['attribute']} “{worst['level']}” against “{other['level']}”: {change} points of mAP "
        f"(95 % interval over {'people' if one_seed else 'seeds and people'}; {percent(worst['map'])} "
        f"against {percent(other['map'])} % on {worst['queries']:,} and {other['queries']:,} queries)."
    )
    if worst["difference"] >= 0:
        return f"No group of queries costs {method} average precision. Least is gained by {groups}"
    text = f"What costs {method} most average precision is {groups}"
    if one_seed:
        return (
            f"{text} It is the largest of {len(enough)} differences of one training: no verdict rests on it."
        )
    return f"{text} As the largest of {len(enough)} differences, p corrected: {worst['verdict']}."


def unknown_sentence(dataset: ReidDataset) -> str:
    """Why a data set of photographs has no attributes but the cameras."""
    return (
        "Which side a query shows, what stands in front, how its box lies and who is dressed alike is known "
        f"of rendered images only. Nobody has noted it for {DATASET_TITLES[dataset.name]}, so only the "
        "camera pairs are shown."
    )


def camera_sentence(frame: pd.DataFrame) -> str:
    """The hardest and the easiest pair of cameras, among those with enough people."""
    enough = frame[frame["people"] >= FEWEST_PEOPLE]
    if len(enough) < 2:
        return f"Fewer than two pairs of cameras have {FEWEST_PEOPLE} people in common."
    hardest, easiest = (enough.loc[place] for place in (enough["map"].idxmin(), enough["map"].idxmax()))

    def named(pair: pd.Series) -> str:
        return (
            f"from camera {pair['query_camera']:.0f} to {pair['gallery_camera']:.0f} "
            f"(mAP {percent(pair['map'], (pair['low'], pair['high']))} %, {pair['queries']:.0f} queries)"
        )

    return f"The hardest way is {named(hardest)}, the easiest {named(easiest)}."


def cmc_sentence(frame: pd.DataFrame) -> str:
    """rank-1 and the last rank of the method with the best and of that with the worst rank-1."""
    first, last = (frame[frame["rank"] == rank].set_index("method") for rank in (1, frame["rank"].max()))
    names = dict.fromkeys((first["share"].idxmax(), first["share"].idxmin()))
    parts = [
        f"{name} has a match at rank 1 for {percent(first.loc[name, 'share'])} % of the queries and among "
        f"the first {frame['rank'].max()} for {percent(last.loc[name, 'share'])} %"
        for name in names
    ]
    return f"{'; '.join(parts)}."


def worst_sentence(worst: pd.DataFrame, levels: pd.DataFrame | None = None) -> str:
    """What the worst queries have in common, as counts.

    Args:
        worst: `rankings.worst_frame`; of rendered images with the columns of `with_attributes`.
        levels: `level_frame` of rendered images.
    """
    people = worst["query_identity"].nunique()
    text = (
        f"The {len(worst)} worst queries show {people} people; their best right image stands at rank "
        f"{worst['right_rank'].min():.0f} to {worst['right_rank'].max():.0f}."
    )
    if levels is None:
        return text
    counts = levels[levels["attribute"] == "occluder"].set_index("level")["queries"]
    hidden, everywhere = (worst["occluder"] != "none").mean(), 1 - counts["none"] / counts.sum()
    return (
        f"{text} The first wrong image shows someone in the same colours for {worst['same_colours'].sum()} "
        f"of them. Something stands in front in {percent(hidden)} % of them, and in {percent(everywhere)} % "
        "of all queries."
    )


def with_attributes(worst: pd.DataFrame, dataset: ReidDataset) -> pd.DataFrame:
    """`rankings.worst_frame` with what the renderer knows of each query and of the first wrong image.

    The columns added are side, occluder and overlap of the query, and same_colours: whether the first wrong
    image shows the same colours.
    """
    query = attributes_of(dataset.root, dataset.query.paths)
    wrong = attributes_of(dataset.root, [dataset.gallery.paths[row] for row in worst["wrong"] if row >= 0])
    frame = worst.assign(**{name: query[name][worst["query"]] for name in ("side", "occluder", "overlap")})
    known = (frame["wrong"] >= 0).to_numpy()
    frame["same_colours"] = False
    frame.loc[known, "same_colours"] = wrong["colours"] == query["colours"][worst["query"]][known]
    return frame


def _binned(values: np.ndarray, below: dict[float, str], rest: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Levels, and the level of each value: the first whose bound it lies below; NaN belongs to none."""
    names = np.array([*below.values(), rest, ""], dtype=np.str_)
    number = np.digitize(values, list(below), right=False)
    number = np.where(np.isnan(values.astype(float)), len(names) - 1, number)
    return tuple(names[:-1].tolist()), names[number]


def _turn_to_nearest_match(query: dict, gallery: dict, dataset: ReidDataset) -> np.ndarray:
    """(Q,) the smallest angle between a query's and a true match's yaw, 0 to π; NaN without a match."""
    turns = np.full(len(dataset.query), np.nan)
    for row, (person, camera) in enumerate(zip(dataset.query.ids, dataset.query.cameras, strict=True)):
        matches = (dataset.gallery.ids == person) & (dataset.gallery.cameras != camera)
        if matches.any():
            turns[row] = np.abs(np.angle(np.exp(1j * (gallery["yaw"][matches] - query["yaw"][row])))).min()
    return turns
