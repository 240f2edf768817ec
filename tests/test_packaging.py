"""The files that a fresh machine starts from agree with each other, and hold no address."""

import re
import sys
import tomllib

import pytest

from reidlib.results import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))
import check_machine  # noqa: E402


def declared() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["dependencies"] + project["dependency-groups"]["test"]


def test_conda_environment_lists_the_same_dependencies():
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^      - (.+)$", text, re.MULTILINE)
    assert listed == [*declared(), "--editable ."]
    python = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert f"  - python{python}\n" in text


def test_lock_pins_every_dependency_with_hashes_and_holds_no_address():
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))
    for requirement in declared():
        name, least = re.fullmatch(r"([A-Za-z0-9-]+)>=([\d.]+)", requirement).groups()
        assert name in pinned, f"{name} is not pinned: run `make lock`"
        assert _numbers(pinned[name]) >= _numbers(least), name
    entries = re.split(r"\n(?=[a-z0-9-]+==)", text)
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
    assert "://" not in text


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))[:3]


def test_machine_check_names_what_is_missing(monkeypatch):
    assert check_machine.problems() == []
    monkeypatch.setattr(check_machine, "_loads", lambda name: name != "libGL.so.1")
    monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2e9}))
    monkeypatch.setattr(check_machine.sys, "platform", "linux")
    libraries, disk = check_machine.problems()
    assert "libGL.so.1" in libraries and "apt-get install -y libgl1" in libraries and "libglib-2.0.so.0" not in libraries
    assert "2.0 GB are free" in disk


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_machine_check_refuses_other_pythons(monkeypatch, version):
    monkeypatch.setattr(check_machine.sys, "version_info", version)
    assert any("Python 3.11 to 3.13" in sentence for sentence in check_machine.problems())
