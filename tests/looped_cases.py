"""Every kind of native loop, with what a plain hooked forward needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import looped
import torch
import transformers as hf
from torch import Tensor, nn

from depthsig.checkpoint.draws import PositionalDraws


@dataclass(frozen=True)
class Case:
    """A model, and its steps told by hand: layers in order, where a pass is, how a state is read."""

    build: Callable[[], nn.Module]
    layers: Callable[[nn.Module], Sequence[Any]]
    order: tuple[int, ...]
    read: Callable[[nn.Module, Tensor], Tensor]
    head: Callable[[nn.Module, Tensor], Tensor]
    normed: tuple[int, ...] = ()
    passed: tuple[int, ...] = ()
    call: Callable[[nn.Module, Tensor], Any] = lambda m, ids: m(ids, use_cache=False)
    boundaries: dict[int, str] | None = None


def shaken(model: nn.Module, scale: float = 2.0) -> nn.Module:
    """Random norms and matrices that matter, without making deep loops chaotic."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
            else:
                p.mul_(scale)
    return model.eval()


def _make(cls: Any, config: Any, scale: float = 2.0) -> nn.Module:
    torch.manual_seed(0)
    return shaken(cls(config), scale)


def hrm() -> nn.Module:
    torch.manual_seed(0)
    config = hf.HrmTextConfig(
        vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        prefix_lm=False, initializer_range=0.1,
    )  # fmt: skip
    return shaken(hf.HrmTextForCausalLM(config))


def zamba2() -> nn.Module:
    torch.manual_seed(0)
    config = hf.Zamba2Config(
        vocab_size=272, hidden_size=32, num_hidden_layers=6, mamba_d_state=8, mamba_headdim=8, n_mamba_heads=8,
        mamba_ngroups=1, mamba_expand=2, chunk_size=8, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64, layers_block_type=["mamba", "hybrid"] * 3, num_mem_blocks=1, adapter_rank=4,
        use_shared_attention_adapter=False, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    return shaken(hf.Zamba2ForCausalLM(config))


def x_transformer(steps: int = 3) -> nn.Module:
    from loguru import logger
    from x_transformers import Decoder, TransformerWrapper

    logger.disable("x_transformers")
    torch.manual_seed(0)
    stack = Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, pre_and_post_norm=True, rotary_pos_emb=True)
    return shaken(
        TransformerWrapper(num_tokens=272, max_seq_len=128, attn_layers=stack, looped=True, max_looped_steps=steps), 1.0
    )


def _noisy(**kwargs: Any) -> Callable[[nn.Module, Tensor], Any]:
    def call(module: nn.Module, ids: Tensor) -> Any:
        with PositionalDraws(0):
            return module(ids, **kwargs)

    return call


def _ln_f(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(m.transformer["ln_f"](x))


def _norm(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(m.model.norm(x))


def _head(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(x)


def _parts(m: Any) -> list[nn.Module]:
    return [*m.transformer["prelude"], *m.transformer["core_block"], *m.transformer["coda"]]


L3 = (0, 1, 2)
CASES: dict[str, Case] = {
    "ouro": Case(
        lambda: _make(looped.OuroForCausalLM, looped.OuroConfig()), lambda m: m.model.layers, L3 * 4, _norm, _head,
        normed=(3, 6, 9), passed=(3, 4, 5), boundaries=dict.fromkeys((3, 6, 9), "norm(model.norm)"),
    ),
    "nanbeige": Case(
        lambda: _make(looped.NanbeigeForCausalLM, looped.NanbeigeConfig()), lambda m: m.model.layers, L3 * 2, _norm,
        _head, normed=(3,), passed=(3, 4, 5), boundaries={3: "norm(model.norm)"},
    ),
    "huginn": Case(
        lambda: _make(looped.RavenForCausalLM, looped.RavenConfig(), 1.5), _parts, (0, 1, 2, 1, 2, 1, 2, 3), _ln_f,
        _head, normed=(7,), passed=(3, 4), call=_noisy(num_steps=3),
        boundaries={**dict.fromkeys((1, 3, 5), "injection(transformer.adapter)"), 7: "norm(transformer.ln_f)"},
    ),
    "parcae": Case(
        lambda: _make(looped.ParcaeForCausalLM, looped.ParcaeConfig()), _parts, (0, 1, 2, 1, 2, 1, 2, 3), _ln_f, _head,
        passed=(3, 4), call=_noisy(num_steps_pair=torch.tensor([3, 0])),
        boundaries={**dict.fromkeys((1, 3, 5), "injection"), 7: "map(transformer.readout)"},
    ),
    "loopformer": Case(
        lambda: _make(looped.LoopFormerForCausalLM, looped.LoopFormerConfig()), lambda m: m.transformer["h"], L3 * 3,
        _ln_f, _head, passed=(3, 4, 5), call=lambda m, ids: m(ids, [1 / 3] * 3),
    ),
    "albert": Case(
        lambda: _make(looped.AlbertLikeForCausalLM, looped.AlbertLikeConfig()),
        lambda m: m.encoder.albert_layer_groups, (0, 0, 0, 1, 1, 1), lambda m, x: m.lm_head(m.norm(x)), _head,
        passed=(1,),
    ),
    "tied": Case(
        lambda: _make(looped.TiedForCausalLM, looped.TiedConfig()), lambda m: m.model.layers, L3 * 3, _norm, _head,
        passed=(3, 4, 5),
    ),
    "hrm_text": Case(
        hrm, lambda m: [*m.model.L_module.layers, *m.model.H_module.layers], (0, 1, 0, 1, 0, 1, 2, 3) * 2,
        lambda m, x: m.lm_head(m.model.H_module.final_norm(x)), _head, passed=(2, 3),
        boundaries={
            **dict.fromkeys((2, 4, 6, 10, 12, 14), "norm(model.L_module.final_norm) + injection"),
            8: "norm(model.H_module.final_norm) + injection",
        },
    ),
    "zamba2": Case(
        zamba2, lambda m: m.model.layers, tuple(range(6)), lambda m, x: m.lm_head(m.model.final_layernorm(x)), _head,
        passed=(3,),
    ),
}  # fmt: skip


class Naive:
    """A plain forward with one hook a layer that counts its calls; ``edit(step, before, after)`` acts on outputs."""

    def __init__(self, case: Case, model: nn.Module, ids: Tensor, edit: Callable[..., Tensor] | None = None) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        layers = list({id(m): m for m in case.layers(model)}.values())
        handles = []

        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.inputs.append((args[0] if args else kwargs["hidden_states"]).clone())

        def leave(module: nn.Module, args: tuple, output: Any) -> Any:
            step, out = len(self.outputs), output[0] if isinstance(output, tuple) else output
            if edit is not None:
                out = edit(step, self.inputs[step], out)
            self.outputs.append(out.clone())
            return (out, *output[1:]) if isinstance(output, tuple) else out

        for layer in layers:
            handles += [
                layer.register_forward_pre_hook(enter, with_kwargs=True),
                layer.register_forward_hook(leave),
            ]
        with torch.no_grad():
            result = case.call(model, ids)
        for handle in handles:
            handle.remove()
        if isinstance(result, dict):
            result = result["logits"]
        self.logits = next(t for t in result if t is not None) if isinstance(result, tuple) else result
