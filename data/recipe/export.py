"""A finished run as an ordinary Hugging Face folder, with held-out accuracies in its card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from evaluate import evaluate, perplexity, table
from model import hugging_face_config, hugging_face_state
from run import Run
from safetensors.torch import save_file

SPECIAL = ("<|end|>", "<|pad|>")


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


def export(run: Run, folder: Path, scored: int = 200) -> None:
    """Write the checkpoint folder, replacing an older one when all of it is there.

    ``scored`` is the number of held-out items a task for the card.
    """
    scratch = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    write_checkpoint(run, scratch)
    run.write_log(scratch / "loss.csv")
    _round_to_bfloat16(run)
    digest = hashlib.sha256((scratch / "model.safetensors").read_bytes()).hexdigest()
    (scratch / "README.md").write_text(card(run, digest, scored), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def write_checkpoint(run: Run, folder: Path) -> None:
    """Weights in bfloat16, config and tokenizer of a run as it stands, as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in hugging_face_state(run.model).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # save_file leaves it to its owner alone
    config = hugging_face_config(run.model.shape, declared(run))
    _write(folder / "config.json", config)
    _write(folder / "tokenizer.json", tokenizer_json())
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "pad_token": SPECIAL[1],
        "model_max_length": run.recipe.shape.context, "clean_up_tokenization_spaces": False,
    })  # fmt: skip


def declared(run: Run) -> dict[str, Any]:
    """The ``"depthsig"`` entry of the config: what was grown when, or what is looped."""
    entry: dict[str, Any] = {"prompts": "lookup"}
    if run.recipe.growth:
        entry["grown"] = f"0:{len(run.model.blocks)}/{run.recipe.block}"
        entry["history"] = run.history
    if run.recipe.order:
        entry["order"] = run.recipe.order
    return entry


def _round_to_bfloat16(run: Run) -> None:
    """What is scored is what ships: weights rounded to bfloat16."""
    with torch.no_grad():
        for p in run.model.parameters():
            p.copy_(p.bfloat16())


def card(run: Run, digest: str, scored: int) -> str:
    """The model card: how it was made, what it can do, what it cannot."""
    recipe, shape = run.recipe, run.model.shape
    parameters = sum(p.numel() for p in run.model.parameters()) / 1e6
    tokens = run.step * recipe.tokens_per_step / 1e6
    loss, ppl = perplexity([row["answer_loss"] for row in run.log[-100:]])
    return f"""---
license: mit
---
# {recipe.name}

A small {recipe.arm} model to try depthsig on, made by `data/recipe/train.py` from
`data/recipe/{recipe.name}.toml`: {shape.layers} layers, width {shape.width}, {parameters:.2f} M parameters,
{tokens:.2f} M tokens of generated reasoning primitives and a little of GSM8K's training split (MIT,
Cobbe et al. 2021), context {shape.context}, one token a byte, seed {recipe.seed}. It is no general
language model. How it was grown or looped is under `depthsig` in `config.json`.

Training loss of answers over the last 100 steps: {loss:.3f} nats a token (perplexity {ppl:.2f}).

Held-out exact match ({scored} items a task, 95 % Wilson intervals), the accuracy of guessing among the
plausible answers, the loss of answers, and the loss of knowing only how often each byte is in an
answer. Plausible are the values of a table that were not asked for yet, and for `phop` the symbol
that most often follows the one before the last hop:

{table(evaluate(run.model, scored))}

SHA-256 of `model.safetensors`: `{digest}`. Loss curve: `loss.csv`.
"""


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
