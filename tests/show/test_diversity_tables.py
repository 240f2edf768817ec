"""Tables and sentences about diversity, on made-up runs whose numbers are known."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up_runs import PEOPLE, fabricate

from reidlib.crossed import crossed_effect
from reidlib.evaluation.channels import LAST
from reidlib.evaluation.measures import COLUMNS, WEIGHTS
from reidlib.run import read_run
from reidlib.show import diversity
from reidlib.show.correlation_definitions import ATTENTION, BASELINE, DIVERSITY
from reidlib.show.diversity import (
    correlation_table,
    epochs_frame,
    epochs_sentence,
    first_of_epochs,
    level,
    measures_table,
    mechanism_sentence,
    missing_sentences,
    weights_table,
)
from reidlib.statistics import bootstrap_interval
from reidlib.study.results import Study


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def make(study, method, correlation=0.5, *, seed=0, rank=0.25, spread=0.01, drop=(), **options):
    """A run whose people differ in S(Corr) by up to `spread`; the means over queries are as given."""
    run = fabricate(study, method, seed=seed, **options)
    wobble = spread * np.linspace(-1, 1, 10)[PEOPLE]
    values = {"channel_correlation": correlation + wobble, "effective_rank": rank}
    queries = pd.read_csv(run.files.queries).assign(**values)
    queries.drop(columns=list(drop)).to_csv(run.files.queries, index=False)
    return read_run(run.folder)


# ----------------------------------------------------------------------------------------------------- levels


def test_a_level_of_one_seed_is_over_people_and_of_several_over_both(study):
    one, two = make(study, BASELINE, 0.25), make(study, BASELINE, 0.75, seed=1)
    values = one.queries["channel_correlation"].to_numpy()
    assert level([one], "channel_correlation") == (*bootstrap_interval(values, PEOPLE), 1)
    both = level([one, two], "channel_correlation")
    effect = crossed_effect(np.stack([values, values + 0.5]), np.zeros((2, 20)), PEOPLE)
    assert both == pytest.approx((0.5, effect.low, effect.high, 2))
    assert both.high - both.low > 1, "the seeds lie apart"


def test_queries_that_were_not_measured_are_left_out(study):
    run = make(study, BASELINE, 0.25, spread=0)
    run.queries.loc[4:, "effective_rank"] = np.nan
    run.queries.loc[:3, "effective_rank"] = [0.1, 0.2, 0.3, 0.6]
    assert level([run], "effective_rank").mean == pytest.approx(0.3)
    run.queries.loc[2:, "effective_rank"] = np.nan
    alone = level([run], "effective_rank")
    assert alone.mean == pytest.approx(0.15) and math.isnan(alone.low), "one person has no interval"
    run.queries["effective_rank"] = np.nan
    assert level([run], "effective_rank") is None
    assert level([make(study, ATTENTION, drop=["effective_rank"])], "effective_rank") is None
    assert level([], "effective_rank") is None


# ----------------------------------------------------------------------------------------------------- tables


def test_correlations_stand_beside_the_published_ones_with_both_multiples(study):
    runs = [make(study, BASELINE, 0.2, spread=0), make(study, ATTENTION, 0.5), make(study, DIVERSITY, 0.3)]
    table = correlation_table(runs).set_index("model")
    assert table["published S(Corr)"].tolist() == ["0.049", "0.368", "0.214", "0.214"]
    assert table["published multiple"].tolist() == ["–", "7.51", "0.58", "0.58"]
    assert table["our multiple"].tolist() == ["–", "2.50", "0.60", "–"]
    assert table.loc["Baseline (XE)", "ours [95 %]"] == "0.200 [0.200, 0.200]"
    assert table.loc["ABD-Net", "ours [95 %]"] == "not run"
    assert table["interval over"].tolist() == ["people", "people", "people", "–"]
    runs += [make(study, BASELINE, 0.2, seed=1)]
    assert correlation_table(runs)["interval over"].iloc[0] == "seeds and people"


def test_a_run_that_did_not_learn_gives_no_level_and_no_multiple(study):
    runs = [make(study, BASELINE, 0.2), make(study, ATTENTION, 0.5, learned=False)]
    table = correlation_table(runs).set_index("model")
    assert table.loc["Baseline (XE) + PAM + CAM", "ours [95 %]"].startswith("did not learn (0.500")
    assert table["our multiple"].tolist() == ["–"] * 4
    shown = measures_table(runs).set_index("method")
    assert shown["seeds"].tolist() == [1, 0] and shown["interval over"].tolist() == ["people", "–"]
    assert diversity.first_runs(runs)[ATTENTION].learned is False, "there is no other to draw"
    runs.append(make(study, ATTENTION, 0.4, seed=1))
    assert diversity.first_runs(runs)[ATTENTION].seed == 1


def test_measures_have_their_units(study):
    table = measures_table([make(study, BASELINE, 0.2, spread=0, rank=0.125)])
    row = table.iloc[0]
    assert row["S(Corr) [95 %]"] == "0.200 [0.200, 0.200]"
    assert row["effective rank (%) [95 %]"] == "12.5 [12.5, 12.5]"
    assert row["area (%) [95 %]"] == "50.0 [50.0, 50.0]"
    assert row["log₁₀ condition number [95 %]"] == "0.50 [0.50, 0.50]"


def test_weights_have_a_deviation_over_seeds_and_no_interval(study):
    def weights(value):
        names = ("effective_rank", "condition_number", "stem_effective_rank", "stem_condition_number")
        return {WEIGHTS: dict(zip(names, (value, 10 * value, value / 2, value), strict=True))}

    runs = [make(study, BASELINE, seed=seed, **weights(value)) for seed, value in ((0, 0.2), (1, 0.4))]
    runs += [make(study, ATTENTION, **weights(0.25)), make(study, DIVERSITY, **{WEIGHTS: {}})]
    rows = weights_table(runs).set_index("method").to_dict("index")
    assert list(rows["Baseline (XE)"].values()) == [
        *(2, "30.0 ± 14.1", "3.00 ± 1.41"),
        *("15.0 ± 7.1", "0.30 ± 0.14"),
    ]
    assert list(rows["Baseline (XE) + PAM + CAM"].values()) == [1, "25.0", "2.50", "12.5", "0.25"]
    assert set(rows["ABD-Net (XE)"].values()) == {1, "–"}


# ----------------------------------------------------------------------------------------------------- epochs


def with_curves(run, correlations, epochs=(1, 2, 3)):
    table = pd.DataFrame({"epoch": epochs, "loss": 1.0} | dict.fromkeys(COLUMNS, 0.5))
    table.assign(channel_correlation=correlations).to_csv(run.files.curves, index=False)
    return read_run(run.folder)


def test_epochs_that_were_measured_are_kept_for_every_run(study):
    old = make(study, "abdnet")  # by a version that did not measure epochs
    runs = [with_curves(make(study, BASELINE, seed=seed), [np.nan, 0.4, 0.2 + seed / 5]) for seed in (0, 1)]
    runs += [with_curves(make(study, ATTENTION, learned=False), [0.9, 0.9, 0.9]), old]
    frame = epochs_frame(runs)
    assert frame["method"].unique().tolist() == ["Baseline (XE)"]
    assert frame[["seed", "epoch"]].to_numpy().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    said = epochs_sentence(frame)
    assert said == "From epoch 2 to 3: Baseline (XE): S(Corr) 0.40 → 0.30, effective rank 50 → 50 %."
    nothing = epochs_frame([old])
    assert nothing.empty and set(COLUMNS) <= set(nothing) and "No run here" in epochs_sentence(nothing)


def test_the_first_epoch_of_the_penalty_counts_the_warm_up(study):
    runs = [make(study, BASELINE), make(study, DIVERSITY, settings={"warmup_epochs": 3, "of_start_epoch": 2})]
    assert first_of_epochs(runs) == [6], "epochs count from 1"
    assert first_of_epochs(runs[:1]) == []


# --------------------------------------------------------------------------------------------------- takeaway


def test_the_takeaway_has_both_moves_and_no_verdict_from_one_seed(study):
    runs = [make(study, BASELINE, 0.2), make(study, ATTENTION, 0.5), make(study, DIVERSITY, 0.3, rank=0.5)]
    said = mechanism_sentence(runs)
    assert "Attention moves S(Corr) by +0.300 [+0.300, +0.300] (published: +0.319)" in said
    assert "Diversity moves S(Corr) by -0.200 [-0.200, -0.200] (published: -0.154)" in said
    assert "effective rank by +25.0 [+25.0, +25.0] points" in said
    assert "no verdict rests on them" in said and "05_findings" not in said
    runs += [make(study, BASELINE, 0.2, seed=1), make(study, ATTENTION, 0.6, seed=1)]
    said = mechanism_sentence(runs)
    assert "Attention moves S(Corr) by +0.350 [-0.285, +0.985]" in said, "0.05 · t(1 degree of freedom)"
    assert "no verdict" in said, "diversity has one seed"
    runs += [make(study, DIVERSITY, 0.3, seed=1)]
    assert "over seeds and people together; `05_findings` has the verdicts" in mechanism_sentence(runs)


def test_the_takeaway_says_what_cannot_be_told(study):
    runs = [make(study, BASELINE), make(study, ATTENTION, learned=False), make(study, DIVERSITY)]
    assert mechanism_sentence(runs).count("cannot be told") == 2
    other_seed = [runs[0], make(study, ATTENTION, seed=1)]
    assert mechanism_sentence(other_seed).count("cannot be told") == 2
    unmeasured = [make(study, BASELINE, seed=2, drop=COLUMNS), make(study, ATTENTION, seed=2)]
    assert mechanism_sentence(unmeasured).startswith("Attention cannot be told")


def test_missing_models_are_named_with_the_command_that_makes_them(study):
    runs = [make(study, BASELINE)]
    (said,) = missing_sentences(runs, "demo", "synthetic")
    assert said.startswith("Not run: Baseline (XE) + PAM + CAM, ABD-Net (XE).")
    assert said.endswith("--profile demo --dataset synthetic --methods baseline+pam+cam abdnet-xe")
    assert missing_sentences(runs, "demo", "folder")[0].endswith("abdnet-xe --data-root DIR")
    assert missing_sentences([*runs, make(study, ATTENTION), make(study, DIVERSITY)], "demo", "folder") == []


def test_what_is_drawn_of_the_models_has_their_order_and_captions(study):
    import torch

    maps = torch.tensor([[[[1.0, 2, 3, 4]], [[1.0, -1, -1, 1]], [[4.0, 3, 2, 1]]]])
    matrices = diversity.drawn_matrices({DIVERSITY: {LAST: maps}, "abdnet": {LAST: maps}})
    (matrix,) = matrices.values()
    assert list(matrices) == ["ABD-Net (XE)"], "only the published figure's"
    ordered = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert any(np.allclose(matrix, one, atol=1e-6) for one in (ordered, np.flip(ordered)))
    runs = [make(study, DIVERSITY, 0.25), make(study, "abdnet", 0.125)]
    assert diversity.captions(runs) == ["S(Corr) 0.250 (published 0.214)"]
