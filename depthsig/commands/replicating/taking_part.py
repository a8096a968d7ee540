"""Who takes part in a replication: checkpoints and results folders by role, those of one network together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthsig.checkpoint.known import locate
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.opening import Given
from depthsig.commands.replicating.given_roles import declared, named, pieces, shipped_family
from depthsig.comparison.inputs import numbers_hash
from depthsig.errors import InputError, shown
from depthsig.model import Model
from depthsig.replication.members import check_roles
from depthsig.replication.needs import prompts_of
from depthsig.signature import Signature
from depthsig.signature.folders.kinds import SIGNATURE, result_kind

Key = tuple[str, tuple[int, ...]]
"""What makes a network: a hash of its weights (or of what was measured of it), and the layers of its steps."""


@dataclass(eq=False)
class Member:
    """One network as it was given.

    Attributes:
        given: its checkpoint, to be opened; None where there are results folders only.
        signatures: what was measured of it already. folders: where that lies.
        key: once it is known; a checkpoint's after it was opened.
    """

    role: str
    given: Given | None = None
    signatures: list[Signature] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    key: Key | None = None

    @property
    def typed(self) -> list[str]:
        """What to write for it in ``--roles``; what came as an object has a name in angle brackets."""
        if self.given is None:
            names = [str(s.info["checkpoint"]["name"]) for s in self.signatures]
            return [folder or f"<{name}>" for folder, name in zip(self.folders, names, strict=True)]
        if not isinstance(self.given.model, (str, Path)):
            return [f"<{getattr(getattr(self.given.model, 'checkpoint', None), 'name', 'a model')}>"]
        return [str(self.given.model) + "".join(f"[{kind}={value}]" for kind, value in self.given.plan.given().items())]

    @property
    def source(self) -> str:
        """What the user called its checkpoint."""
        return "" if self.given is None else str(getattr(self.given.model, "name", self.given.model))


def read_members(roles: str | Mapping[str, Any] | None, loading: LoadOptions) -> list[Member]:
    """The networks of every role: results folders of the same weights and order are one network.

    Args:
        roles: the command's text, or a mapping from role to checkpoints, models, signatures or results
            folders, one or several; None: the reference family.

    Raises:
        InputError: for roles that cannot be read, what is neither a checkpoint nor a result, and results
            of one network in two roles.
    """
    if roles is None:
        roles = shipped_family()
    if not isinstance(roles, (str, Mapping)):
        raise InputError(f"roles are a text or a mapping from role to networks; found {shown(roles)}")
    given = named(roles) if isinstance(roles, str) else dict(roles)
    check_roles(list(given))
    members: list[Member] = []
    for role, value in given.items():
        items = pieces(value, role) if isinstance(value, str) else [value] if _alone(value) else list(value)
        if not items:
            raise InputError(f"the role {shown(role)} has nobody in it; leave it out or name a network")
        for item in items:
            _add(members, role, item, loading)
    return members


def _alone(value: Any) -> bool:
    return isinstance(value, (Path, Signature, Model)) or not isinstance(value, Sequence)


def _add(members: list[Member], role: str, item: Any, loading: LoadOptions) -> None:
    if isinstance(item, (str, Path)) and result_kind(item) == SIGNATURE:
        _add_signature(members, role, Signature.load(item), str(item))
    elif isinstance(item, Signature):
        _add_signature(members, role, item, "")
    elif isinstance(item, (str, Path)):
        source, plan = declared(str(item))
        locate(source)  # a mistyped name is answered before any work
        for other in members:
            if other.given is not None and (other.given.model, other.given.plan) == (source, plan):
                raise InputError(f"{shown(str(item))} is named twice, as {other.role} and as {role}; name it once")
        members.append(Member(role, Given(source, loading=loading, plan=plan)))
    else:
        members.append(Member(role, Given(item) if isinstance(item, Model) else Given(item, loading=loading)))


def _add_signature(members: list[Member], role: str, signature: Signature, folder: str) -> None:
    key = key_of(signature)
    same = next((m for m in members if m.key == key), None)
    if same is not None and same.role != role:
        name = signature.info["checkpoint"]["name"]
        raise InputError(f"{shown(name)} is named in two roles, {same.role} and {role}; a network has one")
    if same is None:
        same = Member(role, key=key)
        members.append(same)
    if not signature.info["checkpoint"].get("content_hash"):
        _refuse_ambiguous(same, signature)
    if signature.samples_table.empty:
        raise InputError(f"{shown(folder or signature.info['checkpoint']['name'])} holds no per-prompt samples")
    same.signatures.append(signature)
    same.folders.append(folder)


def key_of(signature: Signature) -> Key:
    """Which network a signature is of: by its weights, else (a live model has no hash of them) by its name."""
    checkpoint = signature.info["checkpoint"]
    content = checkpoint.get("content_hash") or f"{checkpoint.get('id')}, {checkpoint['name']}"
    return str(content), tuple(int(step["layer"]) for step in signature.info["plan"])


def _refuse_ambiguous(same: Member, signature: Signature) -> None:
    """Two live models of one name, on the same prompts, cannot be told from one model measured twice."""
    for other in same.signatures:
        if prompts_of(other) == prompts_of(signature) and numbers_hash(other) != numbers_hash(signature):
            name = signature.info["checkpoint"]["name"]
            raise InputError(
                f"two signatures of live models called {shown(name)} on {prompts_of(other)} may be of one network or "
                "of two; save the models and analyze their folders, or let info['checkpoint']['name'] differ"
            )


def joined(members: Sequence[Member], member: Member, key: Key) -> Member:
    """An opened checkpoint's member with the results folders that are of the same network.

    Raises:
        InputError: where they were given another role, or the checkpoint twice.
    """
    for other in members:
        if other is member or other.key != key:
            continue
        if other.role != member.role:
            raise InputError(
                f"{shown(member.source)} is named in two roles, {other.role} and {member.role}; a network has one"
            )
        if other.given is not None:
            raise InputError(f"{shown(member.source)} and {shown(other.source)} are the same network; name it once")
        member.signatures += other.signatures
        member.folders += other.folders
        other.signatures = []
    member.key = key
    return member


def roles_typed(members: Sequence[Member]) -> dict[str, list[str]]:
    """Who has which role, as it would be typed."""
    found: dict[str, list[str]] = {}
    for member in members:
        found.setdefault(member.role, []).extend(member.typed)
    return found
