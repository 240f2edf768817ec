"""Every method and profile has the settings of papers and released codes. Wrong names are refused."""

import json
from dataclasses import fields, replace

import pytest

from reidlib.config import (
    FEW_OF_BETAS,
    FURTHER_ROWS,
    METHODS,
    OF_BETA,
    OF_BETAS,
    PROFILES,
    VARIANTS,
    caveats,
    experiment_for,
    of_beta_runs,
    run_of,
    settings_of,
    title_of,
    trained_switches,
)
from reidlib.datasets import DATASETS
from reidlib.experiment import Experiment
from reidlib.models import build_model
from reidlib.models.networks import FAMILIES
from reidlib.settings import ConfigError
from reidlib.switches import RELEASED, SWITCHES

IDENTITY = ("method", "dataset", "profile", "seed")
SETTINGS = [item.name for item in fields(Experiment) if item.name not in IDENTITY]


def changed(method: str, other: str | None, **overrides) -> dict:
    """The settings of `method` that differ from those of `other` (None: from the defaults)."""
    one = experiment_for(method, **overrides).as_dict()
    two = experiment_for(other, **overrides).as_dict() if other else Experiment().as_dict()
    return {name: one[name] for name in SETTINGS if one[name] != two[name]}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", [*METHODS, *VARIANTS])
def test_every_row_and_variant_resolves_under_every_profile(method, profile):
    experiment = experiment_for(method, profile=profile, dataset="synthetic", seed=2)
    assert (experiment.method, experiment.profile, experiment.dataset, experiment.seed) == (
        method,
        profile,
        "synthetic",
        2,
    )
    size, side = PROFILES[profile], VARIANTS[method].by if method in VARIANTS else {}
    for name, value in {**size.settings, **size.by_family.get(experiment.family, {}), **side}.items():
        assert getattr(experiment, name) == value
    # The experiment can be read back from a run's JSON.
    assert Experiment(**json.loads(json.dumps(experiment.as_dict()))) == experiment


CAM = {"cam": True, "shallow_cam": True}
GAP = {
    "family": "pfsa",
    "label_smoothing": 0.0,
    "heads": "sum",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "trunk_rate": 0.1,
    "milestones": [40, 80],
    "warmup_epochs": 0,
    "epochs": 100,
    "batch_size": 48,
    "crop_probability": 0.0,
    "erase_largest": 0.2,
    "erase_fill": "noise",
    "flip_evaluation": False,
    "rerank": True,
}
PARTS = {"parts": 6, "log_weighted_loss": True}


@pytest.mark.parametrize(
    ("method", "other", "expected"),
    [
        ("baseline", None, {}),
        ("baseline+pam", "baseline", {"pam": True}),
        ("baseline+cam", "baseline", CAM),
        ("baseline+pam+cam", "baseline", {"pam": True, **CAM}),
        ("baseline+of", "baseline", {"of_weight": 1e-6}),
        ("baseline+ow", "baseline", {"ow_weight": 1e-3}),
        ("baseline+of+ow", "baseline", {"of_weight": 1e-6, "ow_weight": 1e-3}),
        ("abdnet-xe", "baseline+pam+cam", {"of_weight": 1e-6, "ow_weight": 1e-3}),
        ("abdnet", "abdnet-xe", {"triplet_weight": 0.1, "images_per_identity": 4}),
        ("gap", None, GAP),
        ("gap+sa1", "gap", {"spatial_attention": "sa1"}),
        ("stripes", "gap", {"parts": 6, "part_classifiers": False, "epochs": 60, "erase_probability": 0.0}),
        ("stripes+sa1", "stripes", {"spatial_attention": "sa1"}),
        ("pfsa-parts", "gap", PARTS),
        ("pfsa-without-sa", "gap", {**PARTS, "deep_supervision": True}),
        ("pfsa", "pfsa-without-sa", {"spatial_attention": "sa2"}),
        ("pfsa+sa1", "pfsa", {"spatial_attention": "sa1+sa2"}),
    ],
)
def test_rows_differ_by_exactly_what_their_names_say(method, other, expected):
    assert changed(method, other) == expected


def test_every_row_is_covered_and_differs_from_a_row_before_it():
    names = list(METHODS)
    assert names[:9] == [
        "baseline", "baseline+pam", "baseline+cam", "baseline+pam+cam", "baseline+of", "baseline+ow",
        "baseline+of+ow", "abdnet-xe", "abdnet",
    ]  # fmt: skip
    assert names[9:] == [
        "gap", "gap+sa1", "stripes", "stripes+sa1", "pfsa-parts", "pfsa-without-sa", "pfsa", "pfsa+sa1",
    ]  # fmt: skip
    for index, row in enumerate(METHODS.values()):
        assert row.differs_from in ("", *names[:index])
        assert set(row.by) <= set(SETTINGS)
    assert len({row.title for row in METHODS.values()}) == len(METHODS)


OF_PFSA = [name for name in METHODS if settings_of(name).get("family") == "pfsa"]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in OF_PFSA])
def test_abdnet_under_the_paper_profile(method):
    """The ABD-Net paper's training settings, and its network's sizes."""
    experiment = experiment_for(method, dataset="market1501")
    facts = {
        "backbone": "resnet50", "pretrained": True, "last_stride": 1, "height": 384, "width": 128,
        "stripes": 2, "attentive_branch": True, "embedding_dim": 1024, "reduced_dim": 1024, "head_dim": 512,
        "dropout": 0.5, "label_smoothing": 0.1, "heads": "mean", "triplet_margin": 1.2, "of_start_epoch": 23,
        "ow_reach": "stem", "optimizer": "adam", "learning_rate": 3e-4, "trunk_rate": 1.0,
        "weight_decay": 5e-4, "schedule": "steps", "milestones": (20, 40), "warmup_epochs": 10, "epochs": 80,
        "batch_size": 64, "steps_per_epoch": 0, "crop_probability": 0.5, "flip_probability": 0.5,
        "erase_probability": 0.5, "flip_evaluation": True, "cam_most_similar_first": False,
        "before_head": True, "attention_per_stripe": True, "branch_order": "global-first", "ow_factor": 10.0,
        "of_squared": False, "of_smaller_side": False, "eigenvalues": "rayleigh", "power_steps": 1,
        "classes": 0, "rerank": False, "score_test_every": 0, "report_epoch": "last",
        "log_weighted_loss": False, "precision": "float32", "embedding_precision": "float32",
        "crop_corners": "rounded", "erase_largest": 0.4, "erase_fill": "mean", "colour_jitter": 0.0,
        "pam_form": "plain", "attention_heads": True, "global_branch": True, "global_pooling": "average",
        "of_positions": ("intermediate", "before", "cam", "pam", "after"), "of_intermediate_weight": 0.01,
        "start_from": "",
    }  # fmt: skip
    assert {name: getattr(experiment, name) for name in facts} == facts
    assert (experiment.triplet_weight, experiment.images_per_identity) == (
        (0.1, 4) if method == "abdnet" else (0, 0)
    )


@pytest.mark.parametrize("method", OF_PFSA)
def test_pfsa_under_the_paper_profile(method):
    """The spatial-attention paper's training settings."""
    experiment = experiment_for(method, dataset="market1501")
    facts = {
        "family": "pfsa", "backbone": "resnet50", "pretrained": True, "last_stride": 1, "height": 384,
        "width": 128, "dropout": 0.5, "feature_dim": 256, "sa_normalization": "sum", "label_smoothing": 0,
        "heads": "sum", "optimizer": "sgd", "learning_rate": 0.1, "trunk_rate": 0.1, "momentum": 0.9,
        "weight_decay": 5e-4, "schedule": "steps", "milestones": (40, 80), "warmup_epochs": 0,
        "batch_size": 48, "images_per_identity": 0, "steps_per_epoch": 0, "crop_probability": 0,
        "flip_probability": 0.5, "erase_largest": 0.2, "erase_fill": "noise", "precision": "float32",
        "embedding_precision": "float32", "flip_evaluation": False, "triplet_weight": 0,
        "of_weight": 0, "ow_weight": 0, "classes": 0, "score_test_every": 0, "report_epoch": "last",
        "rerank": True, "rerank_merge_threshold": 0.0, "rerank_half_precision": True,
    }  # fmt: skip
    assert {name: getattr(experiment, name) for name in facts} == facts
    # The README's ablation: 60 epochs, erasing cut, one classifier. The published numbers: 100, erasing on.
    ablation = method.startswith("stripes")
    assert experiment.epochs == (60 if ablation else 100)
    assert experiment.erase_probability == (0 if ablation else 0.5)
    assert experiment.part_classifiers != ablation
    assert experiment.log_weighted_loss == (experiment.parts > 0 and not ablation), (
        "nothing is weighed where the parts have no classifiers"
    )


def test_small_profiles_keep_what_a_method_is():
    """A profile makes runs smaller and shorter. It may not undo the difference that gives a row its name."""
    for profile in PROFILES:
        for method, row in METHODS.items():
            if row.differs_from:
                keywords = {"profile": profile}
                one, two = experiment_for(method, **keywords), experiment_for(row.differs_from, **keywords)
                differ = {name for name in SETTINGS if getattr(one, name) != getattr(two, name)}
                lost = set(row.by) & set(PROFILES[profile].settings)
                assert differ == set(row.by) - lost, (profile, method)
                assert lost <= {"epochs", "erase_probability"}, (
                    "how long and on which pictures a row trains is the profile's to say, what it is is not"
                )


def test_methods_and_seeds_of_each_profile():
    figures = ("baseline", "baseline+pam+cam", "abdnet-xe", "abdnet", "gap", "gap+sa1", "pfsa")
    assert list(PROFILES) == ["smoke", "demo", "full", "paper"]
    assert PROFILES["smoke"].methods == PROFILES["demo"].methods == figures
    assert PROFILES["full"].methods == PROFILES["paper"].methods == tuple(METHODS)
    assert (PROFILES["demo"].seeds, PROFILES["full"].seeds) == ((0,), (0, 1, 2))
    resamples = {name: experiment_for("gap", profile=name).bootstrap_resamples for name in PROFILES}
    assert resamples == {"smoke": 200, "demo": 2000, "full": 2000, "paper": 2000}
    for name, profile in PROFILES.items():
        for method in profile.methods:
            experiment = experiment_for(method, profile=name)
            assert experiment.bootstrap_resamples >= 100, f"{name}: bootstrap_interval refuses fewer"
            assert experiment.of_start_epoch < experiment.epochs, f"{name}: O.F. would never start"
            assert experiment.height % (16 * experiment.stripes) == 0, (
                f"{name}: the last map cannot be cut into stripes"
            )


# ------------------------------------------------------------------------------------------- layers, refusals


def test_overrides_win_over_the_profile_and_the_profile_over_the_method():
    assert experiment_for("gap").learning_rate == 0.1  # as the method sets it
    assert experiment_for("baseline", profile="demo").batch_size == PROFILES["demo"].settings["batch_size"]
    assert (
        experiment_for("gap", profile="demo").trunk_rate == PROFILES["demo"].by_family["pfsa"]["trunk_rate"]
    )
    assert experiment_for("gap", profile="demo", learning_rate=0.02).learning_rate == 0.02
    assert experiment_for("stripes").epochs == 60
    for profile in ("smoke", "demo", "full"):
        assert (
            experiment_for("stripes", profile=profile).epochs == experiment_for("gap", profile=profile).epochs
        )
    assert settings_of("pfsa") == {
        **METHODS["gap"].by,
        **PARTS,
        "deep_supervision": True,
        "spatial_attention": "sa2",
    }
    # A variant's side overrides the profile, which may set the same setting; the caller overrides both.
    assert experiment_for("abdnet", profile="demo").erase_probability == 0.0
    assert experiment_for("abdnet.augmentation.as-written", profile="demo").erase_probability == 0.5
    given = {"profile": "demo", "erase_probability": 0.25}
    assert experiment_for("abdnet.augmentation.as-written", **given).erase_probability == 0.25


@pytest.mark.parametrize(
    ("arguments", "keywords", "parts"),
    [
        (["abdnet_xe"], {}, ["method 'abdnet_xe'", "Did you mean 'abdnet-xe'?", "gap+sa1"]),
        (["baseline"], {"profile": "dmeo"}, ["profile 'dmeo'", "Did you mean 'demo'?"]),
        (["baseline"], {"epoch": 3}, ["setting 'epoch'", "Did you mean 'epochs'?"]),
        (["baseline"], {"tripletweight": 1.0, "images_per_identity": 4}, ["Did you mean 'triplet_weight'?"]),
        (["abdnet.cam-sign"], {}, ["method 'abdnet.cam-sign'", "Known: baseline"]),
        (["abdnet.cam-sgin.as-written"], {"profile": "demo"}, ["method 'abdnet.cam-sgin.as-written'"]),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments, keywords, parts):
    with pytest.raises(ConfigError) as error:
        experiment_for(*arguments, **keywords)
    for part in parts:
        assert part in str(error.value)


def test_method_dataset_profile_and_seed_cannot_be_overridden():
    with pytest.raises(ConfigError, match="Unknown method"):
        experiment_for("nothing like it")
    with pytest.raises(TypeError):
        experiment_for("baseline", method="gap")
    with pytest.raises(ConfigError, match="Known: smoke"):
        experiment_for("baseline", profile="")


def test_a_penalty_that_would_never_start_is_refused():
    with pytest.raises(
        ConfigError, match=r"of_start_epoch = 23 is never reached with epochs = 20 .*Lower of_start_epoch"
    ):
        experiment_for("abdnet", epochs=20)
    assert experiment_for("abdnet", epochs=24).of_start_epoch == 23
    assert experiment_for("baseline", epochs=20).of_weight == 0, "which has none"


def test_orthogonal_features_are_refused_for_networks_that_have_none():
    """The error comes at the start, not hours later when the penalty would start."""
    with pytest.raises(ConfigError, match="of_weight"):
        experiment_for("pfsa", of_weight=1e-6)


def test_every_network_setting_is_a_setting():
    for _, names in FAMILIES.values():
        assert set(names) <= set(SETTINGS)


# --------------------------------------------------------------------------------------------------- variants

every_switch = pytest.mark.parametrize(
    "switch", [pytest.param(switch, id=switch.name) for switch in SWITCHES]
)
every_trained_switch = pytest.mark.parametrize(
    "switch", [pytest.param(switch, id=switch.name) for switch in SWITCHES if switch.is_trained]
)

# Switches whose row is not the released side under the papers' settings, with a word of the reason they give.
NOT_AS_RELEASED = {
    "branch-order": "fixed",
    "report-epoch": "flatters",
    "augmentation": "published settings",
    "classes": "of the data set",
    "erasing": "as in the first release",
    "reranking": "both are given",
}
# Switches of which no side is a row of the small profiles, with the reason.
SIDES_OF_NO_ROW = {
    "augmentation": "crop without erasing is neither side",
    "precision": "bfloat16 where the hardware has it is neither side",
}


def side_settings(switch, side):
    return dict(switch.sides[side].settings)


def test_variants_are_the_sides_of_every_trained_switch_and_the_weights_of_the_sweep():
    names = [switch.name for switch in SWITCHES]
    assert len(set(names)) == len(names)
    assert list(VARIANTS) == [
        f"{base}.{s.name}.{side}"
        for s in SWITCHES
        if s.is_trained
        for base in (s.base, *FURTHER_ROWS.get(s.name, ()))
        for side in s.sides
    ] + [f"baseline+of.of-beta.{beta:g}" for beta in OF_BETAS]
    assert not set(VARIANTS) & set(METHODS)
    titles = [title_of(name) for name in (*METHODS, *VARIANTS)]
    assert len(set(titles)) == len(titles), "figures and tables call them by their titles"
    assert title_of("abdnet.ow-reach.as-written") == "ABD-Net, convolutions that O.W. reaches: as written"
    with pytest.raises(ConfigError, match="Did you mean 'abdnet.ow-reach.as-written'"):
        title_of("abdnet.ow-reach.as_written")


@every_switch
def test_all_sides_of_a_switch_are_settings_with_valid_and_different_values(switch):
    assert switch.base in METHODS
    assert RELEASED in switch.sides and len(switch.sides) >= 2
    if switch.effect == "none":
        assert switch.settings == ()
        return
    row = experiment_for(switch.base)
    released = {name: getattr(row, name) for name in switch.settings} | side_settings(switch, RELEASED)
    assert set(switch.settings) <= set(SETTINGS) and switch.settings
    every = [released]
    for name in switch.others:
        side = released | side_settings(switch, name)
        kept = experiment_for(switch.base, **side)  # refuses impossible values
        assert {name: getattr(kept, name) for name in side} == side
        assert side not in every, "two sides are the same"
        every.append(side)


def test_baseline_of_table_1_has_three_sides():
    """The authors' answers differ: the row may be meant without the warm-up, or with one branch alone."""
    (switch,) = (switch for switch in SWITCHES if switch.name == "baseline-form")
    assert switch.others == ("without-warm-up", "one-branch") and "uncertain" in switch.here
    assert side_settings(switch, RELEASED) == {}, "as released it is the row itself"
    one = experiment_for("baseline.baseline-form.one-branch")
    assert (one.global_branch, one.attentive_branch, one.stripes, one.warmup_epochs) == (False, True, 1, 0)
    network = build_model("baseline", 5, global_branch=False, stripes=1, backbone="resnet18")
    assert network.global_branch is None and len(network.attentive_branch.classifiers) == 1
    assert network.attentive_branch.reduction[0].weight.shape == (1024, 512, 1, 1), "the extra layer"


def test_weakly_sourced_switches_say_so():
    weak = {switch.name for switch in SWITCHES if switch.weak}
    assert weak == {"pam-form", "second-stage", "crop", "baseline-form", "epochs", "dropout"}


def test_the_switch_of_erasing_names_both_commits():
    (switch,) = (switch for switch in SWITCHES if switch.name == "erasing")
    assert "95b6744" in switch.sides["first-release"].words and "9692209" in switch.sides[RELEASED].words


@every_switch
def test_the_default_is_the_released_side_except_where_the_switch_says_why(switch):
    row = experiment_for(switch.base)
    is_side = {
        name: all(getattr(row, setting) == value for setting, value in side.settings.items())
        for name, side in switch.sides.items()
    }
    assert is_side[RELEASED] == (switch.name not in NOT_AS_RELEASED)
    if not is_side[RELEASED]:
        assert NOT_AS_RELEASED[switch.name] in switch.here
        (other,) = switch.others
        assert is_side[other], "then it is the other side"


@pytest.mark.parametrize("profile", PROFILES)
@every_trained_switch
def test_a_variant_differs_from_its_row_only_by_its_switch(switch, profile):
    if switch.effect == "schedule" and profile != "paper":
        assert switch.name not in trained_switches(profile)
        return
    row = experiment_for(switch.base, profile=profile)
    for side in switch.sides:
        name = f"{switch.base}.{switch.name}.{side}"
        variant, wanted = experiment_for(name, profile=profile), side_settings(switch, side)
        differ = {setting for setting in SETTINGS if getattr(variant, setting) != getattr(row, setting)}
        assert differ == {setting for setting, value in wanted.items() if getattr(row, setting) != value}
        assert {setting: getattr(variant, setting) for setting in wanted} == wanted
        assert (run_of(switch, side, profile) == switch.base) == (not differ)
        # the row itself is this side
        another_row = "pfsa+sa1" if switch.name == "sa1" and side == "as-written" else name
        assert run_of(switch, side, profile) in (another_row, switch.base)
    for other in switch.others:
        same = run_of(switch, other, profile) == run_of(switch, RELEASED, profile)
        assert same == (other == "without-warm-up" and profile != "paper"), "small profiles never warm up"


@pytest.mark.parametrize("profile", PROFILES)
@every_trained_switch
def test_one_side_of_a_switch_is_the_row(switch, profile):
    """The exceptions are in the small profiles, see SIDES_OF_NO_ROW."""
    if switch.effect == "schedule" and profile != "paper":
        return
    sides = {run_of(switch, side, profile) for side in switch.sides}
    assert (switch.base in sides) == (profile == "paper" or switch.name not in SIDES_OF_NO_ROW)


def test_a_setting_for_every_run_leaves_nothing_to_compare():
    """--set overrides both sides: only the row is trained, and there is nothing to compare."""
    (switch,) = (switch for switch in SWITCHES if switch.name == "ow-factor")
    assert {run_of(switch, side, "demo", ow_factor=3.0) for side in switch.sides} == {"abdnet"}
    assert run_of(switch, "as-written", "demo", epochs=3) == "abdnet.ow-factor.as-written"


def test_the_switch_for_all_at_once_is_the_sum_of_its_switches():
    by_name = {switch.name: switch for switch in SWITCHES}
    for name, paper in (("all-of-abdnet", "ABD-Net"), ("all-of-pfsa", "PFSA")):
        together = by_name[name]
        numbers = together.what.removesuffix(" at once").split(", ")
        parts = [switch for switch in SWITCHES if switch.paper == paper and switch.number in numbers]
        assert len(parts) == len(numbers) > 1 and together.base == parts[0].base
        assert side_settings(together, "as-written") == {
            setting: value for part in parts for setting, value in side_settings(part, "as-written").items()
        }
        assert not any(part.weak for part in parts), "only what the paper itself says"
        assert all(part.effect == "training" for part in parts)


def test_switches_of_each_profile():
    assert PROFILES["smoke"].switches == ("ow-reach",) and PROFILES["demo"].switches == ()
    trained = [switch for switch in SWITCHES if switch.is_trained]
    assert PROFILES["paper"].switches == tuple(switch.name for switch in trained)
    assert PROFILES["full"].switches == (
        *(switch.name for switch in trained if switch.effect == "training"),
        OF_BETA,
    )
    assert {switch.name for switch in trained if switch.effect == "schedule"} == {"second-stage", "epochs"}
    for profile in PROFILES:
        for name in set(PROFILES[profile].switches) - {OF_BETA}:
            (switch,) = (switch for switch in SWITCHES if switch.name == name)
            assert switch.base in PROFILES[profile].methods


def test_the_sweep_has_the_co_authors_weights_or_some_of_them_around_the_released_one():
    assert len(OF_BETAS) == 37 and {0.0, 1e-8, 3e-8, 1e-7, 1e-6, 1e-5, 9e-5} < set(OF_BETAS)
    assert set(FEW_OF_BETAS) < set(OF_BETAS) and OF_BETA not in {switch.name for switch in SWITCHES}
    runs = of_beta_runs("demo")
    assert [experiment_for(name, profile="demo").of_weight for name in runs] == sorted(FEW_OF_BETAS)
    assert [name for name in runs if name in METHODS] == ["baseline", "baseline+of"]
    row = experiment_for("baseline+of", profile="full")
    for name in of_beta_runs("full"):
        run = experiment_for(name, profile="full")
        assert replace(run, of_weight=row.of_weight, method=row.method) == row, "nothing else differs"
    assert len(of_beta_runs("full")) == len(of_beta_runs("paper")) == 37
    assert of_beta_runs("demo", of_weight=3e-6) == ("baseline+of",), "one weight for all: nothing to sweep"


# ---------------------------------------------------------------------------------------------------- caveats


def test_caveats_say_what_makes_numbers_incomparable():
    demo = caveats("demo", "synthetic")
    assert len(demo) == 2
    assert "synthetic" in demo[0]
    assert "resnet18" in demo[1] and "random weights" in demo[1]
    assert len(caveats("smoke", "synthetic")) == 3
    assert "a few steps" in caveats("smoke", "market1501")[-1]
    assert caveats("full", "market1501") == demo[1:]
    assert caveats("paper", "market1501") == []
    assert caveats("paper", "synthetic") == demo[:1]
    for profile in ("demo", "paper"):
        (said,) = caveats(profile, "market1501", {"start_from": "x.pth"})
        assert "trained on from the weights in a file" in said and "no reproduction" in said
    for profile in PROFILES:
        for dataset in DATASETS:
            assert all(sentence.endswith(".") for sentence in caveats(profile, dataset))
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        caveats("smok", "synthetic")
