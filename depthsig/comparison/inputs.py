"""What is compared: signatures with a name each, measured alike, on prompts that are paired by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from depthsig.errors import InputError, as_path, shown, visible
from depthsig.metrics import Metric
from depthsig.signature import Signature
from depthsig.statistics.resampling import MIN_PROMPTS
from depthsig.tables.samples import Key

MUST_AGREE = {"positions": "all", "ablation": "zero", "keep_first": False, "chat_template": False, "shots": 0}
"""Options (with their defaults) that change what a profile is: signatures that differ in one are not compared."""


@dataclass(frozen=True, eq=False)
class Input:
    """One signature that takes part.

    Attributes:
        name: what tables and figures call it, unique among those compared.
        path: the folder it came from, None where it came as an object.
        content: a hash of its tables, which tells copies of one signature.
    """

    name: str
    signature: Signature
    path: Path | None
    content: str

    @cached_property
    def samples(self) -> dict[Key, pd.DataFrame]:
        """Per-prompt values behind the means, by what was measured."""
        table = self.signature.samples_table
        groups = table[table["agg"] == "mean"].groupby(["metric", "part", "scope"], sort=False)
        return {Key(*map(str, key)): rows for key, rows in groups}

    @property
    def entries(self) -> Mapping[str, Metric]:
        """The metrics that its tables may hold."""
        return self.signature.entries

    @property
    def steps(self) -> int:
        """How many steps the model has."""
        return len(self.signature.info["plan"])

    def record(self, role: str) -> dict[str, Any]:
        """What ``compare.json`` says of it."""
        info = self.signature.info
        checkpoint = info["checkpoint"]
        return {
            "name": self.name, "path": None if self.path is None else str(self.path), "role": role,
            "checkpoint": {k: checkpoint.get(k) for k in ("id", "name", "revision", "content_hash")},
            "content": self.content, "steps": self.steps, "declared": info["spans"].get("declared", {}),
            "prompts": info.get("options", {}).get("prompts"), "n_prompts": len(self.signature.prompts),
            "dtype": info.get("dtype"), "control": self.signature.control is not None,
        }  # fmt: skip


def open_inputs(items: Sequence[Signature | str | Path]) -> list[Input]:
    """Signatures and folders as named inputs.

    Raises:
        InputError: for fewer than two, the same one twice, or a folder that cannot be read.
    """
    if isinstance(items, Mapping) or not isinstance(items, (Iterable, Signature)):
        raise InputError(f"compare takes a list of signatures and folders; found {shown(items)}")
    items = [items] if isinstance(items, (str, Path, Signature)) else list(items)
    if len(items) < 2:
        found = len(items)
        raise InputError(f"compare needs two signatures or more; {found} given")
    signatures: list[Signature] = []
    paths: list[Path | None] = []
    for item in items:
        path = None if isinstance(item, Signature) else as_path(item)
        if path is not None and any(p is not None and p.resolve() == path.resolve() for p in paths):
            raise InputError(f"{str(path)!r} is given twice; a signature is compared with others")
        signature = item if isinstance(item, Signature) else Signature.load(item)
        if any(signature is s for s in signatures):
            raise InputError("the same signature is given twice; a signature is compared with others")
        if signature.samples_table.empty:
            raise InputError(f"{_called(signature, path)!r} holds no per-prompt samples; comparing needs them")
        signatures.append(signature)
        paths.append(path)
    names = _names(signatures, paths)
    return [Input(n, s, p, numbers_hash(s)) for n, s, p in zip(names, signatures, paths, strict=True)]


def _called(signature: Signature, path: Path | None) -> str:
    name = path if path is not None else signature.info.get("checkpoint", {}).get("name", "signature")
    return visible(str(name))


def _names(signatures: Sequence[Signature], paths: Sequence[Path | None]) -> list[str]:
    """The folder's name (with as much of its path as tells it from the others), else the checkpoint's."""
    parts = [None if p is None else p.resolve().parts for p in paths]
    names: list[str] = []
    for signature, own in zip(signatures, parts, strict=True):
        if own is None:
            names.append(_called(signature, None))
            continue
        others = [p for p in parts if p is not None and p is not own]
        length = next((k for k in range(1, len(own)) if all(o[-k:] != own[-k:] for o in others)), len(own))
        names.append(visible("/".join(own[-length:])))
    for place, name in enumerate(names):
        number = 2
        while names[place] in names[:place]:
            names[place] = f"{name} ({number})"
            number += 1
    return names


def numbers_hash(signature: Signature) -> str:
    """SHA-256 of a signature's plan, profiles, samples and prompts, whatever folder they lie in."""
    digest = hashlib.sha256(json.dumps(signature.info["plan"], sort_keys=True, default=str).encode())
    for frame in (signature.profiles, signature.samples_table, signature.prompts):
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def check_alike(inputs: Sequence[Input], but: str = "") -> list[str]:
    """Whether the signatures were measured in the same way.

    Args:
        but: an option of :data:`MUST_AGREE` that may differ.

    Returns:
        What is different but does not forbid comparing, a sentence each.

    Raises:
        InputError: where profiles are different quantities.
    """
    options = [i.signature.info.get("options", {}) for i in inputs]
    for name, default in MUST_AGREE.items():
        if name == but:
            continue
        found = {i.name: o.get(name, default) for i, o in zip(inputs, options, strict=True)}
        if len(set(map(str, found.values()))) > 1:
            option = "--" + name.replace("_", "-")
            said = ", ".join(f"{value} ({model})" for model, value in found.items())
            raise InputError(f"the signatures differ in {option}: {said}; analyze them with the same")
    warnings = _check_declared(inputs)
    for name, said in (("cuts", "profiles of scope future are at other cuts"),):
        values = {str(o.get(name)) for o in options}
        if len(values) > 1 and len({tuple(i.signature.prompts["cuts"]) for i in inputs}) > 1:
            warnings.append(f"--{name} differs ({', '.join(sorted(values))}): {said}")
    dtypes = {str(i.signature.info.get("dtype")) for i in inputs}
    if len(dtypes) > 1:
        warnings.append(f"dtypes differ ({', '.join(sorted(dtypes))}): part of the difference may be rounding")
    return warnings


def own_entries(inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """The metrics of one's own that the signatures declare, each once, as ``compare.json`` keeps them."""
    declared = {record["id"]: record for i in reversed(inputs) for record in i.signature.info.get("metrics", [])}
    return [declared[name] for name in sorted(declared)]


MUST_BE_DECLARED_ALIKE = ("kind", "on", "level", "axis", "rows", "cols", "parts", "scopes")


def _check_declared(inputs: Sequence[Input]) -> list[str]:
    """Whether metrics of one's own are the same in all signatures; what else differs, a sentence each.

    Raises:
        InputError: where one is another kind of quantity in another signature.
    """
    first: dict[str, tuple[str, Metric]] = {}
    warnings: dict[str, str] = {}
    for one in inputs:
        for entry in (e for e in one.entries.values() if e.own):
            name, known = first.setdefault(entry.id, (one.name, entry))
            differ = [f for f in MUST_BE_DECLARED_ALIKE if getattr(entry, f) != getattr(known, f)]
            if differ:
                raise InputError(
                    f"metric {entry.id!r} was declared with {differ[0]} {getattr(known, differ[0])!r} in {name} and "
                    f"{getattr(entry, differ[0])!r} in {one.name}; analyze both with one declaration"
                )
            if entry.formula != known.formula:
                warnings[entry.id] = f"{entry.id} has another formula in {one.name} than in {name}"
    return list(warnings.values())


@dataclass(frozen=True, eq=False)
class Pairing:
    """Prompts that all signatures share.

    Attributes:
        rows: for each input, the prompt (row of its ``prompts.csv``) in each place.
        same_tokens: whether they were also cut into the same tokens everywhere.
        warnings: what is less than ideal, a sentence each.
    """

    rows: list[Int[ndarray, "place"]]
    same_tokens: bool
    warnings: list[str]

    def __len__(self) -> int:
        return len(self.rows[0])


def pair_prompts(inputs: Sequence[Input]) -> Pairing:
    """Pair prompts by the hash of their text; equal texts pair in the order in which they come.

    Raises:
        InputError: where no prompt is in all signatures: differences between models could not be told
            from differences between prompts.
    """
    tables = [_measured_prompts(i.signature) for i in inputs]
    shared = [key for key in tables[0].index if all(key in t.index for t in tables[1:])]
    if not shared:
        sets = ", ".join(f"{i.signature.info.get('options', {}).get('prompts')} ({i.name})" for i in inputs)
        raise InputError(f"the signatures have no prompt in common: {sets}; analyze all on the same prompts")
    warnings = []
    left = {i.name: len(t) - len(shared) for i, t in zip(inputs, tables, strict=True) if len(t) > len(shared)}
    if left:
        said = ", ".join(f"{count} of {name}" for name, count in left.items())
        warnings.append(f"only the {len(shared)} prompts that all have are compared; left out: {said}")
    if len(shared) < MIN_PROMPTS:
        warnings.append(f"{len(shared)} prompts are too few for intervals ({MIN_PROMPTS} or more): nothing is decided")
    tokens = [t.loc[shared, "tokens_sha256"].tolist() for t in tables]
    differ = sum(len(set(column)) > 1 for column in zip(*tokens, strict=True))
    if differ:
        warnings.append(
            f"tokens differ on {differ} of {len(shared)} prompts (another tokenizer or --max-tokens), which are paired "
            "by their text: averages are over other positions and vocabularies; read shapes, not sizes"
        )
    rows = [t.loc[shared, "prompt"].to_numpy(int) for t in tables]
    return Pairing(rows, not differ, warnings)


def _measured_prompts(signature: Signature) -> pd.DataFrame:
    """Prompts with any value, by (hash of the text, how many times it came before)."""
    prompts = signature.prompts
    measured = set(signature.samples_table["prompt"].dropna().astype(int))
    prompts = prompts[prompts["prompt"].isin(measured)]
    again = prompts.groupby("sha256").cumcount()
    return prompts.set_index(pd.Index(list(zip(prompts["sha256"], again, strict=True)), tupleize_cols=False))


def per_prompt(
    one: Input, rows: Int[ndarray, "place"], key: Key, size: int, *, matrix: bool
) -> Float[ndarray, "place *cell"] | None:
    """Values of one metric at the paired prompts, [place, size] or [place, size, size]; None without any."""
    found = one.samples.get(key)
    if found is None:
        return None
    last = int(max(found["prompt"].max(), rows.max())) + 1
    values = np.full((last, size, size) if matrix else (last, size), np.nan)
    cell = ("row", "col") if matrix else ("index",)
    try:
        values[tuple(found[c].to_numpy(int) for c in ("prompt", *cell))] = found["value"]
    except (IndexError, ValueError):
        raise InputError(f"the samples of {key.metric!r} in {one.name!r} do not fit its {one.steps} steps") from None
    return values[rows]
