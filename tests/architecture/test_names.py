"""Names: metrics are named in ``metrics/`` alone, and a name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from sources import MODULES, PACKAGE, literals, room_of, tree_of

import depthsig
from depthsig.metrics import all_metrics, entry

IDS = set(all_metrics())
FAMILIES = {one.family for one in all_metrics().values()}
_ID = "|".join(re.escape(name) for name in sorted(IDS, key=len, reverse=True))
_FAMILY = "|".join(sorted(FAMILIES))
NAMED = re.compile(rf"(?<![\w.])(?:{_ID})(?![\w.])|(?<![\w.])(?:{_FAMILY})\.(?=$|[\w*{{])(?!(?:json|csv|pt|html)\b)")
"""A whole id, or a family with its dot at the end of a string or before more; names of files apart."""


def named(text: str) -> list[str]:
    """The metric ids and prefixes in a string; a family's dot that ends a sentence is none."""
    found = NAMED.findall(text)
    return [name for name in found if not (name.endswith(".") and " " in text and text.endswith(name))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lens.kl", ["lens.kl"]), ("skip.", ["skip."]), ("order.swap_next", ["order."]), ("a lens.kl b", ["lens.kl"]),
        ("settling_depth", ["settling_depth"]), ("lens.json", []), ("Label layers A:B as a loop.", []),
        ("depthsig.metrics", []), ("for tuned.* of", ["tuned."]), ("unsettling_depths", []),
    ],
)  # fmt: skip
def test_what_counts_as_a_name(text: str, found: list[str]) -> None:
    assert named(text) == found


@pytest.mark.parametrize("path", [m for m in MODULES if room_of(m) != "metrics"], ids=str)
def test_metrics_are_named_in_their_own_room_alone(path: Path) -> None:
    assert [name for text in literals(path) for name in named(text)] == []


def test_the_rules_name_metrics_that_exist() -> None:
    """The table of rules about named metrics is data; every id in it is on the list."""
    text = (PACKAGE / "metrics" / "rules.toml").read_text(encoding="utf-8")
    quoted = re.findall(r'"([a-z_]+(?:\.[a-z0-9_]+)+)"', text)
    assert len(quoted) > 20
    for name in quoted:
        assert entry(name).id == name


def test_no_module_hides_a_public_function() -> None:
    tops = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert tops & set(depthsig.__all__) == set()
    from depthsig import metrics

    modules = {part.removesuffix(".py") for path in MODULES if room_of(path) == "metrics" for part in path.parts[1:]}
    assert modules & set(metrics.__all__) == set()


def test_a_class_and_a_constant_stand_in_one_place() -> None:
    classes, constants = defaultdict(list), defaultdict(list)
    for path in MODULES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(path)
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
                    constants[target.id].append(path)
    assert {name: where for name, where in classes.items() if len(where) > 1} == {}
    # Of each kind of record, what its own module writes and reads.
    of_records = {"SCHEMA", "READS", "TABLES"}
    assert {name: where for name, where in constants.items() if len(where) > 1 and name not in of_records} == {}
