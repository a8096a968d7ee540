"""Blocks run again and steps left out, against layers called one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from families import byte_tokenizer, disturb
from looped_cases import hrm
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import depthsig
from depthsig.commands.opening import ready_prompts
from depthsig.commands.replicating.pruned_steps import prompt_losses, pruning_runs
from depthsig.commands.replicating.repeated_block import middle_block, repeat_runs
from depthsig.errors import InputError
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt, builtin_prompts
from depthsig.signature.tested import TestedSpan

QUIET = Progress(False)
LOOP = TestedSpan(1, 2, 3, "loop", None)
TEXTS = ["a few words", "some more of them, and of another length", "xy", "the last of all"]


def llama(layers: int, *, tied: bool = False) -> torch.nn.Module:
    torch.manual_seed(layers)
    config = LlamaConfig(
        vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
    )  # fmt: skip
    return disturb(LlamaForCausalLM(config).eval())


@torch.no_grad()
def plain(module: torch.nn.Module, ids: Sequence[int], layers: Sequence[int]) -> list[torch.Tensor]:
    """Every state, then the logits, of these layers called one after the other."""
    inner, given = module.model, torch.tensor([list(ids)])
    x = inner.embed_tokens(given)
    tables = inner.rotary_emb(x, torch.arange(given.shape[1])[None])
    states = [x[0].float()]
    for layer in layers:
        out = inner.layers[layer](x, position_embeddings=tables)
        x = out[0] if isinstance(out, tuple) else out
        states.append(x[0].float())
    return [*states, module.lm_head(inner.norm(x))[0].float()]


def plain_loss(module: torch.nn.Module, prompt: TokenPrompt, layers: Sequence[int]) -> float:
    at = [p for p in prompt.positions if p + 1 < len(prompt.ids)]
    if not at:
        return float("nan")
    logits = plain(module, prompt.ids, layers)[-1]
    return float(F.cross_entropy(logits[at], torch.tensor([prompt.ids[p + 1] for p in at])))


@pytest.mark.parametrize(
    ("steps", "span", "block", "expected"),
    [
        (24, None, 4, (12, 16)), (23, None, 4, (8, 12)), (5, None, 4, (0, 4)), (6, None, 4, (0, 4)),
        (3, None, 4, (0, 3)), (1, None, 4, (0, 1)), (24, None, 8, (8, 16)), (24, (0, 4, 6), 2, (12, 16)),
        (24, (4, 4, 4), 4, (12, 16)), (24, (16, 4, 2), 4, (16, 20)), (24, (0, 4, 2), 4, (4, 8)),
        (8, (1, 2, 3), 4, (3, 5)), (9, (3, 1, 3), 4, (4, 5)),
    ],
    ids=lambda value: str(value),
)  # fmt: skip
def test_the_middle_block(steps: int, span: tuple[int, int, int] | None, block: int, expected: tuple[int, int]) -> None:
    told = None if span is None else TestedSpan(*span, "grown", span[0])
    found = middle_block(steps, told, block)
    assert found == expected and 0 <= found[0] < found[1] <= steps
    if span is not None:
        assert (found[0] - span[0]) % span[1] == 0 and span[0] <= found[0] and found[1] <= span[0] + span[1] * span[2]


@pytest.mark.parametrize("case", ["plain", "looped", "left padding", "tied"])
def test_a_block_run_again_is_its_layers_again(case: str) -> None:
    module, tokenizer = llama(4, tied=case == "tied"), byte_tokenizer(left=case == "left padding", pad=True)
    if case == "looped":
        model, span = depthsig.load(module, tokenizer, order="0:1,1:3x3,3"), LOOP
        before, block, after = [0, 1, 2], [1, 2], [1, 2, 3]
    else:
        model, span = depthsig.load(module, tokenizer), TestedSpan(0, 2, 2, "grown", 0)
        before, block, after = [0, 1], [2, 3], []
    found = repeat_runs(
        model, span, ["variables1"], n=5, seed=3, max_tokens=256, memory=1 << 20,
        show=QUIET,
    )  # fmt: skip
    assert set(found["condition"]) == {1, 2, 3, 4} and len(found) == 20
    assert (found["run"] == "repeat").all() and sorted(set(found["item"])) == [0, 1, 2, 3, 4]
    for item, one in enumerate(builtin_prompts("variables1", 5, seed=3)):
        ids = tokenizer(one.text + (one.answer or "")).input_ids
        first = len(tokenizer(one.text).input_ids)
        for times in (1, 2, 3, 4):
            logits = plain(module, ids, [*before, *block * times, *after])[-1][first - 1 : -1]
            goal = torch.tensor(ids[first:])
            row = found[(found["item"] == item) & (found["condition"] == times)].iloc[0]
            assert row["loss"] == pytest.approx(float(F.cross_entropy(logits, goal)), rel=1e-4)
            assert row["exact"] == float((logits.argmax(-1) == goal).all())


def test_a_block_with_something_between_its_steps_is_refused_in_one_line() -> None:
    model = depthsig.load(hrm(), byte_tokenizer())
    crossing = next(s for s in range(1, len(model.plan)) if not model.trace.chained[s])
    span = TestedSpan(crossing - 1, 2, 1, "loop", None)
    with pytest.raises(InputError, match=f"steps {crossing - 1}:{crossing + 1} cannot be run again") as error:
        repeat_runs(model, span, ["variables1"], n=2, seed=0, max_tokens=256, memory="1GiB", show=QUIET)
    assert "\n" not in str(error.value)


def _ready(model: depthsig.Model) -> list[TokenPrompt]:
    return ready_prompts(TEXTS, model).tokens


@pytest.mark.parametrize("case", ["plain", "looped", "left padding", "bfloat16"])
def test_steps_left_out_are_layers_not_called(case: str) -> None:
    module = llama(4)
    if case == "bfloat16":
        module = module.to(torch.bfloat16)
    tokenizer = byte_tokenizer(left=case == "left padding", pad=True)
    order = "0:1,1:3x3,3" if case == "looped" else None
    model = depthsig.load(module, tokenizer, order=order)
    layers = [0, 1, 2, 1, 2, 1, 2, 3] if case == "looped" else [0, 1, 2, 3]
    prompts = _ready(model)
    assert min(len(p.ids) for p in prompts) == 2 and len({len(p.ids) for p in prompts}) == 4
    found = pruning_runs(model, prompts[:2], prompts, "made", memory="1GiB", show=QUIET)
    most = len(layers) // 3
    assert set(found["condition"]) == set(range(most + 1))

    def loss(prompt: TokenPrompt, gone: Sequence[int]) -> float:
        return plain_loss(module, prompt, [layer for step, layer in enumerate(layers) if step not in gone])

    orders = {"pruning.influence": _least_influence(module, prompts[:2], layers), "pruning.loss": []}
    for _ in range(most):
        gone = orders["pruning.loss"]
        left = [s for s in range(len(layers)) if s not in gone]
        gone.append(min(left, key=lambda s: np.mean([loss(p, [*gone, s]) for p in prompts[:2]])))
    for run, order in orders.items():
        rows = found[found["run"] == run]
        for m in range(most + 1):
            measured = rows[rows["condition"] == m].sort_values("item")["loss"]
            expected = [loss(p, order[:m]) for p in prompts]
            rel = 3e-2 if case == "bfloat16" else 1e-4
            assert measured.to_numpy() == pytest.approx(expected, rel=rel, nan_ok=True)
            assert np.isnan(measured).sum() == 1  # the second token of two predicts none, and the first never counts


def _least_influence(module: torch.nn.Module, prompts: Sequence[TokenPrompt], layers: Sequence[int]) -> list[int]:
    total = np.zeros(len(layers))
    for prompt in prompts:
        states = plain(module, prompt.ids, layers)[:-1]
        for step in range(len(layers)):
            for t in range(1, len(prompt.ids)):
                total[step] += 1 - float(F.cosine_similarity(states[step][t], states[step + 1][t], dim=0))
    return [int(s) for s in np.argsort(total)]


def test_the_same_memory_or_little_of_it_is_the_same_loss() -> None:
    model = depthsig.load(llama(4), byte_tokenizer())
    edits = [None, depthsig.Drop(1, 2), depthsig.Drop(0, 3)]
    one, other = (prompt_losses(model, _ready(model), edits, memory) for memory in (1 << 30, 1))
    assert one == pytest.approx(other, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_models_of_few_layers(layers: int) -> None:
    model = depthsig.load(llama(layers), byte_tokenizer())
    prompts = _ready(model)
    found = pruning_runs(model, prompts[:2], prompts[1:], "made", memory="1GiB", show=QUIET)
    assert set(found["condition"]) == {0, 1} and np.isfinite(found[found["item"] != 2]["loss"]).all()
    again = repeat_runs(model, None, ["variables1"], n=2, seed=0, max_tokens=256, memory="1GiB", show=QUIET)
    assert len(again) == 8 and np.isfinite(again["loss"]).all()


def test_prompts_without_a_next_token_choose_nothing_and_stop_nothing() -> None:
    model = depthsig.load(llama(3), byte_tokenizer())
    (one,) = ready_prompts(["xy"], model).tokens
    found = pruning_runs(model, [one], [one], "made", memory="1GiB", show=QUIET)
    assert found["loss"].isna().all()
