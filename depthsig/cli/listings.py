"""``depthsig models``, ``prompts``, ``presets`` and ``metrics``: what there is."""

from __future__ import annotations

import shlex

import typer

from depthsig.cli import shared as opt


def models(json: opt.Json = False) -> None:
    """List the checkpoints that are installed (name, arm, layers, steps, parameters), and how to get the others."""
    from depthsig.plan.describe import describe_checkpoint  # start-up time
    from depthsig.prompts.shipped import missing_checkpoints, shipped_checkpoints  # start-up time

    found = {name: describe_checkpoint(path) for name, path in shipped_checkpoints().items()}
    if json:
        opt.print_json(found)
        return
    for name, about in found.items():
        typer.echo(
            f"{name:<{max(map(len, found))}}  {about['arm']:<8}  {about['layers']:>2} layers  "
            f"{about['steps']:>2} steps  {about['parameters'] / 1e6:.2f} M parameters"
        )
    if missing := missing_checkpoints():
        typer.echo(f"{', '.join(missing)}: pip install 'depthsig[family]'")


def prompts(json: opt.Json = False) -> None:
    """List the built-in prompts."""
    from depthsig.prompts import BUILTIN  # start-up time

    _print({name: str(text) for name, text in BUILTIN.items()}, json)


def presets(json: opt.Json = False) -> None:
    """List the settings of papers, for `analyze --preset`: what each sets, and what it leaves open."""
    from depthsig.commands.presets import presets as known  # start-up time

    if json:
        opt.print_json([preset.record() for preset in known().values()])
        return
    for preset in known().values():
        typer.echo(f"{preset.name}  ({preset.paper})")
        typer.echo(f"    {shlex.join(preset.written())}")
        typer.echo(f"    {preset.about}")


def metrics(plugin: opt.Plugin = None, json: opt.Json = False) -> None:
    """List every metric with its groups, definition and source."""
    from depthsig.metrics import all_metrics  # start-up time
    from depthsig.metrics.entries.plugins import import_plugins  # start-up time

    import_plugins(plugin or ())
    if json:
        opt.print_json([m.record() for m in all_metrics().values()])
        return
    for entry in all_metrics().values():
        where = f"{entry.kind}{' over ' + entry.axis if entry.axis else ''}, on {entry.on}"
        unit = f" [{entry.unit}]" if entry.unit else ""
        typer.echo(f"{entry.id}  ({where}; --metrics {'|'.join(entry.groups)})")
        typer.echo(f"    {entry.label}{unit}: {entry.formula}")
        typer.echo(f"    {entry.source}")


def _print(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        opt.print_json(found)
        return
    width = max(map(len, found), default=0)
    for name, text in found.items():
        typer.echo(f"{name:<{width}}  {text}")
