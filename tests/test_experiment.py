"""Settings of a run: accepted values, error messages for others, and the three groups of settings."""

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.config import LABELS
from reidlib.experiment import Experiment, Housekeeping, ScoringSettings, TrainingSettings
from reidlib.settings import ConfigError

SETTINGS = [item.name for item in fields(Experiment) if item.name not in LABELS]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 2.0, "expected a whole number, got float"),
        ("epochs", "80", "expected a whole number, got str"),
        ("epochs", True, "expected a whole number, got bool"),
        ("seed", False, "expected a whole number, got bool"),
        ("dropout", True, "expected a number, got bool"),
        ("dropout", "0.5", "expected a number, got str"),
        ("learning_rate", None, "expected a number, got NoneType"),
        ("pam", 1, "expected True or False, got int"),
        ("pam", "True", "expected True or False, got str"),
        ("backbone", True, "expected one of resnet18, resnet34, resnet50."),
        ("last_stride", True, "expected one of 1, 2."),
        ("last_stride", 1.0, "expected one of 1, 2."),
        ("pretrained", 1, "got int"),
        ("milestones", 20, "expected whole numbers above 0, got int"),
        ("milestones", (20.5,), "milestones"),
        ("milestones", (0, 20), "milestones"),
        ("milestones", "20,40", "milestones"),
        ("before_head", 0, "expected True or False, got int"),
        ("classes", 751.0, "expected a whole number, got float"),
        ("score_test_every", True, "expected a whole number, got bool"),
        ("ow_factor", "10", "expected a number, got str"),
        ("rerank", "yes", "expected True or False, got str"),
        ("report_epoch", 3, "expected one of last, best_on_test, best_on_validation."),
        ("pretrained", None, "expected True or False or a string, got NoneType"),
        ("bootstrap_resamples", 200.0, "expected a whole number, got float"),
        ("method", 3, "expected a string, got int"),
        ("dataset", None, "expected a string, got NoneType"),
    ],
)
def test_values_of_the_wrong_type_are_refused(name, value, expected):
    with pytest.raises(ConfigError) as error:
        Experiment(**{name: value})
    assert str(error.value).startswith(f"{name} = {value!r}: expected ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "resnet"), ("backbone", "resnet101"), ("last_stride", 3), ("height", 31), ("width", 15),
        ("stripes", 0), ("spatial_attention", "sa3"), ("sa_normalization", "max"), ("heads", "max"),
        ("ow_reach", "all"), ("optimizer", "lamb"), ("schedule", "linear"), ("precision", "float16"),
        ("batch_size", 1), ("learning_rate", 0), ("learning_rate", -1e-3), ("learning_rate", float("nan")),
        ("of_weight", -1.0), ("ow_weight", float("nan")), ("triplet_margin", -0.1), ("epochs", 0),
        ("warmup_epochs", -1), ("dropout", 1.1), ("label_smoothing", -0.1), ("flip_probability", 2.0),
        ("crop_probability", -1.0), ("erase_probability", 1.5), ("momentum", 1.1), ("seed", -1),
        ("parts", -1), ("steps_per_epoch", -1), ("images_per_identity", -4), ("weight_decay", -1.0),
        ("trunk_rate", -0.1), ("branch_order", "abd-first"), ("eigenvalues", "exact"), ("power_steps", 0),
        ("ow_factor", -1.0), ("classes", -1), ("ow_factor", float("inf")), ("report_epoch", "best"),
        ("score_test_every", -1), ("rerank_merge_threshold", 1.5), ("rerank_merge_threshold", -0.1),
        ("feature_dim", 0), ("bootstrap_resamples", 99), ("processes", 0), ("validate_every", -1),
        ("validation_identities", -1), ("keep_every", -1), ("of_start_epoch", -1),
        ("of_positions", ()), ("of_positions", ("cam", "cam")), ("of_positions", ("layer1",)),
        ("of_positions", "cam"), ("of_intermediate_weight", -0.1), ("erase_largest", 0.02),
        ("erase_largest", 1.01), ("erase_fill", "white"), ("crop_corners", "random"), ("colour_jitter", 1.5),
        ("pam_form", "danet"), ("global_pooling", "sum"), ("embedding_precision", "float16"),
    ],
)  # fmt: skip
def test_values_outside_their_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} = .*: expected "):
        Experiment(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("backbone", "resnet101", "one of resnet18, resnet34, resnet50"),
        ("epochs", 0, "a value above 0"),
        ("warmup_epochs", -1, "0 or more"),
        ("dropout", 1.5, "a value from 0 to 1"),
        ("height", 31, "at least 32 pixels"),
        ("batch_size", 1, "at least 2 (batch normalisation needs two images)"),
        ("bootstrap_resamples", 99, "at least 100"),
        ("milestones", (0, 20), "whole numbers above 0"),
    ],
)
def test_refusals_say_what_is_expected(name, value, expected):
    with pytest.raises(ConfigError) as error:
        Experiment(**{name: value})
    assert str(error.value) == f"{name} = {value!r}: expected {expected}."


def test_an_int_given_for_a_float_is_stored_as_a_float():
    experiment = Experiment(learning_rate=1, dropout=0, triplet_weight=1, images_per_identity=4)
    for name in ("learning_rate", "dropout", "triplet_weight"):
        assert type(getattr(experiment, name)) is float
    same = Experiment(learning_rate=1.0, dropout=0.0, triplet_weight=1.0, images_per_identity=4)
    assert experiment.as_dict() == same.as_dict()
    assert Experiment(milestones=[3, 5]).milestones == (3, 5)
    assert Experiment(pretrained="weights.pth").pretrained == "weights.pth"
    assert Experiment(milestones=()).milestones == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 30, "images_per_identity": 4}, "multiple"),
        ({"batch_size": 8, "images_per_identity": 16}, "multiple"),
        ({"triplet_weight": 0.1}, "images_per_identity of 2 or more"),
        ({"triplet_weight": 0.1, "images_per_identity": 1}, "images_per_identity of 2 or more"),
        ({"family": "pfsa", "spatial_attention": "sa2"}, "deep_supervision = True"),
        ({"family": "pfsa", "spatial_attention": "sa1+sa2"}, "deep_supervision = True"),
        ({"attentive_branch": False, "branch_order": "attentive-first"}, "orders two branches"),
        ({"global_branch": False, "branch_order": "attentive-first"}, "orders two branches"),
        ({"global_branch": False, "attentive_branch": False}, "one branch or both"),
        ({"global_branch": False, "global_pooling": "max"}, "global_branch = True"),
        ({"of_weight": 1e-6, "of_positions": ("cam", "pam")}, "names no feature map of this network"),
        ({"of_weight": 1e-6, "of_positions": ("after",), "attentive_branch": False}, "It has intermediate."),
        ({"start_classifiers": False}, "it needs start_from"),
        ({"start_from": "a.pth", "pretrained": "b.pth"}, "both name initial weights"),
        ({"family": "pfsa", "part_classifiers": False}, "it needs parts"),
        ({"family": "pfsa", "parts": 6, "part_classifiers": False, "log_weighted_loss": True}, "parts of 1"),
        ({"attentive_branch": False, "pam": True}, "attentive_branch = True"),
        ({"report_epoch": "best_on_test"}, "score_test_every of 1 or more"),
        ({"log_weighted_loss": True}, "parts of 1 or more"),
        ({"family": "pfsa", "log_weighted_loss": True, "deep_supervision": True}, "parts of 1 or more"),
        (
            {"triplet_weight": 0.1, "images_per_identity": 8, "batch_size": 8},
            "the triplet loss needs two",
        ),
        ({"stripes": 5}, "stripes = 5 cannot share the 24 rows of the last feature map evenly"),
        ({"height": 383, "last_stride": 2, "stripes": 5}, "share the 12 rows"),
        ({"family": "pfsa", "parts": 25}, "parts = 25 are more than the 24 rows"),
        ({"family": "pfsa", "parts": 13, "last_stride": 2}, "parts = 13 are more than the 12 rows"),
        ({"validate_every": 2}, "validation_identities of 1 or more"),
        ({"report_epoch": "best_on_validation"}, "validation_identities and validate_every of 1 or more"),
        (
            {"report_epoch": "best_on_validation", "validation_identities": 4},
            "validation_identities and validate_every of 1 or more",
        ),
        ({"batch_size": 9, "processes": 2}, "cannot be shared by processes = 2"),
        ({"batch_size": 4, "processes": 4}, "cannot be shared by processes = 4"),
        ({"sync_batch_norm": True}, "processes of 2 or more"),
    ],
)
def test_impossible_combinations_are_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        Experiment(**settings)
    assert words in str(error.value)


def test_with_the_missing_setting_an_impossible_combination_is_possible():
    """Only the combination is refused, not the single setting."""
    assert Experiment(branch_order="attentive-first").attentive_branch
    assert Experiment(report_epoch="best_on_test", score_test_every=1).report_epoch == "best_on_test"
    # The test set may be scored for the curves while the last epoch is reported.
    assert Experiment(score_test_every=5).report_epoch == "last"
    assert Experiment(family="pfsa", parts=6, log_weighted_loss=True).log_weighted_loss
    assert Experiment(triplet_weight=0.1, images_per_identity=8, batch_size=16).triplet_weight
    assert Experiment(of_weight=1e-6, of_positions=("pam",), pam=True).of_positions == ("pam",)
    assert Experiment(of_positions=["cam"]).of_positions == ("cam",), "without a weight nothing acts"
    assert Experiment(stripes=5, attentive_branch=False).stripes == 5, "no map is cut"
    assert Experiment(height=383, stripes=24).stripes == 24 and Experiment(height=369, stripes=24).height
    assert Experiment(family="pfsa", parts=24).parts == 24
    assert Experiment(validate_every=2, validation_identities=4).validate_every == 2
    assert Experiment(validation_identities=4).validate_every == 0, "looked at after the last epoch only"
    assert Experiment(batch_size=8, processes=4, sync_batch_norm=True).processes == 4


@settings(max_examples=40, deadline=None)
@given(
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2)
    )
)
def test_any_value_of_any_setting_is_kept_or_refused_with_its_name(value):
    for name in SETTINGS:
        try:
            experiment = Experiment(**{name: value})
        except ConfigError as error:
            assert name in str(error)
        else:
            kept = getattr(experiment, name)
            assert kept == (tuple(value) if name == "milestones" else value)
            assert type(kept) is (
                float if isinstance(Experiment.__dataclass_fields__[name].default, float) else type(kept)
            )


def test_an_experiment_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        Experiment().epochs = 3


# ----------------------------------------------------------------------------------------------------- groups


def test_every_setting_belongs_to_one_group():
    """Only the labels of a run belong to no group: method, dataset and profile follow from the settings."""
    experiment = Experiment(seed=3, rerank=True, keep_every=5)
    groups = [experiment.group(group) for group in (TrainingSettings, ScoringSettings, Housekeeping)]
    names = [name for group in groups for name in group]
    assert len(set(names)) == len(names)
    assert set(names) == {item.name for item in fields(Experiment)} - {"method", "dataset", "profile"}
    training, scoring, housekeeping = groups
    assert training["seed"] == 3 and scoring["rerank"] is True
    assert housekeeping == {"keep_every": 5, "tensorboard": False, "measure_every": 1}
    assert set(scoring) == {
        "flip_evaluation",
        "embedding_precision",
        "rerank",
        "rerank_merge_threshold",
        "rerank_half_precision",
        "bootstrap_resamples",
        "single_shot",
    }


def test_a_group_has_plain_values():
    experiment = Experiment(milestones=(3, 5))
    assert experiment.group(TrainingSettings)["milestones"] == experiment.as_dict()["milestones"] == [3, 5]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"score_test_every": 1}, False),
        ({"score_test_every": 1, "report_epoch": "best_on_test"}, True),
        ({"validation_identities": 4}, False),
        ({"validation_identities": 4, "validate_every": 1}, True),
        ({"validation_identities": 4, "validate_every": 1, "report_epoch": "best_on_validation"}, True),
    ],
)
def test_the_best_weights_are_kept_if_scores_choose_them(settings, expected):
    assert Experiment(**settings).keeps_best is expected
