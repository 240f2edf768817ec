"""Every setting that can be switched on or off, on every data set with published numbers.

Made-up runs with the setting switched are shown by everything that shows runs.
"""

from dataclasses import fields

import pytest
from made_up_runs import fabricate

from reidlib.config import METHODS, experiment_for
from reidlib.datasets import DATASETS
from reidlib.experiment import Experiment
from reidlib.settings import ConfigError
from reidlib.show import tables
from reidlib.show.published import published_result
from reidlib.study.results import open_study
from reidlib.study.runs import finished_runs

SETTINGS = [field.name for field in fields(Experiment) if field.type is bool]
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


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_is_shown_beside_the_paper_whatever_is_switched(setting, tmp_path):
    """The paper's numbers may be of another kind, such as re-ranked: then they have no counterpart."""
    for dataset, methods in PUBLISHED.items():
        study = open_study("paper", dataset, tmp_path)
        for method in methods:
            run = fabricate(study, method, settings=switched(method, dataset, setting), rank1=0.6)
            table = tables.metrics_table(run)
            assert len(table) and "nan" not in table.to_string().lower()
            assert (setting in {*tables.settings_table(run.experiment)["setting"]}) == (
                getattr(run.experiment, setting) != getattr(Experiment(), setting)
            )


@pytest.mark.parametrize("setting", ["rerank", "flip_evaluation"])
def test_every_table_of_runs_passes_whatever_way_of_scoring_is_switched(setting, tmp_path):
    """The other settings are shown as they are: only these two change what scores there are."""
    for dataset in ("cuhk03-np-detected", "market1501"):
        study = open_study("paper", dataset, tmp_path)
        for method in METHODS:
            fabricate(study, method, settings=switched(method, dataset, setting))
        runs = finished_runs(study)
        by_dataset = {name: runs if name == dataset else [] for name in DATASETS}
        assert len(runs) == len(METHODS)
        for family, reference in (("abdnet", "baseline"), ("pfsa", "gap")):
            effects = tables.effects_table(
                [run for run in runs if run.experiment.family == family], reference
            )
            assert len(effects) and tables.effects_sentence(effects, reference)
        frames = [
            tables.ablation_table(runs, dataset), tables.spatial_ablation_table(runs),
            tables.runs_table(runs), tables.seeds_table(runs), tables.pfsa_table(by_dataset, "paper"),
            tables.scores_frame(runs),
            tables.comparison_table(by_dataset, "abdnet_table2_market1501", "market1501", "paper"),
        ]  # fmt: skip
        assert all(len(frame) for frame in frames)
        reranked = sum(run.metrics["reranked"] is not None for run in runs)
        assert (len(tables.reranking_table(runs)) > 0) == (reranked > 0)
        assert tables.coverage_sentence(by_dataset, dataset, "paper")
