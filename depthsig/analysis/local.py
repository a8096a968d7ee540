"""Local effects: each layer sees its clean input minus one earlier step's part, nothing propagates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.analysis.accumulate import Samples
from depthsig.analysis.edited import Cost, Work
from depthsig.analysis.request import Request
from depthsig.analysis.skip import Case, SkipEffects, cases, has_part
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.clean import update_of
from depthsig.engine.kernel import Block, run_step
from depthsig.engine.run import Rows, blocks_of
from depthsig.metrics.skip import future_cuts
from depthsig.prompts import TokenPrompt


@dataclass
class LocalJob:
    """``local.effect``."""

    request: Request
    name: str = "local"

    @property
    def needs_parts(self) -> bool:
        """Whether attention and MLP contributions must be known."""
        return self.request.parts != ("layer",)

    @property
    def needs_means(self) -> bool:
        """Whether mean contributions must be known beforehand."""
        return self.request.ablation == "mean"

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every part, scope and cut, of every pair of steps; nothing is read out."""
        cuts = len(future_cuts(prompt.n_tokens, self.request.cuts)) if "future" in self.request.scopes else 0
        runs = len(self.request.parts) * (cuts + ("current" in self.request.scopes)) * steps
        return Cost(runs, runs * (steps - 1) / 2, 0)

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch."""
        steps = len(work.model.plan)
        todo = list(cases(work))
        every = [(case, s) for s in range(steps) for case in todo if has_part(work, s, case.part)]
        effects = SkipEffects(work, every, steps, "local.effect")
        with undisturbed(work.model.module):
            for step in range(1, steps):
                earlier = [i for i, (_, s) in enumerate(every) if s < step]
                for some in blocks_of(work.clean, earlier):
                    self._block(work, step, [every[i] for i in some], some, effects)
                work.done(2 * len(earlier) / (steps - 1))
        for case in todo:
            effects.file(case, samples)

    def _block(
        self, work: Work, step: int, members: list[tuple[Case, int]], numbers: Sequence[int], effects: SkipEffects
    ) -> None:
        clean = work.clean
        hidden = torch.cat([_without(work, case, s, clean.state(step)) for case, s in members])
        prompts = torch.arange(clean.shape[0], device=hidden.device).repeat(len(members))
        layer = work.model.anatomy.layers[work.model.plan[step].layer]
        out, update = run_step(layer, clean.calls[step], Block(hidden, prompts), want_update=True)
        assert update is not None
        programs = torch.tensor(list(numbers), device=hidden.device).repeat_interleave(clean.shape[0])
        effects.step(step, Rows(programs, prompts), hidden, out, update)


def _without(
    work: Work, case: Case, step: int, state: Float[Tensor, "prompt token d"]
) -> Float[Tensor, "prompt token d"]:
    """A later state minus what a step's part added to it, where the case edits."""
    run = work.clean.run
    part = {"layer": None, "attn": run.attn[step], "mlp": run.mlp[step]}[case.part]
    added = update_of(run, step) if part is None else part.float()
    if work.request.ablation == "mean":
        added = added - work.means.parts[case.part][step].float()
    return torch.where(case.edited[..., None], (state.float() - added).to(state.dtype), state)
