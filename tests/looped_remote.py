"""Looped models as their authors' own code has them, small: same names, same loops, same ways of being called.

Written from what that code does, and saved beside weights as remote code (``remote_cases``): it imports nothing of
the tests.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class RemoteConfig(PretrainedConfig):
    model_type = "remote"

    def __init__(self, vocab_size=272, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads, self.head_dim = kwargs.pop("num_key_value_heads", 2), kwargs.pop("head_dim", 12)
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class RemotePreTrainedModel(PreTrainedModel):
    config_class = RemoteConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rotated(x, start):
    """Rotary embedding of the halves of [row, head, token, size], from position ``start`` on."""
    half = x.shape[-1] // 2
    angles = torch.arange(start, start + x.shape[2])[:, None] / 1e4 ** (torch.arange(half) / half)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Cache:
    """Keys and values by slot: a pass of a layer has a slot of its own."""

    def __init__(self):
        self.slots = {}

    def update(self, slot, keys, values):
        if slot in self.slots:
            old = self.slots[slot]
            keys, values = torch.cat([old[0], keys], dim=2), torch.cat([old[1], values], dim=2)
        self.slots[slot] = keys, values
        return keys, values

    def seen(self):
        return next(iter(self.slots.values()))[0].shape[2] if self.slots else 0


def attend(q, k, v, mask):
    """Grouped-query attention of [row, head, token, size] → [row, token, head · size]; mask says what is seen."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def causal(queries, keys, window=None):
    """Which of so many keys so many last queries see."""
    at = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None]
    return (at >= 0) if window is None else (at >= 0) & (at < window)


class GroupedAttention(nn.Module):
    """A head's size is not the width's share: q: 32 → 48, o: 48 → 32, as in Nanbeige."""

    def __init__(self, config, layer_idx):
        super().__init__()
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim, self.layer_idx, self.window = size, layer_idx, getattr(config, "loop_window_size", 0)
        self.q_proj = nn.Linear(config.hidden_size, heads * size, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(config.hidden_size, groups * size, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(heads * size, config.hidden_size, bias=False)

    def heads(self, x, start):
        q, k, v = (
            p(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotated(q, start), rotated(k, start), v

    def forward(self, hidden_states, past_key_values=None, slot=None, start=0, gate_proj=None):
        q, k, v = self.heads(hidden_states, start)
        if past_key_values is not None:
            k, v = past_key_values.update(self.layer_idx if slot is None else slot, k, v)
        return self.o_proj(attend(q, k, v, causal(q.shape[2], k.shape[2])))


class GatedMLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RemoteLayer(nn.Module):
    attention = GroupedAttention

    def __init__(self, config, layer_idx):
        super().__init__()
        width = config.hidden_size
        self.self_attn, self.layer_idx = self.attention(config, layer_idx), layer_idx
        self.mlp = GatedMLP(width)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width), RMSNorm(width)

    def forward(self, hidden_states, *args, **kwargs):
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Stack(RemotePreTrainedModel, GenerationMixin):
    """Embeddings, layers, norm and head under the names of Llama; ``run`` says how the layers run."""

    layer = RemoteLayer

    def __init__(self, config):
        super().__init__(config)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(self.layer(config, i) for i in range(config.num_hidden_layers))
        self.model.norm = RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.grow(config)
        self.post_init()

    def grow(self, config):
        """What a family has beside that."""

    def forward(self, input_ids, past_key_values=None, use_cache=None, **kwargs):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = (past_key_values or Cache()) if use_cache else None
        x = self.run(self.model.embed_tokens(input_ids), cache, 0 if cache is None else cache.seen())
        return CausalLMOutputWithPast(logits=self.lm_head(x), past_key_values=cache)


# Nanbeige 4.2: the stack num_loops times, its norm after each; a pass has its own keys, in slot layer + loop · L.


class NanbeigeRemoteConfig(RemoteConfig):
    model_type = "nanbeige"

    def __init__(self, num_loops=2, skip_loop_final_norm=False, loop_middle_layers=None, **kwargs):
        self.num_loops, self.skip_loop_final_norm = num_loops, skip_loop_final_norm
        self.loop_middle_layers = loop_middle_layers
        super().__init__(use_cache=kwargs.pop("use_cache", True), **kwargs)


class NanbeigeRemoteForCausalLM(Stack):
    config_class = NanbeigeRemoteConfig

    def run(self, x, cache, start):
        loops = self.config.num_loops
        for loop in range(loops):
            for i, layer in enumerate(self.model.layers):
                x = layer(x, past_key_values=cache, slot=i + loop * len(self.model.layers), start=start)
            if loop == loops - 1 or not self.config.skip_loop_final_norm:
                x = self.model.norm(x)
        return x


# IQuest-Coder-Loop: from the second pass on, a head mixes attention on the first pass's keys, in full, with attention
# on its own, within a window. It needs its cache: without one there are no keys of the first pass.


class IQuestRemoteConfig(RemoteConfig):
    model_type = "iquestloopcoder"

    def __init__(self, loop_num=2, loop_window_size=8, **kwargs):
        self.loop_num, self.loop_window_size = loop_num, loop_window_size
        super().__init__(use_cache=kwargs.pop("use_cache", True), **kwargs)


class MixingAttention(GroupedAttention):
    def forward(self, hidden_states, loop_idx=0, gate_proj=None, past_key_value=None, start=0):
        if loop_idx == 0:
            return super().forward(hidden_states, past_key_value, start=start)
        q, k, v = self.heads(hidden_states, start)
        shared_k, shared_v = None, None
        if past_key_value is not None:
            shared_k, shared_v = past_key_value.slots[self.layer_idx]
            k, v = past_key_value.update((loop_idx, self.layer_idx), k, v)
        everywhere = attend(q, shared_k, shared_v, causal(q.shape[2], shared_k.shape[2]))
        near = attend(q, k, v, causal(q.shape[2], k.shape[2], self.window))
        gate = gate_proj(q).transpose(1, 2).expand(-1, -1, -1, self.head_dim).flatten(2)
        return self.o_proj(near * (1 - gate) + everywhere * gate)


class MixingLayer(RemoteLayer):
    attention = MixingAttention


class GateOfHeads(nn.Module):
    def __init__(self, heads, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(heads, size)), nn.Parameter(torch.randn(heads))

    def forward(self, query):
        return torch.sigmoid(torch.einsum("bhsd,hd->bhs", query, self.weight) + self.bias[None, :, None]).unsqueeze(-1)


class IQuestRemoteForCausalLM(Stack):
    config_class = IQuestRemoteConfig
    layer = MixingLayer

    def grow(self, config):
        self.loop_num = config.loop_num
        self.gate_projections = nn.ModuleList(
            GateOfHeads(config.num_attention_heads, config.head_dim) for _ in self.model.layers
        )

    def run(self, x, cache, start):
        for loop in range(self.loop_num):
            for i, layer in enumerate(self.model.layers):
                gate = self.gate_projections[i] if loop else None
                x = layer(x, loop, gate_proj=gate, past_key_value=cache, start=start)
        return self.model.norm(x)


# A looped mixture of experts under a name that says nothing of it: what is refused by name runs exactly all the same.


class RoutedRemoteConfig(RemoteConfig):
    model_type = "routed"

    def __init__(self, num_loops=3, num_experts=4, **kwargs):
        self.num_loops, self.num_experts = num_loops, num_experts
        super().__init__(**kwargs)


class RoutedMLP(nn.Module):
    def __init__(self, width, experts):
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(width) for _ in range(experts))

    def forward(self, x):
        best, which = self.router(x).softmax(-1).topk(2, dim=-1)
        of_all = torch.stack([expert(x) for expert in self.experts], dim=-2)
        chosen = of_all.gather(-2, which.unsqueeze(-1).expand(*which.shape, x.shape[-1]))
        return (best.unsqueeze(-1) * chosen).sum(-2)


class RoutedLayer(RemoteLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.mlp = RoutedMLP(config.hidden_size, config.num_experts)


class RoutedRemoteForCausalLM(Stack):
    config_class = RoutedRemoteConfig
    layer = RoutedLayer

    def run(self, x, cache, start):
        for loop in range(self.config.num_loops):
            for i, layer in enumerate(self.model.layers):
                x = layer(x, past_key_values=cache, slot=(loop, i), start=start)
        return self.model.norm(x)


# MobileLLM-LS: every layer twice in a row.


class MobileRemoteConfig(RemoteConfig):
    model_type = "mobilellm"

    def __init__(self, layer_sharing=True, **kwargs):
        self.layer_sharing = layer_sharing
        super().__init__(**kwargs)


class MobileRemoteForCausalLM(Stack):
    config_class = MobileRemoteConfig

    def run(self, x, cache, start):
        for layer in self.model.layers:
            for again in range(2 if self.config.layer_sharing else 1):
                x = layer(x, past_key_values=cache, slot=(layer.layer_idx, again), start=start)
        return self.model.norm(x)


# Mixture-of-Recursions without its router: separate layers whose matrices are tied as recursive.sharing says; norms
# are tied only where ln_share says so.


class RecursionRemoteConfig(RemoteConfig):
    model_type = "mor"

    def __init__(self, recursive=None, **kwargs):
        self.recursive = recursive or {"sharing": "cycle", "num_recursion": 2, "ln_share": False}
        super().__init__(**kwargs)


class RecursionRemoteForCausalLM(Stack):
    config_class = RecursionRemoteConfig

    def tie_weights(self, *args, **kwargs):
        super().tie_weights(*args, **kwargs)
        layers, said = self.model.layers, self.config.recursive
        times = said["num_recursion"]
        for i in range(len(layers)):
            first = i % (len(layers) // times) if said["sharing"] == "cycle" else i // times * times
            for name, parameter in list(layers[first].named_parameters()):
                if first != i and ("layernorm" not in name or said["ln_share"]):
                    owner, _, leaf = name.rpartition(".")
                    setattr(layers[i].get_submodule(owner), leaf, parameter)

    def run(self, x, cache, start):
        for i, layer in enumerate(self.model.layers):
            x = layer(x, past_key_values=cache, slot=i, start=start)
        return self.model.norm(x)


# LoopFormer and its baseline, as nanoGPT: blocks in a shared block, steps in the call, and logits of the last token
# alone where no targets are given.


class LoopFormerRemoteConfig(RemoteConfig):
    model_type = "loopformer"

    def __init__(self, n_embd=32, n_head=4, n_layer=3, block_size=128, **kwargs):
        self.n_embd, self.n_head, self.n_layer, self.block_size = n_embd, n_head, n_layer, block_size
        super().__init__(hidden_size=kwargs.pop("hidden_size", n_embd), **kwargs)


class BaseLoopRemoteConfig(LoopFormerRemoteConfig):
    model_type = "base_loop"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class GPTAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        q, k, v = (t.unflatten(2, (self.n_head, -1)).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=2))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class GPTMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 2 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(2 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class BaseBlock(nn.Module):
    timed = False

    def __init__(self, config):
        super().__init__()
        self.norm_1, self.norm_2 = (nn.RMSNorm(config.n_embd, elementwise_affine=not self.timed) for _ in range(2))
        self.attn, self.mlp = GPTAttention(config), GPTMLP(config)

    def forward(self, x):
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class LoopFormerBlock(BaseBlock):
    """Gates and scales from the time and the step size: adaLN without shifts, on norms without weights."""

    timed = True

    def __init__(self, config):
        super().__init__(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.n_embd, 4 * config.n_embd))

    def forward(self, x, c):
        gate_1, gate_2, scale_1, scale_2 = (t.unsqueeze(1) for t in self.adaLN_modulation(c).chunk(4, dim=1))
        x = x + gate_1 * self.attn(self.norm_1(x) * (1 + scale_1))
        return x + gate_2 * self.mlp(self.norm_2(x) * (1 + scale_2))


class TimestepEmbedder(nn.Module):
    def __init__(self, width, size=16):
        super().__init__()
        self.size = size
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t):
        half = self.size // 2
        args = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)[None]
        return self.mlp(torch.cat([args.cos(), args.sin()], dim=-1).to(self.mlp[0].weight.dtype))


class SharedBlock(nn.Module):
    def __init__(self, config, block):
        super().__init__()
        self.blocks = nn.ModuleList(block(config) for _ in range(config.n_layer))

    def forward(self, x, *c):
        for block in self.blocks:
            x = block(x, *c)
        return x


class BaseLoopRemoteForCausalLM(RemotePreTrainedModel):
    config_class = BaseLoopRemoteConfig
    block = BaseBlock
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "wpe": nn.Embedding(config.block_size, config.n_embd),
            "h": SharedBlock(config, self.block),
            "norm_f": nn.RMSNorm(config.n_embd),
        })  # fmt: skip
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.grow(config)
        self.post_init()

    def grow(self, config):
        """What LoopFormer has beside that."""

    def get_input_embeddings(self):
        return self.transformer["wte"]

    def get_output_embeddings(self):
        return self.lm_head

    def embed(self, idx):
        return self.transformer["wte"](idx) + self.transformer["wpe"](torch.arange(idx.shape[1]))

    def told(self, x, targets):
        x = self.transformer["norm_f"](x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None, x
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1), x

    def forward(self, idx, targets=None, steps=8):
        x = self.embed(idx)
        for _ in range(steps):
            x = self.transformer["h"](x)
        return self.told(x, targets)


class LoopFormerRemoteForCausalLM(BaseLoopRemoteForCausalLM):
    config_class = LoopFormerRemoteConfig
    block = LoopFormerBlock

    def grow(self, config):
        self.time_embedder, self.dt_embedder = TimestepEmbedder(config.n_embd), TimestepEmbedder(config.n_embd)

    def forward(self, idx, targets=None, steps=[1 / 8] * 8):
        x = self.embed(idx)
        t = torch.zeros(x.shape[0])
        for dt in steps:
            x = self.transformer["h"](x, self.time_embedder(t) + self.dt_embedder(torch.ones_like(t) * dt))
            t = t + dt
        return self.told(x, targets)


# LoopUS: a pretrained model's layers as encoder, reasoning block and decoder; the middle N times, each pass mixed with
# what it began from, and left early by whoever is sure of the last token.


class LDSRemoteConfig(RemoteConfig):
    model_type = "lds"

    def __init__(self, N=3, q_threshold=0.9, halting_strategy="threshold", convergence_epsilon=1e-2, **kwargs):
        self.N, self.q_threshold = N, q_threshold
        self.halting_strategy, self.convergence_epsilon = halting_strategy, convergence_epsilon
        super().__init__(num_hidden_layers=kwargs.pop("num_hidden_layers", 4), **kwargs)


class SelectiveGate(nn.Module):
    def __init__(self, width):
        super().__init__()
        rank = math.ceil(width / 16)
        self.delta_proj, self.dt_input_proj = nn.Linear(rank, width), nn.Linear(width, rank, bias=False)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, width + 1) / 8))

    def forward(self, h_new, h_old):
        delta = F.softplus(self.delta_proj(self.dt_input_proj(h_new - h_old)))
        kept = torch.exp(-delta * torch.exp(self.A_log))
        return kept * h_new + (1 - kept) * h_old


class Section(nn.Module):
    def __init__(self, config, indices):
        super().__init__()
        self.layers = nn.ModuleList(RemoteLayer(config, i) for i in indices)

    def forward(self, hidden_states):
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class ReasoningBlock(Section):
    def __init__(self, config, indices):
        super().__init__(config, indices)
        self.gate = SelectiveGate(config.hidden_size)

    def forward(self, hidden_states):
        return self.gate(super().forward(hidden_states), hidden_states)


class LDSRemoteForCausalLM(RemotePreTrainedModel, GenerationMixin):
    config_class = LDSRemoteConfig

    def __init__(self, config):
        super().__init__(config)
        last = config.num_hidden_layers - 1
        self.N, self.q_threshold, self.halting_strategy = config.N, config.q_threshold, config.halting_strategy
        self.convergence_epsilon = config.convergence_epsilon
        self.encoder, self.decoder = Section(config, [0]), Section(config, [last])
        self.encoder.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.reasoning = ReasoningBlock(config, range(1, last))
        self.decoder.norm = RMSNorm(config.hidden_size)
        self.decoder.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.q_head = nn.Sequential(nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, 1))
        self.post_init()

    def forward(self, input_ids, use_cache=False, **kwargs):
        x = self.encoder(self.encoder.embed_tokens(input_ids))
        active = torch.ones(len(x), dtype=torch.bool)
        for _ in range(self.N):
            if not bool(active.any()):
                break
            before, x = x, torch.where(active.view(-1, 1, 1), self.reasoning(x), x)
            if self.halting_strategy == "convergence":
                active = active & ~((x - before)[:, -1].norm(dim=-1) < self.convergence_epsilon)
            else:
                active = active & ~(torch.sigmoid(self.q_head(x[:, -1]).squeeze(-1)) > self.q_threshold)
        return CausalLMOutputWithPast(logits=self.decoder.lm_head(self.decoder.norm(self.decoder(x))))
