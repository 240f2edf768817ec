"""Rules for the code: later groups of modules import earlier ones only, and no number depends on texts."""

import ast
from pathlib import Path

import pytest

from reidlib.code_digest import Code, digest_of_code, is_prose, source_digest
from reidlib.files import REPOSITORY
from reidlib.training import records

PACKAGE = REPOSITORY / "reidlib"
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Groups of modules: for weights, for scores, for showing and running. Base modules come before all groups.
GROUPS = (
    ("models", "losses", "checkpoints", "images", "datasets", "synthetic", "training", "classification"),
    ("evaluation", "reranking", "statistics", "crossed", "image_embedder", "neighbours"),
    ("show", "study", "report", "export"),
)
# `fit` trains a run and then scores it, so it imports a later group. Nothing that makes weights imports it,
# and nothing but users imports a name from the package itself.
ALLOWED_BACK = {"reidlib.training.fitting", "reidlib.training", "reidlib"}


def group_of(module: str) -> int:
    name = module.removeprefix("reidlib").lstrip(".").partition(".")[0]
    return next((rank for rank, names in enumerate(GROUPS, 1) if name in names), 0)


def imports_of(module: str) -> set[str]:
    """The modules of reidlib that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are written out"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return {name for name in found if name.partition(".")[0] == "reidlib"}


def test_there_is_a_group_for_every_package():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= {name for names in GROUPS for name in names}
    assert all(
        (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() for names in GROUPS for name in names
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_later_group(module):
    later = {name for name in imports_of(module) if group_of(name) > group_of(module)}
    if module in ALLOWED_BACK:
        assert {group_of(name) for name in later} <= {2}
    elif group_of(module):
        assert not later
    else:  # a base module: reidlib.run imports data sets and networks
        assert all(group_of(name) == 1 for name in later)


@pytest.mark.parametrize("module", MODULES)
def test_only_study_and_report_import_the_study_or_the_report(module):
    outer = {name for name in imports_of(module) if name.split(".")[1:2] in (["study"], ["report"])}
    assert not outer or module.split(".")[1] in ("study", "report")
    if module.split(".")[1:2] == ["study"]:
        from_the_command = {"reidlib.report"} if module == "reidlib.study.command_line" else set()
        assert {name for name in outer if ".report" in name} <= from_the_command


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_a_packages_init_holds_only_definitions(module):
    """Code digests skip an `__init__` from which no name is imported, so importing it must do nothing."""
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        defines = isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
        names = isinstance(node, ast.Assign | ast.AnnAssign) and not any(
            isinstance(part, ast.Call) for part in ast.walk(node)
        )
        assert documented or defines or names, ast.unparse(node)


def deciding_words(tree: ast.AST):
    """Strings of several words that decide something: compared, used as a key, or matched."""
    for node in ast.walk(tree):
        places = []
        if isinstance(node, ast.Compare):
            places = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            places = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Subscript):
            places = [node.slice]
        elif isinstance(node, ast.MatchValue):
            places = [node.value]
        yield from (place.value for place in places if isinstance(place, ast.Constant) and is_prose(place))


@pytest.mark.parametrize(
    "record", [records.WEIGHTS_CODE, records.SCORES_CODE, *records.RELEASED_WEIGHTS_CODE]
)
def test_no_number_depends_on_a_string_of_several_words(record):
    """`digest_of_code` leaves out strings of several words, so none may decide anything."""
    covered = Code().used([(record, "")])
    assert len(covered) > 5
    for module in covered:
        assert not list(deciding_words(ast.parse(MODULES[module].read_text(encoding="utf-8")))), module


def test_deciding_words_are_found():
    assert list(deciding_words(ast.parse("if kind == 'long sleeve': pass"))) == ["long sleeve"]
    assert list(deciding_words(ast.parse("raise ValueError('long sleeve')\nx = {'one': 'two words'}"))) == []


# ---------------------------------------------------------------------------------------------------- digests


SOURCE = '''"""A module."""
from reidlib.models import networks
LIMIT = 3
def check(x):
    """Checks."""
    # why
    if x > LIMIT:
        raise ValueError(f"x is {x}: at most {LIMIT}")
    print("checked", x)
    return {"kind": "sum", "said": "it is fine"}
'''


def digests(tmp_path: Path, source: str) -> tuple[str, str]:
    """Two digests of the source: without text for people, and with it."""
    (tmp_path / "reidlib").mkdir(exist_ok=True)
    (tmp_path / "reidlib" / "one.py").write_text(source)
    return tuple(digest_of_code("reidlib.one", words=words, repository=tmp_path) for words in (False, True))


@pytest.mark.parametrize(
    ("old", "new", "numbers", "words"),
    [
        ('"""Checks."""', '"""Says whether x is small."""', False, False),
        ("# why", "# because", False, False),
        ("    return {", "    return  {", False, False),
        ("at most {LIMIT}", "more than {LIMIT} is too much", False, True),
        ('f"x is {x}: at most {LIMIT}"', '"too large"', False, True),
        ('print("checked", x)', 'print("looked at", x, x)', False, True),
        ('"it is fine"', '"all is well"', False, True),
        ("LIMIT = 3", "LIMIT = 4", True, True),
        ('"sum"', '"mean"', True, True),
        ("x > LIMIT", "x >= LIMIT", True, True),
        ("raise ValueError", "raise TypeError", True, True),
        ('    print("checked", x)\n', "", True, True),
    ],
)
def test_what_changes_a_digest(tmp_path, old, new, numbers, words):
    before = digests(tmp_path, SOURCE)
    assert old in SOURCE
    after = digests(tmp_path, SOURCE.replace(old, new))
    assert (before[0] != after[0], before[1] != after[1]) == (numbers, words)


def test_imports_are_followed_through_packages_to_the_imported_names(tmp_path):
    files = {
        "reidlib/__init__.py": "",
        "reidlib/a/__init__.py": "from reidlib.a.heavy import thing\nVALUE = 1\n",
        "reidlib/a/heavy.py": "thing = 1\n",
        "reidlib/a/light.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from reidlib.a.heavy import thing\n",
        "reidlib/b.py": "def later():\n    import reidlib.a.heavy\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert list(Code(tmp_path).used([("reidlib.a", "light")])) == ["reidlib.a.light"], (
        "passed through, not asked"
    )
    assert list(Code(tmp_path).used([("reidlib.a", "VALUE")])) == ["reidlib.a", "reidlib.a.heavy"]
    assert list(Code(tmp_path).used([("reidlib.b", "")])) == ["reidlib.a.heavy", "reidlib.b"], (
        "inside a function"
    )
    assert source_digest("from reidlib.a import VALUE\n")[1] == (("reidlib.a", "VALUE"),)
    assert list(Code(tmp_path).used([("reidlib.absent", "name")])) == []
