"""Weights, scores and tables are the same to the bit, wherever and however many at a time steps run.

Slow, as the smoke run in test_run_all.py is: real trainings, three times.
"""

import subprocess
import sys
from pathlib import Path

import psutil
from cluster import cluster
from small_checkout import wait_until

from reidlib.files import REPOSITORY, read_json
from reidlib.study.results import Study

METHODS = ("gap", "gap+sa1")
STEPS = ("01_data", "10_train", "21_ablation_spatial_attention")


def begun(results: Path, data: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, str(REPOSITORY / "run_all.py"), "--profile", "smoke", "--methods", *METHODS]
    command += ["--set", "epochs=6", "--results", str(results), "--data-root", str(data), "--only", *STEPS]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def scores(run: Path) -> dict:
    """metrics.json without times, and without the commit: a checkout may be worked on meanwhile."""
    metrics = read_json(run / "metrics.json")
    for maker in ("made_by", "scored_by"):
        del metrics[maker]["commit"]
    return {name: value for name, value in metrics.items() if not name.endswith("_seconds")}


def kill_a_worker_while_it_trains(results: Path) -> None:
    checkpoint = results / "smoke-synthetic" / "runs" / "gap-seed0" / "checkpoint.pt"
    wait_until(checkpoint.exists)
    (kernel,) = {
        process
        for process in psutil.process_iter(["cmdline"])
        if "ipykernel_launcher" in (process.info["cmdline"] or ())
        and any("step" in part and str(results) in part for part in process.parent().cmdline())
        and "step1" in "".join(process.parent().cmdline())
    }
    kernel.parent().parent().kill()


def test_the_same_bits_in_turn_at_a_time_on_a_cluster_and_with_a_worker_killed(tmp_path):
    """On the cluster, the worker of one of the two trainings is killed."""
    data = tmp_path / "data"
    with cluster(tmp_path) as address:
        ways = {
            "in turn": ("--workers", "1"),
            "two": ("--workers", "2"),
            "cluster": ("--scheduler", address),
        }
        for way, options in ways.items():
            process = begun(tmp_path / way, data, *options)
            if way == "cluster":
                kill_a_worker_while_it_trains(tmp_path / way)
            _, said = process.communicate(timeout=1800)
            assert process.returncode == 0, said[-3000:]
            assert ("goes on after epoch" in said) == (way == "cluster"), said
    studies = {way: Study("smoke", "synthetic", tmp_path / way / "smoke-synthetic") for way in ways}
    first = studies.pop("in turn")
    for way, study in studies.items():
        for method in METHODS:
            one, other = first.run(method, 0), study.run(method, 0)
            for name in ("model.pt", "embeddings.npz", "queries.csv"):
                assert (one / name).read_bytes() == (other / name).read_bytes(), (way, method, name)
            assert scores(one) == scores(other)
        for table in first.tables.glob("*.csv"):
            assert table.read_bytes() == (study.tables / table.name).read_bytes(), table.name
