"""A sweep as its YAML file says it: every combination of checkpoints, revisions, orders, prompts and presets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from depthsig.comparison.roles import ROLES
from depthsig.errors import InputError, near, shown
from depthsig.signature.folders.choosing import identity_of
from depthsig.terms import NONE
from depthsig.untrusted import is_there, size_of

LARGEST_SWEEP = 1 << 20
"""Bytes: a list of ten thousand checkpoints takes less."""
MOST_UNITS = 100_000
SWEPT = {
    "checkpoints": "checkpoint",
    "revisions": "revision",
    "orders": "order",
    "prompts": "prompts",
    "presets": "preset",
}
"""The file's lists, and what one of them is called in ``sweep.csv``."""
EXAMPLE = Path(__file__).with_name("midas-orders.yaml")
"""A sweep that ships, under its name alone."""
REVISION, NATIVE = "{revision}", "native"
"""In a path, what is replaced; among orders, the model's own."""
OPTIONS = frozenset({
    "quick", "budget", "metrics", "parts", "scopes", "cuts", "agg", "n", "max_tokens", "chat_template", "shots",
    "positions", "keep_first", "ablation", "reword", "lens", "calibration", "probes", "control", "loop", "grown",
    "iterations", "dtype", "device", "device_map", "stream", "memory", "batch_size",
    "seed", "recheck",
})  # fmt: skip
"""Options of ``analyze`` that a file may give for all units; what lets code run is given on the command line."""
OF_LOADING = frozenset({"dtype", "device", "device_map", "stream"})
LETS_CODE_RUN = ("trust_remote_code", "allow_pickle", "plugin")


@dataclass(frozen=True)
class Unit:
    """One analysis of a sweep.

    Attributes:
        checkpoint: as the file names it; with ``{revision}`` in it, the pattern.
        revision, order, prompts, preset: None where the file sweeps none of them.
        options: of ``analyze``, for all units alike.
    """

    checkpoint: str
    revision: str | None = None
    order: str | None = None
    prompts: str | None = None
    preset: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What is opened."""
        return self.checkpoint.replace(REVISION, self.revision or "")

    @property
    def other_order(self) -> str | None:
        """The order to run layers in; None for the model's own."""
        return None if self.order == NATIVE else self.order

    @property
    def hub_revision(self) -> str | None:
        """The revision to ask a hub for; None where it stands in the path."""
        return None if REVISION in self.checkpoint else self.revision

    @property
    def loading_options(self) -> dict[str, Any]:
        """Those of the options that say how a checkpoint is opened."""
        return {name: value for name, value in self.options.items() if name in OF_LOADING}

    @property
    def options_of_analyze(self) -> dict[str, Any]:
        """The others."""
        return {name: value for name, value in self.options.items() if name not in OF_LOADING}

    @property
    def swept(self) -> dict[str, str]:
        """What it is, as ``sweep.csv`` has it; what the file does not name is :data:`NONE`."""
        return {name: str(getattr(self, name) or NONE) for name in SWEPT.values()}

    @cached_property
    def identity(self) -> str:
        """One word for what was asked for."""
        return identity_of({**self.swept, "options": {k: v for k, v in self.options.items() if k != "recheck"}})

    @cached_property
    def folder(self) -> str:
        """The name of its results folder: what it is, and a few letters that tell it from every other."""
        checkpoint = Path(self.checkpoint.replace(REVISION, "")).name or self.checkpoint
        parts = [checkpoint, self.revision, self.order, self.prompts and Path(self.prompts).name, self.preset]
        name = "_".join(re.sub(r"[^\w.+-]+", "-", part).strip("-._") for part in parts if part)
        short = name.encode()[:80].decode(errors="ignore").strip("-._")  # file systems count bytes
        return f"{short or 'unit'}-{self.identity[:12]}"


@dataclass(frozen=True)
class AskedSweep:
    """What is swept.

    Attributes:
        units: every analysis, those of one checkpoint and revision one after another.
        roles: role → checkpoints, for a comparison at the end.
    """

    units: tuple[Unit, ...]
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def swept(self) -> list[str]:
        """The fields of which there is more than one value."""
        return [name for name in SWEPT.values() if len({getattr(unit, name) for unit in self.units}) > 1]

    def groups(self) -> Iterator[list[Unit]]:
        """Units that share their weights, which are loaded once for them."""
        found: dict[tuple[str, str | None], list[Unit]] = {}
        for unit in self.units:
            found.setdefault((unit.checkpoint, unit.revision), []).append(unit)
        yield from found.values()


def read_sweep(path: str | Path) -> AskedSweep:
    """A sweep from its file.

    Raises:
        InputError: in one line, for a file that cannot be read, a key that there is not, and values of other types.
    """
    said = f"the sweep {shown(str(path))}"
    told = _read(EXAMPLE if str(path) == EXAMPLE.stem and not is_there(Path(path)) else Path(path), said)
    unknown = [key for key in told if key not in {*SWEPT, "roles", *OPTIONS}]
    if unknown:
        key = unknown[0]
        if key in LETS_CODE_RUN:
            raise InputError(f"{said} gives {shown(key)}, but no file lets code run; give it on the command line")
        known = [*SWEPT, "roles", *sorted(OPTIONS)]
        raise InputError(f"{said} gives {shown(key)}{near(str(key), known)}; there are {', '.join(known)}")
    lists = {key: _strings(told.get(key), f"{said}: {key}") for key in SWEPT}
    if not lists["checkpoints"]:
        raise InputError(f"{said} names no checkpoints; give at least one under `checkpoints`")
    options = {key: told[key] for key in told if key in OPTIONS}
    units = _units(lists, options, said)
    roles = _roles(told.get("roles"), lists["checkpoints"], said)
    return AskedSweep(units, roles)


def _read(path: Path, said: str) -> dict[str, Any]:
    import yaml  # start-up time

    try:
        size = size_of(path)
        if size > LARGEST_SWEEP:
            raise InputError(f"{said} has {size:,} bytes; at most {LARGEST_SWEEP:,} are read")
        text = path.read_bytes().decode("utf-8-sig")
        told, written = (yaml.load(text, loader) for loader in _loaders(said))  # safe ones
    except OSError as error:
        raise InputError(f"{said} cannot be read: {error.strerror}; name a YAML file") from None
    except InputError:
        raise
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{said} is no YAML: {why}") from None
    if not isinstance(told, dict):
        raise InputError(f"{said} holds no keys; write `checkpoints:` and a list of them")
    # A revision 1.10 or an order 0:4 is the text that stands there, no number.
    return {str(key): written[str(key)] if str(key) in (*SWEPT, "roles") else value for key, value in told.items()}


def _loaders(said: str) -> tuple[Any, Any]:
    """YAML for options, and for what stays as it is written: safe, each key once, numbers as everybody writes them.

    Without aliases, by which a few lines can stand for more than any memory holds.
    """
    import yaml  # start-up time

    class Plain:
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):  # type: ignore[attr-defined]
                raise InputError(f"{said} refers to another place by *; write every value out")
            return super().compose_node(parent, index)  # type: ignore[misc]

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise InputError(f"{said} gives {shown(twice)} twice")
            return super().construct_mapping(node, deep)  # type: ignore[misc]

    class Options(Plain, yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    for tag, pattern, first in _SCALARS:
        Options.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))

    class Written(Plain, yaml.BaseLoader):
        pass

    return Options, Written


_SCALARS = (
    ("bool", r"^(?:true|True|false|False)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]{0,30})$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]{1,30}\.[0-9]{0,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?[eE][-+]?[0-9]{1,3})$", "-+0123456789"),
    ("null", r"^(?:~|null|Null|)$", ["~", "n", "N", ""]),
)
"""What is no text: YAML 1.1 would take 4:8 for a number of base 60, and 010 for 8."""


def _strings(value: Any, said: str) -> list[str]:
    """A list of text or numbers, as text; one alone is a list of one."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)) or str(one).strip() == "":
            raise InputError(f"{said} holds {shown(one)}; it is a list of text")
    found = list(dict.fromkeys(map(str, values)))
    if len(found) < len(values):
        raise InputError(f"{said} names {shown(next(v for v in found if list(map(str, values)).count(v) > 1))} twice")
    return found


def _units(lists: Mapping[str, Sequence[str]], options: Mapping[str, Any], said: str) -> tuple[Unit, ...]:
    patterns = [one for one in lists["checkpoints"] if REVISION in one]
    if patterns and not lists["revisions"]:
        raise InputError(f"{said}: {shown(patterns[0])} stands for a revision; give `revisions`")
    rest: list[list[str | None]] = [[*lists[key]] or [None] for key in ("revisions", "orders", "prompts", "presets")]
    count = len(lists["checkpoints"]) * math.prod(map(len, rest))
    if count > MOST_UNITS:
        raise InputError(f"{said} comes to {count:,} analyses; at most {MOST_UNITS:,} are made by one")
    return tuple(
        Unit(name, revision, order, prompts, preset, options)
        for name in lists["checkpoints"]
        for revision, order, prompts, preset in product(*rest)
    )


def _roles(value: Any, checkpoints: Sequence[str], said: str) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{said}: roles is {type(value).__name__}; write each role with a list of checkpoints")
    found = {str(role): tuple(_strings(names, f"{said}: roles: {role}")) for role, names in value.items()}
    unknown = [role for role in found if role not in ROLES]
    if unknown:
        raise InputError(
            f"{said}: roles has {shown(unknown[0])}{near(unknown[0], ROLES)}; there are {', '.join(ROLES)}"
        )
    several = [name for names in found.values() for name in names]
    twice = next((name for name in several if several.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{said}: roles name {shown(twice)} more than once; a checkpoint has one role")
    strangers = [name for names in found.values() for name in names if name not in checkpoints]
    if strangers:
        raise InputError(
            f"{said}: roles name {shown(strangers[0])}{near(strangers[0], checkpoints)}, which is not swept"
        )
    return found
