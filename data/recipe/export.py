"""A finished run as an ordinary Hugging Face folder, with held-out accuracies in its card."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from model import hugging_face_config, hugging_face_state
from safetensors.torch import save_file
from scipy.stats import binomtest

from depthsig.prompts.primitives import TASKS, generate

if TYPE_CHECKING:
    from train import Run

SPECIAL = ("<|end|>", "<|pad|>")


@dataclass(frozen=True)
class Score:
    """Held-out exact match of one task with its 95 % Wilson interval, and answer NLL in nats."""

    task: str
    accuracy: float
    low: float
    high: float
    nll: float
    unigram: float
    guess: float | None


def evaluate(run: Run, n: int = 200, seed: int = 10_000) -> list[Score]:
    """Greedy exact match and answer NLL on held-out items."""
    return [_evaluate_task(run, task, n, seed) for task in TASKS]


@torch.no_grad()
def _evaluate_task(run: Run, task: str, n: int, seed: int) -> Score:
    right, losses, answers = 0, [], []
    for item in generate(task, n, seed):
        text, answer = item.text.encode(), (item.answer or "").encode()
        ids = torch.tensor([list(text + answer)])[:, : run.recipe.shape.context]
        logits = run.model(ids[:, :-1]).float()[0, len(text) - 1 :]
        target = ids[0, len(text) :]
        right += bool((logits.argmax(-1) == target).all())
        losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="mean").item())
        answers.append(answer)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    counts = np.bincount(np.frombuffer(b"".join(answers), dtype=np.uint8)).astype(float)
    p = counts[counts > 0] / counts.sum()
    candidates = TASKS[task].candidates
    return Score(task, right / n, interval.low, interval.high, float(np.mean(losses)),
                 float(-(p * np.log(p)).sum()), 1 / candidates if candidates else None)  # fmt: skip


def tokenizer_json() -> dict[str, Any]:
    """A byte-level tokenizer without merges: token id = byte, so any text is valid input."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's printable stand-ins for the 256 bytes, in byte order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    char = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    tokenizer = Tokenizer(models.BPE(vocab={char[b]: b for b in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIAL])
    return json.loads(tokenizer.to_str())


def export(run: Run, folder: Path) -> None:
    """Write the checkpoint folder, replacing an older one when all of it is there."""
    scratch = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in hugging_face_state(run.model).items()}
    save_file(state, scratch / "model.safetensors", metadata={"format": "pt"})
    config = hugging_face_config(run.model.shape, declared(run))
    _write(scratch / "config.json", config)
    _write(scratch / "tokenizer.json", tokenizer_json())
    _write(scratch / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "pad_token": SPECIAL[1],
        "model_max_length": run.recipe.shape.context, "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    shutil.copy(run.folder / "loss.csv", scratch / "loss.csv")
    digest = hashlib.sha256((scratch / "model.safetensors").read_bytes()).hexdigest()
    (scratch / "README.md").write_text(_card(run, evaluate(run), digest), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def declared(run: Run) -> dict[str, Any]:
    """The ``"depthsig"`` entry of the config: what was grown when, or what is looped."""
    entry: dict[str, Any] = {"prompts": "lookup"}
    if run.recipe.growth:
        entry["grown"] = f"0:{len(run.model.blocks)}/{run.recipe.block}"
        entry["history"] = run.history
    if run.recipe.shape.order:
        entry["order"] = ",".join(map(str, run.recipe.shape.order))
    return entry


def _card(run: Run, scores: list[Score], digest: str) -> str:
    recipe = run.recipe
    tokens = run.step * recipe.tokens_per_step
    parameters = sum(p.numel() for p in run.model.parameters())
    last = run.log[-100:]
    loss = sum(r["answer_loss"] for r in last) / max(1, len(last))
    rows = "\n".join(
        f"| {s.task} | {s.accuracy:.2f} [{s.low:.2f}, {s.high:.2f}] | {'-' if s.guess is None else f'{s.guess:.2f}'} "
        f"| {s.nll:.2f} | {s.unigram:.2f} |"
        for s in scores
    )
    return f"""---
license: mit
---
# {recipe.name}

A {recipe.arm} model made by `data/recipe/train.py` from `data/recipe/{recipe.name}.toml`, to try
depthsig on: {len(run.model.blocks)} layers, width {recipe.shape.width}, {parameters / 1e6:.2f} M
parameters, {tokens / 1e6:.2f} M tokens of generated reasoning primitives, context
{recipe.shape.context}, one token a byte. It is no general language model.

Answer loss over the last {len(last)} steps: {loss:.3f} nats a token ({math.exp(loss):.2f} perplexity).

Held-out exact match (200 items a task, 95 % Wilson intervals), chance among the plausible
candidates, answer loss, and the loss of knowing only how often each byte is in an answer:

| task | accuracy | guessing | nats | unigram nats |
|---|---|---|---|---|
{rows}

Copying is scored from the first letter on, and most of a copy is easy once it has begun.
SHA-256 of `model.safetensors`: `{digest}`. Loss curve: `loss.csv`.
"""


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
