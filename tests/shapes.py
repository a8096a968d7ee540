"""Shape annotations are checked while tests run: jaxtyping with beartype, on every function that has any.

Types that a module imports only for the type checker (torch in :mod:`depthsig.metrics`, whose entries are
read where torch is not installed) are provided here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import beartype
import jaxtyping

SHAPED = {"Float", "Int", "Bool", "Real", "Shaped"}
CONFIG = beartype.BeartypeConf(is_pep484_tower=True)  # an int is a float, as the type checker has it


def checked(thing: Any) -> Any:
    """The function or dataclass with its annotations checked at every call."""
    return jaxtyping.jaxtyped(thing, typechecker=beartype.beartype(conf=CONFIG))


class _Checking(ast.NodeTransformer):
    """Decorates what has a shape in its annotations, functions inside functions apart."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = [self._provided(child) for child in node.body]
        self.generic_visit(node)
        at = 0  # after the docstring and what comes from __future__
        while at < len(node.body) and _is_head(node.body[at]):
            at += 1
        node.body.insert(at, ast.parse("from shapes import checked as _checked").body[0])
        return node

    @staticmethod
    def _provided(child: ast.stmt) -> ast.stmt:
        """What is imported for the type checker alone, for real; the package's own names would make circles."""
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            return child
        theirs = [
            s for s in child.body if isinstance(s, ast.ImportFrom) and not str(s.module).startswith(("depthsig", "."))
        ]
        return ast.If(ast.Constant(True), theirs, []) if theirs else child

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if _shaped([a.annotation for a in every] + [node.returns]):
            node.decorator_list.append(ast.Name("_checked", ast.Load()))
            for argument in every:  # mypy checks the others
                argument.annotation = argument.annotation if _shaped([argument.annotation]) else None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        is_record = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        if is_record and _shaped([s.annotation for s in node.body if isinstance(s, ast.AnnAssign)]):
            node.decorator_list.insert(0, ast.Name("_checked", ast.Load()))
            for field in (s for s in node.body if isinstance(s, ast.AnnAssign)):
                if not _shaped([field.annotation]) and "ClassVar" not in ast.unparse(field.annotation):
                    field.annotation = ast.Name("object", ast.Load())
        return node


def _is_head(child: ast.stmt) -> bool:
    if isinstance(child, ast.ImportFrom):
        return child.module == "__future__"
    return isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)


def _shaped(annotations: list[ast.expr | None]) -> bool:
    names = (n for a in annotations if a is not None for n in ast.walk(a))
    return any(isinstance(n, ast.Name) and n.id in SHAPED for n in names)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        # Never from or into the cache of the unchecked code.
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = _Checking().visit(ast.parse(data, str(path)))
        return compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True, optimize=_optimize)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith("depthsig.") or fullname == "depthsig.harness":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_shapes() -> None:
    """Check the package's modules that are imported from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def unchecked() -> Iterator[None]:
    """No shape is checked meanwhile: for what the package says itself of an array of the wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
