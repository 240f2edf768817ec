"""Reference runs: what is planned, what is kept of a run, which runs are shown, and what cannot be shown."""

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_runs import fabricate, fabricate_reference

import run_all
from reidlib.config import METHODS
from reidlib.files import REPOSITORY, read_json, write_json
from reidlib.report import outside_references
from reidlib.run import read_run
from reidlib.settings import ConfigError
from reidlib.study.reference import PLANS, plan_of, read_reference, reference_studies
from reidlib.study.reference_files import is_kept, keep_run, without_paths
from reidlib.study.results import MissingRunError, Study, open_study
from reidlib.study.runs import belonging, finished_runs, load_run, runs_by_dataset, study_dataset
from reidlib.synthetic import SyntheticSpec

sys.path.insert(0, str(REPOSITORY / "tools"))
import make_reference  # noqa: E402

PKU_RUNS = len(plan_of("pku-reid").runs())
FIRST = {("baseline", 0): 0.25, ("gap", 0): 0.125}


def names(study):
    return [run.name for run in study.runs]


# ------------------------------------------------------------------------------------------------------ plans


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_runs_are_made_seed_by_seed_each_once_and_all_can_be_made(plan):
    runs = plan.runs()
    assert len(set(runs)) == len(runs)
    assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)
    assert [method for method, seed in runs if seed == 0][: len(plan.methods)] == [*plan.methods]
    for method, seed in runs:
        experiment = plan.experiment(method, seed, pretrained="weights.pth")
        assert (experiment.method, experiment.seed, experiment.dataset) == (method, seed, plan.dataset)
        assert experiment.pretrained == ("weights.pth" if plan.pretrained else False)
        assert "auto" not in (experiment.precision, experiment.embedding_precision), "of the machine"


def test_what_is_planned():
    real, small, synthetic = (plan_of(name) for name in ("cuhk03-np-detected", "pku-reid", "synthetic"))
    assert min(len(plan.seeds) for plan in PLANS) >= 3 and synthetic.seeds == (0, 1, 2, 3, 4)
    assert [real.experiment(name).sa_normalization for name in ("gap+sa1", *real.sides)] == ["sum", "softmax"]
    assert real.experiment(*real.sides).method.startswith("gap+sa1.")
    assert set(synthetic.methods) == set(METHODS)
    assert len(synthetic.sides) == 4 and ("pfsa.classes.as-released", 2) in synthetic.runs()
    assert ("pfsa.classes.as-released", 3) not in synthetic.runs()
    assert SyntheticSpec(**synthetic.data_options).test_identities >= 200


def test_the_longer_training_differs_in_the_number_of_steps_only():
    short, long = plan_of("cuhk03-np-detected"), plan_of("cuhk03-np-detected-longer")
    assert set(long.methods) < set(short.methods)
    for method, seed in long.runs():
        experiment = long.experiment(method, seed)
        assert experiment == dataclasses.replace(short.experiment(method, seed), steps_per_epoch=300)
        assert 300 * (experiment.warmup_epochs + experiment.epochs) == 3000


def test_a_plan_may_not_set_for_all_rows_what_a_side_changes():
    with pytest.raises(ConfigError, match="sets erase_probability for all rows, and trains both sides"):
        dataclasses.replace(plan_of("synthetic"), by_family={"pfsa": {"erase_probability": 0.5}})


# ----------------------------------------------------------------------------------------------------- a copy


def test_a_copy_has_all_numbers_and_no_path_of_the_machine(tmp_path):
    study = Study("demo", "folder", tmp_path / "work")
    precisions = np.random.default_rng(0).random(20)
    from_file = {"pretrained": "/home/one two/a.pth"}
    run = fabricate(study, "baseline", precisions, settings=from_file, later={"at": "/tmp/x"})
    queries = run.queries.assign(later=np.arange(20) / 7)
    queries.to_csv(run.files.queries, index=False)
    run = read_run(run.folder)
    kept = read_run(keep_run(run, tmp_path / "reference" / "pku-reid"))
    pd.testing.assert_frame_equal(
        kept.queries,
        queries,
        rtol=1e-5,
    )
    pd.testing.assert_frame_equal(kept.curves, run.curves)
    assert {**kept.metrics, "finished": ""} == {**run.metrics, "later": {"at": "x"}, "finished": ""}
    assert kept.experiment == dataclasses.replace(run.experiment, pretrained="a.pth")
    for path in kept.folder.iterdir():
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b"/home" not in content and b"/tmp" not in content, path
    before = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    assert set(before) == {"weights.json", "scores.json", "metrics.json", "curves.csv", "queries.csv.gz"}
    keep_run(run, tmp_path / "reference" / "pku-reid")
    assert before == {path.name: path.read_bytes() for path in kept.folder.iterdir()}, "the same bytes"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/x/data/a.png", "a.png"),
        ("it is in /srv/data/ and ~/b.pth, too", "it is in data and b.pth, too"),
        (r"C:\Users\x\a.pth", "a.pth"),
        ("rank-1 / mAP, 3/4, images/s, a/b.png", "rank-1 / mAP, 3/4, images/s, a/b.png"),
    ],
)
def test_paths_become_names(text, shown):
    assert without_paths({"a": [text], "b": 3}) == {"a": [shown], "b": 3}


# ------------------------------------------------------------------------------------------ what is read back


def test_without_runs_there_are_no_studies(tmp_path):
    assert reference_studies(tmp_path / "nowhere") == []
    (tmp_path / "pku-reid" / "runs").mkdir(parents=True)
    assert reference_studies(tmp_path) == []


def test_studies_have_their_runs_in_the_order_of_the_plan_and_say_what_they_are(tmp_path):
    fabricate_reference(tmp_path, "synthetic", {("pfsa", 1): 0.5, ("gap", 1): 0.5, ("baseline", 1): 0.5})
    fabricate_reference(tmp_path, "synthetic", {("pfsa", 0): 0.5, ("baseline", 0): 0.5}, train_seconds=3600.0)
    fabricate_reference(tmp_path, "pku-reid", FIRST)
    small, synthetic = reference_studies(tmp_path)
    assert names(small) == ["baseline-seed0", "gap-seed0"] and small.left_out == []
    seed_by_seed = ["baseline-seed0", "pfsa-seed0", "baseline-seed1", "gap-seed1", "pfsa-seed1"]
    assert names(synthetic) == seed_by_seed
    assert (small.name, synthetic.name) == ("pku-reid", "synthetic")
    assert any("synthetic" in sentence for sentence in synthetic.caveats)
    assert any("layer3" in sentence for sentence in small.caveats)
    assert not any("random weights: no ImageNet" in sentence for sentence in small.caveats)
    for part in ("5 of 97 planned", "commit abc", "made up, 2 cores", "2.0 hours"):
        assert part in synthetic.sentence
    assert small.runs[0].queries["average_precision"].tolist() == [0.25] * 20


def test_of_several_machines_each_is_named_with_its_seeds(tmp_path):
    other = {
        "commit": "abc",
        "python": "3",
        "torch": "2",
        "processor": "made up",
        "cores": 16,
        "device": "A card",
    }
    fabricate_reference(tmp_path, "pku-reid", {("baseline", seed): 0.5 for seed in (0, 1, 2, 4)})
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 3): 0.5}, made_by=other)
    (study,) = reference_studies(tmp_path)
    assert study.origin["Hardware"] == "made up, 2 cores (seeds 0–2, 4); A card (seed 3)"
    fabricate_reference(tmp_path, "pku-reid", {("gap", 0): 0.5, ("pfsa", 0): 0.5}, made_by=other)
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 3): 0.5})
    (study,) = reference_studies(tmp_path)
    assert study.origin["Hardware"] == "made up, 2 cores (baseline); A card (gap, pfsa)"


def test_runs_that_do_not_belong_are_left_out_and_named(tmp_path):
    root = fabricate_reference(tmp_path, "pku-reid", FIRST)
    fabricate_reference(tmp_path, "pku-reid", {("abdnet", 0): 0.5}, code="of another commit")
    fabricate_reference(tmp_path, "pku-reid", {("pfsa", 0): 0.5}, settings={"epochs": 7})
    fabricate_reference(tmp_path, "pku-reid", {("gap+sa1", 0): 0.5}, scored_on="1" * 16)
    shutil.copytree(root / "runs" / "gap-seed0", root / "runs" / "gap-seed99")
    (study,) = reference_studies(tmp_path)
    assert names(study) == ["baseline-seed0", "gap-seed0"]
    planned = plan_of("pku-reid").settings["epochs"]
    assert sorted(study.left_out) == [
        "`abdnet-seed0` is left out, made with other code of training.",
        "`gap+sa1-seed0` is left out, made with other images to test on.",
        "`gap-seed99` is left out, made with a row or seed that is not in the plan.",
        f"`pfsa-seed0` is left out, made with epochs = 7 in place of {planned}.",
    ]


def test_runs_with_other_settings_do_not_decide_which_code_counts(tmp_path):
    """After the plan has changed, the many old runs are of other code than the first new one."""
    old = {("baseline", seed): 0.5 for seed in (1, 2, 3)}
    fabricate_reference(tmp_path, "pku-reid", old, settings={"epochs": 7}, code="old")
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 0): 0.5}, code="new")
    assert names(read_reference(tmp_path / "pku-reid")) == ["baseline-seed0"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def fewer_queries(path):
    path.write_bytes(gzip.compress(b"query,average_precision\na,1\n"))


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("queries.csv.gz", cut, "queries.csv.gz is missing or damaged"),
        ("queries.csv.gz", fewer_queries, "queries.csv.gz does not have the 20 queries"),
        ("queries.csv.gz", Path.unlink, "queries.csv.gz is missing"),
        ("curves.csv", Path.unlink, "curves.csv does not exist"),
        ("metrics.json", cut, "metrics.json is not valid JSON"),
        ("metrics.json", lambda path: write_json(path, {"map": 1}), "metrics.json lacks finished"),
        ("weights.json", cut, "records that are damaged"),
        ("scores.json", lambda path: write_json(path, []), "records that are damaged"),
    ],
)
def test_a_damaged_file_is_named_and_its_run_is_made_again(file, damage, says, tmp_path):
    root = fabricate_reference(tmp_path, "pku-reid", FIRST)
    made_from = read_run(root / "runs" / "gap-seed0").made_from
    assert is_kept("gap-seed0", made_from["weights"], made_from["scores"], root)
    damage(root / "runs" / "gap-seed0" / file)
    study = read_reference(root)
    assert names(study) == ["baseline-seed0"]
    (sentence,) = study.left_out
    assert sentence.startswith("`gap-seed0` is left out, made with") and says in sentence
    assert str(tmp_path) not in sentence
    assert not is_kept("gap-seed0", made_from["weights"], made_from["scores"], root)


def test_a_run_of_other_records_is_not_taken_for_the_one_asked_for(tmp_path):
    root = fabricate_reference(tmp_path, "pku-reid", FIRST)
    of = read_run(root / "runs" / "gap-seed0").made_from
    of["weights"]["settings"]["pretrained"] = "/somewhere/else/my weights.pth"
    assert is_kept("gap-seed0", of["weights"], of["scores"], root), "the same file at another place"
    assert not is_kept("gap-seed0", {**of["weights"], "code": "other"}, of["scores"], root)
    assert not is_kept("gap-seed0", of["weights"], {**of["scores"], "data": "other"}, root)


def test_torch_is_not_imported_to_read_them(tmp_path):
    fabricate_reference(tmp_path, "pku-reid", FIRST)
    program = (
        "import sys; from pathlib import Path; from reidlib.study.reference import reference_studies\n"
        f"(study,) = reference_studies(Path({str(tmp_path)!r}))\n"
        "print(len(study.runs), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "False"]


def test_notebooks_get_the_runs_the_queries_and_the_sentences(tmp_path):
    root = fabricate_reference(tmp_path, "pku-reid", FIRST)
    fabricate_reference(tmp_path, "pku-reid", {("pfsa", 0): 0.5}, code="other")
    study = open_study("demo", "folder", tmp_path / "results", reference=str(root))
    assert study.root == tmp_path / "results" / "reference-pku-reid"
    data = study_dataset(study)
    assert (len(data.query), len(data.gallery)) == (20, 0) and data.query.ids.tolist()[:3] == [0, 0, 1]
    runs, left_out = belonging(study, finished_runs(study), data, {}, needs="baseline")
    assert [run.name for run in runs] == ["baseline-seed0", "gap-seed0"]
    assert left_out == ["`pfsa-seed0` is left out, made with other code of training."]
    assert all(run.is_of(data) for run in runs)
    assert load_run(study, "gap", 0, dataset=data).name == "gap-seed0"
    by_dataset, _ = runs_by_dataset(study, data, {}, needs="baseline")
    assert {name for name, own in by_dataset.items() if own} == {"folder"}
    for missing in ("pfsa", "abdnet"):  # left out, and not there
        with pytest.raises(MissingRunError, match=f"no such run of {missing} .*make_reference.py makes it"):
            load_run(study, missing, 0)
        with pytest.raises(MissingRunError, match="make_reference.py makes it"):
            belonging(study, runs, data, {}, needs=missing)


# ------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--checkpoint", "x.pth.tar"],
        ["--profile", "demo"],
        ["--dataset", "synthetic"],
        ["--data-root", "x"],
        ["--methods", "gap"],
        ["--seeds", "1"],
        ["--switches", "all"],
        ["--set", "epochs=3"],
        ["--data", "cameras=3"],
    ],
)
def test_options_about_runs_do_not_go_with_reference(arguments, tmp_path, capsys):
    fabricate_reference(tmp_path, "pku-reid", FIRST)
    results = tmp_path / "results"
    assert run_all.main(["--reference", str(tmp_path), "--results", str(results), *arguments]) == 2
    out, err = capsys.readouterr()
    assert f"--reference shows runs as they were made, and {arguments[0]} cannot change them" in err
    assert len(err.splitlines()) == 1 and not out and not results.exists()


@pytest.mark.parametrize("arguments", [["--only", "10_train"], ["--workers", "0"], ["--from", "nothing"]])
def test_wrong_calls_with_reference_write_nothing(arguments, tmp_path, capsys):
    fabricate_reference(tmp_path, "pku-reid", FIRST)
    results = tmp_path / "results"
    assert run_all.main(["--reference", str(tmp_path), "--results", str(results), *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not results.exists()


def test_no_reference_runs_is_said(tmp_path, capsys):
    assert run_all.main(["--reference", str(tmp_path), "--results", str(tmp_path / "results")]) == 2
    assert "There are no reference runs in" in capsys.readouterr().err
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 0): 0.5}, settings={"epochs": 7})
    assert run_all.main(["--reference", str(tmp_path), "--dry-run"]) == 2
    assert "`baseline-seed0` is left out, made with epochs = 7" in capsys.readouterr().err


def test_a_dry_run_says_what_there_is_and_writes_nothing(tmp_path, capsys):
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 0): 0.5, ("abdnet", 1): 0.5})
    fabricate_reference(tmp_path, "synthetic", {("gap", 0): 0.5})
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--reference", str(tmp_path), "--results", str(tmp_path / "results"), "--dry-run"]
    assert run_all.main([*arguments, "--force"]) == 0
    out, err = capsys.readouterr()
    assert out.count("These are reference runs") == 2 and f"2 of {PKU_RUNS} planned" in out
    steps = [line.split()[0] for line in err.splitlines()]
    steps = [step for step in steps if step != "05_findings"]
    every = ["02_networks", "92_settings"]
    shown = [*every[:1], "20_ablation_abdnet", "33_diversity", "90_report", "91_published_tables", *every[1:]]
    shown += [*every[:1], "21_ablation_spatial_attention", *every[1:]]
    assert steps == shown, "of each study"
    assert run_all.main([*arguments, "--only", "90_report"]) == 0, "one of the studies has this page"
    assert sorted(tmp_path.rglob("*")) == before


def test_pages_are_made_from_reference_runs_and_say_what_they_are(tmp_path, capsys):
    rng = np.random.default_rng(0)
    runs = {(m, s): rng.random(20) for m in ("baseline", "gap", "abdnet", "pfsa") for s in (0, 1)}
    fabricate_reference(tmp_path, "pku-reid", runs)
    arguments = ["--reference", str(tmp_path), "--results", str(tmp_path / "results")]
    pages = ["22_paper_vs_code", "90_report"]
    assert run_all.main([*arguments, "--only", *pages]) == 0, capsys.readouterr().err
    report = tmp_path / "results" / "reference-report" / "pku-reid"
    assert f"Report: {report / 'index.html'}" in capsys.readouterr().out
    for page in ("index", *pages):
        text = (report / f"{page}.html").read_text(encoding="utf-8")
        assert f"These are reference runs on PKU-Reid, 74 people (8 of {PKU_RUNS} planned)" in text
        assert "at commit abc" in text
        assert str(tmp_path) not in text
    assert (report / "22_paper_vs_code.html").read_text(encoding="utf-8").count(
        "Not shown: this needs the networks"
    ) == 2
    tables = tmp_path / "results" / "reference-pku-reid" / "tables"
    assert "colour histogram" in (tables / "reference_points.csv").read_text()
    assert len(pd.read_csv(tables / "runs.csv")) == 8
    assert not (tmp_path / "results" / "reference-pku-reid" / "runs").exists()
    assert run_all.main([*arguments, "--dry-run", "--only", *pages]) == 0
    assert capsys.readouterr().err.count("up to date") == 2
    fabricate_reference(tmp_path, "pku-reid", {("baseline", 2): 0.5})
    run_all.main([*arguments, "--dry-run", "--only", *pages])
    assert capsys.readouterr().err.count("run: changed ") == 2


def test_reports_on_several_data_sets_lead_to_each_other_and_travel_together(tmp_path, capsys):
    fabricate_reference(tmp_path, "pku-reid", FIRST)
    fabricate_reference(tmp_path, "synthetic", FIRST)
    results = tmp_path / "results"
    arguments = ["--reference", str(tmp_path), "--results", str(results), "--archive"]
    assert run_all.main([*arguments, "--only", "92_settings"]) == 0, capsys.readouterr().err
    sites = results / "reference-report"
    for name, other in (("pku-reid", "synthetic"), ("synthetic", "pku-reid")):
        for page in ("index", "92_settings", "search"):
            text = (sites / name / f"{page}.html").read_text(encoding="utf-8")
            assert f'href="../{other}/index.html"' in text and f'href="../{name}/' not in text, page
    assert outside_references(sites) == []
    assert outside_references(sites / "pku-reid"), "alone, its links to the other would lead nowhere"
    archive = results / "reference-report.zip"
    assert f"Archive: {archive}" in capsys.readouterr().out
    with zipfile.ZipFile(archive) as file:
        names = {name.rpartition("/")[0] for name in file.namelist()}
    assert names >= {"reference-report/pku-reid", "reference-report/synthetic"}


# ------------------------------------------------------------------------------------------------ making them


TINY = ["epochs=1", "steps_per_epoch=1", "warmup_epochs=0", "of_start_epoch=0", "batch_size=8", "height=96"]
TINY += ["width=48", "reduced_dim=16", "embedding_dim=16", "head_dim=16", "bootstrap_resamples=100"]
TINY += ["precision=float32"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import torch
    from torchvision.models import resnet18

    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18().state_dict(), file)
    return file


def test_a_run_that_is_there_is_not_made_again(root, weights, tmp_path, capsys, steady):
    """The copy counts, not what is left in the work folder."""
    call = ["pku-reid", "--data-root", root, "--pretrained", weights, "--work", tmp_path / "work"]
    call += ["--into", tmp_path / "reference", "--seeds", 0, "--methods", "baseline", "gap", "--set", *TINY]
    call = [str(part) for part in call]

    def missing(*more):
        assert make_reference.main([*call, "--dry-run", *more]) == 0
        return [line for line in capsys.readouterr().out.splitlines()[1:] if "points" not in line]

    assert missing() == ["baseline seed 0", "gap seed 0"]
    assert make_reference.main([*call, "--one", "baseline", "0"]) == 0
    capsys.readouterr()
    assert missing() == ["gap seed 0"]
    shutil.rmtree(tmp_path / "work")
    assert missing() == ["gap seed 0"]
    assert missing("--set", "learning_rate=0.01") == ["baseline seed 0", "gap seed 0"]
    kept = tmp_path / "reference" / "pku-reid" / "runs" / "baseline-seed0"
    assert read_json(kept / "weights.json")["made_from"]["settings"]["pretrained"] == "resnet18.pth"
    (kept / "queries.csv.gz").write_bytes(b"")
    assert missing() == ["baseline seed 0", "gap seed 0"]
    assert not list(tmp_path.rglob("reference/**/*.pt")) and not list(tmp_path.rglob("reference/**/*.npz"))


def test_a_process_that_fails_is_named_with_its_log(root, weights, tmp_path, capsys):
    call = ["pku-reid", "--data-root", root, "--pretrained", weights, "--work", tmp_path / "work"]
    call += ["--into", tmp_path / "reference", "--seeds", 0, "--methods", "baseline", "--workers", 2]
    tiny = [one for one in TINY if not one.startswith("batch_size")]
    assert make_reference.main([*map(str, call), "--set", *tiny, "batch_size=1000"]) == 1
    out = capsys.readouterr().out
    log = tmp_path / "work" / "pku-reid" / "logs" / "baseline-seed0.log"
    assert "FAILED  baseline-seed0" in out and str(log) in out and "1000" in log.read_text()
    assert "done    reference-points-seed0" in out
    points = json.loads((tmp_path / "reference" / "pku-reid" / "reference_points.json").read_text())
    assert [row["method"] for row in points["points"]] == ["colour histogram", "untrained network"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pku", "--work", "w"], "Unknown reference study 'pku'. Did you mean 'pku-reid'?"),
        (["pku-reid", "--work", "w"], "needs --pretrained FILE"),
        (["synthetic", "--work", "w", "--pretrained", "x"], "takes no --pretrained"),
        (["synthetic", "--work", "w", "--workers", "0"], "take whole numbers, 1 or more"),
        (["synthetic", "--work", "w", "--methods", "gapp"], "Unknown method 'gapp'. Did you mean 'gap'?"),
        (["synthetic", "--work", "w", "--seeds", "9"], "has no such run"),
    ],
)
def test_wrong_calls_of_the_tool_say_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert make_reference.main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.splitlines()) == 1 and not list(tmp_path.iterdir())
