"""Runs one notebook through papermill: `python -m reidlib.study.notebook_process TASK PARENT PIPE`.

TASK is the JSON file that `reidlib.study.pipeline` writes for a step, PARENT the process id of whoever
watches, PIPE a file descriptor for the report: {"error": "" or what went wrong, "lacks": whether it lacks
runs, "peak_memory": bytes, "cpu_seconds"}. A finished step's notebook is put in its place and its state file
is written here. The kernel is always the running Python, whatever kernels are registered on the machine, and
whatever the user's profile of IPython says.
"""

from reidlib.study.notebook_files import nbformat  # first: papermill would import it slowly

# isort: split

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import secrets
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import papermill
import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.iorw import LocalHandler, papermill_io

from reidlib.config import experiment_for
from reidlib.errors import ReidError
from reidlib.files import (
    WRITTEN,
    bring_to_disk,
    locked,
    read_json,
    write_atomically,
    write_json,
    written_files,
)
from reidlib.provenance import provenance_of_a_page
from reidlib.study.fingerprints import finished_runs, outputs_of, run_id
from reidlib.study.notebook_files import LACKING, PICTURES
from reidlib.study.results import Study
from reidlib.study.steps import Step

VERSIONS_OF = ("torch", "torchvision", "numpy", "papermill")
LONGEST_REPORT = 8000  # characters of an error; a pipe holds more


class ThisInterpreter(AsyncKernelManager):
    """Starts the running Python. jupyter_client would first look for a registered kernel `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class AnyNames(LocalHandler):
    """Writes notebooks whose parameters hold paths that are no UTF-8, as JSON writes them: `\\udce9`."""

    def write(self, buf: str, path: str) -> None:
        super().write(buf.encode(errors="backslashreplace").decode(), path)


def run_task(task_path: Path) -> dict[str, Any]:
    """Executes one notebook and keeps what it made. Returns the report."""
    started = time.monotonic()
    # A worker may have been lost while it watched this step: its notebook's process ends, but not at once.
    with locked(task_path.with_name("lock"), wait=True, held="The step runs already."):
        return _run_alone(task_path, started)


def _run_alone(task_path: Path, started: float) -> dict[str, Any]:
    task = read_json(task_path)
    study = Study(**{**task["study"], "root": Path(task["study"]["root"])})
    if study.reference:
        study = Study(**{**task["study"], "root": study.root, "reference": Path(study.reference)})
    step = Step(**task["step"])
    _prepare_environment(task_path, task["repository"])
    report = _execute(task)
    missing = [name for name in step.produces if not (study.root / name).exists()]
    if not report["error"] and missing:
        report["error"] = f"it finished, but did not write {', '.join(missing)}"
    kept = step.failed(study) if report["error"] else step.executed(study)
    for path in (step.failed(study), step.executed(study)):
        path.unlink(missing_ok=True)
    Path(task["output"]).replace(kept)
    bring_to_disk(kept.parent)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    report["cpu_seconds"] = round(sum(one.ru_utime + one.ru_stime for one in used), 1)
    # The largest of the kernel and its processes; macOS counts bytes.
    report["peak_memory"] = used[1].ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if report.pop("memory"):
        report["error"] += _about_memory(report["peak_memory"], step)
    if report["error"] and not report["lacks"]:
        return report
    write_json(
        step.state(study),
        {
            **task["planned"],
            "run": secrets.token_hex(8),
            "needs_run": {name: run_id(name, study) for name in step.needs},
            "outputs": outputs_of(step, study, written_files(_notes(task_path))),
            "lacks": finished_runs(study) if report["lacks"] else [],
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": report["cpu_seconds"],
            "peak_memory": report["peak_memory"],
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()}
            | {name: _version(name) for name in VERSIONS_OF},
        },
    )
    return report


def _execute(task: dict[str, Any]) -> dict[str, Any]:
    """Executes the notebook into the task's output. Returns {"error", "lacks", "memory"}.

    memory: whether it ended for want of memory, which does not say so itself.
    """
    notebook, output = Path(task["notebook"]), Path(task["output"])
    error, lacks, memory = "", False, False
    papermill_io.register("/", AnyNames())
    try:
        papermill.execute_notebook(
            notebook,
            output,
            task["step"]["parameters"],
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
            start_timeout=300,  # seconds; a busy machine takes its time to start a kernel
            kernel_manager_class=ThisInterpreter,
        )
    except papermill.PapermillExecutionError as problem:
        last = problem.evalue.strip().splitlines()[-1] if problem.evalue.strip() else "no message"
        own = problem.ename in _own_errors(Path(task["repository"]))
        message = problem.evalue.strip() if own else f"{problem.ename}: {last}"
        error, lacks = f"cell [{problem.exec_count}]: {message}", problem.ename in LACKING
        memory = not own and any(
            words in f"{problem.ename}: {problem.evalue}".lower() for words in _OUT_OF_MEMORY
        )
    except DeadKernelError:
        error, memory = "its kernel died, as it does when memory runs out.", True
    executed = nbformat.read(output, as_version=4)
    executed.metadata["reidlib"] = {"made_by": provenance_of_a_page()}  # the report shows it
    shown = _pictures(executed)
    if not error and shown < task["figures"]:
        error = (
            f"its notebook shows {shown} of {task['figures']} figures. Look for what keeps matplotlib from "
            "showing them, such as settings of IPython for the whole machine."
        )
    # The names replace absolute paths of this machine.
    executed.metadata.papermill.update(input_path=notebook.name, output_path=output.name)
    write_atomically(output, (nbformat.writes(executed) + "\n").encode(errors="backslashreplace"))
    return {"error": error, "lacks": lacks, "memory": memory}


# In lower case: Python; PyTorch's allocators; oneDNN, of a layer that finds no address space; C++; Linux.
_OUT_OF_MEMORY = (
    "memoryerror", "can't allocate memory", "not enough memory", "out of memory",
    "could not create a primitive", "bad_alloc", "cannot allocate memory",
)  # fmt: skip


def _about_memory(peak: int, step: Step) -> str:
    """How much memory a step had when it ended for want of it, and which batch size to try."""
    limit = min([psutil.virtual_memory().total, *_limits()])
    text = f" Its peak was {peak / 1e9:.1f} GB of the {limit / 1e9:.1f} GB that it may use."
    own = {"method", "dataset", "profile", "overrides"} & step.parameters.keys()
    try:
        if "method" in own:
            overrides = step.parameters.get("overrides", {})
            labels = {name: step.parameters[name] for name in own - {"method", "overrides"}}
            experiment = experiment_for(step.parameters["method"], **labels, **overrides)
            unit = max(experiment.images_per_identity, 2)
            smaller = experiment.batch_size // 2 // unit * unit
            if smaller >= 2 * unit:
                text += f" Try --set batch_size={smaller} (it was {experiment.batch_size})"
                text += ", or fewer --workers."
                return text
    except ReidError:  # parameters that the notebook itself would refuse
        pass
    return text + " Try fewer --workers."


def _limits() -> list[int]:
    """The limits that the system sets to this process's memory, in bytes."""
    found = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return [limit for limit in found if limit > 0]


def _notes(task_path: Path) -> Path:
    return task_path.with_name("written.txt")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _prepare_environment(task_path: Path, repository: str) -> None:
    """Sets what the kernel inherits. Nothing of the user's decides which code it runs or how it draws."""
    # The kernel uses the checkout that the fingerprint covers.
    paths = [repository, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # An empty folder in place of the user's: no profile, and no start-up files of one.
    os.environ["IPYTHONDIR"] = str(task_path.with_name("ipython"))
    os.environ.pop("PYTHONSTARTUP", None)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["MATPLOTLIBRC"] = os.devnull
    os.environ[WRITTEN] = str(_notes(task_path))


def _pictures(notebook) -> int:
    """How many outputs of an executed notebook are pictures that the report can show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum(any(kind in output.get("data", ()) for kind in PICTURES) for output in outputs)


def _own_errors(repository: Path) -> list[str]:
    """Names of ReidError and its subclasses. Their messages are shown alone, without the exception's name.

    The names are searched in the source, because an executed notebook keeps only the name of an exception.
    """
    pattern = re.compile(r"^class (\w+)\(([\w., ]+)\)", re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in sorted((repository / "reidlib").rglob("*.py"))]
    found = [match.groups() for source in sources for match in pattern.finditer(source)]
    names = ["ReidError"]
    for name in names:  # the list grows in the loop
        names += [
            child for child, bases in found if name in re.split(r"[., ]+", bases) and child not in names
        ]
    return names


def _end_with_parent(parent: int) -> None:
    """Stops this process and its kernel when the pipeline is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


def _main(task_path: str, parent: str, pipe: str) -> None:
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    try:
        report = run_task(Path(task_path))
    except (OSError, ReidError) as error:  # such as a full disk
        report = {"error": f"its results cannot be kept: {error}", "lacks": False}
    except Exception as error:  # noqa: BLE001  # a bug, which nobody would see in the log
        traceback.print_exc()
        report = {"error": f"its process failed with {type(error).__name__}: {error}", "lacks": False}
    report["error"] = report["error"][:LONGEST_REPORT]
    with os.fdopen(int(pipe), "w") as reports:
        json.dump(report, reports)


if __name__ == "__main__":
    _main(*sys.argv[1:])
