"""The ``depthsig`` command. Heavy imports wait until a command really runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from depthsig import __version__
from depthsig.cli import analyze, check, compare, export, find_blocks, fit_lens, listings, plan, repeat, report
from depthsig.errors import DepthsigError

app = typer.Typer(
    name="depthsig",
    help="Measure how a language model uses its depth: lens, contributions, signatures.",
    no_args_is_help=True,
    epilog="`--debug` with any command shows where an error came from.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("analyze")(analyze.analyze)
app.command("plan")(plan.plan)
app.command("find-blocks")(find_blocks.find_blocks)
app.command("check")(check.check)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("repeat")(repeat.repeat)
app.command("fit-lens")(fit_lens.fit_lens)
app.command("models")(listings.models)
app.command("prompts")(listings.prompts)
app.command("metrics")(listings.metrics)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"depthsig {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        result = app(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One line on standard error, and the exit code that goes with it."""
    import click  # start-up time

    if isinstance(error, (click.exceptions.Abort,)):
        _say("interrupted")
        return 130
    if isinstance(error, click.ClickException) or hasattr(error, "format_message"):
        _say(error.format_message())  # type: ignore[attr-defined]
        return getattr(error, "exit_code", 2)
    if isinstance(error, DepthsigError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _say("out of memory; a smaller --memory, --batch-size or --max-tokens needs less")
        return 1
    _say(f"unexpected {type(error).__name__}: {error}; --debug shows where")
    return 1


def _say(message: str) -> None:
    line = " ".join(str(message).split())
    print(f"depthsig: {line}", file=sys.stderr)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
