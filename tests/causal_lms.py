"""Every causal language model that transformers knows, made small by itself, and how depthsig fares with it.

``python tests/causal_lms.py`` writes ``FAMILIES.md`` anew; ``python tests/causal_lms.py NAME …`` only prints.
Nothing here knows where a family keeps its layers. A config is shrunk field by field from its own defaults; what
depthsig finds is held against plain forward hooks on the untouched model, one prompt and one edit at a time.
"""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from families import VOCAB, byte_tokenizer
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
TABLE = Path(__file__).parents[1] / "FAMILIES.md"
PROMPTS = ["Depth is what a model makes of it.", "a4;b7;x2;>b7", "12+34=46; 5"]
MOST_PARAMETERS = 20_000_000
WIDTH, LAYERS, HEADS = 32, 4, 4

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "conv_dim", "block_dim", "embedding_dim"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "linear_num_key_heads", "num_k_heads"), 2),
    **dict.fromkeys(("linear_num_value_heads", "num_v_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "n_inner", "d_ff"), 48),
    **dict.fromkeys(("block_ff_dim", "mlp_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "global_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("attention_head_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_dim", "query_pre_attn_scalar"), 8),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "index_n_heads", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "n_groups", "mamba_n_groups", "num_mem_blocks"), 1),
    **dict.fromkeys(("moe_layer_start_index", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim", "qk_head_dim", "attention_window"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim", "mamba_headdim"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank", "rotary_dim", "laurel_rank"), 4),
    **dict.fromkeys(("expand", "mamba_expand", "altup_num_inputs", "layer_group_size"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"), 128),
    **dict.fromkeys(("sliding_window", "window_size"), 5),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), VOCAB),
    "mamba_d_ssm": 64, "hidden_size_per_layer_input": 8, "index_topk": 6, "final_logit_softcapping": 2.0,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True, "add_cross_attention": False,
    "use_mamba_kernels": False, "prefix_lm": False,
}  # fmt: skip
"""What a field is set to where a config has it; whatever a config derives from these is derived again."""

_ALTERNATING = ["sliding_attention", "full_attention"] * 2
TOLD: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blenderbot": {"decoder_layers": 2},
    "gemma3n_text": {
        "intermediate_size": [48] * 4, "layer_types": _ALTERNATING, "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {"num_kv_shared_layers": 2, "layer_types": _ALTERNATING},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hrm_text": {"num_hidden_layers": 2, "num_layers_per_stack": 2, "H_cycles": 2, "L_cycles": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"full_attn_idxs": [1, 3], "layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"hybrid_override_pattern": "M-*M"},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "num_key_value_heads": 1},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local"] * 4},
    "xlstm": {"qk_dim_factor": 0.5, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "attn_layer_offset": 1, "attn_layer_period": 2, "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3], "n_mamba_heads": 8,
        "mamba_ngroups": 1, "attention_head_dim": 16, "attention_hidden_size": 64,
    },
}  # fmt: skip
"""What only a family's own rules tell: patterns over layers, sizes that must fit each other."""

VARIATIONS: tuple[dict[str, Any], ...] = (
    {}, {"num_key_value_heads": HEADS}, {"num_key_value_heads": HEADS, "head_dim": 16}, {"num_key_value_heads": 1},
)  # fmt: skip
"""Tried in turn: multi-head latent attention wants as many key heads as query heads, for one."""


class NotBuiltSmall(Exception):
    """transformers cannot run the family at this size; the message says why."""


def build(name: str) -> nn.Module:
    """The family at about 50,000 parameters, with norms, biases and matrices that matter.

    Raises:
        NotBuiltSmall: with what transformers said.
    """
    said = ""
    for make in (_made, _set, _direct):
        for variation in VARIATIONS:
            try:
                return _shaken(make(name, {**SIZES, **variation, **TOLD.get(name, {})}), name)
            except Exception as error:  # whatever a family's own code says of a size that it does not take
                said = said or f"{type(error).__name__}: {_first_line(error)}"
    raise NotBuiltSmall(said)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _made(name: str, sizes: dict[str, Any]) -> Any:
    """A config made anew from the fields that it has, so that what it derives is derived from these."""
    default = hf.AutoConfig.for_model(name)
    shrunk = _shrunk(copy.deepcopy(default), sizes, TOLD.get(name, {}))
    values = {k: v for k, v in shrunk.to_dict().items() if k not in ("model_type", "transformers_version")}
    return type(default)(**values)


def _direct(name: str, sizes: dict[str, Any]) -> Any:
    """A config made from nothing but the sizes that it knows; all else is its own default."""

    def arguments(config: Any, told: dict[str, Any]) -> dict[str, Any]:
        known = config.to_dict()
        inner = {k: v for k, v in vars(config).items() if isinstance(v, hf.PretrainedConfig)}
        plain = {k: v for k, v in sizes.items() if k in known and not isinstance(known[k], (list, tuple, dict))}
        return {**plain, **told, **{k: type(v)(**arguments(v, {})) for k, v in inner.items()}}

    default = hf.AutoConfig.for_model(name)
    return type(default)(**arguments(default, TOLD.get(name, {})))


def _set(name: str, sizes: dict[str, Any]) -> Any:
    """A default config whose fields were set one by one."""
    return _shrunk(hf.AutoConfig.for_model(name), sizes, TOLD.get(name, {}))


def _shrunk(config: Any, sizes: dict[str, Any], told: dict[str, Any]) -> Any:
    for inner in list(vars(config).values()):
        if isinstance(inner, hf.PretrainedConfig):
            _shrunk(inner, sizes, {})
    before = getattr(config, "num_hidden_layers", None)
    for field, value in sizes.items():
        if not hasattr(config, field) or (isinstance(getattr(config, field), (list, tuple)) and field not in told):
            continue
        try:
            setattr(config, field, value)
        except (AttributeError, ValueError, NotImplementedError, KeyError):
            continue  # a property that another field decides
    for field, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == before != LAYERS and field not in told:
            kinds = list(dict.fromkeys(value))
            setattr(config, field, [kinds[i % len(kinds)] for i in range(LAYERS)])
    return config


def _shaken(config: Any, name: str) -> nn.Module:
    with torch.device("meta"):
        count = sum(p.numel() for p in hf.AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters are left")
    torch.manual_seed(sum(map(ord, name)))
    model = hf.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for path, p in model.named_parameters():
            if p.is_floating_point():
                weak = p.ndim == 1 and not ("norm" in path or "bias" in path)
                p.add_(torch.randn_like(p) * (0.05 if weak else 0.3 if p.ndim == 1 else 0.08))
        logits = model(torch.arange(3, 23)[None], use_cache=False).logits
    if logits.ndim != 3 or not bool(torch.isfinite(logits).all()):
        raise ValueError("its own logits are not finite")
    return model


@dataclass(frozen=True)
class Outcome:
    """How a family fares: ``right``, ``refused``, ``not built small``, ``crash`` or ``wrong``, and why."""

    family: str
    verdict: str
    reason: str = ""

    def row(self) -> str:
        """As it stands in the table."""
        cells = (self.family, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.family], self.verdict, self.reason)
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def judge(name: str) -> Outcome:
    """Build a family, measure it, and measure it again with plain hooks."""
    import depthsig
    from depthsig.errors import DepthsigError

    with quiet():
        try:
            module = build(name)
        except NotBuiltSmall as error:
            return Outcome(name, "not built small", " ".join(str(error).split())[:160])
        before = {k: v.detach().clone() for k, v in module.state_dict().items()}
        tokenizer = byte_tokenizer(left=True)
        try:
            model = depthsig.load(module, tokenizer)
            found = depthsig.analyze(model, PROMPTS, metrics=["lens.kl", "skip.kl"], scopes=["current"])
        except DepthsigError as error:
            return Outcome(name, "refused", " ".join(str(error).split()))
        except Exception as error:
            return Outcome(name, "crash", f"{type(error).__name__}: {_first_line(error)}"[:160])
        if any(not torch.equal(v, before[k]) for k, v in module.state_dict().items()):
            return Outcome(name, "wrong", "the model was changed")
        wanted = Plain(module, [layer.module for layer in model.anatomy.layers])
        ids = [tokenizer(text).input_ids for text in PROMPTS]
        depths = [d for d in range(len(model.plan) + 1) if d == len(model.plan) or not model.trace.normed[d]]
        lens = found.profile("lens.kl")["value"].to_numpy(dtype=float)
        skip = found.profile("skip.kl", part="layer", scope="current")["value"].to_numpy(dtype=float)
        gaps = {
            "lens.kl": _gap(lens[depths], wanted.lens(ids)[depths]),
            "skip.kl": _gap(skip, wanted.skip(ids)),
        }
        off = [f"{k} by {v:.1g}" for k, v in gaps.items() if not v < 1e-3]
        missed = _unmeasured(module, wanted.layers)
        if missed:
            off.append(f"{missed} of its layers are not measured")
        return Outcome(name, "wrong", "off: " + ", ".join(off)) if off else Outcome(name, "right")


def _gap(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to a value or to a hundredth of the largest."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float((np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-2 * np.abs(wanted).max() + 1e-9)).max())


def _unmeasured(module: nn.Module, measured: list[nn.Module]) -> int:
    """How many members of the largest list of modules are not among those measured, and run."""
    lists = {n: m for n, m in module.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    outer = [m for n, m in lists.items() if not any(n.startswith(f"{o}.") for o in lists)]
    largest = max(outer, key=lambda m: sum(p.numel() for p in m.parameters()))
    known, ran = {id(m) for m in measured}, set()
    handles = [m.register_forward_hook(lambda m, args, out: ran.add(id(m))) for m in largest]
    with torch.no_grad():
        module(torch.arange(3, 13)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return len(ran - known)


class Plain:
    """Lens and skips of a model by forward hooks that count the calls of its layers."""

    def __init__(self, module: nn.Module, layers: list[nn.Module]) -> None:
        self.module, self.layers = module, list({id(m): m for m in layers}.values())

    def lens(self, prompts: list[list[int]]) -> np.ndarray:
        """KL(lens ‖ final) of every depth, mean over positions from 1 on, then over prompts."""
        rows = []
        for ids in prompts:
            final, states = self._run(ids)
            last = len(states) - 1

            def put(step: int, before: Tensor, after: Tensor, state: Tensor, last: int = last) -> Tensor:
                return state if step == last else after

            read = [self._run(ids, lambda s, b, a, state=state: put(s, b, a, state))[0] for state in states]
            rows.append([_kl(lens, final) for lens in read] + [0.0])
        return np.mean(rows, axis=0)

    def skip(self, prompts: list[list[int]]) -> np.ndarray:
        """KL(clean ‖ skipped) of every step, with the same means."""
        rows = []
        for ids in prompts:
            final, states = self._run(ids)

            def put(step: int, before: Tensor, after: Tensor, which: int) -> Tensor:
                return torch.cat([after[:, :1], before[:, 1:]], dim=1) if step == which else after

            read = [self._run(ids, lambda s, b, a, k=k: put(s, b, a, k))[0] for k in range(len(states))]
            rows.append([_kl(final, edited) for edited in read])
        return np.mean(rows, axis=0)

    def _run(
        self, ids: list[int], change: Callable[[int, Tensor, Tensor], Tensor] = lambda step, before, after: after
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities at positions from 1 on, and what entered every step."""
        entered: list[Tensor] = []
        count = [0]

        def enter(m: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            entered.append((args[0] if args and torch.is_tensor(args[0]) else kwargs["hidden_states"]).clone())

        def leave(m: nn.Module, args: tuple, output: Any) -> Any:
            after = output if torch.is_tensor(output) else output[0]
            new = change(count[0], entered[count[0]], after)
            count[0] += 1
            return new if torch.is_tensor(output) else type(output)([new, *output[1:]])

        handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in self.layers]
        handles += [m.register_forward_hook(leave) for m in self.layers]
        with torch.no_grad():
            logits = self.module(torch.tensor([ids]), use_cache=False).logits[0, 1:].double()
        for handle in handles:
            handle.remove()
        return logits.log_softmax(-1), entered


def _kl(p: Tensor, q: Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers and depthsig say in passing."""
    level = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            hf.logging.set_verbosity(level)


def written(outcomes: list[Outcome]) -> str:
    """The table as a document."""
    counts = Counter(o.verdict for o in outcomes)
    verdicts = ("right", "refused", "not built small", "wrong", "crash")
    summary = ", ".join(f"{counts[v]} {v}" for v in verdicts)
    return "\n".join([
        "# Families",
        "",
        f"Every class that transformers {hf.__version__} maps to causal language models, made small from its own "
        "config by",
        "`tests/causal_lms.py`, with random weights, and held against plain forward hooks on the untouched model: "
        "*right* where",
        "`lens.kl` and `skip.kl` of prompts of unequal length agree (1e-3 of a value), *refused* where depthsig says "
        "by name why",
        "not, *not built small* where transformers itself did not run the small config. Written by",
        "`python tests/causal_lms.py`; `pytest --slow tests/checkpoint` holds it against what is so.",
        "",
        f"{len(outcomes)} families: {summary}.",
        "",
        "| family | class | verdict | reason |",
        "|---|---|---|---|",
        *(o.row() for o in outcomes),
        "",
    ])  # fmt: skip


def listed() -> dict[str, str]:
    """The table's rows by family; empty where it was written for another transformers."""
    text = TABLE.read_text(encoding="utf-8")
    if f"transformers {hf.__version__} " not in text:
        return {}
    return {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}


def main(names: list[str]) -> None:
    """Judge some families and print; all of them, and write the table."""
    outcomes = []
    for name in names or FAMILIES:
        started = time.perf_counter()
        outcomes.append(judge(name))
        print(f"{time.perf_counter() - started:6.1f} s  {outcomes[-1].row()}", flush=True)
    if not names:
        TABLE.write_text(written(outcomes), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    main(sys.argv[1:])
