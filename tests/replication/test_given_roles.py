"""Roles as they are typed: read, and refused in one line before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from sources import ROOT, fresh

from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.replicating import given_roles
from depthsig.commands.replicating.given_roles import declared, named, refuse_roles
from depthsig.commands.replicating.taking_part import read_members, roles_typed
from depthsig.errors import InputError

SHIPPED = ROOT / "data" / "signatures"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("looped=a+b,midas=c", {"looped": ["a", "b"], "midas": ["c"]}),
        ("looped-after=a,looped-before=b", {"looped-after": ["a"], "looped-before": ["b"]}),
        ("looped=a[order=0:4,4:8x2]+b,baseline=x=y,z", {"looped": ["a[order=0:4,4:8x2]", "b"], "baseline": ["x=y,z"]}),
    ],
)
def test_who_is_named(text: str, found: dict[str, list[str]]) -> None:
    assert named(text) == found


def test_a_folder_may_have_a_plus_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    assert named(f"looped={tmp_path}/a+b+c") == {"looped": [f"{tmp_path}/a+b", "c"]}


@pytest.mark.parametrize(
    ("text", "source", "plan"),
    [
        ("a[order=0:4,4:8x2]", "a", {"order": "0:4,4:8x2"}), ("a[grown=0:4/2]", "a", {"grown": "0:4/2"}),
        ("a", "a", {}), ("a[b]", "a[b]", {}), ("a[colour=red]", "a[colour=red]", {}),
    ],
)  # fmt: skip
def test_what_is_declared(text: str, source: str, plan: dict[str, str]) -> None:
    found, options = declared(text)
    assert (found, options.given()) == (source, plan)


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ("nobody=a", "cannot be read; write --roles"), ("looped=a,looped=b", "names 'looped' twice"),
        ("looped=", "no network"), ("looped=/nowhere", "does not exist"),
        ("looped=family-midas[order=0:99]", "reaches layer 98"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(roles: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        refuse_roles(roles, LoadOptions())


def test_a_family_that_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_roles, "missing_checkpoints", lambda: ["family-looped"])
    with pytest.raises(InputError, match=r"family-looped missing.*pip install 'depthsig\[family\]'"):
        refuse_roles(None, LoadOptions())


def test_what_is_recorded_can_be_typed_again() -> None:
    folders = [str(SHIPPED / f"midas-seed{n}-lookup") for n in (1, 2)]
    roles = {"midas": folders, "looped": ["family-looped[order=0:4,4:8x2]"]}
    assert roles_typed(read_members(roles, LoadOptions())) == roles
    text = ",".join(f"{role}={'+'.join(who)}" for role, who in roles.items())
    assert roles_typed(read_members(text, LoadOptions())) == roles


def test_the_command_refuses_without_torch() -> None:
    fresh(
        "import sys\nfor name in ('torch', 'transformers', 'transformer_lens'): sys.modules[name] = None\n"
        "from depthsig.cli.main import main\n"
        "for given in (['2602.1649'], ['2512.08819', '--only', 'E99'], ['2512.08819', '--roles', 'looped=/nowhere'],\n"
        "              ['2512.08819', '--memory', '3q'], ['2512.08819', '--roles', 'x=y']):\n"
        "    assert main(['replicate', *given, '--out', '/tmp/not-made']) == 2, given\n"
    )
