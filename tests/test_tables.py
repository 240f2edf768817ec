"""Tables from fabricated runs: the papers' numbers as typed out, what was not run, signed differences, effects by hand."""

import csv
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reidlib import tables
from reidlib.config import METHODS, PROFILES, Experiment, experiment_for
from reidlib.datasets import DATASETS
from reidlib.results import Study, write_json
from reidlib.runs import Run, finished_run, finished_runs

DASH = "–"


def fabricate(study, method, *, seed=0, rank1=0.5, mean_ap=0.25, ranks=None, precisions=None, people=None, **metrics) -> Run:
    """A finished run on disk with the given scores; queries default to 20 of 10 people, all right, precision mean_ap."""
    folder = study.run(method, seed)
    folder.mkdir(parents=True)
    experiment = experiment_for(method, dataset=study.dataset, profile=study.profile, seed=seed)
    write_json(folder / "experiment.json", {"experiment": experiment.as_dict(), "data": "0" * 16})
    scores = {
        "rank1": rank1, "rank5": 0.75, "rank10": 0.9, "rank20": 1.0, "map": mean_ap, "minp": 0.125,
        "rank1_interval": [rank1 - 0.1, rank1 + 0.1], "map_interval": [mean_ap - 0.05, mean_ap + 0.05], "queries_scored": 20,
    }  # fmt: skip
    again = {**scores, "rank1": rank1 + 0.1, "map": mean_ap + 0.2, "rank1_interval": [0.11, 0.99], "map_interval": [0.12, 0.98]}
    about = {
        "reranked": again if experiment.family == "pfsa" else None, "train_identities": 6, "train_images": 24,
        "query_images": 20, "gallery_images": 40, "synthetic": False, "train_seconds": 12.4, "total_seconds": 20.0,
        "images_seen": 12345, "parameters": 11_250_000, "embedding_dim": 48, "made_by": {"commit": "abc", "torch": "2"},
    }  # fmt: skip
    write_json(folder / "metrics.json", {**scores, **about, **metrics})
    precisions = [mean_ap] * 20 if precisions is None else precisions
    count = len(precisions)
    pd.DataFrame(
        {
            "query": [f"{number}.png" for number in range(count)],
            "identity": np.arange(count) // 2 if people is None else people,
            "camera": 1,
            "first_match_rank": [1.0] * count if ranks is None else ranks,
            "average_precision": precisions,
        }
    ).to_csv(folder / "queries.csv", index=False)
    pd.DataFrame({"epoch": [1], "loss": [1.0]}).to_csv(folder / "curves.csv", index=False)
    return finished_run(study, method, seed)


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def on(study, dataset):
    return Study(study.profile, dataset, study.root.with_name(f"{study.profile}-{dataset}"))


def csv_rows(name):
    """data/paper/<name>.csv read without pandas."""
    with (tables.PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_printed(text):
    return f"{float(text):.2f}".removesuffix("0") if text else DASH


# ---------------------------------------------------------------------------------------------------- numbers as text


def test_percentages_and_differences():
    assert tables.percent(0.8731) == "87.3"
    assert tables.percent(0.8731, (0.84, 0.902)) == "87.3 [84.0, 90.2]"
    assert tables.percent(None) == DASH
    assert tables.percent(1) == "100.0"
    assert tables.published(88.28) == "88.28" and tables.published(91.5) == "91.5" and tables.published(float("nan")) == DASH
    assert tables.difference(0.873, 88.0) == "-0.7"
    assert tables.difference(0.9, 88.0) == "+2.0"
    assert tables.difference(0.5, float("nan")) == DASH and tables.difference(None, 88.0) == DASH


def test_titles_cover_every_data_set():
    assert list(tables.TITLES) == list(DATASETS)
    assert set(tables.PAPER_COLUMN) < set(DATASETS)


# ---------------------------------------------------------------------------------------------------- ABD-Net's Table 1


def test_the_ablation_prints_the_papers_numbers_and_ours(study):
    fabricate(study, "baseline", rank1=0.5, mean_ap=0.25)
    fabricate(study, "abdnet-xe", rank1=0.625, mean_ap=0.375)
    table = tables.ablation_table(study).set_index("method")
    published = csv_rows("abdnet_table1_ablation")
    assert table.index.tolist() == [row["method"] for row in published]
    for row in published:
        shown = table.loc[row["method"]]
        columns = ("paper Market rank-1", "paper Market mAP", "paper Duke rank-1", "paper Duke mAP")
        cells = ("market1501_rank1", "market1501_map", "dukemtmc_rank1", "dukemtmc_map")
        assert [shown[column] for column in columns] == [as_printed(row[cell]) for cell in cells]
    ours = ["ours, synthetic (embedded): rank-1 [95 %]", "mAP [95 %]", "mAP vs baseline [95 %]"]
    assert table.loc["Baseline (XE)", ours].tolist() == ["50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", DASH]
    # every query is 12.5 points better, so the interval is a point
    assert table.loc["ABD-Net (XE)", ours].tolist() == ["62.5 [52.5, 72.5]", "37.5 [32.5, 42.5]", "+12.5 [+12.5, +12.5]"]
    assert table.loc["Baseline + SVD layer", ours].tolist() == ["not reproduced", "not reproduced", DASH]
    for method in ("baseline+pam", "baseline+of+ow", "abdnet"):
        assert table.loc[METHODS[method].title, ours].tolist() == ["not run", "not run", DASH]


def test_every_row_of_the_papers_ablation_is_one_of_our_methods():
    titles = {METHODS[method].title for method in list(METHODS)[:9]}
    assert {row["method"] for row in csv_rows("abdnet_table1_ablation")} == titles | {tables.SVD_ROW}


def test_the_ablation_of_another_seed_and_of_nothing(study):
    fabricate(study, "baseline", seed=1, rank1=0.25)
    column = "ours, synthetic (embedded): rank-1 [95 %]"
    assert tables.ablation_table(study, 1).set_index("method").loc["Baseline (XE)", column].startswith("25.0 ")
    nothing = tables.ablation_table(study, 0)
    assert set(nothing[column]) == {"not run", "not reproduced"}
    assert set(nothing["mAP vs baseline [95 %]"]) == {DASH}


# ---------------------------------------------------------------------------------------------------- PFSA's ablation


def test_the_spatial_ablation_has_every_row_of_its_paper_and_no_published_number(study):
    fabricate(study, "abdnet")  # the other paper's
    fabricate(study, "gap", rank1=0.5, mean_ap=0.25)
    fabricate(study, "pfsa", rank1=0.625, mean_ap=0.375)
    fabricate(study, "pfsa.sa1.as-written", rank1=0.9)  # a variant is no row
    fabricate(study, "gap+sa1", seed=1, rank1=0.9)  # of another seed
    table = tables.spatial_ablation_table(study)
    assert list(table) == [
        "method", "paper", "rank-1 [95 %]", "mAP [95 %]", "re-ranked rank-1 [95 %]", "re-ranked mAP [95 %]",
    ]  # fmt: skip
    assert table["method"].tolist() == [METHODS[method].title for method in list(METHODS)[9:]]
    assert set(table["paper"]) == {DASH}, "its tables were not recovered"
    rows = table.set_index("method").iloc[:, 1:]
    assert rows.loc["GAP"].tolist() == ["50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", "60.0 [11.0, 99.0]", "45.0 [12.0, 98.0]"]
    assert rows.loc[METHODS["pfsa"].title].tolist()[:2] == ["62.5 [52.5, 72.5]", "37.5 [32.5, 42.5]"]
    others = rows.drop(index=["GAP", METHODS["pfsa"].title])
    assert len(others) == 6 and set(others.to_numpy().ravel()) == {"not run"}
    assert tables.spatial_ablation_table(study, 1).set_index("method").loc["GAP + SA₁", "rank-1 [95 %]"].startswith("90.0")


def test_a_row_without_reranking_is_not_said_to_be_not_run(study):
    """--set rerank=False: scored, but not re-ranked."""
    fabricate(study, "gap", rank1=0.5, mean_ap=0.25, reranked=None)
    row = tables.spatial_ablation_table(study).set_index("method").loc["GAP"]
    assert row.tolist() == [DASH, "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", DASH, DASH]


# ---------------------------------------------------------------------------------------------------- the comparisons


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("abdnet_table2_market1501", "market1501"),
        ("abdnet_table3_dukemtmc", "dukemtmc-reid"),
        ("abdnet_table4_msmt17", "msmt17"),
    ],
)
def test_comparisons_repeat_the_paper_and_add_the_sibling_studys_rows(study, name, dataset):
    fabricate(study, "abdnet", rank1=0.1)  # of the synthetic study: not of this data set
    fabricate(on(study, dataset), "baseline", rank1=0.6, mean_ap=0.4)
    fabricate(on(study, dataset), "abdnet", seed=1, rank1=0.2)  # not the first seed
    table, published = tables.comparison_table(study, name, dataset), csv_rows(name)
    columns = {"rank1": "rank-1", "rank5": "rank-5", "map": "mAP"}
    for shown, row in zip(table.to_dict("records"), published, strict=False):
        assert (shown["method"], shown["venue"], shown["from"]) == (row["method"], row["venue"], "paper")
        for cell, column in columns.items():
            if cell in row:
                assert shown[column] == as_printed(row[cell])
    ours = table.iloc[len(published) :]
    assert ours["method"].tolist() == ["Baseline (XE)", "ABD-Net (XE)", "ABD-Net"]
    assert ours["from"].tolist() == ["ours (demo)"] * 3
    assert ours["rank-1"].tolist() == ["60.0 [50.0, 70.0]", "not run", "not run"]
    assert ours["mAP"].tolist() == ["40.0 [35.0, 45.0]", "not run", "not run"]
    assert ("rank-5" in table) == (dataset == "msmt17")
    if dataset == "msmt17":
        assert ours["rank-5"].tolist() == ["75.0", "not run", "not run"]
    assert not table.isna().any().any()


def test_pfsa_table_leaves_what_was_not_published_open(study):
    table, published = tables.pfsa_table(study), csv_rows("pfsa_table1")
    assert len(table) == len(published) + 2
    for shown, row in zip(table.to_dict("records"), published, strict=False):
        assert shown["method"] == row["method"]
        for dataset, column in tables.PAPER_COLUMN.items():
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                assert shown[f"{tables.TITLES[dataset]} {label}"] == as_printed(row[f"{column}_{key}"])
        assert shown["re-ranked"] == (row["reranked"] or DASH), "an empty cell was not published: it is not a 'no'"
    assert table.iloc[0]["CUHK03-NP labeled rank-1"] == DASH
    assert table.iloc[-1]["Market-1501 mAP"] == "not run"


def test_pfsa_table_shows_ours_with_and_without_reranking(study):
    fabricate(on(study, "market1501"), "pfsa", rank1=0.5, mean_ap=0.25)
    plain, reranked = tables.pfsa_table(study).to_dict("records")[-2:]
    assert (plain["re-ranked"], reranked["re-ranked"]) == ("no", "yes")
    assert (plain["Market-1501 rank-1"], plain["Market-1501 mAP"]) == ("50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]")
    assert (reranked["Market-1501 rank-1"], reranked["Market-1501 mAP"]) == ("60.0 [11.0, 99.0]", "45.0 [12.0, 98.0]")
    assert reranked["DukeMTMC-reID mAP"] == "not run"


# ---------------------------------------------------------------------------------------------------- one run beside its paper


def test_reranked_is_compared_with_reranked(study):
    market = on(study, "market1501")
    table = tables.metrics_table(fabricate(market, "pfsa", rank1=0.5, mean_ap=0.25)).set_index("metric")
    assert table.loc["rank-1, re-ranked"].tolist() == ["60.0 [11.0, 99.0]", "94.7", "-34.7"]
    assert table.loc["mAP, re-ranked"].tolist() == ["45.0 [12.0, 98.0]", "91.7", "-46.7"]
    assert table.loc["rank-5, re-ranked", ["paper", "difference"]].tolist() == [DASH, DASH]
    assert table.loc["mINP, re-ranked"].tolist() == ["12.5", DASH, DASH]
    # not published, so nothing to re-rank for
    gap = tables.metrics_table(fabricate(market, "gap+sa1", rank1=0.5)).set_index("metric")
    assert gap.loc["rank-1"].tolist() == ["50.0 [40.0, 60.0]", DASH, DASH]


def test_abdnets_rows_are_compared_without_reranking(study):
    duke = on(study, "dukemtmc-reid")
    table = tables.metrics_table(fabricate(duke, "baseline+of", rank1=0.9, mean_ap=0.75)).set_index("metric")
    assert table.loc["rank-1"].tolist() == ["90.0 [80.0, 100.0]", "84.9", "+5.1"]
    assert table.loc["mAP"].tolist() == ["75.0 [70.0, 80.0]", "71.3", "+3.7"]
    synthetic = tables.metrics_table(fabricate(study, "baseline+of")).set_index("metric")
    assert set(synthetic["paper"]) == set(synthetic["difference"]) == {DASH}


def test_published_results_of_every_method_and_data_set():
    ablation = {row["method"]: row for row in csv_rows("abdnet_table1_ablation")}
    pfsa = csv_rows("pfsa_table1")[-1]
    assert pfsa["method"] == "Parameter-Free Spatial Attention" and pfsa["reranked"] == "yes"
    for method, dataset in itertools.product(METHODS, tables.TITLES):
        found, column = tables.published_result(method, dataset), tables.PAPER_COLUMN.get(dataset)
        title = METHODS[method].title
        if method == "abdnet" and dataset == "msmt17":
            assert found == {"rank1": 82.3, "rank5": 90.6, "map": 60.8, "reranked": False}
        elif method == "pfsa" and column:
            assert found == {"rank1": float(pfsa[f"{column}_rank1"]), "map": float(pfsa[f"{column}_map"]), "reranked": True}
        elif title in ablation and dataset in ("market1501", "dukemtmc-reid"):
            row = ablation[title]
            assert found == {"rank1": float(row[f"{column}_rank1"]), "map": float(row[f"{column}_map"]), "reranked": False}
        else:
            assert found == {}, (method, dataset)


# ---------------------------------------------------------------------------------------------------- effects


def test_effects_are_differences_of_means_by_hand(study):
    people = np.arange(20) // 2
    base = fabricate(study, "baseline", ranks=[1, 2] * 10, precisions=[0.2] * 20, people=people)
    better = fabricate(study, "abdnet", ranks=[1, 1] * 10, precisions=[0.3, 0.5] * 10, people=people)
    table = tables.effects_table([base, better], "baseline")
    assert table["method"].tolist() == ["ABD-Net"]
    assert table.loc[0, "rank-1 difference [95 %]"] == "+50.0 [+50.0, +50.0]"  # every person gains one of two queries
    assert table.loc[0, "mAP difference [95 %]"] == "+20.0 [+20.0, +20.0]"
    # of the 2¹⁰ swaps of people two are as extreme: 2 / 1024
    assert (table.loc[0, "p (Holm)"], table.loc[0, "verdict"]) == ("0.002", "differs")
    assert "1 of 1 rows can be told apart from Baseline (XE)" in tables.effects_sentence(table, "baseline")
    assert "ABD-Net +20.0 [+20.0, +20.0]" in tables.effects_sentence(table, "baseline")


def test_effects_are_signed_ordered_and_of_the_same_seed(study):
    base = fabricate(study, "baseline", mean_ap=0.4)
    runs = [
        fabricate(study, "abdnet", mean_ap=0.1),
        fabricate(study, "baseline+pam", mean_ap=0.4),
        base,
        fabricate(study, "baseline+pam", seed=1, mean_ap=0.9),  # its seed has no baseline
    ]
    table = tables.effects_table(runs, "baseline")
    assert table["method"].tolist() == ["Baseline (XE) + PAM", "ABD-Net"]
    assert table["seed"].tolist() == [0, 0]
    assert table["mAP difference [95 %]"].tolist() == ["+0.0 [+0.0, +0.0]", "-30.0 [-30.0, -30.0]"]
    assert table["verdict"].tolist() == ["indistinguishable", "differs"]
    assert table["p (Holm)"].tolist() == ["1.000", "0.004"]  # 2 / 1024, twice as two rows are compared


def test_queries_without_a_match_count_in_neither_difference(study):
    """The second of a person's two queries has no match in the gallery: differences are over the others, as the scores are."""
    nan = float("nan")
    base = fabricate(study, "baseline", ranks=[2, nan] * 10, precisions=[0.2, nan] * 10)
    other = fabricate(study, "abdnet", ranks=[1, nan] * 10, precisions=[0.5, nan] * 10)
    table = tables.effects_table([base, other], "baseline")
    assert table.loc[0, "mAP difference [95 %]"] == "+30.0 [+30.0, +30.0]"
    assert table.loc[0, "rank-1 difference [95 %]"] == "+100.0 [+100.0, +100.0]"


def test_without_the_reference_there_are_no_effects(study):
    table = tables.effects_table([fabricate(study, "abdnet")], "baseline")
    assert table.empty and list(table)[:2] == ["method", "seed"]
    assert "Nothing can be compared with Baseline (XE)" in tables.effects_sentence(table, "baseline")


def test_agreement_by_hand(study):
    nan = float("nan")
    one = fabricate(study, "abdnet", ranks=[1, 1, 1, 2, nan, 3], precisions=[0.1] * 6)
    two = fabricate(study, "baseline", ranks=[1, 1, 2, 1, nan, 4], precisions=[0.1] * 6)
    table = tables.agreement_table([one, two])
    assert table.to_dict("records") == [
        {"first": "ABD-Net", "second": "Baseline (XE)", "both right": 2, "only the first": 1, "only the second": 1, "neither": 2}
    ]


# ---------------------------------------------------------------------------------------------------- all runs


def test_runs_table_in_the_order_of_methods_and_seeds(study):
    runs = [fabricate(study, "pfsa"), fabricate(study, "baseline", seed=10), fabricate(study, "baseline", seed=2)]
    table = tables.runs_table(runs)
    assert list(zip(table["method"], table["seed"], strict=True)) == [
        ("Baseline (XE)", 2), ("Baseline (XE)", 10), ("P + DS with SA₂ (published)", 0),
    ]  # fmt: skip
    assert table.iloc[0].tolist()[2:] == ["50.0 [40.0, 60.0]", "75.0", "25.0 [20.0, 30.0]", "12.5", "11.2", "12,345", "12"]
    assert tables.runs_table([]).empty


def test_variants_of_rows_are_in_no_table_of_rows(study):
    """A study with trained switches has their runs beside the rows'."""
    fabricate(study, "abdnet")
    for side in ("as-written", "as-released"):
        fabricate(study, f"abdnet.augmentation.{side}", rank1=0.9)
    assert [run.experiment.method for run in finished_runs(study)] == ["abdnet"]
    assert tables.runs_table(finished_runs(study))["method"].tolist() == ["ABD-Net"]
    assert tables.coverage_sentence(study).startswith("1 runs on ")
    variant = finished_run(study, "abdnet.augmentation.as-written", 0)
    assert variant.metrics["rank1"] == 0.9 and finished_run(study, "abdnet.augmentation.as-written", 1) is None
    gap = fabricate(study, "gap")
    ordered = tables.in_table_order([variant, gap, *finished_runs(study)[:1]])
    assert [run.name for run in ordered] == ["abdnet-seed0", "gap-seed0", "abdnet.augmentation.as-written-seed0"]


def test_reranking_table(study):
    table = tables.reranking_table([fabricate(study, "baseline"), fabricate(study, "pfsa"), fabricate(study, "gap")])
    assert table["method"].tolist() == ["GAP", "P + DS with SA₂ (published)"]
    assert table.iloc[0].tolist() == ["GAP", 0, "50.0", "60.0 [11.0, 99.0]", "25.0", "45.0 [12.0, 98.0]"]
    assert len(tables.reranking_table([])) == 0


def references():
    row = {"rank1": 0.2, "rank1_low": 0.1, "rank1_high": 0.3, "rank5": 0.4, "map": 0.1, "map_low": 0.05, "map_high": 0.15}
    return pd.DataFrame(
        [{"method": "colour histogram", **row, "minp": 0.02}, {"method": "untrained network", **row, "minp": 0.03}]
    )


def test_scores_frame_and_reference_table(study):
    frame = tables.scores_frame([fabricate(study, "gap"), fabricate(study, "baseline")], references())
    assert frame["method"].tolist() == ["Baseline (XE)", "GAP", "colour histogram", "untrained network"]
    assert frame["reference"].tolist() == [False, False, True, True]
    assert frame.loc[0, ["rank1", "rank1_low", "rank1_high", "map", "map_low", "map_high"]].tolist() == pytest.approx(
        [0.5, 0.4, 0.6, 0.25, 0.2, 0.3]
    )
    shown = tables.reference_table(references())
    assert shown.iloc[1].tolist() == ["untrained network", "20.0 [10.0, 30.0]", "40.0", "10.0 [5.0, 15.0]", "3.0"]


def test_coverage_says_what_was_not_run(study):
    for method in PROFILES["demo"].methods:
        if method not in ("gap", "abdnet"):
            fabricate(study, method)
    fabricate(on(study, "market1501"), "baseline")
    assert tables.missing_methods(study) == ["abdnet", "gap"]
    text = tables.coverage_sentence(study)
    assert text.startswith("5 runs on synthetic (embedded) under the profile demo ")
    assert "Not run though the profile has them: ABD-Net, GAP." in text
    unseen = text.partition("want of the images:")[2]
    assert "Market-1501" not in unseen
    for title in ("DukeMTMC-reID", "CUHK03-NP labeled", "CUHK03-NP detected", "MSMT17"):
        assert title in unseen, f"{title} has a table of its own in the report"


def test_provenance_groups_runs_by_where_they_were_made(study):
    runs = [fabricate(study, method) for method in ("baseline", "abdnet")]
    runs.append(fabricate(study, "gap", made_by={"commit": "def", "torch": "2"}))
    table = tables.provenance_table(runs)
    assert table.loc["runs"].tolist() == ["baseline-seed0, abdnet-seed0", "gap-seed0"]
    assert table.loc["commit"].tolist() == ["abc", "def"]


# ---------------------------------------------------------------------------------------------------- settings, rows, weights


def test_settings_table_shows_what_differs_from_the_default():
    table = tables.settings_table(Experiment(epochs=3, milestones=(1, 2))).set_index("setting")
    assert table.loc["epochs"].tolist() == ["3", "80"]
    assert table.loc["milestones"].tolist() == ["(1, 2)", "(20, 40)"]
    assert len(table) == 2
    assert list(tables.settings_table(Experiment())) == ["setting", "here", "default"]


def test_profile_table_shows_both_papers_where_they_differ():
    table = tables.profile_table("demo").set_index("setting")
    assert table.loc["optimizer"].tolist() == ["adam", "adam (ABD-Net), sgd (PFSA)"]
    assert table.loc["backbone"].tolist() == ["resnet18", "resnet50"]
    assert "crop_probability" in table.index  # 0.5 is ABD-Net's, not PFSA's
    assert len(tables.profile_table("paper")) == 0
    for profile in PROFILES:
        for name in tables.profile_table(profile)["setting"]:
            assert name in Experiment.__dataclass_fields__


def test_methods_table_says_each_row_as_a_difference_from_another():
    table = tables.methods_table().set_index("row")
    assert table.index.tolist() == [*METHODS, DASH], "rows, no variants"
    assert table.loc["baseline"].tolist() == ["Baseline (XE)", "the defaults", "nothing"]
    assert table.loc["abdnet"].tolist() == ["ABD-Net", "abdnet-xe", "triplet_weight = 0.1, images_per_identity = 4"]
    assert table.loc["gap", "differs from"] == "the defaults" and "rerank = True" in table.loc["gap", "by"]
    assert table.loc["gap-256", "by"] == "global_bottleneck = True, epochs = 60"
    assert table.loc[DASH].tolist() == [tables.SVD_ROW, DASH, "described nowhere we could read: not reproduced"]
    for name, by in table["by"].items():
        if name in METHODS and by != "nothing":
            settings = [part.split(" = ")[0] for part in by.split(", ") if " = " in part]
            assert settings == list(METHODS[name].by), "a comma inside a value would read as another setting"


def test_the_weights_that_were_scored_are_named(study):
    nothing = {"best_on_test": None, "checkpoint": None}
    last = fabricate(study, "baseline", **{**nothing, "reported_epoch": 1})
    assert tables.weights_sentence(last) == "Scored with the weights after epoch 1 of 1."
    best = {"epoch": 1, "rank1": 0.625, "map": 0.5}
    beside = fabricate(study, "baseline", seed=1, reported_epoch=3, best_on_test=best)
    pd.DataFrame({"epoch": [1, 2, 3]}).to_csv(beside.folder / "curves.csv", index=False)
    assert tables.weights_sentence(beside) == (
        "Scored with the weights after epoch 3 of 3. "
        "The best rank-1 on the test set was 62.5 after epoch 1, shown beside it only."
    )
    reported = fabricate(study, "abdnet.report-epoch.as-released", reported_epoch=1, best_on_test=best)
    assert tables.weights_sentence(reported).endswith("was 62.5 after epoch 1, reported here.")
    released = fabricate(study, "abdnet", checkpoint={"file": "abd.pth.tar", "sha256": "f00d"}, best_on_test=None)
    (released.folder / "curves.csv").unlink()
    sentence = tables.weights_sentence(released)
    assert "`abd.pth.tar` (SHA-256 f00d)" in sentence and "nothing was trained" in sentence


def test_seeds_table_by_hand(study):
    """Three seeds at 0.5, 0.6 and 0.7: mean 0.6, s 0.1, and 4.303 · 0.1 / √3 either side."""
    one, other = fabricate(study, "baseline"), fabricate(study, "pfsa")
    three = [replace(one, metrics={**one.metrics, "rank1": value, "map": 0.25}) for value in (0.5, 0.6, 0.7)]
    table = tables.seeds_table([other, *three])
    assert table["method"].tolist() == ["Baseline (XE)", other_title := tables.title_of("pfsa"), f"{other_title}, re-ranked"]
    assert table["seeds"].tolist() == [3, 1, 1]
    assert table["rank-1"][0] == "60.0 ± 10.0 [35.2, 84.8]" and table["mAP"][0] == "25.0 ± 0.0 [25.0, 25.0]"
    assert table["rank-1"][1] == f"{100 * other.metrics['rank1']:.1f}", "one seed has no deviation"
    assert table["mAP"][2] == f"{100 * other.metrics['reranked']['map']:.1f}"
