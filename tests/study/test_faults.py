"""What may happen to a study: two calls at once, killed processes, damaged files, places that are closed.

Each fault ends in one sentence or is mended by the same command, and never in a traceback.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from small_checkout import (
    FIRST,
    alive,
    files_below,
    make_step,
    plan,
    ran,
    run,
    study_in,
    wait_until,
    write_notebook,
)

from reidlib import files, progress
from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, FileError, read_json, write_atomically, write_json
from reidlib.report import build_report
from reidlib.study import holding, step_process
from reidlib.study.holding import HeldError, held, holder_file
from reidlib.study.steps import PipelineError, Step
from reidlib.study.times import events_file

WAIT = """
import os, signal, time
from pathlib import Path
if fail:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
Path(results, "pid").write_text(str(os.getpid()))
while not Path(results, "go on").exists():
    time.sleep(0.05)
"""


def waiting(checkout, **parameters) -> Step:
    """A step whose notebook writes its kernel's process id and waits for the file "go on"."""
    study_in(checkout).root.mkdir(parents=True, exist_ok=True)
    write_notebook(checkout / "notebooks" / "30_wait.ipynb", WAIT)
    return Step("w", "30_wait", {"results": str(study_in(checkout).root), **parameters})


@contextlib.contextmanager
def another_call(checkout, step):
    """Another process that runs the step; it is killed at the end."""
    script = f"""
        import sys
        from pathlib import Path
        from reidlib.study import step_process
        from reidlib.study.pipeline import execute
        from reidlib.study.results import Study
        from reidlib.study.steps import Step
        study = Study("demo", "synthetic", Path({str(study_in(checkout).root)!r}))
        step = Step({step.name!r}, {step.notebook!r}, {step.parameters!r})
        sys.exit(execute([step], study, workers=1, repository=Path({str(checkout)!r})))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: alive(study_in(checkout).root / "pid"))
        yield process
    finally:
        process.kill()
        process.communicate()
        wait_until(lambda: not alive(study_in(checkout).root / "pid"))


# ------------------------------------------------------------------------------------------ two calls at once


def test_a_second_call_is_told_who_holds_the_study_and_harms_nothing(checkout):
    step = waiting(checkout)
    root = study_in(checkout).root
    with another_call(checkout, step) as process:
        before = {name for name in files_below(root) if "progress" not in name}
        with pytest.raises(FileError, match=rf"process {process.pid} on {socket.gethostname()}, since"):
            run(checkout, [step, make_step(checkout, "10_first", "a")])
        assert {name for name in files_below(root) if "progress" not in name} == before
        assert plan(checkout, [step]) == {"w": "run: not finished before"}, "a plan needs no lock"
        (root / "go on").touch()
        assert process.wait(300) == 0
    assert run(checkout, [step]) == (0, "All 1 steps are up to date.\n")
    assert step.executed(study_in(checkout)).is_file() and not holder_file(study_in(checkout)).exists()


def test_a_call_that_was_killed_holds_nothing(checkout, capsys):
    step = waiting(checkout)
    with another_call(checkout, step) as process:
        process.kill()
        process.wait()
        killed = process.pid
    root = study_in(checkout).root
    assert list(root.glob(".running-*"))
    (root / "go on").touch()
    assert run(checkout, [step])[0] == 0
    assert f"(process {killed} on " in capsys.readouterr().err
    assert not list(root.glob(".*")), "what the killed call left is removed"


def test_a_call_on_another_machine_holds_the_study_while_it_gives_signs_of_life(
    checkout, monkeypatch, capsys
):
    """Its lock may be invisible here. Clocks are not compared, so one that jumps does no harm."""
    study = study_in(checkout)
    study.root.mkdir(parents=True)
    monkeypatch.setattr(holding, "WATCH", 1)
    other = {"host": "elsewhere", "boot": "x", "pid": 7, "started": 0, "since": "2031-01-01", "command": "c"}
    ended = threading.Event()

    def live():
        count = 0
        while not ended.wait(0.05):
            count += 1
            write_atomically(holder_file(study), json.dumps({**other, "beat": count}))

    write_json(holder_file(study), {**other, "beat": 0})
    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(HeldError, match="process 7 on elsewhere, since 2031"):
            run(checkout, [make_step(checkout, "10_first", "a")])
    finally:
        ended.set()
        living.join()
    assert run(checkout, [make_step(checkout, "10_first", "a")])[0] == 0
    assert "the call 'c' (process 7 on elsewhere, since 2031-01-01) ended without" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": 1, "pid": [], "since": null}'])
def test_a_damaged_note_about_the_holder_holds_nothing(checkout, content, monkeypatch):
    monkeypatch.setattr(holding, "WATCH", 0.1)
    study = study_in(checkout)
    write_atomically(holder_file(study), content)
    with held(study), held(study):
        assert read_json(holder_file(study))["pid"] == os.getpid()
    assert not holder_file(study).exists()


# ----------------------------------------------------------------------------------------- processes that end


@pytest.mark.parametrize("which", ["notebook's process", "kernel"])
def test_a_killed_process_is_said_and_the_same_call_goes_on(checkout, which):
    step, study = waiting(checkout), study_in(checkout)

    def kill():
        wait_until(lambda: alive(study.root / "pid"))
        kernel = int((study.root / "pid").read_text())
        parent = int(Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(kernel if which == "kernel" else parent, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code, said = run(checkout, [step])
    killer.join()
    assert code == 1 and "Traceback" not in said
    if which == "kernel":
        assert "FAILED  w: its kernel died" in said
    else:
        assert "FAILED  w: its process was ended from outside (SIGKILL)." in said
    wait_until(lambda: not alive(study.root / "pid"))
    assert not step.state(study).exists() and not step.executed(study).exists()
    (study.root / "go on").touch()
    assert run(checkout, [step])[0] == 0


def test_a_second_interrupt_ends_a_kernel_that_does_not_stop(checkout):
    step, study = waiting(checkout, fail=True), study_in(checkout)
    with another_call(checkout, step) as process:
        process.send_signal(signal.SIGINT)
        wait_until(lambda: not list(study.root.glob(f".running-*/{step_process.GO}")))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None)
        said = process.stderr.read()
        assert process.returncode == 130
        assert "Interrupted. 0 finished steps are kept" in said and "Traceback" not in said
        assert not list(study.root.glob(".running-*"))


def test_an_interrupt_while_the_program_is_imported_is_said():
    script = """
        import os, runpy, signal, sys
        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == "reidlib.config":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupting())
        sys.argv = ["run_all.py", "--dry-run"]
        runpy.run_path("run_all.py", run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "run_all.py: interrupted.\n")


def test_a_step_that_takes_too_long_is_ended(checkout):
    step, study = waiting(checkout), study_in(checkout)
    code, said = run(checkout, [step], timeout=3)
    assert code == 1 and "FAILED  w: it ran longer than the 0.05 minutes of --timeout. The same" in said
    wait_until(lambda: not alive(study.root / "pid"))
    (study.root / "go on").touch()
    assert run(checkout, [step], timeout=300)[0] == 0
    state = read_json(step.state(study))
    assert state["peak_memory"] > 10e6 and state["cpu_seconds"] > 0
    with events_file(study).open("a") as events:
        events.write('{"event": "done", "step": "w", "seconds": 90}\n{"event": "done"}\n{\n')
    (study.root / "go on").unlink()
    step.state(study).unlink()
    assert "--timeout (earlier it took 1.5)." in run(checkout, [step], timeout=3)[1]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "its kernel died, as it does when memory ",
        ),
        ("raise RuntimeError('could not create a primitive')", "RuntimeError: could not create a primitive"),
        ("x = bytearray(1 << 62)", "MemoryError"),
    ],
)
def test_a_step_that_dies_for_want_of_memory_says_its_peak_and_the_batch_size_to_try(checkout, code, says):
    write_notebook(checkout / "notebooks" / "10_train.ipynb", code, parameters="method = ''\noverrides = {}")
    parameters = {"method": "gap", "overrides": {"batch_size": 48}}
    status, said = run(checkout, [Step("t", "10_train", parameters)])
    assert status == 1 and says in said
    assert re.search(r"Its peak was 0\.\d GB of the [\d.]+ GB that it may use\. Try --set ", said), said
    assert "--set batch_size=24 (it was 48), or fewer --workers." in said


# ---------------------------------------------------------------------------------------------- damaged files

DRAWING = """
from pathlib import Path
import sys
sys.path.insert(0, {repository!r})
sys.modules.pop("reidlib", None)
from reidlib.files import write_atomically
for name in ("tables/one.csv", "tables/one.md", "tables/more.csv", "figures/one.pdf"):
    write_atomically(Path(results, name), name)
"""


@pytest.fixture
def drawn(checkout):
    """A finished step that names one table of those that it writes."""
    write_notebook(checkout / "notebooks" / "30_draw.ipynb", DRAWING.format(repository=str(REPOSITORY)))
    step = Step("d", "30_draw", {"results": str(study_in(checkout).root)}, produces=("tables/one.csv",))
    code, said = run(checkout, [step])
    assert code == 0, said
    return step


def test_whatever_a_step_wrote_is_made_again_if_it_is_not_what_was_written(checkout, drawn):
    names = ["tables/one.csv", "tables/one.md", "tables/more.csv", "figures/one.pdf", "notebooks/d.ipynb"]
    kept = {name: (study_in(checkout).root / name).read_bytes() for name in names}
    assert plan(checkout, [drawn]) == {"d": "up to date"}
    for name, content in kept.items():
        path = study_in(checkout).root / name
        for damaged in (None, b"", content[::-1], content[:-3]):
            path.unlink(missing_ok=True)
            if damaged is not None:
                path.write_bytes(damaged)
            assert plan(checkout, [drawn]) == {"d": f"run: missing or changed: {name}"}
        path.write_bytes(content)
        assert plan(checkout, [drawn]) == {"d": "up to date"}, "the same bytes at another time"
    for name in names[:-1]:
        (study_in(checkout).root / name).write_text("by hand")
    assert run(checkout, [drawn])[0] == 0
    assert [(study_in(checkout).root / name).read_text() for name in names[:-1]] == names[:-1]


def test_a_study_that_was_copied_or_written_again_with_the_same_bytes_is_up_to_date(checkout, drawn):
    root = study_in(checkout).root
    copy = root.with_name("copy")
    shutil.copytree(root, copy, copy_function=shutil.copyfile)  # with other times
    shutil.rmtree(root)
    copy.rename(root)
    assert plan(checkout, [drawn]) == {"d": "up to date"}


def test_new_text_does_not_make_a_step_out_of_date(checkout, drawn):
    """Its executed copy is written then, and is what the study wrote."""
    code = DRAWING.format(repository=str(REPOSITORY))
    write_notebook(checkout / "notebooks" / "30_draw.ipynb", code, text="# New")
    assert run(checkout, [drawn]) == (0, "All 1 steps are up to date.\n")
    assert plan(checkout, [drawn]) == {"d": "up to date"}


def test_a_syntax_error_is_said_with_its_notebook_or_module(checkout):
    step = make_step(checkout, "10_first", "a")
    write_notebook(checkout / "notebooks" / "10_first.ipynb", "x = 1", "y = 2\nz = = 3")
    with pytest.raises(PipelineError, match=r"10_first\.ipynb cannot run: code cell 3, line 2: invalid"):
        plan(checkout, [step])
    write_notebook(checkout / "notebooks" / "10_first.ipynb", FIRST, parameters="a = = 1")
    with pytest.raises(ReidError, match=r"parameters cell of 10_first\.ipynb is no Python"):
        plan(checkout, [step])
    write_notebook(checkout / "notebooks" / "10_first.ipynb", FIRST)
    for content in (b"def", b"\xff\xfe", b"x = '\0'"):
        (checkout / "reidlib" / "base.py").write_bytes(content)
        with pytest.raises(ReidError, match=r"base\.py cannot be read as Python: "):
            plan(checkout, [step])


# ----------------------------------------------------------------------------------------------- lacking runs

LACKING = """
from pathlib import Path
from reidlib.runs import MissingRunError
if not Path(results, "runs", "a", "metrics.json").exists():
    raise MissingRunError("The run a does not exist. Make it with: python run_all.py --only a")
"""


def test_a_page_that_lacks_its_runs_says_so_and_is_no_failure(checkout):
    (checkout / "reidlib" / "runs.py").write_text(
        "from reidlib.errors import ReidError\nclass MissingRunError(ReidError): ...\n"
    )
    write_notebook(checkout / "notebooks" / "20_page.ipynb", LACKING)
    study = study_in(checkout)
    page = Step("20_page", "20_page", {"results": str(study.root)}, produces=("tables/none.csv",))
    code, said = run(checkout, [page])
    assert code == 0
    sentence = "The run a does not exist. Make it with: python run_all.py --only a"
    assert f"no runs 20_page: cell [3]: {sentence}\n" in said and "FAILED" not in said
    assert "20_page  lacks runs" in said
    assert run(checkout, [page]) == (0, "All 1 steps are up to date.\n")
    index = build_report(study, title="T", facts={}, steps=[page]).read_text(encoding="utf-8")
    assert f"Not made, for want of runs: {sentence}" in index

    first = make_step(checkout, "10_first", "a")
    assert run(checkout, [first])[0] == 0
    assert plan(checkout, [page]) == {"20_page": "run: there are other runs now"}
    page = replace(page, produces=())
    assert run(checkout, [page])[0] == 0
    assert page.executed(study).is_file() and not page.failed(study).exists()


# ------------------------------------------------------------------------------------------- places and disks


@contextlib.contextmanager
def as_nobody(folder: Path):
    """This process as a user that may write nowhere in `folder`."""
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o555)
        yield
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_folder_that_may_only_be_read_is_enough_where_all_is_up_to_date(checkout, tmp_path_factory):
    step = make_step(checkout, "10_first", "a")
    assert run(checkout, [step])[0] == 0
    for folder in (checkout, *checkout.parents[:3]):
        folder.chmod(0o755)
    before = files_below(checkout)
    with as_nobody(checkout):
        assert run(checkout, [step]) == (0, "All 1 steps are up to date.\n")
        with pytest.raises(FileError, match="may not be written by this user"):
            run(checkout, [step, make_step(checkout, "10_first", "b")])
    assert files_below(checkout) == before
    assert ran(checkout) == ["a"]


def test_a_full_temporary_folder_stops_nothing(checkout, monkeypatch):
    """What running steps tell each other lies in the study."""
    monkeypatch.setenv("TMPDIR", "/dev/full")
    assert run(checkout, [make_step(checkout, "10_first", "a")])[0] == 0


def test_work_goes_on_where_its_progress_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "progress.json"))
    monkeypatch.setattr(progress, "WRITE_EVERY", 0)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(progress, "write_line", full)
    with progress.track_progress(2, "run", "epoch") as epochs:
        epochs.update()
        epochs.line("epoch 1/2")
    assert capsys.readouterr().out == "epoch 1/2\n"


def test_a_disk_that_is_full_when_the_notebook_is_kept_fails_the_step_in_one_line(checkout, monkeypatch):
    """As if its executed notebook were gone: a step without one is not recorded as finished."""
    study = study_in(checkout)
    vanishing = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        Path(results, "steps").mkdir(parents=True)
        Path(results, "steps", "v.json").mkdir()  # where the state file has to be
    """
    write_notebook(checkout / "notebooks" / "30_vanish.ipynb", vanishing)
    step = Step("v", "30_vanish", {"results": str(study.root)})
    code, said = run(checkout, [step])
    assert code == 1 and "FAILED  v: its results cannot be kept: " in said and "Traceback" not in said


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: done.append(Path(f"/proc/self/fd/{file}").readlink()) or fsync(file)
    )
    monkeypatch.setattr(Path, "replace", lambda path, to: done.append(to) or rename(path, to))
    path = write_json(tmp_path / "x.json", {})
    written, named, listed = done
    assert written.name.startswith(".x.json.") and (named, listed) == (path, tmp_path)
    done.clear()
    write_atomically(path, "for a moment", durable=False)
    assert done == [path]


def test_a_file_system_that_cannot_flush_is_no_error(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", refuse)
    assert write_atomically(tmp_path / "x", "y").read_text() == "y"
