"""Roles as they are typed: who is meant, and what can be known to be wrong before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.early import refuse_early
from depthsig.errors import InputError, shown
from depthsig.plan.declared import PlanOptions
from depthsig.prompts.shipped import data_path, missing_checkpoints
from depthsig.replication.members import split_roles
from depthsig.signature.folders.kinds import SIGNATURE, result_kind
from depthsig.untrusted import is_there

SHIPPED_ROLES = {
    "looped": "family-looped", "midas": "family-midas", "lidas": "family-lidas", "baseline": "family-baseline",
}  # fmt: skip
"""The reference family by its roles."""
_PLAN = re.compile(r"(?P<source>.+)\[(?P<kind>order|grown|loop|iterations)=(?P<value>[^\]]+)\]$")


def named(text: str) -> dict[str, list[str]]:
    """The command's text as what each role names.

    Raises:
        InputError: for text that cannot be read so.

    >>> named("looped=a[order=0:4,4:8x2]+b,grown=c")
    {'looped': ['a[order=0:4,4:8x2]', 'b'], 'grown': ['c']}
    """
    return {role: pieces(value, role) for role, value in split_roles(text).items()}


def pieces(text: str, role: str) -> list[str]:
    """What one role names; a + belongs to a name where something of that name is there.

    Raises:
        InputError: where nothing stands beside a +.
    """
    left, found = text.split("+"), []
    while left:
        length = next((n for n in range(len(left), 0, -1) if _is_name("+".join(left[:n]))), 1)
        found.append("+".join(left[:length]).strip())
        left = left[length:]
    if "" in found:
        raise InputError(f"the role {shown(role)} names nothing beside a +: {shown(text)}; write {role}=A+B")
    return found


def _is_name(text: str) -> bool:
    source, _ = declared(text.strip())
    return bool(source) and is_there(Path(source))


def declared(text: str) -> tuple[str, PlanOptions]:
    """``PATH[order=0:4,4:8x4]`` as a checkpoint and what is declared of its plan."""
    found = _PLAN.fullmatch(text)
    return (found["source"], PlanOptions(**{found["kind"]: found["value"]})) if found else (text, PlanOptions())


def refuse_roles(roles: str | None, loading: LoadOptions) -> None:
    """Refuse what can be known to be wrong of the command's roles before a model is loaded.

    Args:
        roles: None: the reference family.

    Raises:
        InputError: for text that cannot be read, what is neither a checkpoint nor a result, an order that a checkpoint
            cannot run, and a reference family that is not all here.
    """
    if roles is None:
        shipped_family()
        return
    for item in (one for items in named(roles).values() for one in items):
        if result_kind(item) != SIGNATURE:
            source, plan = declared(item)
            refuse_early(source, loading, plan)


def shipped_family() -> dict[str, list[str]]:
    """The reference family: its checkpoints, and what was measured of other seeds, where that is at hand.

    Raises:
        InputError: where not all of its checkpoints are here.
    """
    missing = missing_checkpoints()
    if missing:
        raise InputError(
            f"the reference family is not all here ({', '.join(missing)} missing): pip install 'depthsig[family]' "
            "brings it; or name your own networks with --roles"
        )
    return {role: [name, *map(str, _tables(role))] for role, name in SHIPPED_ROLES.items()}


def _tables(role: str) -> Iterator[Path]:
    """Signatures that ship of an arm, of every seed at the end of its training."""
    for folder in sorted(data_path("signatures").glob(f"{role}-*seed*")):
        if "-step" not in folder.name:
            yield folder
