"""The boundaries of the package: imports point one way, and light parts stay light."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import depthsig

PACKAGE = Path(depthsig.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "errors": set(),
    "progress": set(),
    "statistics": set(),
    "prompts": set(),
    "checkpoint": {"prompts"},  # a shipped checkpoint has a name
    "plan": {"checkpoint"},
    "engine": {"plan", "checkpoint", "prompts"},
    "metrics": {"statistics"},
    "signature": set(),
    "analysis": {"engine", "plan", "checkpoint", "metrics", "statistics", "signature", "prompts"},
    "report": {"signature", "metrics", "statistics"},
    "harness": {"engine", "checkpoint"},
    "cli": {"analysis", "engine", "plan", "checkpoint", "metrics", "statistics", "signature", "prompts", "report"},
}
"""For each part, the parts it may import, besides itself, ``errors`` and ``progress``."""
LAZY = {("signature/signature.py", "report")}
"""``Signature.plot`` is the one convenience that reaches into report."""
TORCH_FREE = ("statistics", "signature", "report", "errors", "metrics/registry.py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top level) of everything that a file imports, types aside."""
    tree = ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}"]
        else:
            continue
        above = list(_above(node))
        if any(isinstance(a, ast.If) and "TYPE_CHECKING" in ast.dump(a.test) for a in above):
            continue
        inside = any(isinstance(a, (ast.FunctionDef, ast.AsyncFunctionDef)) for a in above)
        found += [(name, not inside) for name in names]
    return found


def _above(node: ast.AST):
    while hasattr(node, "parent"):
        node = node.parent
        yield node


def part_of(path: Path) -> str:
    return path.parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", [m for m in MODULES if part_of(m) not in ("__init__", "data")], ids=str)
def test_imports_point_one_way(path: Path) -> None:
    part, inside = part_of(path), path.relative_to("depthsig").as_posix()
    allowed = MAY_IMPORT[part] | {part, "errors", "progress"}
    for module, _ in imports(path):
        if module == "depthsig" or not module.startswith("depthsig."):
            continue
        target = module.split(".")[1]
        assert target in allowed or (inside, target) in LAZY, f"{inside} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_light_parts_never_import_torch(path: Path) -> None:
    inside = path.relative_to("depthsig").as_posix()
    modules = {module.split(".")[0] for module, _ in imports(path)}
    if inside.startswith(TORCH_FREE):
        assert not modules & {"torch", "transformers", "transformer_lens"}
    if not inside.startswith("report"):
        assert "matplotlib" not in modules, "computing never plots"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_stay_small(path: Path) -> None:
    lines = (PACKAGE.parent / path).read_text(encoding="utf-8").count("\n")
    assert lines <= 420, f"{path} has {lines} lines; split it"


def test_programs_of_the_data_are_reached_as_packages() -> None:
    """Names like ``model`` or ``evaluate`` would hide installed packages, or be hidden by them."""
    programs = [path for part in ("recipe", "studies") for path in (ROOT / "data" / part).glob("*.py")]
    names = {path.stem for path in programs} - {"__init__"}
    assert {"model", "evaluate", "find_blocks"} <= names
    for path in [*programs, *(ROOT / "tests").rglob("*.py"), *(ROOT / "depthsig").rglob("*.py")]:
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found = {m.split(".")[0] for node in tree for m in _absolute(node)}
        assert not found & names, path
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for folder in settings["tool"]["pytest"]["ini_options"]["pythonpath"]:
        assert not (ROOT / folder).resolve().is_relative_to(ROOT / "data"), folder


def _absolute(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}"] if isinstance(node, ast.ImportFrom) and not node.level else []


def _fresh(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_there() -> None:
    for name in depthsig.__all__:
        assert getattr(depthsig, name) is not None
    assert set(depthsig.__all__) <= set(dir(depthsig))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = depthsig.nonsense


def test_metrics_import_neither_plots_nor_torch() -> None:
    _fresh(
        "import sys, depthsig.metrics, depthsig.metrics.registry as r\n"
        "assert len(r.all_metrics()) > 25\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "from depthsig.metrics import kl_divergence, topk_overlap, settling_depth\n"
        "assert not {'matplotlib', 'transformers'} & set(sys.modules)"
    )


def test_statistics_signature_and_report_work_with_torch_blocked() -> None:
    _fresh(
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "import importlib, pkgutil, depthsig.statistics, depthsig.signature, depthsig.report\n"
        "for package in (depthsig.statistics, depthsig.signature, depthsig.report):\n"
        "    for info in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(info.name)"
    )


def test_help_answers_in_under_a_third_of_a_second() -> None:
    """The best of a few: what counts is what the command costs, not what else the machine does."""
    code = "import sys; from depthsig.cli.main import main; sys.exit(main(['--help']))"
    _fresh(code)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        _fresh(code)
        taken.append(time.perf_counter() - started)
    bare = time.perf_counter()
    _fresh("pass")
    bare = time.perf_counter() - bare
    assert min(taken) < 0.3 or min(taken) - bare < 0.25, taken


NAMES = [info.name for info in pkgutil.walk_packages(depthsig.__path__, "depthsig.") if "__main__" not in info.name]


@pytest.mark.parametrize("name", ["depthsig", *NAMES])
def test_examples_in_docstrings_run(name: str) -> None:
    if name == "depthsig.harness":
        pytest.importorskip("lm_eval", reason="extra eval")
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
