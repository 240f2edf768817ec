"""Makes the runs of a reference study: `python tools/make_reference.py STUDY --work DIR …`.

Runs that are missing are trained one after the other, all rows of one seed first, each in its own process.
A finished run is copied at once, as small files (reidlib.study.reference_files), into
results/reference/STUDY/. The copy is what counts: a run that is there with the same settings, images and code
is not made again.
The tool may be killed at any time. The same command goes on from the last epoch.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from reidlib.datasets import ReidDataset  # noqa: E402
from reidlib.errors import ReidError  # noqa: E402
from reidlib.files import absolute_path  # noqa: E402
from reidlib.settings import ConfigError, choose  # noqa: E402
from reidlib.study.command_line import named_values  # noqa: E402
from reidlib.study.pipeline import KEEP_MEMORY, THREAD_VARIABLES  # noqa: E402
from reidlib.study.points import keep_points, kept_points  # noqa: E402
from reidlib.study.reference import PLANS, ReferencePlan, plan_of  # noqa: E402
from reidlib.study.reference_files import is_kept, keep_run  # noqa: E402
from reidlib.study.results import REFERENCE, Study  # noqa: E402
from reidlib.study.runs import study_dataset  # noqa: E402

POLL = 0.5  # seconds between two looks at the running processes


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing.

    Returns:
        The exit status: 0 all runs are there, 1 a run failed, 2 wrong call, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        plan = _with(plan_of(options.study), named_values("--set", options.set))
        if plan.pretrained != bool(options.pretrained):
            need = "needs --pretrained FILE" if plan.pretrained else "takes no --pretrained"
            raise ConfigError(f"The reference study {plan.name} {need}.")
        if options.workers < 1 or options.threads < 1:
            raise ConfigError("--workers and --threads take whole numbers, 1 or more.")
        for name in ("data_root", "pretrained", "work", "into"):
            if getattr(options, name):
                setattr(options, name, str(absolute_path(getattr(options, name), f"--{name}")))
        if options.one:
            _make_one(plan, options)
            return 0
        return _make_missing(plan, options, arguments)
    except ReidError as error:
        print(f"make_reference.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_reference.py: interrupted. The same command goes on from there.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("study", help=f"one of {', '.join(plan.name for plan in PLANS)}")
    add("--data-root", default="", metavar="DIR", help="folder of the data set")
    add("--pretrained", default="", metavar="FILE", help="weights that the trunk starts from")
    add("--work", required=True, metavar="DIR", help="folder for checkpoints, weights, embeddings, logs")
    add("--into", default=str(REFERENCE), metavar="DIR", help="folder of the reference studies")
    add("--seeds", nargs="+", type=int, metavar="N", help="these seeds only")
    add("--methods", nargs="+", metavar="METHOD", help="these rows and variants only")
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        help="settings in place of the study's, to try this out: no page shows such runs",
    )
    add("--workers", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    add("--threads", type=int, default=1, metavar="N", help="threads of each run (default: 1)")
    add("--dry-run", action="store_true", help="print what would be trained; train nothing")
    add("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)  # what a process makes
    return parser


def _with(plan: ReferencePlan, settings: dict) -> ReferencePlan:
    by_family = {family: {**own, **settings} for family, own in plan.by_family.items()}
    return dataclasses.replace(plan, settings={**plan.settings, **settings}, by_family=by_family)


def _study(plan: ReferencePlan, options: argparse.Namespace) -> Study:
    return Study(plan.profile, plan.dataset, Path(options.work) / plan.name)


def _dataset(plan: ReferencePlan, options: argparse.Namespace) -> ReidDataset:
    return study_dataset(_study(plan, options), options.data_root, plan.data_options)


def _make_missing(plan: ReferencePlan, options: argparse.Namespace, arguments: list[str] | None) -> int:
    """Trains the runs that are missing, several at a time."""
    from reidlib.training.records import scores_record, weights_record  # imports torch

    runs = plan.runs()
    for method in options.methods or ():
        choose("method", method, {method for method, _ in runs})
    asked = [
        (method, seed)
        for method, seed in runs
        if method in (options.methods or [method]) and seed in (options.seeds or [seed])
    ]
    if not asked:
        raise ConfigError(f"The reference study {plan.name} has no such run.")
    dataset, root = _dataset(plan, options), Path(options.into) / plan.name
    todo = []
    for method, seed in asked:
        experiment = plan.experiment(method, seed, pretrained=options.pretrained)
        records = weights_record(experiment, dataset), scores_record(experiment, dataset)
        if not is_kept(f"{method}-seed{seed}", *records, root):
            todo.append((method, str(seed)))
    print(f"{plan.name}: {len(asked) - len(todo)} of {len(asked)} runs are there.", flush=True)
    if not kept_points(root, dataset.fingerprints["test"]):
        todo.insert(0, ("reference-points", "0"))
    if options.dry_run:
        print("\n".join(" seed ".join(one) for one in todo))
        return 0
    return _in_processes(todo, plan, options, sys.argv[1:] if arguments is None else arguments)


def _in_processes(
    todo: list[tuple[str, str]], plan: ReferencePlan, options: argparse.Namespace, arguments: list[str]
) -> int:
    """Makes each in a process of its own, `--workers` at a time, with its messages in a log file."""
    logs = Path(options.work) / plan.name / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**KEEP_MEMORY, **os.environ, **dict.fromkeys(THREAD_VARIABLES, str(options.threads))}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    failed = 0
    try:
        while todo or running:
            while todo and len(running) < options.workers:
                method, seed = todo.pop(0)
                name = f"{method}-seed{seed}"
                command = [sys.executable, __file__, *arguments, "--one", method, seed]
                with (logs / f"{name}.log").open("a") as log:
                    process = subprocess.Popen(
                        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                running[name] = process, time.monotonic()
                print(f"start   {name}", flush=True)
            time.sleep(POLL)
            for name, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                minutes = (time.monotonic() - started) / 60
                failed += process.returncode != 0
                said = "done   " if process.returncode == 0 else "FAILED "
                where = "" if process.returncode == 0 else f"  (see {logs / name}.log)"
                print(f"{said} {name}  {minutes:.1f} min{where}", flush=True)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return 1 if failed else 0


def _make_one(plan: ReferencePlan, options: argparse.Namespace) -> None:
    """Trains and keeps one run, or the reference points, in this process."""
    import torch

    from reidlib.training import fit

    torch.set_num_threads(options.threads)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    study, dataset, root = _study(plan, options), _dataset(plan, options), Path(options.into) / plan.name
    method, seed = options.one
    if method == "reference-points":
        from reidlib.evaluation import reference_points

        points = reference_points(plan.experiment("baseline"), dataset, cache=study.cache)
        keep_points(points, dataset.fingerprints["test"], root)
        return
    experiment = plan.experiment(method, int(seed), pretrained=options.pretrained)
    folder = study.run(method, int(seed))
    print(f"kept in {keep_run(fit(experiment, dataset, folder, cache=study.cache), root)}")


def _end_with_parent(parent: int) -> None:
    """Ends this process when the one that started it is gone, so that the next call finds the run free."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
