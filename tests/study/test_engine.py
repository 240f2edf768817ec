"""Steps on the workers of a Dask cluster, of this machine and elsewhere, and what happens if one is lost."""

import contextlib
import json
import signal
import subprocess
import sys
import textwrap
import types
from dataclasses import replace

import nbformat
import psutil
import pytest
from cluster import cluster
from small_checkout import make_step, run, statuses, study_in, wait_until, write_notebook

from reidlib.files import REPOSITORY, read_json
from reidlib.study import engine, pipeline
from reidlib.study.engine import EngineError, OnCluster, gpus_here
from reidlib.study.steps import Step
from reidlib.study.times import events_file

# Every attempt adds its process id to a file, and waits for the file "go on".
WAIT = """
import os, time
from pathlib import Path
with Path(results, name).open("a") as pids:
    pids.write(f"{os.getpid()}\\n")
while not Path(results, "go on").exists():
    time.sleep(0.05)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"])
"""


def waiting(checkout, *names, notebook="30_wait"):
    study_in(checkout).root.mkdir(parents=True, exist_ok=True)
    write_notebook(checkout / "notebooks" / f"{notebook}.ipynb", WAIT)
    return [Step(name, notebook, {"name": name, "results": str(study_in(checkout).root)}) for name in names]


def attempts(checkout, name) -> list[int]:
    """The process ids of a waiting step's kernels, the last of which runs."""
    path = study_in(checkout).root / name
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def printed(checkout, name) -> str:
    return nbformat.read(study_in(checkout).notebooks / f"{name}.ipynb", 4).cells[-1].outputs[0].text


@contextlib.contextmanager
def calling(checkout, steps, **options):
    """Another process that runs the steps."""
    script = f"""
        import sys
        from pathlib import Path
        from reidlib.study import engine, holding, step_process
        from reidlib.study.pipeline import execute
        from reidlib.study.results import Study
        from reidlib.study.steps import Step
        holding.BEAT, step_process.ALONE, engine.CONNECT_WITHIN = 0.5, 10, 10
        study = Study("demo", "synthetic", Path({str(study_in(checkout).root)!r}))
        steps = [Step(name, notebook, parameters) for name, notebook, parameters in
                 {[(step.name, step.notebook, step.parameters) for step in steps]!r}]
        sys.exit(execute(steps, study, repository=Path({str(checkout)!r}), **{options!r}))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_step_whose_worker_was_killed_goes_on_with_another(checkout, scheduler, where):
    """Two steps at a time. The kernel of the lost worker ends, before the step is begun again."""
    steps = waiting(checkout, "a", "b")
    options = {"scheduler": scheduler} if where == "elsewhere" else {"workers": 2}
    with calling(checkout, steps, threads=1, **options) as process:
        wait_until(lambda: attempts(checkout, "a") and attempts(checkout, "b"))
        first = attempts(checkout, "a")[0]
        watching = psutil.Process(first).parent().parent()  # above the kernel and the notebook's process
        assert watching.pid != process.pid
        watching.kill()
        wait_until(lambda: len(attempts(checkout, "a")) == 2)
        assert not psutil.pid_exists(first)
        (study_in(checkout).root / "go on").touch()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert printed(checkout, "a").endswith(" 1\n") and len(attempts(checkout, "b")) == 1
    assert not list(study_in(checkout).root.glob(".*"))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_no_kernel_stays_when_the_command_is_killed(checkout, scheduler, where):
    """A worker elsewhere sees that the command gives no sign of life."""
    steps = waiting(checkout, "a")
    options = {"scheduler": scheduler} if where == "elsewhere" else {"workers": 2}
    steps += waiting(checkout, "b")
    with calling(checkout, steps, **options) as process:
        wait_until(lambda: attempts(checkout, "a") and attempts(checkout, "b"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(psutil.pid_exists(attempts(checkout, name)[-1]) for name in "ab"))
    (study_in(checkout).root / "go on").touch()
    assert run(checkout, steps)[0] == 0


def test_an_interrupt_stops_the_steps_of_every_worker(checkout, scheduler):
    steps = waiting(checkout, "a", "b", "c")
    with calling(checkout, steps, scheduler=scheduler) as process:
        wait_until(lambda: sum(bool(attempts(checkout, name)) for name in "abc") == 2)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "Interrupted. 0 finished steps are kept" in said
    begun = [pid for name in "abc" for pid in attempts(checkout, name)]
    assert len(begun) == 2 and not any(map(psutil.pid_exists, begun))


def test_steps_wait_for_those_that_they_need_and_are_skipped_if_these_fail(checkout, scheduler):
    broken = make_step(checkout, "10_first", "a", fail=True)
    sound = make_step(checkout, "10_first", "b")
    steps = [broken, sound, make_step(checkout, "20_second", "c", needs=(sound.name,))]
    steps += [make_step(checkout, "20_second", "d", needs=(broken.name, sound.name))]
    code, said = run(checkout, steps, scheduler=scheduler)
    assert code == 1
    assert [*statuses(said).values()] == ["failed", "done", "done", "skipped"], said
    needs = read_json(steps[2].state(study_in(checkout)))["needs_run"]
    assert needs == {sound.name: read_json(sound.state(study_in(checkout)))["run"]}


def test_a_step_is_handed_over_when_a_worker_is_free_for_it(monkeypatch):
    """Also where workers come and go, as a batch system's."""
    monkeypatch.setattr(engine, "LOOK_AGAIN", -1)
    there = {}
    client = types.SimpleNamespace(scheduler_info=lambda n_workers: {"workers": there}, status="running")
    gpu, cpu = {"nthreads": 1, "resources": {"GPU": 1}}, {"nthreads": 2}
    fixed = OnCluster(client, {"a": gpu, "b": cpu})

    there |= {"a": gpu, "b": cpu}
    assert fixed.is_free(training=True, out=[]) and not fixed.is_free(training=True, out=[True])
    assert fixed.is_free(training=False, out=[True, False])
    assert not fixed.is_free(training=False, out=[True, False, False])
    del there["a"]
    assert not fixed.is_free(training=True, out=[]), "no training runs without a GPU because one was lost"
    assert "a worker with a GPU" in fixed.lacks(training=True) and not fixed.lacks(training=False)
    there["c"] = gpu
    assert fixed.is_free(training=True, out=[])

    assert not fixed.lacks(training=True)

    there.clear()
    assert fixed.lacks(training=False) == "a worker"
    begun_empty = OnCluster(client, {})
    assert begun_empty.is_free(training=True, out=[True]), "one step waits, which asks for the next worker"
    there |= {"a": gpu, "b": gpu}
    assert begun_empty.is_free(training=True, out=[True, True])
    assert not begun_empty.is_free(training=True, out=[True, True, True])


def test_that_a_cluster_has_no_worker_is_said_once(checkout, monkeypatch):
    """What the steps wait for would be anyone's guess otherwise."""
    steps = [make_step(checkout, "10_first", name) for name in "ab"]
    monkeypatch.setattr(pipeline, "LACKS_UNSAID", 0)
    looks = iter(range(10**6))

    class Empty(engine.InTurn):
        def lacks(self, *, training):
            return "a worker" if next(looks) < 8 else ""

        def is_free(self, *, training, out):
            return not self.lacks(training=training) and not out

    @contextlib.contextmanager
    def empty_at_first(*_, **__):
        yield Empty()

    monkeypatch.setattr(pipeline, "engine_for", empty_at_first)
    code, said = run(checkout, steps)
    assert code == 0 and said.count("2 steps wait for a worker: the cluster has none") == 1, said


def test_a_scheduler_that_is_lost_is_said_and_nothing_more_is_begun(checkout, tmp_path_factory):
    place = tmp_path_factory.mktemp("lost")
    steps = waiting(checkout, "a", "b", "c")
    with cluster(place) as address, calling(checkout, steps, scheduler=address) as process:
        wait_until(lambda: sum(bool(attempts(checkout, name)) for name in "abc") == 2)
        (scheduler,) = [
            child
            for child in psutil.Process().children()
            if "distributed.cli.dask_scheduler" in child.cmdline()
            and str(place / "scheduler.json") in child.cmdline()
        ]
        scheduler.kill()
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 1 and "Traceback" not in said, said
        assert said.count("the scheduler is gone") == 2, said
        assert sorted(statuses(said).values()) == ["failed", "failed", "skipped"]
        begun = [pid for name in "abc" for pid in attempts(checkout, name)]
        wait_until(lambda: not any(map(psutil.pid_exists, begun)))


def test_the_step_on_which_most_waits_starts_first(checkout):
    a, b, c = (
        replace(make_step(checkout, "10_first", name), weight=weight)
        for name, weight in (("a", 1.0), ("b", 0.9), ("c", 0.8))
    )
    last = replace(make_step(checkout, "20_second", "d", needs=(c.name,)), weight=0.5)
    code, said = run(checkout, [a, b, c, last], workers=2)
    assert code == 0, said
    events = [json.loads(line) for line in events_file(study_in(checkout)).read_text().splitlines()]
    started = [event["step"] for event in events if event["event"] == "start"]
    assert {*started[:2]} == {a.name, c.name}, "not b, which is before c in the list and takes longer"


def test_a_scheduler_that_is_not_there_or_workers_that_do_not_fit_are_said(checkout, scheduler, monkeypatch):
    step = make_step(checkout, "10_first", "a")
    there = {"host": "far", "python": "/python", "token": "other", "missing": [], "versions": "torch 1"}
    for unlike, says in (
        ({}, "does not see .*demo-synthetic.*which all workers share"),
        ({"token": None, "missing": ["torch"]}, r"runs a Python \(/python\) without torch"),
    ):
        with monkeypatch.context() as patch:
            values = {**there, **unlike}
            patch.setattr(
                engine,
                "look_around",
                lambda path, values=values: (
                    values
                    if values["token"]
                    else {**values, "token": __import__("pathlib").Path(path).read_text()}
                ),
            )
            with pytest.raises(EngineError, match=says):
                run(checkout, [step], scheduler=scheduler)
    monkeypatch.setattr(engine, "CONNECT_WITHIN", 1)
    with pytest.raises(EngineError, match="--scheduler tcp://127.0.0.1:9 cannot be reached"):
        run(checkout, [step], scheduler="tcp://127.0.0.1:9")
    assert not list(study_in(checkout).root.glob(".*")) and not step.state(study_in(checkout)).exists()


def test_every_worker_of_this_machine_has_a_gpu_of_its_own(checkout, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpus_here() == ["3", "5"]
    steps = waiting(checkout, "a", "b", notebook="10_train")
    with calling(checkout, steps, workers=2) as process:
        wait_until(lambda: attempts(checkout, "a") and attempts(checkout, "b"))
        (study_in(checkout).root / "go on").touch()
        assert process.wait(300) == 0
    assert {printed(checkout, name).split()[0] for name in "ab"} == {"3", "5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == []


def test_one_worker_imports_nothing_of_dask(checkout):
    step = make_step(checkout, "10_first", "a")
    script = f"""
        import sys
        from pathlib import Path
        from reidlib.study.pipeline import execute
        from reidlib.study.results import Study
        from reidlib.study.steps import Step
        study = Study("demo", "synthetic", Path({str(study_in(checkout).root)!r}))
        step = Step({step.name!r}, {step.notebook!r}, {step.parameters!r})
        assert execute([step], study, workers=1, repository=Path({str(checkout)!r})) == 0
        print(sorted({{"dask", "distributed", "torch", "papermill"}} & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
