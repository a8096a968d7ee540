"""A model that is read layer by layer: memory above the imports, bytes read, and time against plain hooks.

``python tests/benchmarks/streamed.py [FOLDER]``: of a folder of safetensors, or of SmolLM2-135M in float32, written to
a temporary one. Each part runs in a process of its own. Nothing of depthsig is in what it is held against:
one hooked forward a skipped layer on the same model, whose layers ``device_map`` offloads to the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = "64MB"
SIZES = ((1, 32, 1), (16, 128, 5))
"""Prompts, their tokens, and of how many layers one is skipped: of large batches not all, for time and memory."""


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@contextmanager
def highest() -> Iterator[list[int]]:
    """The most memory meanwhile, looked at every 2 ms; the first entry, when it is over."""
    found, over = [resident()], threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            found[0] = max(found[0], resident())

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield found
    finally:
        over.set()
        watch.join()


def ids(prompts: int, tokens: int) -> list[list[int]]:
    """Token ids, other ones for each prompt."""
    return [[100 + (7 * row + 13 * at) % 40_000 for at in range(tokens)] for row in range(prompts)]


def analyzed(folder: str, stream: bool) -> dict[str, Any]:
    """A whole analysis of two prompts of 32 tokens: memory above the imports, bytes, seconds, and its numbers."""
    from depthsig import analyze, load
    from depthsig.checkpoint.streaming.stream import stream_of

    _import_all(folder)
    before = resident()
    with highest() as most:
        started = time.perf_counter()
        model = load(folder, dtype="float32", device="cpu", stream=stream, progress=False)
        found = stream_of(model.module)
        prepared = 0 if found is None else sum(found.reads) / len(found.reads)
        signature = analyze(model, ids(2, 32), metrics=["lens", "skip"], memory=MEMORY, progress=False)
        seconds = time.perf_counter() - started
    told: dict[str, Any] = {
        "above": most[0] - before, "seconds": seconds, "profiles": signature.profiles.to_json(),
        "matrices": signature.matrices.to_json(), "scores": signature.scores.to_json(),
    }  # fmt: skip
    if found is not None:
        resident_bytes = found.bytes_read - sum(n * u.file_bytes for n, u in zip(found.reads, found.units, strict=True))
        told |= {
            "bytes": found.bytes_read, "once": resident_bytes, "pass": found.pass_bytes, "held": found.held_bytes,
            "prepared": prepared, "passes": sum(found.reads) / len(found.reads), "waited": found.waited,
        }  # fmt: skip
    return told


def _import_all(folder: str) -> None:
    """What an analysis imports as it goes: the model's class, TransformerLens, tables. A tiny model needs it all."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from depthsig import analyze

    config = AutoConfig.from_pretrained(folder)
    small = {"hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 101}
    config.update({**small, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8, "pad_token_id": None})
    tiny = AutoModelForCausalLM.from_config(config).eval()
    analyze(tiny, [[5, 6, 7, 8]], metrics=["lens", "skip"], progress=False)


def skipped(folder: str, prompts: int, tokens: int, every: int) -> dict[str, Any]:
    """Every so many layers one skipped: streamed together, and one hooked forward each on the offloaded model."""
    import torch
    from transformers import AutoModelForCausalLM

    from depthsig import Skip, load
    from depthsig.checkpoint.streaming.stream import stream_of

    given = ids(prompts, tokens)
    streamed = load(folder, dtype="float32", device="cpu", stream=True, progress=False)
    edits = [Skip(step) for step in range(0, len(streamed.plan), every)]
    streamed.run(given, edits[-1:])  # what is found out once for a length
    reading: Any = stream_of(streamed.module)
    before, started = sum(reading.reads), time.perf_counter()
    ours = streamed.run(given, edits)
    together, passes = time.perf_counter() - started, (sum(reading.reads) - before) / len(reading.units)
    with tempfile.TemporaryDirectory() as offloaded:
        stack = streamed.anatomy.stacks[0]
        places = {name: "cpu" for name, part in streamed.module.named_modules() if name and not list(part.children())}
        places = {name: place for name, place in places.items() if not name.startswith(stack + ".")}
        plain: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, device_map={**places, stack: "disk"}, offload_folder=offloaded
        ).eval()
        layers, batch, off = plain.get_submodule(stack), torch.tensor(given), 0.0
        _hooked(plain, layers[0], batch)
        started = time.perf_counter()
        for number, run in enumerate(ours):
            logits = _hooked(plain, layers[number * every], batch)
            off = max(off, max(float((a - b).abs().max()) for a, b in zip(logits, run.logits, strict=True)))
        one_by_one = time.perf_counter() - started
    return {
        "together": together, "one by one": one_by_one, "ratio": one_by_one / together, "off": off, "passes": passes,
    }  # fmt: skip


def _hooked(module: Any, layer: Any, batch: Any) -> Any:
    import torch

    def skip(_module: Any, args: Any, output: Any) -> Any:
        before, after = args[0], output if torch.is_tensor(output) else output[0]
        kept = torch.cat([after[:, :1], before[:, 1:]], 1)
        return kept if torch.is_tensor(output) else (kept, *output[1:])

    handle = layer.register_forward_hook(skip)
    try:
        with torch.no_grad():
            return module(batch, use_cache=False).logits
    finally:
        handle.remove()


def in_a_process(*arguments: str) -> dict[str, Any]:
    """What a part of this script says, from a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def written(folder: str) -> str:
    """SmolLM2 in float32 as a folder of safetensors."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import smollm2

    from depthsig import load

    model: Any = load(smollm2.gguf(), dtype="float32", device="cpu", progress=False)
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def main(folder: str) -> None:
    """Print everything."""
    streamed, loaded = in_a_process("analyze", folder, "stream"), in_a_process("analyze", folder, "load")
    same = all(streamed[name] == loaded[name] for name in ("profiles", "matrices", "scores"))
    print(f"analysis of lens and skip, 2 prompts of 32 tokens, --memory {MEMORY}:")
    for name, told in (("streamed", streamed), ("loaded", loaded)):
        print(f"  {name}: {told['above'] / 1e6:.0f} MB above the imports, {told['seconds']:.1f} s")
    print(f"  the same numbers: {same}")
    data = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    print(
        f"  once {streamed['once']:,} bytes, a pass {streamed['pass']:,}, together "
        f"{streamed['once'] + streamed['pass']:,} of {data:,} in the files; {streamed['passes']:.2f} passes, of them "
        f"{streamed['prepared']:.2f} to find the model's parts; waited {streamed['waited']:.2f} s"
    )
    for prompts, tokens, every in SIZES:
        told = in_a_process("skip", folder, str(prompts), str(tokens), str(every))
        print(
            f"one in {every} layers skipped, {prompts} x {tokens} tokens: streamed together {told['together']:.1f} s, "
            f"hooked and offloaded {told['one by one']:.1f} s, ratio {told['ratio']:.1f}, in "
            f"{told['passes']:.2f} passes; logits agree to {told['off']:.1e}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["analyze"]:
        print(json.dumps(analyzed(sys.argv[2], sys.argv[3] == "stream")))
    elif sys.argv[1:2] == ["skip"]:
        print(json.dumps(skipped(sys.argv[2], *map(int, sys.argv[3:]))))
    elif len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as made:
            main(written(made))
