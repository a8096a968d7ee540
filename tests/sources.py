"""The package's source as the architecture's tests read it: modules, imports, literals."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import depthsig

PACKAGE = Path(depthsig.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name that a module is imported by."""
    return ".".join(["depthsig", *path.with_suffix("").parts]).removesuffix(".__init__")


NAMES = {module_of(path) for path in MODULES}


def room_of(path: Path) -> str:
    """The folder of the package that a module is in, or its own name where it is in none."""
    return path.parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    """A module's syntax, every node with its ``parent``; read once, and not to be changed."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return tree


@dataclass(frozen=True)
class Import:
    """One imported module: where, its line as written, and whether it is inside a function."""

    module: str
    line: str
    inside: bool


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Everything that a module imports, what is only for the type checker aside; read once."""
    lines = (PACKAGE / path).read_text(encoding="utf-8").splitlines()
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in NAMES else f"{node.module}" for name in inner]
        else:
            continue
        above = list(_above(node))
        if any(isinstance(a, ast.If) and "TYPE_CHECKING" in ast.dump(a.test) for a in above):
            continue
        inside = any(isinstance(a, (ast.FunctionDef, ast.AsyncFunctionDef)) for a in above)
        found += [Import(name, _statement(lines, node), inside) for name in names]
    return tuple(found)


def _above(node: ast.AST) -> Iterator[ast.AST]:
    while hasattr(node, "parent"):
        node = node.parent
        yield node


def _statement(lines: list[str], node: ast.stmt) -> str:
    """A statement as written, with a comment on the line above it and those behind it."""
    before = lines[node.lineno - 2]
    own = lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(([before] if before.lstrip().startswith("#") else []) + own)


def literals(path: Path) -> list[str]:
    """Every string in a module, docstrings apart; of an f-string, its fixed pieces."""
    tree = tree_of(path)
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [str(n.value) for n in strings if not isinstance(getattr(n, "parent", None), ast.Expr)]


def fresh(code: str, *options: str) -> str:
    """What a new Python prints that runs ``code``."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
