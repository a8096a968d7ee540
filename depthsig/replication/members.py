"""Networks by their roles: who takes part, and which arm of a claim they stand in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from depthsig.comparison.roles import split_roles as split
from depthsig.errors import InputError, shown
from depthsig.signature import Signature
from depthsig.signature.tested import TestedSpan

PLAIN = ("looped", "midas", "lidas", "grown", "baseline")
NETWORK_ROLES = tuple(f"{role}{time}" for role in PLAIN for time in ("-before", "-after", ""))
"""Longer names first, so that a text is read from the left."""
GROWN = ("grown", "midas", "lidas")
"""Roles whose networks are grown, whatever the method."""
FORM = "--roles looped=A,midas=B,lidas=C,baseline=D, several networks of one role joined with +"


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """One trained network, with everything that is known of it.

    Attributes:
        name: what tables and figures call it, unique among those that take part.
        role: one of :data:`NETWORK_ROLES`.
        steps: how many its plan has. span: the span whose period is tested; None without one.
        looped: how many of its steps lie in a loop that runs.
        signatures: what was measured of it, on one set of prompts or several.
        checkpoint: whether its weights are at hand, for what tables cannot answer.
        content: a hash of its weights, "" where that is not known.
        tokens: a hash of how its tokenizer cuts the prompts of runs, "" where nothing was run.
        reasons: why a kind of run, or the analysis on a set of prompts, gave nothing, by its name.
    """

    name: str
    role: str
    steps: int
    span: TestedSpan | None = None
    looped: int = 0
    signatures: tuple[Signature, ...] = field(default=(), repr=False)
    checkpoint: bool = False
    content: str = ""
    tokens: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)


def split_roles(text: str) -> dict[str, str]:
    """``looped=a+b,baseline-before=c`` as text by role; names may hold commas and equals signs.

    Raises:
        InputError: for text that does not begin with a role, names one twice, or gives one nobody.

    >>> split_roles("looped=a+b,grown-after=c,d")
    {'looped': 'a+b', 'grown-after': 'c,d'}
    """
    return split(text, NETWORK_ROLES, FORM, "network")


def check_roles(names: Sequence[str]) -> None:
    """Refuse names of roles that there are not.

    Raises:
        InputError: naming them.
    """
    unknown = [name for name in names if name not in NETWORK_ROLES]
    if unknown or not names:
        found = ", ".join(map(shown, unknown)) or "none"
        raise InputError(f"unknown roles: {found}; there are {', '.join(PLAIN)}, each with -before or -after, too")


def arm(networks: Sequence[TrainedNetwork], role: str) -> tuple[int, ...]:
    """The places of the networks that a claim means by a role.

    ``grown`` means those of every method; ``grown/4`` those in blocks of four; ``looped/all`` those
    whose steps are all looped, ``looped/middle`` the others that loop. Where a role's networks have blocks of
    different lengths, a name without such a detail means those of the most common one (:func:`usual_block`):
    an arm's networks differ in their seed, and what the length changes is asked by itself.

    >>> made = (("a", "midas", 0), ("b", "lidas", 0), ("c", "looped", 24))
    >>> nets = [TrainedNetwork(name, role, 24, looped=looped) for name, role, looped in made]
    >>> arm(nets, "grown"), arm(nets, "looped/all"), arm(nets, "looped/middle")
    ((0, 1), (2,), ())
    """
    detail = role.partition("/")[2]
    found = [n for n, one in enumerate(networks) if means(role, one.role) and _suits(one, detail)]
    return tuple(found if detail.isdigit() else (n for n in found if _usual(networks, networks[n])))


def usual_block(networks: Sequence[TrainedNetwork], role: str) -> int:
    """The length of block that more networks of a role have than any other; 0 where there is none such.

    >>> spans = [TestedSpan(0, block, 24 // block, "grown", None) for block in (4, 4, 2)]
    >>> nets = [TrainedNetwork(str(n), "midas", 24, span) for n, span in enumerate(spans)]
    >>> usual_block(nets, "midas"), usual_block(nets[1:], "midas"), arm(nets, "midas"), arm(nets, "midas/2")
    (4, 0, (0, 1), (2,))
    """
    counts = Counter(_block(one) for one in networks if one.role == role and _block(one))
    most = counts.most_common(2)
    return most[0][0] if most and (len(most) == 1 or most[0][1] > most[1][1]) else 0


def _usual(networks: Sequence[TrainedNetwork], one: TrainedNetwork) -> bool:
    return _block(one) in (0, usual_block(networks, one.role) or _block(one))


def _block(one: TrainedNetwork) -> int:
    return one.span.block if one.span is not None else 0


def means(named: str, role: str) -> bool:
    """Whether a claim that names a role may mean networks of another, whatever it says of blocks and loops.

    >>> means("grown/4", "midas"), means("grown", "midas-after"), means("midas", "grown")
    (True, False, False)
    """
    kind, _, time = named.partition("/")[0].partition("-")
    own, _, own_time = role.partition("-")
    return own_time == time and (own == kind or (kind == "grown" and own in GROWN))


def _suits(one: TrainedNetwork, detail: str) -> bool:
    if detail.isdigit():
        return _block(one) == int(detail)
    if detail:
        return one.looped > 0 and (one.looped == one.steps) == (detail == "all")
    return True


def alike(networks: Sequence[TrainedNetwork]) -> list[str]:
    """Roles in which networks are of different depth or in different blocks, a sentence each."""
    said = []
    for role in dict.fromkeys(n.role for n in networks):
        depths = {n.steps for n in networks if n.role == role}
        if len(depths) > 1:
            said.append(
                f"networks of the role {role} are of different depth: {', '.join(map(str, sorted(depths)))} steps"
            )
        blocks = sorted({_block(n) for n in networks if n.role == role} - {0})
        usual = usual_block(networks, role)
        if len(blocks) > 1 and usual:
            said.append(
                f"networks of the role {role} have blocks of {', '.join(map(str, blocks))} steps: those of {usual} are "
                "judged as the arm, the others where a claim asks what the length changes"
            )
    return said
