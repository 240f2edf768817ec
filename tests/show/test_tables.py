"""Tables of made-up runs: the papers' numbers, cells of what was not run, signed differences by hand."""

import csv
import re
from dataclasses import replace

import pandas as pd
import pytest
from made_up_runs import fabricate

from reidlib.config import METHODS, PROFILES, title_of
from reidlib.datasets import DATASET_TITLES, DATASETS
from reidlib.experiment import Experiment
from reidlib.files import REPOSITORY
from reidlib.show import tables
from reidlib.show.published import PAPER, PAPER_COLUMN, SVD_ROW
from reidlib.show.text import DASH
from reidlib.study.results import MissingRunError, Study
from reidlib.study.runs import finished_runs, load_run
from reidlib.switches import SWITCHES

NAN = float("nan")


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def on(study, dataset):
    """The study with the same profile and results folder, on another data set."""
    return Study(study.profile, dataset, study.root.with_name(f"{study.profile}-{dataset}"))


def runs_by_dataset(study):
    return {dataset: finished_runs(on(study, dataset)) for dataset in DATASETS}


def seeds(study, method, *precisions, **options):
    """Runs of one method with the seeds 0, 1, …, each with this mAP and a rank-1 of twice as much."""
    return [
        fabricate(study, method, value, rank1=2 * value, seed=seed, **options)
        for seed, value in enumerate(precisions)
    ]


def typed_rows(name):
    """data/paper/<name>.csv read without pandas."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_printed(text):
    return f"{float(text):.2f}".removesuffix("0") if text else DASH


# ------------------------------------------------------------------------------------------ ABD-Net's Table 1


def test_the_ablation_prints_the_papers_numbers_and_ours(study):
    runs = [
        fabricate(study, "baseline", 0.25, rank1=0.5),
        fabricate(study, "abdnet-xe", 0.375, rank1=0.625),
    ]
    table = tables.ablation_table(runs, "synthetic").set_index("method")
    paper = typed_rows("abdnet_table1_ablation")
    assert table.index.tolist() == [row["method"] for row in paper]
    for row in paper:
        shown = table.loc[row["method"]]
        columns = ("paper Market rank-1", "paper Market mAP", "paper Duke rank-1", "paper Duke mAP")
        cells = ("market1501_rank1", "market1501_map", "dukemtmc_rank1", "dukemtmc_map")
        assert [shown[column] for column in columns] == [as_printed(row[cell]) for cell in cells]
    ours = ["ours, synthetic (embedded): rank-1 [95 %]", "mAP [95 %]", "mAP vs baseline [95 %]"]
    assert table.loc["Baseline (XE)", ours].tolist() == ["50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", DASH]
    # Every query is 12.5 points better, so the interval is a point.
    assert table.loc["ABD-Net (XE)", ours].tolist() == [
        "62.5 [52.5, 72.5]", "37.5 [32.5, 42.5]", "+12.5, over people [+12.5, +12.5]",
    ]  # fmt: skip
    assert table.loc[SVD_ROW, ours].tolist() == ["not reproduced", "not reproduced", DASH]
    for method in ("baseline+pam", "baseline+of+ow", "abdnet"):
        assert table.loc[METHODS[method].title, ours].tolist() == ["not run", "not run", DASH]


def test_the_ablation_shows_the_seeds_that_there_are(study):
    """A call with --seeds 1 has no seed 0. Of two seeds 0.2 and 0.3, the mean is 0.25, s = 0.1 / √2."""
    column = "ours, synthetic (embedded): rank-1 [95 %]"
    one = fabricate(study, "baseline+pam", seed=1, rank1=0.25)
    runs = [one, *seeds(study, "baseline", 0.2, 0.3), fabricate(study, "abdnet", seed=2)]
    table = tables.ablation_table(runs, "synthetic").set_index("method")
    assert table.loc["Baseline (XE) + PAM", column] == "25.0 [15.0, 35.0]"
    assert table.loc["Baseline (XE)", [column, "mAP [95 %]"]].tolist() == [
        "50.0 ± 14.1 (2 seeds)", "25.0 ± 7.1 (2 seeds)",
    ]  # fmt: skip
    effects = table["mAP vs baseline [95 %]"]
    assert effects["Baseline (XE) + PAM"] == "-5.0, over people [-5.0, -5.0]", (
        "against the baseline of seed 1, which has 30"
    )
    assert effects["ABD-Net"] == DASH, "no baseline has its seed"
    nothing = tables.ablation_table([], "synthetic")
    assert set(nothing[column]) == {"not run", "not reproduced"}
    assert set(nothing["mAP vs baseline [95 %]"]) == {DASH}


# -------------------------------------------------------------------------------------------- PFSA's ablation


def test_the_spatial_ablation_has_all_rows_and_no_published_number(study):
    runs = [
        fabricate(study, "abdnet"),  # the other paper's
        fabricate(study, "gap", 0.25, rank1=0.5),
        fabricate(study, "pfsa", 0.375, rank1=0.625),
        fabricate(study, "pfsa.sa1.as-written", rank1=0.9),  # a variant is no row
        *seeds(study, "gap+sa1", 0.2, 0.3),
    ]
    table = tables.spatial_ablation_table(runs)
    assert list(table) == [
        "method", "paper", "rank-1 [95 %]", "mAP [95 %]", "re-ranked rank-1 [95 %]", "re-ranked mAP [95 %]",
    ]  # fmt: skip
    assert table["method"].tolist() == [METHODS[method].title for method in list(METHODS)[9:]]
    assert set(table["paper"]) == {DASH}, "its tables were not recovered"
    rows = table.set_index("method").iloc[:, 1:]
    assert rows.loc["GAP"].tolist() == [
        "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", "60.0 [11.0, 99.0]", "45.0 [12.0, 98.0]",
    ]  # fmt: skip
    assert rows.loc[METHODS["pfsa"].title].tolist()[:2] == ["62.5 [52.5, 72.5]", "37.5 [32.5, 42.5]"]
    # 0.2 and 0.3 have s = 0.1 / √2; re-ranked, rank-1 and mAP of made-up runs are higher by 0.1 and 0.2
    assert rows.loc["GAP + SA₁"].tolist() == [
        "50.0 ± 14.1 (2 seeds)", "25.0 ± 7.1 (2 seeds)", "60.0 ± 14.1 (2 seeds)", "45.0 ± 7.1 (2 seeds)",
    ]  # fmt: skip
    others = rows.drop(index=["GAP", "GAP + SA₁", METHODS["pfsa"].title])
    assert len(others) == 5 and set(others.to_numpy().ravel()) == {"not run"}


def test_a_run_without_reranking_is_shown(study):
    """With --set rerank=False, a run is scored but not re-ranked."""
    run = fabricate(study, "gap", 0.25, rank1=0.5, settings={"rerank": False})
    row = tables.spatial_ablation_table([run]).set_index("method").loc["GAP"]
    assert row.tolist() == [DASH, "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", *["not computed"] * 2]


# -------------------------------------------------------------------------------------------- the comparisons


@pytest.mark.parametrize(
    ("name", "dataset", "scores"),
    [
        ("abdnet_table2_market1501", "market1501", {"rank1": "rank-1", "map": "mAP"}),
        ("abdnet_table3_dukemtmc", "dukemtmc-reid", {"rank1": "rank-1", "map": "mAP"}),
        ("abdnet_table4_msmt17", "msmt17", {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP"}),
    ],
)
def test_comparisons_show_the_papers_rows_and_ours(study, name, dataset, scores):
    fabricate(study, "abdnet", rank1=0.1)  # on another data set: not shown
    fabricate(on(study, dataset), "baseline", 0.4, rank1=0.6)
    fabricate(on(study, dataset), "abdnet-xe", 0.1, seed=1, rank1=0.2)  # there is no seed 0
    seeds(on(study, dataset), "abdnet", 0.2, 0.3)
    table = tables.comparison_table(runs_by_dataset(study), name, dataset, "demo")
    paper = typed_rows(name)
    assert list(table) == ["method", "venue", *scores.values(), "from", "note"]
    theirs, ours = table.iloc[: len(paper)], table.iloc[len(paper) :]
    for shown, row in zip(theirs.to_dict("records"), paper, strict=True):
        assert (shown["method"], shown["venue"], shown["from"]) == (row["method"], row["venue"], "paper")
        assert [shown[column] for column in scores.values()] == [as_printed(row[cell]) for cell in scores]
    assert ours["method"].tolist() == ["Baseline (XE)", "ABD-Net (XE)", "ABD-Net"]
    assert ours["from"].tolist() == ["ours (demo)"] * 3
    assert ours["rank-1"].tolist() == ["60.0 [50.0, 70.0]", "20.0 [10.0, 30.0]", "50.0 ± 14.1 (2 seeds)"]
    assert ours["mAP"].tolist() == ["40.0 [35.0, 45.0]", "10.0 [5.0, 15.0]", "25.0 ± 7.1 (2 seeds)"]
    if "rank5" in scores:
        assert ours["rank-5"].tolist() == ["75.0", "75.0", "75.0 ± 0.0 (2 seeds)"]
    assert not table.isna().any().any()


def test_a_comparison_without_runs_says_so(study):
    fabricate(study, "abdnet")
    table = tables.comparison_table(runs_by_dataset(study), "abdnet_table4_msmt17", "msmt17", "demo")
    assert table.iloc[-3:][["rank-1", "rank-5", "mAP"]].to_numpy().tolist() == [["not run"] * 3] * 3


def test_pfsa_table_has_a_dash_for_what_was_not_published(study):
    table, paper = tables.pfsa_table(runs_by_dataset(study), "demo"), typed_rows("pfsa_table1")
    theirs, ours = table.iloc[: len(paper)], table.iloc[len(paper) :]
    assert len(ours) == 2
    for shown, row in zip(theirs.to_dict("records"), paper, strict=True):
        assert shown["method"] == row["method"]
        for dataset, column in PAPER_COLUMN.items():
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                assert shown[f"{DATASET_TITLES[dataset]} {label}"] == as_printed(row[f"{column}_{key}"])
        assert shown["re-ranked"] == (row["reranked"] or DASH), "an empty cell is no 'no'"
    assert table.iloc[0]["CUHK03-NP labeled rank-1"] == DASH
    assert table.iloc[-1]["Market-1501 mAP"] == "not run"


def test_pfsa_table_shows_ours_with_and_without_reranking(study):
    fabricate(on(study, "market1501"), "pfsa", 0.25, rank1=0.5)
    plain, reranked = tables.pfsa_table(runs_by_dataset(study), "demo").to_dict("records")[-2:]
    assert (plain["re-ranked"], reranked["re-ranked"]) == ("no", "yes")
    scores = [[row[f"Market-1501 {label}"] for label in ("rank-1", "mAP")] for row in (plain, reranked)]
    assert scores == [["50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]"], ["60.0 [11.0, 99.0]", "45.0 [12.0, 98.0]"]]
    assert reranked["DukeMTMC-reID mAP"] == "not run"


def test_pfsa_table_shows_the_seeds_that_there_are(study):
    """Each data set has its own seeds: two on DukeMTMC-reID, seed 3 alone on Market-1501."""
    fabricate(on(study, "market1501"), "pfsa", 0.25, rank1=0.5, seed=3)
    seeds(on(study, "dukemtmc-reid"), "pfsa", 0.2, 0.3)
    plain, reranked = tables.pfsa_table(runs_by_dataset(study), "demo").to_dict("records")[-2:]
    assert plain["Market-1501 rank-1"] == "50.0 [40.0, 60.0]"
    assert plain["DukeMTMC-reID rank-1"] == "50.0 ± 14.1 (2 seeds)"
    assert reranked["DukeMTMC-reID mAP"] == "45.0 ± 7.1 (2 seeds)"


def test_what_a_call_switched_off_is_neither_not_run_nor_not_published(study):
    """`--set rerank=False` on a data set whose published numbers are re-ranked. The paper's stay."""
    run = fabricate(
        on(study, "market1501"), "pfsa", 0.25, rank1=0.5, settings={"rerank": False}, reranked=None
    )
    reranked = tables.pfsa_table(runs_by_dataset(study), "demo").to_dict("records")[-1]
    assert (reranked["Market-1501 mAP"], reranked["DukeMTMC-reID mAP"]) == ("not computed", "not run")
    table = tables.metrics_table(run).set_index("metric")
    assert table.loc["mAP"].tolist() == ["25.0 [20.0, 30.0]", DASH, DASH]
    assert table.loc["mAP, re-ranked"].tolist() == ["not computed", "91.7", "not computed"]
    assert table.loc["mINP, re-ranked"].tolist() == ["not computed", DASH, DASH], "not published"
    assert tables.reranking_table([run]).iloc[0].tolist() == [
        METHODS["pfsa"].title, "0", "50.0", "not computed", "25.0", "not computed",
    ]  # fmt: skip
    assert tables.seeds_table([run]).iloc[1].tolist() == [
        f"{METHODS['pfsa'].title}, re-ranked", 1, "not computed", "not computed",
    ]  # fmt: skip
    assert "Its re-ranked scores were not computed." in tables.run_sentence(run)
    plain = fabricate(on(study, "market1501"), "baseline")  # a row that is never re-ranked
    assert len(tables.seeds_table([plain])) == 1 and tables.reranking_table([plain]).empty
    assert "re-ranked" not in tables.run_sentence(plain)


# ----------------------------------------------------------------------------------- one run beside its paper


def test_reranked_is_compared_with_reranked(study):
    market = on(study, "market1501")
    table = tables.metrics_table(fabricate(market, "pfsa", 0.25, rank1=0.5)).set_index("metric")
    assert table.loc["rank-1, re-ranked"].tolist() == ["60.0 [11.0, 99.0]", "94.7", "-34.7"]
    assert table.loc["mAP, re-ranked"].tolist() == ["45.0 [12.0, 98.0]", "91.7", "-46.7"]
    assert table.loc["rank-5, re-ranked", ["paper", "difference"]].tolist() == [DASH, DASH]
    assert table.loc["mINP, re-ranked"].tolist() == ["12.5", DASH, DASH]
    # No number of this row was published, so there is no difference.
    gap = tables.metrics_table(fabricate(market, "gap+sa1", rank1=0.5)).set_index("metric")
    assert gap.loc["rank-1"].tolist() == ["50.0 [40.0, 60.0]", DASH, DASH]


def test_abdnets_rows_are_compared_without_reranking(study):
    duke = on(study, "dukemtmc-reid")
    table = tables.metrics_table(fabricate(duke, "baseline+of", 0.75, rank1=0.9)).set_index("metric")
    assert table.loc["rank-1"].tolist() == ["90.0 [80.0, 100.0]", "84.9", "+5.1"]
    assert table.loc["mAP"].tolist() == ["75.0 [70.0, 80.0]", "71.3", "+3.7"]
    synthetic = tables.metrics_table(fabricate(study, "baseline+of")).set_index("metric")
    assert set(synthetic["paper"]) == set(synthetic["difference"]) == {DASH}


def test_single_shot_scores_are_shown_if_there_are_any(study):
    """Scores by CUHK03's classic protocol are shown beside those of the new one, which the papers use."""
    cuhk = on(study, "cuhk03-np-labeled")
    shots = {"rank1": 0.5, "rank5": 0.75, "rank10": 0.8, "rank20": 0.9, "map": 0.625}
    table = tables.metrics_table(fabricate(cuhk, "baseline", rank1=0.25, single_shot=shots))
    usual = tables.metrics_table(fabricate(cuhk, "baseline", rank1=0.25, seed=1))
    assert usual["metric"].tolist() == ["rank-1", "rank-5", "mAP", "mINP"]
    pd.testing.assert_frame_equal(table.iloc[:4], usual)
    assert table.iloc[4:].to_numpy().tolist() == [
        ["rank-1, single shot", "50.0", DASH, DASH],
        ["rank-5, single shot", "75.0", DASH, DASH],
        ["mAP, single shot", "62.5", DASH, DASH],
    ]


# ---------------------------------------------------------------------------------------------------- effects


def test_effects_are_differences_of_means_by_hand(study):
    base = fabricate(study, "baseline", [0.2] * 20, ranks=[1, 2] * 10)
    better = fabricate(study, "abdnet", [0.3, 0.5] * 10, ranks=[1, 1] * 10)
    table = tables.effects_table([base, better], "baseline")
    assert table["method"].tolist() == ["ABD-Net"]
    # For every person, one of two queries becomes right.
    assert table.loc[0, "rank-1 difference [95 %]"] == "+50.0, over people [+50.0, +50.0]"
    assert table.loc[0, "mAP difference [95 %]"] == "+20.0, over people [+20.0, +20.0]"
    # However far apart two trainings are, they are two trainings.
    assert (table.loc[0, "p (Holm)"], table.loc[0, "verdict"]) == (DASH, "one seed: no verdict")
    assert (table.loc[0, "seeds"], table.loc[0, "mAP by seed"]) == ("seed 0", "one seed")
    assert tables.effects_sentence(table, "baseline") == (
        "No verdict rests on one seed (ABD-Net): its interval is over people only, and another training may "
        "differ more."
    )


def test_effects_pair_equal_seeds_and_average_the_differences(study):
    """Seeds 0 and 1 gain 10 and 14 points, seed 2 only exists on one side. By hand: 12 ± 12.7 · 2.83 / √2.

    p is twice the tail of Student's t, 12 / 2 = 6, with 1 degree of freedom: 2 / π · arctan(1 / 6) = 0.105.
    """
    seeds(study, "baseline", 0.2, 0.4, 0.9)
    seeds(study, "abdnet", 0.3, 0.54)
    fabricate(study, "baseline+pam", 0.21, seed=0)
    for seed, value in enumerate((0.30, 0.51, 0.99)):
        fabricate(study, "baseline+cam", value, seed=seed)
    table = tables.effects_table(finished_runs(study), "baseline").set_index("method")
    found = table.loc["ABD-Net"]
    assert (found["seeds"], found["mAP by seed"]) == ("seeds 0, 1", "+10.0, +14.0")
    assert found["mAP difference [95 %]"] == "+12.0 [-13.4, +37.4]"
    assert (found["p (Holm)"], found["verdict"]) == ("0.105", "cannot tell")
    assert table.loc["Baseline (XE) + PAM", ["mAP by seed", "p (Holm)", "verdict"]].tolist() == [
        "one seed", DASH, "one seed: no verdict",
    ]  # fmt: skip
    # 10, 11 and 9 points: t = 10 · √3 / 1 with 2 degrees of freedom. p is 0.0033, and doubled, as two rows
    # have several seeds: the row of one seed is no comparison.
    assert table.loc["Baseline (XE) + CAM", ["mAP by seed", "p (Holm)", "verdict"]].tolist() == [
        "+10.0, +11.0, +9.0", "0.007", "differs",
    ]  # fmt: skip
    assert tables.effects_sentence(table.reset_index(), "baseline").startswith(
        "By mAP over the same queries, 1 of 2 rows with several seeds differ from Baseline (XE) (over seeds "
        "and people together, Holm-corrected, 5 %): Baseline (XE) + CAM +10.0 [+7.5, +12.5]. One cannot "
        "tell: ABD-Net. No verdict rests on one seed (Baseline (XE) + PAM): "
    )


def test_a_difference_below_one_point_is_said_to_be_small(study):
    """0.3, 0.4 and 0.5 points: 0.4 ± 0.25 at 95 %, which leaves out 0, but at 90 % lies within ± 1."""
    seeds(study, "baseline", 0.2, 0.2, 0.2)
    seeds(study, "abdnet", 0.203, 0.204, 0.205)
    table = tables.effects_table(finished_runs(study), "baseline")
    assert table.loc[0, "mAP difference [95 %]"] == "+0.4 [+0.2, +0.6]"
    assert (table.loc[0, "p (Holm)"], table.loc[0, "verdict"]) == ("0.020", "smaller than 1 point")
    assert tables.effects_sentence(table, "baseline").endswith(
        "The difference is smaller than 1 point: ABD-Net."
    )


def test_an_effect_of_several_seeds_hides_no_query(study):
    """For half of the people one seed wins, for the others the other: on average nobody gains."""
    gains = [0.1] * 10 + [-0.1] * 10
    for seed, sign in enumerate((1, -1)):
        fabricate(study, "baseline", 0.5, seed=seed)
        fabricate(study, "abdnet", [0.5 + sign * gain for gain in gains], seed=seed)
    row = tables.effects_table(finished_runs(study), "baseline").iloc[0]
    # The rest's mean square is 2 · 10 · 10² / 9 points; over 2 seeds and 10 people it is 11.1, its root 3.33,
    # times Student's t for 9 people, 2.262.
    assert (row["mAP difference [95 %]"], row["verdict"]) == ("+0.0 [-7.5, +7.5]", "cannot tell")


def test_effects_are_signed_ordered_and_of_the_same_seed(study):
    runs = [
        fabricate(study, "abdnet", 0.1),
        fabricate(study, "baseline+pam", 0.4),
        fabricate(study, "baseline", 0.4),
        fabricate(study, "baseline+pam", 0.9, seed=1),  # no baseline with this seed
        fabricate(study, "baseline+cam", 0.9, seed=1),
    ]
    table = tables.effects_table(runs, "baseline")
    assert table["method"].tolist() == ["Baseline (XE) + PAM", "ABD-Net"]
    assert table["seeds"].tolist() == ["seed 0", "seed 0"]
    assert table["mAP difference [95 %]"].tolist() == [
        "+0.0, over people [+0.0, +0.0]", "-30.0, over people [-30.0, -30.0]",
    ]  # fmt: skip
    assert set(table["verdict"]) == {"one seed: no verdict"} and set(table["p (Holm)"]) == {DASH}


def test_queries_without_a_match_count_in_no_difference(study):
    """One of each person's two queries has no match. Differences, like scores, leave it out."""
    base = fabricate(study, "baseline", [0.2, NAN] * 10, ranks=[2, NAN] * 10)
    other = fabricate(study, "abdnet", [0.5, NAN] * 10, ranks=[1, NAN] * 10)
    table = tables.effects_table([base, other], "baseline")
    assert table.loc[0, "mAP difference [95 %]"] == "+30.0, over people [+30.0, +30.0]"
    assert table.loc[0, "rank-1 difference [95 %]"] == "+100.0, over people [+100.0, +100.0]"


def test_without_the_reference_there_are_no_effects(study):
    table = tables.effects_table([fabricate(study, "abdnet")], "baseline")
    assert table.empty and list(table)[:2] == ["method", "seeds"]
    assert "Nothing can be compared with Baseline (XE)" in tables.effects_sentence(table, "baseline")


def test_agreement_by_hand(study):
    """A query without a match in the gallery is not counted."""
    precisions = [0.1, 0.1, 0.1, 0.1, NAN, 0.1]
    one = fabricate(study, "abdnet", precisions, ranks=[1, 1, 1, 2, NAN, 3])
    two = fabricate(study, "baseline", precisions, ranks=[1, 1, 2, 1, NAN, 4])
    counts = {"both right": 2, "only the first": 1, "only the second": 1, "neither": 1}
    assert tables.agreement_table([one, two]).to_dict("records") == [
        {"first": "ABD-Net", "second": "Baseline (XE)", **counts}
    ]


def test_the_agreement_in_words_has_the_tables_numbers():
    counts = [{"both right": 5, "only the first": 4, "only the second": 2, "neither": 1201}]
    table = pd.DataFrame([{"first": "A", "second": "B", **counts[0]}])
    assert tables.agreement_sentence(table).startswith(
        "At rank 1, of 1,212 queries: A alone is right on 4, B alone on 2."
    )


def test_the_best_reference_without_learning_in_words():
    rows = [("histogram", 0.1, 0.07), ("untrained network", 0.2, 0.06)]
    references = pd.DataFrame(rows, columns=["method", "rank1", "map"])
    said = tables.reference_sentence(references)
    assert said.startswith(
        "Without learning, histogram goes furthest on these queries: rank-1 10.0 %, mAP 7.0 %"
    )
    references.loc[1, "map"] = 0.08
    assert "untrained network goes furthest on these queries: rank-1 20.0 %, mAP 8.0 %" in (
        tables.reference_sentence(references)
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "nothing was chosen on the test set"),
        ({"report_epoch": "best_on_test", "score_test_every": 1}, "chosen on the test set, which flatters"),
        (
            {"report_epoch": "best_on_validation", "validation_identities": 2, "validate_every": 1},
            "chosen on held-out training people",
        ),
    ],
)
def test_a_runs_result_in_words(study, settings, says):
    said = tables.run_sentence(fabricate(study, "baseline", settings=settings))
    assert said.startswith(
        "Rank-1 50.0 [40.0, 60.0] % and mAP 25.0 [20.0, 30.0] % over 20 queries (95 % intervals over people"
    )
    assert says in said and "re-ranking" not in said
    again = tables.run_sentence(fabricate(study, "pfsa"))
    assert "After re-ranking, mAP is 45.0 %." in again


# --------------------------------------------------------------------------------------------------- all runs


def test_runs_table_in_the_order_of_methods_and_seeds(study):
    runs = [
        fabricate(study, "pfsa"),
        fabricate(study, "baseline", seed=10),
        fabricate(study, "baseline", seed=2),
    ]
    table = tables.runs_table(runs)
    assert list(zip(table["method"], table["seed"], strict=True)) == [
        ("Baseline (XE)", 2), ("Baseline (XE)", 10), ("P + DS with SA₂ (published)", 0),
    ]  # fmt: skip
    assert table.iloc[0].tolist()[2:] == [
        "50.0 [40.0, 60.0]", "75.0", "25.0 [20.0, 30.0]", "12.5", "11.2", "12,345", "12",
    ]  # fmt: skip
    assert tables.runs_table([]).empty


def test_variants_of_rows_are_in_no_table_of_rows(study):
    """A study with switches also has runs of variants; tables of rows leave them out."""
    fabricate(study, "abdnet")
    for side in ("as-written", "as-released"):
        fabricate(study, f"abdnet.augmentation.{side}", rank1=0.9)
    rows = finished_runs(study)
    assert [run.method for run in rows] == ["abdnet"]
    assert tables.runs_table(rows)["method"].tolist() == ["ABD-Net"]
    sentence = tables.coverage_sentence(runs_by_dataset(study), "synthetic", "demo")
    assert sentence.startswith("1 runs on ")
    variant = load_run(study, "abdnet.augmentation.as-written", 0)
    assert variant.metrics["rank1"] == 0.9
    with pytest.raises(MissingRunError):
        load_run(study, "abdnet.augmentation.as-written", 1)
    ordered = tables.in_table_order([variant, fabricate(study, "gap"), *rows])
    assert [run.name for run in ordered] == [
        "abdnet-seed0", "gap-seed0", "abdnet.augmentation.as-written-seed0",
    ]  # fmt: skip


def test_reranking_table(study):
    runs = [fabricate(study, method) for method in ("baseline", "pfsa", "gap")]
    table = tables.reranking_table(runs)
    assert table["method"].tolist() == ["GAP", "P + DS with SA₂ (published)"]
    assert table.iloc[0].tolist() == ["GAP", "0", "50.0", "60.0 [11.0, 99.0]", "25.0", "45.0 [12.0, 98.0]"]
    assert len(tables.reranking_table([])) == 0
    again = fabricate(study, "gap", 0.35, rank1=0.6, seed=1)
    assert tables.reranking_table([*runs, again]).iloc[0].tolist() == [
        "GAP", "0, 1", "55.0 ± 7.1 (2 seeds)", "65.0 ± 7.1 (2 seeds)", "30.0 ± 7.1 (2 seeds)",
        "50.0 ± 7.1 (2 seeds)",
    ]  # fmt: skip


def references():
    rank1 = {"rank1": 0.2, "rank1_low": 0.1, "rank1_high": 0.3, "rank5": 0.4}
    row = {**rank1, "map": 0.1, "map_low": 0.05, "map_high": 0.15}
    return pd.DataFrame(
        [
            {"method": "colour histogram", **row, "minp": 0.02},
            {"method": "untrained network", **row, "minp": 0.03},
        ]
    )


def test_scores_frame_and_reference_table(study):
    runs = [fabricate(study, "gap"), fabricate(study, "baseline")]
    frame = tables.scores_frame(runs, references())
    assert frame["method"].tolist() == ["Baseline (XE)", "GAP", "colour histogram", "untrained network"]
    assert frame["reference"].tolist() == [False, False, True, True]
    columns = ["rank1", "rank1_low", "rank1_high", "map", "map_low", "map_high"]
    assert frame.loc[0, columns].tolist() == pytest.approx([0.5, 0.4, 0.6, 0.25, 0.2, 0.3])
    assert frame["seeds"].tolist() == [1] * 4
    assert tables.seeds_in_words(runs) == "seed 0"
    shown = tables.reference_table(references())
    assert shown.iloc[1].tolist() == [
        "untrained network",
        "20.0 [10.0, 30.0]",
        "40.0",
        "10.0 [5.0, 15.0]",
        "3.0",
    ]


def test_scores_frame_of_several_seeds(study):
    """Of 0.2, 0.3 and 0.4, the mean is 0.3 and s = 0.1. The bounds are no interval over people."""
    runs = [*seeds(study, "gap", 0.2, 0.3, 0.4), fabricate(study, "baseline", seed=5)]
    frame = tables.scores_frame(runs)
    assert frame[["method", "seeds"]].to_numpy().tolist() == [["Baseline (XE)", 1], ["GAP", 3]]
    assert frame.loc[1, ["map", "map_low", "map_high"]].tolist() == pytest.approx([0.3, 0.2, 0.4])
    assert frame.loc[1, "map_by_seed"] == pytest.approx([0.2, 0.3, 0.4])
    assert frame.loc[1, ["rank1", "rank1_low", "rank1_high"]].tolist() == pytest.approx([0.6, 0.4, 0.8])
    assert frame.loc[0, ["map_low", "map_high"]].tolist() == pytest.approx([0.2, 0.3])
    assert tables.seeds_in_words(runs) == "seeds 0–2, 5"


def test_scores_of_a_single_person_are_shown_without_intervals_everywhere(study):
    """All queries show one person: there are scores and differences, and nothing to resample."""
    alone = {"rank1_interval": None, "map_interval": None}
    scored = {**alone, "rank1": 0.5, "rank5": 0.75, "map": 0.25, "minp": 0.1}
    runs = [
        fabricate(study, method, [0.25, 0.75], **alone, reranked=scored)
        for method in ("baseline", "abdnet", "gap", "pfsa")
    ]
    frame = tables.scores_frame(runs, references().assign(map_low=NAN, map_high=NAN))
    assert frame[["rank1_low", "rank1_high"]].isna().all(axis=1).tolist() == [True] * 4 + [False] * 2
    assert frame[["map_low", "map_high"]].isna().all(axis=None)
    by_dataset = {dataset: runs if dataset == study.dataset else [] for dataset in DATASETS}
    shown = [
        tables.runs_table(runs),
        tables.reference_table(references().assign(rank1_low=NAN, rank1_high=NAN, map_low=NAN, map_high=NAN)),
        tables.metrics_table(runs[0]),
        tables.ablation_table(runs, study.dataset),
        tables.effects_table(runs, "baseline"),
        tables.spatial_ablation_table(runs),
        tables.seeds_table(runs),
        tables.reranking_table(runs),
        tables.pfsa_table(by_dataset, study.profile),
    ]
    for table in shown:
        cells = [str(cell) for cell in table.to_numpy().ravel()]
        assert not [cell for cell in cells if "nan" in cell or "[" in cell], table
    assert shown[0].loc[0, "rank-1 [95 %]"] == "50.0" and shown[4].loc[0, "mAP difference [95 %]"] == "+0.0"
    assert set(shown[4]["verdict"]) == {"one seed: no verdict"}
    again = [
        fabricate(study, method, [0.25, 0.75], **alone, seed=1, reranked=scored)
        for method in ("baseline", "abdnet")
    ]
    of_two = tables.effects_table([*runs[:2], *again], "baseline").loc[0]
    assert of_two[["mAP difference [95 %]", "p (Holm)", "verdict"]].tolist() == ["+0.0", DASH, "cannot tell"]


def test_coverage_says_what_was_not_run(study):
    for method in PROFILES["demo"].methods:
        if method not in ("gap", "abdnet"):
            fabricate(study, method)
    fabricate(on(study, "market1501"), "baseline")
    assert tables.missing_methods(finished_runs(study), "demo") == ["abdnet", "gap"]
    text = tables.coverage_sentence(runs_by_dataset(study), "synthetic", "demo")
    assert text.startswith("5 runs on synthetic (embedded) under the profile demo ")
    assert "Not run though the profile has them: ABD-Net, GAP." in text
    unseen = text.partition("want of the images:")[2]
    assert "Market-1501" not in unseen
    for title in ("DukeMTMC-reID", "CUHK03-NP labeled", "CUHK03-NP detected", "MSMT17"):
        assert title in unseen, f"{title} has a table of its own in the report"


def test_provenance_groups_runs_by_machine_and_versions(study):
    runs = [fabricate(study, method) for method in ("baseline", "abdnet")]
    other = {"commit": "def", "torch": "2"}
    runs.append(fabricate(study, "gap", made_by=other, scored_by=other))
    table = tables.provenance_table(runs)
    assert table.index.tolist() == ["runs", "commit", "torch"]
    assert table.loc["runs"].tolist() == ["baseline-seed0, abdnet-seed0", "gap-seed0"]
    assert table.loc["commit"].tolist() == ["abc", "def"]


def test_provenance_names_the_commit_that_scored_weights_again(study):
    runs = [fabricate(study, "baseline")]
    runs += [
        fabricate(study, method, scored_by={"commit": "def", "torch": "2"}) for method in ("abdnet", "gap")
    ]
    table = tables.provenance_table(runs)
    assert table.loc["runs"].tolist() == ["baseline-seed0", "abdnet-seed0, gap-seed0"]
    assert table.loc["commit"].tolist() == ["abc", "abc"], "the weights are of the first commit"
    assert table.loc["scored again by"].iloc[1] == "def"
    assert table.loc["scored again by"].iloc[0] != "def"


def test_seeds_table_by_hand(study):
    """Three seeds at 0.5, 0.6 and 0.7: mean 0.6, s 0.1, interval ± 4.303 · 0.1 / √3."""
    one, other = fabricate(study, "baseline"), fabricate(study, "pfsa")
    three = [replace(one, metrics={**one.metrics, "rank1": value, "map": 0.25}) for value in (0.5, 0.6, 0.7)]
    table = tables.seeds_table([other, *three])
    title = title_of("pfsa")
    assert table["method"].tolist() == ["Baseline (XE)", title, f"{title}, re-ranked"]
    assert table["seeds"].tolist() == [3, 1, 1]
    assert table["rank-1"][0] == "60.0 ± 10.0 [35.2, 84.8]" and table["mAP"][0] == "25.0 ± 0.0 [25.0, 25.0]"
    assert table["rank-1"][1] == f"{100 * other.metrics['rank1']:.1f}", "one seed has no deviation"
    assert table["mAP"][2] == f"{100 * other.metrics['reranked']['map']:.1f}"


# ------------------------------------------------------------------------------------ settings, rows, weights


def test_settings_table_shows_what_differs_from_the_default():
    table = tables.settings_table(Experiment(epochs=3, milestones=(1, 2))).set_index("setting")
    assert table.loc["epochs"].tolist() == ["3", "80"]
    assert table.loc["milestones"].tolist() == ["(1, 2)", "(20, 40)"]
    assert len(table) == 2
    assert list(tables.settings_table(Experiment())) == ["setting", "here", "default"]


def test_profile_table_shows_both_papers_where_they_differ():
    table = tables.profile_table("demo").set_index("setting")
    assert table.loc["learning_rate"].tolist() == [
        "0.0005 (ABD-Net), 0.1 (PFSA)",
        "0.0003 (ABD-Net), 0.1 (PFSA)",
    ]
    assert table.loc["trunk_rate"].tolist() == ["1.0", "1.0 (ABD-Net), 0.1 (PFSA)"]
    assert "optimizer" not in table.index  # each family has its paper's
    assert table.loc["backbone"].tolist() == ["resnet18", "resnet50"]
    assert "crop_probability" in table.index  # 0.5 is ABD-Net's, not PFSA's
    assert len(tables.profile_table("paper")) == 0
    for profile in PROFILES:
        for name in tables.profile_table(profile)["setting"]:
            assert name in Experiment.__dataclass_fields__


def test_methods_table_describes_each_row_as_a_difference_from_another():
    table = tables.methods_table().set_index("row")
    assert table.index.tolist() == [*METHODS, DASH], "rows, no variants"
    assert table.loc["baseline"].tolist() == ["Baseline (XE)", "the defaults", "nothing"]
    assert table.loc["abdnet"].tolist() == [
        "ABD-Net", "abdnet-xe", "triplet_weight = 0.1, images_per_identity = 4",
    ]  # fmt: skip
    assert table.loc["gap", "differs from"] == "the defaults" and "rerank = True" in table.loc["gap", "by"]
    assert table.loc["stripes+sa1", "by"] == "spatial_attention = sa1"
    assert table.loc[DASH].tolist() == [SVD_ROW, DASH, "described nowhere we could read: not reproduced"]
    for name, by in table["by"].items():
        if name in METHODS and by != "nothing":
            settings = [part.split(" = ")[0] for part in by.split(", ") if " = " in part]
            assert settings == list(METHODS[name].by), "a comma inside a value would read as another setting"


def test_the_weights_that_were_scored_are_named(study):
    last = fabricate(study, "baseline", reported_epoch=1)
    assert tables.weights_sentence(last) == "Scored with the weights after epoch 1 of 1."
    best = {"epoch": 1, "rank1": 0.625, "map": 0.5}
    beside = fabricate(study, "baseline", seed=1, reported_epoch=3, best_on_test=best)
    pd.DataFrame({"epoch": [1, 2, 3]}).to_csv(beside.files.curves, index=False)
    assert tables.weights_sentence(beside) == (
        "Scored with the weights after epoch 3 of 3. "
        "The best rank-1 on the test set was 62.5 after epoch 1, shown beside it only."
    )
    reported = fabricate(study, "abdnet.report-epoch.as-released", reported_epoch=1, best_on_test=best)
    assert tables.weights_sentence(reported).endswith("was 62.5 after epoch 1, reported here.")
    released = fabricate(study, "abdnet", checkpoint={"file": "abd.pth.tar", "sha256": "f00d"})
    released.files.curves.unlink()
    sentence = tables.weights_sentence(released)
    assert "abd.pth.tar (SHA-256 f00d)" in sentence and "nothing was trained" in sentence


# ------------------------------------------------------------------------------- paper against code, in words

# Every numbered difference between paper and released code, with words that its row must have.
DIFFERENCES = {
    "ABD-Net": [
        ("1", "O.W. reaches 1 of 63 convolutions", ("63", "stem", "nn.Sequential")),
        ("2", "O.W. has a factor 10", ("O.W.", "· 10")),
        ("2", "O.F. not squared", ("O.F.", "not squared")),
        ("2", "one power step and a Rayleigh quotient", ("one step", "Rayleigh", "power iteration")),
        ("3", "λ₂ is 0 in the attentive branch", ("λ₂", "rank", "attentive")),
        ("4", "channel attention's sign", ("least similar", "most similar")),
        ("5", "`before` has a head", ("before", "head", "straight line")),
        ("6", "attention per stripe", ("stripes", "whole map")),
        ("7", "branch order", ("hash seed", "fixed")),
        ("8", "best epoch chosen on the test set", ("best", "last", "test set")),
        ("9", "--data-augment turned off silently", ("--data-augment", "commas", "crop and erasing")),
        ("10", "position attention's layers", ("batch normalisation and ReLU", "C/8", "weakly sourced")),
        ("11", "60 epochs with every term", ("60, with every term", "80, O.F. from epoch 23", "weakly")),
        ("11", "no crop", ("crop, apart from erasing", "weakly sourced: one reader's notes")),
        ("12", "0.01 at `intermediate`", ("intermediate", "none", "0.01")),
        ("13", "what the baseline is", ("uncertain", "issue 22", "issue 25", "co-author's", "one stripe")),
        ("14", "corners of the crop", ("corner of the crop", "half the weight", "uniform over all")),
    ],
    "PFSA": [
        ("1", "mean over sum, no softmax", ("mean", "sum", "no softmax")),
        ("2", "SA₁ never called", ("SA₁", "never called")),
        ("3", "logged loss is weighted", ("logged", "0.2", "0.8")),
        ("4", "751 classes", ("751", "of the data set")),
        ("4", "--combine-trainval is never read", ("trainval", "never read")),
        ("4", "best is the last epoch", ("last, named best",)),
        ("4", "random erasing off", ("random erasing", "p 0.5", "off", "95b6744", "9692209", "0.02–0.2")),
        ("4", "100 or 150 epochs", ("epochs", "150", "100", "weakly sourced")),
        ("5", "re-ranked results only", ("re-ranking", "commented out")),
        ("6", "re-ranking under Python 2", ("Python 2", "2/3", "half precision")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("paper", "number", "words"),
    [
        pytest.param(paper, number, words, id=what)
        for paper, entries in DIFFERENCES.items()
        for number, what, words in entries
    ],
)
def test_every_known_difference_has_a_row(paper, number, words):
    table = tables.deviations_table()
    of_number = table[(table["paper"] == paper) & table["no."].str.fullmatch(rf"{number}[a-z]?")]
    rows = [" ".join(row) for row in of_number.itertuples(index=False)]
    assert any(all(word in row for word in words) for row in rows), rows


def test_no_difference_has_an_unknown_number():
    table = tables.deviations_table()
    for paper, entries in DIFFERENCES.items():
        found = {number.rstrip("abcde") for number in table.loc[table["paper"] == paper, "no."]} - {DASH}
        assert found == {number for number, *_ in entries}
    without = table.loc[table["no."] == DASH, "what"].tolist()
    assert [what.partition(" (")[0] for what in without] == [
        "precision of training",
        "precision of the test embeddings",
        "batch normalisation on two GPUs",
        "dropout on CUHK03",
        "gallery images at the same distance, in mAP",
    ]


def test_deviations_show_each_setting_with_both_values():
    table = tables.deviations_table()
    last = "setting: the others / released"
    assert list(table) == ["paper", "no.", "what", "as written", "as released", "here", last]
    assert len(table) == len(SWITCHES) - 2, (
        "the two that throw several at once are no differences of their own"
    )
    assert not table.map(lambda cell: cell.strip() == "" or "`" in cell).any().any(), "no Markdown in a cell"
    by_what = table.set_index("what")
    assert by_what.loc["factor of O.W.", last] == "ow_factor: 1.0 / 10.0"
    assert by_what.loc["sign of the channel attention", last] == "cam_most_similar_first: True / False"
    assert (
        by_what.loc["crop and erasing", last] == "crop_probability: 0.5 / 0.0; erase_probability: 0.5 / 0.0"
    )
    assert by_what.loc["batch normalisation on two GPUs", last] == DASH
    baseline = (
        "what Table 1's Baseline (XE) is (weakly sourced: two answers of the author that differ, and a "
        "co-author's script)"
    )
    assert by_what.loc[baseline, last] == (
        "warmup_epochs: 0 / 0 / 10; global_branch: True / False / True; stripes: 2 / 1 / 2"
    )
    assert by_what.loc[baseline, "as written"].startswith("without warm up: the same without the warm-up")
    named = {name for cell in table[last] for name in re.findall(r"(\w+): ", cell)}
    assert named == {name for switch in SWITCHES for name in switch.settings}
    assert named <= set(Experiment.__dataclass_fields__)
    rows = set(re.findall(r"(?:gap|pfsa)\+\w+", " ".join(table["here"])))
    assert rows and rows <= set(METHODS), "some differences name the rows that show them"


def test_what_the_baseline_is_is_said_to_be_uncertain_with_every_form():
    (switch,) = [switch for switch in SWITCHES if switch.name == "baseline-form"]
    said = tables.baseline_sentence()
    assert said.startswith("**What the paper's “Baseline (XE)” is, is uncertain.**")
    assert len(switch.sides) == 3 and all(side.words in said for side in switch.sides.values())
    assert switch.weak in said and switch.here in said and "`baseline-form`" in said
    notebook = (REPOSITORY / "notebooks" / "20_ablation_abdnet.ipynb").read_text(encoding="utf-8")
    assert "tables.baseline_sentence()" in notebook


# ---------------------------------------------------------- options of the released ABD-Net command line

# Option → the settings here that have its effect; (): there is none, so the list of what is left out has it.
# Options about where and how the program runs are not here: no number depends on them.
OPTIONS = {
    "--criterion": ("triplet_weight", "images_per_identity"), "--use-of": ("of_weight",),
    "--of-beta": ("of_weight",), "--of-start-epoch": ("of_start_epoch",), "--of-position": ("of_positions",),
    "--use-ow": ("ow_weight",), "--ow-beta": ("ow_weight",), "--shallow-cam": ("shallow_cam",),
    "--branches global abd": ("global_branch", "attentive_branch"), "--branches np dan": (),
    "--abd-dim": ("embedding_dim",), "--global-dim": (), "--abd-np": ("stripes",),
    "--abd-dan": ("cam", "pam"), "--abd-dan-no-head": ("attention_heads",), "--np-dim": (), "--np-np": (),
    "--np-with-global": (), "--np-max-pooling": (), "--dan-dim": (), "--dan-dan": (), "--dan-dan-no-head": (),
    "--arch": (), "--global-max-pooling": ("global_pooling",), "--dropout": ("dropout",),
    "--height": ("height",), "--width": ("width",), "--flip-eval": ("flip_evaluation",),
    "--eval-freq": ("score_test_every",), "--start-eval": (), "--label-smooth": ("label_smoothing",),
    "--lambda-htri": ("triplet_weight",), "--lambda-xent": (), "--htri-only": (),
    "--margin": ("triplet_margin",), "--num-instances": ("images_per_identity",),
    "--train-sampler": ("images_per_identity",),
    "--data-augment": ("crop_probability", "erase_probability", "colour_jitter"),
    "--train-batch-size": ("batch_size",), "--optim": ("optimizer",), "--optim rmsprop, amsgrad": (),
    "--lr": ("learning_rate",), "--weight-decay": ("weight_decay",), "--momentum": ("momentum",),
    "--sgd-dampening": (), "--sgd-nesterov": (), "--rmsprop-alpha": (), "--adam-beta1": (),
    "--adam-beta2": (), "--stepsize": ("milestones",), "--gamma": (), "--max-epoch": ("epochs",),
    "--fixbase": (), "--fixbase-epoch": ("warmup_epochs",), "--open-layers": (), "--start-epoch": (),
    "--resume": (), "--load-weights": ("start_from", "start_classifiers"), "--seed": ("seed",),
    "--source-names": ("dataset",), "--target-names": ("dataset",), "--split-id": (),
    "--cuhk03-labeled": ("dataset",),
    "--cuhk03-classic-split": (), "--use-metric-cuhk03": ("single_shot",), "--seq-len": (),
    "--sample-method": (), "--pool-tracklet-features": (),
}  # fmt: skip


def test_every_option_of_the_released_command_line_is_a_setting_or_left_out_with_a_reason():
    table = tables.left_out_table()
    assert list(table) == ["option", "why it is left out"]
    assert (table["why it is left out"].str.len() > 10).all()
    named = [part for cell in table["option"] for part in re.findall(r"--[a-z0-9-]+", cell)]
    whole = " ; ".join(table["option"])
    for option, settings in OPTIONS.items():
        assert set(settings) <= set(Experiment.__dataclass_fields__), option
        if not settings:
            assert option in whole and option.split()[0] in named, f"{option} is in neither list"
    known = {option.split()[0] for option in OPTIONS}
    assert {*named} <= known, "an option that the released code does not have"
    settings = set(Experiment.__dataclass_fields__)
    for reason in table["why it is left out"]:
        assert set(re.findall(r"`(\w+)`", reason)) <= settings, reason
