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

from reidlib.config import METHODS, PROFILES, ConfigError, Experiment, caveats, choose, experiment_for
from reidlib.datasets import DATASETS
from reidlib.errors import ReidError
from reidlib.pipeline import Step, execute, select
from reidlib.report import build_report, outside_references
from reidlib.results import Study, open_study
from reidlib.runs import provenance, set_aside, study_dataset, synthetic_options
from reidlib.tables import TITLES

TITLE = "Attention for person re-identification: two papers reproduced"
CLAIM = (
    "ABD-Net claims that attention made diverse by orthogonality retrieves people better than attention alone; "
    "Parameter-Free Spatial Attention claims that weighting places by their summed response spreads activation over the body. "
    "Every figure and table here is made again from the runs listed below."
)
PUBLISHED = ("data/paper",)  # the papers' numbers: a table is made again when one of them is corrected


def steps(study: Study, methods: list[str], seeds: list[int], data_root: str, data_options: dict, overrides: dict) -> list[Step]:
    """Every notebook of the study with its parameters, in an order in which each comes after those it needs."""
    data_place = {"data_root": data_root, "data_options": data_options}
    place = {"profile": study.profile, "dataset": study.dataset, "results": str(study.root.parent), **data_place}
    data = Step(
        "01_data",
        "01_data",
        place,
        produces=("tables/data_statistics.csv", "tables/reference_points.csv", "figures/data_samples.png"),
        weight=0.3,
        reads=(data_root,) if data_root and study.dataset != "synthetic" else (),  # other images there: everything is done again
    )
    training = {
        (method, seed): Step(
            f"10_train/{method}-seed{seed}",
            "10_train",
            {**place, "method": method, "seed": seed, "overrides": overrides},
            needs=("01_data",),
            produces=(f"runs/{method}-seed{seed}/metrics.json", f"figures/curves_{method}-seed{seed}.png"),
            weight=_weight(experiment_for(method, profile=study.profile, **overrides)),
            title=f"{METHODS[method].title}, seed {seed}",
            reads=PUBLISHED,
        )
        for seed in seeds
        for method in methods
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
        shows("30_attention_maps", ["baseline+pam+cam", "abdnet-xe"], "figures/attention_maps.png"),
        shows("31_class_activation_maps", ["gap", "gap+sa1"], "figures/class_activation_maps.png"),
        shows("32_ranking_gallery", ["abdnet-xe", "baseline+pam+cam", "baseline"], "figures/ranking_gallery.png"),
        shows("90_report", methods, "tables/runs.csv", "tables/pfsa.csv", "figures/overview.png"),
    ]


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
        "--profile", default="demo", help="size of the study: " + "; ".join(f"{k}: {v.title}" for k, v in PROFILES.items())
    )
    parser.add_argument("--dataset", default="synthetic", help="one of " + ", ".join(DATASETS))
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the data set; default: its usual place under data/"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="methods to train; default: those of the profile")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds; default: those of the profile")
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
    return parser.parse_args(arguments)


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


def report(study: Study, every: list[Step]) -> Path:
    """Builds the report and returns its index page; a reference to anything outside it would be a defect."""
    made_by = provenance()
    facts = {
        "claim": CLAIM,
        "caveats": caveats(study.profile, study.dataset),
        "Data set": TITLES[study.dataset],
        "Profile": f"{study.profile}: {PROFILES[study.profile].title}",
        "Commit": made_by["commit"],
        "Versions": f"Python {made_by['python']}, torch {made_by['torch']}",
        "Hardware": f"{made_by['processor']}, {made_by['cores']} cores"
        + ("" if made_by["device"] == "cpu" else f", {made_by['device']}"),
    }
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
        study = open_study(options.profile, options.dataset, options.results)
        data_root = absolute(options.data_root) if options.data_root else ""
        if options.dataset != "synthetic":
            # A wrong folder is found out here, before anything is written.
            data_root = str(study_dataset(study, data_root, data_options).root)
        else:
            synthetic_options(study, data_options)
            if data_root and Path(data_root).is_file():
                raise ConfigError(f"--data-root {options.data_root} is a file: name a folder, which need not exist yet.")
        every = steps(study, methods, seeds, data_root, data_options, overrides)
        chosen = select(every, options.only, options.start)
        if options.force and not options.dry_run:
            for step in chosen:
                if step.notebook == "10_train":  # a finished run would be shown rather than repeated
                    set_aside(study.run(step.parameters["method"], step.parameters["seed"]))
        status = execute(chosen, study, force=options.force, dry_run=options.dry_run, workers=options.workers)
    except ReidError as error:
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
    if not options.dry_run and status != 130:
        print(f"Report: {report(study, every)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
