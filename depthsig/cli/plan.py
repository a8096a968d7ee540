"""``depthsig plan``: which layer runs when."""

from __future__ import annotations

import typer

from depthsig.cli import shared as opt


def plan(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    loop: opt.Loop = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    stream: opt.Stream = False,
    config: opt.Config = None,
    json: opt.Json = False,
) -> None:
    """Trace one forward and print its steps as a table."""
    options = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)
    opt.refuse_early(checkpoint, options, order, loop, grown, iterations)
    from depthsig.model import load  # start-up time

    with opt.plain_warnings():
        model = load(
            checkpoint, order=order, loop=loop, grown=grown, iterations=iterations, dtype=dtype, device=device,
            device_map=device_map, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
            stream=stream,
        )  # fmt: skip
    if json:
        told = {"checkpoint": model.checkpoint.name, "costs": model.costs.record(), "plan": model.plan.records()}
        opt.print_json(told)
        return
    typer.echo(str(model))
    typer.echo(str(model.costs))
    for note in model.plan.notes:
        typer.echo(note)
    typer.echo(model.plan.frame().to_string(index=False, na_rep=""))
