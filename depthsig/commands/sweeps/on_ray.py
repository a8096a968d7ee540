"""A sweep on Ray: a worker for each checkpoint, several where there are more workers than checkpoints.

A worker keeps a checkpoint's weights. Several of one checkpoint share a unit's batches, and the first puts the pieces
together: the same batches with the same sums, so that the numbers are those of one process. Workers that die are
started again by Ray, and what they did is done again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from depthsig.commands.sweeps.beforehand import Trust
from depthsig.commands.sweeps.here import Result
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.commands.sweeps.worker import Failed, Worker
from depthsig.commands.sweeps.worker_needs import need_of
from depthsig.errors import InputError, shown

AGAIN = 3
"""So often a worker that died is started again."""
LOCAL = "local"
_STORE = 256 << 20
"""Bytes of Ray's store of results on one machine: tables are small."""


def import_ray() -> Any:
    """The package.

    Raises:
        InputError: where it is not installed, with how to get it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out
    try:
        import ray  # start-up time, and an extra
    except ImportError:
        raise InputError("--ray needs the package ray, which is not installed: pip install 'depthsig[ray]'") from None
    return ray


def run_on_ray(
    groups: Sequence[Sequence[Unit]], trust: Trust, address: str, workers: int | None = None
) -> Iterator[Result]:
    """Every unit's signature, or why it has none, as they are finished.

    Args:
        address: ``local``, or of a cluster that runs (``auto``, ``ray://HOST:10001``, ``HOST:6379``).
        workers: at most so many at once; default: here one a processor, on a cluster as many as fit.

    Raises:
        InputError: where ray is not installed, or no cluster answers.
    """
    ray = import_ray()
    with _connected(ray, address, workers) as threads:
        yield from _Pool(ray, trust, threads).run([list(units) for units in groups], workers)


@contextmanager
def _connected(ray: Any, address: str, workers: int | None) -> Iterator[int]:
    """Ray, started here or found; yields the threads of a worker."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, int(named) if named.isdecimal() else cores // workers if workers else 1)
    ours = not ray.is_initialized()
    if ours:
        try:
            if address == LOCAL:
                ray.init(
                    address=LOCAL, num_cpus=max(cores, threads * (workers or 1)), object_store_memory=_STORE,
                    include_dashboard=False, log_to_driver=False, configure_logging=False,
                )  # fmt: skip
            else:
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of many kinds, by what answers at an address
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"--ray {shown(address)}: no Ray answers ({why}); `local` starts one here") from None
    try:
        yield threads
    finally:
        if ours:
            ray.shutdown()


@dataclass
class _Group:
    """Units of one checkpoint: those that are left, what a worker for them takes, and its workers while they run."""

    left: list[Unit]
    takes: dict[str, Any]
    workers: list[Any] = field(default_factory=list)


class _Pool:
    """Workers on Ray, as many as fit."""

    def __init__(self, ray: Any, trust: Trust, threads: int) -> None:
        self.ray, self.trust, self.threads = ray, trust, threads
        self.machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.running: dict[Any, tuple[_Group, Unit]] = {}

    def run(self, groups: Sequence[list[Unit]], workers: int | None) -> Iterator[Result]:
        """Run groups beside each other."""
        waiting = [_Group(units, self._takes(units[0])) for units in groups]
        for group in [one for one in waiting if not self._fit(one.takes)]:
            waiting.remove(group)
            yield from ((unit, Failed(self._why_not(group.takes))) for unit in group.left)
        # By what fits of the largest: two groups that each wait for a part of the other's room would wait for ever.
        fit = min((self._fit(one.takes) for one in waiting), default=1)
        most = min(workers or fit, fit)
        each = max(1, most // max(1, len(waiting)))
        try:
            while waiting or self.running:
                while waiting and (len({id(g) for g, _ in self.running.values()}) + 1) * each <= max(most, each):
                    group = waiting.pop(0)
                    group.workers = self._started(group, each)
                    yield from self._next(group)
                done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=60)
                if not done:
                    continue
                group, unit = self.running.pop(done[0])
                yield unit, self._result(done[0], group)
                yield from self._next(group)
        finally:
            for group, _ in self.running.values():
                self._stop(group)

    def _next(self, group: _Group) -> Iterator[Result]:
        """Begin a group's next unit, or let its workers go."""
        if not group.left:
            self._stop(group)
            return
        unit, (first, *others) = group.left.pop(0), group.workers
        shares = [one.share.remote(unit, number, len(group.workers)) for number, one in enumerate(others, 1)]
        self.running[first.analyse.remote(unit, *shares)] = (group, unit)
        yield unit, None

    def _result(self, ref: Any, group: _Group) -> Any:
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            why = " ".join(str(cause or error).split())[:300]
            if cause is not None and not isinstance(cause, self.ray.exceptions.RayError):
                return Failed(why)  # our own code failed, in a way that nobody foresaw
            self._stop(group)
            group.workers = self._started(group, len(group.workers))
            return Failed(f"its worker died and was started {AGAIN} times in vain; Ray says: {why}")

    def _started(self, group: _Group, count: int) -> list[Any]:
        kind = self.ray.remote(Worker).options(**group.takes, max_restarts=AGAIN, max_task_retries=AGAIN)
        return [kind.remote(self.trust, os.getcwd(), self.threads) for _ in range(count)]  # noqa: PTH109

    def _stop(self, group: _Group) -> None:
        for one in group.workers:
            with suppress(Exception):  # it is gone already
                self.ray.kill(one)

    def _takes(self, unit: Unit) -> dict[str, Any]:
        """What a worker asks of a machine: cards where there are some, else memory."""
        cards = max((one.get("GPU", 0.0) for one in self.machines), default=0.0)
        if cards and unit.options.get("device", "auto") != "cpu":
            return {"num_cpus": self.threads, "num_gpus": int(cards) if unit.options.get("device_map") else 1}
        return {"num_cpus": self.threads, "memory": need_of(unit, self.trust)}

    def _fit(self, takes: dict[str, Any]) -> int:
        """How many such workers fit at once."""
        return sum(
            int(min(one.get(name, 0.0) // takes[option] for option, name in _RESOURCES.items() if takes.get(option)))
            for one in self.machines
        )

    def _why_not(self, takes: dict[str, Any]) -> str:
        largest = max((one.get("memory", 0.0) for one in self.machines), default=0.0)
        if takes.get("memory", 0) > largest:
            return (
                f"it needs {takes['memory'] / 1e9:.1f} GB of memory, the largest machine has {largest / 1e9:.1f} GB "
                "for workers; a smaller --memory or --dtype bfloat16 needs less"
            )
        return f"no machine has the {self.threads} processors of a worker; OMP_NUM_THREADS says how many it takes"


_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""Ray's names of what a worker takes, and of what a machine has."""
