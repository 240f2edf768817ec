"""The sweep of O.F.'s weight on made-up runs: which run shows which weight, and what is said."""

import pandas as pd
import pytest
from made_up_runs import fabricate

from reidlib.config import FEW_OF_BETAS, OF_BETAS
from reidlib.run import read_run
from reidlib.show.beta_sweep import USUAL, how_to_sweep, sweep_frame, sweep_sentence, sweep_table
from reidlib.study.results import Study


@pytest.fixture
def study(tmp_path):
    return Study("demo", "synthetic", tmp_path / "demo-synthetic")


def make(study, method, precision, correlation=0.5, **options):
    run = fabricate(study, method, precision, **options)
    queries = pd.read_csv(run.files.queries).assign(channel_correlation=correlation, effective_rank=0.25)
    queries.to_csv(run.files.queries, index=False)
    return read_run(run.folder)


def test_rows_and_variants_show_their_weights(study):
    runs = [
        make(study, "baseline", 0.25, 0.5),
        make(study, "baseline+of", 0.5, 0.25),
        make(study, "baseline+of", 0.75, 0.25, seed=1),
        make(study, "baseline+of.of-beta.1e-05", 0.125, learned=False),
        make(study, "abdnet-xe", 0.9),  # has O.F. too, and is no part of the sweep
    ]
    frame = sweep_frame(runs, "demo", {})
    assert frame["beta"].tolist() == list(FEW_OF_BETAS) == sorted(FEW_OF_BETAS)
    assert frame["seeds"].tolist() == [1, 0, 0, 2, 0, 0]
    assert frame["not_learned"].tolist() == [0, 0, 0, 0, 1, 0]
    assert frame.loc[frame["beta"] == USUAL, "average_precision_mean"].item() == pytest.approx(0.625)
    table = sweep_table(frame).set_index("β")
    assert table.loc["0", "mAP (%) [95 %]"] == "25.0 [25.0, 25.0]"
    assert table.loc["1e-06", "S(Corr) [95 %]"] == "0.250 [0.250, 0.250]"
    assert set(table.loc["1e-05"].iloc[2:]) == {"did not learn"}
    assert set(table.loc["9e-05"].iloc[2:]) == {"not run"}
    said = sweep_sentence(frame)
    assert said.startswith("Of 6 weights of O.F., 2 were run. From β = 0 to 1e-06, mAP (%) goes from 25.0 to")
    assert "S(Corr) goes from 0.500 to 0.250, effective rank (%) goes from 25.0 to 25.0." in said
    assert "mAP is highest at β = 1e-06 (62.5)." in said and said.endswith("No verdict rests on one seed.")
    told = how_to_sweep(frame, "demo", "synthetic")
    assert "Not run: 3 weights (β = 1e-08, 1e-07, 9e-05)." in told, "1e-05 was run, and did not learn"
    assert told.endswith("\n\n    python run_all.py --profile demo --dataset synthetic --switches of-beta")
    assert "The reference runs have no sweep" in how_to_sweep(frame, "demo", "folder", reference=True)


def test_several_seeds_and_every_weight(study):
    betas = list(sweep_frame([], "demo", {})["run"])
    runs = [make(study, name, 0.5, seed=seed) for name in betas for seed in (0, 1)]
    frame = sweep_frame(runs, "demo", {})
    assert "No verdict" not in sweep_sentence(frame) and "look at the intervals" in sweep_sentence(frame)
    assert how_to_sweep(frame, "demo", "synthetic") == "Every weight of the sweep was run."


def test_the_large_profiles_sweep_the_co_authors_weights(study):
    frame = sweep_frame([make(study, "baseline", 0.5)], "full", {})
    assert frame["beta"].tolist() == list(OF_BETAS) and len(frame) == 37
    assert (
        sweep_sentence(frame)
        == "Of 37 weights of O.F., 1 was run. Two are needed to see what the weight does."
    )
    assert "36 weights (β = 1e-08, 2e-08, 3e-08, …, 9e-05)" in how_to_sweep(frame, "full", "synthetic")


def test_a_weight_for_every_run_leaves_one_to_show(study):
    overrides = {"of_weight": 3e-6}
    run = make(study, "baseline+of", 0.5, settings=overrides)
    frame = sweep_frame([run], "demo", overrides)
    assert frame[["beta", "run", "seeds"]].to_numpy().tolist() == [[3e-6, "baseline+of", 1]]


def test_runs_without_measures_show_their_scores(study):
    runs = [make(study, "baseline", 0.5), make(study, "baseline+of", 0.25)]
    for run in runs:
        queries = pd.read_csv(run.files.queries).drop(columns=["channel_correlation", "effective_rank"])
        queries.to_csv(run.files.queries, index=False)
    frame = sweep_frame([read_run(run.folder) for run in runs], "demo", {})
    assert sweep_table(frame)["S(Corr) [95 %]"].iloc[0] == "–"
    assert "From β = 0 to 1e-06, mAP (%) goes from 50.0 to 25.0. mAP is highest" in sweep_sentence(frame)
