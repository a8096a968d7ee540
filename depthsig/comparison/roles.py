"""Who is who among compared signatures: as the user says, else as far as the signatures declare it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthsig.comparison.inputs import Input
from depthsig.errors import InputError, shown
from depthsig.signature import Signature
from depthsig.signature.tested import choose_span
from depthsig.untrusted import is_folder

ROLES = ("looped", "grown", "baseline")
_FORM = "--roles looped=DIR,grown=DIR,baseline=DIR, several DIRs of one role joined with +"


@dataclass(frozen=True)
class Roles:
    """The members of each role, as places among the inputs, and where that comes from."""

    members: dict[str, tuple[int, ...]]
    said: str

    def of(self, place: int) -> str:
        """The role of an input; empty where it has none."""
        return next((role for role, members in self.members.items() if place in members), "")


def split_roles(text: str, roles: Sequence[str] = ROLES, form: str = _FORM, member: str = "folder") -> dict[str, str]:
    """``looped=A+B,grown=C`` as text by role; members' names may hold commas and equals signs.

    Args:
        roles: their names; of two that begin alike the longer one first. form: how they are written, for messages.
        member: what a role has.

    Raises:
        InputError: for text that does not begin with a role, names one twice, or gives one nobody.

    >>> split_roles("looped=a+b,grown=c,d")
    {'looped': 'a+b', 'grown': 'c,d'}
    """
    pieces = re.split(rf"(?:^|,)\s*({'|'.join(roles)})=", text)
    if pieces[0].strip() or len(pieces) < 3:
        raise InputError(f"--roles {shown(text)} cannot be read; write {form}")
    found: dict[str, str] = {}
    for role, value in zip(pieces[1::2], pieces[2::2], strict=True):
        if role in found:
            raise InputError(f"--roles names {shown(role)} twice; join its {member}s with +")
        if not value.strip():
            raise InputError(f"--roles gives {shown(role)} no {member}; write {form}")
        found[role] = value.strip()
    return found


def folders(text: str) -> list[str]:
    """The folders of one role; a + belongs to a folder's name where there is such a folder.

    >>> folders("a+b")
    ['a', 'b']
    """
    pieces, found = text.split("+"), []
    while pieces:
        # The longest run of pieces that is a folder, else the first piece alone.
        length = next((n for n in range(len(pieces), 0, -1) if is_folder(Path("+".join(pieces[:n])))), 1)
        found.append("+".join(pieces[:length]).strip())
        pieces = pieces[length:]
    return found


def read_roles(roles: str | Mapping[str, Any], inputs: Sequence[Input]) -> Roles:
    """Roles as given: the command's text, or a mapping from role to signatures, folders or names.

    Raises:
        InputError: for an unknown role, somebody who is not among the inputs, or one in two roles.
    """
    given = split_roles(roles) if isinstance(roles, str) else dict(roles)
    unknown = [role for role in given if role not in ROLES]
    if unknown or not given:
        found = ", ".join(map(shown, unknown)) or "none"
        raise InputError(f"unknown roles: {found}; there are {', '.join(ROLES)}")
    members: dict[str, tuple[int, ...]] = {}
    for role in (r for r in ROLES if r in given):
        value = given[role]
        items = folders(value) if isinstance(value, str) else [value] if isinstance(value, (Signature, Path)) else value
        places = tuple(_find(item, role, inputs) for item in items)
        taken = {p for other in members.values() for p in other}
        twice = next((p for n, p in enumerate(places) if p in taken or p in places[:n]), None)
        if twice is not None:
            raise InputError(f"{shown(inputs[twice].name)} is named more than once in the roles")
        copies = [p for p in places if [inputs[q].content for q in places].count(inputs[p].content) > 1]
        if copies:
            names = " and ".join(repr(inputs[p].name) for p in copies)
            raise InputError(f"{names} are copies of one signature; seeds of an arm are networks trained apart")
        if not places:
            raise InputError(f"the role {shown(role)} has nobody in it; leave it out or name a signature")
        members[role] = places
    return Roles(members, "as given")


def _find(item: Any, role: str, inputs: Sequence[Input]) -> int:
    for place, one in enumerate(inputs):
        if item is one.signature:
            return place
        if isinstance(item, (str, Path)):
            same = one.path is not None and Path(item).resolve() == one.path.resolve()
            if same or str(item) == one.name:
                return place
    known = ", ".join(repr(i.name) for i in inputs)
    raise InputError(
        f"the role {shown(role)} names {shown(str(item))}, which is not among the compared signatures: {known}"
    )


def guess_roles(inputs: Sequence[Input]) -> Roles:
    """Roles from what the signatures declare, where they leave no choice.

    A loop makes a signature looped, a grown span grown, and neither a baseline. Two signatures that
    would share a role may be two seeds or two methods: then no role is given at all.
    """
    found: dict[str, list[int]] = {}
    for place, one in enumerate(inputs):
        span = choose_span(one.signature.info)
        role = "baseline" if span is None else "looped" if span.kind == "loop" else "grown"
        found.setdefault(role, []).append(place)
    says = "; ".join(f"{r} = {', '.join(inputs[p].name for p in found[r])}" for r in ROLES if r in found)
    if any(len(places) > 1 for places in found.values()) or "baseline" not in found or len(found) < 2:
        return Roles({}, f"no claim is judged without roles (the signatures would give: {says}); write {_FORM}")
    members = {role: tuple(found[role]) for role in ROLES if role in found}
    return Roles(members, f"guessed from what the signatures declare: {says}; --roles says otherwise")
