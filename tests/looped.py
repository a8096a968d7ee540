"""Small looped models, written from descriptions of what published ones do: same names, same loops.

Every class can be saved with its own code and loaded again as remote code. Blocks are ordinary
(RMSNorm, causal attention, SwiGLU) unless a family's own form matters to depthsig.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        rows, tokens, width = x.shape
        q, k, v = (
            p(x).view(rows, tokens, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, tokens, width))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm: h + attn(norm(h)), then + mlp(norm(h))."""

    def __init__(self, width, heads):
        super().__init__()
        self.self_attn, self.mlp = Attention(width, heads), MLP(width)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width), RMSNorm(width)

    def forward(self, hidden_states, **kwargs):
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LoopedConfig(PretrainedConfig):
    model_type = "looped"

    def __init__(self, vocab_size=272, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class LoopedPreTrainedModel(PreTrainedModel):
    config_class = LoopedConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# Ouro: the whole stack total_ut_steps times, final norm at the end of every pass, exit gate.


class OuroConfig(LoopedConfig):
    model_type = "ouro"

    def __init__(self, total_ut_steps=4, early_exit_threshold=1.0, **kwargs):
        self.total_ut_steps, self.early_exit_threshold = total_ut_steps, early_exit_threshold
        super().__init__(**kwargs)


class OuroDecoderLayer(nn.Module):
    """Sandwich norms: h + norm(attn(norm(h))), h + norm(mlp(norm(h)))."""

    def __init__(self, width, heads):
        super().__init__()
        self.self_attn, self.mlp = Attention(width, heads), MLP(width)
        self.input_layernorm, self.input_layernorm_2 = RMSNorm(width), RMSNorm(width)
        self.post_attention_layernorm, self.post_attention_layernorm_2 = RMSNorm(width), RMSNorm(width)

    def forward(self, hidden_states, current_ut=0, **kwargs):
        hidden_states = hidden_states + self.input_layernorm_2(self.self_attn(self.input_layernorm(hidden_states)))
        return hidden_states + self.post_attention_layernorm_2(self.mlp(self.post_attention_layernorm(hidden_states)))


class OuroModel(LoopedPreTrainedModel):
    config_class = OuroConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            OuroDecoderLayer(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size)
        self.early_exit_gate = nn.Linear(config.hidden_size, 1)
        self.total_ut_steps = config.total_ut_steps
        self.post_init()

    def forward(self, input_ids, use_cache=None, **kwargs):
        hidden_states = self.embed_tokens(input_ids)
        hidden_states_list, gate_list = [], []
        for current_ut in range(self.total_ut_steps):
            for layer in self.layers:
                hidden_states = layer(hidden_states, current_ut=current_ut)
            hidden_states = self.norm(hidden_states)
            hidden_states_list.append(hidden_states)
            gate_list.append(self.early_exit_gate(hidden_states))
        return hidden_states, hidden_states_list, gate_list


class OuroForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = OuroConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = OuroModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, use_cache=None, **kwargs):
        hidden_states, _, _ = self.model(input_ids)
        return CausalLMOutputWithPast(logits=self.lm_head(hidden_states))


# Nanbeige: the whole stack num_loops times, final norm after each loop.


class NanbeigeConfig(LoopedConfig):
    model_type = "nanbeige"

    def __init__(self, num_loops=2, skip_loop_final_norm=False, loop_middle_layers=None, **kwargs):
        self.num_loops, self.skip_loop_final_norm, self.loop_middle_layers = (
            num_loops,
            skip_loop_final_norm,
            loop_middle_layers,
        )
        super().__init__(**kwargs)


class NanbeigeForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = NanbeigeConfig

    def __init__(self, config):
        super().__init__(config)
        inner = nn.Module()
        inner.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        inner.layers = nn.ModuleList(
            DecoderLayer(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        inner.norm = RMSNorm(config.hidden_size)
        self.model = inner
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, use_cache=None, **kwargs):
        hidden_states = self.model.embed_tokens(input_ids)
        for loop in range(self.config.num_loops):
            for layer in self.model.layers:
                hidden_states = layer(hidden_states)
            if loop == self.config.num_loops - 1 or not self.config.skip_loop_final_norm:
                hidden_states = self.model.norm(hidden_states)
        return CausalLMOutputWithPast(logits=self.lm_head(hidden_states))


# Huginn: prelude, [adapter(cat[x, prelude]), core] x R from a random state, ln_f, coda, ln_f.


class RavenConfig(LoopedConfig):
    model_type = "huginn_raven"

    def __init__(
        self, n_layers_in_prelude=1, n_layers_in_recurrent_block=2, n_layers_in_coda=1, mean_recurrence=3, **kwargs
    ):
        self.n_layers_in_prelude, self.n_layers_in_coda = n_layers_in_prelude, n_layers_in_coda
        self.n_layers_in_recurrent_block, self.mean_recurrence = n_layers_in_recurrent_block, mean_recurrence
        super().__init__(**kwargs)


class SandwichBlock(nn.Module):
    """The norm sits on the residual: norm(attn(norm(x)) + x), so updates are not additive."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3, self.norm_4 = (RMSNorm(width) for _ in range(4))
        self.attn, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, x, freqs_cis=None, step_idx=0, mask=None):
        x = self.norm_2(self.attn(self.norm_1(x)) + x)
        return self.norm_4(self.mlp(self.norm_3(x)) + x)


class RavenForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = RavenConfig
    block, state_std = SandwichBlock, 0.4

    def __init__(self, config):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads

        def blocks(n):
            return nn.ModuleList(self.block(width, heads) for _ in range(n))

        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, width),
            "prelude": blocks(config.n_layers_in_prelude),
            "adapter": nn.Linear(2 * width, width, bias=False),
            "core_block": blocks(config.n_layers_in_recurrent_block),
            "coda": blocks(config.n_layers_in_coda),
            "ln_f": RMSNorm(width),
        })  # fmt: skip
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def initialize_state(self, embeds):
        x = torch.randn_like(embeds)
        return nn.init.trunc_normal_(x, std=self.state_std, a=-3 * self.state_std, b=3 * self.state_std)

    def forward(self, input_ids, input_states=None, num_steps=None, use_cache=None, **kwargs):
        parts = self.transformer
        x = parts["wte"](input_ids)
        for i, block in enumerate(parts["prelude"]):
            x = block(x, None, i)
        embeds = x
        x = self.initialize_state(embeds) if input_states is None else input_states
        if num_steps is None:
            num_steps = int(torch.poisson(torch.tensor([float(self.config.mean_recurrence)]))) + 1
        for step in range(num_steps):
            x = parts["adapter"](torch.cat([x, embeds], dim=-1))
            for i, block in enumerate(parts["core_block"]):
                x = block(x, None, step * len(parts["core_block"]) + i)
        x = parts["ln_f"](x)
        for i, block in enumerate(parts["coda"]):
            x = block(x, None, -i)
        return {"logits": self.lm_head(parts["ln_f"](x)), "loss": None}


# Parcae: as Huginn, with a diagonal injection and a readout matrix after the loop.


class ParcaeConfig(RavenConfig):
    model_type = "parcae"

    def __init__(self, injection_type="diagonal", **kwargs):
        self.injection_type = injection_type
        super().__init__(**kwargs)


class PreNormBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm_1, self.norm_2 = RMSNorm(width), RMSNorm(width)
        self.attn, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, x, freqs_cis=None, mask=None):
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class ParcaeForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = ParcaeConfig

    def __init__(self, config):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, width),
            "prelude": nn.ModuleList(PreNormBlock(width, heads) for _ in range(config.n_layers_in_prelude)),
            "core_block": nn.ModuleList(PreNormBlock(width, heads) for _ in range(config.n_layers_in_recurrent_block)),
            "readout": nn.Linear(width, width, bias=False),
            "coda": nn.ModuleList(PreNormBlock(width, heads) for _ in range(config.n_layers_in_coda)),
            "ln_f": RMSNorm(width),
        })  # fmt: skip
        self.log_decay, self.gain = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.ones(width))
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, labels=None, num_steps_pair=None):
        parts = self.transformer
        e = parts["wte"](input_ids)
        for block in parts["prelude"]:
            e = block(e)
        x = torch.randn_like(e) * 0.02
        if num_steps_pair is None:
            num_steps_pair = torch.tensor([int(torch.randint(1, 8, (1,))), 0])
        decay = torch.exp(-torch.exp(self.log_decay))
        for _ in range(int(num_steps_pair.sum())):
            x = decay * x + self.gain * e
            for block in parts["core_block"]:
                x = block(x)
        x = parts["readout"](x)
        for block in parts["coda"]:
            x = block(x)
        return None, self.lm_head(parts["ln_f"](x))


# Retrofitted recurrence: a pretrained model's pre-norm layers in Huginn's loop, under Huginn's names.


class RetrofittedForCausalLM(RavenForCausalLM):
    block = PreNormBlock


# LoopFormer: a few blocks, once for every step size, conditioned on (t, dt) by adaLN.


class LoopFormerConfig(LoopedConfig):
    model_type = "loopformer"

    def __init__(self, n_loop=3, **kwargs):
        self.n_loop = n_loop
        super().__init__(**kwargs)


class AdaBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = RMSNorm(width), RMSNorm(width)
        self.attn, self.mlp = Attention(width, heads), MLP(width)
        self.adaLN = nn.Linear(width, 6 * width)

    def forward(self, x, c):
        s1, b1, g1, s2, b2, g2 = self.adaLN(F.silu(c)).chunk(6, dim=-1)
        x = x + (1 + g1) * self.attn((1 + s1) * self.ln_1(x) + b1)
        return x + (1 + g2) * self.mlp((1 + s2) * self.ln_2(x) + b2)


class LoopFormerForCausalLM(LoopedPreTrainedModel):
    config_class = LoopFormerConfig

    def __init__(self, config):
        super().__init__(config)
        width, heads = config.hidden_size, config.num_attention_heads
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, width),
            "h": nn.ModuleList(AdaBlock(width, heads) for _ in range(config.num_hidden_layers)),
            "ln_f": RMSNorm(width),
        })  # fmt: skip
        self.time = nn.Linear(2, width)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, idx, steps):
        x, t = self.transformer["wte"](idx), 0.0
        for dt in steps:
            c = self.time(torch.tensor([[[math.cos(t), dt]]], dtype=x.dtype))
            for block in self.transformer["h"]:
                x = block(x, c)
            t += dt
        return self.lm_head(self.transformer["ln_f"](x))


# ALBERT: num_hidden_groups groups of layers, spread over num_hidden_layers; here as a causal model.


class AlbertLikeConfig(LoopedConfig):
    model_type = "albert_like"

    def __init__(self, num_hidden_groups=2, num_hidden_layers=6, **kwargs):
        self.num_hidden_groups = num_hidden_groups
        super().__init__(num_hidden_layers=num_hidden_layers, **kwargs)


class AlbertLikeForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = AlbertLikeConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = nn.Module()
        self.encoder.albert_layer_groups = nn.ModuleList(
            DecoderLayer(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_groups)
        )
        self.norm = RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, use_cache=None, **kwargs):
        x = self.embeddings(input_ids)
        for i in range(self.config.num_hidden_layers):
            group = int(i / (self.config.num_hidden_layers / self.config.num_hidden_groups))
            x = self.encoder.albert_layer_groups[group](x)
        return CausalLMOutputWithPast(logits=self.lm_head(self.norm(x)))


# Mixture-of-Recursions: separate modules whose parameters are tied in a cycle.


class TiedConfig(LoopedConfig):
    model_type = "tied_cycle"

    def __init__(self, num_recursion=3, **kwargs):
        self.num_recursion = num_recursion
        super().__init__(**kwargs)


class TiedForCausalLM(LoopedPreTrainedModel, GenerationMixin):
    config_class = TiedConfig

    def __init__(self, config):
        super().__init__(config)
        n = config.num_hidden_layers
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(
            DecoderLayer(config.hidden_size, config.num_attention_heads) for _ in range(n * config.num_recursion)
        )
        self.model.norm = RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        for i, layer in enumerate(self.model.layers):
            for name, parameter in list(self.model.layers[i % n].named_parameters()):
                owner, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(owner), leaf, parameter)

    def forward(self, input_ids, use_cache=None, **kwargs):
        x = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x)
        return CausalLMOutputWithPast(logits=self.lm_head(self.model.norm(x)))
