"""A training run that can be put down and taken up again."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from .corpus import batch
from .grow import grow
from .model import Llama
from .optim import Optimizer
from .recipe import Recipe

LOG_EVERY = 10
COLUMNS = ["step", "tokens", "layers", "loss", "answer_loss"]


class Run:
    """Model, optimizer, position, history and log of one recipe; its state lives in ``folder``."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        torch.manual_seed(recipe.seed)
        start = recipe.block if recipe.growth else recipe.shape.layers
        self.model = Llama(replace(recipe.shape, layers=start))
        if recipe.growth:
            self._rescale_outputs()
        self.optimizer = Optimizer()
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.log: list[dict[str, float]] = []

    def _rescale_outputs(self) -> None:
        """Residual outputs start as small as in the model that they will be part of."""
        ratio = math.sqrt(self.recipe.block / self.recipe.shape.layers)
        with torch.no_grad():
            for block in self.model.blocks:
                block.o.mul_(ratio)
                block.down.mul_(ratio)

    def grow(self) -> None:
        """One insertion, written into the history."""
        entry = grow(self.model, self.optimizer, self.recipe.arm, self.recipe.block)
        self.history.append({"tokens": self.step * self.recipe.tokens_per_step, **entry})

    def advance(self) -> None:
        """One step of training, after the growth that is due."""
        # More than one where a smoke run is so short that two fall on one step.
        for _ in range(self.recipe.growth.count(self.step)):
            self.grow()
        losses, weights = self._losses()
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(self.model, self.recipe.rate(self.step))
        for p in self.model.parameters():
            p.grad = None
        self._record(float(loss.detach()), float(losses.detach()[weights == 1.0].mean()))
        self.step += 1

    def _losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and weight of every predicted token, flat."""
        recipe = self.recipe
        shares = recipe.curriculum.shares(self.step * recipe.tokens_per_step)
        arrays = batch(recipe.seed, self.step, recipe.rows, recipe.shape.context, shares)
        ids, weights = (torch.from_numpy(a) for a in arrays)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(ids[:, :-1])
        losses = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return losses, weights.flatten()

    def _record(self, loss: float, answer_loss: float) -> None:
        tokens = self.step * self.recipe.tokens_per_step
        row = {"step": self.step, "tokens": tokens, "layers": len(self.model.blocks)}
        self.log.append({**row, "loss": loss, "answer_loss": answer_loss})

    @property
    def state_path(self) -> Path:
        """Where the run is put down."""
        return self.folder / "state.pt"

    def save(self) -> None:
        """Put the run down, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.dump(self.model),
                 "count": self.optimizer.count, "step": self.step, "history": json.dumps(self.history),
                 "log": json.dumps(self.log), "layers": len(self.model.blocks),
                 "recipe": repr(self.recipe)}  # fmt: skip
        scratch = self.folder / "state.tmp"
        torch.save(state, scratch)
        os.replace(scratch, self.state_path)

    def resume(self) -> None:
        """Take the run up where it was put down, if it was.

        Raises:
            ValueError: if what lies there is of another recipe.
        """
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(f"{self.state_path} was made by another recipe; remove it to start anew")
        while len(self.model.blocks) < state["layers"]:
            self.grow()
        self.model.load_state_dict(state["model"])
        self.optimizer.restore(self.model, state["optimizer"])
        self.optimizer.count, self.step = state["count"], state["step"]
        self.history, self.log = json.loads(state["history"]), json.loads(state["log"])

    def write_log(self, path: Path) -> None:
        """Loss curve as CSV, every tenth step."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([{k: round(v, 5) for k, v in row.items()} for row in self.log[::LOG_EVERY]])
