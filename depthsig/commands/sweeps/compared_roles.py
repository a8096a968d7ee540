"""A sweep's comparisons: the networks of each role, for each combination of what else is swept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from depthsig.commands.compare import compare
from depthsig.commands.sweeps.sweep_file import AskedSweep, Unit
from depthsig.errors import DepthsigError
from depthsig.progress import Progress

Combination = tuple[str | None, ...]
"""Revision, order, prompts and preset."""


@dataclass
class ComparedRoles:
    """Comparisons by what their units share.

    Attributes:
        folders: their names in the sweep's folder.
        warnings: why there is none of a combination.
    """

    folders: dict[Combination, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def combination_of(unit: Unit) -> Combination:
    """What a unit shares with those that it is compared with."""
    return unit.revision, unit.order, unit.prompts, unit.preset


def compare_roles(sweep: AskedSweep, done: Sequence[Unit], out: Path, show: Progress) -> ComparedRoles:
    """Compare the roles' units, one combination after another; what cannot be compared is told of."""
    found = ComparedRoles()
    role_of = {name: role for role, names in sweep.roles.items() for name in names}
    every = list(dict.fromkeys(map(combination_of, sweep.units)))
    for combination in every if sweep.roles else ():
        units = [unit for unit in done if combination_of(unit) == combination and unit.checkpoint in role_of]
        roles: dict[str, list[str]] = {}
        for unit in units:
            roles.setdefault(role_of[unit.checkpoint], []).append(str(out / unit.folder))
        name = _name(combination, every)
        asked = [u for u in sweep.units if combination_of(u) == combination and u.checkpoint in role_of]
        lacking = [unit.checkpoint for unit in asked if unit not in units]
        if lacking:
            found.warnings.append(f"{name} lacks {', '.join(lacking)}, of which there is no result")
        try:
            folders = [out / unit.folder for unit in units]
            compare(folders, roles=roles, seed=int(units[0].options.get("seed", 0)) if units else 0, out=out / name,
                    progress=show)  # fmt: skip
            found.folders[combination] = name
        except DepthsigError as error:
            found.warnings.append(f"{name}: {error}")
    return found


def _name(combination: Combination, every: Sequence[Combination]) -> str:
    """``compare``, with what tells this combination from the others."""
    differing = [place for place in range(len(combination)) if len({one[place] for one in every}) > 1]
    pieces = [re.sub(r"[^\w.+-]+", "-", Path(combination[place] or "-").name) for place in differing]
    number = every.index(combination) + 1
    return (
        "-".join(["compare", *([str(number)] if differing else []), *pieces])
        .encode()[:100]
        .decode(errors="ignore")
        .rstrip("-.")
    )
