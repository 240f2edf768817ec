"""The model card of a run: everything in it comes from the run's files."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_runs import PEOPLE, fabricate

from reidlib.config import experiment_for
from reidlib.show.model_card import camera_table, limits, model_card
from reidlib.study.results import Study
from reidlib.training import fit

PRECISIONS = np.r_[np.full(10, 0.25), np.full(10, 0.75)]


@pytest.fixture
def study(tmp_path):
    return Study("demo", "market1501", tmp_path / "demo-market1501")


def front(card: str) -> dict:
    """The front matter. Each line is a name and JSON, which is YAML, too."""
    lines = card.split("---\n")[1].splitlines()
    return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in lines)}


def test_the_front_matter_has_the_fields_of_hugging_faces_cards(study):
    card = model_card(fabricate(study, "abdnet", PRECISIONS, seed=3))
    fields = front(card)
    assert (fields["language"], fields["datasets"]) == ("en", ["market1501"])
    assert fields["license"] == "other" and fields["license_name"], "photographs have terms of their own"
    assert "person-re-identification" in fields["tags"] and "did-not-learn" not in fields["tags"]
    ((entry),) = fields["model-index"]
    ((result),) = entry["results"]
    assert entry["name"] == "abdnet-seed3"
    assert result["dataset"] == {"type": "market1501", "name": "Market-1501", "split": "query and gallery"}
    rank1, mean_ap = result["metrics"]
    assert (rank1["type"], rank1["value"], mean_ap["type"], mean_ap["value"]) == ("rank-1", 50.0, "mAP", 50.0)
    assert "50.0 [40.0, 60.0]" in rank1["name"] and "50.0 [45.0, 55.0]" in mean_ap["name"]
    for line in card.split("---\n")[1].splitlines():
        assert re.fullmatch(r'[a-z_-]+: ["\[].*', line), "a name that needs no quotes, and a quoted value"


def test_the_text_says_use_scores_and_who_made_it(study):
    card = model_card(fabricate(study, "abdnet", PRECISIONS, seed=3, commit="x"))
    assert card.count("\n# ") == 1 and "\n# ABD-Net on Market-1501, seed 3\n" in card
    assert "Identifying people without a lawful basis is not an intended use." in card
    assert "somebody else for 50 % of the queries" in card
    assert "| rank-1 | 50.0 [40.0, 60.0] | 95.6 |" in card, "beside the paper's"
    assert "| commit | abc |" in card and "| parameters | 11,250,000 |" in card
    assert "| triplet\\_weight" not in card and "| triplet_weight | 0.1 | 0.0 |" in card
    assert "{" not in card.split("---\n")[2], "no hole is left"


def test_scores_by_camera_are_those_of_its_queries(study):
    run = fabricate(study, "baseline", PRECISIONS, ranks=np.r_[np.ones(10), np.full(10, 2)])
    queries = pd.read_csv(run.files.queries)
    queries["camera"] = np.r_[np.ones(10, int), np.full(8, 2), 3, 3]
    queries.loc[18:, ["first_match_rank", "average_precision"]] = np.nan
    queries.to_csv(run.files.queries, index=False)
    table = camera_table(run).set_index("camera")
    assert table.loc["1"].tolist() == [10, len(set(PEOPLE[:10])), "100.0 [100.0, 100.0]", "25.0 [25.0, 25.0]"]
    assert table.loc["2", "rank-1 [95 %]"] == "0.0 [0.0, 0.0]"
    assert table.loc["3"].tolist() == [0, 0, "–", "–"], "no query of camera 3 has a match"


def test_a_run_that_did_not_learn_claims_no_score(study):
    not_learned = {"learned": False, "last_cross_entropy": 6.6, "guess_cross_entropy": 6.6}
    run = fabricate(study, "gap", 0.002, rank1=0.001, **not_learned)
    card = model_card(run)
    assert "model-index" not in front(card) and "did-not-learn" in front(card)["tags"]
    assert "did not learn (0.1 [" in card and "of no use but to study why" in card
    assert "did not learn" in limits(run)[0]


def test_limits_are_those_of_data_start_and_number_of_people(tmp_path):
    drawn = Study("demo", "synthetic", tmp_path / "demo-synthetic")
    run = fabricate(drawn, "baseline", synthetic=True)
    assert front(model_card(run))["license"] == "mit", "drawn people, and first weights drawn at random"
    said = " ".join(limits(run))
    assert "people drawn by a program" in said and "random weights" in said and "Only 10 people" in said
    many = np.full(200, 0.5)
    duke = Study("paper", "dukemtmc-reid", tmp_path / "paper-dukemtmc-reid")
    said = " ".join(limits(fabricate(duke, "baseline", many)))
    assert "withdrawn by its makers" in said
    assert "random weights" not in said and "drawn by a program" not in said and "Only" not in said
    started = {"pretrained": False, "start_from": "/home/someone/secret/model.pt"}
    file = {"file": "model.pt", "sha256": "0" * 64}
    run = fabricate(drawn, "baseline", seed=1, settings=started, synthetic=True, started_from=file)
    card = model_card(run)
    assert front(card)["license"] == "other" and "Training went on from model.pt" in card
    assert "| start_from | model.pt |" in card and "secret" not in card, "folders are nobody's concern"


def test_released_weights_have_no_training_data(tmp_path):
    study = Study("paper", "market1501", tmp_path / "checkpoints-market1501")
    source = {"file": "a|b.pth.tar", "sha256": "0" * 64}
    run = fabricate(study, "pfsa", synthetic=True, checkpoint=source, settings={"pretrained": False})
    card = model_card(run)
    assert "What the weights were trained on is not known here." in card and "6 people" not in card
    assert front(card)["license"] == "other"
    assert "# Parameter" not in card and "weights of a&#124;b.pth.tar\n" in card


def test_the_cards_lines_load_the_network(dataset, cache, tmp_path, monkeypatch, steady):
    small = {
        "epochs": 1,
        "steps_per_epoch": 1,
        "embedding_dim": 16,
        "reduced_dim": 16,
        "height": 32,
        "width": 16,
    }
    experiment = experiment_for("baseline", dataset="folder", profile="smoke", **small)
    run = fit(experiment, dataset, tmp_path / "baseline-seed0", cache=cache)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    card = model_card(run)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before, "it is only read"
    assert "Trained on 24 images of 6 people" in card and "| metric | ours [95 %] |\n" in card
    assert "datasets" not in front(card), "own images have no name"
    (lines,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    dimensions = int(re.search(r"into (\d+) numbers", card)[1])
    height, width = map(int, re.search(r"\(B, 3, (\d+), (\d+)\)", card).groups())
    with torch.inference_mode():
        assert names["model"](torch.zeros(1, 3, height, width)).embedding.shape == (1, dimensions)
