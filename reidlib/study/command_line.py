"""The command line of `run_all.py`: checks what is asked for, runs the steps, and builds the report.

All options are checked before anything is written.
"""

import argparse
import ast
import contextlib
import errno
import importlib.metadata
import itertools
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from reidlib.code_digest import Code
from reidlib.config import (
    METHODS,
    OF_BETA,
    OF_FILES,
    PROFILES,
    SETTINGS,
    caveats,
    experiment_for,
    switches_to_ask_for,
)
from reidlib.datasets import DATASET_TITLES, DATASETS
from reidlib.datasets.own_images import LABELS
from reidlib.errors import ReidError, shown
from reidlib.experiment import Experiment, Housekeeping, ScoringSettings
from reidlib.files import (
    REPOSITORY,
    FileError,
    absolute_path,
    digest,
    file_digest,
    read_json,
    require_writable,
    write_json,
)
from reidlib.settings import ConfigError, choose, in_short
from reidlib.study import own_images
from reidlib.study.holding import held
from reidlib.study.interrupts import interrupts
from reidlib.study.pipeline import execute, require_places
from reidlib.study.reference import PLANS, ReferenceStudy, read_reference, recorded_points
from reidlib.study.results import REFERENCE, Study, open_study
from reidlib.study.runs import study_dataset, synthetic_options, target_datasets
from reidlib.study.steps import PipelineError, Step, select
from reidlib.study.verify import REPORT, page_digests, verify


@dataclass(frozen=True)
class Request:
    """What one call asks for: the study, its runs and its data.

    `data_root`, `checkpoint` and `reference` are absolute paths or "". `checkpoint` is a file of released
    weights: they are scored, and nothing is trained. `reference` is the folder of a reference study, whose
    runs are shown. With `query_images`, one's own images in `data_root` are searched for them, by the network
    `run` (all absolute paths). `images` are the fingerprints of real images; synthetic ones follow
    from the parameters. `targets` are data sets to be scored on, too: name → absolute path, or "" for its
    usual place. `target_images` are the fingerprints of their test images.
    """

    study: Study
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    data_root: str = ""
    data_options: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    switches: tuple[str, ...] = ()
    checkpoint: str = ""
    reference: str = ""
    run: str = ""
    query_images: tuple[str, ...] = ()
    images: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    target_images: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Front:
    """What the report's first page says of the study.

    caveats, facts: of reference runs, in place of those of this call.
    beside: the reports on other data sets, as for `build_report`.
    """

    title: str
    claim: str
    caveats: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


MOST_WORKERS = 1000
LOOK = ("template.html", "style.css", "script.js", "explorer.js")

StepsOf = Callable[[Request], list[Step]]


def main(arguments: list[str] | None, steps_of: StepsOf, front: Front) -> int:
    """Runs what is asked for and builds the report.

    Args:
        arguments: the command line's, without the program's name; None: those of this process.
        steps_of: lists every step of the study for a request.
        front: what the report's first page says.

    Returns:
        The exit status: 0 done, 1 a step failed, something is not as it was written (--verify) or nobody
        reads the output any more, 2 wrong call (nothing is written), 130 interrupted.
    """
    _mend_streams()
    try:
        with interrupts():
            try:
                return _main(arguments, steps_of, front)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
    except OSError as error:
        if error.errno not in _NO_OUTPUT or error.filename is not None:  # a file's, and a bug
            raise
        _say_at_last(
            f"run_all.py: the output cannot be written any more ({error.strerror}), so it stopped. "
            "The same command goes on from there."
        )
        return 1
    except KeyboardInterrupt:
        print("run_all.py: interrupted.", file=sys.stderr)
        return 130


def _main(arguments: list[str] | None, steps_of: StepsOf, front: Front) -> int:
    options = parse(arguments)
    if options.reference:
        return _show_references(options, steps_of, front)
    try:
        request = own_images_request(options) if options.images else checked_request(options)
        front = own_images_front(request) if options.images else front
        every = steps_of(request)
        chosen = select(every, options.only, options.start)
        with contextlib.ExitStack() as holding:
            if options.force and not options.dry_run:
                require_places(chosen, request.study)
                require_writable(request.study.runs)
                holding.enter_context(held(request.study))
                set_runs_aside(chosen, request.study)
            return _run_and_report(request, chosen, every, options, front, holding)
    except (ReidError, OSError) as error:
        print(f"run_all.py: {_in_words(error)}", file=sys.stderr)
        return 2


def _run_and_report(
    request: Request,
    chosen: list[Step],
    every: list[Step],
    options: argparse.Namespace,
    front: Front,
    holding: contextlib.ExitStack,
) -> int:
    """Runs the chosen steps and builds the report. Returns the exit status.

    From the first file that is written, the study is held until `holding` ends.
    """
    if options.verify:
        return _verify(chosen, request.study)
    status = execute(
        chosen,
        request.study,
        force=options.force,
        dry_run=options.dry_run,
        workers=options.workers,
        threads=options.threads,
        scheduler=options.scheduler,
        timeout=60 * options.timeout,
        holding=holding,
    )
    if options.dry_run or status == 130:
        return status
    try:
        index = make_report(request, every, front, holding)
        print(f"Report: {index}", flush=True)
        if options.archive and not request.reference:
            _archive(index.parent, request.study.root / f"{request.study.root.name}.zip")
    except (ReidError, OSError) as error:
        print(f"run_all.py: the report cannot be made: {_in_words(error)}", file=sys.stderr)
        return 1
    return status


def _archive(site: Path, target: Path) -> None:
    from reidlib.report import write_archive

    print(f"Archive: {write_archive(site, target)}", flush=True)


def _verify(steps: list[Step], study: Study) -> int:
    """Prints what is not as it was written. Returns the exit status."""
    found = verify(steps, study)
    print("\n".join(found) or f"{study.root}: everything is as it was written, by this code.", flush=True)
    return 1 if found else 0


def _show_references(options: argparse.Namespace, steps_of: StepsOf, front: Front) -> int:
    """Makes the pages of the reference studies from their committed runs. Returns the exit status."""
    try:
        studies = checked_references(options)
        every = [steps_of(reference_request(study, options.results)) for study in studies]
        chosen = _select_in_some(every, options)
    except (ReidError, OSError) as error:
        print(f"run_all.py: {_in_words(error)}", file=sys.stderr)
        return 2
    looks = options.dry_run or options.verify
    statuses = []
    for study, steps, asked in zip(studies, every, chosen, strict=True):
        print(f"{study.title}. {study.sentence}", *study.left_out, sep="\n  ", flush=True)
        request = reference_request(study, options.results)
        try:
            with contextlib.ExitStack() as holding:
                points = recorded_points(study)
                if not looks and not request.study.has_table(points, "reference_points"):
                    require_writable(request.study.tables)
                    holding.enter_context(held(request.study))
                    request.study.save_table(points, "reference_points")
                own_front = _front_of(study, front, [other for other in studies if other is not study])
                statuses.append(_run_and_report(request, asked, steps, options, own_front, holding))
        except (ReidError, OSError) as error:
            print(f"run_all.py: {_in_words(error)}", file=sys.stderr)
            return 2
        if statuses[-1] == 130:
            return 130
    sites = reference_request(studies[0], options.results).study.report.parent  # of all studies
    if options.archive and not looks and sites.is_dir():
        try:
            _archive(sites, sites.with_suffix(".zip"))
        except (ReidError, OSError) as error:
            print(f"run_all.py: the archive cannot be made: {_in_words(error)}", file=sys.stderr)
            return 1
    return max(statuses)


def checked_references(options: argparse.Namespace) -> list[ReferenceStudy]:
    """The reference studies to show. All options are checked.

    Raises:
        ReidError: another option does not go with --reference, or there are no reference runs.
    """
    about_runs = {"profile", "dataset", "data_root", "checkpoint", *_LISTS, *_OWN_IMAGES}
    given = _given(options)
    for name in sorted(about_runs & given):
        raise ConfigError(
            f"--reference shows runs as they were made, and --{name.replace('_', '-')} cannot change them: "
            "leave it out."
        )
    _check_workers(options)
    root = absolute_path(options.reference, "--reference")
    studies = [read_reference(root / plan.name) for plan in PLANS]
    shown = [study for study in studies if study.runs]
    if not shown:
        left_out = " ".join(sentence for study in studies for sentence in study.left_out)
        raise ConfigError(
            f"There are no reference runs in {root} that can be shown. It holds a folder for each study "
            f"({', '.join(plan.name for plan in PLANS)}), which tools/make_reference.py makes. {left_out}"
        )
    for study in studies:
        if not study.runs and study.left_out:
            print(f"{study.title}: not shown.", *study.left_out, sep="\n  ")
    return shown


# Options that take several values.
_LISTS = ("methods", "seeds", "switches", "set", "data", "sources", "targets")
_OWN_IMAGES = ("images", "queries", "run", "labels", "skip_unreadable")


def _given(options: argparse.Namespace) -> set[str]:
    """Names of the options that were given, among those that take a value, and --skip-unreadable."""
    lists = {name for name in (*_LISTS, "queries", "skip_unreadable") if getattr(options, name)}
    return lists | options.__dict__.get("_given", set())


def own_images_request(options: argparse.Namespace) -> Request:
    """The request of --images. All options are checked.

    Raises:
        ReidError: an option is missing, impossible or about something else, or images cannot be read.
    """
    about_others = {"dataset", "data_root", "checkpoint", "seeds", "switches", "data", "reference"}
    about_others |= {"sources", "targets"}
    for name in sorted(about_others & _given(options)):
        raise ConfigError(
            f"--{name.replace('_', '-')} does not go with --images, which searches one's own images: leave "
            "it out."
        )
    for name, value in (("--queries", options.queries), ("--run", options.run)):
        if not value:
            wanted = "images to search for" if name == "--queries" else "a run's folder or a file of weights"
            raise ConfigError(f"--images needs {name}: {wanted}.")
    _check_workers(options)
    run, root = _absolute("--run", options.run), _absolute("--images", options.images)
    queries = tuple(_absolute("--queries", path) for path in options.queries)
    named = options.labels in LABELS
    labels = options.labels if named else _absolute("--labels", options.labels)
    overrides = named_values("--set", options.set)
    choose("profile", options.profile, PROFILES)
    of_file = [name for name in ("profile", "methods", "set") if name in _given(options)]
    method = own_images.require_weights(run, options.methods or (), of_file)
    experiment = own_images.weights_experiment(run, method, overrides, options.profile)
    if overrides:
        _check_settings_of_checkpoint(overrides, experiment.family)
    data_options = {"labels": labels, "skip_unreadable": options.skip_unreadable}
    study = open_study(experiment.profile, "folder", options.results, own_images=True, data_root=root)
    own = own_images.read_images(root, queries, data_options)
    print("\n".join(own.notes), file=sys.stderr)
    dataset = replace(own.dataset, cache=study.cache, keep_digests=False)
    return Request(
        study=study,
        methods=(method,),
        data_root=root,
        data_options=data_options,
        overrides=overrides,
        run=run,
        query_images=queries,
        images={"your": dataset.fingerprints["test"]},
    )


def own_images_front(request: Request) -> Front:
    """What the report's first page says of a study of one's own images."""
    profile = request.study.profile
    experiment = own_images.weights_experiment(request.run, request.methods[0], request.overrides, profile)
    return Front(
        title=f"Your images: {shown(Path(request.data_root).name)}",
        claim="A folder of images, searched for the people on other images.",
        caveats=tuple(own_images.own_caveats(experiment)),
        facts={"Weights": shown(Path(request.run).name), **_facts_of_this_call()},
    )


def reference_request(study: ReferenceStudy, results: str) -> Request:
    """What makes the pages of a reference study. `methods` are those that the first seed has."""
    plan, folder = study.plan, str(study.root)
    seeds = _each_once(run.seed for run in study.runs)
    return Request(
        study=open_study(plan.profile, plan.dataset, results, reference=folder),
        methods=_each_once(run.method for run in study.runs if run.seed == seeds[0]),
        seeds=seeds,
        overrides=study.overrides,
        reference=folder,
    )


def _select_in_some(every: list[list[Step]], options: argparse.Namespace) -> list[list[Step]]:
    """`select` in each study. A name has to fit a step of one of them, because not all have all pages."""
    chosen, problems = [], []
    for steps in every:
        try:
            chosen.append(select(steps, options.only, options.start))
        except PipelineError as error:
            chosen.append([])
            problems.append(error)
    if len(problems) == len(every):
        raise problems[0]
    return chosen


def _front_of(study: ReferenceStudy, front: Front, others: list[ReferenceStudy]) -> Front:
    sentences = (study.sentence, *study.caveats, *study.left_out)
    return replace(
        front,
        title=f"Reference runs: {study.title}",
        caveats=tuple(sentence.replace("`", "") for sentence in sentences),  # pages show them as plain text
        facts=study.origin,
        beside={other.title: f"../{other.name}/index.html" for other in others},
    )


# ------------------------------------------------------------------------------------------- standard streams


def _mend_streams() -> None:
    """Gives closed streams a place to write to, and writes signs that a terminal's encoding lacks as \\u….

    With standard error closed, messages go to standard output.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    while nowhere <= 2:  # otherwise the next file that is opened would be taken for a standard stream
        nowhere = os.open(os.devnull, os.O_RDWR)
    os.close(nowhere)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = sys.stdout
    for stream in {sys.stdout, sys.stderr}:
        with contextlib.suppress(AttributeError):  # a stream that is no file, as in a notebook
            stream.reconfigure(errors="backslashreplace")


# What a file system refuses, whatever the program does. Other errors of files are bugs.
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
}


def _in_words(error: ReidError | OSError) -> str:
    """What to print of an error. Raises it again if it is a bug, or one of the standard streams."""
    if isinstance(error, ReidError):
        return str(error)
    if error.filename is None or error.errno not in _REFUSED:
        raise error
    return f"{error.filename} cannot be read or written ({error.strerror}). Allow that, or make room there."


# What writing to a stream ends with: its reader is gone, its disk is full, its device is gone.
_NO_OUTPUT = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF}


def _say_at_last(message: str) -> None:
    """Prints a line where that still can be done. Broken streams lead nowhere from now on."""
    said = False
    for stream in (sys.stderr, sys.stdout):
        try:
            if not said:
                print(message, file=stream)
            stream.flush()
            said = True
        except OSError:
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


# -------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Exits with status 2 and one line, without the usage."""
        self.exit(2, f"run_all.py: {message if len(message) < 1000 else message[:300] + '…'}\n")


class _Once(argparse.Action):
    """Stores an option's value.

    A second value, which would replace the first without a word, is refused; so is an empty one, as an unset
    variable of a shell gives, which would stand for the default.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        if values == "":
            parser.error(f"{option_string} is empty: name a value, or leave the option out.")
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{option_string} is given twice: leave one out.")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the options. `checked_request` checks their values."""
    parser = _Parser(
        description="The study: runs every notebook that is out of date, in order, and builds the report.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    sizes = "; ".join(f"{name}: {profile.title}" for name, profile in PROFILES.items())
    add(
        "--profile",
        action=_Once,
        help=f"size of the study: {sizes} (default: demo; with --checkpoint, and --run with a file: paper)",
    )
    add(
        "--dataset",
        action=_Once,
        default="synthetic",
        help=f"one of {', '.join(DATASETS)} (default: synthetic)",
    )
    add(
        "--data-root",
        action=_Once,
        default="",
        metavar="DIR",
        help="folder of the data set (default: its usual place under data/)",
    )
    add(
        "-s",
        "--sources",
        nargs="+",
        action="extend",
        metavar="NAME=DIR",
        default=[],
        help="in place of --dataset and --data-root: train on these data sets joined, and test on the first; "
        "NAME is one of --dataset's, or any other name for a folder in Market-1501's layout",
    )
    add(
        "-t",
        "--targets",
        nargs="+",
        action="extend",
        metavar="NAME=DIR",
        default=[],
        help="also score the runs on the test images of these data sets (24_transfer); names as for "
        "--sources",
    )
    add(
        "--methods",
        nargs="+",
        action="extend",
        metavar="METHOD",
        help="methods to train (default: those of the profile)",
    )
    add(
        "--seeds",
        nargs="+",
        action="extend",
        type=int,
        metavar="N",
        help="seeds (default: those of the profile)",
    )
    add(
        "--switches",
        nargs="+",
        action="extend",
        metavar="SWITCH",
        help="differences between paper and released code to train both sides of, and the sweep of O.F.'s "
        f"weight ({OF_BETA}): all, none, or some of {', '.join(switches_to_ask_for('paper'))} (default: "
        "those of the profile, none with --methods)",
    )
    add(
        "--checkpoint",
        action=_Once,
        default="",
        metavar="FILE",
        help="score these released weights (.pth.tar) of the one method named by --methods "
        "in place of training",
    )
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        help="settings of every run, such as epochs=40 batch_size=16",
    )
    add(
        "--data",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        help="options of the data set: include_val=True (MSMT17), allow_wrong_counts=True; "
        "the size of the embedded one, such as "
        "train_identities=751 test_identities=750 height=256 width=128",
    )
    add(
        "--only",
        nargs="+",
        action="extend",
        metavar="STEP",
        default=[],
        help="run these steps only (a notebook's or a step's name)",
    )
    add("--from", action=_Once, dest="start", metavar="STEP", default="", help="begin at this step")
    add(
        "--reference",
        action=_Once,
        nargs="?",
        const=str(REFERENCE),
        default="",
        metavar="DIR",
        help="show the reference runs, which were made once, without training and without any data set "
        "(default: those in results/reference/)",
    )
    add(
        "--images",
        action=_Once,
        default="",
        metavar="DIR",
        help="search your own images: a folder of person crops, sub-folders included. It needs --queries and "
        "--run, and nothing is trained",
    )
    add(
        "--queries",
        nargs="+",
        action="extend",
        metavar="PATH",
        default=[],
        help="with --images: the images to search for, or folders of them",
    )
    add(
        "--run",
        action=_Once,
        default="",
        metavar="PATH",
        help="with --images: the folder of a finished run, or a file of released weights of the one method "
        "named by --methods",
    )
    add(
        "--labels",
        action=_Once,
        default="auto",
        metavar="FROM",
        help="with --images: where identity and camera come from. "
        + "; ".join(f"{name}: {what}" for name, what in LABELS.items())
        + "; or a CSV file with the columns file, identity and, if known, camera (default: auto)",
    )
    add(
        "--skip-unreadable",
        action="store_true",
        help="with --images: leave out images that cannot be read, and list them (default: an error)",
    )
    add("--force", action="store_true", help="run steps that are up to date, too")
    add("--dry-run", action="store_true", help="print what would run and why; write nothing")
    add(
        "--archive",
        action="store_true",
        help="also write the report as one zip with the digests of its files",
    )
    add(
        "--verify",
        action="store_true",
        help="read everything that was recorded and name what was changed, is missing or was made by other "
        "code (exit status 1 then); write nothing",
    )
    add(
        "--workers",
        action=_Once,
        type=int,
        metavar="N",
        help="steps at a time (default: one on a GPU, else one a core and at most four)",
    )
    add(
        "--threads",
        action=_Once,
        type=int,
        metavar="N",
        help="CPU threads of every step, however many run at a time: their number changes how sums are "
        "rounded (default: the cores divided by the GPUs, or by at most four)",
    )
    add(
        "--scheduler",
        action=_Once,
        default="",
        metavar="ADDRESS",
        help="run the steps on the workers of this Dask scheduler, such as tcp://HOST:8786; --results must "
        "lie on a file system that they share",
    )
    add(
        "--timeout",
        action=_Once,
        type=float,
        default=0,
        metavar="MINUTES",
        help="end a step that takes longer (default: none does)",
    )
    add(
        "--results",
        action=_Once,
        default="",
        metavar="DIR",
        help="folder of the studies (default: results/ of this checkout)",
    )
    options = parser.parse_args(arguments)
    if not options.images:
        for name in sorted({"queries", "run", "labels", "skip_unreadable"} & _given(options)):
            parser.error(f"--{name.replace('_', '-')} needs --images DIR, the folder that is searched.")
    if options.verify and (options.force or options.dry_run):
        parser.error("--verify only looks: leave out --force and --dry-run.")
    of_file = options.checkpoint or options.images
    options.profile = options.profile or ("paper" if of_file else "demo")
    return options


def checked_request(options: argparse.Namespace) -> Request:
    """The request that the options make. All of them are checked.

    Raises:
        ReidError: an option has an unknown or impossible value, or the data set cannot be read.
    """
    profile = PROFILES[choose("profile", options.profile, PROFILES)]
    dataset, data_root, data_options = _training_data(options)
    _check_workers(options)
    overrides = named_values("--set", options.set)
    for name in OF_FILES:
        if overrides.get(name) and isinstance(overrides[name], str):
            overrides[name] = _absolute(name, overrides[name])
    request = Request(
        study=open_study(options.profile, dataset, options.results, checkpoints=bool(options.checkpoint)),
        methods=_each_once(choose("method", name, METHODS) for name in options.methods or profile.methods),
        seeds=_each_once(options.seeds or profile.seeds),
        data_root=data_root,
        data_options=data_options,
        overrides=overrides,
        switches=switch_names(options.switches, options.profile, () if options.methods else profile.switches),
        checkpoint=_checked_checkpoint(options),
        targets=named_folders("--targets", options.targets),
    )
    for name in overrides:
        choose("setting", name, SETTINGS)
    experiments = [
        experiment_for(method, dataset=dataset, profile=options.profile, seed=seed, **overrides)
        for method, seed in itertools.product(request.methods, request.seeds)
    ]
    if isinstance(overrides.get("pretrained"), str):
        _check_pretrained(overrides["pretrained"], {experiment.backbone for experiment in experiments})
    if request.checkpoint:
        _check_settings_of_checkpoint(overrides, experiments[0].family)
    if overrides.get("start_from"):
        _check_start(overrides["start_from"], {one.method: one for one in experiments}.values())
    targets = target_datasets(request.study, request.targets, data_options, keep_digests=False)
    images = {name: target.fingerprints["test"] for name, target in targets.items()}
    request = replace(request, target_images=images)
    if dataset != "synthetic":
        found = study_dataset(request.study, request.data_root, request.data_options, keep_digests=False)
        root = "" if dataset == "joined" else str(found.root)
        return replace(request, data_root=root, images=found.fingerprints)
    synthetic_options(request.study, request.data_options)
    if request.data_root and Path(request.data_root).exists() and not Path(request.data_root).is_dir():
        raise ConfigError(
            f"--data-root {options.data_root} is a file: name a folder, which need not exist yet."
        )
    return request


def _training_data(options: argparse.Namespace) -> tuple[str, str, dict[str, Any]]:
    """The data set's name, its root and its options, from --dataset and --data-root or from --sources.

    Raises:
        ConfigError: they do not go together, or a value is unknown.
    """
    data_options = named_values("--data", options.data)
    if not options.sources:
        name = choose("data set", options.dataset, DATASETS)
        if name == "joined":
            raise ConfigError("--dataset joined needs the data sets to join: --sources NAME=DIR NAME=DIR.")
        return name, _absolute("--data-root", options.data_root) if options.data_root else "", data_options
    sources = named_folders("--sources", options.sources)
    given = options.__dict__.get("_given", set())
    if "data_root" in given or ("dataset" in given and options.dataset != "joined"):
        raise ConfigError("--sources names the data sets: leave out --dataset and --data-root.")
    if "sources" in data_options:
        raise ConfigError("--data sources=… is not an option of its own: name them with --sources.")
    if len(sources) > 1:
        return "joined", "", {**data_options, "sources": sources}
    ((name, folder),) = sources.items()
    if name not in DATASETS and not folder:
        choose("data set", name, DATASETS)
    return name if name in DATASETS else "folder", folder, data_options


def named_folders(option: str, pairs: list[str]) -> dict[str, str]:
    """NAME=DIR pairs, or NAME alone, as name → absolute path, or "" for the usual place.

    Raises:
        ConfigError: a name cannot be one or is given twice, or a path is empty. The message names the option.
    """
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not _NAME_OF_DATA.fullmatch(name) or (equals and not folder):
            raise ConfigError(f"{option} {in_short(pair)}: expected NAME=DIR, or NAME for its usual place.")
        if name in folders:
            raise ConfigError(f"{option} has {in_short(name)} twice: leave one out, or name it differently.")
        folders[name] = _absolute(f"{option} {name}", folder) if folder else ""
    return folders


_NAME_OF_DATA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def _check_workers(options: argparse.Namespace) -> None:
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= MOST_WORKERS:
            raise ConfigError(
                f"--{name} {in_short(value)}: expected a whole number, 1 or more and at most {MOST_WORKERS}."
            )
    if options.scheduler and options.workers is not None:
        raise ConfigError("--scheduler has workers of its own: leave out --workers.")
    if options.scheduler and not re.fullmatch(r"(tcp|tls|ws|wss)://\S+:\d+", options.scheduler):
        raise ConfigError(
            f"--scheduler {in_short(options.scheduler)}: expected an address such as tcp://HOST:8786."
        )
    if not 0 <= options.timeout < math.inf:
        raise ConfigError(f"--timeout {options.timeout}: expected minutes, 0 or more.")


def switch_names(asked: list[str] | None, profile: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The switches to train, the sweep among them: those asked for, or `default` if `asked` is None.

    In place of names, `asked` may be ["all"] or ["none"].

    Raises:
        ConfigError: there is no such switch, or the profile cannot train it.
    """
    known = switches_to_ask_for(profile)
    if asked is None:
        return default
    if asked in (["all"], ["none"]):
        return known if asked == ["all"] else ()
    for name in asked:
        if choose("switch", name, switches_to_ask_for("paper")) not in known:
            raise ConfigError(
                f"--switches {name} changes the papers' schedule, which the profile {profile} replaces: "
                "it needs --profile paper."
            )
    return _each_once(asked)


def _each_once(values: Iterable[Any]) -> tuple[Any, ...]:
    """The values in their order, without repetitions."""
    return tuple(dict.fromkeys(values))


def named_values(option: str, pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as Python values: numbers, True, False, None, tuples; anything else is text.

    Raises:
        ConfigError: a pair has no "=", or a name is given twice. The message names the option.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"{option} {in_short(pair)}: expected NAME=VALUE.")
        if name in values:
            raise ConfigError(f"{option} has {in_short(name)} twice: leave one out.")
        values[name] = _value(text)
    return values


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about odd but valid literals
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _absolute(what: str, path: str) -> str:
    """The absolute path. Notebooks run in another folder, where a relative path means something else."""
    return str(absolute_path(path, what))


def _check_pretrained(path: str, backbones: Iterable[str]) -> None:
    """Checks that a file of ImageNet weights fits, which a run would find out after minutes only."""
    from reidlib.models.backbone import require_backbone_file  # imports torch

    for backbone in sorted(backbones):
        try:
            require_backbone_file(backbone, Path(path))
        except ReidError as error:
            raise ConfigError(f"pretrained takes True, False or a file of weights: {error}") from None


def _check_start(path: str, experiments: Iterable[Experiment]) -> None:
    """Checks that a file to train on from fits every method's network, but for the number of people."""
    from reidlib.checkpoints import require_fit  # imports torch
    from reidlib.torch_files import read_torch_file

    try:
        content = read_torch_file(Path(path))
        for experiment in experiments:
            require_fit(experiment, content, source=path)
    except ReidError as error:
        raise ConfigError(f"start_from takes a file of a whole network: {error}") from None


def _check_settings_of_checkpoint(overrides: Iterable[str], family: str) -> None:
    """Refuses settings that cannot change the scores of weights which are there."""
    from reidlib.models.networks import FAMILIES  # imports torch

    kept = {item.name for group in (ScoringSettings, Housekeeping) for item in fields(group)}
    kept |= {"height", "width", *FAMILIES[family][1]} - {"pretrained"}
    for name in overrides:
        if name not in kept:
            raise ConfigError(
                f"--set {name} is about training, and --checkpoint trains nothing: leave it out. It takes "
                "the settings of the network and of scoring."
            )


def _checked_checkpoint(options: argparse.Namespace) -> str:
    """The absolute path of --checkpoint, or "".

    Raises:
        ConfigError: another option does not go with it.
        CheckpointError: the file is missing, cannot be read, or holds no state dict.
    """
    if not options.checkpoint:
        return ""
    for name, value in (("--seeds", options.seeds), ("--switches", options.switches)):
        if value:
            raise ConfigError(f"{name} is about training, and --checkpoint trains nothing: leave it out.")
    if len(options.methods or ()) != 1:
        raise ConfigError(
            "--checkpoint needs --methods with the one method that the weights are of, "
            "such as --methods abdnet."
        )
    from reidlib.checkpoints import state_dict_in  # imports torch
    from reidlib.torch_files import read_torch_file

    path = _absolute("--checkpoint", options.checkpoint)
    state_dict_in(read_torch_file(Path(path)), path)
    return path


def set_runs_aside(steps: list[Step], study: Study) -> None:
    """Sets aside the finished runs of these steps, so that they are made again instead of shown."""
    products = [Path(product) for step in steps for product in step.produces]
    names = {product.parts[1] for product in products if product.parts[0] == study.runs.name}
    for folder in sorted(study.runs / name for name in names if (study.runs / name).exists()):
        from reidlib.training.run_folder import RunFolder  # imports torch

        with RunFolder(folder).only_one():
            RunFolder(folder).set_aside()


# ---------------------------------------------------------------------------------------------------- report


def make_report(
    request: Request, steps: list[Step], front: Front, holding: contextlib.ExitStack | None = None
) -> Path:
    """Builds the report if anything that it shows has changed, and returns the path of its index page.

    The study is held meanwhile, or until `holding` ends.
    """
    study = request.study
    shown = [] if request.checkpoint else steps  # []: a page for every checkpoint that was scored
    state = study.steps / f"{REPORT}.json"
    index = study.report / "index.html"
    if _is_current(state, _report_digest(request, shown, front)):
        return index
    from reidlib.report import build_report, outside_references

    facts = {
        "claim": front.claim,
        "caveats": front.caveats or caveats(study.profile, study.dataset, request.overrides),
        "Data set": DATASET_TITLES[study.dataset],
        "Profile": f"{study.profile}: {PROFILES[study.profile].title}",
        **(front.facts or _facts_of_this_call()),
    }
    if request.checkpoint:
        facts["Weights"] = "released ones, scored only: nothing was trained here"
    require_writable(study.report)
    require_writable(state.parent)
    with contextlib.ExitStack() as own:
        (holding or own).enter_context(held(study))
        state.unlink(missing_ok=True)
        papers = not request.query_images
        index = build_report(
            study, title=front.title, facts=facts, steps=shown, papers=papers, beside=front.beside
        )
        outside = outside_references(index.parent, front.beside.values())
        if outside:  # a bug
            raise RuntimeError(f"The report refers to what lies outside it: {outside}")
        pages = page_digests(study.report)
        write_json(state, {"made_from": _report_digest(request, shown, front), "pages": pages})
    return index


def _facts_of_this_call() -> dict[str, str]:
    from reidlib.provenance import provenance_here

    made_by = provenance_here()
    gpu = "" if made_by["device"] == "cpu" else f", {made_by['device']}"
    return {
        "Commit": made_by["commit"],
        "Versions": f"Python {made_by['python']}, torch {made_by['torch']}",
        "Hardware": f"{made_by['processor']}, {made_by['cores']} cores{gpu}",
    }


def _is_current(state: Path, made_from: str) -> bool:
    try:
        return read_json(state)["made_from"] == made_from
    except (FileError, KeyError, TypeError):  # none yet, or a damaged one
        return False


def _report_digest(request: Request, steps: list[Step], front: Front) -> str:
    """Digest of everything that the report is made from, and of its pages as they are on disk."""
    from reidlib.provenance import commit

    study = request.study
    shown = [
        *study.notebooks.rglob("*.ipynb"),
        *study.runs.glob("*/metrics.json"),
        *study.report.glob("*.html"),
    ]
    files = {
        os.path.relpath(path, study.root): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in shown
        if not path.name.startswith(".")
    }
    return digest(
        {
            "files": sorted(files.items()),
            "steps": [(step.name, step.title, step.front) for step in steps],
            "front": (front.title, front.claim, front.caveats, front.facts, str(request.overrides)),
            "beside": front.beside,
            "code": Code().used([("reidlib.report", "build_report"), ("reidlib.study.command_line", "")]),
            "look": {name: file_digest(REPOSITORY / "reidlib" / "report" / name) for name in LOOK},
            "versions": (platform.python_version(), importlib.metadata.version("torch")),
            "commit": commit(),
            "checkpoint": request.checkpoint,
        }
    )
