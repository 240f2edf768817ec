"""Runs that did not learn: no table, sentence or comparison gives their scores as scores."""

import pandas as pd
import pytest
from made_up_runs import fabricate

from reidlib.datasets import DATASETS
from reidlib.show import learning, tables
from reidlib.show.paired import NO_VERDICT
from reidlib.show.text import DASH
from reidlib.study.results import Study

NOT = {"learned": False, "last_cross_entropy": 6.64, "guess_cross_entropy": 6.6425, "train_identities": 767}
WORDS = "did not learn"


@pytest.fixture
def study(tmp_path):
    return Study("demo", "market1501", tmp_path / "demo-market1501")


@pytest.fixture
def runs(study):
    """One seed of four methods; the spatial-attention rows did not learn."""
    return [
        fabricate(study, "baseline", 0.25, rank1=0.5),
        fabricate(study, "abdnet", 0.375, rank1=0.625),
        fabricate(study, "gap", 0.002, rank1=0.001, **NOT),
        fabricate(study, "pfsa", 0.02, rank1=0.03, **NOT),
    ]


def test_no_table_has_the_score_of_a_run_that_did_not_learn_without_saying_so(runs):
    by_dataset = dict.fromkeys(DATASETS, []) | {"market1501": runs}
    shown = [
        tables.runs_table(runs),
        tables.seeds_table(runs),
        tables.spatial_ablation_table(runs),
        tables.pfsa_table(by_dataset, "demo").tail(2),
        tables.reranking_table(runs),
        tables.metrics_table(runs[2]),
        tables.metrics_table(runs[3]),
    ]
    scores = {f"{100 * value:.1f}" for value in (0.002, 0.001, 0.02, 0.03, 0.202, 0.101, 0.22, 0.13)}
    found = 0
    for cell in (str(cell) for table in shown for cell in table.to_numpy().ravel()):
        if cell.split(" [")[0].split(" ±")[0] in scores:
            pytest.fail(f"{cell} stands among scores")
        found += cell.startswith(f"{WORDS} (")
    assert found > 30
    table = tables.runs_table(runs).set_index("method")
    assert table.loc["GAP", ["rank-1 [95 %]", "rank-5"]].tolist() == [
        f"{WORDS} (0.1 [-9.9, 10.1])", f"{WORDS} (75.0)",
    ]  # fmt: skip
    assert table.loc["ABD-Net", "rank-1 [95 %]"] == "62.5 [52.5, 72.5]"


def test_seeds_that_did_not_learn_are_counted_and_not_averaged(study):
    """Two seeds with 20 and 30, and one that did not learn: the mean is 25, s = 10 / √2."""
    runs = [
        fabricate(study, "gap", 0.2, seed=0),
        fabricate(study, "gap", 0.001, seed=1, **NOT),
        fabricate(study, "gap", 0.3, seed=2),
    ]
    row = tables.spatial_ablation_table(runs).set_index("method").loc["GAP"]
    assert row["mAP [95 %]"] == f"25.0 ± 7.1 (2 seeds); 1 of 3 {WORDS}"
    assert row["re-ranked mAP [95 %]"] == f"45.0 ± 7.1 (2 seeds); 1 of 3 {WORDS}"
    over = tables.seeds_table(runs).iloc[0]
    assert over["mAP"].startswith("25.0 ± 7.1 [") and over["mAP"].endswith(f"; 1 of 3 {WORDS}")
    frame = tables.scores_frame(runs)
    assert frame.loc[0, "map"] == pytest.approx(0.25) and frame.loc[0, "learned"]
    assert frame.loc[0, "method"] == f"GAP ({WORDS}: seed 1)"
    none = tables.scores_frame(runs[1:2], pd.DataFrame([{"method": "untrained", "map": 0.1}]))
    assert none["learned"].tolist() == [False, True] and none["method"].tolist() == ["GAP", "untrained"]


def test_a_run_of_which_it_is_not_known_counts_as_learned(study):
    """Runs of older versions and of released weights have no such entry."""
    old = fabricate(study, "gap", 0.25, rank1=0.5)
    del old.metrics["learned"]
    assert old.learned is None and fabricate(study, "baseline").learned is True
    assert tables.runs_table([old]).loc[0, "mAP [95 %]"] == "25.0 [20.0, 30.0]"
    assert learning.learning_sentences([old]) == [] and learning.learning_advice(old) == ""
    assert WORDS not in tables.run_sentence(old)


def test_comparisons_with_such_a_run_have_no_verdict_and_its_seed_does_not_count(study):
    runs = [
        fabricate(study, "baseline", 0.2),
        fabricate(study, "baseline", 0.2, seed=1, **NOT),
        fabricate(study, "baseline+pam", 0.001, **NOT),
        fabricate(study, "baseline+cam", 0.4),
        fabricate(study, "baseline+cam", 0.9, seed=1),
        fabricate(study, "abdnet", 0.9, seed=1),
    ]
    effects = tables.effects_table(runs, "baseline").set_index("method")
    for row, seed in (("Baseline (XE) + PAM", "seed 0"), ("ABD-Net", "seed 1")):
        assert effects.loc[row].tolist() == [seed, DASH, DASH, DASH, DASH, WORDS]
    found = effects.loc["Baseline (XE) + CAM"]
    assert found["seeds"] == f"seed 0; {WORDS}: seed 1"
    assert found["mAP difference [95 %]"] == "+20.0, over people [+20.0, +20.0]"
    assert (found["p (Holm)"], found["verdict"]) == (DASH, NO_VERDICT)
    sentence = tables.effects_sentence(effects.reset_index(), "baseline")
    unknown = f"Not compared, because the row or Baseline (XE) {WORDS}: Baseline (XE) + PAM, ABD-Net."
    assert unknown in sentence
    alone = tables.effects_table([runs[1], runs[5]], "baseline")
    assert tables.effects_sentence(alone, "baseline") == (
        f"Not compared, because the row or Baseline (XE) {WORDS}: ABD-Net."
    )
    assert tables.ablation_table(runs, "market1501")["mAP vs baseline [95 %]"].tolist().count(DASH) == 9


def test_a_page_names_the_runs_that_did_not_learn_once(runs):
    (sentence,) = learning.learning_sentences(runs)
    assert sentence.startswith("**GAP, seed 0; P + DS with SA₂ (published), seed 0: did not learn.**")
    (sentence,) = learning.learning_sentences(runs[2:])
    assert sentence.startswith("**None of the 2 runs on this page learned.**")
    assert learning.learning_sentences(runs[:2]) == []


def test_the_runs_own_page_gives_the_numbers_and_what_to_try(runs):
    advice = learning.learning_advice(runs[2])
    assert "6.64 per classifier; a guess among the 767 training people has 6.64" in advice
    assert all(f"`{setting}`" in advice for setting in ("epochs", "learning_rate", "trunk_rate"))
    assert tables.run_sentence(runs[2]).startswith(f"**This run {WORDS}**")
    assert WORDS not in tables.run_sentence(runs[0])
    assert set(tables.metrics_table(runs[2])["difference"]) == {DASH}
    assert WORDS in tables.agreement_table(runs).loc[1, "second"]
