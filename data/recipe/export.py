"""A finished run as an ordinary Hugging Face folder, with held-out accuracies in its card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .model import hugging_face_config, hugging_face_state
from .results import card, results
from .run import Run

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


def export(run: Run, folder: Path, scored: int = 500) -> None:
    """Write the checkpoint folder, replacing an older one when all of it is there.

    ``scored`` is the number of held-out items a task.
    """
    scratch = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    write_checkpoint(run, scratch)
    run.write_log(scratch / "loss.csv")
    _round_to_bfloat16(run)
    found = results(run, sha256(scratch / "model.safetensors"), scored)
    _write(scratch / "results.json", found)
    (scratch / "README.md").write_text(card(run, found), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    entry: dict[str, Any] = {"prompts": "lookup", "arm": run.recipe.arm, "seed": run.recipe.seed}
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


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
