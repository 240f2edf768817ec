"""Runs one step: starts its notebook's process, watches it, and says how it ended.

Nothing of reidlib is imported here, because a worker on another machine gets this module by value: what runs
there is the code of the checkout that asks, in a new process, however old the worker is.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POLL = 0.25  # seconds between two looks at the process
STOP_WITHIN = 15  # seconds that a kernel may take to stop after Ctrl-C before it is killed
GO, PATIENCE = "go", "patience"  # files beside the steps' folders; see `run_step`
STARTED = "started"  # a folder with one file for every step that was started
# Seconds without a sign of life from the command after which a step on another machine ends itself.
ALONE = 120

STOPPED = "it was stopped."

Outcome = dict[str, Any]


def run_step(folder: str) -> Outcome:
    """Runs the step that <folder>/task.json describes, and returns how it ended.

    The step goes on while the file `go` lies beside its folder: whoever stops the study removes it. A kernel
    that stops has `STOP_WITHIN` seconds while `patience` lies there. Files are removed rather than written,
    because that works on a full disk, too.

    Returns:
        error: what went wrong, or "". Also lacks (it lacks runs that this call does not make), seconds, and
        what `reidlib.study.notebook_process` reports.
    """
    place = Path(folder)
    go = place.with_name(GO)
    if not go.parent.is_dir():
        return _outcome(
            error=f"the folder {go.parent} is not seen on {socket.gethostname()}. Results must lie on a file "
            "system that all workers share."
        )
    if not go.exists():
        return _outcome(error=STOPPED)
    started = time.monotonic()
    try:
        task = json.loads((place / "task.json").read_text())
        (place.with_name(STARTED) / place.name).touch()
        # From now on the step is unfinished, whatever happens.
        Path(task["state"]).unlink(missing_ok=True)
        Path(task["output"]).parent.mkdir(parents=True, exist_ok=True)
        process, reports = _start(place, task)
    except OSError as error:
        return _outcome(error=f"it cannot be started: {error}")
    stopped, command = "", _SignsOfLife(task["holder"])
    while process.poll() is None:
        time.sleep(POLL)
        if not go.exists() or not command.lives():
            stopped = STOPPED
        elif task["timeout"] and time.monotonic() - started > task["timeout"]:
            stopped = _too_long(task)
        if stopped:
            _stop(process, place.with_name(PATIENCE))
    with os.fdopen(reports) as pipe:
        report = pipe.read()
    if stopped == STOPPED:
        Path(task["output"]).unlink(missing_ok=True)
    _keep_what_there_is(task)
    outcome = json.loads(report) if report else {"error": _reason(process.returncode, place / "log.txt")}
    if stopped:
        outcome = {"error": stopped}
    return _outcome(**outcome, seconds=time.monotonic() - started)


def look_around(token: str) -> dict[str, Any]:
    """What a worker sees of a file, and whether its Python has what notebooks need."""
    path = Path(token)
    names = ("torch", "numpy", "pillow")
    return {
        "host": socket.gethostname(),
        "python": sys.executable,
        "token": path.read_text() if path.is_file() else "",
        "missing": [name for name in ("torch", "papermill") if importlib.util.find_spec(name) is None],
        "versions": ", ".join(f"{name} {_version(name)}" for name in names),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class _SignsOfLife:
    """Whether the command that asked for the step still lives, by the file that it writes now and then.

    file: see `reidlib.study.holding`; "": the worker ends with the command, which needs no look.
    """

    def __init__(self, file: str):
        self.file, self.last, self.seen = file, "", time.monotonic()

    def lives(self) -> bool:
        now = time.monotonic()
        if not self.file or now - self.seen < ALONE / 4:
            return True
        content = ""
        with contextlib.suppress(OSError):
            content = Path(self.file).read_text(encoding="utf-8")
        if content and content != self.last:
            self.last, self.seen = content, now
        return now - self.seen < ALONE


def _too_long(task: dict[str, Any]) -> str:
    earlier = f" (earlier it took {task['earlier'] / 60:.1f})" if task["earlier"] else ""
    return (
        f"it ran longer than the {task['timeout'] / 60:g} minutes of --timeout{earlier}. The same call goes "
        "on from what was saved; give it more time, or none to be without a limit."
    )


def _outcome(**facts: Any) -> Outcome:
    return {"error": "", "lacks": False, "seconds": None, **facts}


def lost(reason: str) -> Outcome:
    """How a step ended whose worker could not say so."""
    return _outcome(error=f"its worker was lost ({reason}). The same call goes on from what was saved.")


def _start(place: Path, task: dict[str, Any]) -> tuple[subprocess.Popen, int]:
    """The notebook's process, and the end of a pipe to read its report from."""
    reports, report_to = os.pipe()
    environment = {**os.environ, **task["environment"]}
    paths = filter(None, (task["library"], os.environ.get("PYTHONPATH")))
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        Path.home()
    except RuntimeError:  # Jupyter does not start for a user without a home
        environment |= {"HOME": str(place.parent), "USER": environment.get("USER", "nobody")}
    try:
        with (place / "log.txt").open("w") as log:
            command = [sys.executable, "-m", "reidlib.study.notebook_process", str(place / "task.json")]
            process = subprocess.Popen(
                [*command, str(os.getpid()), str(report_to)],
                env=environment,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(report_to,),
                start_new_session=True,  # Ctrl-C reaches only the pipeline, which then stops its steps
            )
    except OSError:
        os.close(reports)
        raise
    finally:
        os.close(report_to)
    return process, reports


def _stop(process: subprocess.Popen, patience: Path) -> None:
    """Ends the process and its kernel, which is shut down by the process that started it."""
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_WITHIN
    while process.poll() is None and time.monotonic() < deadline and patience.exists():
        time.sleep(POLL)
    if process.poll() is None:
        process.kill()  # its kernel sees that its parent is gone, and ends
        process.wait()


def _keep_what_there_is(task: dict[str, Any]) -> None:
    """Keeps the notebook of a process that could not finish as that of a failed step."""
    with contextlib.suppress(OSError):
        Path(task["output"]).replace(task["failed"])
        Path(task["executed"]).unlink(missing_ok=True)


def _reason(code: int, log: Path) -> str:
    """Why a notebook's process ended without a report."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " Systems do that when memory runs out." if name == "SIGKILL" else ""
        return f"its process was ended from outside ({name}).{hint}"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"its process ended with code {code}: {lines[-1] if lines else 'no message'}"
