"""A command of the command line: its help in groups, its examples, its config file, its JSON."""

from __future__ import annotations

import typing
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from depthsig.cli.options.examples import EXAMPLES, example
from depthsig.cli.options.printing import json_alone
from depthsig.errors import InputError

WHAT, HOW, WHERE, OUTPUT = "What", "How", "Where", "Output"
"""Groups of options, in the order of the help: what is measured of what, how it goes about it, on which machine
from which weights, and what comes out."""

_SETTLED = "depthsig.settled"


class MissingArgument(InputError):
    """A command was not given what it is about; how it is used is shown as well.

    Attributes:
        ctx: of the command, once it is known.
    """

    ctx: Any = None


class Command(TyperCommand):
    """One command; its options say by ``rich_help_panel`` which group they belong to."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options into the help, by group."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", WHAT, HOW, WHERE, OUTPUT)}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                panel = getattr(one, "rich_help_panel", None) or OUTPUT
                groups["Arguments" if one.param_type_name == "argument" else str(panel)].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line of its own, whole, so that it can be copied."""
        lines = EXAMPLES.get(str(self.name), ())
        if lines:
            with formatter.section("Examples" if len(lines) > 1 else "Example"):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the library does, but that folders may come from a config file in every version of it."""
        rest = super().parse_args(ctx, args)
        for one in self.params:
            if one.param_type_name == "argument" and not ctx.params.get(one.name):
                ctx.params[one.name] = (ctx.default_map or {}).get(one.name, ctx.params.get(one.name))
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run it; results that it writes hold its options, and where JSON is wanted nothing else is printed."""
        with json_alone(bool(ctx.params.get("json"))), self._recorded(ctx):
            try:
                return super().invoke(ctx)
            except MissingArgument as error:
                error.ctx = ctx
                raise

    def _recorded(self, ctx: Any) -> AbstractContextManager[None]:
        if not any(one.name == "out" for one in self.params):
            return nullcontext()
        from depthsig.cli.options.run_files import run_file  # start-up time
        from depthsig.signature.folders.beside import beside  # start-up time
        from depthsig.signature.folders.kinds import RUN  # start-up time

        return beside({RUN: lambda: run_file(str(self.name), given(ctx))})


def configured(ctx: typer.Context, value: Path | None) -> Path | None:
    """Take the options of a file for those that are not given; the callback of ``--config``."""
    from depthsig.cli.options.run_files import read_config  # start-up time

    if value is not None and not ctx.resilient_parsing:
        ctx.default_map = read_config(value, ctx.command.params, typing.cast(Any, ctx.command.callback))
    return value


def settle(ctx: typer.Context, options: dict[str, Any]) -> None:
    """What options came to that a run chose by itself, by key; None for one that is then not needed any more."""
    ctx.meta[_SETTLED] = options


def given(ctx: Any) -> dict[str, Any]:
    """The options that a command was given, on its line or in a file, by key."""
    from depthsig.cli.options.run_files import keys  # start-up time

    found = {}
    for key, one in keys(ctx.command.params).items():
        source, value = ctx.get_parameter_source(one.name), ctx.params.get(one.name)
        if (source is not None and source.name != "DEFAULT") or (one.param_type_name == "argument" and value):
            found[key] = value
    return {**found, **ctx.meta.get(_SETTLED, {})}


def usage_of(error: Any) -> list[str]:
    """How the command is used whose argument is missing, and an example; nothing where it is not known."""
    ctx = getattr(error, "ctx", None)
    if ctx is None:
        return []
    usage = " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])
    shown = example(str(ctx.command.name))
    return [f"usage: {usage}", *([f"example: {shown}"] if shown else [])]
