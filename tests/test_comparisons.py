"""Paper against released code: every difference has a row; both sides of a switch on the same weights, and on made-up scores."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_thread_on_the_cpu
from scipy.spatial.distance import pdist

from reidlib import comparisons, losses, scoring
from reidlib.batches import load_images
from reidlib.config import METHODS, Experiment, experiment_for
from reidlib.datasets import Split
from reidlib.embedding import embed
from reidlib.results import Study, write_json
from reidlib.statistics import holm, paired_difference
from reidlib.switches import SIDES, SWITCHES
from reidlib.training import fit

TINY = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16, "embedding_dim": 16,
    "head_dim": 16, "feature_dim": 16, "batch_size": 8, "steps_per_epoch": 1, "epochs": 2, "warmup_epochs": 0,
    "precision": "float32", "learning_rate": 1e-3, "optimizer": "adam", "trunk_rate": 1.0, "of_start_epoch": 1,
}  # fmt: skip
BY_NAME = {switch.name: switch for switch in SWITCHES}


# ---------------------------------------------------------------------------------------------------- the differences in words

# One entry for each numbered difference between paper and released code, and words that its row must have.
DIFFERENCES = {
    "ABD-Net": [
        ("1", "O.W. reaches 1 of 63 convolutions", ("63", "stem", "nn.Sequential")),
        ("2", "O.W. has a factor 10", ("O.W.", "· 10")),
        ("2", "O.F. not squared", ("O.F.", "not squared")),
        ("2", "one power step and a Rayleigh quotient", ("one step", "Rayleigh", "power iteration")),
        ("3", "λ₂ is 0 in the attentive branch", ("λ₂", "rank", "attentive")),
        ("4", "channel attention's sign", ("least similar", "most similar")),
        ("5", "`before` has a head", ("`before`", "head", "straight line")),
        ("6", "attention per stripe", ("stripes", "whole map")),
        ("7", "branch order", ("hash seed", "fixed")),
        ("8", "best epoch chosen on the test set", ("best", "last", "test set")),
        ("9", "--data-augment turned off silently", ("--data-augment", "commas", "crop and erasing")),
    ],
    "PFSA": [
        ("1", "mean over sum, no softmax", ("mean", "sum", "no softmax")),
        ("2", "SA₁ never called", ("SA₁", "never called")),
        ("3", "logged loss is weighted", ("logged", "0.2", "0.8")),
        ("4", "751 classes", ("751", "of the data set")),
        ("4", "--combine-trainval is never read", ("trainval", "never read")),
        ("4", "best is the last epoch", ("last, named best",)),
        ("4", "random erasing off", ("random erasing", "p 0.5", "off")),
        ("5", "re-ranked results only", ("re-ranking", "commented out")),
        ("6", "re-ranking under Python 2", ("Python 2", "2/3", "half precision")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("paper", "number", "words"),
    [pytest.param(paper, *(entry[0], entry[2]), id=entry[1]) for paper, entries in DIFFERENCES.items() for entry in entries],
)
def test_every_known_difference_has_a_row(paper, number, words):
    table = comparisons.deviations_table()
    of_number = table[(table["paper"] == paper) & table["no."].str.fullmatch(rf"{number}[a-z]?")]
    rows = [" ".join(row) for row in of_number.itertuples(index=False)]
    assert any(all(word in row for word in words) for row in rows), rows


def test_no_number_is_made_up():
    table = comparisons.deviations_table()
    for paper, entries in DIFFERENCES.items():
        found = {number.rstrip("abcd") for number in table.loc[table["paper"] == paper, "no."]} - {"–"}
        assert found == {number for number, *_ in entries}
    assert table["no."].tolist().count("–") == 1, "BN on two GPUs is not among the numbered ones"


def test_deviations_show_each_setting_with_both_values():
    table = comparisons.deviations_table()
    last = "setting: written / released"
    assert list(table) == ["paper", "no.", "what", "as written", "as released", "here", last]
    assert len(table) == len(SWITCHES) - 2, "the two that throw several at once are no differences of their own"
    assert not table.map(lambda cell: cell.strip() == "").any().any()
    by_what = table.set_index("what")
    assert by_what.loc["factor of O.W.", last] == "ow_factor: 1.0 / 10.0"
    assert by_what.loc["sign of the channel attention", last] == "cam_most_similar_first: True / False"
    assert by_what.loc["crop and erasing", last] == "crop_probability: 0.5 / 0.0; erase_probability: 0.5 / 0.0"
    assert by_what.loc["batch normalisation on two GPUs", last] == "–"
    for cell in table[last]:
        for name in re.findall(r"(\w+): ", cell):
            assert name in Experiment.__dataclass_fields__
    for name in re.findall(r"(?:gap|pfsa)\+\w+", " ".join(table["here"])):
        assert name in METHODS


# ---------------------------------------------------------------------------------------------------- on the same weights


@pytest.fixture(scope="module", autouse=True)
def steady():
    with one_thread_on_the_cpu():
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("demo", "folder", tmp_path_factory.mktemp("results") / "demo-folder")


@pytest.fixture(scope="module")
def runs(study, dataset):
    """The two rows that switches are thrown on, trained for two steps."""
    return {
        method: fit(
            experiment_for(method, dataset="folder", profile="demo", **TINY),
            dataset,
            study.run(method, 0),
            cache=study.cache,
            resamples=100,
        )
        for method in ("abdnet", "pfsa")
    }


@pytest.fixture(scope="module")
def seen():
    """The terms of every loss that `effects` computed, as (experiment, term → value)."""
    return []


@pytest.fixture(scope="module")
def spreads():
    """λ₁ − λ₂ of every matrix that a penalty looked at, per experiment."""
    return {}


@pytest.fixture(scope="module")
def effects(study, dataset, runs, seen, spreads):
    """All switches at once, as the notebook makes them, with what went into each loss written down on the way."""

    def noted_terms(experiment, *arguments):
        found = spreads[experiment] = []

        def noted_spread(matrices, *options, **more):
            found.append(spread(matrices, *options, **more))
            return found[-1]

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(losses, "spectral_spread", noted_spread)
            terms = loss_terms(experiment, *arguments)
        seen.append((experiment, {name: term.item() for name, term in terms.items()}))
        return terms

    loss_terms, spread = comparisons.loss_terms, losses.spectral_spread
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "loss_terms", noted_terms)
        return comparisons.untrained_effects(runs, dataset, cache=study.cache)


def row_of(effects, name):
    (row,) = effects[effects["name"] == name].to_dict("records")
    return row


def sides_of(runs, name):
    """The experiments of both sides, as written and as released."""
    switch = BY_NAME[name]
    return [replace(runs[switch.base].experiment, **switch.side(side)) for side in SIDES]


def terms_of(seen, experiment):
    (terms,) = [terms for one, terms in seen if one == experiment]
    return terms


def network_of(run, experiment):
    """That side's network with the run's weights."""
    return comparisons._network_with(run.model().state_dict(), experiment, run.metrics["train_identities"], 0)


def test_every_trained_switch_is_compared_once_and_every_side_computed_once(effects, seen):
    assert effects["name"].tolist() == [switch.name for switch in SWITCHES if switch.effect == "training"]
    experiments = [experiment for experiment, _ in seen]
    assert len(set(experiments)) == len(experiments)
    assert not effects.isna().any().any()


def test_equal_sides_agree_in_everything(effects):
    """Which epoch is reported changes nothing in a step."""
    row = row_of(effects, "report-epoch")
    assert row["loss_written"] == row["loss_released"]
    assert row["gradient_cosine"] == pytest.approx(1, abs=1e-12) and row["gradient_ratio"] == pytest.approx(1, abs=1e-12)
    assert row["distance_change"] == 0


def test_every_other_side_does_something(effects):
    for _, row in effects.iterrows():
        if row["name"] not in ("report-epoch", "branch-order"):
            assert row["loss_written"] != row["loss_released"], row["name"]
            assert row["gradient_cosine"] < 1 - 1e-9 or abs(row["gradient_ratio"] - 1) > 1e-6, row["name"]


def test_losses_are_the_sums_of_all_terms(effects, runs, seen):
    for name in effects["name"]:
        row, sides = row_of(effects, name), sides_of(runs, name)
        for key, experiment in zip(("loss_written", "loss_released"), sides, strict=True):
            terms = terms_of(seen, experiment)
            assert row[key] == pytest.approx(sum(terms.values()), rel=1e-6)
            if experiment.family == "abdnet":
                assert list(terms) == ["cross_entropy", "triplet", "orthogonal_features", "orthogonal_weights"]


def test_the_reach_of_ow_changes_the_loss_by_the_penalty_on_the_other_convolutions(effects, runs, seen, spreads):
    written, released = sides_of(runs, "ow-reach")
    row, terms = row_of(effects, "ow-reach"), [terms_of(seen, one) for one in (written, released)]
    for name in ("cross_entropy", "triplet", "orthogonal_features"):
        assert terms[0][name] == terms[1][name]
    penalties = [1e-3 * 10 * sum(x.square().sum().item() for x in spreads[one][9:]) for one in (written, released)]
    convolutions = [sum(len(x) for x in spreads[one][9:]) for one in (written, released)]
    assert convolutions == [25, 1]  # ResNet-18 has 20, its layer4 of 4 and a shortcut is there twice
    assert row["loss_written"] - row["loss_released"] == pytest.approx(penalties[0] - penalties[1], rel=1e-5)
    assert row["distance_change"] == 0, "a penalty does not move embeddings of the same weights"


def test_the_square_of_of_by_hand(effects, runs, spreads):
    """β / (batch / 32) · Σ over positions of factor · mean over the stripes of Σ over images; the squared one has the squares."""
    written, released = sides_of(runs, "of-squared")
    row, found = row_of(effects, "of-squared"), spreads[released][:9]
    factors = [0.01, *[0.5] * 8]  # `intermediate`, then two stripes each of before, cam, pam, after
    assert [len(x) for x in found] == [8] * 9
    for one, same in zip(found, spreads[written][:9], strict=True):
        torch.testing.assert_close(one, same)
    sums = [
        sum(factor * x.detach().double().pow(power).sum().item() for factor, x in zip(factors, found, strict=True))
        for power in (1, 2)
    ]
    assert row["loss_written"] - row["loss_released"] == pytest.approx(1e-6 * 32 / 8 * (sums[1] - sums[0]), rel=1e-4)
    assert row["loss_written"] > row["loss_released"]
    assert row["distance_change"] == 0


def test_the_factor_of_ow_is_ten(effects, runs, seen):
    written, released = (terms_of(seen, one)["orthogonal_weights"] for one in sides_of(runs, "ow-factor"))
    assert released == pytest.approx(10 * written, rel=1e-5)
    row = row_of(effects, "ow-factor")
    assert row["loss_released"] - row["loss_written"] == pytest.approx(
        released - written, abs=1e-6
    )  # of a loss of about 2, in float32


def test_the_order_of_the_branches_is_no_effect_on_the_same_weights(effects):
    """It would be one if dropout drew numbers: the gradients' cosine was 0.2 for that reason alone."""
    row = row_of(effects, "branch-order")
    assert row["distance_change"] < 1e-6
    assert row["loss_written"] == pytest.approx(row["loss_released"], rel=1e-5)
    assert row["gradient_cosine"] == pytest.approx(1, abs=1e-4) and row["gradient_ratio"] == pytest.approx(1, abs=1e-3)


def test_switches_of_the_loss_move_no_distance_and_those_of_the_network_do(effects):
    changes = effects.set_index("name")["distance_change"]
    still = ["ow-reach", "ow-factor", "of-squared", "eigenvalues", "of-smaller-side", "report-epoch", "augmentation"]
    still += ["classes", "erasing", "sa-normalization"]  # SA₂ touches the training alone: it is not in the embedding
    moving = ["cam-sign", "before-head", "attention-per-stripe", "sa1", "all-of-abdnet", "all-of-pfsa"]
    assert (changes[still] < 1e-6).all(), changes[still]
    assert (changes[moving] > 1e-4).all(), changes[moving]
    assert set(still) | set(moving) | {"branch-order"} == set(changes.index)


def test_the_change_of_distances_by_hand(effects, study, dataset, runs):
    """Relative root-mean-square change of the Euclidean distances between the query images, flip evaluation as in the run."""
    pixels = load_images(dataset.query.paths, 96, 48, cache=study.cache)
    written, released = sides_of(runs, "cam-sign")
    one, two = (
        pdist(embed(network_of(runs["abdnet"], experiment), pixels, flip=True, precision="float32"))
        for experiment in (written, released)
    )
    expected = np.sqrt(((one - two) ** 2).mean() / (two**2).mean())
    assert row_of(effects, "cam-sign")["distance_change"] == pytest.approx(expected, rel=1e-4)


def test_gradients_are_compared_over_what_both_sides_have():
    def step(gradients, distances, loss):
        tensors = {name: torch.tensor(values) for name, values in gradients.items()}
        return SimpleNamespace(gradients=tensors, distances=np.array(distances), loss=loss)

    written = step({"a": [3.0, 0.0], "b": [[4.0]], "only": [9.0]}, [3.0, 4.0], 2.0)
    released = step({"a": [0.0, 1.0], "b": [[2.0]], "other": [7.0, 7.0]}, [3.0, 0.0], 1.0)
    found = comparisons._compare(written, released)
    assert (found["loss_written"], found["loss_released"]) == (2.0, 1.0)
    assert found["gradient_cosine"] == pytest.approx(8 / (5 * np.sqrt(5)))  # (3, 0, 4) and (0, 1, 2)
    assert found["gradient_ratio"] == pytest.approx(5 / np.sqrt(5))
    assert found["distance_change"] == pytest.approx(4 / 3)
    released.gradients["a"] = torch.ones(3)  # of another shape: a classifier with more people
    assert comparisons._compare(written, released)["gradient_cosine"] == pytest.approx(1)


def test_more_classes_keep_the_trained_rows_and_fewer_the_first(runs):
    run = runs["pfsa"]
    trained = run.model().state_dict()
    larger = network_of(run, replace(run.experiment, classes=751)).state_dict()
    classifiers = [name for name in trained if "classifier" in name]
    assert len(classifiers) == 2 * (6 + 1 + 3)
    for name, value in trained.items():
        if name in classifiers:
            assert len(larger[name]) == 751 and len(value) == 6
            torch.testing.assert_close(larger[name][:6], value, rtol=0, atol=0)
            assert (larger[name][6:] != 0).any() == name.endswith("weight"), "the others start as new layers do"
        else:
            torch.testing.assert_close(larger[name], value, rtol=0, atol=0)


def test_a_run_with_a_fixed_number_of_classes_can_be_compared(study, dataset, tmp_path):
    """A study of classes = 751: as written its network has the people's number, the first rows of the trained one."""
    experiment = experiment_for("pfsa", dataset="folder", profile="demo", **TINY, classes=9)
    run = fit(experiment, dataset, tmp_path / "pfsa-seed0", cache=study.cache, resamples=100)
    smaller = network_of(run, replace(experiment, classes=0))
    name = "global_classifier.weight"
    torch.testing.assert_close(smaller.state_dict()[name], run.model().state_dict()[name][:6], rtol=0, atol=0)


def test_parameters_of_one_side_alone_keep_their_own_start_values(runs):
    """Without a head for `before` the network has fewer parameters; all that are left are the run's."""
    run = runs["abdnet"]
    trained = run.model().state_dict()
    bare = network_of(run, replace(run.experiment, before_head=False)).state_dict()
    assert set(bare) < set(trained)
    for name, value in bare.items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=0)


def test_every_term_is_active_however_late_it_started_in_the_runs(study, dataset, runs, monkeypatch):
    """O.F. starts after so many epochs; where sides are compared on the same weights, it is there."""
    run = runs["abdnet"]
    late = replace(run, experiment=replace(run.experiment, of_start_epoch=17, epochs=18))
    monkeypatch.setattr(comparisons, "SWITCHES", (BY_NAME["of-squared"],))
    (row,) = comparisons.untrained_effects({"abdnet": late}, dataset, cache=study.cache, images=4).to_dict("records")
    assert row["loss_written"] != row["loss_released"]


def test_the_same_weights_give_the_same_numbers_and_only_rows_with_a_run(effects, study, dataset, runs, monkeypatch):
    monkeypatch.setattr(comparisons, "SWITCHES", (BY_NAME["cam-sign"], BY_NAME["sa1"], BY_NAME["reranking"]))
    again = comparisons.untrained_effects({"pfsa": runs["pfsa"]}, dataset, cache=study.cache)
    assert again["name"].tolist() == ["sa1"]
    assert again.to_dict("records") == [row_of(effects, "sa1")]


def test_untrained_effects_as_text(effects):
    row = {"paper": "PFSA", "number": "2", "name": "sa1", "what": "SA₁", "loss_written": 12.34567, "loss_released": 0.0001}
    numbers = {"gradient_cosine": 0.98765, "gradient_ratio": 1234.5, "distance_change": 0.0123}
    table = comparisons.untrained_table(pd.DataFrame([{**row, **numbers}]))
    assert table.iloc[0].tolist() == ["PFSA", "2", "SA₁", "12.35", "0.0001", "0.988", "1.23e+03", "1.2 %"]
    shown = comparisons.untrained_table(effects)
    assert len(shown) == len(effects) and not shown.map(lambda cell: "nan" in cell).any().any()


# ---------------------------------------------------------------------------------------------------- after training


PEOPLE = np.arange(20) // 2  # ten people with two queries each


@pytest.fixture
def made_up(tmp_path):
    return Study("demo", "folder", tmp_path / "demo-folder")


@pytest.fixture(scope="module")
def crowd():
    """Ten people with two queries and three gallery images each, as far as scoring needs them."""
    gallery = np.repeat(np.arange(10), 3)

    def split(ids, camera):
        return Split(tuple(Path(f"{row}.png") for row in range(len(ids))), ids, np.full(len(ids), camera))

    return SimpleNamespace(query=split(PEOPLE, 1), gallery=split(gallery, 2), fingerprint="0" * 16)


def fabricate(study, method, precisions, *, seed=0, hits=None, embeddings=None, data="0" * 16, **settings):
    """A finished run's files with the given average precision of each query; hits: right at rank 1 or not."""
    folder = study.run(method, seed)
    folder.mkdir(parents=True)
    experiment = experiment_for(method, dataset=study.dataset, profile=study.profile, seed=seed, **settings)
    write_json(folder / "experiment.json", {"experiment": experiment.as_dict(), "data": data})
    write_json(folder / "metrics.json", {"map": float(np.nanmean(precisions)), "train_identities": 6})
    precisions = np.broadcast_to(np.asarray(precisions, float), len(PEOPLE))
    ranks = np.where(np.broadcast_to(True if hits is None else hits, len(PEOPLE)), 1.0, 2.0)
    queries = {"query": [f"{row}.png" for row in range(len(PEOPLE))], "identity": PEOPLE, "camera": 1}
    ranks = np.where(np.isnan(precisions), np.nan, ranks)
    pd.DataFrame({**queries, "first_match_rank": ranks, "average_precision": precisions}).to_csv(
        folder / "queries.csv", index=False
    )
    if embeddings is not None:
        np.savez(folder / "embeddings.npz", **embeddings)


def of(effects, name):
    return effects.set_index("name").loc[name]


def test_nothing_run_is_said_to_be_not_run(made_up, crowd):
    effects = comparisons.switch_effects(made_up, crowd, [0, 1])
    assert effects["name"].tolist() == [s.name for s in SWITCHES if s.effect in ("training", "evaluation")]
    assert (effects["seeds"] == 0).all() and effects[["rank1", "map", "map_difference", "map_by_seed", "p"]].isna().all().all()
    table = comparisons.switch_table(effects)
    assert set(table.iloc[:, 3:].to_numpy().ravel()) == {"not run"}
    assert "nothing can be said" in comparisons.switch_sentence(effects)
    assert len(effects) == len(effects["base"]) and set(effects["base"]) == {"abdnet", "pfsa"}


def test_effects_are_means_over_seeds_of_paired_differences_by_hand(made_up, crowd):
    """ow-factor: as written 0.1, 0.3 and nothing above the row, with seed 3 on one side only."""
    right = np.arange(20) % 2 == 0
    for seed, (row, variant) in enumerate([(0.4, 0.5), (0.3, 0.6), (0.7, 0.7)]):
        fabricate(made_up, "abdnet", row, seed=seed, hits=right)
        fabricate(made_up, "abdnet.ow-factor.as-written", variant, seed=seed, hits=right | (seed == 0))
    fabricate(made_up, "abdnet.ow-factor.as-written", 0.9, seed=3)
    effects = comparisons.switch_effects(made_up, crowd, [0, 1, 2, 3])
    found = of(effects, "ow-factor")
    assert found["seeds"] == 3
    assert found["map"] == pytest.approx((0.4 + 0.3 + 0.7) / 3) and found["rank1"] == 0.5
    assert found["map_by_seed"] == pytest.approx([0.1, 0.3, 0.0])
    # every query is 0.4 / 3 better, so the interval is a point; rank-1 gains half of the queries in one seed of three
    for bound in ("", "_low", "_high"):
        assert found[f"map_difference{bound}"] == pytest.approx(0.4 / 3)
        assert found[f"rank1_difference{bound}"] == pytest.approx(0.5 / 3)
    assert found["p"] == pytest.approx(2 / 1024), "of the 2¹⁰ swaps of people two are as extreme; one switch was run"
    assert (effects["seeds"] > 0).sum() == 1
    table = comparisons.switch_table(effects).set_index("what").loc["factor of O.W."]
    assert table.tolist() == [
        "ABD-Net", "2a", "50.0 / 46.7", "+16.7 [+16.7, +16.7]", "+13.3 [+13.3, +13.3]", "+10.0, +30.0, +0.0", "0.002",
        "varies with the seed",
    ]  # fmt: skip
    sentence = comparisons.switch_sentence(effects)
    assert sentence.startswith(f"1 of {len(effects)} switches have both sides here; 0 change mAP distinguishably ")
    assert "seeds move" not in sentence and "random draws" not in sentence


def test_the_written_side_may_be_the_row(made_up, crowd):
    """branch-order: the row has the fixed order, the variant the other; the sign stays written − released."""
    fabricate(made_up, "abdnet", 0.6)
    fabricate(made_up, "abdnet.branch-order.as-released", np.where(PEOPLE == 0, 0.65, 0.6))
    effects = comparisons.switch_effects(made_up, crowd, [0])
    found = of(effects, "branch-order")
    assert found["map_difference"] == pytest.approx(-0.005) and found["map"] == pytest.approx(0.605)
    assert found["p"] == 1
    sentence = comparisons.switch_sentence(effects)
    assert "0 change mAP distinguishably (permutation test over people, Holm-corrected, 5 %)." in sentence
    assert "changes only the random draws, and moves mAP by up to 0.5 points" in sentence
    assert sentence.endswith("Where there is one seed of each, how much seeds move a difference is not known.")


def test_a_switch_with_a_variant_on_both_sides_needs_both(made_up, crowd):
    fabricate(made_up, "abdnet", 0.6)
    fabricate(made_up, "abdnet.augmentation.as-written", 0.5)
    assert of(comparisons.switch_effects(made_up, crowd, [0]), "augmentation")["seeds"] == 0
    fabricate(made_up, "abdnet.augmentation.as-released", 0.3)
    found = of(comparisons.switch_effects(made_up, crowd, [0]), "augmentation")
    assert (found["seeds"], found["map_difference"]) == (1, pytest.approx(0.2))


def test_p_values_are_corrected_over_the_rows_that_were_run(made_up, crowd):
    fabricate(made_up, "abdnet", 0.5)
    changes = {
        "ow-reach": np.where(PEOPLE < 8, 0.51, 0.5),
        "cam-sign": np.where(PEOPLE < 9, 0.3, 0.5),
        "before-head": np.where(PEOPLE < 2, 0.8, 0.5),
    }
    for name, precisions in changes.items():
        fabricate(made_up, f"abdnet.{name}.as-written", precisions)
    effects = comparisons.switch_effects(made_up, crowd, [0])
    alone = [paired_difference(changes[name], np.full(20, 0.5), PEOPLE).p_value for name in changes]
    # 8, 9 and 2 of ten people change, all in one direction: 2 / 2⁸, 2 / 2⁹ and 2 / 2² of the swaps are as extreme
    assert alone == pytest.approx([2 / 256, 2 / 512, 2 / 4])
    assert effects.set_index("name").loc[list(changes), "p"].tolist() == pytest.approx(holm(alone).tolist())
    assert of(effects, "cam-sign")["p"] == pytest.approx(3 * 2 / 512) and of(effects, "ow-reach")["p"] == pytest.approx(4 / 256)
    table = comparisons.switch_table(effects).set_index("what")["verdict"]
    assert (
        table["sign of the channel attention"] == "differs (one seed)"
        and table["the plain path, `before`"] == "indistinguishable"
    )
    assert table["factor of O.W."] == "not run"
    sentence = comparisons.switch_sentence(effects)
    assert "3 of " in sentence and "2 change mAP" in sentence
    assert "convolutions that O.W. reaches +0.8; sign of the channel attention -18.0 points" in sentence


@pytest.mark.parametrize(
    ("by_seed", "noise", "verdict"),
    [
        ([0.30, 0.31, 0.29], [0.0], "differs"),
        ([0.30, 0.31, 0.29], [0.05, -0.35], "within the noise"),  # one seed's other draws alone moved it by more
        ([0.70, 0.10, -0.10], [0.0], "varies with the seed"),
        ([0.30], [0.0], "differs (one seed)"),
        ([0.30], [-0.30], "within the noise"),
    ],
)
def test_a_verdict_needs_more_than_resampled_people(made_up, crowd, by_seed, noise, verdict):
    seeds = range(max(len(by_seed), len(noise)))
    for seed in seeds:
        fabricate(made_up, "abdnet", 0.5, seed=seed)
    for name, values in (("cam-sign.as-written", by_seed), ("branch-order.as-released", noise)):
        sign = 1 if name.startswith("cam") else -1  # there the row is the written side
        for seed, value in enumerate(values):
            fabricate(made_up, f"abdnet.{name}", 0.5 + sign * value, seed=seed)
    effects = comparisons.switch_effects(made_up, crowd, seeds)
    assert of(effects, "cam-sign")["p"] < 0.05
    assert of(effects, "cam-sign")["verdict"] == verdict
    assert of(effects, "branch-order")["verdict"] == "noise"
    assert comparisons.noise_of(effects) == pytest.approx(max(map(abs, noise)))
    said = "1 change mAP" if verdict.startswith("differs") else "0 change mAP"
    assert said in comparisons.switch_sentence(effects)


def test_queries_without_a_match_count_on_neither_side(made_up, crowd):
    second = np.arange(20) % 2 == 1
    fabricate(made_up, "abdnet", np.where(second, np.nan, 0.2), hits=False)
    fabricate(made_up, "abdnet.cam-sign.as-written", np.where(second, np.nan, 0.5))
    found = of(comparisons.switch_effects(made_up, crowd, [0]), "cam-sign")
    assert found["map_difference"] == pytest.approx(0.3) and found["map"] == pytest.approx(0.2)
    assert (found["rank1_difference"], found["rank1"]) == (1.0, 0.0)


def test_settings_of_every_run_do_not_hide_a_variant(made_up, crowd):
    overrides = {"epochs": 3}
    fabricate(made_up, "abdnet", 0.5, **overrides)
    fabricate(made_up, "abdnet.cam-sign.as-written", 0.25, **overrides)
    found = of(comparisons.switch_effects(made_up, crowd, [0], overrides), "cam-sign")
    assert (found["seeds"], found["map_difference"]) == (1, pytest.approx(-0.25))


def test_a_setting_given_for_every_run_is_no_comparison_of_a_run_with_itself(made_up, crowd):
    """--set ow_factor=3 leaves one run for both sides: that is not "indistinguishable", it is not run."""
    fabricate(made_up, "abdnet", 0.5, ow_factor=3.0)
    effects = comparisons.switch_effects(made_up, crowd, [0], {"ow_factor": 3.0})
    assert (effects["seeds"] == 0).all()


def test_runs_that_differ_by_more_than_the_switch_are_not_compared(made_up, crowd):
    """A variant that an earlier call trained for fewer epochs, or on other images, is no other side of the row."""
    fabricate(made_up, "abdnet", 0.5)
    fabricate(made_up, "abdnet.cam-sign.as-written", 0.9, epochs=3)
    fabricate(made_up, "abdnet.ow-factor.as-written", 0.9, data="1" * 16)
    fabricate(made_up, "abdnet.ow-reach.as-written", 0.9)
    effects = comparisons.switch_effects(made_up, crowd, [0])
    assert effects.loc[effects["seeds"] > 0, "name"].tolist() == ["ow-reach"]


def ranked_crowd(crowd, seed=0):
    """Embeddings in which people are found, but not always."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 8))
    return {
        name: (centres[split.ids] + 1.1 * rng.normal(size=(len(split.ids), 8))).astype(np.float32)
        for name, split in (("query", crowd.query), ("gallery", crowd.gallery))
    }


def test_switches_of_evaluation_rank_the_rows_embeddings_again(made_up, crowd):
    embeddings = ranked_crowd(crowd)
    plain = scoring.rank(**embeddings, dataset=crowd)
    python2 = scoring.rerank(**embeddings, dataset=crowd)
    published = scoring.rerank(**embeddings, dataset=crowd, merge_threshold=2 / 3, half_precision=False)
    assert len({one.mean_ap for one in (plain, python2, published)}) == 3, "the made-up people must tell the three apart"
    fabricate(made_up, "pfsa", plain.average_precision, hits=plain.hits(1) == 1, embeddings=embeddings)
    effects = comparisons.switch_effects(made_up, crowd, [0])
    assert effects.loc[effects["seeds"] > 0, "name"].tolist() == ["reranking", "reranking-python2"]
    found = of(effects, "reranking")
    assert found["map_difference"] == pytest.approx(python2.mean_ap - plain.mean_ap)
    assert found["rank1_difference"] == pytest.approx(python2.rank1 - plain.rank1)
    assert (found["map"], found["rank1"]) == pytest.approx((plain.mean_ap, plain.rank1))
    found = of(effects, "reranking-python2")
    assert found["map_difference"] == pytest.approx(published.mean_ap - python2.mean_ap)
    assert (found["map"], found["rank1"]) == pytest.approx((python2.mean_ap, python2.rank1))


def test_the_form_of_reranking_is_compared_where_runs_are_not_reranked(made_up, crowd):
    """--set rerank=False saves time in every run; the two forms of re-ranking differ all the same."""
    embeddings = ranked_crowd(crowd)
    fabricate(made_up, "pfsa", 0.5, embeddings=embeddings, rerank=False)
    found = of(comparisons.switch_effects(made_up, crowd, [0], {"rerank": False}), "reranking-python2")
    forms = [{"merge_threshold": 2 / 3, "half_precision": False}, {}]
    written, released = (scoring.rerank(**embeddings, dataset=crowd, **form).mean_ap for form in forms)
    assert written != released and found["map_difference"] == pytest.approx(written - released)


def test_the_study_of_real_runs(study, dataset, runs):
    """What `fit` writes can be read: the tiny runs have one side of the trained switches and both of the re-ranking ones."""
    effects = comparisons.switch_effects(study, dataset, [0], TINY)
    run = effects[effects["seeds"] > 0]
    assert run["name"].tolist() == ["reranking", "reranking-python2"]
    assert of(effects, "reranking")["map"] == pytest.approx(runs["pfsa"].metrics["map"])
    difference = runs["pfsa"].metrics["reranked"]["map"] - runs["pfsa"].metrics["map"]
    assert of(effects, "reranking")["map_difference"] == pytest.approx(difference)
