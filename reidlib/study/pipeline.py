"""Runs the study: executes the notebooks that are out of date, in order or several at a time.

Every step runs in its own process (reidlib.study.notebook_process). The state file of a finished step records
what the step depended on, so a second run of an unchanged study runs nothing. If only the text of a notebook
changed, its executed copy gets the new text.
"""

import contextlib
import datetime
import json
import math
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reidlib.files import (
    REPOSITORY,
    FileError,
    plain,
    read_json,
    require_writable,
    write_atomically,
    write_json,
)
from reidlib.progress import MAIN_UNIT, VARIABLE, fraction, read_state, tqdm_class
from reidlib.study.engine import LOOPBACK, InTurn, OnCluster, engine_for, gpus_here
from reidlib.study.fingerprints import StepPlan, looked_at, plan_steps
from reidlib.study.first_minutes import TRAINS, check_runs
from reidlib.study.holding import held, holder_file
from reidlib.study.interrupts import Interrupts, interrupts
from reidlib.study.results import Study
from reidlib.study.step_process import GO, PATIENCE, STARTED, Outcome, lost
from reidlib.study.steps import PipelineError, Step, notebook_path
from reidlib.study.times import (
    earlier_seconds,
    expected_seconds,
    in_words,
    record_event,
    seconds_left,
    seconds_to_the_end,
)

POLL = 0.25  # seconds between two looks at the running steps
LACKS_UNSAID = 60  # seconds that a cluster may lack workers without a word, as while it starts them
PROGRESS = "progress.json"
MOST_AT_A_TIME = 4  # steps on a machine without a GPU: they are too small to keep many cores busy
TAKES_A_GPU = ("10_train", "23_classification")  # notebooks that train
SLOWEST = 3  # steps that the end names
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Freed memory stays with the process. Otherwise it goes back to the system after every training step, and
# asking for it again costs 4 to 6 % of a step on a CPU. These variables are glibc's; other C libraries ignore
# them.
KEEP_MEMORY = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 30))


def execute(
    steps: Iterable[Step],
    study: Study,
    *,
    force: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str = "",
    timeout: float = 0,
    stream=None,
    repository: Path = REPOSITORY,
    holding: contextlib.ExitStack | None = None,
) -> int:
    """Runs the steps that are out of date. A step waits for those it needs.

    One worker takes them in order. Of several, each takes the step on which the longest chain waits.

    The notebook of a failed step is kept, with the traceback, as <step>.failed.ipynb. Steps that need the
    failed step are skipped; the others still run.

    Args:
        force: also run steps that are up to date.
        dry_run: print what would run and why; write nothing.
        workers: how many steps run at a time; None: `default_workers()`.
        threads: CPU threads of every step; None: `default_threads()`. They do not depend on `workers`,
            because their number changes how sums are rounded.
        scheduler: the address of a Dask scheduler whose workers run the steps; "": this machine does.
        timeout: seconds that a step may take; 0: any.
        stream: where messages go; None: standard error.
        repository: the checkout whose notebooks and code are used.
        holding: the study is held until this ends, if something is to be run; None: until the last step.

    Returns:
        The exit status: 0 done, 1 a step failed, 130 interrupted.

    Raises:
        ReidError: the steps, their parameters or `workers` are wrong, or this machine lacks what notebooks
            need: a place for their results, or connections to itself. Nothing has run then.
    """
    stream = stream or sys.stderr
    if workers is not None and workers < 1:
        raise PipelineError(f"The number of workers must be at least 1, not {workers}.")
    steps = list(steps)
    plans = plan_steps(steps, study, force, repository)
    if dry_run:
        width = max((len(plan.step.name) for plan in plans), default=0)
        for plan in plans:
            state = "up to date" + (" (its text changed: the executed copy gets it)" if plan.refresh else "")
            print(f"{plan.step.name:{width}}  {f'run: {plan.reason}' if plan.reason else state}", file=stream)
        return 0
    require_places([plan.step for plan in plans if plan.reason or plan.refresh], study)
    if any(plan.reason or plan.refresh for plan in plans):
        with contextlib.ExitStack() as own:
            (holding or own).enter_context(held(study))
            # Another call may have made some of it meanwhile.
            plans = plan_steps(steps, study, force, repository)
            status = _run(plans, study, stream, repository, workers, scheduler, threads, timeout)
        if status:
            return status
    _summarize(plans, stream)
    return 1 if any(plan.status in ("failed", "skipped") for plan in plans) else 0


def _run(
    plans: list[StepPlan],
    study: Study,
    stream,
    repository: Path,
    workers: int | None,
    scheduler: str,
    threads: int | None,
    timeout: float,
) -> int:
    """Runs what has a reason, and puts new text into executed copies. Returns 130 if interrupted, else 0."""
    for plan in plans:
        if plan.refresh:
            _refresh_text(plan, study, repository)
    if not any(plan.reason for plan in plans):
        return 0
    _require_loopback()
    at_a_time = workers or default_workers()
    for line in check_runs(plans, study, at_a_time):
        print(line, file=stream, flush=True)
    todo = sum(bool(plan.reason) for plan in plans)
    with (
        interrupts() as asked,
        _scratch_folder(study) as scratch,
        engine_for(at_a_time, scheduler, scratch, steps=todo) as engine,
    ):
        runner = _Runner(plans, study, stream, repository, scratch, engine)
        runner.threads, runner.timeout = threads or default_threads(), timeout
        # A worker elsewhere does not end with this process.
        runner.holder = str(holder_file(study)) if scheduler else ""
        try:
            runner.run()
        except KeyboardInterrupt:
            kept = runner.stop(asked)
            print(
                f"Interrupted. {kept} finished steps are kept; the same command goes on from there.",
                file=stream,
            )
            return 130
        except BaseException:  # such as a closed pipe where messages go
            runner.stop(asked)
            raise
    return 0


def require_places(steps: Sequence[Step], study: Study) -> None:
    """Checks that everything can be written that these steps will write.

    Raises:
        FileError: a place cannot be written.
    """
    written = [path for step in steps for path in (step.executed(study), step.state(study))]
    written += [study.root / product for step in steps for product in step.produces]
    for folder in dict.fromkeys(path.parent for path in written):
        require_writable(folder)


def _require_loopback() -> None:
    """Checks that this machine can connect to itself, as notebooks and their kernels do.

    Without that, a notebook would wait for minutes and not say why.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise PipelineError(
            f"This machine cannot connect to itself at {LOOPBACK} ({error.strerror or error}), which "
            "notebooks need. Bring its loopback interface up (as root: ip link set lo up), or allow such "
            "connections."
        ) from error


@contextlib.contextmanager
def _scratch_folder(study: Study) -> Iterator[Path]:
    """A folder for what running steps tell each other; removed at the end.

    It lies in the study and not among the system's temporary files, which may be full or on another machine.
    """
    for left in study.root.glob(".running-*"):  # by a call that was killed: this one holds the study
        shutil.rmtree(left, ignore_errors=True)
    scratch = study.root / f".running-{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise FileError(f"{scratch} cannot be made ({error.strerror}). Make room or allow that.") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def default_threads() -> int:
    """CPU threads of a step: as many as are left to each of the steps that this machine runs at a time.

    That is a share for each GPU, or for each of at most four cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (len(gpus_here()) or min(MOST_AT_A_TIME, cores)))


def default_workers() -> int:
    """How many steps run at a time: one on a GPU; otherwise one per core, at most four.

    The networks are too small to keep many cores busy.
    """
    drivers = map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if sys.platform != "linux" or any(driver.exists() for driver in drivers):
        import torch  # takes seconds, which a machine without a GPU need not wait for

        if torch.cuda.is_available():
            return 1
    return min(MOST_AT_A_TIME, os.cpu_count() or 1)


class _Runner:
    """Runs planned steps and shows their progress bars."""

    threads, timeout, holder = 1, 0.0, ""

    def __init__(
        self,
        plans: list[StepPlan],
        study: Study,
        stream,
        repository: Path,
        scratch: Path,
        engine: InTurn | OnCluster,
    ):
        self.plans, self.study, self.engine = plans, study, engine
        self.stream, self.repository, self.scratch = stream, repository, scratch
        self.bars = stream.isatty()
        self.todo = [plan for plan in plans if plan.reason]
        self.running: dict[str, _Shown] = {}  # by the step's name
        self.futures: dict[str, Any] = {}  # of concurrent.futures or of Dask
        (scratch / STARTED).mkdir()
        for name in (GO, PATIENCE):
            (scratch / name).touch()
        earlier = earlier_seconds(study)
        self.expected = expected_seconds([plan.step for plan in self.todo], earlier)
        for plan in self.todo:
            plan.earlier = earlier.get(plan.step.name, 0.0)
        self.order = self.todo
        if engine.workers > 1:
            before_end = seconds_to_the_end([plan.step for plan in self.todo], self.expected)
            self.order = sorted(self.todo, key=lambda plan: -before_end[plan.step.name])
        self.ended = threading.Event()  # a step has ended
        self.estimated = False  # whether the time of all trainings was said
        self.lacks, self.lacks_since = "", 0.0  # what the engine has not, since when; inf: said
        self.bar = tqdm_class()(
            total=sum(self.expected.values()),
            bar_format="{desc} {percentage:3.0f}%|{bar}| [{elapsed}]",
            file=stream,
            disable=not self.bars or not self.todo,
        )

    def run(self) -> None:
        try:
            record_event(self.study, "begin", steps=len(self.todo))
            if self.engine.dashboard:
                self._say(f"Dask's dashboard: {self.engine.dashboard}")
            while any(plan.status in ("waiting", "running") for plan in self.todo):
                self._hand_over()
                self.ended.wait(POLL)
                self.ended.clear()
                started = {path.name for path in (self.scratch / STARTED).iterdir()}
                for plan in self._out():
                    if plan.status == "waiting" and self._folder(plan).name in started:
                        self._show(plan)
                    if self.futures[plan.step.name].done():
                        self._finish(plan)
                self._say_what_lacks()
                self._draw()
            record_event(self.study, "end", status="done")
        finally:
            self.bar.close()

    def stop(self, asked: Interrupts) -> int:
        """Ends every running step and its kernel; returns how many steps were finished in this call.

        A second interrupt meanwhile kills the kernels that do not stop at once.
        """
        (self.scratch / GO).unlink(missing_ok=True)
        record_event(self.study, "end", status="interrupted")
        running = [self.futures[name] for name in self.running]
        for future in self.futures.values():
            if future not in running:
                future.cancel()
        while not all(future.done() for future in running):
            if asked.count > 1:
                (self.scratch / PATIENCE).unlink(missing_ok=True)
            time.sleep(POLL)
        for shown in self.running.values():
            shown.close()
        # A running step has no state file unless it was finished meanwhile.
        meanwhile = [shown.plan for shown in self.running.values()]
        kept = sum(plan.status == "done" for plan in self.todo)
        return kept + sum(plan.step.state(self.study).is_file() for plan in meanwhile)

    def _outcome(self, name: str) -> Outcome:
        if self.futures[name].cancelled():
            return lost("the scheduler is gone" if name in self.running else "it was not begun")
        try:
            return self.futures[name].result()
        except Exception as error:  # noqa: BLE001  # Dask's: its workers died with it, its scheduler is gone
            return lost(f"{type(error).__name__}: {error}")

    def _folder(self, plan: StepPlan) -> Path:
        return self.scratch / f"step{self.plans.index(plan)}"

    def _out(self) -> list[StepPlan]:
        """The steps that were handed over and have not ended."""
        return [
            plan
            for plan in self.todo
            if plan.step.name in self.futures and plan.status in ("waiting", "running")
        ]

    def _hand_over(self) -> None:
        """Gives steps that need nothing more to free workers.

        Leaves out what needs a failed step, and everything where the cluster is gone.
        """
        gone = self.engine.gone
        status = {plan.step.name: plan.status for plan in self.todo}
        for plan in self.order:
            needed = {status[name] for name in plan.step.needs if name in status}
            if plan.step.name in self.futures or plan.status == "skipped":
                continue
            if needed & {"waiting", "running"} and not gone:
                continue
            if needed - {"done"} or gone:
                status[plan.step.name] = plan.status = "skipped"
                self.bar.total -= self.expected[plan.step.name]
                record_event(self.study, "skipped", step=plan.step.name)
                continue
            out = [_trains(other) for other in self._out()]
            if self.engine.is_free(training=_trains(plan), out=out):
                self._submit(plan)

    def _say_what_lacks(self) -> None:
        """Says it once for each time that a cluster has lacked workers for a while. Steps wait for them."""
        left = [plan for plan in self.todo if plan.status in ("waiting", "running")]
        lacks = self.engine.lacks(training=any(map(_trains, left)))
        if lacks != self.lacks:
            self.lacks, self.lacks_since = lacks, time.monotonic()
        if lacks and left and time.monotonic() - self.lacks_since > LACKS_UNSAID:
            self.lacks_since = math.inf
            self._say(
                f"{len(left)} steps wait for {lacks}: the cluster has none. They go on when it has one."
            )

    def _submit(self, plan: StepPlan) -> None:
        step, study, folder = plan.step, self.study, self._folder(plan)
        folder.mkdir()
        task = {
            "notebook": str(notebook_path(step, self.repository)),
            "output": str(step.executed(study).with_name(f".{step.executed(study).stem}.running.ipynb")),
            "executed": str(step.executed(study)),
            "failed": str(step.failed(study)),
            "state": str(step.state(study)),
            "figures": sum(Path(name).match("figures/*.png") for name in step.produces),
            "repository": str(self.repository),
            "library": str(REPOSITORY),
            "study": asdict(study),
            "step": asdict(step),
            "planned": {"fingerprint": plan.fingerprint, "parts": plan.parts, "text": plan.text},
            "timeout": self.timeout,
            "earlier": plan.earlier,
            "holder": self.holder,
            "environment": {
                VARIABLE: str(folder / PROGRESS),
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # silences the debugger about frozen modules
                **KEEP_MEMORY,
                **dict.fromkeys(THREAD_VARIABLES, str(self.threads)),
                # What the user has set counts, and not what a cluster sets for its workers.
                **{name: os.environ[name] for name in {*THREAD_VARIABLES, *KEEP_MEMORY} & os.environ.keys()},
            },
        }
        (folder / "task.json").write_text(json.dumps(plain(task)))
        future = self.engine.submit(folder, training=_trains(plan))
        self.futures[step.name] = future
        future.add_done_callback(lambda _: self.ended.set())

    def _show(self, plan: StepPlan) -> None:
        plan.status = "running"
        slots = {shown.slot for shown in self.running.values()}
        slot = min(number for number in range(len(self.running) + 1) if number not in slots)
        self.running[plan.step.name] = _Shown(plan, self._folder(plan) / PROGRESS, slot, self.stream)
        record_event(self.study, "start", step=plan.step.name, reason=plan.reason)
        if not self.bars:
            self._say(f"start   {plan.step.name}  ({plan.reason})")

    def _say_lines(self, shown: "_Shown") -> None:
        if not self.bars:
            for line in shown.new_lines():
                self._say(f"[{shown.plan.step.name}] {line}")

    def _finish(self, plan: StepPlan) -> None:
        name = plan.step.name
        outcome = self._outcome(name)
        if shown := self.running.pop(name, None):
            self._say_lines(shown)
            shown.close()
        plan.seconds, plan.cpu_seconds = outcome["seconds"], outcome.get("cpu_seconds", 0.0)
        failed = plan.step.failed(self.study)
        if outcome["lacks"]:
            plan.status = "lacks runs"
            self._say(f"no runs {name}: {outcome['error']}")
        elif outcome["error"]:
            plan.status = "failed"
            where = f"\n        notebook with the traceback: {failed}" if failed.is_file() else ""
            self._say(f"FAILED  {name}: {outcome['error']}{where}")
        else:
            plan.status = "done"
            self._say(f"done    {name}  {plan.seconds:.0f} s{self._left()}")
        kept = {
            key: outcome[key] for key in ("seconds", "cpu_seconds", "peak_memory", "error") if key in outcome
        }
        record_event(self.study, plan.status, step=name, **kept)

    def _seconds_left(self) -> float:
        expected = {plan.step.name: self.expected[plan.step.name] for plan in self.todo}
        ended = [plan for plan in self.todo if plan.status not in ("waiting", "running")]
        done = {plan.step.name: plan.seconds for plan in ended if plan.status == "done"}
        others = {plan.step.name for plan in ended} - done.keys()
        running = {name: (shown.seconds(), shown.share()) for name, shown in self.running.items()}
        known = {name: seconds for name, seconds in expected.items() if name not in others}
        return seconds_left(known, done, running, self.engine.workers)

    def _left(self) -> str:
        """How far the study is and how long it takes still, for a log."""
        count = sum(plan.status not in ("waiting", "running") for plan in self.todo)
        if self.bars or count == len(self.todo):
            return ""
        return f"  ({count}/{len(self.todo)}, about {in_words(self._seconds_left())} left)"

    def _estimate(self) -> None:
        """Says once, after the first epoch of a training, how long it and all of them will take."""
        for name, shown in self.running.items():
            if self.estimated or shown.plan.step.notebook != TRAINS or not (epoch := shown.epoch_seconds()):
                continue
            self.estimated = True
            share = max(shown.share(), 1e-6)
            one = shown.seconds() / share
            trains = [plan.step.weight for plan in self.todo if plan.step.notebook == TRAINS]
            every = max(one * sum(trains) / shown.plan.step.weight / self.engine.workers, one)
            self._say(
                f"An epoch of {name} takes {in_words(epoch)}, so this run about {in_words(one)} and all "
                f"{len(trains)} runs about {in_words(every)}, {self.engine.workers} at a time."
            )
            for plan in self.todo:  # what was guessed of trainings is known better now
                if plan.step.notebook == TRAINS and not plan.earlier:
                    self.expected[plan.step.name] = one * plan.step.weight / shown.plan.step.weight
            self.bar.total = sum(self.expected.values())

    def _draw(self) -> None:
        ended = [plan for plan in self.todo if plan.status in ("done", "failed", "lacks runs")]
        self.bar.n = sum(self.expected[plan.step.name] for plan in ended)
        self.bar.n += sum(self.expected[name] * shown.share() for name, shown in self.running.items())
        left = in_words(self._seconds_left()) if self.bars else ""
        text = f"study: {len(ended)}/{len(self.todo)} steps, about {left} left"
        self.bar.set_description_str(text, refresh=False)
        self.bar.refresh()
        self._estimate()
        for shown in self.running.values():
            self._say_lines(shown)
            shown.draw()

    def _say(self, text: str) -> None:
        """Prints a line above the bars; in a log, with the time."""
        if not self.bars:
            text = f"{datetime.datetime.now():%H:%M:%S} {text}"
        tqdm_class().write(text, file=self.stream)
        self.stream.flush()


def _trains(plan: StepPlan) -> bool:
    return plan.step.notebook in TAKES_A_GPU


class _Shown:
    """The bar and the lines of a step that runs.

    progress: what its kernel writes (`reidlib.progress`).
    """

    def __init__(self, plan: StepPlan, progress: Path, slot: int, stream):
        self.plan, self.progress, self.slot = plan, progress, slot
        self.lines_read = 0
        self.highest_share = 0.0
        self.started = time.monotonic()
        self.first: tuple[float, int] | None = None  # time and number of the first epoch that was seen
        self.bar = tqdm_class()(
            total=1.0,
            position=slot + 1,
            leave=False,
            file=stream,
            disable=not stream.isatty(),
            bar_format="  {desc} [{elapsed}]",
            desc=plan.step.name,
        )

    def new_lines(self) -> list[str]:
        """The complete lines that were added since the last call."""
        path = Path(f"{self.progress}.lines")
        if not path.is_file():
            return []
        whole = path.read_text(encoding="utf-8").split("\n")[:-1]
        new, self.lines_read = whole[self.lines_read :], len(whole)
        return new

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def epoch_seconds(self) -> float:
        """Seconds that an epoch takes, without those that were done before; 0: not known yet."""
        contexts = read_state(self.progress)
        if not contexts or contexts[0]["unit"] != MAIN_UNIT:
            return 0.0
        now, number = time.monotonic(), contexts[0]["n"]
        if self.first is None:
            self.first = now, number
        return (now - self.first[0]) / (number - self.first[1]) if number > self.first[1] else 0.0

    def share(self) -> float:
        """The fraction of the step's epochs that is done, 0 to 1."""
        contexts = read_state(self.progress)
        if contexts and contexts[0]["unit"] == MAIN_UNIT:
            self.highest_share = max(self.highest_share, fraction(contexts))
        return self.highest_share

    def draw(self) -> None:
        contexts = read_state(self.progress)
        name = self.plan.step.name
        if not contexts:
            self.bar.refresh()
            return
        outer, inner = contexts[0], contexts[-1]
        what = "" if outer["description"] in name else f"{outer['description']} "
        description = f"{name}: {what}{outer['n']}/{outer['total']} {outer['unit']}"
        if epoch := self.epoch_seconds():
            description += f", {epoch:.1f} s each"
        done = fraction(contexts)
        if done < self.bar.n:
            self.bar.reset()  # new work has begun: its time counts from here
        self.bar.bar_format = "  {desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}] {postfix}"
        self.bar.n = done
        self.bar.set_description_str(description, refresh=False)
        self.bar.set_postfix(outer["postfix"] | inner["postfix"])

    def close(self) -> None:
        self.bar.close()


def _summarize(plans: list[StepPlan], stream) -> None:
    if all(plan.status == "up to date" for plan in plans):
        print(f"All {len(plans)} steps are up to date.", file=stream)
        return
    width = max(len(plan.step.name) for plan in plans)
    print(f"\n{'step':{width}}  {'status':10}  seconds", file=stream)
    for plan in plans:
        seconds = "" if plan.seconds is None else f"{plan.seconds:7.1f}"
        print(f"{plan.step.name:{width}}  {plan.status:10}  {seconds}".rstrip(), file=stream)
    slowest = sorted((plan for plan in plans if plan.seconds), key=lambda plan: -plan.seconds)[:SLOWEST]
    if slowest:
        names = ", ".join(f"{plan.step.name} {in_words(plan.seconds)}" for plan in slowest)
        hours = sum(plan.cpu_seconds for plan in plans) / 3600
        print(f"\nslowest: {names}\nCPU time of all steps: {hours:.2f} h", file=stream)


def _refresh_text(plan: StepPlan, study: Study, repository: Path) -> None:
    """Puts the notebook's new text into its executed copy and keeps the outputs. Both have the same code."""
    # imported here: a call that refreshes nothing need not wait for it
    from reidlib.study.notebook_files import nbformat

    executed = nbformat.read(plan.step.executed(study), as_version=4)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    ran = iter([cell for cell in cells if cell not in injected])
    fresh = []
    for cell in nbformat.read(notebook_path(plan.step, repository), as_version=4).cells:
        if cell.cell_type == "code":
            source, cell = cell.source, next(ran)
            cell.source = source
        fresh.append(cell)
        if "parameters" in cell.metadata.get("tags", []):
            fresh += injected
    executed.cells = fresh
    write_atomically(plan.step.executed(study), nbformat.writes(executed) + "\n")
    state, executed = plan.step.state(study), plan.step.executed(study)
    kept = read_json(state)
    outputs = {**kept["outputs"], str(executed.relative_to(study.root)): looked_at(executed)}
    write_json(state, kept | {"text": plan.text, "outputs": outputs})
