"""Where a result comes from: the versions that its numbers depend on, and how it can be made again."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

RECORDED_LENSES = ("lens", "jacobian_lens")
"""Where ``signature.json`` keeps what it was measured with, the tuned and the Jacobian lens."""
PACKAGES = ("depthsig", "torch", "transformers", "transformer-lens", "numpy", "pandas", "scipy")
TABLES_ONLY = ("depthsig", "numpy", "pandas", "scipy")
"""The packages that matter where no model is run."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of ``packages``; what is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def source_digest() -> str:
    """Of depthsig's own source files, as they were when it was first asked for: a version does not tell edits."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")) + sorted(package.rglob("*.toml")):
        digest.update(f"{path.relative_to(package).as_posix()} ".encode() + path.read_bytes())
    return digest.hexdigest()


class Again(NamedTuple):
    """The command that makes a result again, or why there is none."""

    command: str
    note: str


def again(info: Mapping[str, Any]) -> Again:
    """How a signature is made again, from its record.

    Loading options, trust flags, the revision and a user's own files are part of the command: nothing
    that is recorded makes code run by itself.
    """
    given = info.get("given")
    if not isinstance(given, Mapping):
        return Again(_before_0_2(info), "(made before options of loading were recorded: they may be missing here)")
    why = _why_not(info, given)
    if why:
        return Again("", f"There is no command: {why}.")
    if given["prompts"]["objects"] or (info.get("calibration") or {}).get("objects"):
        flags = [f"--{name.replace('_', '-')}" for name in _TRUST if (given.get("loading") or {}).get(name)]
        files = [piece for plugin in given.get("plugins") or () for piece in ("--plugin", str(plugin["path"]))]
        return Again(
            shlex.join(["depthsig", "rerun", ".", *flags, *files]), "(in the results folder, which keeps them)"
        )
    left = ("order", "loop", "grown", "iterations", "asked")  # of the plan, and in short what the others came to
    asked = {k: v for k, v in info["options"].items() if k not in left}
    if asked.get("n") is None:
        asked["n"] = given["prompts"]["count"]
    options = {**(given.get("plan") or {}), **asked, **(given.get("loading") or {})}
    plugins = [piece for plugin in given.get("plugins") or () for piece in ("--plugin", str(plugin["path"]))]
    return Again(shlex.join(["depthsig", "analyze", str(given["source"]), *_options(options), *plugins]), "")


def _why_not(info: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Why no command makes a result again; empty where one does."""
    if not given.get("source"):
        return str(given.get("why") or "what was analysed is not known")
    kept = given["prompts"].get("kept")
    if given["prompts"]["objects"] and not kept:
        return "the prompts were given as objects"
    if any(info.get(name) and not info[name].get("path") for name in RECORDED_LENSES):
        return "the lens was given as an object"
    if (info.get("calibration") or {}).get("objects") and not kept:
        return "the calibration prompts were given as objects"
    if given.get("declared"):
        return f"{', '.join(given['declared'])} was declared in Python, not in a file for --plugin"
    noise = info.get("random_state")
    if noise and noise.get("seed") != info.get("seed"):
        return f"its random state has another seed ({noise.get('seed')}) than the analysis ({info.get('seed')})"
    return ""


_TRUST = ("trust_remote_code", "allow_pickle")
_ON_BY_DEFAULT = {"device": "auto", "shots": 0}


def _options(options: Mapping[str, Any]) -> list[str]:
    pieces: list[str] = []
    for name, value in options.items():
        if name == "control":
            pieces += [] if value is None else ["--control" if value else "--no-control"]
            continue
        if value is None or value is False or _ON_BY_DEFAULT.get(name) == value:
            continue
        option = "-n" if name == "n" else "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            value = ",".join(f"{k}={v}" for k, v in value.items())
        if name == "lens" and isinstance(value, list):
            pieces += [piece for one in value for piece in (option, str(one))]
            continue
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        pieces += [option] if value is True else [option, shown]
    return pieces


def _before_0_2(info: Mapping[str, Any]) -> str:
    return shlex.join(["depthsig", "analyze", str(info["checkpoint"].get("id")), *_options(info.get("options", {}))])
