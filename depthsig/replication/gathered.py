"""What is known of the networks: signatures paired by prompt, runs paired by item, resampled alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.inputs import Input, Pairing, check_alike, pair_prompts, per_prompt
from depthsig.errors import InputError
from depthsig.metrics import entry
from depthsig.replication.members import TrainedNetwork
from depthsig.replication.needs import measured, prompts_of
from depthsig.signature import Signature
from depthsig.statistics.convergence import prompt_weights, weighted_means
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES
from depthsig.tables.samples import Key


@dataclass(frozen=True, eq=False)
class Group:
    """Signatures of some networks that hold a metric, on prompts that all of them share.

    Attributes:
        places: of the networks. prompts: the name of the set. left_out: names of those that have nothing on it.
    """

    places: tuple[int, ...]
    inputs: tuple[Input, ...]
    pairing: Pairing
    weights: Float[ndarray, "row prompt"]
    prompts: str
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def profile(self, at: int, key: Key) -> Float[ndarray, "prompt *cell"]:
        """Values of a metric in one network (by its number in the group) at the shared prompts."""
        one = entry(key.metric)
        found = self.inputs[at].samples[key]
        if not one.cells:
            values = np.full(int(max(found["prompt"].max(), self.pairing.rows[at].max())) + 1, np.nan)
            values[found["prompt"].to_numpy(int)] = found["value"]
            return values[self.pairing.rows[at]]
        columns = ["row", "col"] if one.kind == "matrix" else ["index"]
        size = int(found[columns].max().max()) + 1
        if one.kind != "matrix":
            size = max(size, self.inputs[at].steps + (one.axis == "depth"))
        found_values = per_prompt(self.inputs[at], self.pairing.rows[at], key, size, matrix=one.kind == "matrix")
        assert found_values is not None  # the group holds the metric
        return found_values

    def means(self, at: int, key: Key) -> Float[ndarray, "row *cell"]:
        """The same, averaged over prompts in every resample."""
        return weighted_means(self.profile(at, key), self.weights)


@dataclass(frozen=True, eq=False)
class Items:
    """Values of one kind of run in some networks, at items that all of them answered.

    Attributes:
        conditions: what was varied, in order.
        loss, exact: [network, item, condition]; weights resample items within their task.
    """

    places: tuple[int, ...]
    conditions: tuple[int, ...]
    tasks: tuple[str, ...]
    loss: Float[ndarray, "network item condition"]
    exact: Float[ndarray, "network item condition"]
    weights: Float[ndarray, "row item"]

    def at(self, condition: int) -> int:
        """The column of a condition.

        Raises:
            KeyError: where it was not run.
        """
        if condition not in self.conditions:
            raise KeyError(condition)
        return self.conditions.index(condition)


@dataclass(frozen=True, eq=False)
class Gathered:
    """Everything that claims are judged by.

    Attributes:
        runs: a row a run: ``run, network, task, item, condition, loss, exact``; the item names a question.
        seed: of the bootstrap. resamples: how many.
        weights: other weights of the prompts or items than resampling gives (:meth:`reweighted`).
    """

    networks: tuple[TrainedNetwork, ...]
    runs: pd.DataFrame
    seed: int = 0
    resamples: int = RESAMPLES
    weights: Float[ndarray, "row prompt"] | None = None
    _groups: dict[tuple, Group] = field(default_factory=dict, repr=False)
    _inputs: dict[tuple[int, int], Input] = field(default_factory=dict, repr=False)
    _measured: dict[int, frozenset[Key]] = field(default_factory=dict, repr=False)

    def group(
        self, prompts: str, keys: Sequence[Key], wanted: Sequence[int], *, controlled: bool = False
    ) -> Group | None:
        """The wanted networks' signatures that hold all of some metrics; None where nobody's does.

        Those on the set of prompts that is asked for, if there are such in every role; else on the set that most
        have. Whoever has none of it is left out, and named.

        Args:
            controlled: only those with the re-initialised architecture beside them.

        Raises:
            InputError: for signatures that were measured differently, or have no prompt in common.
        """
        have = {
            p: {
                prompts_of(s): s for s in reversed(self.networks[p].signatures)
                if self._there(s).issuperset(keys) and not (controlled and s.control is None)
            }
            for p in dict.fromkeys(wanted)
        }  # fmt: skip
        sets = Counter(name for found in have.values() for name in found)
        if not sets:
            return None
        roles = {p: self.networks[p].role for p in have}
        everywhere = {roles[p] for p, found in have.items() if prompts in found} == set(roles.values())
        name = prompts if everywhere else max(sets, key=lambda one: (sets[one], one == prompts))
        places = tuple(p for p, found in have.items() if name in found)
        key = (places, tuple(id(have[p][name]) for p in places))
        if key not in self._groups:
            self._groups[key] = self._paired(places, [have[p][name] for p in places], name)
        group = self._groups[key]
        if group is None:
            return None
        lost = tuple(self.networks[p].name for p in have if p not in places)
        return replace(group, left_out=lost, weights=group.weights if self.weights is None else self.weights)

    def reweighted(self, weights: Float[ndarray, "row prompt"]) -> Gathered:
        """The same evidence with other weights of the prompts (or items) of the claim that is asked for next."""
        return replace(self, weights=weights)

    def _paired(self, places: tuple[int, ...], signatures: Sequence[Signature], name: str) -> Group:
        inputs = tuple(self._input(p, s) for p, s in zip(places, signatures, strict=True))
        warnings = check_alike(inputs)
        pairing = pair_prompts(inputs)
        if not pairing.same_tokens:
            _refuse_cuts(inputs)
        weights = prompt_weights(len(pairing), self.resamples if len(pairing) >= MIN_PROMPTS else 0, self.seed)
        return Group(places, inputs, pairing, weights, name, (*warnings, *pairing.warnings))

    def _input(self, place: int, signature: Signature) -> Input:
        """Made once, so that its samples are taken apart once."""
        key = (place, id(signature))
        if key not in self._inputs:
            self._inputs[key] = Input(self.networks[place].name, signature, None, "")
        return self._inputs[key]

    def _there(self, signature: Signature) -> frozenset[Key]:
        if id(signature) not in self._measured:
            self._measured[id(signature)] = measured(signature)
        return self._measured[id(signature)]

    def items(self, run: str, wanted: Sequence[int]) -> Items | None:
        """One kind of run in the wanted networks, at the items and conditions that all of them have."""
        rows = self._by_run.get(run)
        if rows is None:
            return None
        names = {self.networks[p].name: p for p in wanted}
        rows = rows[rows["network"].isin(list(names))]
        if rows.empty:
            return None
        there = [n for n in names if n in set(rows["network"])]
        conditions = sorted(set.intersection(*(set(rows.loc[rows["network"] == n, "condition"]) for n in there)))
        rows = rows[rows["condition"].isin(conditions)]
        if rows.empty:
            return None
        index = ["task", "item", "network", "condition"]
        tables = {v: rows.set_index(index)[v].unstack(["network", "condition"]) for v in ("loss", "exact")}
        shared = _shared(tables["loss"], there)
        if shared.empty:
            return None
        tasks = tuple(map(str, shared.get_level_values("task")))
        stacked = {
            v: np.stack([t.loc[shared, n][list(conditions)].to_numpy(float) for n in there]) for v, t in tables.items()
        }
        weights = self._task_weights(tasks) if self.weights is None else _by_task(self.weights, tasks)
        places = tuple(names[n] for n in there)
        return Items(places, tuple(map(int, conditions)), tasks, stacked["loss"], stacked["exact"], weights)

    @cached_property
    def _by_run(self) -> dict[str, pd.DataFrame]:
        return {str(run): rows for run, rows in self.runs.groupby("run", sort=False)}

    def _task_weights(self, tasks: Sequence[str]) -> Float[ndarray, "row item"]:
        """Items drawn anew within each task; every task weighs the same."""
        names = np.array(tasks)
        counts = {task: int((names == task).sum()) for task in dict.fromkeys(tasks)}
        resamples = self.resamples if len(names) >= MIN_PROMPTS else 0
        out = np.zeros((resamples + 1, len(names)))
        for number, (task, n) in enumerate(counts.items()):
            drawn = prompt_weights(n, resamples, self.seed + number)
            out[:, names == task] = drawn / n / len(counts)
        return out


def _shared(losses: pd.DataFrame, networks: Sequence[str]) -> pd.Index:
    """Items that all networks answered under every condition that their task was run under."""
    kept = []
    for _, rows in losses.groupby(level="task", sort=False):
        there = rows.columns[rows.notna().any()]
        common = set.intersection(*({c for n, c in there if n == name} for name in networks))
        kept += list(rows[[(n, c) for n in networks for c in sorted(common)]].dropna().index) if common else []
    return losses.index[losses.index.isin(kept)]


def _by_task(weights: Float[ndarray, "row item"], tasks: Sequence[str]) -> Float[ndarray, "row item"]:
    """Weights that sum to one, with every task alike that has any in its row: half of the items may be of few tasks."""
    names, out = np.array(tasks), np.zeros_like(weights, dtype=float)
    for task in dict.fromkeys(tasks):
        own = weights[:, names == task]
        total = own.sum(1, keepdims=True)
        out[:, names == task] = np.divide(own, total, out=np.zeros_like(own, dtype=float), where=total > 0)
    return out / out.sum(1, keepdims=True)


def _refuse_cuts(inputs: Sequence[Input]) -> None:
    """Prompts that were cut at different lengths are other text: nothing is judged by them."""
    most = {i.name: i.signature.info.get("options", {}).get("max_tokens") for i in inputs}
    if len(set(most.values())) > 1:
        said = ", ".join(f"{name} after {n}" for name, n in most.items())
        raise InputError(f"the same prompts were cut after different numbers of tokens ({said}); measure all alike")
