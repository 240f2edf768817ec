"""Makes tables from the runs' files and data/paper/*.csv; nothing is trained or embedded here.

Percentages are written as in the papers. "–" means not published, "not run" not trained here, "not computed"
that a setting of this call, such as rerank = False, switched this number of ours off. A row shows all its
runs: of several seeds mean ± standard deviation, of one seed its value with an interval over people. The runs
of a table must belong together (`study.runs.belonging` chooses them). Of runs that did not learn, the cells
say so (`show.learning`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from reidlib.config import METHODS, PROFILES, VARIANTS, experiment_for, settings_of, title_of
from reidlib.datasets import DATASET_TITLES
from reidlib.experiment import Experiment
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.learning import learned, marked, over_learned
from reidlib.show.paired import (
    DIFFERS,
    NO_VERDICT,
    SMALL,
    by_seed,
    corrected_p,
    paired_effect,
    verdict,
)
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
    NOT_COMPUTED,
    NOT_RUN,
    effect_points,
    in_markdown,
    numbered_seeds,
    p_value,
    percent,
    percent_of_seeds,
    percent_over_seeds,
)
from reidlib.statistics import interval_columns, seed_summary
from reidlib.switches import LEFT_OUT, RELEASED, SWITCHES

ONE_SEED = "one seed"

RunsByDataset = Mapping[str, Sequence[Run]]  # data set → the finished runs of one profile


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every run: method, seed, rank-1, rank-5, mAP and mINP in % (95 % intervals), and its cost."""
    return pd.DataFrame(
        [
            {
                "method": METHODS[run.method].title,
                "seed": run.seed,
                "rank-1 [95 %]": marked(run, percent(run.metrics["rank1"], run.metrics["rank1_interval"])),
                "rank-5": marked(run, percent(run.metrics["rank5"])),
                "mAP [95 %]": marked(run, percent(run.metrics["map"], run.metrics["map_interval"])),
                "mINP": marked(run, percent(run.metrics["minp"])),
                "parameters (M)": f"{run.metrics['parameters'] / 1e6:.1f}",
                "images seen": f"{run.metrics['images_seen']:,}",
                "training (s)": f"{run.metrics['train_seconds']:.0f}",
            }
            for run in in_table_order(runs)
        ]
    )


def seeds_table(runs: Sequence[Run]) -> pd.DataFrame:
    """rank-1 and mAP (%) of each method over its seeds: mean ± standard deviation, Student's 95 % interval.

    Re-ranked scores follow in a row of their own; if this call switched them off, it says so. One seed has
    neither deviation nor interval: how much the method varies between seeds is then unknown.
    """
    rows = []
    for method, members in by_method(runs).items():
        for reranked in (False, True):
            computed = not reranked or all(run.metrics["reranked"] for run in members)
            if not computed and not _is_reranked(method):
                continue
            cells = {
                name: _over_seeds(members, key, reranked) if computed else NOT_COMPUTED
                for key, name in (("rank1", "rank-1"), ("map", "mAP"))
            }
            title = title_of(method) + (", re-ranked" if reranked else "")
            rows.append({"method": title, "seeds": len(members), **cells})
    return pd.DataFrame(rows, columns=["method", "seeds", "rank-1", "mAP"])


def in_table_order(runs: Sequence[Run]) -> list[Run]:
    """Sorts runs by the order of METHODS, with variants last, then by seed."""
    order = [*METHODS, *VARIANTS]
    return sorted(runs, key=lambda run: (order.index(run.method), run.seed))


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Method → its runs by seed, in table order."""
    groups: dict[str, list[Run]] = {}
    for run in in_table_order(runs):
        groups.setdefault(run.method, []).append(run)
    return groups


def seeds_in_words(runs: Sequence[Run]) -> str:
    """The seeds of these runs: "seed 0", "seeds 0, 1, 2"."""
    return numbered_seeds(run.seed for run in runs)


def scores_frame(runs: Sequence[Run], references: pd.DataFrame | None = None) -> pd.DataFrame:
    """The table for `figures.scores`: the methods in table order, then `evaluation.reference_points`.

    Bounds are the mean ∓ the standard deviation over seeds. Those of one seed are its interval over people.
    Runs that did not learn are named behind the method; they only count if none of its runs learned.
    """
    rows = []
    for method, all_members in by_method(runs).items():
        members = learned(all_members) or all_members
        missing = [run for run in all_members if run not in members]
        title = METHODS[method].title + (f" ({DID_NOT_LEARN}: {seeds_in_words(missing)})" if missing else "")
        row = {"method": title, "seeds": len(members), "learned": bool(learned(all_members))}
        for key in ("rank1", "map"):
            values = [run.metrics[key] for run in members]
            over = seed_summary(values)
            bounds = members[0].metrics[f"{key}_interval"]
            if over.std is not None:
                bounds = (over.mean - over.std, over.mean + over.std)
            row |= {key: over.mean, **interval_columns(key, bounds), f"{key}_by_seed": values}
        rows.append(row)
    frame = pd.DataFrame(rows).assign(reference=False)
    return (
        frame
        if references is None or references.empty
        else pd.concat([frame, references.assign(reference=True, seeds=1, learned=True)], ignore_index=True)
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
    """One run's metrics, beside what its paper reports for the same row and data set, if anything.

    Published numbers that are re-ranked stand beside our re-ranked ones. If this call has none, ours are "not
    computed", and the scores without re-ranking follow.
    """
    paper = published_result(run.method, run.experiment.dataset)
    if not paper.get("reranked"):
        rows = _metrics_beside(run, run.metrics, paper)
    else:
        rows = _metrics_beside(run, run.metrics["reranked"], paper, ", re-ranked")
        rows += [] if run.metrics["reranked"] else _metrics_beside(run, run.metrics, {})
    shots = run.metrics["single_shot"] or {}  # CUHK03's classic protocol
    for key, label in (("rank1", "rank-1"), ("rank5", "rank-5"), ("map", "mAP")):
        if key in shots:
            cells = {"ours [95 %]": marked(run, percent(shots[key])), "paper": DASH, "difference": DASH}
            rows.append({"metric": f"{label}, single shot", **cells})
    return pd.DataFrame(rows)


def _metrics_beside(
    run: Run, ours: Mapping[str, Any] | None, paper: Mapping[str, float], suffix: str = ""
) -> list[dict[str, str]]:
    """Rows of `metrics_table`. ours: the run's scores of one kind; None: switched off."""
    rows = []
    for key, label in (("rank1", "rank-1"), ("rank5", "rank-5"), ("map", "mAP"), ("minp", "mINP")):
        published = paper.get(key, float("nan"))
        if ours is None:
            cell, difference = NOT_COMPUTED, DASH if pd.isna(published) else NOT_COMPUTED
        else:
            cell = marked(run, percent(ours[key], ours.get(f"{key}_interval")))
            difference = DASH if run.learned is False else difference_from_paper(ours[key], published)
        rows.append(
            {
                "metric": label + suffix,
                "ours [95 %]": cell,
                "paper": as_published(published),
                "difference": difference,
            }
        )
    return rows


def _is_reranked(method: str) -> bool:
    """Whether the row has re-ranked scores unless a call switches them off."""
    return experiment_for(method).rerank


def ablation_table(runs: Sequence[Run], dataset: str) -> pd.DataFrame:
    """ABD-Net, Table 1: every row with the paper's numbers on both data sets, and ours on one data set.

    "vs baseline" is our mAP minus our baseline's, as in `effects_table`.
    """
    shown = {METHODS[method].title: members for method, members in by_method(runs).items()}
    effects = effects_table(runs, "baseline")
    effect = (
        dict(zip(effects["method"], effects["mAP difference [95 %]"], strict=True)) if len(effects) else {}
    )
    rows = []
    for _, paper in paper_table("abdnet_table1_ablation").iterrows():
        members = shown.get(paper["method"], [])
        missing = "not reproduced" if paper["method"] == SVD_ROW else NOT_RUN
        rows.append(
            {
                "method": paper["method"],
                "paper Market rank-1": as_published(paper["market1501_rank1"]),
                "paper Market mAP": as_published(paper["market1501_map"]),
                "paper Duke rank-1": as_published(paper["dukemtmc_rank1"]),
                "paper Duke mAP": as_published(paper["dukemtmc_map"]),
                f"ours, {DATASET_TITLES[dataset]}: rank-1 [95 %]": _score(members, "rank1") or missing,
                "mAP [95 %]": _score(members, "map") or missing,
                "mAP vs baseline [95 %]": effect.get(paper["method"], DASH),
            }
        )
    return pd.DataFrame(rows)


def effects_table(runs: Sequence[Run], reference: str) -> pd.DataFrame:
    """Each method against the reference method, by `paired_effect` over the seeds that both have.

    Returns:
        Columns method, seeds ("seeds 0, 1"), "rank-1 difference [95 %]", "mAP difference [95 %]" (points,
        intervals over seeds and people; of one seed "over people", by name), "mAP by seed" ("one seed" if
        there is only one), "p (Holm)" (two-sided, for mAP, Holm-corrected over the rows of several seeds;
        "–" for one) and verdict (see `paired.verdict`). Empty if no other method has a seed of the reference.
        Seeds of which one side did not learn are not compared; a row without any other has dashes and the
        verdict "did not learn".

    Raises:
        PairingError: two runs of a method have the same seed.
    """
    of_method = by_method(runs)
    bases = by_seed(of_method.pop(reference, []))
    columns = ["method", "seeds", "rank-1 difference [95 %]", "mAP difference [95 %]", "mAP by seed"]
    rows, effects = [], []
    for method, members in of_method.items():
        paired = [run for seed, run in by_seed(members).items() if seed in bases]
        if not paired:
            continue
        compared = [run for run in learned(paired) if learned([bases[run.seed]])]
        missing = [run for run in paired if run not in compared]
        note = f"; {DID_NOT_LEARN}: {seeds_in_words(missing)}" if compared and missing else ""
        row = {"method": METHODS[method].title, "seeds": seeds_in_words(compared or missing) + note}
        if not compared:
            rows.append(row | dict.fromkeys(columns[2:], DASH))
            effects.append(None)
            continue
        effect = paired_effect([(run.queries, bases[run.seed].queries) for run in compared])
        effects.append(effect)
        each = ", ".join(f"{100 * value:+z.1f}" for value in effect.map_by_seed)
        rows.append(
            row
            | {
                "rank-1 difference [95 %]": effect_points(effect.rank1, effect.rank1_over_people),
                "mAP difference [95 %]": effect_points(effect.mean_ap, effect.map_over_people),
                "mAP by seed": each if len(compared) > 1 else ONE_SEED,
            }
        )
    frame = pd.DataFrame(rows, columns=columns)
    corrected = iter(corrected_p([effect.mean_ap for effect in effects if effect]))
    judged = [
        (p_value(p := next(corrected)), verdict(effect.mean_ap, p)) if effect else (DASH, DID_NOT_LEARN)
        for effect in effects
    ]
    frame["p (Holm)"], frame["verdict"] = zip(*judged, strict=True) if judged else ([], [])
    return frame


def effects_sentence(effects: pd.DataFrame, reference: str) -> str:
    """The result of `effects_table` in words."""
    title = METHODS[reference].title
    if effects.empty:
        return (
            f"Nothing can be compared with {title}: it was not run, or nothing else with the same seed was."
        )
    without = effects[effects["verdict"] == DID_NOT_LEARN]
    judged = effects[~effects["verdict"].isin([NO_VERDICT, DID_NOT_LEARN])]
    sentences = []
    if len(judged):
        apart = judged[judged["verdict"] == DIFFERS]
        named = [f"{row['method']} {row['mAP difference [95 %]']}" for _, row in apart.iterrows()]
        sentences += [
            f"By mAP over the same queries, {len(apart)} of {len(judged)} rows with several seeds differ "
            f"from {title} (over seeds and people together, Holm-corrected, 5 %)"
            + (": " + "; ".join(named) if named else "")
            + "."
        ]
    for word, members in judged[judged["verdict"] != DIFFERS].groupby("verdict")["method"]:
        before = "The difference is" if word == SMALL else "One"
        sentences += [f"{before} {word}: {', '.join(members)}."]
    alone = effects.loc[effects["verdict"] == NO_VERDICT, "method"]
    if len(alone):
        sentences += [
            f"No verdict rests on one seed ({', '.join(alone)}): its interval is over people only, and "
            "another training may differ more."
        ]
    if len(without):
        names = ", ".join(without["method"])
        sentences += [f"Not compared, because the row or {title} {DID_NOT_LEARN}: {names}."]
    return " ".join(sentences)


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
            "note": row.get("note", DASH),
        }
        for _, row in paper.iterrows()
    ]
    ours = by_method(runs[dataset])
    for method in ("baseline", "abdnet-xe", "abdnet"):
        cells = {columns[c]: _score(ours.get(method, []), c) or NOT_RUN for c in shown}
        rows.append({"method": METHODS[method].title, "venue": DASH, **cells, "from": f"ours ({profile})"})
    return pd.DataFrame(rows).fillna(DASH)


def pfsa_table(runs: RunsByDataset, profile: str) -> pd.DataFrame:
    """PFSA's Table 1 as published, then our `pfsa` without and with re-ranking (the paper's row has it).

    "probably" stands where a row's numbers elsewhere suggest that they are re-ranked here.
    """
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
            ours = by_method(runs[dataset]).get("pfsa", [])
            missing = NOT_COMPUTED if ours else NOT_RUN  # runs may be scored without re-ranking
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                score = _score(ours, key, reranked=reranked)
                cells[f"{DATASET_TITLES[dataset]} {label}"] = score or missing
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
        names = [
            METHODS[run.method].title + (f" ({DID_NOT_LEARN})" if run.learned is False else "")
            for run in (first, second)
        ]
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
    """Scores with and without k-reciprocal re-ranking (k₁ 20, k₂ 6, λ 0.3), of the rows that have both.

    Rows whose re-ranked scores this call switched off say so.
    """
    columns = ["method", "seeds", "rank-1", "re-ranked rank-1 [95 %]", "mAP", "re-ranked mAP [95 %]"]
    rows = []
    shown = [run for run in runs if run.metrics["reranked"] or _is_reranked(run.method)]
    for method, members in by_method(shown).items():
        seeds = ", ".join(str(run.seed) for run in members)
        cells = [
            cell
            for key in ("rank1", "map")
            for cell in (
                over_learned(
                    members, lambda known, key=key: percent_of_seeds([run.metrics[key] for run in known])
                ),
                _score(members, key, reranked=True) or NOT_COMPUTED,
            )
        ]
        rows.append(dict(zip(columns, (METHODS[method].title, seeds, *cells), strict=True)))
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
    return _without_markdown(pd.DataFrame(rows, columns=columns))


def _without_markdown(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells are shown as they stand, without what marks code in a sentence."""
    return frame.replace("`", "", regex=True)


def baseline_sentence() -> str:
    """That the form of Table 1's baseline is uncertain, with all forms of its switch (Markdown)."""
    (switch,) = (switch for switch in SWITCHES if switch.name == "baseline-form")
    forms = [switch.sides[side].words for side in (RELEASED, *switch.others)]
    numbered = "; ".join(f"({number}) {words}" for number, words in enumerate(forms, 1))
    title = METHODS[switch.base].title
    return (
        f"**What the paper's “{title}” is, is uncertain.** The sources are {switch.weak}: {numbered}. Here: "
        f"{switch.here}. Each form is a side of the switch `{switch.name}` in `22_paper_vs_code`."
    )


def left_out_table() -> pd.DataFrame:
    """The options of the released ABD-Net command line without a setting here, with the reason."""
    return _without_markdown(pd.DataFrame(LEFT_OUT.items(), columns=["option", "why it is left out"]))


def settings_sentence(profile: str) -> str:
    """How many rows, differences and left-out options there are, in words."""
    switches = [switch for switch in SWITCHES if switch.number != "all"]
    trained = sum(switch.is_trained for switch in switches)
    return (
        f"{len(METHODS)} rows, {len(switches)} differences between papers and released code, each a switch "
        f"({trained} of them change training), and {len(LEFT_OUT)} options of the released code without a "
        f"setting here. The profile {profile} trains {len(PROFILES[profile].methods)} of the rows."
    )


def spatial_ablation_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every row of the spatial-attention ablation, with and without re-ranking.

    The paper's tables could not be recovered.
    """
    ours = by_method(runs)
    rows = []
    for method, row in METHODS.items():
        if settings_of(method).get("family") != "pfsa":
            continue
        members = ours.get(method, [])
        cells = {
            f"{before}{label} [95 %]": _score(members, key, reranked=reranked)
            or (NOT_COMPUTED if members else NOT_RUN)  # runs may be scored without re-ranking
            for before, reranked in (("", False), ("re-ranked ", True))
            for key, label in (("rank1", "rank-1"), ("map", "mAP"))
        }
        rows.append({"method": row.title, "paper": DASH, **cells})
    return pd.DataFrame(rows)


def reference_sentence(references: pd.DataFrame) -> str:
    """What scores without learning mean for the scores of this report, in words."""
    best = references.loc[references["map"].idxmax()]
    return (
        f"Without learning, {best['method']} goes furthest on these queries: rank-1 "
        f"{percent(best['rank1'])} %, mAP {percent(best['map'])} %. A network whose scores are not well "
        "above that has learned little. Intervals are 95 % bootstrap intervals over people, because images "
        "of one person are not independent."
    )


def run_sentence(run: Run) -> str:
    """The result of one run in words, and whether its epoch was chosen."""
    metrics = run.metrics
    text = (
        f"Rank-1 {percent(metrics['rank1'], metrics['rank1_interval'])} % and mAP "
        f"{percent(metrics['map'], metrics['map_interval'])} % over {metrics['queries_scored']:,} queries "
        "(95 % intervals over people, from this one training)."
    )
    if metrics["reranked"]:
        text += f" After re-ranking, mAP is {percent(metrics['reranked']['map'])} %."
    elif _is_reranked(run.method):
        text += f" Its re-ranked scores were {NOT_COMPUTED}."
    if run.learned is False:
        text = f"**This run {DID_NOT_LEARN}**: its scores are those of first weights. {text}"
    if metrics.get("checkpoint"):
        return text + " The weights are those of the file: nothing was trained or chosen here."
    chosen = {
        "last": "They are those of the last epoch: nothing was chosen on the test set.",
        "best_on_test": "The epoch was chosen on the test set, which flatters them.",
        "best_on_validation": "The epoch was chosen on held-out training people, not on the test set.",
    }
    return f"{text} {chosen[run.experiment.report_epoch]}"


def agreement_sentence(agreement: pd.DataFrame) -> str:
    """The result of `agreement_table` in words: which model of each pair is right alone more often."""
    parts = [
        f"{row['first']} alone is right on {row['only the first']}, {row['second']} alone on "
        f"{row['only the second']}"
        for _, row in agreement.iterrows()
    ]
    total = int(agreement.iloc[0, 2:].sum())
    return (
        f"At rank 1, of {total:,} queries: {'; '.join(parts)}. A gallery of a few queries cannot show that."
    )


def weights_sentence(run: Run) -> str:
    """Says where the scored weights come from."""
    source = run.metrics.get("checkpoint")
    if source:
        return (
            f"The weights are those of {in_markdown(source['file'])} (SHA-256 {source['sha256']}), as they "
            "are: nothing was trained here."
        )
    best, epoch = run.metrics["best_on_test"], run.metrics["reported_epoch"]
    text = f"Scored with the weights after epoch {epoch} of {len(run.curves)}."
    start = run.metrics["started_from"]
    if start:
        text += (
            f" Training went on from {in_markdown(start['file'])} (SHA-256 {start['sha256']}); what those "
            "weights had seen before is not known here."
        )
    if best:
        text += f" The best rank-1 on the test set was {percent(best['rank1'])} after epoch {best['epoch']}, "
        text += "reported here." if best["epoch"] == epoch else "shown beside it only."
    return text


def profile_table(profile: str) -> pd.DataFrame:
    """What the profile changes, beside the papers' settings; of both families, where they differ."""
    size, rows = PROFILES[profile], []
    names = dict.fromkeys([*size.settings, *(name for own in size.by_family.values() for name in own)])
    for name in names:
        ours, papers = (
            [getattr(experiment_for(method, profile=one), name) for method in ("baseline", "pfsa")]
            for one in (profile, "paper")
        )
        if ours != papers:
            rows.append({"setting": name, f"profile {profile}": _of_both(ours), "papers": _of_both(papers)})
    return pd.DataFrame(rows, columns=["setting", f"profile {profile}", "papers"])


def _of_both(values: Sequence[object]) -> str:
    one, two = map(str, values)
    return one if one == two else f"{one} (ABD-Net), {two} (PFSA)"


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


def _score(runs: Sequence[Run], key: str, *, reranked: bool = False) -> str:
    """One score of a method's runs as a cell; "" if there are none, or none that are re-ranked."""

    def form(known: list[Run]) -> str:
        scores = [run.metrics["reranked"] if reranked else run.metrics for run in known]
        return percent_of_seeds([one[key] for one in scores], scores[0].get(f"{key}_interval"))

    scored = [run for run in runs if run.metrics["reranked"]] if reranked else runs
    return over_learned(scored, form) if scored else ""


def _over_seeds(runs: Sequence[Run], key: str, reranked: bool) -> str:
    """One score of a method's runs as a cell of `seeds_table`."""
    return over_learned(
        runs,
        lambda known: percent_over_seeds(
            [(run.metrics["reranked"] if reranked else run.metrics)[key] for run in known]
        ),
    )
