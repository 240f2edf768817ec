"""Metrics files in, DataFrames out. Percentages as the papers print them; "–": not published, "not run": not trained here.

Every table is made from the runs' files and data/paper/*.csv alone: nothing is trained or embedded here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from reidlib.config import METHODS, PROFILES, VARIANTS, Experiment, differences, experiment_for, title_of
from reidlib.results import REPOSITORY, Study
from reidlib.runs import Run, finished_run, finished_runs
from reidlib.statistics import holm, paired_difference, seed_summary

PAPER = REPOSITORY / "data" / "paper"
DASH, NOT_RUN = "–", "not run"

# Column prefix in the papers' tables of each data set of the study.
PAPER_COLUMN = {
    "market1501": "market1501",
    "dukemtmc-reid": "dukemtmc",
    "cuhk03-np-labeled": "cuhk03_labeled",
    "cuhk03-np-detected": "cuhk03_detected",
}
TITLES = {
    "synthetic": "synthetic (embedded)",
    "market1501": "Market-1501",
    "dukemtmc-reid": "DukeMTMC-reID",
    "cuhk03-np-labeled": "CUHK03-NP labeled",
    "cuhk03-np-detected": "CUHK03-NP detected",
    "msmt17": "MSMT17",
    "folder": "own folder",
}
SVD_ROW = "Baseline + SVD layer"  # described nowhere we could read


def paper_table(name: str) -> pd.DataFrame:
    """A published table as typed out in data/paper/<name>.csv; empty cells stay NaN."""
    return pd.read_csv(PAPER / f"{name}.csv")


def percent(fraction: float | None, interval: Sequence[float] | None = None) -> str:
    """0.8731 → "87.3", with an interval "87.3 [84.0, 90.2]"."""
    if fraction is None:
        return DASH
    text = f"{100 * fraction:.1f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def published(value: float) -> str:
    """A published percentage with its own one or two decimals, or "–" where none was."""
    return DASH if pd.isna(value) else f"{value:.2f}".removesuffix("0")


def difference(ours: float | None, paper: float) -> str:
    """Ours (a fraction) minus the paper's (a percentage), in points, signed."""
    return DASH if ours is None or pd.isna(paper) else f"{100 * ours - paper:+.1f}"


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every run: method, seed, rank-1, rank-5, mAP and mINP in %, with 95 % intervals, and what it cost."""
    return pd.DataFrame(
        [
            {
                "method": METHODS[run.experiment.method].title,
                "seed": run.experiment.seed,
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
    """Each row over its seeds: mean ± standard deviation and Student's 95 % interval of rank-1 and mAP (%), re-ranked below.

    One seed has neither deviation nor interval: how much a row moves from seed to seed is then not known.
    """
    groups: dict[str, list[Run]] = {}
    for run in in_table_order(runs):
        groups.setdefault(run.experiment.method, []).append(run)
    rows = []
    for method, members in groups.items():
        for reranked in (False, True):
            metrics = [run.metrics["reranked"] if reranked else run.metrics for run in members]
            if None in metrics:
                continue
            cells = {name: _over_seeds([one[key] for one in metrics]) for key, name in (("rank1", "rank-1"), ("map", "mAP"))}
            title = title_of(method) + (", re-ranked" if reranked else "")
            rows.append({"method": title, "seeds": len(members), **cells})
    return pd.DataFrame(rows, columns=["method", "seeds", "rank-1", "mAP"])


def _over_seeds(values: Sequence[float]) -> str:
    over = seed_summary(values)
    text = percent(over.mean)
    return text if over.std is None else f"{text} ± {100 * over.std:.1f} [{100 * over.low:.1f}, {100 * over.high:.1f}]"


def in_table_order(runs: Sequence[Run]) -> list[Run]:
    """By the order of METHODS, variants of rows last, then by seed."""
    order = [*METHODS, *VARIANTS]
    return sorted(runs, key=lambda run: (order.index(run.experiment.method), run.experiment.seed))


def scores_frame(runs: Sequence[Run], references: pd.DataFrame | None = None) -> pd.DataFrame:
    """What `figures.scores` draws: the runs in table order, with the reference points (see `scoring.reference_points`) below."""
    rows = []
    for run in in_table_order(runs):
        low_high = {
            f"{key}_{side}": run.metrics[f"{key}_interval"][index]
            for key in ("rank1", "map")
            for index, side in enumerate(("low", "high"))
        }
        rows.append(
            {"method": METHODS[run.experiment.method].title, "rank1": run.metrics["rank1"], "map": run.metrics["map"], **low_high}
        )
    frame = pd.DataFrame(rows).assign(reference=False)
    return frame if references is None else pd.concat([frame, references.assign(reference=True)], ignore_index=True)


def reference_table(references: pd.DataFrame) -> pd.DataFrame:
    """The reference points as percentages with intervals."""
    return pd.DataFrame(
        {
            "without learning": references["method"],
            "rank-1 [95 %]": [percent(row.rank1, (row.rank1_low, row.rank1_high)) for row in references.itertuples()],
            "rank-5": [percent(row.rank5) for row in references.itertuples()],
            "mAP [95 %]": [percent(row.map, (row.map_low, row.map_high)) for row in references.itertuples()],
            "mINP": [percent(row.minp) for row in references.itertuples()],
        }
    )


def metrics_table(run: Run) -> pd.DataFrame:
    """One run's metrics beside what its paper reports for the same row and data set, if it does."""
    paper = published_result(run.experiment.method, run.experiment.dataset)
    ours = run.metrics["reranked"] if paper.get("reranked") else run.metrics
    rows = [
        {
            "metric": label + (", re-ranked" if ours is not run.metrics else ""),
            "ours [95 %]": percent(ours[key], ours.get(f"{key}_interval")),
            "paper": published(paper.get(key, float("nan"))),
            "difference": difference(ours[key], paper.get(key, float("nan"))),
        }
        for key, label in (("rank1", "rank-1"), ("rank5", "rank-5"), ("map", "mAP"), ("minp", "mINP"))
    ]
    return pd.DataFrame(rows)


def published_result(method: str, dataset: str) -> dict[str, float]:
    """rank1 and map (percentages) that a paper reports for a row on a data set, `reranked` where they are; {} if none."""
    column = PAPER_COLUMN.get(dataset)
    if method == "abdnet" and dataset == "msmt17":
        row = paper_table("abdnet_table4_msmt17").set_index("method").loc["ABD-Net"]
        return {"rank1": row["rank1"], "rank5": row["rank5"], "map": row["map"], "reranked": False}
    if column is None:
        return {}
    if method == "pfsa":
        row = paper_table("pfsa_table1").set_index("method").loc["Parameter-Free Spatial Attention"]
        return {"rank1": row[f"{column}_rank1"], "map": row[f"{column}_map"], "reranked": True}
    ablation = paper_table("abdnet_table1_ablation").set_index("method")
    title = title_of(method)
    if title in ablation.index and f"{column}_rank1" in ablation:
        return {"rank1": ablation.loc[title, f"{column}_rank1"], "map": ablation.loc[title, f"{column}_map"], "reranked": False}
    return {}


def ablation_table(study: Study, seed: int = 0) -> pd.DataFrame:
    """ABD-Net, Table 1: every row with the paper's numbers on both data sets and ours on this study's.

    "vs baseline" is our mAP minus our baseline's over the same queries, with its paired bootstrap interval.
    """
    runs = {run.experiment.method: run for run in finished_runs(study) if run.experiment.seed == seed}
    by_title = {METHODS[method].title: method for method in METHODS}
    effects = effects_table([runs[method] for method in METHODS if method in runs], "baseline")
    effect = dict(zip(effects["method"], effects["mAP difference [95 %]"], strict=True)) if len(effects) else {}
    rows = []
    for _, paper in paper_table("abdnet_table1_ablation").iterrows():
        run = runs.get(by_title.get(paper["method"], ""))
        missing = "not reproduced" if paper["method"] == SVD_ROW else NOT_RUN
        rows.append(
            {
                "method": paper["method"],
                "paper Market rank-1": published(paper["market1501_rank1"]),
                "paper Market mAP": published(paper["market1501_map"]),
                "paper Duke rank-1": published(paper["dukemtmc_rank1"]),
                "paper Duke mAP": published(paper["dukemtmc_map"]),
                f"ours, {TITLES[study.dataset]}: rank-1 [95 %]": percent(run.metrics["rank1"], run.metrics["rank1_interval"])
                if run
                else missing,
                "mAP [95 %]": percent(run.metrics["map"], run.metrics["map_interval"]) if run else missing,
                "mAP vs baseline [95 %]": effect.get(paper["method"], DASH),
            }
        )
    return pd.DataFrame(rows)


def effects_table(runs: Sequence[Run], reference: str) -> pd.DataFrame:
    """Each run against the reference method's run of the same seed, over the same queries.

    Columns: method, "rank-1 difference [95 %]", "mAP difference [95 %]" (points), p (two-sided, for mAP, Holm-corrected over
    the table's rows), and verdict ("indistinguishable" where p ≥ 0.05). Empty where the reference was not run.
    """
    references = {run.experiment.seed: run for run in runs if run.experiment.method == reference}
    rows, p_values = [], []
    for run in in_table_order(runs):
        base = references.get(run.experiment.seed)
        if base is None or run is base:
            continue
        people = run.queries["identity"].to_numpy()
        ranks = [one.queries["first_match_rank"] for one in (run, base)]
        hits = [(rank == 1).where(rank.notna()).to_numpy(float) for rank in ranks]  # no match in the gallery: not scored
        precisions = [one.queries["average_precision"].to_numpy() for one in (run, base)]
        rank1, mean_ap = paired_difference(*hits, people), paired_difference(*precisions, people)
        p_values.append(mean_ap.p_value)
        rows.append(
            {
                "method": METHODS[run.experiment.method].title,
                "seed": run.experiment.seed,
                "rank-1 difference [95 %]": _points(rank1),
                "mAP difference [95 %]": _points(mean_ap),
            }
        )
    frame = pd.DataFrame(rows, columns=["method", "seed", "rank-1 difference [95 %]", "mAP difference [95 %]"])
    if len(frame):
        corrected = holm(p_values)
        frame["p (Holm)"] = [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in corrected]
        frame["verdict"] = ["indistinguishable" if p >= 0.05 else "differs" for p in corrected]
    return frame


def effects_sentence(effects: pd.DataFrame, reference: str) -> str:
    """What an effects table lets one say."""
    title = METHODS[reference].title
    if effects.empty:
        return f"Nothing can be compared with {title}: it was not run, or nothing else was."
    apart = effects[effects["verdict"] == "differs"]
    text = f"By mAP over the same queries, {len(apart)} of {len(effects)} rows can be told apart from {title}"
    text += " (permutation test over people, Holm-corrected, 5 %)"
    return text + (": " + "; ".join(f"{row.iloc[0]} {row.iloc[3]}" for _, row in apart.iterrows()) if len(apart) else "") + "."


def _points(effect) -> str:
    return f"{100 * effect.estimate:+.1f} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"


def comparison_table(study: Study, name: str, dataset: str) -> pd.DataFrame:
    """ABD-Net's Table 2, 3 or 4 as published, our rows below: the same profile's runs on that data set, or "not run"."""
    columns = {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP"}
    paper = paper_table(name)
    shown = [column for column in columns if column in paper]
    rows = [
        {
            "method": row["method"],
            "venue": row.get("venue", DASH),
            **{columns[c]: published(row[c]) for c in shown},
            "from": "paper",
        }
        for _, row in paper.iterrows()
    ]
    runs = {run.experiment.method: run for run in finished_runs(sibling(study, dataset)) if run.experiment.seed == 0}
    for method in ("baseline", "abdnet-xe", "abdnet"):
        run = runs.get(method)
        cells = {columns[c]: percent(run.metrics[c], run.metrics.get(f"{c}_interval")) if run else NOT_RUN for c in shown}
        rows.append({"method": METHODS[method].title, "venue": DASH, **cells, "from": f"ours ({study.profile})"})
    return pd.DataFrame(rows).fillna(DASH)


def pfsa_table(study: Study) -> pd.DataFrame:
    """PFSA's Table 1 as published, with our `pfsa` below it. The paper's own row is after re-ranking, so ours is too."""
    paper = paper_table("pfsa_table1")
    rows = []
    for _, row in paper.iterrows():
        cells = {
            f"{TITLES[dataset]} {label}": published(row[f"{column}_{key}"])
            for dataset, column in PAPER_COLUMN.items()
            for key, label in (("rank1", "rank-1"), ("map", "mAP"))
        }
        rows.append(
            {"method": row["method"], "re-ranked": row["reranked"] if isinstance(row["reranked"], str) else DASH, **cells}
        )
    for reranked in (False, True):
        cells = {}
        for dataset in PAPER_COLUMN:
            runs = [
                run
                for run in finished_runs(sibling(study, dataset))
                if run.experiment.method == "pfsa" and run.experiment.seed == 0
            ]
            metrics = (runs[0].metrics["reranked"] if reranked else runs[0].metrics) if runs else None
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                cells[f"{TITLES[dataset]} {label}"] = percent(metrics[key], metrics[f"{key}_interval"]) if metrics else NOT_RUN
        rows.append({"method": f"ours ({study.profile})", "re-ranked": "yes" if reranked else "no", **cells})
    return pd.DataFrame(rows)


def sibling(study: Study, dataset: str) -> Study:
    """The study of the same profile on another data set, in the same results folder."""
    return Study(profile=study.profile, dataset=dataset, root=study.root.with_name(f"{study.profile}-{dataset}"))


def missing_methods(study: Study) -> list[str]:
    """Methods that the profile would train and this study has not."""
    done = {run.experiment.method for run in finished_runs(study)}
    return [method for method in PROFILES[study.profile].methods if method not in done]


def settings_table(experiment: Experiment) -> pd.DataFrame:
    """The settings that are not the default of `Experiment`, which is the released code's baseline, beside that default."""
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
        names = [METHODS[run.experiment.method].title for run in (first, second)]
        counts = {"both right": a & b, "only the first": a & ~b, "only the second": ~a & b, "neither": ~a & ~b}
        rows.append({"first": names[0], "second": names[1], **{name: int(chosen.sum()) for name, chosen in counts.items()}})
    return pd.DataFrame(rows)


def reranking_table(runs: Sequence[Run]) -> pd.DataFrame:
    """This study's runs that were scored with k-reciprocal re-ranking (k₁ 20, k₂ 6, λ 0.3) too, with and without it."""
    columns = ["method", "seed", "rank-1", "re-ranked rank-1 [95 %]", "mAP", "re-ranked mAP [95 %]"]
    rows = []
    for run in in_table_order(runs):
        again = run.metrics["reranked"]
        if again:
            cells = (percent(again["rank1"], again["rank1_interval"]), percent(again["map"], again["map_interval"]))
            scores = (percent(run.metrics["rank1"]), cells[0], percent(run.metrics["map"]), cells[1])
            rows.append(dict(zip(columns, (METHODS[run.experiment.method].title, run.experiment.seed, *scores), strict=True)))
    return pd.DataFrame(rows, columns=columns)


def methods_table() -> pd.DataFrame:
    """Every row of the papers' tables as a difference from another; the first of each paper from the defaults of Experiment."""
    rows = [
        {
            "row": name,
            "in tables": method.title,
            "differs from": method.differs_from or "the defaults",
            "by": ", ".join(f"{setting} = {value}" for setting, value in method.by.items()) or "nothing",
        }
        for name, method in METHODS.items()
    ]
    svd = {"row": DASH, "in tables": SVD_ROW, "differs from": DASH, "by": "described nowhere we could read: not reproduced"}
    return pd.DataFrame([*rows, svd])


def spatial_ablation_table(study: Study, seed: int = 0) -> pd.DataFrame:
    """Every row of the spatial-attention ablation, scored with and without re-ranking. The paper's tables were not recovered."""
    rows = []
    for method, row in METHODS.items():
        if differences(method).get("family") != "pfsa":
            continue
        run = finished_run(study, method, seed)
        scores = [run.metrics, run.metrics["reranked"]] if run else []
        cells = [percent(one[key], one[f"{key}_interval"]) if one else DASH for one in scores for key in ("rank1", "map")]
        names = ("rank-1 [95 %]", "mAP [95 %]", "re-ranked rank-1 [95 %]", "re-ranked mAP [95 %]")
        rows.append({"method": row.title, "paper": DASH, **dict(zip(names, cells or [NOT_RUN] * 4, strict=True))})
    return pd.DataFrame(rows)


def weights_sentence(run: Run) -> str:
    """Where the weights come from that were scored."""
    source = run.metrics.get("checkpoint")
    if source:
        return f"The weights are those of `{source['file']}` (SHA-256 {source['sha256']}), as they are: nothing was trained here."
    best, epoch = run.metrics["best_on_test"], run.metrics["reported_epoch"]
    text = f"Scored with the weights after epoch {epoch} of {len(run.curves)}."
    if best:
        text += f" The best rank-1 on the test set was {percent(best['rank1'])} after epoch {best['epoch']}, "
        text += "reported here." if best["epoch"] == epoch else "shown beside it only."
    return text


def profile_table(profile: str) -> pd.DataFrame:
    """What the profile changes for every run, beside the papers' setting (ABD-Net's and PFSA's where they differ)."""
    rows = []
    for name, value in PROFILES[profile].settings.items():
        papers = [getattr(experiment_for(method), name) for method in ("baseline", "pfsa")]
        both = str(papers[0]) if papers[0] == papers[1] else f"{papers[0]} (ABD-Net), {papers[1]} (PFSA)"
        if (value, value) != tuple(papers):
            rows.append({"setting": name, f"profile {profile}": str(value), "papers": both})
    return pd.DataFrame(rows, columns=["setting", f"profile {profile}", "papers"])


def coverage_sentence(study: Study) -> str:
    """What was run and what was not, in words."""
    runs = finished_runs(study)
    missing = missing_methods(study)
    text = f"{len(runs)} runs on {TITLES[study.dataset]} under the profile {study.profile} stand behind this report."
    text += f" Not run though the profile has them: {', '.join(METHODS[method].title for method in missing)}." if missing else ""
    others = [
        TITLES[name] for name in (*PAPER_COLUMN, "msmt17") if name != study.dataset and not finished_runs(sibling(study, name))
    ]
    return text + (f" Not run here for want of the images: {', '.join(others)}." if others else "")


def provenance_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Where the numbers come from: one row for each distinct set of versions, hardware and commit, with the runs made there."""
    groups: dict[tuple, list[str]] = {}
    for run in in_table_order(runs):
        groups.setdefault(tuple(run.metrics["made_by"].items()), []).append(run.name)
    return pd.DataFrame([{"runs": ", ".join(names), **dict(made_by)} for made_by, names in groups.items()]).T.rename_axis("fact")
