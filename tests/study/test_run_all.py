"""The command line: wrong calls write nothing, a dry run prints the plan, a smoke run makes everything."""

import errno
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

import run_all
from reidlib import surroundings
from reidlib.code_digest import Code
from reidlib.config import (
    METHODS,
    OF_BETA,
    PROFILES,
    experiment_for,
    of_beta_runs,
    run_of,
    switches_to_ask_for,
    trained_switches,
)
from reidlib.files import REPOSITORY
from reidlib.report import outside_references
from reidlib.settings import ConfigError
from reidlib.study import command_line
from reidlib.study.command_line import Request
from reidlib.study.fingerprints import fingerprint
from reidlib.study.results import open_study
from reidlib.study.steps import Step
from reidlib.switches import SWITCHES


def call(*arguments, cwd=REPOSITORY, **options):
    command = [sys.executable, str(REPOSITORY / "run_all.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=600, check=False, **options
    )


@pytest.fixture
def folder(tmp_path):
    """Images in Market-1501's layout: two people to train on, two to test on, two cameras."""
    root = tmp_path / "images"
    layout = {
        "bounding_box_train": ((1, 2), (1, 2)),
        "query": ((3, 4), (1,)),
        "bounding_box_test": ((3, 4), (2,)),
    }
    for split, (people, cameras) in layout.items():
        (root / split).mkdir(parents=True)
        for person, camera in itertools.product(people, cameras):
            image = Image.new("RGB", (16, 32), (60 * person, 40 * camera, 0))
            image.save(root / split / f"{person:04d}_c{camera}s1_000001_00.jpg")
    return root


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "demoo"], "Unknown profile 'demoo'. Did you mean 'demo'?"),
        (["--methods", "abd-net"], "Unknown method 'abd-net'. Did you mean 'abdnet'?"),
        (["--dataset", "market"], "Unknown data set 'market'. Did you mean 'market1501'?"),
        (["--set", "epoch=3"], "Unknown setting 'epoch'. Did you mean 'epochs'?"),
        (["--set", "seed=3"], "Unknown setting 'seed'."),
        (["--set", "method=gap"], "Unknown setting 'method'."),
        (["--set", "epochs=many"], "epochs = 'many': expected a whole number, got str."),
        (["--set", "epochs"], "expected NAME=VALUE"),
        (["--set", "epochs={[]:1}"], "epochs = '{[]:1}': expected a whole number, got str."),
        (["--set", "epochs=" + "(" * 500], "expected a whole number, got str."),
        (["--set", "epochs=" + "-" * 100_000 + "1"], "expected a whole number, got str."),
        (["--set", "epochs=100000000000"], "epochs = 100000000000: expected at most 1000000."),
        (["--set", "epochs=" + "9" * 5000], "expected a whole number, got str."),
        (["--set", "epochs=3", "epochs=4"], "--set has 'epochs' twice"),
        (["--set", "epochs=3", "--set", "epochs=4"], "--set has 'epochs' twice"),
        (["--set", "cam=yes"], "cam = 'yes': expected True or False, got str."),
        (["--set", "pretrained=yes"], "pretrained takes True, False or a file of weights: "),
        (["--set", "start_from=yes"], "start_from takes a file of a whole network: "),
        (["--set", "x" * 5000 + "=1"], "Unknown setting 'xxx"),
        (["--data", "seed=1", "seed=1"], "--data has 'seed' twice"),
        (["--profile", "demo", "--profile", "demo"], "--profile is given twice"),
        (["--from", "01_data", "--from", "01_data"], "--from is given twice"),
        (["--checkpoint", ""], "--checkpoint is empty"),
        (["--data-root", ""], "--data-root is empty"),
        (["--seeds", "9" * 30], "seed = 999999999999999999999999999999: expected at most 4294967295."),
        (["--seeds", "9" * 5000], "argument --seeds: invalid int value"),
        (["--workers", "1001"], "--workers 1001: expected a whole number, 1 or more and at most 1000."),
        (["--only", "x" * 5000], "There is no step 'xxx"),
        (
            ["--data", "train_identity=9"],
            "Unknown data option 'train_identity'. Did you mean 'train_identities'?",
        ),
        (["--data", "cameras=1"], "cameras"),
        (["--seeds", "one"], "argument --seeds: invalid int value: 'one'"),
        (["--only", "20_ablation"], "20_ablation_abdnet"),
        (["--only", "nothing"], "nothing"),
        (["--wrokers", "2"], "unrecognized arguments: --wrokers 2"),
        (["--workers", "0"], "--workers 0: expected a whole number, 1 or more"),
        (["--workers", "0", "--force"], "--workers 0"),  # before runs are set aside
        (["--switches", "ow_reach"], "Unknown switch 'ow_reach'. Did you mean 'ow-reach'?"),
        (["--switches", "all", "ow-reach"], "Unknown switch 'all'"),
        (["--switches", "reranking"], "Unknown switch 'reranking'"),  # this switch needs no training
        (["--switches"], "argument --switches: expected at least one argument"),
        (
            ["--switches", "epochs"],
            "--switches epochs changes the papers' schedule, which the profile demo replaces: it needs "
            "--profile paper.",
        ),
        (
            ["--switches", "report-epoch", "--set", "score_test_every=0"],
            "report_epoch = 'best_on_test' needs score_test_every",
        ),
    ],
)
def test_wrong_calls_say_one_line_and_write_nothing(arguments, says, tmp_path, capsys):
    results = tmp_path / "results"
    if arguments == ["--only", "20_ablation"]:  # a prefix is allowed: only planned here
        assert run_all.main(["--results", str(results), "--dry-run", *arguments]) == 0
        assert says in capsys.readouterr().err
        return
    try:
        status = run_all.main(["--results", str(results), *arguments])
    except SystemExit as stop:  # from argparse
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert says in err and len(err.strip().splitlines()) == 1 and not out
    assert len(err) < 2000 and not results.exists()


PATHS = ("~nobody-of-that-name/x", "x" * 5000, "a/" * 4000, "loop/x", "dangling link", "file/x")
TAKES_A_PATH = {
    "--results": (),
    "--data-root": ("--dataset", "folder"),
    "--checkpoint": ("--methods", "abdnet"),
    "--set": (),
}


@pytest.mark.parametrize("option", TAKES_A_PATH)
@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_a_path_that_leads_nowhere_is_said_in_one_line(option, path, tmp_path, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = [*TAKES_A_PATH[option], option, f"pretrained={path}" if option == "--set" else path]
    elsewhere = [] if option == "--results" else ["--results", "results"]
    assert run_all.main([*arguments, *elsewhere]) == 2
    out, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1 and not out and len(err) < 9000
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("way", ["folder of the study", "steps", "notebooks", "figures", "runs"])
def test_results_that_cannot_be_written_are_said_in_one_line(way, tmp_path, capsys):
    """Something is in the way of one of the study's folders, deep below --results."""
    study = open_study("smoke", "synthetic", tmp_path)
    folder = study.root if way == "folder of the study" else study.root / way
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file in the way")
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--force"]):
        assert run_all.main(["--profile", "smoke", "--results", str(tmp_path), *more]) == 2
        out, err = capsys.readouterr()
        assert f"{folder} is a file, where a folder is needed" in err
        assert len(err.strip().splitlines()) == 1 and not out
    locks = set(tmp_path.glob(".*.lock"))  # empty, and of nobody any more
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in locks] == before


def test_a_file_of_weights_is_tried_before_anything_starts(tmp_path, capsys):
    import torch
    from torchvision.models import resnet18

    file, results = tmp_path / "weights.pth", tmp_path / "results"
    arguments = ["--results", str(results), "--dry-run", "--set", f"pretrained={file}"]
    contents = {
        "cannot be read as a PyTorch checkpoint": b"no weights",
        "holds no plain state dict": {"state_dict": {}},
        "does not fit this backbone: 100 missing: conv1.weight": {"x": torch.zeros(1)},
        "": resnet18().state_dict(),
    }
    for says, content in contents.items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        assert run_all.main(arguments) == (2 if says else 0)
        err = capsys.readouterr().err
        assert says in err and ("90_report" in err) == (not says), err
    assert not results.exists()


def test_a_file_to_train_on_from_has_to_fit_every_method(tmp_path, capsys):
    import torch

    from reidlib.models import model_from_experiment

    file, results = tmp_path / "weights.pth", tmp_path / "results"
    network = model_from_experiment(experiment_for("gap", profile="demo", classes=9), 0)
    torch.save({"state_dict": network.state_dict()}, file)
    arguments = ["--results", str(results), "--dry-run", "--set", f"start_from={file}", "--methods"]
    assert run_all.main([*arguments, "gap", "gap+sa1"]) == 0, "the number of people may differ"
    assert run_all.main([*arguments, "gap", "baseline"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert (
        "start_from takes a file of a whole network: baseline: " in err and "does not fit this ABDNet" in err
    )
    assert not results.exists()


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "no query"])
def test_wrong_data_roots_say_one_line_and_write_nothing(kind, folder, tmp_path):
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("no folder")
    elif kind == "empty":
        root.mkdir()
    elif kind == "no query":
        for image in (folder / "query").iterdir():
            image.unlink()
        (folder / "query").rmdir()
        root = folder
    done = call("--dataset", "folder", "--data-root", root, "--results", tmp_path / "results")
    assert done.returncode == 2, done.stderr
    assert str(root) in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not done.stdout
    assert not (tmp_path / "results").exists()


def test_settings_become_python_values():
    pairs = ["epochs=3", "learning_rate=1e-3", "cam=True", "pam=false", "rerank=TRUE", "milestones=(2,4)"]
    pairs += ["optimizer=sgd", "spatial_attention=none", "pretrained=a=b"]
    assert command_line.named_values("--set", pairs) == {
        "epochs": 3,
        "learning_rate": 1e-3,
        "cam": True,
        "pam": False,
        "rerank": True,
        "milestones": (2, 4),
        "optimizer": "sgd",
        "spatial_attention": "none",
        "pretrained": "a=b",
    }


def test_every_step_comes_after_those_it_needs_and_the_plan_holds_every_method_and_seed():
    request = Request(open_study("full", "synthetic", "anywhere"), tuple(METHODS), (0, 1))
    steps = run_all.steps(request)
    seen = set()
    for step in steps:
        assert set(step.needs) <= seen, step.name
        seen.add(step.name)
    assert {f"10_train/{method}-seed{seed}" for method in METHODS for seed in (0, 1)} <= seen


def plan(*switches, profile="full", methods=("abdnet", "pfsa"), seeds=(0, 1), overrides=None):
    """The steps of a study with these switches, by name."""
    study = open_study(profile, "synthetic", "anywhere")
    request = Request(study, tuple(methods), tuple(seeds), overrides=overrides or {}, switches=switches)
    return {step.name: step for step in run_all.steps(request)}


def test_switches_add_their_sides_for_every_seed_before_the_comparison():
    plain, steps = plan(), plan("ow-reach", "augmentation", "classes")
    # Of ow-reach, the row is the released side; of augmentation, the row is neither side.
    added = ["ow-reach.as-written", "augmentation.as-written", "augmentation.as-released"]
    variants = [*(f"abdnet.{name}" for name in added), "pfsa.classes.as-released"]
    new = [f"10_train/{variant}-seed{seed}" for variant in variants for seed in (0, 1)]
    assert set(steps) - set(plain) == set(new)
    names = list(steps)
    compared = steps["22_paper_vs_code"]
    for name in (*new, *(f"10_train/{row}-seed{seed}" for row in ("abdnet", "pfsa") for seed in (0, 1))):
        assert name in compared.needs and names.index(name) < names.index("22_paper_vs_code")
    assert compared.parameters["seeds"] == [0, 1]
    for name in ("20_ablation_abdnet", "21_ablation_spatial_attention", "90_report"):
        assert not set(steps[name].needs) & set(new), "tables of rows wait for no variant"
    step = steps["10_train/abdnet.ow-reach.as-written-seed1"]
    assert (step.parameters["method"], step.parameters["seed"]) == ("abdnet.ow-reach.as-written", 1)
    assert step.title == "ABD-Net, convolutions that O.W. reaches: as written, seed 1"
    assert step.produces[0] == "runs/abdnet.ow-reach.as-written-seed1/metrics.json"


def test_the_sweep_trains_its_rows_and_variants_for_the_page_that_shows_them():
    plain = plan(profile="demo", methods=("abdnet", "pfsa"))
    steps = plan(OF_BETA, profile="demo", methods=("abdnet", "pfsa"))
    new = {f"10_train/{name}-seed{seed}" for name in of_beta_runs("demo") for seed in (0, 1)}
    assert set(steps) - set(plain) == new and len(new) == 12
    needs = steps["33_diversity"].needs
    assert new < set(needs) and "10_train/abdnet-seed1" in needs and "10_train/pfsa-seed0" not in needs
    variants = {name for name in new if ".of-beta." in name}
    for page in ("20_ablation_abdnet", "22_paper_vs_code", "90_report"):
        assert not variants & set(steps[page].needs), "they are no side of a switch and no row"
    assert plain["33_diversity"].needs == ("01_data", "10_train/abdnet-seed0", "10_train/abdnet-seed1")
    assert steps["33_diversity"].parameters.keys() == plain["33_diversity"].parameters.keys()
    every = plan(*switches_to_ask_for("full"), methods=tuple(METHODS), seeds=(0,))
    assert sum(".of-beta." in name for name in every) == 35, "β = 0 and the released one are rows"


def test_tables_show_every_seed_and_single_runs_the_first_one_asked_for():
    steps = plan(
        profile="demo", methods=("baseline", "gap", "gap+sa1"), seeds=(3, 1), overrides={"epochs": 3}
    )
    trained = [name for name in steps if name.startswith("10_train")]
    assert len(trained) == 6
    for name in ("20_ablation_abdnet", "21_ablation_spatial_attention", "90_report"):
        assert set(trained) <= set(steps[name].needs)
        assert "seed" not in steps[name].parameters
    step = steps["32_ranking_gallery"]
    assert step.parameters["seed"] == 3
    assert set(step.needs) == {"01_data", "10_train/baseline-seed3"}
    step = steps["31_class_activation_maps"]  # draws one seed's maps, and measures all
    assert step.parameters["seed"] == 3
    rows = [f"10_train/{method}-seed{seed}" for method in ("gap", "gap+sa1") for seed in (1, 3)]
    assert set(step.needs) == {"01_data", *rows}
    compares = [
        step for step in steps.values() if step.notebook[:2] in ("20", "21", "22", "30", "31", "32", "90")
    ]
    assert len(compares) == 7
    assert all(step.parameters["overrides"] == {"epochs": 3} for step in compares), (
        "they choose the runs by it"
    )


@pytest.mark.parametrize(("profile", "queries"), [("demo", None), ("full", 2000), ("paper", 2000)])
def test_the_demo_lays_fewer_maps_on_masks(profile, queries):
    steps = plan(profile=profile)
    for name in ("30_attention_maps", "31_class_activation_maps"):
        assert steps[name].parameters.get("mask_queries") == queries


def test_the_findings_come_after_every_training_and_stand_first_in_the_report():
    steps = plan("classes")
    assert [name for name, step in steps.items() if step.front] == ["05_findings"]
    needs = steps["05_findings"].needs
    assert {name for name in steps if name.startswith("10_train")} <= set(needs)
    assert "10_train/pfsa.classes.as-released-seed1" in needs, "variants, too"
    assert "23_classification" not in needs, "digits bear no claim"
    assert "23_classification" in plan(profile="paper")["05_findings"].needs


def test_full_study_with_all_switches_and_with_none():
    steps = plan(*trained_switches("full"), methods=tuple(METHODS), seeds=(0,))
    trained = [switch for switch in SWITCHES if switch.name in trained_switches("full")]
    sides = {run_of(switch, side, "full") for switch in trained for side in switch.sides}
    assert {f"10_train/{method}-seed0" for method in {*METHODS, *sides}} == {
        name for name in steps if name.startswith("10_train")
    }
    assert len(sides - set(METHODS)) == len(trained) + 1, (
        "one variant a switch; augmentation and precision have two, sa1 is a row"
    )
    assert "pfsa+sa1" in sides
    assert {f"10_train/{method}-seed0" for method in sides} <= set(steps["22_paper_vs_code"].needs)
    assert not [name for name in plan(methods=tuple(METHODS)) if ".as-" in name]
    assert plan(methods=("gap+sa1",))["22_paper_vs_code"].needs == ("01_data",)
    every = plan(methods=tuple(METHODS), seeds=(0,))["22_paper_vs_code"].needs
    assert {f"10_train/{switch.base}-seed0" for switch in SWITCHES} <= set(every), (
        "it shows every switch's row"
    )


def test_what_is_named_twice_is_run_once(tmp_path):
    asked = ["--seeds", "1", "0", "1", "--methods", "gap", "baseline", "gap", "--results", str(tmp_path)]
    request = command_line.checked_request(command_line.parse(asked))
    assert (request.seeds, request.methods) == ((1, 0), ("gap", "baseline"))


@pytest.mark.parametrize("setting", ["pretrained", "start_from"])
def test_a_file_of_weights_is_read_by_every_training_step(setting):
    """So that training is repeated when the file changes."""
    steps = plan(overrides={setting: "/somewhere/model.pt"})
    training = [step for step in steps.values() if step.notebook == "10_train"]
    assert training and all("/somewhere/model.pt" in step.reads for step in training)


def test_a_setting_for_every_run_adds_no_variant():
    assert set(plan("ow-factor", overrides={"ow_factor": 1.0})) == set(plan())


def test_names_of_switches():
    assert command_line.switch_names(None, "demo", ("ow-reach",)) == ("ow-reach",), "the profile's"
    assert command_line.switch_names(["none"], "demo", ("ow-reach",)) == ()
    for profile in ("demo", "paper"):
        assert command_line.switch_names(["all"], profile, ()) == switches_to_ask_for(profile)
        assert command_line.switch_names([OF_BETA], profile, ()) == (OF_BETA,)
    assert command_line.switch_names(["sa1", "ow-reach", "sa1"], "demo", ()) == ("sa1", "ow-reach")
    assert command_line.switch_names(["epochs"], "paper", ()) == ("epochs",)
    with pytest.raises(ConfigError, match="Unknown switch 'none'"):
        command_line.switch_names(["none", "sa1"], "demo", ())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"abdnet.ow-reach.as-written"}),
        (("--switches", "none"), set()),
        (("--switches", "classes"), {"pfsa.classes.as-released"}),
        (("--methods", "abdnet"), set()),
    ],
)
def test_the_command_line_plans_the_switches_asked_for(arguments, expected, tmp_path, capsys):
    results = tmp_path / "results"
    assert run_all.main(["--profile", "smoke", "--results", str(results), "--dry-run", *arguments]) == 0
    assert {
        name for name in re.findall(r"10_train/(\S+)-seed0", capsys.readouterr().err) if ".as-" in name
    } == expected
    assert not results.exists()


@pytest.fixture
def reported(tmp_path):
    """A study with one executed notebook, and a call that makes its report → whether pages were written."""
    study = open_study("smoke", "synthetic", tmp_path)
    write_page(study, "# First")
    front = command_line.Front("Title", "Claim.")

    def report(request=None, front=front):
        before = study.report.stat().st_ino if study.report.exists() else None
        command_line.make_report(request or Request(study, ("gap",)), [Step("01_data", "01_data", {})], front)
        return study.report.stat().st_ino != before

    assert report() and not report()
    return study, report


def write_page(study, text):
    study.notebooks.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_markdown_cell(text)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), study.notebooks / "01_data.ipynb")


def test_a_report_is_built_again_if_a_notebook_changes(reported):
    study, report = reported
    write_page(study, "# Another first")
    assert report() and "Another first" in (study.report / "01_data.html").read_text(encoding="utf-8")
    assert not report()


EDITS = {
    "caveat": ("reidlib/config.py", "scores mean nothing", "scores say nothing"),
    "template": ("reidlib/report/template.html", "<body", "<body "),
    "title of a data set": ("reidlib/datasets/known.py", '"Market-1501", (', '"Market", ('),
}
CHANGES = ("metrics", "page", "lost page", "lost index", "state", "front", "settings", *EDITS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_report_is_built_again_if_anything_that_it_shows_changes(reported, monkeypatch, tmp_path, change):
    study, report = reported
    asked = {}
    if change in EDITS:  # in a copy of the code
        file, old, new = EDITS[change]
        shutil.copytree(REPOSITORY / "reidlib", tmp_path / "reidlib")
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        monkeypatch.setattr(command_line, "REPOSITORY", tmp_path)
        monkeypatch.setattr(command_line, "Code", lambda: Code(tmp_path))
    elif change == "metrics":
        (study.runs / "gap-seed0").mkdir(parents=True)
        (study.runs / "gap-seed0" / "metrics.json").write_text(json.dumps({"rank1": 0.5}))
    elif change == "page":
        (study.report / "01_data.html").write_text("changed by hand")
    elif change == "lost page":
        (study.report / "01_data.html").unlink()
    elif change == "lost index":
        (study.report / "index.html").unlink()
    elif change == "state":
        (study.steps / "report.json").write_text("{")
    elif change == "front":
        asked = {"front": command_line.Front("Title", "Another claim.")}
    else:
        asked = {"request": Request(study, ("gap",), overrides={"pretrained": False})}
    assert report(**asked)
    assert not report(**asked)


def test_force_sets_aside_only_the_chosen_runs_of_every_kind(tmp_path, monkeypatch):
    """A finished run would be shown and not repeated. This includes runs of the classification."""
    study = open_study("smoke", "synthetic", tmp_path)
    kept = ("pfsa-seed0", "abdnet-seed1")
    repeated = ("abdnet-seed0", "abdnet.ow-reach.as-written-seed0", "classification-digits")
    for name in (*kept, *repeated):
        (study.runs / name).mkdir(parents=True)
    monkeypatch.setattr(command_line, "execute", lambda *arguments, **options: 0)
    monkeypatch.setattr(command_line, "make_report", lambda *arguments: "nowhere")
    only = [
        "--only",
        "10_train/abdnet-seed0",
        "10_train/abdnet.ow-reach.as-written-seed0",
        "23_classification",
    ]
    common = ["--profile", "smoke", "--results", str(tmp_path), *only]
    assert run_all.main(common) == run_all.main([*common, "--force", "--dry-run"]) == 0
    assert {path.name for path in study.runs.glob("[!.]*")} == {*kept, *repeated}
    assert run_all.main([*common, "--force"]) == 0
    assert {path.name for path in study.runs.glob("[!.]*")} == {
        *kept,
        *(f"{name}.superseded" for name in repeated),
    }


def test_a_terminal_that_lacks_a_sign_gets_its_number(tmp_path, monkeypatch):
    """As with LC_ALL=C or PYTHONIOENCODING=ascii. Names of folders hold any sign."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(command_line, "execute", lambda *arguments, **options: 0)
    monkeypatch.setattr(command_line, "make_report", lambda *arguments: "/é/\udce9")
    assert run_all.main(["--only", "01_data", "--results", str(tmp_path)]) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"Report: /\\xe9/\\udce9\n"


def test_steps_depend_on_the_images_and_on_the_published_numbers(folder):
    images = {"training": "a", "test": "b"}
    request = Request(
        open_study("demo", "folder", "anywhere"), ("gap",), data_root=str(folder), images=images
    )
    data, *others = run_all.steps(request)
    assert data.images == images
    for step in others:
        assert not step.images
        # The networks are shown without images; the classification has its own.
        alone = ("02_networks", "23_classification", "92_settings")
        assert ("01_data" in step.needs) == (step.notebook not in alone), step.name
        reads = dict.fromkeys(("05_findings", "92_settings"), ("data/paper", "results/reference"))
        reads |= dict.fromkeys(("02_networks", "22_paper_vs_code", "23_classification"), ())
        assert step.reads == reads.get(step.notebook, ("data/paper",)), step.name
    assert (REPOSITORY / "data/paper/pfsa_table1.csv").is_file()


def test_a_plan_depends_on_the_images_of_a_data_root_and_on_nothing_else_there(folder, tmp_path):
    """Images behind links count; results and files of the system in the data root do not."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in folder.iterdir():
        (linked / part.name).symlink_to(part)
    arguments = ["--dataset", "folder", "--data-root", str(linked), "--methods", "gap", "--results"]

    def plan():
        options = command_line.parse([*arguments, str(linked / "results")])
        step = run_all.steps(command_line.checked_request(options))[0]
        return fingerprint(step, {})

    first = plan()
    assert not (linked / "results").exists(), "digests of images are not remembered by a plan"
    (linked / "results" / "cache").mkdir(parents=True)
    for name in ("results/log.txt", "results/cache/x.npy", ".DS_Store", "query/.DS_Store", "readme.txt"):
        (linked / name).write_text("something")
    assert plan() == first
    image = next((folder / "query").glob("*.jpg"))
    state, content = image.stat(), image.read_bytes()
    image.write_bytes(content[:-1] + b"\0")  # of the same size and time
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert plan() != first


def test_folders_whose_names_are_no_utf8_are_planned(folder, tmp_path):
    odd = tmp_path / os.fsdecode("行人".encode("gbk"))
    folder.rename(odd)
    arguments = ["--dataset", "folder", "--methods", "gap", "--profile", "smoke", "--dry-run"]
    done = call(*arguments, "--data-root", odd, "--results", odd / "results")
    assert done.returncode == 0 and "10_train/gap-seed0" in done.stderr, done.stderr
    assert sorted(path.name for path in odd.iterdir()) == ["bounding_box_test", "bounding_box_train", "query"]


def test_a_plan_writes_nothing(tmp_path):
    done = call(
        "--profile", "smoke", "--results", tmp_path / "results", "--data-root", tmp_path / "data", "--dry-run"
    )
    assert done.returncode == 0
    assert "10_train/baseline-seed0" in done.stderr and "90_report" in done.stderr
    assert not (tmp_path / "results").exists() and not (tmp_path / "data").exists()


# ----------------------------------------------------------------------------------------------- surroundings

DRY = "--profile smoke --dry-run --results nowhere"


def shell(line, cwd=REPOSITORY, **environment):
    """Runs a shell's line in which RUN is `python run_all.py`."""
    line = line.replace("RUN", f"{sys.executable} {REPOSITORY / 'run_all.py'}")
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        (f"RUN {DRY} 2>&-", 0, "90_report"),  # messages go to standard output
        (f"RUN {DRY} >&-", 0, "90_report"),
        (f"RUN {DRY} >&- 2>&- <&-", 0, ""),
        ("RUN --profile x 2>&-", 2, "run_all.py: Unknown profile 'x'"),
        ("RUN --help | head -1; exit ${PIPESTATUS[0]}", 0, "usage"),
        (f"RUN {DRY} 2>/dev/full", 1, "run_all.py: the output cannot be written any more (No space left"),
    ],
)
def test_closed_streams_end_in_one_line_and_no_traceback(line, status, says):
    done = shell(line)
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("broken", ["stdout", "stderr"])
@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run", "--profile", "smoke"]])
def test_a_reader_that_is_gone_is_said_on_the_other_stream(broken, arguments):
    """As with `| head -1`, whose pipe closes early. The message is for whoever reads the other stream."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, broken: writer}
    command = [sys.executable, str(REPOSITORY / "run_all.py"), *arguments]
    done = subprocess.run(command, **streams, text=True, check=False)
    os.close(writer)
    other = (done.stdout or "") + (done.stderr or "")
    assert "Traceback" not in other and "Exception ignored" not in other
    if broken == "stderr" and "--dry-run" in arguments:  # where a plan is printed
        assert done.returncode == 1
        assert other.startswith("run_all.py: the output cannot be written any more (Broken pipe)")
    elif "--dry-run" in arguments:
        assert done.returncode == 0 and "90_report" in other


@pytest.mark.parametrize("options", ["-I", "-P", "-OO", "-W error", "-B", "-bb"])
def test_options_of_python_change_no_plan(options, tmp_path):
    done = shell(f"{sys.executable} {options} {REPOSITORY / 'run_all.py'} {DRY}", cwd=tmp_path)
    assert done.returncode == 0 and "90_report" in done.stderr and "Warning" not in done.stderr


def test_a_terminal_without_our_signs_gets_them_escaped(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = shell(f"RUN --results '{tmp_path}/–≥' --only x", **plain)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_a_current_folder_that_is_gone_matters_to_relative_paths_only(tmp_path):
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; "
    done = shell(f"{gone} RUN {DRY}")
    assert done.returncode == 2 and "the current folder does not exist any more" in done.stderr
    done = shell(f"{gone} RUN {DRY.replace('nowhere', str(tmp_path / 'results'))}")
    assert done.returncode == 0 and "90_report" in done.stderr


@pytest.mark.parametrize("name", ["json.py", "queue/__init__.py", "socket.so"])
def test_a_file_that_hides_a_module_of_python_is_named(name, tmp_path):
    hiding = tmp_path / name
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("raise SystemExit('this file was run')")
    done = shell(f"RUN {DRY}", PYTHONPATH=f"{tmp_path / 'nowhere'}:{tmp_path}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"{tmp_path / name.split('/')[0]} has the name of a module of Python's standard" in done.stderr


def test_other_files_on_the_path_hide_nothing(tmp_path, monkeypatch):
    for name in ("mine.py", "json.txt", "test/__init__.py", "queue/readme", "sys.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    library = str(Path(os.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), library, f"{library}/lib-dynload", ""]))
    assert surroundings.hiding_files() == []


def test_a_python_without_the_packages_is_named():
    done = shell(f"{sys.executable} -S {REPOSITORY / 'run_all.py'} {DRY}", PYTHONPATH="")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"this Python ({sys.executable}) lacks numpy, torch, papermill" in done.stderr


@pytest.mark.parametrize(("where", "status"), [("execute", 2), ("make_report", 1)])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOENT])
def test_what_a_file_system_refuses_is_said_and_a_bug_is_not(
    where, status, number, monkeypatch, tmp_path, capsys
):
    """As by a folder that is closed while the program runs. A file that is missing is a bug of ours."""
    error = OSError(number, "made up", "some/file")

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(command_line, "execute", lambda *arguments, **options: 0)
    monkeypatch.setattr(command_line, where, refuse)
    arguments = ["--profile", "smoke", "--results", str(tmp_path)]
    if number == errno.ENOENT:
        with pytest.raises(FileNotFoundError):
            run_all.main(arguments)
        return
    assert run_all.main(arguments) == status
    err = capsys.readouterr().err
    assert "some/file cannot be read or written (made up)" in err and len(err.splitlines()) == 1


def test_an_interrupt_while_planning_is_said(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "execute", interrupted)
    assert run_all.main(["--profile", "smoke", "--results", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "run_all.py: interrupted.\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--methods", "abd-net"], ["--dry-run"]])
def test_calls_that_run_nothing_import_nothing_slow(arguments, tmp_path):
    """These packages take seconds to import. A dry run or a wrong call should not wait for them."""
    script = f"""
import sys
import run_all
try:
    run_all.main([*{arguments!r}, "--results", {str(tmp_path / "results")!r}])
finally:
    heavy = {{
        "torch", "scipy", "pandas", "matplotlib", "nbformat", "papermill", "nbconvert"
    }} & sys.modules.keys()
    print("heavy:", sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stdout + done.stderr


def test_a_smoke_run_makes_every_figure_and_table_and_a_second_runs_nothing(tmp_path):
    """The one slow test: the whole study in its smallest size, from another folder, with nothing prepared."""
    arguments = ("--profile", "smoke", "--results", tmp_path / "results", "--data-root", tmp_path / "data")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = call(*arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    study = open_study("smoke", "synthetic", tmp_path / "results")
    index = study.report / "index.html"
    assert f"Report: {index}" in done.stdout

    trained = (*PROFILES["smoke"].methods, "abdnet.ow-reach.as-written")
    for method in trained:
        metrics = json.loads((study.run(method, 0) / "metrics.json").read_text(encoding="utf-8"))
        assert 0 <= metrics["rank1"] <= metrics["rank5"] <= 1 and 0 < metrics["map"] <= 1
        assert metrics["rank1_interval"][0] <= metrics["rank1"] <= metrics["rank1_interval"][1]
        assert metrics["synthetic"] is True and metrics["made_by"]["torch"]
    figures = {path.stem for path in study.figures.glob("*.png")}
    assert {
        "data_samples",
        "findings",
        "ablation_abdnet",
        "ablation_pfsa",
        "switches",
        "classification",
        "attention_maps",
        "ranking_activation_maps",
        "class_activation_maps",
        "ranking_gallery",
        "gallery_size",
        "cmc",
        "failures_cameras",
        "failures_attributes",
        "worst_queries",
        "embeddings_2d",
        "channel_correlation",
        "spectra",
        "diversity_over_epochs",
        "of_beta",
        "network_abdnet",
        "network_pfsa",
        "explorer",
        "overview",
    } <= figures
    assert {f"curves_{method}-seed0" for method in trained} <= figures
    tables = {path.stem for path in study.tables.glob("*.csv")}
    assert {
        "data_statistics",
        "findings",
        "reference_points",
        "ablation_abdnet",
        "ablation_pfsa",
        "ablation_pfsa_effects",
        "worst_queries",
        "deviations",
        "switches",
        "switches_untrained",
        "classification",
        "classification_mechanism",
        "attention_measures",
        "class_activation_measures",
        "channel_correlation",
        "channel_correlation_definitions",
        "diversity",
        "weight_spectra",
        "of_beta",
        "runs",
        "market1501",
        "dukemtmc",
        "msmt17",
        "pfsa",
    } <= tables
    ablation = (study.tables / "ablation_abdnet.csv").read_text(encoding="utf-8")
    assert "not run" in ablation and "not reproduced" in ablation

    switches = pd.read_csv(study.tables / "switches.csv", dtype=str).set_index("what")["verdict"]
    compared = {
        "convolutions that O.W. reaches",
        "precision of the test embeddings",
        "scores published",
        "overlap at which re-ranking merges neighbourhoods",
    }
    same = "the same with these settings"
    assert set(switches.index[switches == same]) == {"what Table 1's Baseline (XE) is: without warm up"}
    assert set(switches.index[~switches.isin(["not run", same])]) == compared, (
        "one switch is trained, three need no training"
    )

    executed = sorted(study.notebooks.rglob("*.ipynb"))
    numbers = [path.name[:2] for path in executed if path.parent == study.notebooks]
    shown = ["01", "02", "05", "20", "21", "22", "23", "30", "31", "32", "33", "34", "35", "90", "91", "92"]
    assert numbers == shown
    assert {path.stem for path in executed if path.parent != study.notebooks} == {
        f"{method}-seed0" for method in trained
    }
    for path in executed:
        outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
        assert not any(output.output_type == "error" for output in outputs), path.name
        warnings = [output.text for output in outputs if output.get("name") == "stderr"]
        assert not warnings, (path.name, warnings)
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert all(len(output.metadata["image/png"]["alt"]) > 20 for output in pictures), path.name
    with_numbers = {path.stem for path in study.figures.iterdir() if path.suffix in (".csv", ".npz")}
    assert figures - with_numbers == {"data_samples", "worst_queries"}, "the other ones show numbers"
    assert {path.stem for path in study.tables.glob("*.tex")} == tables
    assert (study.explorer / "explorer.json").is_file()
    assert not list(study.root.rglob("*.tmp"))

    assert outside_references(study.report) == []
    page = index.read_text(encoding="utf-8")
    assert "synthetic" in page and "no ImageNet weights" in page

    again = call(*arguments, cwd=tmp_path, env=environment)
    assert again.returncode == 0
    assert not re.search(r"^\S+ (start|FAILED)", again.stderr, re.MULTILINE), again.stderr
