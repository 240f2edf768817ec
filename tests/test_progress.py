"""Progress: what each place (pipeline, kernel, terminal, log) shows; the state file is always readable."""

import json
import os
import pty
import subprocess
import sys
import termios

import pytest

import reidlib.progress as module
from reidlib.progress import VARIABLE, fraction, read_state, situation, track_progress

TRAINING = """
from reidlib.progress import track_progress
with track_progress(2, "run", "epoch") as epochs:
    for epoch in (1, 2):
        with track_progress(3, "batches", "batch") as batches:
            for _ in range(3):
                batches.update(loss=0.25)
        epochs.update(1, rate=0.123456)
        epochs.line(f"epoch {epoch}/2")
"""


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setattr(module, "WRITE_EVERY", 0.0)
    return path


def test_state_file_shows_the_open_contexts(state, capsys):
    assert read_state(state) == []
    with track_progress(4, "run", "epoch") as epochs:
        assert [context["n"] for context in read_state(state)] == [0]
        epochs.update(1, loss=0.123456)
        epochs.line("epoch 1/4")
        with track_progress(10, "batches", "batch") as batches:
            batches.update(5)
            outer, inner = read_state(state)
            assert outer == {
                "description": "run",
                "unit": "epoch",
                "n": 1,
                "total": 4,
                "postfix": {"loss": "0.1235"},
            }
            assert (inner["n"], inner["total"]) == (5, 10)
            assert fraction([outer, inner]) == pytest.approx((1 + 0.5) / 4)
        epochs.update(3)
    assert [(context["n"], context["total"]) for context in read_state(state)] == [(4, 4)]
    assert capsys.readouterr().out == "epoch 1/4\n"
    assert (state.parent / "progress.json.lines").read_text() == "epoch 1/4\n"
    assert sorted(path.name for path in state.parent.iterdir()) == ["progress.json", "progress.json.lines"]


def test_state_file_is_written_rarely_but_ends_complete(state, monkeypatch):
    monkeypatch.setattr(module, "WRITE_EVERY", 3600.0)
    writes = []
    write = module.write_atomically
    monkeypatch.setattr(
        module,
        "write_atomically",
        lambda path, text, **options: writes.append(json.loads(text)) or write(path, text, **options),
    )
    with track_progress(1000, "decoding", "image") as images:
        for _ in range(1000):
            images.update()
    assert [contexts[0]["n"] for contexts in writes] == [0, 1000]


def test_an_error_leaves_no_context_open(state):
    with pytest.raises(KeyError), track_progress(2, "outer", "epoch"), track_progress(2, "inner", "batch"):
        raise KeyError
    with track_progress(3, "next", "epoch"):
        assert [context["description"] for context in read_state(state)] == ["next"]


@pytest.mark.parametrize(
    ("contexts", "share"),
    [
        ([], 0.0),
        ([(0, 4)], 0.0),
        ([(4, 4)], 1.0),
        ([(1, 4), (1, 2), (1, 2)], (1 + (1 + 0.5) / 2) / 4),
        ([(4, 4), (1, 2)], 1.0),
        ([(0, 0)], 0.0),
    ],
)
def test_fraction(contexts, share):
    assert fraction([{"n": n, "total": total} for n, total in contexts]) == pytest.approx(share)


def run_training(**options):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", TRAINING], env=environment, check=True, stdout=subprocess.PIPE, **options
    )


def test_without_a_terminal_only_lines():
    finished = run_training(stderr=subprocess.PIPE)
    assert finished.stdout == b"epoch 1/2\nepoch 2/2\n"
    assert finished.stderr == b""


def test_in_a_terminal_bars_and_lines():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    finished = run_training(stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert finished.stdout == b""
    assert "epoch 1/2" in shown and "epoch 2/2" in shown
    assert "run: 100%" in shown and "2/2" in shown and "rate=0.123" in shown


def test_in_a_kernel_a_widget(monkeypatch):
    IPython = pytest.importorskip("IPython")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    assert situation() == "widget"
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {})())
    assert situation() != "widget", "IPython in a terminal"
