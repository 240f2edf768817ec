"""Runs one notebook through papermill: `python -m reidlib.study.notebook_process TASK`, one process per step.

TASK is a JSON file: notebook, output, parameters, figures (how many the notebook has to show), repository,
parent (the pipeline's process id). The process writes outcome.json beside it: {"error": "" or what went
wrong}. The kernel is always the running Python, whatever kernels are registered on the machine, and whatever
the user's profile of IPython says.
"""

from reidlib.study.notebook_files import nbformat  # first: papermill would import it slowly

# isort: split

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.iorw import LocalHandler, papermill_io

from reidlib.files import read_json, write_atomically, write_json
from reidlib.provenance import provenance_of_a_page
from reidlib.study.notebook_files import PICTURES


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


def run_task(task_path: Path) -> None:
    """Executes one notebook and writes outcome.json: {"error": "" or one line}."""
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    task = read_json(task_path)
    threading.Thread(target=_end_with_parent, args=(task["parent"],), daemon=True).start()
    _prepare_environment(task_path, task["repository"])
    notebook, output = Path(task["notebook"]), Path(task["output"])
    error = ""
    papermill_io.register("/", AnyNames())
    try:
        papermill.execute_notebook(
            notebook,
            output,
            task["parameters"],
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
            start_timeout=300,  # seconds; a busy machine takes its time to start a kernel
            kernel_manager_class=ThisInterpreter,
        )
    except papermill.PapermillExecutionError as problem:
        last = problem.evalue.strip().splitlines()[-1] if problem.evalue.strip() else "no message"
        message = (
            problem.evalue.strip()
            if problem.ename in _own_errors(Path(task["repository"]))
            else f"{problem.ename}: {last}"
        )
        error = f"cell [{problem.exec_count}]: {message}"
    except DeadKernelError:
        error = "its kernel died; the machine may have run out of memory."
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
    write_json(task_path.with_name("outcome.json"), {"error": error})


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


if __name__ == "__main__":
    run_task(Path(sys.argv[1]))
