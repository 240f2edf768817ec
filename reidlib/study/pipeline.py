"""Runs the study: executes the notebooks that are out of date, in order, several at a time if asked.

Every step runs in its own process (reidlib.study.notebook_process). The state file of a finished step records
what the step depended on, so a second run of an unchanged study runs nothing. If only the text of a notebook
changed, its executed copy gets the new text.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, read_json, require_writable, write_atomically, write_json
from reidlib.progress import MAIN_UNIT, VARIABLE, fraction, read_state, tqdm_class
from reidlib.study.fingerprints import StepPlan, plan_steps, run_id
from reidlib.study.results import Study
from reidlib.study.steps import PipelineError, Step, notebook_path

LOOPBACK = "127.0.0.1"
POLL = 0.1  # seconds between two looks at the running steps
STOP_WITHIN = 15  # seconds that a kernel may take to stop after Ctrl-C before it is killed
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Freed memory stays with the process. Otherwise it goes back to the system after every training step, and
# asking for it again costs 4 to 6 % of a step on a CPU. These variables are glibc's; other C libraries ignore
# them.
KEEP_MEMORY = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 30))
VERSIONS_OF = ("torch", "torchvision", "numpy", "papermill")


def execute(
    steps: Iterable[Step],
    study: Study,
    *,
    force: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    stream=None,
    repository: Path = REPOSITORY,
) -> int:
    """Runs the steps that are out of date, in order. A step waits for those it needs.

    The notebook of a failed step is kept, with the traceback, as <step>.failed.ipynb. Steps that need the
    failed step are skipped; the others still run.

    Args:
        force: also run steps that are up to date.
        dry_run: print what would run and why; write nothing.
        workers: how many steps run at a time; None: `default_workers()`.
        stream: where messages go; None: standard error.
        repository: the checkout whose notebooks and code are used.

    Returns:
        The exit status: 0 done, 1 a step failed, 130 interrupted.

    Raises:
        ReidError: the steps, their parameters or `workers` are wrong, or this machine lacks what notebooks
            need: a place for their results, or connections to itself. Nothing has run then.
    """
    stream = stream or sys.stderr
    if workers is not None and workers < 1:
        raise PipelineError(f"The number of workers must be at least 1, not {workers}.")
    plans = plan_steps(list(steps), study, force, repository)
    if dry_run:
        width = max((len(plan.step.name) for plan in plans), default=0)
        for plan in plans:
            state = "up to date" + (" (its text changed: the executed copy gets it)" if plan.refresh else "")
            print(f"{plan.step.name:{width}}  {f'run: {plan.reason}' if plan.reason else state}", file=stream)
        return 0
    _require_places(plans, study)
    if any(plan.reason for plan in plans):
        _require_loopback()
    for plan in plans:
        if plan.refresh:
            _refresh_text(plan, study, repository)
    with _scratch_folder() as scratch, _terminate_as_interrupt():
        if workers is None:
            workers = default_workers() if any(plan.reason for plan in plans) else 1
        runner = _Runner(plans, study, workers, stream, repository, scratch)
        try:
            runner.run()
        except KeyboardInterrupt:
            kept = runner.stop()
            print(
                f"Interrupted. {kept} finished steps are kept; the same command goes on from there.",
                file=stream,
            )
            return 130
        except BaseException:  # such as a closed pipe where messages go
            runner.stop()
            raise
    _summarize(plans, stream)
    return 1 if any(plan.status in ("failed", "skipped") for plan in plans) else 0


def _require_places(plans: list[StepPlan], study: Study) -> None:
    """Checks that everything can be written that these steps will write."""
    writing = [plan.step for plan in plans if plan.reason or plan.refresh]
    written = [path for step in writing for path in (step.executed(study), step.state(study))]
    written += [study.root / product for step in writing for product in step.produces]
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
def _scratch_folder() -> Iterator[Path]:
    """A folder for what running steps tell each other; removed at the end."""
    try:
        scratch = tempfile.TemporaryDirectory(prefix="reidlib-", ignore_cleanup_errors=True)
    except OSError as error:
        raise PipelineError(
            f"There is no place for temporary files ({error.strerror}). Set TMPDIR to a folder that can be "
            "written."
        ) from error
    with scratch as folder:
        yield Path(folder)


def default_workers() -> int:
    """How many steps run at a time: one on a GPU; otherwise one per core, at most four.

    The networks are too small to keep many cores busy.
    """
    drivers = map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if sys.platform != "linux" or any(driver.exists() for driver in drivers):
        import torch  # takes seconds, which a machine without a GPU need not wait for

        if torch.cuda.is_available():
            return 1
    return min(4, os.cpu_count() or 1)


class _Runner:
    """Runs planned steps and shows their progress bars."""

    def __init__(
        self, plans: list[StepPlan], study: Study, workers: int, stream, repository: Path, scratch: Path
    ):
        self.plans, self.study, self.workers = plans, study, workers
        self.stream, self.repository, self.scratch = stream, repository, scratch
        self.bars = stream.isatty()
        self.running: list[_Running] = []
        self.todo = [plan for plan in plans if plan.reason]
        total = sum(plan.step.weight for plan in self.todo)
        layout = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
        self.bar = tqdm_class()(
            total=total, bar_format=layout, smoothing=0, file=stream, disable=not self.bars or not total
        )

    def run(self) -> None:
        try:
            while self.running or any(plan.status == "waiting" for plan in self.plans):
                self._start_ready()
                time.sleep(POLL)
                for job in list(self.running):
                    self._look_at(job)
                self._draw()
        finally:
            self.bar.close()

    def stop(self) -> int:
        """Ends every running step and its kernel; returns how many steps were finished in this call."""
        for job in self.running:
            job.process.send_signal(signal.SIGINT)  # the kernel is shut down by the process that started it
        for job in self.running:
            try:
                job.process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                job.process.kill()  # its kernel sees that its parent is gone, and ends
            job.output.unlink(missing_ok=True)
            job.close()
        return sum(plan.status == "done" for plan in self.plans)

    def _start_ready(self) -> None:
        statuses = {plan.step.name: plan.status for plan in self.plans}
        for plan in self.plans:
            if plan.status != "waiting":
                continue
            needs = [statuses.get(name, "done") for name in plan.step.needs]
            if "failed" in needs or "skipped" in needs:
                plan.status = statuses[plan.step.name] = "skipped"
                self.bar.total -= plan.step.weight
            elif len(self.running) < self.workers and not {"waiting", "running"} & {*needs}:
                folder = self.scratch / f"step{self.plans.index(plan)}"
                folder.mkdir()
                slots = {job.slot for job in self.running}
                slot = min(number for number in range(self.workers) if number not in slots)
                if not self.bars:
                    self._say(f"start   {plan.step.name}  ({plan.reason})")
                try:
                    self.running.append(_Running(plan, self, folder, slot))
                    plan.status = "running"
                except (OSError, ReidError) as error:  # its place was closed, or no process can be started
                    plan.status = statuses[plan.step.name] = "failed"
                    self._say(f"FAILED  {plan.step.name}: it cannot be started: {error}")

    def _look_at(self, job: "_Running") -> None:
        if not self.bars:
            for line in job.new_lines():
                self._say(f"[{job.plan.step.name}] {line}")
        if job.process.poll() is None:
            return
        self.running.remove(job)
        if not self.bars:
            for line in job.new_lines():
                self._say(f"[{job.plan.step.name}] {line}")
        job.close()
        plan = job.plan
        plan.seconds = time.monotonic() - job.started
        try:
            problem = job.finish()
        except (OSError, ReidError) as error:
            problem = f"FAILED  {plan.step.name}: its results cannot be kept: {error}"
        plan.status = "failed" if problem else "done"
        self._say(problem or f"done    {plan.step.name}  {plan.seconds:.0f} s")

    def _draw(self) -> None:
        finished = sum(plan.step.weight for plan in self.todo if plan.status in ("done", "failed"))
        self.bar.n = finished + sum(job.plan.step.weight * job.share() for job in self.running)
        count = sum(plan.status in ("done", "failed") for plan in self.todo)
        self.bar.set_description_str(f"study: {count}/{len(self.todo)} steps", refresh=False)
        self.bar.refresh()
        for job in self.running:
            job.draw()

    def _say(self, text: str) -> None:
        tqdm_class().write(text, file=self.stream)
        self.stream.flush()


class _Running:
    """One step that runs: its process, and the bar for it."""

    def __init__(self, plan: StepPlan, runner: _Runner, folder: Path, slot: int):
        self.plan, self.runner, self.folder, self.slot = plan, runner, folder, slot
        step, study = plan.step, runner.study
        self.output = step.executed(study).with_name(f".{step.executed(study).stem}.running.ipynb")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        step.state(study).unlink(missing_ok=True)  # from now on the step is unfinished, whatever happens
        self.progress = folder / "progress.json"
        self.lines_read = 0
        self.highest_share = 0.0
        self.started = time.monotonic()
        task = {
            "notebook": str(notebook_path(step, runner.repository)),
            "output": str(self.output),
            "parameters": step.parameters,
            "figures": sum(Path(name).match("figures/*.png") for name in step.produces),
            "repository": str(runner.repository),
            "parent": os.getpid(),
        }
        (folder / "task.json").write_text(json.dumps(task))
        with (folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reidlib.study.notebook_process", str(folder / "task.json")],
                env=self._environment(),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only the pipeline, which then stops its steps
            )
        layout = "  {desc} [{elapsed}]"
        self.bar = tqdm_class()(
            total=1.0,
            position=slot + 1,
            leave=False,
            file=runner.stream,
            disable=not runner.bars,
            bar_format=layout,
            desc=step.name,
        )

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, VARIABLE: str(self.progress), "PYTHONPATH": paths}
        # Silences the debugger's warning about frozen modules.
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        environment = KEEP_MEMORY | environment
        try:
            Path.home()
        except RuntimeError:  # Jupyter does not start for a user without a home
            environment |= {"HOME": str(self.runner.scratch), "USER": environment.get("USER", "nobody")}
        if self.runner.workers > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            environment = (
                dict.fromkeys(THREAD_VARIABLES, str(max(1, cores // self.runner.workers))) | environment
            )
        return environment

    def new_lines(self) -> list[str]:
        """The complete lines that were added since the last call."""
        path = Path(f"{self.progress}.lines")
        if not path.is_file():
            return []
        whole = path.read_text(encoding="utf-8").split("\n")[:-1]
        new, self.lines_read = whole[self.lines_read :], len(whole)
        return new

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
        done = fraction(contexts)
        if done < self.bar.n:
            self.bar.reset()  # new work has begun: its time counts from here
        self.bar.bar_format = "  {desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}] {postfix}"
        self.bar.n = done
        self.bar.set_description_str(description, refresh=False)
        self.bar.set_postfix(outer["postfix"] | inner["postfix"])

    def close(self) -> None:
        self.bar.close()

    def finish(self) -> str:
        """Moves the executed notebook to its place and writes the state file.

        Returns what went wrong, or "". A failed step gets no state file.
        """
        step, study = self.plan.step, self.runner.study
        outcome = self._outcome()
        missing = [name for name in step.produces if not (study.root / name).exists()]
        if not outcome["error"] and missing:
            outcome["error"] = f"it finished, but did not write {', '.join(missing)}"
        kept = step.failed(study) if outcome["error"] else step.executed(study)
        for path in (step.failed(study), step.executed(study)):
            path.unlink(missing_ok=True)
        if self.output.is_file():
            self.output.replace(kept)
        if outcome["error"]:
            where = f"\n        notebook with the traceback: {kept}" if kept.is_file() else ""
            return f"FAILED  {step.name}: {outcome['error']}{where}"
        needs_run = {name: run_id(name, study) for name in step.needs}
        write_json(
            step.state(study),
            {
                "fingerprint": self.plan.fingerprint,
                "parts": self.plan.parts,
                "text": self.plan.text,
                "run": secrets.token_hex(8),
                "needs_run": needs_run,
                "seconds": round(self.plan.seconds, 1),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": {"python": platform.python_version()}
                | {name: _version(name) for name in VERSIONS_OF},
            },
        )
        return ""

    def _outcome(self) -> dict:
        path = self.folder / "outcome.json"
        if path.is_file():
            return read_json(path)
        last = (
            (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        )
        return {
            "error": f"its process ended with code {self.process.returncode}: {''.join(last) or 'no message'}"
        }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _summarize(plans: list[StepPlan], stream) -> None:
    if all(plan.status == "up to date" for plan in plans):
        print(f"All {len(plans)} steps are up to date.", file=stream)
        return
    width = max(len(plan.step.name) for plan in plans)
    print(f"\n{'step':{width}}  {'status':10}  seconds", file=stream)
    for plan in plans:
        seconds = "" if plan.seconds is None else f"{plan.seconds:7.1f}"
        print(f"{plan.step.name:{width}}  {plan.status:10}  {seconds}".rstrip(), file=stream)


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
    write_json(plan.step.state(study), read_json(plan.step.state(study)) | {"text": plan.text})


@contextlib.contextmanager
def _terminate_as_interrupt():
    """Makes SIGTERM stop the study as Ctrl-C does. Only the main thread may set a signal handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
