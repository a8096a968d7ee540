"""Time of a piece of work on a device, the least that its arithmetic needs there, and where that is."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 5


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock, and of all threads on the CPU; a shared machine stretches only the first."""

    wall: float
    cpu: float


def taken(work: Callable[[], Any], device: torch.device) -> Taken:
    """What one call takes, until the device is done."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Floor:
    """The arithmetic that cannot be avoided: bare matmuls with a layer's weights and the head's, timed here.

    Attention scores, norms, and everything that metrics compute are left out, so nothing can reach it.

    Attributes:
        layer, head: seconds a token.
    """

    def __init__(self, module: nn.Module, layer_rows: int, head_rows: int) -> None:
        weights = [m.weight for m in module.model.layers[0].modules() if isinstance(m, nn.Linear)]
        self.layer = sum(_matmul(weight, layer_rows) for weight in weights)
        self.head = _matmul(module.lm_head.weight, head_rows)

    def seconds(self, layer_tokens: float, readouts: float) -> float:
        """For so many tokens through one layer each, and so many through the head."""
        return layer_tokens * self.layer + readouts * self.head


def _matmul(weight: Tensor, rows: int) -> float:
    """Seconds a row, many rows at once, into memory that is there."""
    weight = weight.detach().t()
    given = torch.randn(rows, weight.shape[0], device=weight.device, dtype=weight.dtype)
    out = torch.empty(rows, weight.shape[1], device=weight.device, dtype=weight.dtype)
    # Several at a time on a GPU, so that what is timed is the device and not the call.
    calls = 20 if weight.is_cuda else 1

    def work() -> None:
        for _ in range(calls):
            torch.mm(given, weight, out=out)

    work()
    # CPU seconds, where a neighbour on the machine cannot stretch them.
    times = [taken(work, weight.device) for _ in range(ROUNDS)]
    return statistics.median(t.wall if weight.is_cuda else t.cpu for t in times) / (calls * rows)


def machine(device: torch.device) -> str:
    """The card or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def versions(*packages: str) -> str:
    """``name version`` of each package that is installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)
