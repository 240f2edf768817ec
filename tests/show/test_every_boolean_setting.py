"""Every setting that can be switched on or off, on every data set with published numbers.

Made-up runs with the setting switched are shown by everything that shows runs.
"""

from dataclasses import fields

import pytest
from made_up_runs import fabricate

from reidlib.config import METHODS, experiment_for
from reidlib.datasets import DATASETS
from reidlib.experiment import Experiment, ScoringSettings
from reidlib.settings import ConfigError
from reidlib.show import tables
from reidlib.show.published import as_published, published_result
from reidlib.show.switch_effects import IMPOSSIBLE, SAME_HERE, switch_table, trained_effects
from reidlib.show.text import DASH, NOT_COMPUTED, NOT_RUN
from reidlib.study.results import open_study
from reidlib.study.runs import finished_runs

SETTINGS = [field.name for field in fields(Experiment) if field.type is bool]
SCORING = [field.name for field in fields(ScoringSettings) if field.type is bool]
PUBLISHED = {
    dataset: [method for method in METHODS if published_result(method, dataset)] for dataset in DATASETS
}


def switched(method: str, dataset: str, setting: str) -> dict[str, bool]:
    """The setting with its other value; {} if this method cannot have it so."""
    value = not getattr(experiment_for(method, dataset=dataset), setting)
    try:
        experiment_for(method, dataset=dataset, **{setting: value})
    except ConfigError:
        return {}
    return {setting: value}


def test_there_is_something_to_try():
    assert {"rerank", "flip_evaluation", "pam", "tensorboard"} <= {*SETTINGS}
    assert {dataset for dataset, methods in PUBLISHED.items() if "pfsa" in methods} == {
        "market1501", "dukemtmc-reid", "cuhk03-np-labeled", "cuhk03-np-detected",
    }  # fmt: skip
    assert "abdnet" in PUBLISHED["msmt17"]


def switched_off(run) -> bool:
    """Whether the call that made the run switched off a score that its row has anyway."""
    return experiment_for(run.method).rerank and not run.experiment.rerank


def is_number(cell: str) -> bool:
    return cell[:1].isdigit()


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_is_shown_beside_the_paper_whatever_is_switched(setting, tmp_path):
    """Every published number stays. Where ours was switched off, it is "not computed"."""
    for dataset, methods in PUBLISHED.items():
        study = open_study("paper", dataset, tmp_path)
        for method in methods:
            run = fabricate(study, method, settings=switched(method, dataset, setting), rank1=0.6)
            table = tables.metrics_table(run)
            assert "nan" not in table.to_string().lower()
            paper = published_result(method, dataset)
            shown = table.set_index("metric")
            for key, label in (("rank1", "rank-1"), ("map", "mAP")):
                row = shown.loc[label + (", re-ranked" if paper["reranked"] else "")]
                assert row["paper"] == as_published(paper[key])
                gone = paper["reranked"] and switched_off(run)
                assert (row["ours [95 %]"] == NOT_COMPUTED) == (row["difference"] == NOT_COMPUTED) == gone
                assert is_number(row["ours [95 %]"]) != gone
            assert table["ours [95 %]"].map(is_number).any(), "what was computed is shown all the same"
            assert DASH not in set(table["ours [95 %]"]), "of ours, nothing is published"
            assert (NOT_COMPUTED in tables.run_sentence(run)) == switched_off(run)
            assert (setting in {*tables.settings_table(run.experiment)["setting"]}) == (
                getattr(run.experiment, setting) != getattr(Experiment(), setting)
            )


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_table_of_runs_says_what_was_switched_off(setting, tmp_path):
    """Tables 20, 21 and 90 with the rows that have published numbers, on a data set that has them."""
    dataset = "cuhk03-np-detected"
    study = open_study("paper", dataset, tmp_path)
    methods = ("baseline", "abdnet", "gap", "pfsa") if setting not in SCORING else tuple(METHODS)
    runs = [fabricate(study, method, settings=switched(method, dataset, setting)) for method in methods]
    by_dataset = {name: finished_runs(study) if name == dataset else [] for name in DATASETS}
    gone = {run.method for run in runs if switched_off(run)}
    assert (len(gone) > 0) == (setting == "rerank")

    spatial = tables.spatial_ablation_table(runs).set_index("method")
    reranked = tables.reranking_table(runs).set_index("method")
    over_seeds = tables.seeds_table(runs).set_index("method")
    for run in runs:
        title, default = METHODS[run.method].title, experiment_for(run.method).rerank
        if run.experiment.family == "pfsa":
            cells = spatial.loc[title]
            assert cells.iloc[1:3].map(is_number).all()
            assert set(cells.iloc[3:] == NOT_COMPUTED) == {run.method in gone}
        computed = run.metrics["reranked"] is not None
        assert (
            (title in reranked.index) == (f"{title}, re-ranked" in over_seeds.index) == (computed or default)
        )
        if title in reranked.index:
            cells = [*reranked.loc[title, [name for name in reranked if name.startswith("re-ranked")]]]
            cells += [*over_seeds.loc[f"{title}, re-ranked", ["rank-1", "mAP"]]]
            assert {cell == NOT_COMPUTED for cell in cells} == {not computed}
            assert {is_number(cell) for cell in cells} == {computed}
    ours = tables.pfsa_table(by_dataset, "paper").iloc[-1]
    assert ours["Market-1501 mAP"] == NOT_RUN
    assert (ours["CUHK03-NP detected mAP"] == NOT_COMPUTED) == ("pfsa" in gone)

    for family, reference in (("abdnet", "baseline"), ("pfsa", "gap")):
        effects = tables.effects_table([run for run in runs if run.experiment.family == family], reference)
        assert len(effects) and tables.effects_sentence(effects, reference)
    frames = [
        tables.ablation_table(runs, dataset), tables.runs_table(runs), tables.scores_frame(runs),
        tables.comparison_table(by_dataset, "abdnet_table2_market1501", "market1501", "paper"),
    ]  # fmt: skip
    for frame in frames:  # these have no score that can be switched off
        assert len(frame) and NOT_COMPUTED not in {*frame.astype(str).to_numpy().ravel()}
    assert tables.coverage_sentence(by_dataset, dataset, "paper")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_switch_that_a_setting_leaves_nothing_of_is_not_called_not_run(setting, tmp_path):
    """The table of 22. Without the global branch, for example, branches have no order."""
    effects = trained_effects([], None, [0], "demo", switched("abdnet", "folder", setting), cache=tmp_path)
    table = switch_table(effects)
    impossible = table["verdict"].isin([IMPOSSIBLE, SAME_HERE])
    assert impossible.sum() >= 1, "the demo has no warm-up to leave out"
    assert (table["verdict"][~impossible] == NOT_RUN).all()
    for here, words in ((impossible, NOT_COMPUTED), (~impossible, NOT_RUN)):
        assert set(table.loc[here].iloc[:, 3:-1].to_numpy().ravel()) == {words}
