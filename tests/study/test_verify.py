"""`--verify` reads every file that was recorded. What a plan trusts by its size and time is found, too."""

import os
import shutil

import pytest
from made_up_runs import fabricate
from small_checkout import make_step, plan, run, study_in

import run_all
from reidlib.code_digest import digest_of_code
from reidlib.files import file_digest, read_json, write_json
from reidlib.study.results import open_study
from reidlib.study.verify import page_digests, verify
from reidlib.training import records


@pytest.fixture
def made(checkout):
    """Two finished steps."""
    steps = [make_step(checkout, "10_first", "a"), make_step(checkout, "20_second", "b")]
    assert run(checkout, steps)[0] == 0
    return steps


def change_unseen(path):
    """Changes one byte of a file and keeps its size and time of change."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_change_that_a_plan_does_not_see_is_named(checkout, made):
    study = study_in(checkout)
    assert verify(made, study, repository=checkout) == []
    change_unseen(study.runs / "a" / "metrics.json")
    change_unseen(made[1].executed(study))
    assert set(plan(checkout, made).values()) == {"up to date"}
    assert verify(made, study, repository=checkout) == [
        "changed  runs/a/metrics.json  (written by the step 10_first/a)",
        "changed  notebooks/20_second/b.ipynb  (written by the step 20_second/b)",
    ]


def test_what_is_missing_not_made_or_of_other_code_is_named(checkout, made):
    study = study_in(checkout)
    (study.runs / "a" / "metrics.json").unlink()
    two = checkout / "reidlib" / "two.py"
    two.write_text(two.read_text() + "VALUE = 4\n")
    other = make_step(checkout, "10_first", "c")
    found = verify([made[1], other], study, repository=checkout)
    assert found == [
        "missing  runs/a/metrics.json  (written by the step 10_first/a)",
        "outdated 20_second/b  (changed code: reidlib.two)",
        "outdated 10_first/c  (not finished before)",
    ]
    made[0].state(study).write_text("{")
    assert verify([], study, repository=checkout) == ["changed  steps/10_first/a.json  (no state file)"]


def test_a_runs_files_code_and_the_reports_pages_are_looked_at(tmp_path):
    study = open_study("smoke", "synthetic", tmp_path)
    files = fabricate(study, "gap").files
    write_json(files.digests, {name.name: file_digest(name) for name in (files.queries, files.metrics)})
    for record, module in (
        (files.weights_record, records.WEIGHTS_CODE),
        (files.scores_record, records.SCORES_CODE),
    ):
        content = read_json(record)
        content["made_from"]["code"] = digest_of_code(module)
        write_json(record, content)
    study.report.mkdir()
    (study.report / "index.html").write_text("page")
    write_json(study.steps / "report.json", {"made_from": "", "pages": page_digests(study.report)})
    assert verify([], study) == []
    shutil.copytree(files.folder, files.folder.with_name("gap-seed0.superseded"))
    change_unseen(files.queries.with_name("metrics.json"))
    change_unseen(files.queries.parent.with_name("gap-seed0.superseded") / "metrics.json")
    (study.report / "index.html").write_text("by hand")
    content = read_json(files.scores_record)
    content["made_from"]["code"] = "older"
    write_json(files.scores_record, content)
    assert verify([], study) == [
        "changed  report/index.html  (written by the report)",
        "changed  runs/gap-seed0/metrics.json  (written by the run gap-seed0)",
        "outdated runs/gap-seed0  (its scores were made by other code)",
    ]
    files.scores_record.unlink()
    (study.steps / "report.json").write_text("[]")
    assert verify([], study)[0].startswith("changed  steps/report.json")
    assert verify([], study)[-1] == "outdated runs/gap-seed0  (its scores.json is missing or damaged)"


def test_the_command_says_what_it_found_and_writes_nothing(tmp_path, capsys):
    arguments = ["--profile", "smoke", "--results", str(tmp_path / "results"), "--verify"]
    assert run_all.main([*arguments, "--only", "01_data"]) == 1
    assert capsys.readouterr().out == "outdated 01_data  (not finished before)\n"
    assert not (tmp_path / "results").exists()
    with pytest.raises(SystemExit) as stop:
        run_all.main([*arguments, "--force"])
    assert stop.value.code == 2 and "--verify only looks" in capsys.readouterr().err
