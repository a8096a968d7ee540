"""Cost of a Jacobian lens on SmolLM2-135M: one prompt of 128 tokens, a few backward passes of it.

    python tests/benchmarks/jacobian.py [CHECKPOINT] [--tokens 128] [--passes 2] [--rounds 3]

The floor is the arithmetic alone: a gradient towards states needs one matmul for each matmul of the forward,
so 2 FLOPs a parameter of the layers, a token and a cotangent, at the rate that this machine's own matmuls of
that size reach. Prints seconds a cotangent, the ratio to the floor, and the ratio to a plain implementation on
the same model: hooks, 8 rows, as in the reference, which has the same arithmetic to do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from clean_run import smollm2

import depthsig
from depthsig.engine.gradients.differentiable import differentiable_run
from depthsig.engine.gradients.jacobian_sums import JacobianSums, Room, targets_of
from depthsig.engine.memory import parse_memory
from depthsig.model import Model

PLAIN_ROWS = 8


def matmul_rate(width: int, inner: int, tokens: int) -> float:
    """FLOPs a second of matmuls as a layer's largest, by the median of ten."""
    a, b = torch.randn(tokens, inner), torch.randn(inner, width)
    seconds = []
    for _ in range(10):
        started = time.process_time()
        a @ b
        seconds.append(time.process_time() - started)
    return 2.0 * tokens * inner * width / statistics.median(seconds)


def ours(model: Model, ids: list[int], rows: int, passes: int) -> float:
    """Seconds of some backward passes with all that belongs to them, the forward left out."""
    depths = range(len(model.plan))
    sums = JacobianSums(model, targets_of(model.plan, "end"), depths, 16)
    prompt = torch.tensor([ids]).expand(rows, -1)
    last = len(model.plan) - 1
    with differentiable_run(model, prompt, [last]) as run:
        started = time.process_time()
        for number in range(passes):
            sums._add_rows(run, last, list(depths), range(number * rows, (number + 1) * rows))
        return time.process_time() - started


def plain(module: nn.Module, layers: nn.ModuleList, ids: list[int], passes: int) -> float:
    """The same by hooks and ``torch.autograd.grad``, a gradient of every block's output at once."""
    outputs: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if not outputs:
            output = output.detach().requires_grad_()
        outputs.append(output)
        return output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    module.requires_grad_(False)
    module.model(torch.tensor([ids]).expand(PLAIN_ROWS, -1), use_cache=False)
    for handle in handles:
        handle.remove()
    towards = torch.zeros_like(outputs[-1])
    started = time.process_time()
    for number in range(passes):
        towards.zero_()
        for row in range(PLAIN_ROWS):
            towards[row, 16:-1, number * PLAIN_ROWS + row] = 1.0
        found = torch.autograd.grad(outputs[-1], outputs[:-1], towards, retain_graph=True)
        for gradient in found:
            gradient[:, 16:-1].mean(1)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", help="rows to try; default: what is chosen by --memory")
    parser.add_argument("--memory", default="4GiB")
    asked = parser.parse_args()
    model = depthsig.load(asked.checkpoint or smollm2(), progress=False)
    ids = np.random.default_rng(0).integers(100, model.readout.vocab - 100, size=asked.tokens).tolist()
    depths = range(len(model.plan))
    room = Room.of(model, ids, targets_of(model.plan, "end"), depths, parse_memory(asked.memory) // 2)
    chosen = room.rows(asked.tokens)
    weights = sum(p.numel() for layer in model.anatomy.layers for p in layer.module.parameters() if p.ndim == 2)
    layers = model.module.get_submodule(model.anatomy.layers[0].path.rpartition(".")[0])

    def median(call: Callable[[], float], cotangents: int) -> float:
        return statistics.median(call() for _ in range(asked.rounds)) / cotangents

    for rows in asked.rows or [chosen]:
        rate = matmul_rate(model.trace.width, 4 * model.trace.width, rows * asked.tokens)
        floor = 2.0 * weights * asked.tokens / rate
        own = median(lambda rows=rows: ours(model, ids, rows, asked.passes), rows * asked.passes)
        print(f"{rows} rows: {own * 1e3:.1f} ms a cotangent, {own / floor:.2f} times the floor "
              f"({floor * 1e3:.1f} ms at {rate / 1e9:.0f} GFLOP/s)")  # fmt: skip
    naive = median(lambda: plain(model.module, layers, ids, asked.passes), PLAIN_ROWS * asked.passes)
    prompt = own * model.trace.width
    print(f"plain, {PLAIN_ROWS} rows: {naive * 1e3:.1f} ms a cotangent, ours / plain {own / naive:.2f}")
    print(f"a prompt of {asked.tokens} tokens, {model.trace.width} cotangents: {prompt / 60:.1f} min")


if __name__ == "__main__":
    main()
