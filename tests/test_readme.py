"""The README as its readers use it: it is short, and every command in it works."""

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import run_all
from reidlib.files import REPOSITORY
from reidlib.study import command_line

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
COMMANDS = [
    re.split(r"\s{2,}#|\s# ", line)[0].strip()
    for line in LINES
    if re.match(r"(make|python|nohup|tail|\.venv/bin/python) ", line)
]
INLINE = re.findall(r"`((?:make|python) [^`]+)`", TEXT)
STUDY = [
    line for line in COMMANDS + INLINE if " run_all.py" in line and "corridor" not in line
]  # test_adding
OTHER = [line for line in COMMANDS + INLINE if "python" in line and line not in STUDY]


def test_it_is_read_in_a_minute_or_two():
    assert len(TEXT.splitlines()) < 150
    titles = re.findall(r"^## (.*)$", TEXT, re.M)
    assert titles[:3] == ["What was found", "Two commands", "The reference runs"]


def test_its_commands_were_found():
    assert len(COMMANDS) >= 12 and {"make study", "make test"} <= {*COMMANDS}


@pytest.mark.parametrize("line", [one for one in COMMANDS + INLINE if one.startswith("make ")])
def test_make_knows_the_target(line):
    done = subprocess.run(
        [*shlex.split(line), "-n"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def places(tmp_path):
    """Images in Market-1501's layout for each name that stands for a reader's own."""
    for name, first in (("A", 1), ("B", 21), ("C", 41)):
        layout = {
            "bounding_box_train": ((0, 1), (1, 2)),
            "query": ((2, 3), (1,)),
            "bounding_box_test": ((2, 3), (2,)),
        }
        for split, (people, cameras) in layout.items():
            (tmp_path / name / split).mkdir(parents=True)
            for person, camera in itertools.product(people, cameras):
                image = Image.new("RGB", (16, 32), (5 * (first + person), 40 * camera, 0))
                image.save(tmp_path / name / split / f"{first + person:04d}_c{camera}s1_000001_00.jpg")
    return tmp_path


@pytest.mark.parametrize("line", sorted({*STUDY}))
def test_the_study_takes_the_command(line, places, capsys):
    """Every command of the study is planned in full on small images; only what it would run is not run."""
    line = line.removeprefix("nohup ").partition(" > ")[0]
    words = shlex.split(line)
    arguments = words[words.index("run_all.py") + 1 :]
    for name in "ABC":
        arguments = [word.replace(f"{name}=DIR", f"{name}={places / name}") for word in arguments]
    results = ["--results", str(places / "results")]
    if "--results" in arguments:
        results = []
        arguments[arguments.index("--results") + 1] = str(places / "results")
    arguments = [str(places / "A") if word == "DIR" else word for word in arguments]
    # These need weights, or a finished study; tests of their own run them.
    if {"--checkpoint", "--images", "--verify"} & {*arguments}:
        command_line.parse([*arguments, *results])
        return
    counts = ["--data", "allow_wrong_counts=True"] if "market1501" in arguments else []
    status = command_line.main([*arguments, *results, *counts, "--dry-run"], run_all.steps, run_all.FRONT)
    said = capsys.readouterr()
    assert status == 0 and said.err + said.out, said.err


@pytest.mark.parametrize("line", sorted({*OTHER}))
def test_the_program_is_there_and_knows_the_options(line):
    words = shlex.split(line)[1:]
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), line
        program = [sys.executable, "-m", words[1]]
        if words[1] == "pydoc":
            done = subprocess.run(
                [*program, *words[2:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            assert "no Python documentation found" not in done.stdout and done.returncode == 0
            return
    else:
        assert Path(REPOSITORY, words[0]).is_file(), line
        program = [sys.executable, words[0]]
    done = subprocess.run([*program, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {word for word in words if word.startswith("--")} <= {*re.findall(r"--[\w-]+", done.stdout)}


def test_every_link_and_file_it_names_is_there():
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert Path(REPOSITORY, name).exists(), name
    for name in re.findall(r"`((?:reidlib|results|tools|benchmarks|data|tests|notebooks)/[\w./-]+)`", TEXT):
        assert Path(REPOSITORY, name).exists() or name.startswith("results/demo"), name
    for name in re.findall(r"`(\d\d_\w+)`", TEXT):
        assert Path(REPOSITORY, "notebooks", f"{name}.ipynb").is_file(), name
    notebooks = {path.stem for path in Path(REPOSITORY, "notebooks").glob("*.ipynb")}
    assert notebooks <= {*re.findall(r"\d\d_\w+", TEXT)}, "every notebook is named"
