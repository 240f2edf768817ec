"""Digests of the code behind a result: modules of reidlib and everything that they import from reidlib.

Code is compared as syntax trees, so comments, docstrings and line breaks never count. A package's `__init__`
counts only if a name is imported from it. It is not counted if only a module of the package is imported,
although Python runs it then, too; so an `__init__` may hold only definitions.

There are two kinds of digest:
- `Code.used` is for what a notebook shows. Every string counts.
- `digest_of_code` is for numbers: the weights or the scores of a run. Text for people does not count: the
  arguments of errors and prints, and any string of several words. Modules that compute nothing
  (`COMPUTES_NOTHING`) do not count either.

Imports by a computed name (importlib) are not seen. Imports under `if TYPE_CHECKING:` are left out, because
they never run.
"""

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

from reidlib.errors import ReidError
from reidlib.files import REPOSITORY, digest

# These modules check, write and report. Settings do not count as code: a run's record holds their values.
COMPUTES_NOTHING = frozenset(
    f"reidlib.{name}"
    for name in ("code_digest", "errors", "experiment", "files", "progress", "provenance", "settings")
)

# Calls whose arguments are text for people.
_SPEAKS = re.compile(r"(Error|Warning)$|^(print|warn|line|track_progress)$")
_WORDS = re.compile(r"[^\W\d_]")


class CodeError(ReidError):
    """A module of the study is no Python."""


Import = tuple[str, str]  # module, and the name imported from it ("" for the module itself)


class Code:
    """The modules of reidlib in a checkout, as they are now; each is read once."""

    def __init__(self, repository: Path = REPOSITORY):
        paths = sorted((repository / "reidlib").rglob("*.py"))
        names = [".".join(path.relative_to(repository).with_suffix("").parts) for path in paths]
        self._files = {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}
        self._read: dict[tuple[str, bool], tuple[str, tuple[Import, ...]]] = {}

    def used(
        self, imports: Iterable[Import], *, words: bool = True, skipped: frozenset[str] = frozenset()
    ) -> dict[str, str]:
        """Module → digest of its code, for every module of reidlib that is reached.

        Args:
            words: count text for people, too.
            skipped: modules that are left out, and whose imports are not followed.
        """
        digests: dict[str, str] = {}
        waiting = list(imports)
        while waiting:
            module, name = waiting.pop()
            if name and f"{module}.{name}" in self._files:
                module = f"{module}.{name}"  # `from reidlib.show import tables` names a module
            if module in digests or module in skipped or module not in self._files:
                continue
            digests[module], found = self._parsed(module, words)
            waiting.extend(found)
        return dict(sorted(digests.items()))

    def _parsed(self, module: str, words: bool) -> tuple[str, tuple[Import, ...]]:
        if (module, words) not in self._read:
            path = self._files[module]
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            try:
                self._read[module, words] = _parsed(path.read_text(encoding="utf-8"), package, words)
            except (SyntaxError, ValueError) as error:  # ValueError: no UTF-8, or a zero byte
                line = getattr(error, "lineno", None)
                reason = f"line {line}: {error.msg}" if line else str(error)
                raise CodeError(f"The module {path} cannot be read as Python: {reason}.") from error
        return self._read[module, words]


def digest_of_code(*modules: str, words: bool = False, repository: Path = REPOSITORY) -> str:
    """Digest, 16 hex digits, of these modules and all that they import from reidlib, without text for people.

    Args:
        words: count text for people, too. For modules in which strings of several words decide something.
    """
    imports = [(module, "") for module in modules]
    return digest(Code(repository).used(imports, words=words, skipped=COMPUTES_NOTHING))[:16]


def source_digest(source: str) -> tuple[str, tuple[Import, ...]]:
    """Digest of a notebook's code, text for people included, and what the code imports from reidlib."""
    return _parsed(source, "notebook", True)


@functools.cache
def _parsed(source: str, package: str, words: bool) -> tuple[str, tuple[Import, ...]]:
    """Digest of a module's code, and what it imports from reidlib."""
    tree = ast.parse(source)
    imports: list[Import] = []
    _strip(tree, package, imports)
    if not words:
        tree = _WithoutWords().visit(tree)
    own = tuple(one for one in imports if one[0].partition(".")[0] == "reidlib")
    written: list[str] = []
    _write(tree, written)
    return digest(written), own


def _write(value: object, written: list[str]) -> None:
    """Writes a syntax tree as words, the same in every Python, as ast.dump and ast.unparse do not."""
    if isinstance(value, ast.AST):
        written.append(type(value).__name__)
        for name in value._fields:
            part = getattr(value, name, None)
            if part is not None and part != []:  # a newer Python has fields that an older one lacks
                written.append(name)
                _write(part, written)
        written.append(")")
    elif isinstance(value, list):
        for part in value:
            _write(part, written)
        written.append("]")
    else:
        written.append(repr(value))


def _strip(node: ast.AST, package: str, imports: list[Import]) -> None:
    """Removes docstrings and imports that never run, at any depth; adds the other imports to `imports`."""
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if documented and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        statements = getattr(node, block, None)
        if not isinstance(statements, list):  # a lambda's body, the values of `a if b else c`
            continue
        for statement in statements:
            if isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
                statement.body = [ast.Pass()]
            elif isinstance(statement, ast.Import):
                imports += [(alias.name, "") for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                above = (
                    package.split(".")[: len(package.split(".")) - statement.level + 1]
                    if statement.level
                    else []
                )
                module = ".".join([*above, *([statement.module] if statement.module else [])])
                imports += [(module, alias.name) for alias in statement.names]
            _strip(statement, package, imports)


class _WithoutWords(ast.NodeTransformer):
    """Removes text for people: errors and prints lose their arguments, other such strings become one word."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if _SPEAKS.search(called):
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("words") if is_prose(node) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("words") if is_prose(node) else self.generic_visit(node)


def is_prose(node: ast.AST) -> bool:
    """Whether a string is text for people: several words, or in an f-string a word and a space."""
    if isinstance(node, ast.JoinedStr):
        text = "\0".join(part.value for part in node.values if isinstance(part, ast.Constant))
        return " " in text and bool(_WORDS.search(text))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " " in node.value.strip() and bool(_WORDS.search(node.value))
    return False
