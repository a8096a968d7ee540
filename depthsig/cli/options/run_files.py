"""Options of a command as a TOML file: read for ``--config``, and written beside every result as ``run.toml``.

The keys are the names of the command line without their dashes (``max-tokens``, ``n``), arguments in small letters
(``checkpoint``). What lets code run is neither read nor written: whoever starts a command says so himself.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from depthsig.errors import InputError, near, shown
from depthsig.untrusted import is_there, size_of

LARGEST_CONFIG = 1 << 16
"""Bytes of a config file: every option of every command takes a tenth of it."""

RUNS_CODE = ("trust-remote-code", "allow-pickle", "plugin")
_OF_THIS_RUN = ("out", "json", "open", "no-progress", "dry-run", "resume", "recheck")
"""Where a result goes and how its making is shown; another run of the same says that for itself."""


class Parameter(Protocol):
    """What is needed of a parameter of the command line's library."""

    name: str | None
    opts: list[str]
    metavar: str | None
    param_type_name: str


def keys(parameters: Sequence[Any]) -> dict[str, Parameter]:
    """A command's parameters by their keys in a file; ``--config`` and ``--help`` are none."""
    return {key_of(one): one for one in parameters if one.name not in ("config", "help")}


def key_of(parameter: Parameter) -> str:
    """A parameter's key in a file."""
    if parameter.param_type_name == "argument":
        return (parameter.metavar or str(parameter.name)).lower().strip("{}[]. ")
    return max(parameter.opts, key=len).lstrip("-")


def read_config(path: Path, parameters: Sequence[Any], command: Callable[..., Any]) -> dict[str, Any]:
    """The options that a file gives a command, by their names in Python and as the command line would give them.

    Raises:
        InputError: in one line, for a file that cannot be read, a key that the command does not have, a value of the
            wrong type, and for what lets code run.
    """
    said, known, hints = f"--config {shown(str(path))}", keys(parameters), typing.get_type_hints(command)
    found: dict[str, Any] = {}
    for key, value in _read(path, said).items():
        meant = key.lower().replace("_", "-").strip("- ")
        if meant in RUNS_CODE:
            raise InputError(
                f"{said} gives {shown(key)}, but nothing recorded lets code run; give --{meant} on the command line"
            )
        if key not in known:
            there = [one for one in known if one not in RUNS_CODE]
            raise InputError(f"{said} gives {shown(key)}{near(key, there)}; there are {', '.join(there)}")
        name = str(known[key].name)
        found[name] = _as_given(value, hints[name], f"{said}: {key}")
    return found


def _read(path: Path, said: str) -> dict[str, Any]:
    import tomllib  # start-up time

    try:
        size = size_of(path)
        if size > LARGEST_CONFIG:
            raise InputError(f"{said} has {size:,} bytes; at most {LARGEST_CONFIG:,} can be meant")
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{said} cannot be read: {error.strerror}; name a TOML file") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{said} is no TOML: {why}; write for example max-tokens = 64") from None


def _as_given(value: Any, hint: Any, said: str) -> Any:
    """A value as the command line would give it, if it is of the option's type."""
    if _is(hint, bool):
        if isinstance(value, bool):
            return value
        raise InputError(f"{said} is {_kind(value)}; write true or false")
    if _is(hint, list):
        if isinstance(value, str):
            return [value]  # one alone, as the command line has it
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        raise InputError(f'{said} is {_kind(value)}; write a list of text, as ["a", "b"]')
    if _is(hint, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise InputError(f"{said} is {_kind(value)}; write a whole number")
    if _is(hint, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        raise InputError(f"{said} is {_kind(value)}; write a number")
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f'{said} is {_kind(value)}; write text, as on the command line ("lens,skip")')


def _is(hint: Any, kind: type) -> bool:
    """Whether a type hint is of a kind, or of that or None."""
    options = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    return any(kind in (one, typing.get_origin(one)) for one in options)


def _kind(value: Any) -> str:
    """A value's type in the words of TOML, with the value where that is short."""
    words = {bool: "a truth value", int: "a whole number", float: "a number", str: "text", list: "a list"}
    word = words.get(type(value), "a table" if isinstance(value, dict) else "a date or time")
    return word if isinstance(value, (list, dict)) else f"{word} ({shown(value, most=40)})"


def run_file(command: str, given: Mapping[str, Any]) -> str:
    """The text of ``run.toml``.

    Args:
        given: values of the options that were given, by key; paths among them are made absolute, so that the file
            means the same from every folder.
    """
    lines = [
        f"# depthsig {command} --config run.toml does the same again; --out says where it goes.",
        "# What lets code run (--trust-remote-code, --allow-pickle, --plugin) is given on the command line alone.",
    ]
    for key, value in given.items():
        if key not in RUNS_CODE and key not in _OF_THIS_RUN and value is not None:
            lines.append(f"{key} = {_toml(_from_anywhere(key, value))}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML has the escapes of JSON, and wants one more character escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _from_anywhere(key: str, value: Any) -> Any:
    if key == "checkpoint":
        return _absolute(value)
    if key in ("prompts", "calibration"):
        return _no_name(value)
    if key == "task":
        pieces = [_no_name(piece) for piece in value.split(",")]
        return value if any("," in piece for piece in pieces) else ",".join(pieces)
    if key in ("dir", "lens"):
        return [_absolute(one) for one in value]
    if key == "roles":
        from depthsig.comparison.roles import folders  # start-up time
        from depthsig.replication.members import split_roles  # start-up time: its roles are the others' and more

        said = {role: "+".join(map(_who, folders(text))) for role, text in split_roles(value).items()}
        return ",".join(f"{role}={text}" for role, text in said.items())
    return value


def _no_name(value: str) -> str:
    """Built-in prompts win over a file of their name."""
    from depthsig.prompts import BUILTIN  # start-up time

    return value if value in BUILTIN else _absolute(value)


def _who(value: str) -> str:
    """A network's folder, with what is declared of its plan in brackets behind it, if anything is."""
    folder, bracket, plan = value.partition("[")
    return _absolute(value) if is_there(value) else _absolute(folder) + bracket + plan


def _absolute(value: str | Path) -> str:
    """A path that is there from every folder; as it was given where the current folder's name is no text."""
    whole = str(Path(value).absolute()) if is_there(value) else str(value)
    return whole if whole.encode(errors="ignore").decode() == whole else str(value)
