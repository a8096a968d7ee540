"""``--ablation random``: each part less a random vector of its own norm, against plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, places
from looped_cases import CASES, Naive
from oracle import plain_directions

import depthsig
from depthsig.checkpoint.hooks import first_tensor, with_first
from depthsig.cli.main import main
from depthsig.measure.edited.directions import random_directions
from depthsig.metrics import relative_change
from depthsig.model import load
from depthsig.prompts import tokenize

TOKENIZER = byte_tokenizer()


class Plain:
    """A prompt's runs by hooks on the modules that add to the residual stream, step after step."""

    def __init__(self, module: torch.nn.Module, layers: Sequence[Any], order: Sequence[int], path: str, part: str,
                 scale: float = 1.0) -> None:  # fmt: skip
        self.module, self.layers, self.order, self.path = module, layers, order, path
        self.part, self.scale = part, scale

    def run(self, ids: list[int], at: int | None, seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits and every step's update, with the part of step ``at`` turned."""
        seen: list[torch.Tensor] = []
        count = {"part": 0}

        def turn(state: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
            g = plain_directions(ids, int(at or 0), self.part, state.shape[-1], seed)
            state = state.clone()
            state[:, 1:] -= (added.norm(dim=-1, keepdim=True) * g)[:, 1:] / self.scale
            return state

        def layer(_m: Any, args: tuple, kwargs: dict, output: Any) -> Any:
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            out = first_tensor(output)
            if self.part == "layer" and len(seen) == at:
                out = turn(out, out - hidden)
            seen.append(out - hidden)
            return with_first(output, out)

        def sublayer(_m: Any, _a: tuple, output: Any) -> Any:
            out = first_tensor(output)
            count["part"] += 1
            turned = turn(out, self.scale * out) if count["part"] - 1 == at else out
            return with_first(output, turned)

        handles = [one.register_forward_hook(layer, with_kwargs=True) for one in dict.fromkeys(self.layers)]
        if self.part != "layer":
            handles += [one.get_submodule(self.path).register_forward_hook(sublayer) for one in self.layers]
        with torch.no_grad():
            logits = self.module(torch.tensor([ids]), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        assert len(seen) == len(self.order)
        return logits, seen


def expected(plain: Plain, prompts: Sequence[list[int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The output's change and effects on later updates, step by step, means over prompts of means over positions."""
    steps = len(plain.order)
    outputs, effects = np.zeros((len(prompts), steps)), np.full((len(prompts), steps, steps), np.nan)
    for row, ids in enumerate(prompts):
        clean, updates = plain.run(ids, None)
        for s in range(steps):
            edited, changed = plain.run(ids, s, seed)
            outputs[row, s] = float((clean.softmax(-1) - edited.softmax(-1)).norm(dim=-1)[1:].mean())
            for later in range(s + 1, steps):
                effects[row, s, later] = float(relative_change(updates[later], changed[later])[0, 1:].mean())
    return outputs.mean(0), effects.mean(0)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("llama", "layer"), ("llama_tied", "attn"), ("llama", "mlp"), ("neox_parallel", "attn"), ("granite", "attn"),
        ("granite", "mlp"), ("gemma2", "mlp"),
    ],
    ids=lambda value: value,
)  # fmt: skip
def test_it_is_what_plain_hooks_give(family: str, part: str) -> None:
    module, where = build(family), places(family)
    layers = list(module.get_submodule(where.layers))
    path = {"layer": "", "attn": where.attn, "mlp": where.mlp}[part]
    plain = Plain(module, layers, range(4), str(path), part, where.scale)
    found = depthsig.analyze(
        module, PROMPTS[:4], tokenizer=TOKENIZER, metrics=["skip"], parts=[part], ablation="random", seed=3
    )
    outputs, effects = expected(plain, [TOKENIZER(text).input_ids for text in PROMPTS[:4]], seed=3)
    assert found.profile("skip.output_l2", part=part)["value"].to_numpy() == pytest.approx(outputs, rel=2e-4, abs=1e-6)
    matrix = found.matrix("skip.effect", part=part)
    for s, later in zip(*np.triu_indices(4, 1), strict=True):
        assert matrix.loc[s, later] == pytest.approx(effects[s, later], rel=2e-4), (s, later)
    assert found.info["options"]["ablation"] == "random" and found.info["options"]["seed"] == 3


@pytest.mark.parametrize("name", ["hrm_text", "ouro"])
def test_in_a_native_loop_every_pass_has_directions_of_its_own(name: str) -> None:
    """Their steps are no chain: edits run inside the model's own forward, and layers run more than once."""
    case = CASES[name]
    module = case.build()
    texts = PROMPTS[:2]
    found = depthsig.analyze(
        module, texts, tokenizer=TOKENIZER, metrics=["skip.output_l2"], ablation="random", control=False
    )
    values = np.zeros((len(texts), len(case.order)))
    for row, text in enumerate(texts):
        ids = TOKENIZER(text).input_ids
        clean = Naive(case, module, torch.tensor([ids])).logits[0]
        for s in range(len(case.order)):

            def edit(step: int, before: torch.Tensor, after: torch.Tensor, s: int = s) -> torch.Tensor:
                if step != s:
                    return after
                g = plain_directions(ids, s, "layer", after.shape[-1])  # noqa: B023
                turned = after.clone()
                turned[:, 1:] -= ((after - before).norm(dim=-1, keepdim=True) * g)[:, 1:]
                return turned

            edited = Naive(case, module, torch.tensor([ids]), edit).logits[0]
            values[row, s] = float((clean.softmax(-1) - edited.softmax(-1)).norm(dim=-1)[1:].mean())
    assert found.profile("skip.output_l2")["value"].to_numpy() == pytest.approx(values.mean(0), rel=1e-3, abs=1e-6)


def test_local_takes_the_same_vector_away_and_lets_nothing_propagate() -> None:
    module = build("llama")
    layers, ids = list(module.model.layers), TOKENIZER(PROMPTS[0]).input_ids
    found = depthsig.analyze(module, PROMPTS[:1], tokenizer=TOKENIZER, metrics=["local"], ablation="random")
    seen: dict[int, tuple[torch.Tensor, Any]] = {}

    def keep(number: int) -> Any:
        def hook(m: Any, args: tuple, kwargs: dict, output: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            call = lambda x: first_tensor(m(x, *args[1:], **rest))  # noqa: E731
            seen[number] = (hidden.clone(), call)

        return hook

    handles = [layer.register_forward_hook(keep(i), with_kwargs=True) for i, layer in enumerate(layers)]
    with torch.no_grad():
        module(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        updates = [call(h) - h for h, call in seen.values()]
        for s in range(4):
            g = plain_directions(ids, s, "layer", updates[s].shape[-1])
            for later in range(s + 1, 4):
                hidden, call = seen[later]
                x = hidden.clone()
                x[:, 1:] -= (updates[s].norm(dim=-1, keepdim=True) * g)[:, 1:]
                change = relative_change(updates[later], call(x) - x)[0, 1:].mean()
                assert found.matrix("local.effect").loc[s, later] == pytest.approx(float(change), rel=2e-4)


def test_directions_are_a_prompts_own_whatever_stands_beside_it() -> None:
    """In any batch, of any padding, in any place among the prompts: one seed gives one set of numbers."""
    module = build("llama")

    def values(prompts: list[str], seed: int = 0, **more: Any) -> np.ndarray:
        found = depthsig.analyze(
            module, prompts, tokenizer=TOKENIZER, metrics=["skip.kl"], ablation="random", seed=seed, **more
        )
        rows = found.samples_table[
            (found.samples_table["agg"] == "mean") & (found.samples_table["metric"] == "skip.kl")
        ]
        return rows.pivot(index="prompt", columns="index", values="value").to_numpy(float)

    together, turned, alone = values(PROMPTS[:3]), values(PROMPTS[2::-1]), values(PROMPTS[:1], batch_size=1)
    assert together == pytest.approx(turned[::-1], rel=1e-4) and together[:1] == pytest.approx(alone, rel=1e-4)
    other = values(PROMPTS[:3], seed=1)
    assert not np.allclose(together, other, rtol=0.02)


def test_directions_have_norm_one_and_differ() -> None:
    prompts = tokenize([PROMPTS[0], "ab", "ab"], TOKENIZER)
    found = random_directions(prompts, 60, 16, step=2, part="mlp", seed=5)
    for row, prompt in enumerate(prompts):
        assert np.linalg.norm(found[row, : prompt.n_tokens], axis=-1) == pytest.approx(1, abs=1e-6)
        assert not found[row, prompt.n_tokens :].any()
        ids = list(prompt.ids)
        assert np.allclose(found[row, : len(ids)], plain_directions(ids, 2, "mlp", 16, 5), atol=1e-6)
    assert (found[1] == found[2]).all()
    for other in ({"step": 3}, {"part": "attn"}, {"seed": 6}):
        options: dict[str, Any] = {"step": 2, "part": "mlp", "seed": 5, **other}
        assert not np.allclose(random_directions(prompts, 60, 16, **options)[0], found[0])
    # Uniform on the sphere: no coordinate is favoured.
    many = random_directions(prompts[:1], 45, 400, step=0, part="layer", seed=0)[0, : prompts[0].n_tokens]
    assert abs(many.mean()) < 0.002 and many.std() == pytest.approx(400**-0.5, rel=0.01)


def test_in_half_precision_as_far_away_as_without_the_part() -> None:
    """bfloat16: the state moves by the part's norm, within the stream's rounding."""
    module = build("llama", dtype=torch.bfloat16)
    single, half = (
        depthsig.analyze(m, PROMPTS[:3], tokenizer=TOKENIZER, metrics=["skip.output_l2"], ablation="random")
        for m in (build("llama"), module)
    )
    a, b = (one.profile("skip.output_l2")["value"].to_numpy(float) for one in (single, half))
    assert np.isfinite(b).all() and np.allclose(a, b, rtol=0.15)


def test_one_token_and_unknown_parts() -> None:
    """A prompt of one token is measured nowhere; a model whose parts are unknown gets layers alone."""
    model = load(build("llama"), TOKENIZER)
    found = depthsig.analyze(model, ["a", "abc"], metrics=["skip.kl"], ablation="random")
    assert found.profile("skip.kl")["n_prompts"].max() == 1


def test_the_command_takes_it_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "family-midas", "--ablation", "median", "--dry-run"]) == 2
    assert "known are zero, mean, random" in capsys.readouterr().err
