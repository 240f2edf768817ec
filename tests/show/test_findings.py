"""The claims on made-up runs: which are compared, what the verdicts are, and what the texts say of them."""

import numpy as np
import pandas as pd
import pytest
from made_up_runs import PEOPLE, fabricate

from reidlib.claims import CLAIMS, QUESTIONS
from reidlib.classification.pooling_runs import ClassificationRun
from reidlib.evaluation.measures import COLUMNS
from reidlib.show import findings, findings_text
from reidlib.statistics import holm
from reidlib.study.results import Study

BY_NAME = {claim.name: claim for claim in CLAIMS}
HERE = "drawn people"


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def make(study, method, level, seed=0, *, columns=None, **options):
    """A run with about this mAP. Queries and seeds differ a little, in the same way for every method."""
    wobble = np.random.default_rng([seed, len(method)]).normal(0, 0.002, len(PEOPLE))
    run = fabricate(study, method, level + wobble, seed=seed, train_seconds=1800.0, **options)
    queries = pd.read_csv(run.files.queries).drop(columns=list(COLUMNS))
    queries.assign(**(columns or {})).to_csv(run.files.queries, index=False)
    return run


def seeds(study, method, *levels, **options):
    """Runs with the seeds 0, 1, …"""
    return [make(study, method, level, seed, **options) for seed, level in enumerate(levels)]


def found_in(runs, **options):
    return findings.findings({HERE: runs}, **options)


def row_of(frame, name):
    return frame[frame["name"] == name].iloc[0]


def verdicts_of(frame):
    return frame.set_index("name")["verdict"]


# -------------------------------------------------------------------------------------------------- measuring


def test_effects_are_first_minus_second_and_are_judged(study):
    runs = [
        *seeds(study, "baseline", 0.5, 0.5, 0.5),
        *seeds(study, "baseline+pam+cam", 0.6, 0.6, 0.6),
        *seeds(study, "abdnet-xe", 0.5, 0.5, 0.5),
        *seeds(study, "abdnet", 0.501, 0.501, 0.501),
    ]
    frame = found_in(runs)
    assert frame["name"].tolist() == [claim.name for claim in CLAIMS if claim.measure != "accuracy"] + [
        claim.name for claim in CLAIMS if claim.measure == "accuracy"
    ]
    attention = row_of(frame, "attention")
    assert attention["difference"] == pytest.approx(0.1, abs=0.003)
    assert attention["low"] < attention["difference"] < attention["high"]
    assert (attention["seeds"], attention["people"]) == (3, 10)
    verdicts = verdicts_of(frame)
    assert verdicts["attention"] == "as claimed here"
    assert verdicts["diversity"] == "opposite here"
    assert verdicts["triplet"] == "smaller than the margin"
    assert verdicts["O.F."] == verdicts["SA before GAP"] == verdicts["SA classifies"] == "not run"
    assert row_of(frame, "O.F.")["why"] == "missing: baseline+of"
    assert verdicts["attention correlates"] == "not measured"
    assert row_of(frame, "O.F.")[["difference", "low", "p", "p_holm"]].isna().all()


def test_other_numbers_give_other_words(study, tmp_path):
    other = Study("demo", "synthetic", tmp_path / "other" / "demo-synthetic")
    for place, level, words in ((study, 0.6, "as claimed here"), (other, 0.4, "opposite here")):
        runs = seeds(place, "baseline", 0.5, 0.5, 0.5) + seeds(place, "baseline+pam+cam", *[level] * 3)
        assert verdicts_of(found_in(runs))["attention"] == words


def test_seeds_that_disagree_cannot_tell(study):
    runs = seeds(study, "baseline", 0.5, 0.5) + seeds(study, "baseline+pam+cam", 0.6, 0.42)
    row = row_of(found_in(runs), "attention")
    assert row["verdict"] == "cannot tell" and row["p_holm"] > 0.05


def test_one_seed_has_an_effect_and_no_verdict(study):
    runs = [make(study, "baseline", 0.5), make(study, "baseline+pam+cam", 0.7)]
    row = row_of(found_in(runs), "attention")
    assert row["verdict"] == "one seed: no verdict"
    assert row["difference"] == pytest.approx(0.2, abs=0.003)
    assert row[["low", "high", "p", "p_holm"]].isna().all()


def test_seeds_are_paired(study):
    """Only seed 1 is of both rows."""
    runs = [make(study, "baseline", 0.1, 0), make(study, "baseline", 0.5, 1)]
    runs += [make(study, "baseline+pam+cam", 0.6, 1), make(study, "baseline+pam+cam", 0.9, 2)]
    row = row_of(found_in(runs), "attention")
    assert row["seeds"] == 1 and row["difference"] == pytest.approx(0.1, abs=0.003)
    none = row_of(found_in([runs[0], runs[2]]), "attention")
    assert none["verdict"] == "not run" and "a seed that both" in none["why"]


def test_no_verdict_rests_on_a_run_that_did_not_learn(study):
    plain = seeds(study, "baseline", 0.5, 0.5, 0.5)
    attention = [make(study, "baseline+pam+cam", 0.6, seed) for seed in (0, 1)]
    attention += [make(study, "baseline+pam+cam", 0.002, 2, learned=False)]
    frame = found_in([*plain, *attention])
    row = row_of(frame, "attention")
    assert (row["seeds"], row["not_learned"]) == (2, "baseline+pam+cam-seed2")
    assert row["difference"] == pytest.approx(0.1, abs=0.003)
    text = findings_text.answer(frame, {HERE: [*plain, *attention]})
    assert "did not learn: baseline+pam+cam-seed2." in text
    row = row_of(found_in([*plain, attention[2]]), "attention")
    assert (row["verdict"], row["why"]) == ("did not learn", "baseline+pam+cam-seed2")


def test_a_measure_of_the_queries_is_compared_as_it_is(study):
    areas = {"baseline+pam+cam": 0.3, "abdnet-xe": 0.42}
    runs = [
        run
        for method, area in areas.items()
        for run in seeds(study, method, 0.5, 0.5, columns={"effective_area": area + 0.001 * PEOPLE})
    ]
    row = row_of(found_in(runs), "diversity broadens")
    assert (row["seeds"], row["unit"]) == (2, "% of the map")
    assert row["difference"] == pytest.approx(0.12)
    without = make(study, "abdnet-xe", 0.5, 2), make(study, "baseline+pam+cam", 0.5, 2)
    assert row_of(found_in([*runs, *without]), "diversity broadens")["seeds"] == 2, "unmeasured runs stay out"


def test_reranking_compares_each_query_with_itself(study):
    again = {"reranked_average_precision": 0.7}
    row = row_of(found_in(seeds(study, "pfsa", 0.5, 0.5, columns=again)), "re-ranking")
    assert row["difference"] == pytest.approx(0.2, abs=0.002) and row["seeds"] == 2


def test_queries_without_a_match_do_not_count(study):
    nan = np.where(PEOPLE == 3, np.nan, 0.0)
    runs = [
        run
        for method, level in (("baseline", 0.5), ("baseline+pam+cam", 0.6))
        for run in seeds(study, method, level + nan, level + nan)
    ]
    row = row_of(found_in(runs), "attention")
    assert row["people"] == 9 and row["difference"] == pytest.approx(0.1, abs=0.003)


def test_p_is_corrected_within_a_question_and_a_data_set(study):
    runs = [
        *seeds(study, "baseline", 0.5, 0.5, 0.5),
        *seeds(study, "baseline+pam+cam", 0.55, 0.5, 0.53),
        *seeds(study, "abdnet-xe", 0.51, 0.56, 0.5),
        *seeds(study, "gap", 0.3, 0.3, 0.3),
        *seeds(study, "gap+sa1", 0.33, 0.3, 0.31),
    ]
    frame = findings.findings({HERE: runs, "other people": runs})
    for _, members in frame.groupby(["data_set", "question"]):
        tested = members["p"].notna()
        np.testing.assert_allclose(members.loc[tested, "p_holm"], holm(members.loc[tested, "p"]))
    scores = frame[(frame["data_set"] == HERE) & (frame["question"] == QUESTIONS[0])]
    assert (scores["p_holm"] > scores["p"]).sum() >= 1
    alone = row_of(frame, "SA before GAP")
    assert alone["p_holm"] == alone["p"], "no other claim of its question was run"


def test_a_side_of_a_switch_may_be_the_row_itself(study):
    """The demo leaves erasing out, so its rows show the released side, and the other side is a variant."""
    row = make(study, "pfsa", 0.5)
    erasing = make(study, "pfsa.erasing.first-release", 0.6, settings={"erase_probability": 0.5})
    runs = [row, erasing]
    assert findings.runs_of("pfsa.erasing.as-released", runs) == {0: row}
    assert findings.runs_of("pfsa.erasing.first-release", runs) == {0: erasing}
    found = row_of(found_in(runs), "erasing first release")
    assert found["difference"] == pytest.approx(0.1, abs=0.003)
    kept = make(study, "pfsa", 0.5, 1, settings={"erase_probability": 0.5})
    assert findings.runs_of("pfsa.erasing.as-released", [kept]) == {}


def test_two_runs_of_one_row_and_seed_are_refused(study, tmp_path):
    other = Study("demo", "synthetic", tmp_path / "other" / "demo-synthetic")
    runs = [make(study, "baseline", 0.5), make(other, "baseline", 0.6)]
    with pytest.raises(findings.FindingsError, match="Two runs of baseline have the same seed"):
        findings.runs_of("baseline", runs)


def test_runs_on_other_people_are_refused(study):
    runs = [make(study, "baseline", 0.5), fabricate(study, "baseline+pam+cam", [0.5, 0.5])]
    with pytest.raises(findings.FindingsError, match=r"baseline\S*-seed0 was scored on other queries"):
        found_in(runs)


def test_classification_is_judged_on_its_own_data_set(study):
    curves = pd.DataFrame({"seconds": [3600, 1800]})
    runs = [
        ClassificationRun(pooling, seed, curves, np.tile(right, 50), {})
        for pooling, right in (("gap", [True, True, False, False]), ("gap+sa-sum", [True, True, True, False]))
        for seed in (0, 1)
    ]
    samples = findings.classification_samples(runs)
    assert {pooling: list(own) for pooling, own in samples.items()} == {"gap": [0, 1], "gap+sa-sum": [0, 1]}
    assert samples["gap"][0].hours == 1.5 and samples["gap"][0].name == "gap-seed0"
    frame = found_in([make(study, "baseline", 0.5)], classified=samples)
    row = row_of(frame, "SA classifies")
    assert row["data_set"] == findings.CIFAR and row["difference"] == pytest.approx(0.25)
    assert len(frame[frame["data_set"] == findings.CIFAR]) == 1


# ---------------------------------------------------------------------------------------------------- as text


@pytest.fixture
def some(study):
    """Attention holds, diversity is opposite, the triplet is open, SA has one seed."""
    runs = [
        *seeds(study, "baseline", 0.5, 0.5, 0.5),
        *seeds(study, "baseline+pam+cam", 0.6, 0.6, 0.6),
        *seeds(study, "abdnet-xe", 0.5, 0.5, 0.5),
        *seeds(study, "abdnet", 0.56, 0.48, 0.5),
        make(study, "gap", 0.3),
        make(study, "gap+sa1", 0.4),
    ]
    frame = found_in(runs)
    open_ = {"triplet": 5.0, "ABD-Net": 8.0, "SA before GAP": 3.0}  # whatever the power says
    frame["seeds_needed"] = frame["name"].map(open_)
    return frame, {HERE: runs}


def test_the_answer_counts_and_names(some):
    frame, runs = some
    verdicts = verdicts_of(frame)
    assert (verdicts[["triplet", "ABD-Net"]] == "cannot tell").all()
    here, cifar = findings_text.answer(frame, runs).splitlines()
    assert here.startswith(f"- **{HERE}:** 1 of 4 claims hold (attention); 1 opposite (diversity); ")
    assert "2 cannot be told (triplet, ABD-Net); 1 with one seed, so without a verdict; " in here
    assert cifar == "- **CIFAR-100:** nothing was run."
    # abdnet has 3 of 8 seeds, abdnet-xe 3 of 5, baseline 3 of 8, gap and gap+sa1 1 of 3; half an hour each
    assert "would take 16 more trainings, about 8.0 hours" in here


def test_without_any_verdict_the_answer_says_so(study):
    runs = [make(study, "gap", 0.3), make(study, "gap+sa1", 0.4)]
    text = findings_text.answer(found_in(runs), {HERE: runs})
    assert "no verdict yet; 1 with one seed" in text and "claims hold" not in text
    # two more seeds of each of two rows
    assert "would take 4 more trainings, about 2.0 hours" in text
    nothing = findings_text.answer(found_in([]), {HERE: []})
    assert nothing.splitlines()[0] == f"- **{HERE}:** nothing was run."


def test_the_overview_has_a_column_for_each_data_set_and_no_claim_without_a_run(study, some):
    _, runs = some
    other = [run for run in runs[HERE] if run.method in ("gap", "gap+sa1")]
    frame = findings.findings({HERE: runs[HERE], "few people": other, "none": []})
    table = findings_text.overview(frame).set_index("claim")
    assert list(table) == [HERE, "few people", "published"]
    texts = [claim.text for claim in CLAIMS]
    assert sorted(table.index, key=texts.index) == table.index.tolist()
    attention = table.loc[BY_NAME["attention"].text]
    assert attention[HERE].startswith("as claimed here, +10.") and attention["few people"] == "not run"
    assert attention["published"] == "+1.1"
    assert table.loc[BY_NAME["SA before GAP"].text, "few people"].startswith("one seed: no verdict, +")
    assert BY_NAME["O.F."].text not in table.index


def test_the_overview_says_where_a_number_rests_on_two_seeds(some):
    _, runs = some
    fewer = [run for run in runs[HERE] if run.seed < 2]
    frame = findings.findings({HERE: runs[HERE], "fewer": fewer})
    cells = findings_text.overview(frame).set_index("claim").loc[BY_NAME["attention"].text]
    assert cells["fewer"].endswith("], 2 seeds") and cells[HERE].endswith("]"), cells


def test_the_table_of_a_data_set(some):
    frame, _ = some
    table = findings_text.data_set_table(frame, HERE).set_index("claim")
    row = table.loc[BY_NAME["diversity"].text]
    assert row["effect [95 %]"].startswith("-10.") and row["published"] == "+7.4" and row["seeds"] == 3
    assert row["verdict"] == "opposite here" and row["did not learn"] == "–"
    single = table.loc[BY_NAME["SA before GAP"].text]
    assert single["p (Holm)"] == "–" and single["published"] == "–" and "[" not in single["effect [95 %]"]
    correlates = table.loc[BY_NAME["attention correlates"].text]
    assert correlates["effect [95 %]"] == "–" and correlates["verdict"].startswith("not measured: ")
    assert BY_NAME["O.F."].text not in table.index


def test_the_open_table_has_what_cannot_be_told_with_its_cost(some):
    frame, _ = some
    table = findings_text.open_table(frame).set_index("claim")
    assert set(table.index) == {BY_NAME[name].text for name in ("triplet", "ABD-Net", "SA before GAP")}
    # two more seeds of two rows, half an hour each
    single = table.loc[BY_NAME["SA before GAP"].text]
    assert single["more training"] == "about 2.0 hours" and "3 seeds" in single["what would tell"]


def test_how_to_run_names_rows_seeds_and_switches(some):
    frame, _ = some
    text = findings_text.how_to_run(frame, HERE, "demo", "synthetic")
    command = text.splitlines()[-1].strip()
    assert command.startswith("python run_all.py --profile demo --dataset synthetic --methods ")
    methods = command.partition("--methods ")[2].partition(" --seeds")[0].split()
    assert {"baseline+of", "gap", "gap+sa1", "stripes", "abdnet", "pfsa"} <= set(methods)
    assert "baseline+pam+cam" not in methods, "it has three seeds, and no claim of it lacks a run"
    assert "--seeds 0 1 2 --switches " in command and "of-squared" in command.split("--switches ")[1]
    whole = frame[frame["name"] == "attention"]
    assert "every claim has runs" in findings_text.how_to_run(whole, HERE, "demo", "synthetic")


def test_claims_table_says_who_says_what():
    table = findings_text.claims_table().set_index("claim")
    assert len(table) == len(CLAIMS)
    row = table.loc[BY_NAME["diversity decorrelates"].text]
    assert row["predicted"] == "less" and row["published"] == "-0.154 (0.368 → 0.214)"
    assert row["rows"] == "abdnet − baseline+pam+cam"
    assert table.loc[BY_NAME["O.F. flattens"].text, "margin"] == "5%"
    assert table.loc[BY_NAME["PAM"].text, "margin"] == "0.5"


def test_many_runs_that_did_not_learn_are_named_by_their_seeds(study):
    runs = seeds(study, "gap", 0.5, 0.5, 0.5, 0.5)
    runs += [make(study, "gap+sa1", 0.002, seed, learned=seed == 2) for seed in range(4)]
    frame = found_in(runs)
    assert row_of(frame, "SA before GAP")["not_learned"] == "gap+sa1 (seeds 0, 1, 3)"
    assert "did not learn: gap+sa1 (seeds 0, 1, 3)." in findings_text.answer(frame, {HERE: runs})


def test_the_answer_begins_with_what_the_data_sets_agree_in(study, some):
    frame, runs = some
    two = pd.concat([frame, frame.assign(data_set="elsewhere")], ignore_index=True)
    first, *others = findings_text.answer(two, {**runs, "elsewhere": runs[HERE]}).splitlines()
    assert first == f"- **All together:** {findings_text.across_data_sets(two)}"
    assert others[0].startswith(f"- **{HERE}:**")
    assert "All together" not in findings_text.answer(frame, runs), "one data set alone"


def test_agreement_between_data_sets():
    rows = [
        ("attention", "a", "as claimed here"), ("attention", "b", "as claimed here"),
        ("diversity", "a", "as claimed here"), ("diversity", "b", "opposite here"),
        ("triplet", "a", "cannot tell"), ("triplet", "b", "smaller than the margin"),
        ("O.F.", "a", "cannot tell"), ("O.F.", "b", "not run"),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["name", "data_set", "verdict"])
    assert findings_text.across_data_sets(frame) == (
        "Wherever it can be told, 1 as claimed here (attention); 1 smaller than the margin (triplet). The "
        "data sets differ in 1 (diversity). Told nowhere: 1 (O.F.)."
    )
    assert "No data set can tell" in findings_text.across_data_sets(frame[frame["verdict"] == "cannot tell"])
