"""Which runs of the classification belong together, and what is said of the others."""

import json
import os

import pytest

from reidlib.classification.pooling_runs import POOLINGS
from reidlib.files import write_json
from reidlib.study.classified import classification_runs
from reidlib.study.results import Study

SETTINGS = {"depth": 56, "epochs": 200, "batch_size": 128, "learning_rate": 0.1, "momentum": 0.9}
SETTINGS |= {"weight_decay": 5e-4}
EPOCH = {"epoch": 1, "loss": 2.0, "accuracy": 0.5, "test_accuracy": 0.5, "learning_rate": 0.1, "seconds": 9}
FACTS = {moment: {"pooled_length": 1.0, "largest_share": 0.25} for moment in ("before", "after")}


@pytest.fixture
def study(tmp_path):
    return Study("paper", "market1501", tmp_path / "paper-market1501")


def write(study, pooling, seed, *, correct="1100", data="a" * 16, code="c" * 64, time=0, **settings):
    """A whole record, as `fit_poolings` writes it."""
    path = study.runs / "classification-cifar100" / f"{pooling}-seed{seed}.json"
    made_from = {"settings": {**SETTINGS, **settings}, "data": data, "code": code}
    write_json(path, {"made_from": made_from, "curves": [EPOCH], "correct": correct, "facts": FACTS})
    os.utime(path, (time, time))
    return path


def found_in(study):
    runs, sentences = classification_runs(study, "cifar100")
    return [run.name for run in runs], sentences


def test_runs_that_belong_together_are_read(study):
    assert found_in(study) == ([], [])
    for pooling in POOLINGS:
        write(study, pooling, 1)
    path = write(study, "gap", 0)
    path.with_name("gap-seed2.json.superseded").write_text("{}")
    for name in ("gap-seedx.json", "gap-seed0 copy.json", "other-seed0.json", "notes.json"):
        path.with_name(name).write_text("[]")
    names, sentences = found_in(study)
    assert names == sorted(["gap-seed0", *(f"{pooling}-seed1" for pooling in POOLINGS)]) and sentences == []
    (run,) = (run for run in classification_runs(study, "cifar100")[0] if run.seed == 0)
    assert (run.pooling, run.seed, run.correct.tolist()) == ("gap", 0, [True, True, False, False])
    assert classification_runs(study, "digits") == ([], []), "other images have a folder of their own"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"epochs": 1}, "epochs = 1 in place of 200"),
        ({"epochs": 1, "depth": 8}, "depth = 8 in place of 56, epochs = 1 in place of 200"),
        ({"data": "b" * 16}, "other images"),
        ({"correct": "110"}, "other images"),
        ({"code": "d" * 64}, "other code"),
    ],
)
def test_what_was_made_otherwise_is_named_and_left_out(study, other, reason):
    """Gap with 1 epoch beside attention with 200 would be an effect of the epochs."""
    for pooling, seed in (("gap", 0), ("gap", 1), ("gap+sa-sum", 0)):
        write(study, pooling, seed)
    write(study, "gap+sa-sum", 1, **other)
    assert found_in(study) == (
        ["gap+sa-sum-seed0", "gap-seed0", "gap-seed1"],
        [f"`gap+sa-sum-seed1` is left out, made with {reason}."],
    )


def test_of_as_many_runs_the_newest_count(study):
    write(study, "gap", 0, time=1000)
    write(study, "gap", 1, time=2000, epochs=1)
    assert found_in(study)[0] == ["gap-seed1"]
    write(study, "gap", 0, time=3000)
    assert found_in(study)[0] == ["gap-seed0"]


def without(part):
    return lambda record: {name: value for name, value in record.items() if name != part}


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: {},
        lambda record: [],
        lambda record: None,
        *map(without, ("made_from", "curves", "correct", "facts")),
        lambda record: record | {"correct": [1, 1, 0, 0]},
        lambda record: record | {"correct": ""},
        lambda record: record | {"correct": "11x0"},
        lambda record: record | {"curves": []},
        lambda record: record | {"curves": [{**EPOCH, "seconds": None}]},
        lambda record: record | {"curves": {"seconds": 1}},
        lambda record: record | {"facts": {"before": {}}},
        lambda record: record | {"made_from": {"settings": [], "data": "a", "code": "c"}},
        lambda record: record | {"made_from": {"settings": {"epochs": "<b>"}, "data": "a", "code": "c"}},
    ],
)
def test_a_damaged_record_is_named_and_left_out(study, damage):
    write(study, "gap", 0)
    path = write(study, "gap", 1)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    names, (sentence,) = found_in(study)
    assert names == ["gap-seed0"]
    assert sentence == (
        "`gap-seed1` is left out, made with a damaged record, which 23_classification makes again."
    )


@pytest.mark.parametrize("content", [b"", b'{"made_from": {"set', b"\xff\xfe"])
def test_a_cut_record_is_named_and_left_out(study, content):
    write(study, "gap", 1).write_bytes(content)
    assert found_in(study)[0] == [] and "`gap-seed1` is left out" in found_in(study)[1][0]
