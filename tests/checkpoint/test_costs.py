"""What a token costs: FLOPs against torch's own counter, keys and values against a real cache, parameters by hooks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import FAMILIES, VOCAB, build, byte_tokenizer, looped_model
from looped_cases import CASES
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import depthsig
from depthsig.checkpoint.costs.counted import CONTEXT, Costs
from depthsig.checkpoint.costs.trained import told_training
from depthsig.plan.order import parse_order

TOKENS = 16


def plain_flops(run: Callable[[Tensor], Any], tokens: int = TOKENS) -> int:
    """FLOPs of one forward as torch counts them, where attention is made of products that it knows."""
    ids = torch.arange(3, 3 + tokens)[None]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(ids)
    return counter.get_total_flops()


def told_flops(costs: Costs, tokens: int = TOKENS) -> int:
    """The same by what is counted: every token with the whole of the context, as masks are computed."""
    assert costs.matmul_flops is not None and costs.attention_flops is not None
    return tokens * (costs.matmul_flops + tokens * costs.attention_flops)


def eager(module: nn.Module) -> nn.Module:
    """With attention and experts as plain products, which the counter sees."""
    module.config._attn_implementation = module.config._experts_implementation = "eager"
    return module


def tiny(kind: str) -> nn.Module:
    """Forms of attention and of experts that the families of other tests do not have."""
    common = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_experts_per_tok": 2, "max_position_embeddings": 128, "pad_token_id": 0}  # fmt: skip
    configs = {
        "latent attention": lambda: hf.DeepseekV3Config(
            **common, num_key_value_heads=4, intermediate_size=64, moe_intermediate_size=16, n_routed_experts=4,
            n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=12, kv_lora_rank=8, qk_rope_head_dim=4,
            qk_nope_head_dim=8, v_head_dim=8,
        ),
        "stacked experts": lambda: hf.Qwen3MoeConfig(
            **{**common, "num_experts_per_tok": 3}, num_key_value_heads=2, head_dim=8, intermediate_size=64,
            moe_intermediate_size=16, num_experts=8,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return eager(hf.AutoModelForCausalLM.from_config(configs[kind]()).eval())


def costs_of(module: nn.Module, **options: Any) -> Costs:
    return depthsig.load(module, byte_tokenizer(), **options).costs


ATTENDING = [name for name in FAMILIES if name != "mamba2"]


@cache
def costs_of_family(name: str) -> Costs:
    """Opening a model is what takes time here."""
    return costs_of(build(name))


@pytest.mark.parametrize("name", ATTENDING)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    module, costs = eager(build(name)), costs_of_family(name)
    assert told_flops(costs) == plain_flops(lambda ids: module(ids, use_cache=False)) and costs.notes == ()


@pytest.mark.parametrize("kind", ["latent attention", "stacked experts"])
def test_flops_of_latent_attention_and_chosen_experts(kind: str) -> None:
    module = tiny(kind)
    costs = costs_of(module)
    assert told_flops(costs) == plain_flops(lambda ids: module(ids, use_cache=False))
    every = sum(p.numel() for name, p in module.named_parameters() if ".experts." in name)
    chosen = {"latent attention": 2 / 4, "stacked experts": 3 / 8}[kind]
    rest = costs.parameters - every - module.model.embed_tokens.weight.numel()
    assert costs.parameters_read == rest + every * chosen  # of what is stored, the active part


LOOPS = [name for name in CASES if name not in ("zamba2", "loopformer")]


@pytest.mark.parametrize("name", LOOPS)
def test_loops_count_every_pass(name: str) -> None:
    case = CASES[name]
    module = case.build()
    assert told_flops(costs_of(module)) == plain_flops(lambda ids: case.call(module, ids))


def test_what_is_made_of_a_pass_and_no_token_is_not_counted_a_token() -> None:
    """LoopFormer makes six vectors of the time, once a pass: 1.5 % here, nothing at a real context."""
    case = CASES["loopformer"]
    module = case.build()
    seen = plain_flops(lambda ids: case.call(module, ids), 64)
    assert told_flops(costs_of(module), 64) < seen < 1.02 * told_flops(costs_of(module), 64)


def test_what_a_layer_without_attention_does_beside_is_said_not_to_count() -> None:
    costs = costs_of(build("mamba2"))
    assert costs.kv_bytes == 0 == costs.attention_flops and "without attention" in costs.notes[0]
    zamba = costs_of(CASES["zamba2"].build())  # of both kinds
    assert zamba.kv_bytes and zamba.attention_flops and zamba.notes == costs.notes


def test_attention_of_an_unknown_form_is_not_guessed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.mlp = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(x.cumsum(1))
            return x + self.mlp(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layers = nn.Embedding(VOCAB, 16), nn.ModuleList([Odd() for _ in range(3)])
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, VOCAB)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    costs = costs_of(Model().eval())
    assert costs.flops is None and costs.kv_bytes is None and "not known" in costs.notes[0]
    assert costs.matmul_flops == 2 * (3 * 2 * 16 * 16 + 16 * VOCAB)
    assert costs.parameters_without_embeddings == 3 * 2 * (16 * 16 + 16) + 2 * 16


def cached_bytes(module: nn.Module) -> float:
    """What four tokens leave in a cache, a token."""
    with torch.no_grad():
        cache = module(torch.tensor([[5, 6, 7, 8]]), use_cache=True).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 4


@pytest.mark.parametrize("name", [name for name in ATTENDING if name != "falcon_new"])
def test_keys_and_values_are_those_of_a_real_cache(name: str) -> None:
    assert costs_of_family(name).kv_bytes == cached_bytes(build(name))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_keys_and_values_of_half_the_bytes(name: str) -> None:
    module = build(name, dtype=torch.bfloat16)
    assert costs_of(module).kv_bytes == cached_bytes(module) == costs_of_family(name).kv_bytes / 2


def test_keys_and_values_by_group_latent_and_looped() -> None:
    """Falcon's own cache repeats grouped keys for every head; what they are is two heads of eight."""
    assert costs_of_family("falcon_new").kv_bytes == 4 * 2 * 2 * 8 * 4
    module = tiny("latent attention")
    assert costs_of(module).kv_bytes == cached_bytes(module)
    plain, looped = costs_of_family("llama"), costs_of(looped_model())
    assert plain.kv_bytes == 4 * 2 * 2 * 8 * 4 and looped.kv_bytes == 2 * plain.kv_bytes  # eight steps of four layers


def plain_reads(module: nn.Module, ids: Tensor) -> tuple[int, int]:
    """Parameters that a forward reads, each once and as often as it is read, by hooks; tables are looked up."""
    calls: Counter[nn.Module] = Counter()
    modules = [m for m in module.modules() if list(m.parameters(recurse=False)) and not isinstance(m, nn.Embedding)]
    handles = [m.register_forward_hook(lambda m, args, out: calls.update([m])) for m in modules]
    with torch.no_grad():
        module(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    once = {p.data_ptr(): p.numel() for m in calls for p in m.parameters(recurse=False)}
    often = sum(count * p.numel() for m, count in calls.items() for p in m.parameters(recurse=False))
    return sum(once.values()), often


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_tied", "bloom", "opt_350m", "looped", "tied", "ouro"])
def test_parameters_by_plain_sums(name: str) -> None:
    module = looped_model() if name == "looped" else CASES[name].build() if name in CASES else build(name)
    costs = costs_of(module)
    assert (costs.parameters_read, costs.parameters_read_repeated) == plain_reads(module, torch.tensor([[5, 6, 7]]))
    stored = {p.data_ptr(): p.numel() for p in module.parameters()}
    assert costs.parameters == sum(stored.values())
    head = module.get_output_embeddings().weight.data_ptr()
    tables = {m.weight.data_ptr() for m in module.modules() if isinstance(m, nn.Embedding)} | {head}
    without = sum(size for at, size in stored.items() if at not in tables)
    bias = module.get_output_embeddings().bias
    assert costs.parameters_without_embeddings == without - (0 if bias is None else bias.numel())


def test_tied_and_untied_heads_are_the_same_without_embeddings() -> None:
    tied, untied = costs_of_family("llama_tied"), costs_of_family("llama")
    assert tied.parameters_without_embeddings == untied.parameters_without_embeddings
    assert untied.parameters - tied.parameters == VOCAB * 32 and tied.flops == untied.flops


def test_a_declared_order_costs_what_its_expanded_model_does() -> None:
    order = "0:1,1:3x3,3:4"
    costs = costs_of(build("llama"), order=order)
    expanded = build("llama")
    expanded.model.layers = nn.ModuleList([expanded.model.layers[i] for i in parse_order(order, 4)])
    expanded.config.num_hidden_layers = 8
    assert told_flops(costs) == plain_flops(lambda ids: eager(expanded)(ids, use_cache=False))
    native = costs_of_family("llama")
    assert costs.parameters_read == native.parameters_read and costs.kv_bytes == 2 * native.kv_bytes
    assert costs.parameters_read_repeated - native.parameters_read == 2 * sum(
        p.numel() for layer in expanded.model.layers[1:3] for p in layer.parameters()
    )
    left_out = costs_of(build("llama"), order="0:2")
    assert left_out.parameters == native.parameters and left_out.parameters_read < native.parameters_read


def test_costs_of_the_shipped_family_are_those_of_its_recipe() -> None:
    from data.recipe.compute import layer_flops
    from data.recipe.model import Shape

    shape = Shape()
    for arm, parameters in (("baseline", 4_856_192), ("looped", 2_444_672)):
        model = depthsig.load(f"family-{arm}")
        costs = model.costs
        assert costs.flops == 24 * layer_flops(shape) + 2 * shape.vocab * shape.width and costs.context == 128
        assert (costs.parameters, costs.parameters_read_repeated) == (parameters, 4_856_192)
        tokens, flops = (model.checkpoint.trained[name] for name in ("training_tokens", "training_flops"))
        assert flops == 3 * tokens * costs.flops


def test_context_is_short_where_the_model_is() -> None:
    assert costs_of_family("llama").context == 128
    assert costs_of_family("bloom").context == CONTEXT  # reaches as far as one likes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"tokens": 5, "training_flops": 7}', {"training_tokens": 5, "training_flops": 7}),
        ('{"tokens": 5, "training_flops": "many"}', {"training_tokens": 5}),
        ('{"tokens": true, "training_flops": -1}', {}), ('{"results": {"arc": 0.5}}', {}), ("[1]", {}), ("{", {}),
        (json.dumps({"tokens": 1 << 130}), {}), ("[" * 100_000, {}),
    ],
    ids=["both", "one", "no counts", "of another program", "a list", "cut", "huge", "deep"],
)  # fmt: skip
def test_training_is_told_by_files_of_this_form_only(tmp_path: Path, content: str, told: dict[str, int]) -> None:
    assert told_training(tmp_path) == {}
    (tmp_path / "results.json").write_text(content)
    assert told_training(tmp_path) == told
