"""A scheduler with two workers on loopback, as on a cluster, for tests."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from distributed import Client
from small_checkout import wait_until

from reidlib.errors import ReidError
from reidlib.files import read_json


@contextlib.contextmanager
def cluster(place: Path) -> Iterator[str]:
    """The scheduler's address. Workers that are killed are started again by their nannies."""
    file = place / "scheduler.json"
    own = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    hidden = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *hidden]
    running = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], **own)]
    try:
        wait_until(lambda: _address(file))
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", _address(file), "--nthreads", "1"]
        worker += [*hidden, "--memory-limit", "0", "--local-directory", str(place)]
        running += [subprocess.Popen(worker, **own) for _ in range(2)]
        with Client(_address(file), set_as_default=False) as client:
            client.wait_for_workers(2)
        yield _address(file)
    finally:
        for process in running[::-1]:
            process.terminate()
        for process in running:
            process.wait()


def _address(file: Path) -> str:
    try:
        return read_json(file)["address"]
    except ReidError:  # not there, or half written
        return ""
