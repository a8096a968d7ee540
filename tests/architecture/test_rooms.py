"""The rooms of the package: imports point one way, light parts stay light, rooms and files stay small."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from sources import MODULES, NAMES, PACKAGE, ROOT, imports, module_of, room_of

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "terms": set(),
    "progress": set(),
    "untrusted": set(),
    "kept": set(),
    "notebook": set(),
    "statistics": set(),
    "prompts": set(),
    "checkpoint": {"prompts"},  # a shipped checkpoint has a name
    "plan": {"checkpoint"},
    "engine": {"plan", "checkpoint", "prompts"},
    "model": {"engine", "plan", "checkpoint", "prompts"},
    "metrics": {"statistics"},
    "signature": {"metrics"},
    "findings": {"signature", "metrics", "statistics"},
    "tables": {"signature", "metrics", "statistics"},
    "comparison": {"tables", "signature", "metrics", "statistics"},
    "replication": {"comparison", "tables", "signature", "metrics", "statistics"},
    "measure": {"model", "engine", "plan", "checkpoint", "prompts", "tables", "signature", "metrics"},
    "commands": {
        "measure", "comparison", "replication", "model", "engine", "plan", "checkpoint", "prompts", "tables",
        "signature", "metrics", "statistics",
    },
    "exports": {"findings", "signature"},
    "report": {"findings", "signature", "metrics", "statistics"},
    "harness": {"model", "engine", "plan", "checkpoint"},
    "cli": {
        "commands", "measure", "comparison", "replication", "report", "exports", "model", "engine", "plan",
        "checkpoint", "prompts", "signature", "metrics",
    },
    "__main__": {"cli"},
}  # fmt: skip
"""For each room, the rooms that it may import, besides itself and :data:`EVERYWHERE`."""
EVERYWHERE = {"errors", "arguments", "terms", "progress", "untrusted", "kept", "notebook"}
REACHES_ON = {
    Path("signature/signature.py"): {"findings", "report", "exports"},
    Path("signature/compared.py"): {"report"},
    Path("signature/replications/replication.py"): {"report"},
    Path("signature/sweeps/swept.py"): {"report"},
}
"""``Signature.findings``, ``.plot``, ``.save``, ``.report`` and ``.to_…``, ``Comparison.plot``,
``Replication.plot`` and ``Swept.report`` are the one convenience against the arrows."""
TORCH_FREE = EVERYWHERE | {
    "statistics",
    "metrics",
    "signature",
    "findings",
    "tables",
    "comparison",
    "replication",
    "report",
}
HEAVY = {"torch", "transformers", "transformer_lens"}

MOST_LINES = 400
MOST_MODULES = 15
TWICE = {"commands", "cli"}
"""A command's two halves, what it does and how it is typed, bear one name."""

PLACES = [m for m in MODULES if room_of(m) != "__init__"]


@pytest.mark.parametrize("path", PLACES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[room_of(path)] | {room_of(path)} | EVERYWHERE
    for one in imports(path):
        if one.module.startswith("depthsig."):
            target = one.module.split(".")[1]
            against = target in REACHES_ON.get(path, ()) and one.inside
            assert target in allowed or against, f"{path} imports {one.module}"


def test_the_arrows_themselves_make_no_circle() -> None:
    todo, found = dict(MAY_IMPORT), set(EVERYWHERE)
    while todo:
        free = [room for room, needs in todo.items() if needs <= found]
        assert free, f"a circle among {sorted(todo)}"
        found |= {room for room in free if todo.pop(room) is not None}


def test_no_module_imports_itself_through_others() -> None:
    """At any depth, inside functions too."""
    graph = {module_of(path): {one.module for one in imports(path)} & NAMES for path in MODULES}
    for path, rooms in REACHES_ON.items():
        graph[module_of(path)] -= {name for name in NAMES if name.split(".")[1:2] and name.split(".")[1] in rooms}
    graph["depthsig"] = set()  # public names are looked up when they are first used
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' → '.join([*above[above.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_light_rooms_need_no_torch_and_computing_never_plots(path: Path) -> None:
    found = imports(path)
    if room_of(path) in TORCH_FREE:
        assert not {one.module.split(".")[0] for one in found if not _may_wait(path, one.inside)} & HEAVY
    if room_of(path) != "report":
        assert "matplotlib" not in {one.module.split(".")[0] for one in found}


def _may_wait(path: Path, inside: bool) -> bool:
    """A metric on tensors needs torch when it is called; its entry is read without."""
    return room_of(path) == "metrics" and inside


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_inside_functions_say_why(path: Path) -> None:
    for one in imports(path):
        if one.inside:
            assert "start-up time" in one.line or "# lazily: " in one.line, f"{path}: {one.line.strip()}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_stay_small(path: Path) -> None:
    lines = (PACKAGE / path).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{path} has {lines} lines; split it"


def test_rooms_stay_small() -> None:
    rooms = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {str(room): n for room, n in rooms.items() if n > MOST_MODULES} == {}


def test_a_name_means_one_module() -> None:
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    twice = {name: sorted(room_of(p) for p in MODULES if p.stem == name) for name, n in names.items() if n > 1}
    assert {name: where for name, where in twice.items() if not set(where) <= TWICE} == {"plan": ["cli", "plan"]}


def test_a_room_has_a_folder_of_tests() -> None:
    rooms = {room_of(path) for path in MODULES if len(path.parts) > 1}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms - folders == set()
    assert folders - rooms == {"architecture", "data", "notebooks"}


def test_programs_of_the_data_are_reached_as_packages() -> None:
    """Names like ``model`` or ``evaluate`` would hide installed packages, or be hidden by them."""
    programs = [path for part in ("recipe", "studies") for path in (ROOT / "data" / part).glob("*.py")]
    names = {path.stem for path in programs} - {"__init__"}
    assert {"model", "evaluate", "find_blocks"} <= names
    for path in [*programs, *(ROOT / "tests").rglob("*.py"), *PACKAGE.rglob("*.py")]:
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
