"""The study: `python run_all.py` runs every notebook that is out of date, in order, and builds the report.

`steps` below is the whole study as a list; `python run_all.py --dry-run` prints it with what would run and why.
"""

import argparse
import ast
import itertools
import os
import sys
from pathlib import Path

import torch

from reidlib.config import (
    METHODS,
    PROFILES,
    TRAINED_SWITCHES,
    ConfigError,
    Experiment,
    caveats,
    choose,
    experiment_for,
    run_of,
    title_of,
)
from reidlib.datasets import DATASETS
from reidlib.errors import ReidError
from reidlib.pipeline import Step, execute, select
from reidlib.report import build_report, outside_references
from reidlib.results import Study, open_study
from reidlib.run_files import only_one
from reidlib.runs import provenance, set_aside, study_dataset, synthetic_options
from reidlib.switches import SIDES, SWITCHES
from reidlib.tables import TITLES
from reidlib.torch_files import file_digest

TITLE = "Attention for person re-identification: two papers reproduced"
CLAIM = (
    "ABD-Net claims that attention made diverse by orthogonality retrieves people better than attention alone; "
    "Parameter-Free Spatial Attention claims that weighting places by their summed response spreads activation over the body. "
    "Every figure and table here is made again from the runs listed below."
)
PUBLISHED = ("data/paper",)  # the papers' numbers: a table is made again when one of them is corrected


def steps(
    study: Study,
    methods: list[str],
    seeds: list[int],
    data_root: str,
    data_options: dict,
    overrides: dict,
    switches: tuple[str, ...] = (),
) -> list[Step]:
    """Every notebook of the study with its parameters, in an order in which each comes after those it needs."""
    data_place = {"data_root": data_root, "data_options": data_options}
    place = {"profile": study.profile, "dataset": study.dataset, "results": str(study.root.parent), **data_place}
    data = Step(
        "01_data",
        "01_data",
        place,
        produces=("tables/data_statistics.csv", "tables/reference_points.csv", "figures/data_samples.png"),
        weight=0.3,
        reads=images_read(study, data_root),
    )
    sides = [run_of(switch, side, study.profile, **overrides) for switch in SWITCHES if switch.name in switches for side in SIDES]
    trained = list(dict.fromkeys([*methods, *sides]))
    images = "cifar100" if study.profile == "paper" else "digits"
    training = {
        (method, seed): Step(
            f"10_train/{method}-seed{seed}",
            "10_train",
            {**place, "method": method, "seed": seed, "overrides": overrides},
            needs=("01_data",),
            produces=(f"runs/{method}-seed{seed}/metrics.json", f"figures/curves_{method}-seed{seed}.png"),
            weight=_weight(experiment_for(method, profile=study.profile, **overrides)),
            title=f"{title_of(method)}, seed {seed}",
            reads=(*PUBLISHED, *([overrides["pretrained"]] if isinstance(overrides.get("pretrained"), str) else [])),
        )
        for seed in seeds
        for method in trained
    }

    def shows(notebook: str, needed: list[str], *produces: str) -> Step:
        """A notebook that shows runs of the first seed, as far as they are part of this call."""
        needs = [training[method, seeds[0]].name for method in needed if (method, seeds[0]) in training]
        parameters = {**place, "seed": seeds[0]}
        return Step(notebook, notebook, parameters, ("01_data", *needs), produces, weight=0.1, reads=PUBLISHED)

    return [
        data,
        *training.values(),
        shows("20_ablation_abdnet", methods, "tables/ablation_abdnet.csv", "figures/ablation_abdnet.png"),
        shows("21_ablation_spatial_attention", methods, "tables/ablation_pfsa.csv", "figures/ablation_pfsa.png"),
        Step(
            "22_paper_vs_code",
            "22_paper_vs_code",
            {**place, "seeds": seeds, "overrides": overrides},
            ("01_data", *(step.name for (method, _), step in training.items() if method in {"abdnet", "pfsa", *sides})),
            ("tables/deviations.csv", "tables/switches.csv", "tables/switches_untrained.csv", "figures/switches.png"),
            weight=0.2,
        ),
        Step(
            "23_classification",
            "23_classification",
            {**place, "images": images},
            produces=(
                f"runs/classification-{images}",
                "tables/classification.csv",
                "tables/classification_mechanism.csv",
                "figures/classification.png",
            ),
            weight=0.6,
        ),
        shows("30_attention_maps", ["baseline+pam+cam", "abdnet-xe"], "figures/attention_maps.png"),
        shows("31_class_activation_maps", ["gap", "gap+sa1"], "figures/class_activation_maps.png"),
        shows("32_ranking_gallery", ["abdnet-xe", "baseline+pam+cam", "baseline"], "figures/ranking_gallery.png"),
        shows("90_report", methods, "tables/runs.csv", "tables/pfsa.csv", "figures/overview.png"),
    ]


def images_read(study: Study, data_root: str) -> tuple[str, ...]:
    """Other real images at the same place: everything is done again. The embedded ones follow from the parameters."""
    return (data_root,) if data_root and study.dataset != "synthetic" else ()


def checkpoint_step(study: Study, method: str, checkpoint: str, data_root: str, data_options: dict, overrides: dict) -> Step:
    """The one step that scores released weights."""
    run = study.checkpoint_run(method, checkpoint)
    place = {"profile": study.profile, "dataset": study.dataset, "results": str(study.root.parent)}
    data_place = {"data_root": data_root, "data_options": data_options}
    return Step(
        f"10_train/{run.name}",
        "10_train",
        {**place, **data_place, "method": method, "checkpoint": checkpoint, "overrides": overrides},
        produces=(f"runs/{run.name}/metrics.json",),
        title=f"{METHODS[method].title}, weights of {Path(checkpoint).name}",
        reads=(*PUBLISHED, checkpoint, *images_read(study, data_root)),
    )


def _weight(experiment: Experiment) -> float:
    """Expected share of the study's time: ABD-Net's second branch makes a step dearer."""
    return 1.5 if experiment.family == "abdnet" else 1.0


# ---------------------------------------------------------------------------------------------------- command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line, without the usage."""
        self.exit(2, f"run_all.py: {message}\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = _Parser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--profile",
        default=argparse.SUPPRESS,
        help="size of the study: "
        + "; ".join(f"{k}: {v.title}" for k, v in PROFILES.items())
        + " (default: demo; with --checkpoint: paper)",
    )
    parser.add_argument("--dataset", default="synthetic", help="one of " + ", ".join(DATASETS))
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the data set; default: its usual place under data/"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="methods to train; default: those of the profile")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds; default: those of the profile")
    parser.add_argument(
        "--switches",
        nargs="+",
        metavar="SWITCH",
        help="differences between paper and released code to train both sides of: all, none, or some of "
        + ", ".join(TRAINED_SWITCHES)
        + "; default: those of the profile, none with --methods",
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="FILE",
        help="score these released weights (.pth.tar) of the one method named by --methods in place of training",
    )
    parser.add_argument(
        "--set", nargs="+", metavar="NAME=VALUE", default=[], help="settings of every run, such as epochs=40 batch_size=16"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="options of the data set: include_val=True (MSMT17), allow_wrong_counts=True; the size of the embedded one, such as "
        "train_identities=751 test_identities=750 height=256 width=128",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", default=[], help="run these steps only (a notebook's or a step's name)"
    )
    parser.add_argument("--from", dest="start", metavar="STEP", default="", help="begin at this step")
    parser.add_argument("--force", action="store_true", help="run steps that are up to date, too")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and why; write nothing")
    parser.add_argument("--workers", type=int, default=default_workers(), metavar="N", help="steps at a time, sharing the cores")
    parser.add_argument("--results", default="", metavar="DIR", help="folder of the studies; default: results/ of this checkout")
    options = parser.parse_args(arguments)
    options.profile = getattr(options, "profile", "paper" if options.checkpoint else "demo")
    return options


def switch_names(asked: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The switches to train, from the names asked for."""
    if asked is None:
        return default
    if asked in (["all"], ["none"]):
        return TRAINED_SWITCHES if asked == ["all"] else ()
    return tuple(choose("switch", name, TRAINED_SWITCHES) for name in asked)


def default_workers() -> int:
    """One step at a time on a GPU; otherwise one a core, at most four: these networks are too small to keep many cores busy."""
    return 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1)


def settings(option: str, pairs: list[str]) -> dict:
    """NAME=VALUE pairs as Python values: numbers, True, False, None, tuples; anything else is text."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option} {pair}: expected NAME=VALUE.")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def absolute(path: str) -> str:
    """Notebooks run in their own folder, so a path has to stand by itself."""
    return str(Path(path).expanduser().absolute())


def checked_checkpoint(options: argparse.Namespace) -> str:
    """The absolute path of --checkpoint, "" without; ConfigError for options that do not go with it."""
    if not options.checkpoint:
        return ""
    for name, value in (("--seeds", options.seeds), ("--switches", options.switches)):
        if value:
            raise ConfigError(f"{name} is about training, and --checkpoint trains nothing: leave it out.")
    if len(options.methods or ()) != 1:
        raise ConfigError("--checkpoint needs --methods with the one method that the weights are of, such as --methods abdnet.")
    path = absolute(options.checkpoint)
    file_digest(Path(path))  # raises where there is no such file
    return path


def report(study: Study, every: list[Step], overrides: dict) -> Path:
    """Builds the report and returns its index page; a reference to anything outside it would be a defect."""
    made_by = provenance()
    facts = {
        "claim": CLAIM,
        "caveats": caveats(study.profile, study.dataset, overrides),
        "Data set": TITLES[study.dataset],
        "Profile": f"{study.profile}: {PROFILES[study.profile].title}",
        "Commit": made_by["commit"],
        "Versions": f"Python {made_by['python']}, torch {made_by['torch']}",
        "Hardware": f"{made_by['processor']}, {made_by['cores']} cores"
        + ("" if made_by["device"] == "cpu" else f", {made_by['device']}"),
    }
    if every[0].parameters.get("checkpoint"):
        facts["Weights"] = "released ones, scored only: nothing was trained here"
        every = []  # the pages of all weights that were scored
    index = build_report(study, title=TITLE, facts=facts, steps=every)
    outside = outside_references(index.parent)
    if outside:
        raise RuntimeError(f"The report refers to what lies outside it: {outside}")
    return index


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a step failed, 2 wrong call (nothing is written), 130 interrupted."""
    options = parse(arguments)
    try:
        profile = PROFILES[choose("profile", options.profile, PROFILES)]
        choose("data set", options.dataset, DATASETS)
        methods = [choose("method", method, METHODS) for method in options.methods or profile.methods]
        seeds = list(options.seeds or profile.seeds)
        overrides, data_options = settings("--set", options.set), settings("--data", options.data)
        if isinstance(overrides.get("pretrained"), str):
            overrides["pretrained"] = absolute(overrides["pretrained"])
        for method, seed in itertools.product(methods, seeds):
            experiment_for(method, dataset=options.dataset, profile=options.profile, seed=seed, **overrides)
        switches = switch_names(options.switches, () if options.methods else profile.switches)
        checkpoint = checked_checkpoint(options)
        study = open_study(options.profile, options.dataset, options.results, checkpoints=bool(checkpoint))
        data_root = absolute(options.data_root) if options.data_root else ""
        if options.dataset != "synthetic":
            # A wrong folder is found out here, before anything is written.
            data_root = str(study_dataset(study, data_root, data_options).root)
        else:
            synthetic_options(study, data_options)
            if data_root and Path(data_root).is_file():
                raise ConfigError(f"--data-root {options.data_root} is a file: name a folder, which need not exist yet.")
        if checkpoint:
            every = [checkpoint_step(study, methods[0], checkpoint, data_root, data_options, overrides)]
        else:
            every = steps(study, methods, seeds, data_root, data_options, overrides, switches)
        chosen = select(every, options.only, options.start)
        if options.force and not options.dry_run:
            for folder in (Path(name) for step in chosen for name in step.produces):
                if folder.parts[0] == study.runs.name:  # a finished run would be shown rather than repeated
                    run = study.root.joinpath(*folder.parts[:2])
                    with only_one(run):
                        set_aside(run)
        status = execute(chosen, study, force=options.force, dry_run=options.dry_run, workers=options.workers)
    except ReidError as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
    if not options.dry_run and status != 130:
        print(f"Report: {report(study, every, overrides)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
