"""Makes tables from the runs' files and data/paper/*.csv; nothing is trained or embedded here.

Percentages are written as in the papers. "–" means not published, "not run" not trained here.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from reidlib.config import METHODS, PROFILES, VARIANTS, experiment_for, settings_of, title_of
from reidlib.datasets import DATASET_TITLES
from reidlib.experiment import Experiment
from reidlib.run import Run
from reidlib.show.published import (
    PAPER_COLUMN,
    SVD_ROW,
    as_published,
    difference_from_paper,
    paper_table,
    published_result,
)
from reidlib.show.text import (
    DASH,
    NOT_RUN,
    effect_points,
    p_value,
    percent,
    percent_over_seeds,
)
from reidlib.statistics import hits, holm, interval_columns, paired_difference
from reidlib.switches import LEFT_OUT, RELEASED, SWITCHES

RunsByDataset = Mapping[str, Sequence[Run]]  # data set → the finished runs of one profile


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every run: method, seed, rank-1, rank-5, mAP and mINP in % (95 % intervals), and its cost."""
    return pd.DataFrame(
        [
            {
                "method": METHODS[run.method].title,
                "seed": run.seed,
                "rank-1 [95 %]": percent(run.metrics["rank1"], run.metrics["rank1_interval"]),
                "rank-5": percent(run.metrics["rank5"]),
                "mAP [95 %]": percent(run.metrics["map"], run.metrics["map_interval"]),
                "mINP": percent(run.metrics["minp"]),
                "parameters (M)": f"{run.metrics['parameters'] / 1e6:.1f}",
                "images seen": f"{run.metrics['images_seen']:,}",
                "training (s)": f"{run.metrics['train_seconds']:.0f}",
            }
            for run in in_table_order(runs)
        ]
    )


def seeds_table(runs: Sequence[Run]) -> pd.DataFrame:
    """rank-1 and mAP (%) of each method over its seeds: mean ± standard deviation, Student's 95 % interval.

    Re-ranked scores follow in a row of their own. One seed has neither deviation nor interval: how much the
    method varies between seeds is then unknown.
    """
    groups: dict[str, list[Run]] = {}
    for run in in_table_order(runs):
        groups.setdefault(run.method, []).append(run)
    rows = []
    for method, members in groups.items():
        for reranked in (False, True):
            metrics = [run.metrics["reranked"] if reranked else run.metrics for run in members]
            if None in metrics:
                continue
            cells = {
                name: percent_over_seeds([one[key] for one in metrics])
                for key, name in (("rank1", "rank-1"), ("map", "mAP"))
            }
            title = title_of(method) + (", re-ranked" if reranked else "")
            rows.append({"method": title, "seeds": len(members), **cells})
    return pd.DataFrame(rows, columns=["method", "seeds", "rank-1", "mAP"])


def in_table_order(runs: Sequence[Run]) -> list[Run]:
    """Sorts runs by the order of METHODS, with variants last, then by seed."""
    order = [*METHODS, *VARIANTS]
    return sorted(runs, key=lambda run: (order.index(run.method), run.seed))


def scores_frame(runs: Sequence[Run], references: pd.DataFrame | None = None) -> pd.DataFrame:
    """The table for `figures.scores`: the runs in table order, then `evaluation.reference_points`."""
    rows = []
    for run in in_table_order(runs):
        row = {"method": METHODS[run.method].title}
        for key in ("rank1", "map"):
            row |= {key: run.metrics[key], **interval_columns(key, run.metrics[f"{key}_interval"])}
        rows.append(row)
    frame = pd.DataFrame(rows).assign(reference=False)
    return (
        frame
        if references is None
        else pd.concat([frame, references.assign(reference=True)], ignore_index=True)
    )


def reference_table(references: pd.DataFrame) -> pd.DataFrame:
    """The reference points as percentages with intervals."""
    return pd.DataFrame(
        {
            "without learning": references["method"],
            "rank-1 [95 %]": [
                percent(row.rank1, (row.rank1_low, row.rank1_high)) for row in references.itertuples()
            ],
            "rank-5": [percent(row.rank5) for row in references.itertuples()],
            "mAP [95 %]": [percent(row.map, (row.map_low, row.map_high)) for row in references.itertuples()],
            "mINP": [percent(row.minp) for row in references.itertuples()],
        }
    )


def metrics_table(run: Run) -> pd.DataFrame:
    """One run's metrics, beside what its paper reports for the same row and data set, if anything."""
    paper = published_result(run.method, run.experiment.dataset)
    ours = run.metrics
    if paper.get("reranked"):  # then ours must be, too
        ours, paper = (run.metrics["reranked"], paper) if run.metrics["reranked"] else (run.metrics, {})
    rows = [
        {
            "metric": label + (", re-ranked" if ours is not run.metrics else ""),
            "ours [95 %]": percent(ours[key], ours.get(f"{key}_interval")),
            "paper": as_published(paper.get(key, float("nan"))),
            "difference": difference_from_paper(ours[key], paper.get(key, float("nan"))),
        }
        for key, label in (("rank1", "rank-1"), ("rank5", "rank-5"), ("map", "mAP"), ("minp", "mINP"))
    ]
    shots = run.metrics["single_shot"] or {}  # CUHK03's classic protocol
    for key, label in (("rank1", "rank-1"), ("rank5", "rank-5"), ("map", "mAP")):
        if key in shots:
            cells = {"ours [95 %]": percent(shots[key]), "paper": DASH, "difference": DASH}
            rows.append({"metric": f"{label}, single shot", **cells})
    return pd.DataFrame(rows)


def ablation_table(runs: Sequence[Run], dataset: str, seed: int = 0) -> pd.DataFrame:
    """ABD-Net, Table 1: every row with the paper's numbers on both data sets, and ours on one data set.

    "vs baseline" is our mAP minus our baseline's over the same queries, with its paired bootstrap interval.
    """
    shown = {run.method: run for run in runs if run.seed == seed}
    by_title = {METHODS[method].title: method for method in METHODS}
    effects = effects_table([shown[method] for method in METHODS if method in shown], "baseline")
    effect = (
        dict(zip(effects["method"], effects["mAP difference [95 %]"], strict=True)) if len(effects) else {}
    )
    rows = []
    for _, paper in paper_table("abdnet_table1_ablation").iterrows():
        run = shown.get(by_title.get(paper["method"], ""))
        missing = "not reproduced" if paper["method"] == SVD_ROW else NOT_RUN
        rows.append(
            {
                "method": paper["method"],
                "paper Market rank-1": as_published(paper["market1501_rank1"]),
                "paper Market mAP": as_published(paper["market1501_map"]),
                "paper Duke rank-1": as_published(paper["dukemtmc_rank1"]),
                "paper Duke mAP": as_published(paper["dukemtmc_map"]),
                f"ours, {DATASET_TITLES[dataset]}: rank-1 [95 %]": _score(run, "rank1") if run else missing,
                "mAP [95 %]": _score(run, "map") if run else missing,
                "mAP vs baseline [95 %]": effect.get(paper["method"], DASH),
            }
        )
    return pd.DataFrame(rows)


def effects_table(runs: Sequence[Run], reference: str) -> pd.DataFrame:
    """Each run against the reference method's run of the same seed, over the same queries.

    Returns:
        Columns method, seed, "rank-1 difference [95 %]", "mAP difference [95 %]" (points), "p (Holm)"
        (two-sided, for mAP, Holm-corrected over the table's rows) and verdict ("indistinguishable" if
        p ≥ 0.05). Empty if the reference was not run.
    """
    references = {run.seed: run for run in runs if run.method == reference}
    rows, p_values = [], []
    for run in in_table_order(runs):
        base = references.get(run.seed)
        if base is None or run is base:
            continue
        people = run.queries["identity"].to_numpy()
        right = [hits(one.queries["first_match_rank"]) for one in (run, base)]
        precisions = [one.queries["average_precision"].to_numpy() for one in (run, base)]
        rank1, mean_ap = paired_difference(*right, people), paired_difference(*precisions, people)
        p_values.append(mean_ap.p_value)
        rows.append(
            {
                "method": METHODS[run.method].title,
                "seed": run.seed,
                "rank-1 difference [95 %]": effect_points(rank1),
                "mAP difference [95 %]": effect_points(mean_ap),
            }
        )
    frame = pd.DataFrame(
        rows, columns=["method", "seed", "rank-1 difference [95 %]", "mAP difference [95 %]"]
    )
    if len(frame):
        corrected = holm(p_values)
        frame["p (Holm)"] = [p_value(p) for p in corrected]
        frame["verdict"] = ["indistinguishable" if p >= 0.05 else "differs" for p in corrected]
    return frame


def effects_sentence(effects: pd.DataFrame, reference: str) -> str:
    """The result of `effects_table` in words."""
    title = METHODS[reference].title
    if effects.empty:
        return f"Nothing can be compared with {title}: it was not run, or nothing else was."
    apart = effects[effects["verdict"] == "differs"]
    text = f"By mAP over the same queries, {len(apart)} of {len(effects)} rows can be told apart from {title}"
    text += " (permutation test over people, Holm-corrected, 5 %)"
    return (
        text
        + (
            ": " + "; ".join(f"{row.iloc[0]} {row.iloc[3]}" for _, row in apart.iterrows())
            if len(apart)
            else ""
        )
        + "."
    )


def comparison_table(runs: RunsByDataset, name: str, dataset: str, profile: str) -> pd.DataFrame:
    """ABD-Net's Table 2, 3 or 4 as published, then our rows: the profile's runs on `dataset`, or "not run".

    Args:
        name: of the published table, see `paper_table`.
    """
    columns = {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP"}
    paper = paper_table(name)
    shown = [column for column in columns if column in paper]
    rows = [
        {
            "method": row["method"],
            "venue": row.get("venue", DASH),
            **{columns[c]: as_published(row[c]) for c in shown},
            "from": "paper",
        }
        for _, row in paper.iterrows()
    ]
    ours = {run.method: run for run in runs[dataset] if run.seed == 0}
    for method in ("baseline", "abdnet-xe", "abdnet"):
        run = ours.get(method)
        cells = {
            columns[c]: percent(run.metrics[c], run.metrics.get(f"{c}_interval")) if run else NOT_RUN
            for c in shown
        }
        rows.append({"method": METHODS[method].title, "venue": DASH, **cells, "from": f"ours ({profile})"})
    return pd.DataFrame(rows).fillna(DASH)


def pfsa_table(runs: RunsByDataset, profile: str) -> pd.DataFrame:
    """PFSA's Table 1 as published, then our `pfsa` without and with re-ranking (the paper's row has it)."""
    paper = paper_table("pfsa_table1")
    rows = []
    for _, row in paper.iterrows():
        cells = {
            f"{DATASET_TITLES[dataset]} {label}": as_published(row[f"{column}_{key}"])
            for dataset, column in PAPER_COLUMN.items()
            for key, label in (("rank1", "rank-1"), ("map", "mAP"))
        }
        rows.append(
            {
                "method": row["method"],
                "re-ranked": row["reranked"] if isinstance(row["reranked"], str) else DASH,
                **cells,
            }
        )
    for reranked in (False, True):
        cells = {}
        for dataset in PAPER_COLUMN:
            run = next((run for run in runs[dataset] if (run.method, run.seed) == ("pfsa", 0)), None)
            metrics = run and (run.metrics["reranked"] if reranked else run.metrics)
            without = DASH if run else NOT_RUN  # a run may be scored without re-ranking
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                cells[f"{DATASET_TITLES[dataset]} {label}"] = (
                    percent(metrics[key], metrics[f"{key}_interval"]) if metrics else without
                )
        rows.append({"method": f"ours ({profile})", "re-ranked": "yes" if reranked else "no", **cells})
    return pd.DataFrame(rows)


def missing_methods(runs: Sequence[Run], profile: str) -> list[str]:
    """The profile's methods that are not among these runs."""
    done = {run.method for run in runs}
    return [method for method in PROFILES[profile].methods if method not in done]


def settings_table(experiment: Experiment) -> pd.DataFrame:
    """Settings that differ from the defaults of `Experiment`, which are the released code's baseline."""
    default = Experiment()
    rows = [
        {"setting": name, "here": str(value), "default": str(getattr(default, name))}
        for name, value in asdict(experiment).items()
        if value != getattr(default, name)
    ]
    return pd.DataFrame(rows, columns=["setting", "here", "default"])


def agreement_table(runs: Sequence[Run]) -> pd.DataFrame:
    """For each pair of runs, on how many queries both, one or neither is right at rank 1."""
    rows = []
    for first, second in itertools.combinations(runs, 2):
        scored = first.queries["average_precision"].notna()  # the same queries for both
        a, b = ((run.queries["first_match_rank"] == 1)[scored] for run in (first, second))
        names = [METHODS[run.method].title for run in (first, second)]
        counts = {
            "both right": a & b,
            "only the first": a & ~b,
            "only the second": ~a & b,
            "neither": ~a & ~b,
        }
        rows.append(
            {
                "first": names[0],
                "second": names[1],
                **{name: int(chosen.sum()) for name, chosen in counts.items()},
            }
        )
    return pd.DataFrame(rows)


def reranking_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores with and without k-reciprocal re-ranking (k₁ 20, k₂ 6, λ 0.3), of the runs that have both."""
    columns = ["method", "seed", "rank-1", "re-ranked rank-1 [95 %]", "mAP", "re-ranked mAP [95 %]"]
    rows = []
    for run in in_table_order(runs):
        again = run.metrics["reranked"]
        if again:
            cells = (
                percent(again["rank1"], again["rank1_interval"]),
                percent(again["map"], again["map_interval"]),
            )
            scores = (percent(run.metrics["rank1"]), cells[0], percent(run.metrics["map"]), cells[1])
            rows.append(dict(zip(columns, (METHODS[run.method].title, run.seed, *scores), strict=True)))
    return pd.DataFrame(rows, columns=columns)


def methods_table() -> pd.DataFrame:
    """Every row of the papers' tables, by how its settings differ from another row's.

    The first row of each paper is compared with the defaults of `Experiment`.
    """
    rows = [
        {
            "row": name,
            "in tables": method.title,
            "differs from": method.differs_from or "the defaults",
            "by": ", ".join(f"{setting} = {value}" for setting, value in method.by.items()) or "nothing",
        }
        for name, method in METHODS.items()
    ]
    svd = {
        "row": DASH,
        "in tables": SVD_ROW,
        "differs from": DASH,
        "by": "described nowhere we could read: not reproduced",
    }
    return pd.DataFrame([*rows, svd])


def deviations_table() -> pd.DataFrame:
    """Every difference between paper and released code, with its settings and the side taken here.

    "as written" holds the sides that are not the released one; where that is another source than the paper,
    its name comes first.
    """
    rows = []
    for switch in SWITCHES:
        if switch.number == "all":
            continue
        row = experiment_for(switch.base)
        values = [
            f"{name}: "
            + " / ".join(
                repr(switch.sides[side].settings.get(name, getattr(row, name)))
                for side in (*switch.others, RELEASED)
            )
            for name in switch.settings
        ]
        others = [
            ("" if side == "as-written" else f"{side.replace('-', ' ')}: ") + switch.sides[side].words
            for side in switch.others
        ]
        rows.append(
            (
                switch.paper,
                switch.number,
                switch.what + (f" (weakly sourced: {switch.weak})" if switch.weak else ""),
                "; ".join(others),
                switch.sides[RELEASED].words,
                switch.here,
                "; ".join(values) or DASH,
            )
        )
    columns = ["paper", "no.", "what", "as written", "as released", "here", "setting: the others / released"]
    return pd.DataFrame(rows, columns=columns)


def left_out_table() -> pd.DataFrame:
    """The options of ABD-Net's training guide that this study has no setting for, with the reason."""
    return pd.DataFrame(LEFT_OUT.items(), columns=["option", "why it is left out"])


def spatial_ablation_table(runs: Sequence[Run], seed: int = 0) -> pd.DataFrame:
    """Every row of the spatial-attention ablation, with and without re-ranking.

    The paper's tables could not be recovered.
    """
    rows = []
    for method, row in METHODS.items():
        if settings_of(method).get("family") != "pfsa":
            continue
        run = next((run for run in runs if (run.method, run.seed) == (method, seed)), None)
        scores = [run.metrics, run.metrics["reranked"]] if run else []
        cells = [
            percent(one[key], one[f"{key}_interval"]) if one else DASH
            for one in scores
            for key in ("rank1", "map")
        ]
        names = ("rank-1 [95 %]", "mAP [95 %]", "re-ranked rank-1 [95 %]", "re-ranked mAP [95 %]")
        rows.append(
            {"method": row.title, "paper": DASH, **dict(zip(names, cells or [NOT_RUN] * 4, strict=True))}
        )
    return pd.DataFrame(rows)


def weights_sentence(run: Run) -> str:
    """Says where the scored weights come from."""
    source = run.metrics.get("checkpoint")
    if source:
        return (
            f"The weights are those of `{source['file']}` (SHA-256 {source['sha256']}), as they are: "
            "nothing was trained here."
        )
    best, epoch = run.metrics["best_on_test"], run.metrics["reported_epoch"]
    text = f"Scored with the weights after epoch {epoch} of {len(run.curves)}."
    if best:
        text += f" The best rank-1 on the test set was {percent(best['rank1'])} after epoch {best['epoch']}, "
        text += "reported here." if best["epoch"] == epoch else "shown beside it only."
    return text


def profile_table(profile: str) -> pd.DataFrame:
    """What the profile changes for every run, beside the papers' settings (of both, where they differ)."""
    rows = []
    for name, value in PROFILES[profile].settings.items():
        papers = [getattr(experiment_for(method), name) for method in ("baseline", "pfsa")]
        both = str(papers[0]) if papers[0] == papers[1] else f"{papers[0]} (ABD-Net), {papers[1]} (PFSA)"
        if (value, value) != tuple(papers):
            rows.append({"setting": name, f"profile {profile}": str(value), "papers": both})
    return pd.DataFrame(rows, columns=["setting", f"profile {profile}", "papers"])


def coverage_sentence(runs: RunsByDataset, dataset: str, profile: str) -> str:
    """What was run and what was not, in words."""
    missing = missing_methods(runs[dataset], profile)
    text = (
        f"{len(runs[dataset])} runs on {DATASET_TITLES[dataset]} under the profile {profile} "
        "stand behind this report."
    )
    text += (
        f" Not run though the profile has them: {', '.join(METHODS[method].title for method in missing)}."
        if missing
        else ""
    )
    others = [
        DATASET_TITLES[name] for name in (*PAPER_COLUMN, "msmt17") if name != dataset and not runs[name]
    ]
    return text + (f" Not run here for want of the images: {', '.join(others)}." if others else "")


def provenance_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Where the numbers come from: one column for each distinct set of versions, hardware and commit.

    The rows are the runs made there and the facts. If another commit scored the weights again, a row names
    it.
    """
    groups: dict[tuple, list[str]] = {}
    for run in in_table_order(runs):
        facts = dict(run.metrics["made_by"])
        scored = run.metrics["scored_by"]["commit"]
        facts |= {"scored again by": scored} if scored != facts["commit"] else {}
        groups.setdefault(tuple(facts.items()), []).append(run.name)
    return (
        pd.DataFrame([{"runs": ", ".join(names), **dict(facts)} for facts, names in groups.items()])
        .fillna(DASH)
        .T.rename_axis("fact")
    )


def _score(run: Run, key: str) -> str:
    return percent(run.metrics[key], run.metrics[f"{key}_interval"])
