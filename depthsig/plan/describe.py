"""What a checkpoint folder is, without loading it."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from depthsig.plan.order import parse_order


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """What a shipped checkpoint is, read from its config and the header of its weights alone.

    Returns:
        ``{"path", "arm", "layers", "steps", "parameters", "prompts"}``; ``steps`` are the layers that are
        executed, each iteration of a loop anew.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    declared = config.get("depthsig", {})
    layers, order = config["num_hidden_layers"], declared.get("order")
    return {
        "path": str(folder), "arm": declared.get("arm", ""), "layers": layers,
        "steps": len(parse_order(order, layers)) if order else layers,
        "parameters": _parameters(folder / "model.safetensors"), "prompts": declared.get("prompts", "gsm8k"),
    }  # fmt: skip


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file: its header, whose length is in the first eight bytes, lists every shape."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
