"""What the packages' docstrings, the front pages of `python -m pydoc`, say of their modules is true."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

from reidlib.files import REPOSITORY

PACKAGES = sorted(path.parent for path in (REPOSITORY / "reidlib").rglob("__init__.py"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_every_name_in_backticks_is_there(folder):
    package = importlib.import_module(".".join(folder.relative_to(REPOSITORY).parts))
    modules = {path.stem for path in folder.iterdir()}
    notebooks = {path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    names = set(re.findall(r"`([\w.]+)`", _docstring(folder)))
    named = {name for name in names if not hasattr(package, name)} - modules - notebooks
    for name in named - {"synthetic"}:  # a data set
        module, _, attribute = name.rpartition(".")
        assert module.startswith("reidlib"), f"{package.__name__} names {name}"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def example(text: str) -> str:
    """The indented blocks that import something."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, flags=re.MULTILINE)
    return "".join(textwrap.dedent(block) for block in blocks if "import " in block)


def _docstring(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""


WITH_EXAMPLE = [folder for folder in PACKAGES if example(_docstring(folder))]


@pytest.mark.parametrize("folder", WITH_EXAMPLE, ids=lambda folder: folder.name)
def test_what_an_example_imports_is_there(folder):
    for node in ast.walk(ast.parse(example(_docstring(folder)))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_front_page_names_every_package_and_module():
    text = _docstring(REPOSITORY / "reidlib")
    names = {path.stem for path in (REPOSITORY / "reidlib").iterdir() if not path.stem.startswith("_")}
    below_all = {"devices", "errors", "progress", "settings", "surroundings"}  # tools of the others
    assert not {name for name in names if not re.search(rf"\b{name}\b", text)} - below_all
