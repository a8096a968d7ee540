"""The ``depthsig`` command. Heavy imports wait until a command really runs."""

from __future__ import annotations

import _thread
import codecs
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any, get_type_hints

import typer

from depthsig import __version__
from depthsig.cli import (
    analyze,
    cache,
    check,
    export,
    find_blocks,
    fit_lens,
    listings,
    plan,
    repeat,
    replicate,
    rerun,
    sweep,
)
from depthsig.cli.exports import card, log
from depthsig.cli.loops import stability
from depthsig.cli.options.command import Command, usage_of
from depthsig.cli.saved import compare, figures, report
from depthsig.errors import DepthsigError, InputError, visible

app = typer.Typer(
    name="depthsig",
    help="Measure how a language model uses its depth: lens, contributions, signatures.",
    epilog="`--debug` with any command shows where an error came from.",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COMMANDS: dict[str, Callable[..., Any]] = {
    "analyze": analyze.analyze,
    "plan": plan.plan,
    "find-blocks": find_blocks.find_blocks,
    "check": check.check,
    "compare": compare.compare,
    "report": report.report,
    "figures": figures.figures,
    "export": export.export,
    "repeat": repeat.repeat,
    "replicate": replicate.replicate,
    "rerun": rerun.rerun,
    "stability": stability.stability,
    "sweep": sweep.sweep,
    "fit-lens": fit_lens.fit_lens,
    "models": listings.models,
    "prompts": listings.prompts,
    "presets": listings.presets,
    "metrics": listings.metrics,
    "cache": cache.cache,
    "card": card.card,
    "log": log.log,
}
for _name, _run in _COMMANDS.items():
    # Evaluated here once, where typer would evaluate their text four times over.
    _run.__annotations__ = get_type_hints(_run, include_extras=True)
    app.command(_name, cls=Command)(_run)

INTERRUPTED = 130
"""The exit code after Ctrl-C, by convention."""


def _version(show: bool) -> None:
    if show:
        typer.echo(f"depthsig {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> int:
    _check_folder()
    if ctx.invoked_subcommand is not None:
        return 0
    typer.echo(ctx.get_help())
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        _check_text(arguments)
        with _interrupts_heard():
            result = app(args=arguments, prog_name="depthsig", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return _interrupted() if result == INTERRUPTED else result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as ended:
        # The command line's library leaves in this way where nobody reads what is printed, and in no other.
        return 0 if isinstance(ended.__context__, BrokenPipeError) else int(ended.code or 0)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """Raise an interrupt again that arrived where Python drops what is raised: in a finaliser, or within an import."""
    before = sys.unraisablehook

    def again(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_interrupt_soon, ())  # from here it would be dropped as well
        else:
            before(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_soon() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


def _interrupted() -> int:
    """Say so, and what is kept."""
    folders = sys.modules.get("depthsig.signature.folders.writing")  # not there where nothing was begun
    kept = ", ".join(map(str, folders.kept())) if folders is not None else ""
    _say("interrupted" + (f"; finished pieces are kept in {kept}: the same command with --resume" if kept else ""))
    return INTERRUPTED


def _take_any_encoding() -> None:
    """What goes to an output that is not UTF-8 (cp1252 where Windows redirects one) is ASCII, the rest as numbers.

    Nothing then fails for a character that the encoding lacks, and whoever reads what was redirected may take it for
    UTF-8 or for the console's encoding: ASCII is both.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="backslashreplace")
        if not codecs.lookup(stream.encoding).name.startswith("utf"):
            stream.write = partial(_write_ascii, stream.write)  # type: ignore[method-assign]


def _write_ascii(write: Callable[[str], int], text: str) -> int:
    write(text.encode("ascii", "backslashreplace").decode())
    return len(text)


def _check_folder() -> None:
    """Refuse to work in a folder that was removed: libraries that models run on (MKL) end the process there.

    Raises:
        InputError: saying so.
    """
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes long to import
    except FileNotFoundError:
        raise InputError("the current folder was removed; change into one that exists") from None


def _check_text(arguments: list[str]) -> None:
    """Refuse arguments that are no text: no record, page or message could hold them."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{argument!r} is no text in this system's encoding; rename what it names") from None


def _explain(error: Exception) -> int:
    """One line on standard error, and the exit code that goes with it."""
    if type(error).__name__ == "Abort":
        return _interrupted()
    if hasattr(error, "format_message"):  # of the command line's library
        _say(error.format_message())
        if type(error).__name__ == "MissingParameter":
            _say_lines(usage_of(error))
        return getattr(error, "exit_code", 2)
    if isinstance(error, DepthsigError):
        _say(str(error))
        _say_lines(usage_of(error))
        return error.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _say("out of memory; a smaller --memory, --batch-size or --max-tokens needs less")
        return 1
    if isinstance(error, OSError) and error.strerror:
        about = f"{str(error.filename)!r}: " if error.filename is not None else ""
        _say(f"{about}{error.strerror}")
        return 1
    _say(f"unexpected {type(error).__name__}: {error}; --debug shows where")
    return 1


def _say(message: str) -> None:
    line = visible(" ".join(str(message).split()))
    with suppress(OSError):  # where nobody reads this either
        print(f"depthsig: {line}", file=sys.stderr)


def _say_lines(lines: list[str]) -> None:
    with suppress(OSError):
        print(*(f"{line}\n" for line in lines), sep="", end="", file=sys.stderr)


def run() -> None:
    """Entry point of the console script."""
    _take_any_encoding()
    code = main()
    try:
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        # Nobody reads it (`| head`) or the disk is full, which was said: Python must not say it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


if __name__ == "__main__":
    run()
