"""Where steps run: one at a time in this process, or on the workers of a Dask cluster.

Nothing of Dask is imported for one worker. A cluster of this machine (`--workers`) is started here and ends
with this process; one that exists (`--scheduler`) only gets the steps. Which worker runs a step, and what
happens when one is lost, is Dask's to decide. Files reach other machines through a file system that all
workers share.

A step is handed over when a worker is free for it, and not before. Dask would give every step to a worker at
once and move it later to one that has nothing to do. It guesses by the seconds that such tasks took before,
and steps of minutes or hours, each unlike the others, left workers idle while others had a queue.

Every step has the same number of threads (`--threads`), so weights, scores and tables are the same bits
however many run at a time and wherever, on equal processors. Steps on which the most work waits start first.
A training takes the resource GPU where workers offer it. The step of a lost worker is done by another one,
from its last epoch.

One server with eight GPUs needs only `run_all.py --workers 8`. More workers than GPUs share them: small
networks leave a large GPU idle most of the time. On a cluster, the checkout and `--results`
must lie on a file system that all workers share, under the same path; this is checked before anything runs.
Start scheduler and workers from the study's environment, one worker for each GPU:

    .venv/bin/dask scheduler                          # prints its address
    CUDA_VISIBLE_DEVICES=0 .venv/bin/dask worker tcp://HOST:8786 --nthreads 1 --memory-limit 0 \\
        --resources GPU=1
    .venv/bin/python run_all.py --scheduler tcp://HOST:8786 --results DIR

Slurm (pip install dask-jobqueue) and Kubernetes (pip install dask-kubernetes) start the workers, as their
projects document it; neither was run here:

    cluster = dask_jobqueue.SLURMCluster(
        cores=1, processes=1, memory="32GB", job_extra_directives=["--gres=gpu:1"],
        worker_extra_args=["--resources GPU=1"])
    cluster = dask_kubernetes.operator.KubeCluster(name="reid", image=IMAGE, n_workers=8)
    cluster.scale(8); print(cluster.scheduler_address)      # this address is --scheduler's

A Kubernetes image needs the study's environment, and a volume for `--results` in scheduler, workers and the
pod that calls `run_all.py`.
"""

import contextlib
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reidlib.errors import ReidError
from reidlib.study import step_process
from reidlib.study.step_process import look_around, run_step

LOOPBACK = "127.0.0.1"
CONNECT_WITHIN = 30  # seconds
LOOK_AGAIN = 2  # seconds between two looks at which workers a cluster has
# Ctrl-C in the terminal is for the command alone, which then stops its steps.
_OWN_SESSION = "import os\nif os.getpgid(0) != os.getpid():\n    os.setsid()\n"


class EngineError(ReidError):
    """Steps cannot be run where they should be."""


class _ByValue:
    """A function of `step_process` that arrives whole: neither a scheduler nor a worker imports reidlib."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        cloudpickle.register_pickle_by_value(step_process)
        try:
            return cloudpickle.loads, (cloudpickle.dumps(self.function),)
        finally:
            cloudpickle.unregister_pickle_by_value(step_process)


class InTurn:
    """Runs one step at a time, in the order in which they are handed over."""

    dashboard = ""
    workers = 1
    gone = False

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def is_free(self, *, training: bool, out: Sequence[bool]) -> bool:
        """As `OnCluster.is_free`."""
        return not out

    def lacks(self, *, training: bool) -> str:
        """As `OnCluster.lacks`."""
        return ""

    def submit(self, folder: Path, *, training: bool) -> Future:
        return self._pool.submit(run_step, str(folder))

    def close(self) -> None:
        self._pool.shutdown()


class OnCluster:
    """Hands steps to the workers of a Dask cluster.

    Args:
        workers: as the scheduler described them. They may come and go.

    Attributes:
        dashboard: the address of the dashboard of a cluster that exists, or "".
        workers: how many steps run at a time.
    """

    def __init__(self, client: Any, workers: dict[str, dict[str, Any]]):
        self.client = client
        self.needs_gpu = False  # whether a training waits for a worker with the resource GPU
        self._count(workers)
        # Where a batch system starts workers when there is work, one step more than they can take asks for
        # the next worker.
        self.more = 0 if workers else 1
        self.looked = time.monotonic()
        self.dashboard = ""

    def _count(self, workers: dict[str, dict[str, Any]]) -> None:
        self.addresses = list(workers)
        self.workers = sum(worker.get("nthreads", 1) for worker in workers.values()) or 1
        self.gpus = int(sum((worker.get("resources") or {}).get("GPU", 0) for worker in workers.values()))
        self.needs_gpu |= self.gpus > 0  # also where the last such worker was lost

    @property
    def gone(self) -> bool:
        """Whether the connection to the scheduler was lost. Dask then forgets all that was handed over."""
        return self.client.status != "running"

    def _look(self) -> None:
        if time.monotonic() - self.looked > LOOK_AGAIN:
            self._count(self.client.scheduler_info(n_workers=-1).get("workers", {}))  # {}: gone
            self.looked = time.monotonic()

    def is_free(self, *, training: bool, out: Sequence[bool]) -> bool:
        """Whether a worker can begin a step at once.

        Args:
            training: whether the step takes a GPU, where there are any.
            out: the same of every step that was handed over and has not ended.
        """
        self._look()
        if training and self.needs_gpu and sum(out) >= self.gpus + self.more:
            return False
        return len(out) < self.workers + self.more

    def lacks(self, *, training: bool) -> str:
        """What the steps that are left need and the cluster has not, in words; "": nothing.

        Args:
            training: whether a training is left.
        """
        if self.gone:  # looking would wait until Dask gives up
            return ""
        self._look()
        if training and self.needs_gpu and not self.gpus:
            return "a worker with a GPU (dask worker … --resources GPU=1)"
        return "" if self.addresses else "a worker"

    def submit(self, folder: Path, *, training: bool) -> Any:
        """Hands a step over.

        Args:
            training: as in `is_free`.
        """
        return self.client.submit(
            _ByValue(run_step),
            str(folder),
            key=f"{folder.name}-{secrets.token_hex(4)}",
            resources={"GPU": 1} if training and self.needs_gpu else None,
            # From a list, Dask takes the worker with the least to do. Without one, it takes them by turns
            # where there are 20 or more. One that has come since is as good.
            workers=self.addresses or None,
            allow_other_workers=bool(self.addresses),
            pure=False,
        )

    def close(self) -> None:
        self.client.close()


@contextlib.contextmanager
def engine_for(workers: int, scheduler: str, scratch: Path, *, steps: int) -> Iterator[InTurn | OnCluster]:
    """The engine for this many workers, or of the cluster at this address.

    Args:
        scratch: the folder of the running steps, which every worker has to see.
        steps: how many steps there are to run: more workers would have nothing to do.

    Raises:
        EngineError: the scheduler cannot be reached, or its workers do not see the study's files or lack
            what notebooks need.
    """
    if scheduler:
        with _connected(scheduler) as client:
            found = client.scheduler_info(n_workers=-1)["workers"]
            engine = OnCluster(client, found)
            with contextlib.suppress(Exception):  # its address cannot be told
                engine.dashboard = client.dashboard_link if _has_dashboard(client) else ""
            if found:  # none yet, as where a batch system starts them when there is work
                _require_common_ground(client, scratch)
            yield engine
        return
    workers = min(workers, steps)
    if workers == 1:
        engine = InTurn()
        try:
            yield engine
        finally:
            engine.close()
        return
    with _local_cluster(workers, scratch) as client:
        yield OnCluster(client, client.scheduler_info(n_workers=-1)["workers"])


def gpus_here() -> list[str]:
    """The GPUs of this machine that a process may use, by the names that CUDA_VISIBLE_DEVICES has."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    devices = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((found[1] for found in devices if found), key=int)


@contextlib.contextmanager
def _local_cluster(workers: int, scratch: Path) -> Iterator[Any]:
    """A cluster of processes of this machine, each with one step at a time. It ends with this process."""
    _require_distributed()
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    gpus = gpus_here()
    # Without these keys, any user of this machine could hand work to the workers.
    security = Security.temporary()

    def worker(number: int) -> dict[str, Any]:
        own = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        options = {
            "nthreads": 1,
            "memory_limit": 0,  # a worker only watches; the memory is its kernel's
            "resources": {"GPU": 1} if gpus else {},
            "env": own,
            "host": LOOPBACK,
            "local_directory": str(scratch),
            "preload": _OWN_SESSION,
            "security": security,
            "silence_logs": logging.CRITICAL,
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",
        }
        return {"cls": Nanny, "options": options}

    options = {
        "host": LOOPBACK,
        "port": 0,
        "security": security,
        "dashboard": False,
        "dashboard_address": f"{LOOPBACK}:0",
    }
    with (
        dask.config.set(_SETTINGS),
        SpecCluster(
            workers={number: worker(number) for number in range(workers)},
            scheduler={"cls": Scheduler, "options": options},
            security=security,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, security=security, set_as_default=False) as client,
    ):
        yield client


# A worker that was killed is started again, and its step is given to another one up to three times.
_SETTINGS = {
    "distributed.comm.timeouts.connect": "300s",  # a busy machine takes its time to start them
    "distributed.admin.system-monitor.gil.enabled": False,
    # Scheduler, nannies and workers each look at themselves so often. At Dask's 20 ms and 500 ms that takes a
    # tenth of a core from the trainings.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.nanny.pre-spawn-environ": {},  # it would stay in this process's environment
    "distributed.scheduler.allowed-failures": 3,
    "distributed.worker.profile.enabled": False,
}


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    _require_distributed()
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_WITHIN, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise EngineError(
            f"--scheduler {address} cannot be reached ({str(error).splitlines()[0]}). Start one with: dask "
            "scheduler. It prints its address, such as tcp://HOST:8786."
        ) from error
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the runner says in its own words that the scheduler is gone
    try:
        with client:
            yield client
    finally:
        log.setLevel(level)


def _require_distributed() -> None:
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise EngineError(
            "Several workers need the package distributed, and it is not installed. Install the study's "
            "packages again (make), or use --workers 1."
        )


def _require_common_ground(client: Any, scratch: Path) -> None:
    """Checks that every worker sees the study's files, and has what notebooks need."""
    token = secrets.token_hex(8)
    (scratch / "token").write_text(token)
    here = look_around(str(scratch / "token"))
    for address, there in client.run(_ByValue(look_around), str(scratch / "token")).items():
        who = f"The worker {address} ({there['host']})"
        if there["token"] != token:
            raise EngineError(
                f"{who} does not see {scratch.parent}, which this machine ({socket.gethostname()}) has "
                "written. Steps hand over their results as files: name a folder with --results that lies on "
                "a file system which all workers share, under the same path."
            )
        if there["missing"]:
            raise EngineError(
                f"{who} runs a Python ({there['python']}) without {', '.join(there['missing'])}: start it "
                "from the study's environment, as with .venv/bin/dask worker."
            )
        if there["versions"] != here["versions"]:
            raise EngineError(
                f"{who} has other versions ({there['versions']}) than this machine ({here['versions']}), "
                "which changes numbers: install the study's packages there again."
            )


def _has_dashboard(client: Any) -> bool:
    return "dashboard" in client.scheduler_info(n_workers=0).get("services", {})
