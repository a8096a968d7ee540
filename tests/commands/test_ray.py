"""A sweep on Ray gives the numbers of one process, also where workers share a checkpoint's prompts, or die."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import smollm2
import torch
from swept_folders import grown, sweep, write

import depthsig
from depthsig.commands.analyze import MeasuredShare
from depthsig.commands.sweeps.beforehand import Trust
from depthsig.commands.sweeps.here import run_here
from depthsig.commands.sweeps.sweep_file import read_sweep
from depthsig.commands.sweeps.worker import Failed, Worker
from depthsig.commands.sweeps.worker_needs import need_of
from depthsig.errors import InputError
from depthsig.signature import Signature
from depthsig.signature.sweeps.swept import Swept

pytestmark = pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")
EXACT = 1e-9
TABLES = ("profiles", "matrices", "scores", "samples_table", "tokens_table")


@pytest.fixture
def threads() -> Iterator[None]:
    """One thread a process, here as in the workers; each sweep has a cache of its own."""
    before, named = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before)
    if named is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = named


def same(one: Path, other: Path) -> None:
    here, there = Swept.load(one), Swept.load(other)
    assert len(here.failed) == len(there.failed) == 0, (here.failed, there.failed)
    pd.testing.assert_frame_equal(here.scores, there.scores, rtol=0, atol=EXACT)
    for name in here.units["folder"]:
        a, b = (depthsig.Signature.load(folder / name) for folder in (one, other))
        assert (a.control is None) == (b.control is None)
        for table in TABLES:
            pd.testing.assert_frame_equal(getattr(a, table), getattr(b, table), rtol=0, atol=EXACT)
        if a.control is not None and b.control is not None:
            pd.testing.assert_frame_equal(a.control.profiles, b.control.profiles, rtol=0, atol=EXACT)


def test_shares_put_together_are_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    text = (
        f"checkpoints: ['{checkpoint}']\norders: ['0:1,1:2x3,2:4']\nprompts: [lookup]\nn: 7\nmax_tokens: 24\n"
        "batch_size: 2\nparts: [layer, attn]\nscopes: [current, future]\nablation: mean\n"
        "metrics: [lens, residual, skip, local, loop, truncation, period]\n"
    )
    (unit,) = read_sweep(write(tmp_path, text)).units
    (_, begun), (_, whole) = run_here([[unit]], Trust())
    assert begun is None and isinstance(whole, Signature)
    workers = [Worker(Trust()) for _ in range(3)]
    shares = [one.share(unit, number, 3) for number, one in enumerate(workers) if number]
    assert not any(isinstance(one, Failed) for one in shares)
    names = [set(one.model) for one in shares]
    assert all(names) and not names[0] & names[1] and {n.split("-")[0] for n in names[0]} >= {"clean", "skip"}
    assert all(one.control for one in shares)
    put = workers[0].analyse(unit, *shares)
    half = workers[0].analyse(unit, shares[0], Failed("it died"))  # what one did not do, the first does
    for other in (put, half):
        for table in TABLES:
            pd.testing.assert_frame_equal(getattr(whole, table), getattr(other, table), check_exact=True)
        pd.testing.assert_frame_equal(whole.control.profiles, other.control.profiles, check_exact=True)


def test_a_share_of_another_analysis_is_no_part_of_this_one(checkpoint: Path, tmp_path: Path) -> None:
    text = f"checkpoints: ['{checkpoint}']\nprompts: [lookup]\nn: 6\nbatch_size: 1\nmetrics: [skip]\ncontrol: false\n"
    (unit,) = read_sweep(write(tmp_path, text)).units
    (other,) = read_sweep(write(tmp_path, text + "max_tokens: 16\n")).units
    whole, strange = Worker(Trust()).analyse(unit), Worker(Trust()).share(other, 1, 2)
    assert isinstance(strange, MeasuredShare) and strange.model
    put = Worker(Trust()).analyse(unit, strange)
    pd.testing.assert_frame_equal(put.profiles, whole.profiles, check_exact=True)


def test_pieces_of_others_are_not_measured_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"checkpoints: ['{checkpoint}']\nprompts: [lookup]\nn: 6\nbatch_size: 1\nmetrics: [skip]\ncontrol: false\n"
    (unit,) = read_sweep(write(tmp_path, text)).units
    worker, ran = Worker(Trust()), []
    shares = [worker.share(unit, number, 3) for number in (1, 2)]
    from depthsig.measure.edited.skipping import Skipping

    run = Skipping.run
    monkeypatch.setattr(Skipping, "run", lambda self, *a: (ran.append(1), run(self, *a))[1])
    assert isinstance(worker.analyse(unit, *shares), Signature) and len(ran) == 2


def test_weights_are_loaded_once_a_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from depthsig.commands.sweeps import worker

    loads: list[Any] = []
    load = worker.load
    monkeypatch.setattr(worker, "load", lambda *a, **k: (loads.append(a), load(*a, **k))[1])
    text = f"checkpoints: ['{checkpoint}', family-midas]\norders: [native, '0:2']\nprompts: [lookup, copying]\nn: 2\n"
    asked = read_sweep(write(tmp_path, text + "max_tokens: 16\nmetrics: [lens.kl]\ncontrol: false\n"))
    found = [one for _, one in run_here([*asked.groups()], Trust()) if one is not None]
    assert len(found) == 8 and all(isinstance(one, Signature) for one in found) and len(loads) == 2


def test_what_a_unit_needs_is_told_from_its_files(tmp_path: Path) -> None:
    def need(**options: str) -> int:
        more = "".join(f"{name}: {value}\n" for name, value in options.items())
        return need_of(
            read_sweep(write(tmp_path, f"checkpoints: [family-midas]\ncontrol: false\n{more}")).units[0], Trust()
        )

    whole, half = need(memory="1GiB"), need(memory="1GiB", dtype="bfloat16")
    weights = sum(p.numel() for p in depthsig.load("family-midas", progress=False).module.parameters())
    assert 0 <= 2 * (whole - half) - 4 * weights < 0.2 * 4 * weights  # tied weights may stand there twice
    assert need(memory="3GiB") - whole == 2 << 30
    read = need(memory="1GiB", stream="true") - (2 << 30)
    assert 0.05 * (whole - (2 << 30)) < read < 0.6 * (whole - (2 << 30))  # two of 24 layers, embedding and head
    nowhere = read_sweep(write(tmp_path, "checkpoints: [org/on-a-hub]\nmemory: 1GiB\n")).units[0]
    assert need_of(nowhere, Trust()) == 2 << 30


def test_without_ray_it_is_said_how_to_get_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write(tmp_path, f"checkpoints: ['{checkpoint}']\n")
    with pytest.raises(InputError, match=r"ray, which is not installed: pip install 'depthsig\[ray\]'"):
        sweep(file, tmp_path / "out", ray="local")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="workers is 2; it goes with ray"):
        sweep(file, tmp_path / "out", workers=2)


def _kill_one(done: list[str], said: bytes) -> None:
    """Kill the first worker that is about its work."""
    for _ in range(1200):
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if command.startswith(said):
                    time.sleep(0.3)
                    os.kill(int(folder.name), signal.SIGKILL)
                    done.append(command.decode(errors="replace"))
                    return
        time.sleep(0.05)


def _on_ray(file: Path, out: Path, *, kill: bool) -> None:
    killed: list[str] = []
    killer = threading.Thread(target=_kill_one, args=(killed, b"ray::Worker.analyse"), daemon=True)
    if kill:
        killer.start()
    sweep(file, out, ray="local", workers=2)
    if kill:
        killer.join()
        assert killed


@pytest.mark.extra
def test_on_ray_the_numbers_are_the_same(
    checkpoint: Path, tmp_path: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="extra ray")
    grown(tmp_path / "m-step5", checkpoint, 2.0)
    grown(tmp_path / "m-step9", checkpoint, 5.0)
    text = (
        f"checkpoints: ['{tmp_path}/m-{{revision}}', '{tmp_path}/none-{{revision}}']\nrevisions: [step5, step9]\n"
        "prompts: [lookup, copying]\nn: 6\nmax_tokens: 24\nbatch_size: 2\nmemory: 256MiB\n"
        "metrics: [lens, residual, skip, local]\nparts: [layer, attn]\nscopes: [current, future]\ncontrol: false\n"
    )
    for where in ("here", "ray", "killed"):
        monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / f"cache-{where}"))
        if where == "here":
            sweep(write(tmp_path, text), tmp_path / where)
        else:
            _on_ray(write(tmp_path, text), tmp_path / where, kill=where == "killed")
    failed = Swept.load(tmp_path / "ray").failed
    assert len(failed) == 4 and failed["why"].str.contains("none-step").all()
    alone = write(tmp_path, text.replace(f", '{tmp_path}/none-{{revision}}'", ""))
    for where in ("here", "ray", "killed"):
        sweep(alone, tmp_path / where, resume=True)
    same(tmp_path / "here", tmp_path / "ray")
    same(tmp_path / "here", tmp_path / "killed")
    greedy = write(tmp_path, f"checkpoints: ['{checkpoint}']\nmemory: 4000GiB\n")
    found = sweep(greedy, tmp_path / "greedy", ray="local", workers=1)
    assert "GB of memory, the largest machine has" in found.failed["why"].iloc[0]


@pytest.mark.extra
@pytest.mark.slow
def test_the_family_and_smollm2_on_ray(tmp_path: Path, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="extra ray")
    real = smollm2.gguf()
    midas = depthsig.load("family-midas", progress=False)
    for step, by in ((100, 1.1), (200, 0.9)):  # two revisions made by hand
        with torch.no_grad():
            midas.module.model.norm.weight.mul_(by)
        midas.module.save_pretrained(tmp_path / f"midas-step{step}")
        midas.tokenizer.save_pretrained(tmp_path / f"midas-step{step}")
    names = ["family-baseline", "family-looped", "family-midas", "family-lidas", *(
        str(tmp_path / f"midas-step{step}") for step in (100, 200)), str(real)]  # fmt: skip
    text = f"checkpoints: {names}\nprompts: [lookup]\nn: 3\nmax_tokens: 16\nmemory: 512MiB\nbatch_size: 2\n"
    text += "metrics: [lens.kl, residual, skip.loss, skip.output_l2]\ncontrol: false\n"
    text += "roles: {baseline: [family-baseline], looped: [family-looped], grown: [family-midas, family-lidas]}\n"
    for where in ("here", "ray", "killed"):
        monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / f"cache-{where}"))
        if where == "here":
            sweep(write(tmp_path, text), tmp_path / where)
        else:
            _on_ray(write(tmp_path, text), tmp_path / where, kill=where == "killed")
    same(tmp_path / "here", tmp_path / "ray")
    same(tmp_path / "here", tmp_path / "killed")
    claims = [depthsig.Comparison.load(tmp_path / w / "compare").claims for w in ("here", "ray", "killed")]
    for other in claims[1:]:
        pd.testing.assert_frame_equal(claims[0], other, rtol=0, atol=EXACT)
