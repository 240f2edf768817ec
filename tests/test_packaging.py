"""The files for setting up a new machine agree with each other, and contain no addresses."""

import ctypes
import re
import sys
import tomllib
from fnmatch import fnmatch

import pytest
import yaml

from reidlib.files import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))
import check_machine  # noqa: E402


def pyproject() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def declared() -> list[str]:
    return pyproject()["project"]["dependencies"] + pyproject()["dependency-groups"]["test"]


def test_conda_environment_lists_the_same_dependencies():
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^      - (.+)$", text, re.MULTILINE)
    assert listed == [*declared(), "--editable ."]
    assert f"  - python{pyproject()['project']['requires-python']}\n" in text


def test_lock_pins_every_dependency_with_hashes_and_contains_no_address():
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


def test_the_citation_has_what_cff_asks_for_and_the_projects_version_and_licence():
    """Citation File Format 1.2.0: required keys of the file, of its references and of their authors."""
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = pyproject()["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    (author,) = cited["authors"]
    assert author["name"] in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    kinds = {work["title"].partition(" Network")[0]: work["type"] for work in cited["references"]}
    assert kinds == {
        "ABD-Net: Attentive but Diverse Person Re-Identification": "conference-paper",
        "Parameter-Free Spatial Attention": "article",
    }
    for work in cited["references"]:
        assert {"type", "title", "authors"} <= work.keys() and isinstance(work["year"], int)
        assert all(person.keys() == {"family-names", "given-names"} for person in work["authors"])
        assert all(one.keys() == {"type", "value"} for one in work["identifiers"])
    texts = [text for text in _leaves(cited) if not isinstance(text, int)]
    assert all(isinstance(text, str) for text in texts), "an unquoted version or date is no text"


def _leaves(value):
    if not isinstance(value, dict | list):
        yield value
        return
    for part in value.values() if isinstance(value, dict) else value:
        yield from _leaves(part)


def test_every_file_of_the_package_is_installed_with_it():
    """Folders of code are packages, and other files are listed as package data."""
    data = pyproject()["tool"]["setuptools"]["package-data"]
    files = [
        path
        for path in (REPOSITORY / "reidlib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert any(path.suffix == ".html" for path in files)
    for path in files:
        assert (path.parent / "__init__.py").is_file(), path
        package = ".".join(path.parent.relative_to(REPOSITORY).parts)
        assert path.suffix == ".py" or any(fnmatch(path.name, pattern) for pattern in data[package]), path


def test_machine_check_names_what_is_missing(monkeypatch):
    assert check_machine.problems() == []

    def load(name):
        if name == "libGL.so.1":
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2e9}))
    monkeypatch.setattr(check_machine.sys, "platform", "linux")
    libraries, disk = check_machine.problems()
    assert "libGL.so.1" in libraries and "apt-get install -y libgl1" in libraries
    assert "libglib-2.0.so.0" not in libraries
    assert "2.0 GB are free" in disk


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_machine_check_refuses_other_pythons(monkeypatch, version):
    monkeypatch.setattr(check_machine.sys, "version_info", version)
    assert any("Python 3.11 to 3.13" in sentence for sentence in check_machine.problems())
