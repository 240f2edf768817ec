"""The pipeline on tiny notebooks in their own small checkout: what runs, and which files it leaves."""

import io
import json
import shlex
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from small_checkout import (
    FIRST,
    PARAMETERS,
    alive,
    files_below,
    make_step,
    plan,
    ran,
    run,
    statuses,
    study_in,
    wait_until,
    write_notebook,
)

from reidlib.files import REPOSITORY, FileError, read_json
from reidlib.study import pipeline
from reidlib.study.fingerprints import fingerprint
from reidlib.study.pipeline import execute
from reidlib.study.steps import ParameterError, PipelineError, Step, check_parameters, select


def test_runs_in_order_then_only_what_changed(checkout):
    first = make_step(checkout, "10_first", "a")
    second = make_step(checkout, "20_second", "b", needs=(first.name,))
    steps = [first, second]
    study = study_in(checkout)
    before = files_below(checkout)
    assert plan(checkout, steps) == {
        "10_first/a": "run: not finished before",
        "20_second/b": "run: not finished before",
    }
    assert files_below(checkout) == before, "a dry run writes nothing"

    code, said = run(checkout, steps)
    assert (code, ran(checkout)) == (0, ["a", "b"]), said
    executed = nbformat.read(study.notebooks / "10_first" / "a.ipynb", as_version=4)
    assert executed.metadata.papermill.input_path == "10_first.ipynb", (
        "no path of this machine in what may be published"
    )
    assert sorted(files_below(study.root)) == [
        "events.jsonl",
        "notebooks/10_first/a.ipynb",
        "notebooks/20_second/b.ipynb",
        "runs/a/metrics.json",
        "runs/b/metrics.json",
        "steps/10_first/a.json",
        "steps/20_second/b.json",
    ]
    state = read_json(study.steps / "10_first" / "a.json")
    assert state["versions"]["python"] == sys.version.split()[0]
    assert state["seconds"] > 0 and state["finished"]
    assert run(checkout, steps) == (0, "All 2 steps are up to date.\n")

    # The changed code is two imports away from the first notebook; comments and docstrings do not count.
    base = checkout / "reidlib" / "base.py"
    base.write_text('"""Better words."""\n# why\nVALUE = 1\n')
    assert set(plan(checkout, steps).values()) == {"up to date"}
    base.write_text("VALUE = 3\n")
    expected = {
        "10_first/a": "run: changed code: reidlib.base",
        "20_second/b": "run: changed need: 10_first/a",
    }
    assert plan(checkout, steps) == expected
    assert run(checkout, steps[1:])[1] == "All 1 steps are up to date.\n", (
        "a need that was not asked for counts as it was last run"
    )
    (checkout / "reidlib" / "two.py").write_text(
        "VALUE = 4\nfrom reidlib.errors import ReidError\nclass NoRun(ReidError): ...\n"
    )
    base.write_text("VALUE = 1\n")
    assert plan(checkout, steps) == {
        "10_first/a": "up to date",
        "20_second/b": "run: changed code: reidlib.two",
    }

    changed = make_step(checkout, "20_second", "b", needs=(first.name,), rate=1)
    assert plan(checkout, [first, changed])["20_second/b"] == "run: changed parameters: rate None -> 1"
    assert run(checkout, [first, changed])[0] == 0
    assert ran(checkout) == ["b"]
    assert (study.run("x", 0).parent / "b" / "metrics.json").read_text() == "4"

    # A deleted product is made again, and so is everything that was made from it.
    (study.runs / "a" / "metrics.json").unlink()
    expected = {
        "10_first/a": "run: missing or changed: runs/a/metrics.json",
        "20_second/b": "run: 10_first/a is run again",
    }
    assert plan(checkout, [first, changed]) == expected
    assert run(checkout, [first])[0] == 0
    assert plan(checkout, [first, changed]) == {
        "10_first/a": "up to date",
        "20_second/b": "run: 10_first/a was run again",
    }


def test_new_text_reaches_the_executed_copy_without_a_run(checkout):
    step = make_step(checkout, "10_first", "a")
    assert run(checkout, [step])[0] == 0
    assert ran(checkout) == ["a"]
    notebook = checkout / "notebooks" / "10_first.ipynb"
    write_notebook(notebook, FIRST + "# comment", text="# Other")
    assert "text changed" in plan(checkout, [step])["10_first/a"]
    assert run(checkout, [step]) == (0, "All 1 steps are up to date.\n")
    assert ran(checkout) == []
    cells = nbformat.read(study_in(checkout).notebooks / "10_first" / "a.ipynb", as_version=4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code", "code"]
    assert cells[0].source == "# Other"
    assert cells[3].source.endswith("# comment") and cells[3].execution_count == 3
    assert 'name = "a"' in cells[2].source, "the injected parameters stay"
    assert plan(checkout, [step]) == {"10_first/a": "up to date"}


def test_a_failure_stops_only_what_needs_it_and_is_resumed(checkout):
    broken = make_step(checkout, "10_first", "a", fail=True)
    needy = make_step(checkout, "20_second", "b", needs=(broken.name,))
    refused = make_step(checkout, "20_second", "c", fail=True)
    alone = make_step(checkout, "20_second", "d")
    code, said = run(checkout, [broken, needy, refused, alone])
    study = study_in(checkout)
    assert code == 1
    assert sorted(ran(checkout)) == ["a", "c", "d"]
    failed = study.notebooks / "10_first" / "a.failed.ipynb"
    assert "FAILED  10_first/a: cell [3]: ValueError: last line\n" in said
    assert f"notebook with the traceback: {failed}" in said
    assert "ValueError" in failed.read_text()
    assert "FAILED  20_second/c: cell [3]: Make it with: make it.\n" in said, (
        "an error of ours is its message alone"
    )
    assert statuses(said) == {
        "10_first/a": "failed",
        "20_second/b": "skipped",
        "20_second/c": "failed",
        "20_second/d": "done",
    }
    assert not (study.steps / "10_first" / "a.json").exists() and not broken.executed(study).exists()
    assert "Traceback" not in said

    mended = make_step(checkout, "10_first", "a")
    code, said = run(checkout, [mended, needy, alone])
    assert (code, ran(checkout)) == (0, ["a", "b"]), said
    assert not failed.exists()


def test_a_damaged_state_file_puts_the_step_out_of_date(checkout):
    """Whatever the file holds. A step that needs it is run again, too."""
    first = make_step(checkout, "10_first", "a")
    second = make_step(checkout, "20_second", "b", needs=(first.name,))
    assert run(checkout, [first, second])[0] == 0
    path = first.state(study_in(checkout))
    whole = json.loads(path.read_text())
    needed = ("fingerprint", "parts", "text", "run", "needs_run", "outputs", "lacks")
    damaged = ["", "{}", "[]", "null", "3", '"x"', path.read_text()[:-20], "[" * 10**5, "\x00"]
    damaged += [json.dumps({name: value for name, value in whole.items() if name != gone}) for gone in needed]
    damaged += [
        json.dumps({**whole, name: odd}) for name in needed for odd in (None, {"lacks": {}}.get(name, []), 3)
    ]
    for part in ("parameters", "code", "reads", "needs"):
        damaged += [json.dumps({**whole, "parts": {**whole["parts"], part: odd}}) for odd in (None, [], "x")]
    for content in damaged:
        path.write_text(content)
        planned = plan(checkout, [first, second])
        assert planned["10_first/a"] == "run: its state file is damaged: steps/10_first/a.json"
        assert planned["20_second/b"].startswith("run: 10_first/a ")
        assert "run: " in plan(checkout, [second])["20_second/b"], "a need that is not part of this call"
    assert run(checkout, [first])[0] == 0
    assert plan(checkout, [first]) == {"10_first/a": "up to date"}

    # The same holds for what the step produced.
    product = study_in(checkout).runs / "a" / "metrics.json"
    for content in ("", "{}", "[]", "{", "null"):
        product.write_text(content)
        assert plan(checkout, [first]) == {"10_first/a": "run: missing or changed: runs/a/metrics.json"}


@pytest.mark.parametrize("way", ["root", "steps", "notebooks/10_first", "runs", "runs/a"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_place_that_cannot_be_written_stops_the_study_before_anything_runs(checkout, way, kind):
    """Every folder that a step writes into is looked at. A plan writes nothing, so it is shown."""
    root = study_in(checkout).root
    folder = root if way == "root" else root / way
    folder.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        folder.write_text("x")
    else:
        folder.symlink_to(checkout / "gone")
    before = sorted(checkout.rglob("*"))
    step = make_step(checkout, "10_first", "a")
    with pytest.raises(FileError, match="cannot be written") as error:
        run(checkout, [step])
    assert str(folder) in str(error.value)
    assert plan(checkout, [step]) == {"10_first/a": "run: not finished before"}
    assert sorted(checkout.rglob("*")) == before


def test_a_place_that_is_closed_meanwhile_fails_its_step_only(checkout, monkeypatch):
    study = study_in(checkout)
    study.steps.mkdir(parents=True)
    (study.steps / "10_first").write_text("x")
    monkeypatch.setattr(pipeline, "require_writable", lambda folder: None)
    steps = [make_step(checkout, "10_first", "a"), make_step(checkout, "20_second", "b")]
    code, said = run(checkout, steps)
    assert code == 1 and ran(checkout) == ["b"], said
    assert "FAILED  10_first/a: it cannot be started: " in said and "Traceback" not in said


def test_a_machine_that_cannot_connect_to_itself_is_said(checkout, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(101, "made up")

    step = make_step(checkout, "10_first", "a")
    for module, name, says in (
        (socket, "create_connection", r"connect to itself at 127.0.0.1 \(made up\).*loopback"),
        (socket, "create_server", r"connect to itself at 127.0.0.1 \(made up\).*loopback"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(PipelineError, match=says):
                run(checkout, [step])
            assert plan(checkout, [step]) == {"10_first/a": "run: not finished before"}
    assert not study_in(checkout).root.exists()


def test_a_user_without_a_home_gets_one_for_the_notebooks(checkout, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    write_notebook(checkout / "notebooks" / "30_home.ipynb", "import os\nprint(os.environ['HOME'])")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert run(checkout, [Step("h", "30_home", {})])[0] == 0
    notebook = nbformat.read(study_in(checkout).notebooks / "h.ipynb", as_version=4)
    assert "/.running-" in notebook.cells[2].outputs[0].text


def test_steps_that_run_are_ended_when_messages_cannot_be_written(checkout, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            if "30_wait/a" in text:
                raise BrokenPipeError(32, "Broken pipe")
            return super().write(text)

    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda *arguments, **options: started.append(popen(*arguments, **options)) or started[-1],
    )
    write_notebook(checkout / "notebooks" / "30_wait.ipynb", "import time\ntime.sleep(600)")
    steps = [Step(f"30_wait/{name}", "30_wait", {}) for name in "ab"]
    with pytest.raises(BrokenPipeError):
        execute(steps, study_in(checkout), stream=Closed(), repository=checkout, workers=1)
    assert started and all(process.poll() is not None for process in started)


def test_a_missing_product_is_a_failure(checkout):
    step = make_step(checkout, "10_first", "a")
    step = Step(step.name, step.notebook, step.parameters, produces=("tables/none.csv",))
    code, said = run(checkout, [step])
    assert code == 1 and "did not write tables/none.csv" in said
    assert not (study_in(checkout).steps / "10_first" / "a.json").exists()


WAIT = """
import os, time
from pathlib import Path
Path(results, name).touch()
while not all(Path(results, other).exists() for other in ("a", "b")):
    time.sleep(0.05)
print(os.environ["OMP_NUM_THREADS"], sys.executable, os.environ["MALLOC_TRIM_THRESHOLD_"])
"""


def test_workers_run_at_the_same_time_with_the_threads_asked_for(checkout, monkeypatch, tmp_path):
    """Each of two notebooks waits for the other. Kernels registered on the machine are not used.

    Dask sets variables of its own for its workers; notebooks get the study's.
    """
    other = tmp_path / "home" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "Other", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "home"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = study_in(checkout)
    study.root.mkdir(parents=True)
    progress = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        sys.modules.pop("reidlib", None)
        from reidlib.progress import track_progress
        with track_progress(2, name, "epoch") as bar:
            bar.update(1, loss=0.5)
            bar.line("epoch 1/2 of " + name)
    """
    write_notebook(checkout / "notebooks" / "30_wait.ipynb", "import sys\n" + WAIT, progress)
    steps = [Step(name, "30_wait", {"name": name, "results": str(study.root)}) for name in ("a", "b")]
    code, said = run(checkout, steps, workers=2, threads=3)
    assert code == 0, said
    notebook = nbformat.read(study.notebooks / "a.ipynb", as_version=4)
    assert notebook.cells[3].outputs[0].text == f"3 {sys.executable} {1 << 30}\n"
    assert "[a] epoch 1/2 of a\n" in said and "[b] epoch 1/2 of b\n" in said, (
        "without a terminal, epochs are lines"
    )
    assert notebook.cells[4].outputs[0].text == "epoch 1/2 of a\n"


def test_interrupt_stops_the_kernel_and_keeps_what_is_finished(checkout):
    """The study runs like a background job of a shell: SIGINT is ignored, and SIGTERM ends it."""
    study = study_in(checkout)
    study.root.mkdir(parents=True)
    waiting = """
        import os, time
        from pathlib import Path
        if fail:
            Path(results, "pid").write_text(str(os.getpid()))
            time.sleep(600)
    """
    write_notebook(checkout / "notebooks" / "30_wait.ipynb", waiting)
    script = f"""
        import sys
        from pathlib import Path
        from reidlib.study.pipeline import execute
        from reidlib.study.results import Study
        from reidlib.study.steps import Step
        study = Study("demo", "synthetic", Path({str(study.root)!r}))
        steps = [Step(f"w{{k}}", "30_wait", {{"fail": bool(k), "results": str(study.root)}}) for k in (0, 1)]
        sys.exit(execute(steps, study, workers=1, repository=Path({str(checkout)!r})))
    """
    ignoring = "trap '' INT; exec " + shlex.join([sys.executable, "-c", textwrap.dedent(script)])
    process = subprocess.Popen(
        ["sh", "-c", ignoring], cwd=REPOSITORY, stderr=subprocess.PIPE, start_new_session=True
    )
    pid = study.root / "pid"
    try:
        wait_until(lambda: alive(pid))
        process.terminate()
        said = process.communicate(timeout=300)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted. 1 finished steps are kept" in said and "Traceback" not in said
    wait_until(lambda: not alive(pid))
    assert sorted(files_below(study.root)) == [
        "events.jsonl",
        "notebooks/w0.ipynb",
        "pid",
        "steps/w0.json",
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nmae": "x"}, r"no parameter 'nmae': did you mean 'name'\?"),
        ({"xyzzy": 1}, r"no parameter 'xyzzy': it has: name, fail, results, rate, size"),
        ({"name": 3}, r"'name' of n.ipynb must be str, not 3 \(int\)"),
        ({"fail": 1}, "must be bool, not 1"),
        ({"rate": True}, "must be float, not True"),
        ({"size": 1.5}, r"must be int, not 1.5 \(float\)"),
        ({"size": True}, r"must be int, not True"),
        ({"seeds": 1}, r"must be list, not 1 \(int\)"),
        ({"options": [1]}, r"must be dict, not \[1\]"),
        ({"name": None}, "must be str, not None"),
    ],
)
def test_parameters_are_refused(tmp_path, parameters, message):
    extra = "\nseeds = [0]\noptions = {}\nanything = None"
    write_notebook(tmp_path / "n.ipynb", parameters=PARAMETERS + extra)
    with pytest.raises(ParameterError, match=message):
        check_parameters(tmp_path / "n.ipynb", parameters)
    good = {"name": "x", "rate": 1, "size": 4, "seeds": (1, 2), "options": {"a": 1}, "fail": True}
    good["anything"] = {"k": 1}
    check_parameters(tmp_path / "n.ipynb", good)


@pytest.mark.parametrize("line", ["a = 1 + x", "a = b = c", "import os", "a: int", "a: int = 1"])
def test_parameter_cell_holds_literals_only(tmp_path, line):
    write_notebook(tmp_path / "n.ipynb", parameters="ok = 1\n" + line)
    with pytest.raises(ParameterError, match="Line 2"):
        check_parameters(tmp_path / "n.ipynb", {})


def test_wrong_parameters_stop_the_study_before_anything_runs(checkout):
    steps = [make_step(checkout, "10_first", "a"), make_step(checkout, "20_second", "b", extra=1)]
    with pytest.raises(ParameterError, match="extra"):
        run(checkout, steps)
    assert not study_in(checkout).root.exists()


def test_fingerprint_depends_on_files_that_are_read_not_on_the_results_folder(checkout):
    step = make_step(checkout, "10_first", "a")
    moved = Step(step.name, step.notebook, step.parameters | {"results": "/elsewhere"})
    assert fingerprint(step, {}, repository=checkout) == fingerprint(moved, {}, repository=checkout)
    table = checkout / "data.csv"
    table.write_text("1")
    reader = Step(step.name, step.notebook, step.parameters, reads=("data.csv",))
    one = fingerprint(reader, {}, repository=checkout)
    table.write_text("2")
    assert one != fingerprint(reader, {}, repository=checkout) != fingerprint(step, {}, repository=checkout)
    numbers = checkout / "data" / "paper"
    numbers.mkdir(parents=True)
    (numbers / "table.csv").write_text("91.5")
    reader = Step(step.name, step.notebook, step.parameters, reads=("data/paper",))
    one = fingerprint(reader, {}, repository=checkout)
    (numbers / ".DS_Store").write_text("of the system")
    assert one == fingerprint(reader, {}, repository=checkout)
    (numbers / "table.csv").write_text("92.5")
    assert one != fingerprint(reader, {}, repository=checkout), "corrected to a number of the same length"
    one, two = (
        fingerprint(Step(step.name, step.notebook, {}, images={"test": test}), {}, repository=checkout)
        for test in "12"
    )
    assert one != two
    needy = Step(step.name, step.notebook, step.parameters, needs=("n",))
    one, two = (fingerprint(needy, {"n": number}, repository=checkout) for number in "12")
    assert one != two


def test_a_packages_init_counts_only_if_a_name_is_imported_from_it(checkout):
    """A notebook that imports only a module of the package does not run again when `__init__` changes."""
    package = checkout / "reidlib" / "show"
    package.mkdir()
    (package / "__init__.py").write_text("from reidlib.base import VALUE as NAME\n")
    (package / "part.py").write_text("VALUE = 5\n")
    imports = {
        "30_through": "from reidlib.show.part import VALUE",
        "31_module": "from reidlib.show import part",
        "32_name": "from reidlib.show import NAME",
    }
    for name, source in imports.items():
        write_notebook(checkout / "notebooks" / f"{name}.ipynb", source)

    def fingerprints():
        return {name: fingerprint(Step(name, name, {}), {}, repository=checkout) for name in imports}

    def affected_by(path, text):
        before = fingerprints()
        path.write_text(text)
        return [name for name, now in fingerprints().items() if now != before[name]]

    assert affected_by(package / "part.py", "VALUE = 6\n") == ["30_through", "31_module"]
    assert affected_by(checkout / "reidlib" / "base.py", "VALUE = 7\n") == ["32_name"]
    assert affected_by(package / "__init__.py", "NAME = 8\n") == ["32_name"]


def test_select():
    names = ["01_data", "10_train/gap-seed0", "10_train/gap+sa1-seed0", "30_maps"]
    steps = [Step(name, name.split("/")[0], {}) for name in names]

    def chosen(*only, start_from=""):
        return [step.name for step in select(steps, only, start_from)]

    assert chosen() == names
    assert chosen("10_train") == names[1:3]
    assert chosen("30", "01_data") == [names[0], names[3]]
    assert chosen("10_train/gap-seed0") == names[1:2]
    assert chosen("10_train/gap") == names[1:3]
    assert chosen(start_from="10_train") == names[1:]
    assert chosen("01_data", start_from="10_train/gap+sa1-seed0") == []
    message = r"no step '10_trian'. Did you mean '10_train'\? The steps are: 01_data, "
    with pytest.raises(PipelineError, match=message):
        chosen("10_trian")
    with pytest.raises(PipelineError, match="needs b, which does not come before"):
        select([Step("a", "a", {}, needs=("b",)), Step("b", "b", {})])
    with pytest.raises(PipelineError, match="used twice"):
        select([Step("a", "a", {}), Step("a", "b", {})])
