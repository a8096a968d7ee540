"""``depthsig check``: the certificates alone."""

from __future__ import annotations

import typer

from depthsig.cli import shared as opt


def check(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    loop: opt.Loop = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: opt.Count = 20,
    max_tokens: opt.MaxTokens = 256,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    stream: opt.Stream = False,
    config: opt.Config = None,
    json: opt.Json = False,
) -> int:
    """Prove that this model is measured exactly, and print the proofs."""
    from depthsig.measure.request import Request  # start-up time

    Request(n=n, max_tokens=max_tokens, seed=seed)
    load = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)
    opt.refuse_early(checkpoint, load, order, loop, grown, iterations, prompts=prompts, n=n, seed=seed)
    from depthsig.commands.check import check as run  # start-up time

    with opt.plain_warnings():
        certificates = run(
            checkpoint, prompts, order=order, loop=loop, grown=grown, iterations=iterations, n=n, max_tokens=max_tokens,
            seed=seed, dtype=dtype, device=device, device_map=device_map, revision=revision,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, stream=stream,
        )  # fmt: skip
    if json:
        opt.print_json({"certificates": [c.record() for c in certificates]})
    else:
        for c in certificates:
            verdict = "pass" if c.passed else "FAIL"
            typer.echo(f"{verdict}  {c.name:<9} {c.value:.3g} (tolerated {c.tolerance:.3g})")
    return 0 if all(c.passed for c in certificates) else 3
