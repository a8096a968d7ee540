"""Signatures in their roles, on the prompts that they share: what a claim is judged on, and judged on again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.claims import convergence_claim, late_claim, recurrence_claim
from depthsig.comparison.curves import Arm, measure_distances
from depthsig.comparison.inputs import Input, Pairing, check_alike, open_inputs, pair_prompts
from depthsig.comparison.recurrence import Periods
from depthsig.comparison.reliance import resampled_scores
from depthsig.comparison.roles import Roles, folders, read_roles, split_roles
from depthsig.errors import InputError
from depthsig.signature import Signature
from depthsig.statistics.convergence import prompt_weights, seed_weights
from depthsig.statistics.resampling import MIN_PROMPTS


@dataclass(frozen=True, eq=False)
class Ground:
    """What claims are judged on.

    Attributes:
        weights: of the prompts that all inputs share, row 0 the estimate.
        arms: by role, with the networks' shares in as many rows.
    """

    inputs: Sequence[Input]
    pairing: Pairing
    weights: Float[ndarray, "row prompt"]
    arms: Mapping[str, Arm]

    @classmethod
    def of(cls, inputs: Sequence[Input], roles: Roles, resamples: int, seed: int) -> Ground:
        """Inputs in roles, on their common prompts.

        Raises:
            InputError: where they were measured differently, or share no prompt.
        """
        check_alike(inputs)
        pairing = pair_prompts(inputs)
        weights = prompt_weights(len(pairing), resamples if len(pairing) >= MIN_PROMPTS else 0, seed)
        arms = arms_of(roles, len(weights) - 1, seed)
        return cls(inputs, pairing, weights, {arm.role: arm for arm in arms})

    def replaced(self, changed: Mapping[int, Input]) -> Ground:
        """The same roles and resamples with other signatures in some places, on the prompts that are left.

        Raises:
            InputError: where they share no prompt, or fewer than before.
        """
        inputs = [changed.get(place, one) for place, one in enumerate(self.inputs)]
        taking_part = {place for arm in self.arms.values() for place in arm.places}
        pairing = pair_prompts([inputs[place] for place in sorted(taking_part)])
        if len(pairing) != len(self.pairing):
            raise InputError(f"{len(pairing)} of the {len(self.pairing)} prompts are in all of them")
        rows = dict(zip(sorted(taking_part), pairing.rows, strict=True))
        spread = [rows.get(place, own) for place, own in enumerate(self.pairing.rows)]
        return Ground(inputs, replace(self.pairing, rows=spread), self.weights, self.arms)

    @property
    def periods(self) -> Periods:
        """The strengths of periods on these prompts."""
        return Periods(list(self.inputs), self.pairing, self.weights)

    def only(self, roles: Sequence[str]) -> Ground:
        """The ground of these roles' networks alone."""
        places = [place for role in roles for place in self.arms[role].places]
        arms, start = {}, 0
        for role in roles:
            arm = self.arms[role]
            arms[role] = Arm(role, tuple(range(start, start + len(arm.places))), arm.weights)
            start += len(arm.places)
        pairing = replace(self.pairing, rows=[self.pairing.rows[place] for place in places])
        return Ground([self.inputs[place] for place in places], pairing, self.weights, arms)


def arms_of(roles: Roles, resamples: int, seed: int) -> list[Arm]:
    """Members with their shares; every arm draws its networks apart from the others and from the prompts."""
    arms = []
    for number, (role, places) in enumerate(roles.members.items()):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        arms.append(Arm(role, places, seed_weights(len(places), resamples, own)))
    return arms


def open_roles(given: str | Mapping[str, Any], option: str) -> tuple[list[Input], Roles]:
    """Signatures that are given by role alone, in the grammar of ``--roles``.

    Args:
        option: what errors call it.

    Raises:
        InputError: naming the option, where they cannot be read or there are fewer than two.
    """
    try:
        by_role: dict[str, Any] = dict(split_roles(given)) if isinstance(given, str) else dict(given)
        members = {}
        for role, value in by_role.items():
            if isinstance(value, str):
                value = folders(value)
            members[role] = [value] if isinstance(value, (Signature, Path)) else list(value)
        inputs = open_inputs([item for items in members.values() for item in items])
        return inputs, read_roles(members, inputs)
    except InputError as error:
        raise InputError(f"{option}: {str(error).replace('--roles', option)}") from None


def judge(ground: Ground, claim: str, roles: Sequence[str]) -> dict[str, Any]:
    """The row of one claim on other signatures, by the rules of :mod:`depthsig.comparison.claims`.

    Args:
        roles: A first, C last.
    """
    ground = ground.only(roles)
    arms = [ground.arms[role] for role in roles]
    a, c = arms[0], arms[-1]
    if claim == "late":
        return late_claim(a, c, resampled_scores(ground.inputs, ground.pairing, ground.weights), "")
    if claim == "recurrence":
        return recurrence_claim(a, c, ground.periods.against(a, c), ground.periods.beside_control(a), "")
    silent: Callable[[float], None] = lambda done: None  # noqa: E731
    measured = measure_distances(ground.inputs, ground.pairing, ground.weights, arms, lambda place: "", silent)
    return convergence_claim(a, arms[1], c, measured, "")
