"""Both sides of a switch between paper and released code: on the same weights, and as scored runs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_thread_on_the_cpu
from made_up_runs import IMAGES, PEOPLE, fabricate
from scipy import stats
from scipy.spatial.distance import pdist

from reidlib import losses
from reidlib.config import experiment_for
from reidlib.datasets import Split
from reidlib.evaluation import embedding, ranking, scoring
from reidlib.evaluation.embedding import embed
from reidlib.files import read_json
from reidlib.images.decoding import load_images
from reidlib.show import switch_effects
from reidlib.show.paired import PairingError
from reidlib.statistics import holm
from reidlib.study.results import Study
from reidlib.study.runs import belonging, finished_runs
from reidlib.switches import RELEASED, SWITCHES
from reidlib.training import fit, learning

TINY = {
    "pretrained": False, "backbone": "resnet18", "height": 96, "width": 48, "reduced_dim": 16,
    "embedding_dim": 16, "head_dim": 16, "feature_dim": 16, "batch_size": 8, "steps_per_epoch": 1,
    "epochs": 2, "warmup_epochs": 0, "precision": "float32", "learning_rate": 1e-3, "optimizer": "adam",
    "trunk_rate": 1.0, "of_start_epoch": 1, "bootstrap_resamples": 100,
}  # fmt: skip
BY_NAME = {switch.name: switch for switch in SWITCHES}


# --------------------------------------------------------------------------------------- on the same weights


@pytest.fixture(scope="module", autouse=True)
def steady():
    with one_thread_on_the_cpu():
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("demo", "folder", tmp_path_factory.mktemp("results") / "demo-folder")


@pytest.fixture(scope="module")
def runs(study, dataset):
    """Runs of the rows to which switches apply, trained for two steps and taken as learned all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "LEFT_ITS_START", 100)
        yield {
            method: fit(
                experiment_for(method, dataset="folder", profile="demo", **TINY),
                dataset,
                study.run(method, 0),
                cache=study.cache,
            )
            for method in ("abdnet", "pfsa", "baseline")
        }


@pytest.fixture(scope="module")
def seen():
    """The terms of every loss that `effects` computed, as (experiment, term → value)."""
    return []


@pytest.fixture(scope="module")
def spreads():
    """λ₁ − λ₂ of every matrix in a penalty, by experiment."""
    return {}


@pytest.fixture(scope="module")
def effects(study, dataset, runs, seen, spreads):
    """Effects of all switches, computed as in the notebook. Fills `seen` and `spreads`."""

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

    loss_terms, spread = switch_effects.loss_terms, losses.spectral_spread
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switch_effects, "loss_terms", noted_terms)
        return switch_effects.untrained_effects(runs, dataset, cache=study.cache)


def row_of(effects, name):
    (row,) = effects[effects["name"] == name].to_dict("records")
    return row


def sides_of(runs, name):
    """The experiments of both sides, the other one and the released one."""
    switch = BY_NAME[name]
    (other,) = switch.others
    own = runs[switch.base].experiment
    return [replace(own, **switch.sides[side].settings) for side in (other, RELEASED)]


def terms_of(seen, experiment):
    return next(terms for one, terms in seen if one == experiment)


def network_of(run, experiment):
    """The network of one side, with the run's weights."""
    return switch_effects.network_with_weights(
        run.model().state_dict(), experiment, run.metrics["train_identities"], 0
    )


NOTHING_IN_A_STEP = (
    ("report-epoch", "as-written"), ("baseline-form", "without-warm-up"), ("second-stage", "as-written"),
    ("epochs", "as-reported"),
)  # fmt: skip


def test_every_side_that_changes_a_step_is_compared_once_with_the_released_one(effects, runs, seen):
    """The epoch reported, the warm-up and the schedule change no single step: nothing is measured of them."""
    sides = [(switch.name, side) for switch in SWITCHES if switch.is_trained for side in switch.others]
    assert set(NOTHING_IN_A_STEP) < set(sides)
    assert list(zip(effects["name"], effects["side"], strict=True)) == [
        side for side in sides if side not in NOTHING_IN_A_STEP
    ]
    experiments = [experiment for experiment, _ in seen]
    for run in runs.values():
        assert experiments.count(run.experiment) == 1, "the row itself is computed once for all its switches"
    assert not effects.isna().any().any()


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"global_pooling": "max"}, "baseline-form"),  # one branch has no global pooling
        ({"branch_order": "attentive-first"}, "baseline-form"),
        ({"global_branch": False}, "branch-order"),
    ],
)
def test_sides_that_other_settings_rule_out_are_left_out(runs, made_up, crowd, settings, gone):
    """They were not asked for, so they may not stop the page."""
    switch = BY_NAME[gone]
    own = replace(runs[switch.base].experiment, **settings)
    assert switch_effects.possible_sides(own, switch) == {}
    effects = compared(made_up, crowd, overrides=settings)
    row = effects[(effects["name"] == gone) & (effects["side"] != "without-warm-up")].iloc[0]
    assert row["verdict"] == "not possible with these settings" and row["seeds"] == 0
    cells = switch_effects.switch_table(effects).loc[row.name].iloc[3:-1]
    assert set(cells) == {"not computed"}, "training it would not help"


def test_every_other_switch_has_an_effect(effects):
    for _, row in effects.iterrows():
        if row["name"] != "branch-order":
            assert row["loss_written"] != row["loss_released"], row["name"]
            assert row["gradient_cosine"] < 1 - 1e-9 or abs(row["gradient_ratio"] - 1) > 1e-8, row["name"]


def test_losses_are_the_sums_of_all_terms(effects, runs, seen):
    for name in [switch.name for switch in SWITCHES if len(switch.others) == 1]:
        if name not in set(effects["name"]):
            continue
        row, sides = row_of(effects, name), sides_of(runs, name)
        for key, experiment in zip(("loss_written", "loss_released"), sides, strict=True):
            terms = terms_of(seen, experiment)
            assert row[key] == pytest.approx(sum(terms.values()), rel=1e-6)
            if experiment.family == "abdnet":
                assert list(terms) == [
                    "cross_entropy", "triplet", "orthogonal_features", "orthogonal_weights",
                ]  # fmt: skip


def test_ow_reach_adds_the_penalty_on_the_other_convolutions(effects, runs, seen, spreads):
    written, released = sides_of(runs, "ow-reach")
    row, terms = row_of(effects, "ow-reach"), [terms_of(seen, one) for one in (written, released)]
    for name in ("cross_entropy", "triplet", "orthogonal_features"):
        assert terms[0][name] == terms[1][name]
    of_weights = [spreads[one][9:] for one in (written, released)]
    penalties = [1e-3 * 10 * sum(x.square().sum().item() for x in found) for found in of_weights]
    convolutions = [sum(map(len, found)) for found in of_weights]
    assert convolutions == [25, 1]  # ResNet-18 has 20; its layer4 with 5 of them exists twice
    assert row["loss_written"] - row["loss_released"] == pytest.approx(penalties[0] - penalties[1], rel=1e-5)
    assert row["distance_change"] == 0, "a penalty does not move embeddings of the same weights"


def test_of_squared_by_hand(effects, runs, spreads):
    """β / (batch / 32) · Σ over positions: factor · mean over stripes of Σ over images, squared or not."""
    written, released = sides_of(runs, "of-squared")
    row, found = row_of(effects, "of-squared"), spreads[released][:9]
    factors = [0.01, *[0.5] * 8]  # `intermediate`; two stripes each of before, cam, pam, after
    assert [len(x) for x in found] == [8] * 9
    for one, same in zip(found, spreads[written][:9], strict=True):
        torch.testing.assert_close(one, same)
    sums = [
        sum(
            factor * x.detach().double().pow(power).sum().item()
            for factor, x in zip(factors, found, strict=True)
        )
        for power in (1, 2)
    ]
    change = 1e-6 * 32 / 8 * (sums[1] - sums[0])
    assert row["loss_written"] - row["loss_released"] == pytest.approx(change, rel=1e-4)
    assert row["loss_written"] > row["loss_released"]
    assert row["distance_change"] == 0


def test_ow_factor_is_ten(effects, runs, seen):
    written, released = (terms_of(seen, one)["orthogonal_weights"] for one in sides_of(runs, "ow-factor"))
    assert released == pytest.approx(10 * written, rel=1e-5)
    row = row_of(effects, "ow-factor")
    change = row["loss_released"] - row["loss_written"]
    assert change == pytest.approx(released - written, abs=1e-6)  # the loss is about 2, in float32


def test_the_order_of_the_branches_has_no_effect_on_the_same_weights(effects):
    """Dropout must be off: its random numbers alone would give gradients a cosine of 0.2."""
    row = row_of(effects, "branch-order")
    assert row["distance_change"] < 1e-6
    assert row["loss_written"] == pytest.approx(row["loss_released"], rel=1e-5)
    assert row["gradient_cosine"] == pytest.approx(1, abs=1e-4)
    assert row["gradient_ratio"] == pytest.approx(1, abs=1e-3)


def test_only_switches_of_the_network_change_distances(effects):
    changes = effects.set_index("name")["distance_change"]
    still = [
        "crop", "crop-corners", "intermediate-weight", "precision",
        "ow-reach", "ow-factor", "of-squared", "eigenvalues", "of-smaller-side",
        "augmentation", "classes", "erasing",
        "sa-normalization",  # of SA₂, which only changes training: it is not in the embedding
    ]  # fmt: skip
    moving = [
        "cam-sign", "before-head", "attention-per-stripe", "sa1", "all-of-abdnet", "all-of-pfsa", "pam-form",
        "baseline-form",
    ]  # fmt: skip
    assert (changes[still] < 1e-6).all(), changes[still]
    assert (changes[moving] > 1e-4).all(), changes[moving]
    assert set(still) | set(moving) | {"branch-order"} == set(changes.index)


def test_the_change_of_distances_by_hand(effects, study, dataset, runs):
    """Relative root-mean-square change of the Euclidean distances between query images, with flipping."""
    pixels = load_images(dataset.query.paths, 96, 48, cache=study.cache)
    written, released = sides_of(runs, "cam-sign")
    one, two = (
        pdist(embed(network_of(runs["abdnet"], experiment), pixels, flip=True, precision="float32"))
        for experiment in (written, released)
    )
    expected = np.sqrt(((one - two) ** 2).mean() / (two**2).mean())
    assert row_of(effects, "cam-sign")["distance_change"] == pytest.approx(expected, rel=1e-4)


def test_a_shared_trunk_changes_no_bit_of_any_sides_embeddings(study, dataset, runs):
    """Not even behind the channel attention between two layers of the trunk, which one side has turned."""
    pixels = load_images(dataset.query.paths, 96, 48, cache=study.cache)
    for base, run in runs.items():
        trunk = switch_effects.SharedTrunk(run.model().state_dict())
        sides = [
            experiment
            for switch in SWITCHES
            if switch.is_trained and switch.base == base
            for experiment in switch_effects.possible_sides(run.experiment, switch).values()
        ]
        for experiment in {switch_effects.network_settings(side): side for side in sides}.values():
            network = network_of(run, experiment)
            alone = embed(network, pixels, flip=True, precision="float32")
            np.testing.assert_array_equal(trunk.embed(network, pixels, flip=True), alone)


def test_a_shared_trunk_is_run_once(runs):
    run, pixels, passed = runs["pfsa"], np.zeros((2, 96, 48, 3), np.uint8), []
    trunk = switch_effects.SharedTrunk(run.model().state_dict())
    for settings in ({}, {"spatial_attention": "none"}, {"classes": 751}):
        network = network_of(run, replace(run.experiment, **settings))
        for module in (network.layer4, network.final):
            module.register_forward_hook(lambda module, *_: passed.append(type(module).__name__))
        trunk.embed(network, pixels, flip=True)
    assert (passed.count("Sequential"), passed.count("Identity")) == (2, 6), "an image and its mirror image"


def test_gradients_are_compared_over_parameters_that_both_sides_have():
    def step(gradients, distances, loss):
        tensors = {name: torch.tensor(values) for name, values in gradients.items()}
        return SimpleNamespace(gradients=tensors, distances=np.array(distances), loss=loss)

    written = step({"a": [3.0, 0.0], "b": [[4.0]], "only": [9.0]}, [3.0, 4.0], 2.0)
    released = step({"a": [0.0, 1.0], "b": [[2.0]], "other": [7.0, 7.0]}, [3.0, 0.0], 1.0)
    found = switch_effects.compare_steps(written, released)
    assert (found["loss_written"], found["loss_released"]) == (2.0, 1.0)
    assert found["gradient_cosine"] == pytest.approx(8 / (5 * np.sqrt(5)))  # (3, 0, 4) and (0, 1, 2)
    assert found["gradient_ratio"] == pytest.approx(5 / np.sqrt(5))
    assert found["distance_change"] == pytest.approx(4 / 3)
    released.gradients["a"] = torch.ones(3)  # another shape, as of a classifier with more people: left out
    assert switch_effects.compare_steps(written, released)["gradient_cosine"] == pytest.approx(1)


def test_with_more_classes_the_trained_rows_stay(runs):
    run = runs["pfsa"]
    trained = run.model().state_dict()
    larger = network_of(run, replace(run.experiment, classes=751)).state_dict()
    classifiers = [name for name in trained if "classifier" in name]
    assert len(classifiers) == 2 * (6 + 1 + 3)
    for name, value in trained.items():
        if name in classifiers:
            assert len(larger[name]) == 751 and len(value) == 6
            torch.testing.assert_close(larger[name][:6], value, rtol=0, atol=0)
            drawn = (larger[name][6:] != 0).any()
            assert drawn == name.endswith("weight"), "the others start as new layers do"
        else:
            torch.testing.assert_close(larger[name], value, rtol=0, atol=0)


def test_a_run_with_a_fixed_number_of_classes_can_be_compared(study, dataset, tmp_path):
    """The run has 9 classes. The written side has one per person: the first rows of the trained ones."""
    experiment = experiment_for("pfsa", dataset="folder", profile="demo", **TINY, classes=9)
    run = fit(experiment, dataset, tmp_path / "pfsa-seed0", cache=study.cache)
    smaller = network_of(run, replace(experiment, classes=0))
    name = "global_classifier.weight"
    torch.testing.assert_close(smaller.state_dict()[name], run.model().state_dict()[name][:6], rtol=0, atol=0)


def test_a_side_with_fewer_parameters_has_the_runs_weights(runs):
    """Without a head for `before`, the network has fewer parameters. All of them are the run's."""
    run = runs["abdnet"]
    trained = run.model().state_dict()
    bare = network_of(run, replace(run.experiment, before_head=False)).state_dict()
    assert set(bare) < set(trained)
    for name, value in bare.items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=0)


def test_every_term_is_active_even_if_it_starts_late_in_the_runs(study, dataset, runs, monkeypatch):
    """O.F. starts late in a run, but is always included when sides are compared on the same weights."""
    run = runs["abdnet"]
    late = replace(run, experiment=replace(run.experiment, of_start_epoch=17, epochs=18))
    monkeypatch.setattr(switch_effects, "SWITCHES", (BY_NAME["of-squared"],))
    effects = switch_effects.untrained_effects({"abdnet": late}, dataset, cache=study.cache, images=4)
    row = row_of(effects, "of-squared")
    assert row["loss_written"] != row["loss_released"]


def test_effects_are_reproducible_and_only_of_rows_with_a_run(effects, study, dataset, runs, monkeypatch):
    some = tuple(BY_NAME[name] for name in ("cam-sign", "sa1", "reranking"))
    monkeypatch.setattr(switch_effects, "SWITCHES", some)
    again = switch_effects.untrained_effects({"pfsa": runs["pfsa"]}, dataset, cache=study.cache)
    assert again["name"].tolist() == ["sa1"]
    assert again.to_dict("records") == [row_of(effects, "sa1")]


def test_untrained_effects_as_text(effects):
    row = {"paper": "PFSA", "number": "2", "name": "sa1", "what": "SA₁", "seed": 3}
    losses_of_sides = {"loss_written": 12.34567, "loss_released": 0.0001}
    numbers = {"gradient_cosine": 0.98765, "gradient_ratio": 1234.5, "distance_change": 0.0123}
    table = switch_effects.untrained_table(pd.DataFrame([{**row, **losses_of_sides, **numbers}]))
    assert table.iloc[0].tolist() == [
        "PFSA", "2", "SA₁", 3, "12.35", "0.0001", "0.988", "1.23e+03", "1.2 %",
    ]  # fmt: skip
    alone = pd.DataFrame([{**row, **losses_of_sides, **numbers, "distance_change": float("nan")}])
    assert switch_effects.untrained_table(alone).iloc[0, -1] == "–", "a single query image"
    shown = switch_effects.untrained_table(effects)
    assert len(shown) == len(effects) and not shown.map(lambda cell: "nan" in str(cell)).any().any()
    assert set(shown["seed"]) == {0}
    sentence = switch_effects.untrained_sentence(pd.DataFrame([{**row, **numbers}] * 2))
    assert sentence.startswith("These are the weights of seed 3 alone, ")
    assert "No side" in switch_effects.untrained_sentence(effects.iloc[:0])


# -------------------------------------------------------------------------------------------- after training


@pytest.fixture
def made_up(tmp_path):
    return Study("demo", "folder", tmp_path / "demo-folder")


@pytest.fixture(scope="module")
def crowd():
    """A data set of ten people with two queries and three gallery images each; only what scoring needs."""
    gallery = np.repeat(np.arange(10), 3)

    def split(ids, camera):
        return Split(tuple(Path(f"{row}.png") for row in range(len(ids))), ids, np.full(len(ids), camera))

    return SimpleNamespace(
        query=split(PEOPLE, 1), gallery=split(gallery, 2), fingerprints={"training": IMAGES, "test": IMAGES}
    )


WITHOUT_FILES = ("embedding-precision",)  # switches that need the weights, which made-up runs do not have


def compared(study, dataset, seeds=(0,), overrides=None, without=WITHOUT_FILES):
    """`trained_effects` of everything that the study has run, as in the notebook, without some switches."""
    runs, _ = belonging(study, finished_runs(study, variants=True), dataset, overrides or {})
    with pytest.MonkeyPatch.context() as patch:
        shown = tuple(switch for switch in SWITCHES if switch.name not in without)
        patch.setattr(switch_effects, "SWITCHES", shown)
        return switch_effects.trained_effects(
            runs, dataset, seeds, study.profile, overrides, cache=study.cache
        )


def of(effects, name):
    return effects.set_index("name").loc[name]


def test_without_runs_every_switch_is_not_run(made_up, crowd):
    effects = compared(made_up, crowd, [0, 1], without=())
    shown = [
        (switch.name, side, switch.base)
        for switch in SWITCHES
        if switch.effect in ("training", "schedule", "scoring")
        for side in switch.others
    ]
    assert list(effects[["name", "side", "base"]].itertuples(index=False, name=None)) == shown
    assert set(effects["base"]) == {"abdnet", "baseline", "pfsa"}
    assert (effects["seeds"] == 0).all()
    assert effects[["rank1", "map", "map_difference", "map_by_seed", "p"]].isna().all().all()
    table = switch_effects.switch_table(effects)
    told = table.pop("verdict")
    same = told[told != "not run"]
    cells = table.iloc[:, 3:]
    assert set(cells.drop(index=same.index).to_numpy().ravel()) == {"not run"}
    assert set(cells.loc[same.index].to_numpy().ravel()) == {"not computed"}, "no run could show it"
    assert effects.loc[same.index, "side"].tolist() == ["without-warm-up"], "demo never warms up"
    assert set(same) == {"the same with these settings"}
    assert "nothing can be said" in switch_effects.switch_sentence(effects)


def test_runs_that_did_not_learn_are_not_compared(made_up, crowd):
    """ow-factor: seed 1 of the written side did not learn. of-squared: its only seed did not."""
    for seed in (0, 1):
        fabricate(made_up, "abdnet", 0.2, seed=seed)
        fabricate(made_up, "abdnet.ow-factor.as-written", (0.3, 0.0)[seed], seed=seed, learned=seed == 0)
    fabricate(made_up, "abdnet.of-squared.as-written", 0.0, learned=False)
    fabricate(made_up, "pfsa", 0.0, learned=False)
    effects = compared(made_up, crowd, [0, 1])
    assert of(effects, "ow-factor")["map_by_seed"] == pytest.approx([0.1])
    assert effects.loc[effects["seeds"] > 0, "name"].tolist() == ["ow-factor"]
    without = effects[effects["verdict"] == "did not learn"]
    assert {"of-squared", "reranking"} <= set(without["name"])
    cells = switch_effects.switch_table(effects).loc[without.index].iloc[:, 3:]
    assert set(cells.to_numpy().ravel()) == {"did not learn"}
    sentence = switch_effects.switch_sentence(effects)
    assert sentence.endswith(f"Of {len(without)} sides a run did not learn: they are not compared.")


def test_effects_by_hand_are_mean_paired_differences_over_seeds(made_up, crowd):
    """ow-factor: the written side is 0.1, 0.3 and 0.0 better. Seed 3 has only one side, so it is left out."""
    right = np.arange(20) % 2 == 0
    for seed, (row, variant) in enumerate([(0.4, 0.5), (0.3, 0.6), (0.7, 0.7)]):
        fabricate(made_up, "abdnet", row, seed=seed, ranks=np.where(right, 1, 2))
        more = right | (seed == 0)
        fabricate(made_up, "abdnet.ow-factor.as-written", variant, seed=seed, ranks=np.where(more, 1, 2))
    fabricate(made_up, "abdnet.ow-factor.as-written", 0.9, seed=3)
    effects = compared(made_up, crowd, [0, 1, 2, 3])
    found = of(effects, "ow-factor")
    assert found["seeds"] == 3
    assert found["map"] == pytest.approx((0.4 + 0.3 + 0.7) / 3) and found["rank1"] == 0.5
    assert found["map_by_seed"] == pytest.approx([0.1, 0.3, 0.0])
    # Every query is better by the same, so seeds alone vary: Student's t for 0.1, 0.3 and 0.0, where
    # s = 0.1528. Half of the queries gain rank 1, in one of three seeds.
    assert found["map_difference"] == pytest.approx(0.4 / 3)
    assert found["map_difference_low"] == pytest.approx(0.4 / 3 - 4.302653 * 0.152753 / 3**0.5, rel=1e-5)
    assert found["map_difference_high"] == pytest.approx(0.4 / 3 + 4.302653 * 0.152753 / 3**0.5, rel=1e-5)
    assert found["rank1_difference"] == pytest.approx(0.5 / 3)
    assert found["p"] == pytest.approx(0.27, abs=0.005), "t = 1.512 with 2 degrees of freedom"
    assert (effects["seeds"] > 0).sum() == 1
    table = switch_effects.switch_table(effects).set_index("what").loc["factor of O.W."]
    assert table.tolist() == [
        "ABD-Net", "2a", "50.0 / 46.7", "+16.7 [-55.0, +88.4]", "+13.3 [-24.6, +51.3]", "+10.0, +30.0, +0.0",
        "0.270", "cannot tell",
    ]  # fmt: skip
    sentence = switch_effects.switch_sentence(effects)
    assert sentence == (
        f"1 of {len(effects)} sides were scored here beside the released one. With several seeds, 0 of 1 "
        "change mAP (over seeds and people together, Holm-corrected, 5 %)."
    )


def test_a_seed_that_is_named_twice_counts_once(made_up, crowd):
    """As two, one training would get a verdict, with an interval of no width."""
    fabricate(made_up, "abdnet", 0.4)
    fabricate(made_up, "abdnet.ow-factor.as-written", 0.5)
    found = of(compared(made_up, crowd, [0, 0]), "ow-factor")
    assert (found["seeds"], found["verdict"]) == (1, "one seed: no verdict")
    assert found["map_by_seed"] == pytest.approx([0.1])
    runs = finished_runs(made_up, variants=True)
    again = [replace(run, folder=made_up.root / "elsewhere") for run in runs]
    with pytest.raises(PairingError, match="have the seed 0"):
        switch_effects.trained_effects([*runs, *again], crowd, [0], "demo", cache=made_up.cache)


def test_the_written_side_may_be_the_row(made_up, crowd):
    """branch-order: the row is the written side. The difference is still written − released."""
    fabricate(made_up, "abdnet", 0.6)
    fabricate(made_up, "abdnet.branch-order.as-released", np.where(PEOPLE == 0, 0.65, 0.6))
    effects = compared(made_up, crowd)
    found = of(effects, "branch-order")
    assert found["map_difference"] == pytest.approx(-0.005) and found["map"] == pytest.approx(0.605)
    assert np.isnan(found["p"]), "one seed"
    sentence = switch_effects.switch_sentence(effects)
    assert "change mAP (over" not in sentence
    assert "changes only the random draws, and moves mAP by up to 0.5 points" in sentence
    fabricate(made_up, "abdnet.cam-sign.as-written", 0.7)
    effects = compared(made_up, crowd)
    assert switch_effects.switch_sentence(effects).endswith(
        "Where there is one seed of each, how much seeds move a difference is not known: there is no verdict."
    )
    shown = switch_effects.switch_table(effects).set_index("what").loc["sign of the channel attention"]
    assert shown.tolist()[2:] == [
        "100.0 / 60.0", "+0.0, over people [+0.0, +0.0]", "+10.0, over people [+10.0, +10.0]", "+10.0", "–",
        "one seed: no verdict",
    ]  # fmt: skip


def test_a_switch_with_a_variant_on_both_sides_needs_both(made_up, crowd):
    fabricate(made_up, "abdnet", 0.6)
    fabricate(made_up, "abdnet.augmentation.as-written", 0.5)
    assert of(compared(made_up, crowd), "augmentation")["seeds"] == 0
    fabricate(made_up, "abdnet.augmentation.as-released", 0.3)
    found = of(compared(made_up, crowd), "augmentation")
    assert (found["seeds"], found["map_difference"]) == (1, pytest.approx(0.2))


def test_p_values_are_corrected_over_the_rows_of_several_seeds(made_up, crowd):
    for seed in range(3):
        fabricate(made_up, "abdnet", 0.5, seed=seed)
    changes = {
        "ow-reach": (0.515, 0.520, 0.525),
        "cam-sign": (0.3, 0.31, 0.35),
        "before-head": (0.50, 0.501, 0.502),
        "ow-factor": (0.9,),
    }
    for name, values in changes.items():
        for seed, value in enumerate(values):
            fabricate(made_up, f"abdnet.{name}.as-written", value, seed=seed)
    effects = compared(made_up, crowd, range(3))
    several = [name for name in changes if len(changes[name]) > 1]
    # Seeds alone vary, so each p is that of a one-sample t test. One seed has none.
    alone = [stats.ttest_1samp(np.subtract(changes[name], 0.5), 0).pvalue for name in several]
    assert effects.set_index("name").loc[several, "p"].tolist() == pytest.approx(holm(alone).tolist())
    assert np.isnan(of(effects, "ow-factor")["p"])
    verdicts = switch_effects.switch_table(effects).set_index("what")["verdict"]
    assert verdicts["sign of the channel attention"] == "differs"
    assert verdicts["the plain path, before"] == "smaller than 1 point"
    assert verdicts["factor of O.W."] == "one seed: no verdict"
    sentence = switch_effects.switch_sentence(effects)
    assert "4 of " in sentence and "2 of 3 change mAP" in sentence
    assert "convolutions that O.W. reaches +2.0; sign of the channel attention -18.0 points" in sentence
    assert "The change is smaller than 1 point: the plain path, `before`." in sentence


@pytest.mark.parametrize(
    ("by_seed", "noise", "verdict"),
    [
        ([0.30, 0.31, 0.29], [0.0], "differs"),
        # One seed's random draws alone change mAP by more, but not the mean of three seeds.
        ([0.30, 0.31, 0.29], [0.05, -0.35, 0.10], "differs"),
        ([0.30, 0.31, 0.29], [-0.20, -0.35, -0.36], "cannot tell"),
        ([0.70, 0.10, -0.10], [0.0], "cannot tell"),
        ([0.001, 0.002, 0.003], [0.0], "smaller than 1 point"),
        ([0.30], [0.0], "one seed: no verdict"),
        ([0.30], [-0.30], "one seed: no verdict"),
    ],
)
def test_the_verdict_depends_on_seeds_and_noise(made_up, crowd, by_seed, noise, verdict):
    seeds = range(max(len(by_seed), len(noise)))
    for seed in seeds:
        fabricate(made_up, "abdnet", 0.5, seed=seed)
    for name, values in (("cam-sign.as-written", by_seed), ("branch-order.as-released", noise)):
        sign = 1 if name.startswith("cam") else -1  # branch-order: the row is the written side
        for seed, value in enumerate(values):
            fabricate(made_up, f"abdnet.{name}", 0.5 + sign * value, seed=seed)
    effects = compared(made_up, crowd, seeds)
    assert of(effects, "cam-sign")["verdict"] == verdict
    assert of(effects, "branch-order")["verdict"] == "noise"
    assert switch_effects.noise_of(effects) == pytest.approx(max(map(abs, noise)))
    named = f"sign of the channel attention {100 * np.mean(by_seed):+.1f} points"
    assert (named in switch_effects.switch_sentence(effects)) == (verdict == "differs")


def test_queries_without_a_match_do_not_count(made_up, crowd):
    second = np.arange(20) % 2 == 1
    fabricate(made_up, "abdnet", np.where(second, np.nan, 0.2), ranks=2)
    fabricate(made_up, "abdnet.cam-sign.as-written", np.where(second, np.nan, 0.5))
    found = of(compared(made_up, crowd), "cam-sign")
    assert found["map_difference"] == pytest.approx(0.3) and found["map"] == pytest.approx(0.2)
    assert (found["rank1_difference"], found["rank1"]) == (1.0, 0.0)


def test_settings_of_every_run_do_not_hide_a_variant(made_up, crowd):
    overrides = {"epochs": 3}
    fabricate(made_up, "abdnet", 0.5, settings=overrides)
    fabricate(made_up, "abdnet.cam-sign.as-written", 0.25, settings=overrides)
    found = of(compared(made_up, crowd, overrides=overrides), "cam-sign")
    assert (found["seeds"], found["map_difference"]) == (1, pytest.approx(-0.25))


def test_a_run_is_not_compared_with_itself(made_up, crowd):
    """--set ow_factor=3 leaves one run for both sides: there is nothing to compare."""
    overrides = {"ow_factor": 3.0}
    fabricate(made_up, "abdnet", 0.5, settings=overrides)
    effects = compared(made_up, crowd, overrides=overrides)
    assert (effects["seeds"] == 0).all()


def test_runs_that_differ_by_more_than_the_switch_are_not_compared(made_up, crowd):
    """Variants with fewer epochs, or trained or scored on other images, are ignored."""
    fabricate(made_up, "abdnet", 0.5)
    fabricate(made_up, "abdnet.cam-sign.as-written", 0.9, settings={"epochs": 3})
    fabricate(made_up, "abdnet.ow-factor.as-written", 0.9, trained_on="1" * 16)
    fabricate(made_up, "abdnet.before-head.as-written", 0.9, scored_on="1" * 16)
    fabricate(made_up, "abdnet.ow-reach.as-written", 0.9)
    effects = compared(made_up, crowd)
    assert effects.loc[effects["seeds"] > 0, "name"].tolist() == ["ow-reach"]


def ranked_crowd(crowd, seed=0):
    """Embeddings by which most queries find their person, but not all."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 8))
    return {
        name: (centres[split.ids] + 1.1 * rng.normal(size=(len(split.ids), 8))).astype(np.float32)
        for name, split in (("query", crowd.query), ("gallery", crowd.gallery))
    }


def test_switches_of_evaluation_score_the_rows_embeddings_again(made_up, crowd):
    embeddings = ranked_crowd(crowd)
    plain = ranking.rank(**embeddings, dataset=crowd)
    python2 = scoring.rerank(**embeddings, dataset=crowd)
    published = scoring.rerank(**embeddings, dataset=crowd, merge_threshold=2 / 3, half_precision=False)
    assert len({one.mean_ap for one in (plain, python2, published)}) == 3, (
        "the people must tell the three apart"
    )
    fabricate(made_up, "pfsa", plain.average_precision, ranks=plain.first_match_rank, embeddings=embeddings)
    effects = compared(made_up, crowd)
    assert effects.loc[effects["seeds"] > 0, "name"].tolist() == ["reranking", "reranking-python2"]
    found = of(effects, "reranking")
    assert found["map_difference"] == pytest.approx(python2.mean_ap - plain.mean_ap)
    assert found["rank1_difference"] == pytest.approx(python2.rank1 - plain.rank1)
    assert (found["map"], found["rank1"]) == pytest.approx((plain.mean_ap, plain.rank1))
    found = of(effects, "reranking-python2")
    assert found["map_difference"] == pytest.approx(published.mean_ap - python2.mean_ap)
    assert (found["map"], found["rank1"]) == pytest.approx((python2.mean_ap, python2.rank1))


def test_forms_of_reranking_are_compared_even_if_runs_are_not_reranked(made_up, crowd):
    """With --set rerank=False, runs are not re-ranked; the two forms of re-ranking are compared anyway."""
    embeddings, overrides = ranked_crowd(crowd), {"rerank": False}
    fabricate(made_up, "pfsa", 0.5, embeddings=embeddings, settings=overrides)
    found = of(compared(made_up, crowd, overrides=overrides), "reranking-python2")
    forms = [{"merge_threshold": 2 / 3, "half_precision": False}, {}]
    written, released = (scoring.rerank(**embeddings, dataset=crowd, **form).mean_ap for form in forms)
    assert written != released and found["map_difference"] == pytest.approx(written - released)


def test_how_much_shared_ranks_change_is_said_of_every_seed(made_up):
    """One query, whose match lies as far away as another image: ours 1/2 by order, scikit-learn's 1/3.

    Query 7 at 0, gallery at 0 (another person), 1 (the match), -1 and 2. For seed 2, nothing is tied: at -3
    in place of -1, the match is second, 1/2 by both rules.
    """
    split = {"query": (np.array([7, 7]), 1), "gallery": (np.array([1, 7, 2, 3]), 2)}
    tied = SimpleNamespace(
        **{
            name: Split(tuple(map(Path, map(str, ids))), ids, np.full(len(ids), camera))
            for name, (ids, camera) in split.items()
        }
    )
    runs = [
        fabricate(
            made_up, "pfsa", [0.5, 0.5], seed=seed,
            embeddings={"query": np.zeros((2, 1)), "gallery": np.array([[0.0], [1.0], [third], [2.0]])},
        )
        for seed, third in ((1, -1.0), (2, -3.0))
    ]  # fmt: skip
    alone = switch_effects.ties_sentence(runs[:1], tied)
    assert "P + DS with SA₂ (published), seed 1, that changes" in alone
    assert alone.endswith("precision of 2 of 2 queries, and mAP by 2e+01 points."), "50 − 33.3"
    untied = switch_effects.ties_sentence(runs[1:], tied)
    assert "seed 2, " in untied and untied.endswith("precision of 0 of 2 queries, and mAP by 0 points.")
    both = switch_effects.ties_sentence(runs, tied)
    assert "seeds 1, 2, that changes the average precision of up to 2 of 2 queries, and mAP by up to" in both


def test_the_study_of_real_runs(study, dataset, runs):
    """Runs of `fit` can be read. They have one side of the trained switches and both of the others.

    Of the two precisions, the run has one already, whatever "auto" means on this machine.
    """
    embedded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            embedding, "embed", lambda *given, **more: embedded.append(more) or embed(*given, **more)
        )
        effects = compared(study, dataset, overrides=TINY, without=())
    assert len({more["precision"] for more in embedded}) == 1 and len(embedded) == 2
    both = effects[effects["seeds"] > 0]
    assert both["name"].tolist() == ["embedding-precision", "reranking", "reranking-python2"]
    assert of(effects, "reranking")["map"] == pytest.approx(runs["pfsa"].metrics["map"])
    difference = runs["pfsa"].metrics["reranked"]["map"] - runs["pfsa"].metrics["map"]
    assert of(effects, "reranking")["map_difference"] == pytest.approx(difference)


def test_made_up_runs_have_the_files_and_entries_of_real_ones(made_up, runs):
    """Tests with made-up runs are valid only if `fit` writes the same files and entries."""
    for method, real in runs.items():
        made = fabricate(made_up, method, settings=TINY, embeddings=real.embeddings)
        written = [{path.name for path in run.folder.iterdir()} for run in (real, made)]
        assert written[0] - written[1] == {"model.pt", "digests.json"} and written[1] < written[0]
        assert made.experiment == real.experiment
        assert set(made.metrics) == set(real.metrics)
        assert list(made.queries) == list(real.queries)
        for name in ("weights.json", "scores.json", "training.json"):
            one, other = (read_json(run.folder / name) for run in (real, made))
            assert set(one) == set(other)
            assert set(one.get("made_from", ())) == set(other.get("made_from", ()))
