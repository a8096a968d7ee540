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

from depthsig.comparison.inputs import Input, Pairing, check_alike, numbers_hash, pair_prompts, per_prompt
from depthsig.metrics import entry
from depthsig.replication.members import Network
from depthsig.signature import Signature
from depthsig.statistics.convergence import prompt_weights, weighted_means
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES
from depthsig.tables.samples import Key

RUNS = ("repeat", "shots", "pruning.influence", "pruning.loss")
"""Kinds of runs beside signatures: their conditions are counts, of passes, examples, or steps left out."""


@dataclass(frozen=True, eq=False)
class Group:
    """Signatures of some networks that hold a metric, on prompts that all of them share.

    Attributes:
        places: of the networks. prompts: the name of the set.
    """

    places: tuple[int, ...]
    inputs: tuple[Input, ...]
    pairing: Pairing
    weights: Float[ndarray, "row prompt"]
    prompts: str
    warnings: tuple[str, ...] = ()

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
class Evidence:
    """Everything that claims are judged by.

    Attributes:
        runs: a row a run: ``run, network, task, item, condition, loss, exact``; the item names a question.
        seed: of the bootstrap. resamples: how many.
        weights: other weights of the prompts or items than resampling gives (:meth:`reweighted`).
    """

    networks: tuple[Network, ...]
    runs: pd.DataFrame
    seed: int = 0
    resamples: int = RESAMPLES
    weights: Float[ndarray, "row prompt"] | None = None
    _groups: dict[tuple, Group | None] = field(default_factory=dict, repr=False)
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def group(
        self, prompts: str, keys: Sequence[Key], wanted: Sequence[int], *, controlled: bool = False
    ) -> Group | None:
        """The wanted networks' signatures that hold all of some metrics; None where nobody's does.

        Those on the set of prompts that is asked for, else on the set that most of them have.

        Args:
            controlled: only those with the re-initialised architecture beside them.

        Raises:
            InputError: for signatures that were measured differently, or have no prompt in common.
        """
        have = {
            p: [s for s in self.networks[p].signatures if _holds(s, keys) and not (controlled and s.control is None)]
            for p in wanted
        }
        sets = Counter(name for found in have.values() for name in {_set_of(s) for s in found})
        if not sets:
            return None
        name = prompts if prompts in sets else sets.most_common(1)[0][0]
        chosen = {p: next((s for s in found if _set_of(s) == name), None) for p, found in have.items()}
        places = tuple(p for p, s in chosen.items() if s is not None)
        key = (places, tuple(id(chosen[p]) for p in places))
        if key not in self._groups:
            self._groups[key] = self._paired(places, [s for s in chosen.values() if s is not None], name)
        found = self._groups[key]
        return found if found is None or self.weights is None else replace(found, weights=self.weights)

    def reweighted(self, weights: Float[ndarray, "row prompt"]) -> Evidence:
        """The same evidence with other weights of the prompts (or items) of the claim that is asked for next."""
        return replace(self, weights=weights)

    def _paired(self, places: tuple[int, ...], signatures: Sequence[Signature], name: str) -> Group:
        inputs = tuple(
            Input(self.networks[p].name, s, None, self._hash(s)) for p, s in zip(places, signatures, strict=True)
        )
        warnings = check_alike(inputs)
        pairing = pair_prompts(inputs)
        weights = prompt_weights(len(pairing), self.resamples if len(pairing) >= MIN_PROMPTS else 0, self.seed)
        return Group(places, inputs, pairing, weights, name, (*warnings, *pairing.warnings))

    def _hash(self, signature: Signature) -> str:
        if id(signature) not in self._hashes:
            self._hashes[id(signature)] = numbers_hash(signature)
        return self._hashes[id(signature)]

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
        index = ["task", "item", "network", "condition"]
        tables = {v: rows.set_index(index)[v].unstack(["network", "condition"]) for v in ("loss", "exact")}
        shared = tables["loss"].dropna().index  # items that everybody answered under every condition
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


def _holds(signature: Signature, keys: Sequence[Key]) -> bool:
    table = signature.samples_table
    there = set(zip(table["metric"], table["part"], table["scope"], strict=True))
    return all((k.metric, k.part, k.scope) in there for k in keys)


def _set_of(signature: Signature) -> str:
    return str(signature.info.get("options", {}).get("prompts"))


def _by_task(weights: Float[ndarray, "row item"], tasks: Sequence[str]) -> Float[ndarray, "row item"]:
    """Weights that sum to one, with every task weighing the same."""
    names, out = np.array(tasks), np.zeros_like(weights, dtype=float)
    for task in dict.fromkeys(tasks):
        own = weights[:, names == task]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, names == task] = own / own.sum(1, keepdims=True) / len(set(tasks))
    return out
