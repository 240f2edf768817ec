"""What is left of a study, by earlier times and corrected by this call's; the events; the first minutes."""

import json
import shutil
import types

import pytest
from small_checkout import make_step, run, study_in

from reidlib.config import METHODS
from reidlib.errors import ReidError
from reidlib.models import backbone
from reidlib.study import first_minutes
from reidlib.study.fingerprints import StepPlan
from reidlib.study.first_minutes import DiskError, check_runs
from reidlib.study.results import Study
from reidlib.study.steps import Step
from reidlib.study.times import (
    earlier_seconds,
    events_file,
    expected_seconds,
    in_words,
    record_event,
    seconds_left,
    seconds_to_the_end,
)


def step(name, weight=1.0):
    return Step(name, name.split("/")[0], {}, weight=weight)


def test_a_step_takes_as_long_as_earlier_or_as_others_of_its_notebook():
    steps = [step("train/a", 1.5), step("train/b"), step("train/c", 3), step("page", 0.1)]
    expected = expected_seconds(steps, {"train/a": 30.0, "train/b": 20.0})
    assert expected == {"train/a": 30, "train/b": 20, "train/c": 60, "page": pytest.approx(2)}
    assert expected_seconds([step("x", 0.5)], {}) == {"x": 30}


def test_to_the_end_counts_the_longest_chain_of_those_that_wait():
    steps = [
        Step(name, "n", {}, needs=needs) for name, needs in (("a", ()), ("b", ("a",)), ("c", ("a", "x")))
    ]
    steps += [Step("d", "n", {}, needs=("b", "c")), Step("e", "n", {})]
    expected = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 10.0, "e": 12.0}
    assert seconds_to_the_end(steps, expected) == {"a": 16, "b": 12, "c": 15, "d": 10, "e": 12}


def test_what_is_left_follows_the_shares_and_what_the_others_took():
    expected = dict.fromkeys("abcd", 10.0)
    assert seconds_left(expected, {}, {}, 1) == 40
    assert seconds_left(expected, {}, {}, 4) == 10, "no step is divided"
    # a took twice as long as expected: (20 + 10) / (10 + 10) of the guess counts for c and d.
    assert seconds_left(expected, {"a": 20.0}, {"b": (30.0, 0.75)}, 1) == pytest.approx(10 + 15 + 15)
    assert seconds_left({"a": 10.0}, {}, {"a": (99.0, 0.0)}, 1) == 1, "never nothing while it runs"
    assert seconds_left({}, {}, {}, 1) == 0


def test_times_in_words():
    assert [in_words(seconds) for seconds in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]


def test_events_are_lines_that_a_machine_reads(checkout):
    study = study_in(checkout)
    steps = [make_step(checkout, "10_first", "a", fail=True), make_step(checkout, "20_second", "b")]
    code, said = run(checkout, steps)
    events = [json.loads(line) for line in events_file(study).read_text().splitlines()]
    assert [event["event"] for event in events] == ["begin", "start", "failed", "start", "done", "end"]
    assert "ValueError: last line" in events[2]["error"] and events[4]["cpu_seconds"] > 0
    assert list(earlier_seconds(study)) == ["20_second/b"]
    assert "slowest: " in said and "CPU time of all steps: 0.00 h" in said
    with events_file(study).open("a") as file:
        file.write('{"event": "done", "step": "x", "seconds": "long"}\\n[]\\n\\x00\\n{"event": "done", "st')
    record_event(study, "done", step="y", seconds=2.0)
    assert set(earlier_seconds(study)) >= {"20_second/b"}


def plans(*methods, profile="paper", **overrides):
    parameters = {"dataset": "market1501", "profile": profile, "seed": 0, "overrides": overrides}
    steps = [Step(f"10_train/{name}", "10_train", {**parameters, "method": name}) for name in methods]
    return [StepPlan(one, "", {}, "not finished before", "") for one in steps]


def test_runs_of_the_paper_are_announced_with_the_disk_they_take(tmp_path, monkeypatch):
    study = Study("paper", "market1501", tmp_path / "paper-market1501")
    monkeypatch.setattr(backbone, "download_weights", lambda weights: {})
    (line,) = check_runs(plans("abdnet", "gap"), study, 1)
    assert line.startswith("2 runs are to be trained, ") and "GB for weights that stay" in line
    assert (
        check_runs(plans("abdnet", profile="demo", pretrained=False), Study("demo", "x", tmp_path), 1) == []
    )
    monkeypatch.setattr(
        first_minutes, "shutil", types.SimpleNamespace(disk_usage=lambda _: types.SimpleNamespace(free=1e8))
    )
    with pytest.raises(DiskError, match=rf"{len(METHODS)} runs need .* GB are free. Make room"):
        check_runs(plans(*METHODS), study, 2)
    assert shutil.disk_usage(tmp_path).free


def test_weights_that_cannot_be_downloaded_are_said_before_any_run(tmp_path, monkeypatch):
    def refuse(weights):
        raise ReidError("The ImageNet weights could not be downloaded")

    monkeypatch.setattr(backbone, "download_weights", refuse)
    study = Study("demo", "market1501", tmp_path)
    with pytest.raises(ReidError, match="could not be downloaded"):
        check_runs(plans("gap", profile="demo", pretrained=True), study, 1)
    made = plans("gap", profile="demo", pretrained=True)
    made[0].reason = ""
    assert check_runs(made, study, 1) == [], "it was trained already"
