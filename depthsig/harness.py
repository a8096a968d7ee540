"""lm-evaluation-harness under any execution order or edit (extra ``eval``).

``python -m depthsig.harness --model depthsig --model_args 'pretrained=DIR,order=0:4|4:8x2|8:12' …``
is lm-eval's own command with one more model, ``depthsig``: its ``hf`` model with another network
inside. Tokens, windows, batches, generation, chat templates and every default are ``hf``'s own
code, so that without an order or an edit the numbers are ``hf``'s. ``model_args`` are ``hf``'s
(those that cannot be done are refused by name), and ``order``, ``iterations``, ``edit`` (such as
``Skip(5)+Repeat(4,8,times=2)`` or ``Skip(layer=5,passes='1:')``) and ``allow_pickle``; ``pretrained``
is what ``depthsig.load`` takes, and a checkpoint that declares an order runs in it. The harness splits
``model_args`` at commas, so an order's and an edit's own are written ``|`` or ``;``.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from depthsig.checkpoint.anatomy.adapter import tolerance
from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.loading import LoadOptions
from depthsig.engine.batch import Batch
from depthsig.engine.edits import Edit, compile_edit, parse_edit
from depthsig.engine.program import Program
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.errors import DepthsigError, DepthsigWarning, InputError, UnsupportedModelError
from depthsig.model import Model, open_model
from depthsig.plan.declared import PlanOptions

_BOOL, _COUNT, _TEXT = (bool, type(None)), (int, type(None)), (str, type(None))
TAKEN: dict[str, tuple[type, ...]] = {
    "backend": (str,), "revision": (str, int, float, type(None)), "subfolder": _TEXT,
    "tokenizer": (str, PreTrainedTokenizerBase, type(None)), "truncation": _BOOL, "logits_cache": _BOOL,
    "max_length": _COUNT, "device": (str, torch.device, type(None)), "dtype": (str, torch.dtype, type(None)),
    "softmax_dtype": (str, torch.dtype, type(None)), "mixed_precision_dtype": (str, torch.dtype, type(None)),
    "batch_size": (int, str), "max_batch_size": _COUNT, "trust_remote_code": _BOOL, "use_fast_tokenizer": _BOOL,
    "add_bos_token": _BOOL, "prefix_token_id": _COUNT, "parallelize": _BOOL, "gguf_file": _TEXT,
    "think_end_token": (str, int, type(None)), "enable_thinking": _BOOL, "chat_template_args": (dict, type(None)),
}  # fmt: skip
"""hf's arguments that mean here what they mean there, and what each may be."""

REFUSED = {
    "tp_plan": "parallelize=True spreads a model over GPUs",
    "max_memory_per_gpu": "parallelize=True takes what is free",
    "max_cpu_memory": "parallelize=True takes what is free",
    "offload_folder": "weights stay in memory",
    "peft": "merge the adapter into its base model (merge_and_unload), save that and give its folder",
    "delta": "add it to the base model's weights, save that and give its folder",
    "autogptq": "a checkpoint whose config says how it is quantised needs no argument",
    "gptqmodel": "a checkpoint whose config says how it is quantised needs no argument",
}
"""hf's arguments that are not done, and what works; their defaults pass."""


@register_model("depthsig")
class DepthsigLM(HFLM):  # type: ignore[misc]
    """lm-eval's ``hf`` model, which runs its layers in any order, or with an edit.

    Args:
        pretrained: a folder, a hub id, a GGUF file, a shipped name, or a live model.
        order, iterations: as for :func:`depthsig.load`. edit: an edit, or its text.
        allow_pickle: load pickled weights.
        arguments: hf's own.

    Raises:
        InputError: one line for whatever cannot be opened, read or done.
    """

    def __init__(
        self, pretrained: Any, order: str | None = None, iterations: Any = None, edit: str | Edit | None = None,
        allow_pickle: bool = False, **arguments: Any,
    ) -> None:  # fmt: skip
        _check_types({**arguments, "allow_pickle": allow_pickle})
        _check_values(arguments)
        self._plan = PlanOptions(order=_with_commas(order), iterations=_with_commas(iterations))
        self._edit = parse_edit(_with_commas(edit)) if isinstance(edit, str) else edit
        self._allow_pickle, self._given = bool(allow_pickle), arguments
        if isinstance(pretrained, nn.Module):
            _check_live(arguments)
            self._open(pretrained, arguments.get("device") or "auto", arguments.get("dtype"))
            pretrained = self._network
        else:
            pretrained = _source(pretrained, arguments.pop("subfolder", None), arguments.pop("gguf_file", None))
            arguments["device"] = _device(arguments.get("device"))
        super().__init__(pretrained, **arguments)
        if self.prefix_token_id is None:
            raise InputError(
                "this tokenizer has no token for the beginning or the end of a text; prefix_token_id=N says what "
                "stands before a text without context"
            )

    def _open(self, source: Any, device: str, dtype: Any) -> None:
        given = self._given
        here = not isinstance(source, str) or Path(source).exists()
        revision = None if here or given.get("revision") in (None, "main") else str(given["revision"])
        loading = LoadOptions(
            dtype=dtype, device=device, device_map="auto" if given.get("parallelize") else None, revision=revision,
            trust_remote_code=bool(given.get("trust_remote_code")), allow_pickle=self._allow_pickle,
        )  # fmt: skip
        tokenizer = given.get("tokenizer")
        opened = open_model(source, None if isinstance(tokenizer, str) else tokenizer, loading, self._plan)
        program = compile_edit(self._edit, opened.plan, opened.has_parts) if self._edit is not None else None
        self.opened: Model = opened
        self._network = opened.module if _is_hfs(opened, program) else Rearranged(opened, program)

    # What hf's constructor calls to get its pieces.

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        # The harness' own command names cuda:0 where nothing is named, whether there is one or not.
        if self._given["device"] not in (str(self.device), "cuda:0") and not hasattr(self, "accelerator"):
            raise InputError(f"device={self._given['device']!r} is none of this machine's")
        dtype = self._given.get("dtype", "auto")
        self._open(pretrained, str(self.device), "float32" if dtype is None else _torch_dtype("dtype", dtype))
        self._config = self._network.config

    def _get_backend(self, config: Any, backend: Any = "default", trust_remote_code: bool | None = False) -> None:
        super()._get_backend(config, backend, trust_remote_code)
        if self.backend != "causal":
            raise UnsupportedModelError(
                f"hf reads models of type {config.model_type!r} as sequence to sequence; backend=causal reads this "
                "one as a causal language model"
            )

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        if isinstance(pretrained, str):
            place = Path(pretrained)
            if place.is_file():
                pretrained, kwargs["gguf_file"] = str(place.parent), place.name
            elif not place.is_dir():
                pretrained = self.opened.module.name_or_path  # a hub id, or the folder of a shipped checkpoint
        elif tokenizer is None:
            tokenizer = self.opened.tokenizer  # a TransformerBridge brings its own
            if tokenizer is None and not self._network.name_or_path:
                raise InputError("a live model that was loaded from nowhere needs its tokenizer=, a name or an object")
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))  # None would ask the user
        try:
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)
        except Exception as error:
            where = repr(tokenizer) if isinstance(tokenizer, str) else f"of {self.opened.checkpoint.source!r}"
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(f"the tokenizer {where}, which the harness needs, cannot be loaded: {first}") from None

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        self._model = self._network

    # Where hf would fail without saying why.

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """hf's token ids, all of which the model must know."""
        ids = super().tok_encode(string, *args, **kwargs)
        self.opened.check_vocabulary(ids)
        return ids

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        """hf's text; None for the end of a text where a tokenizer has none: then nothing stops there."""
        return None if tokens is None else super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """hf's log-likelihoods of continuations in their contexts, which cannot both be empty."""
        if any(request.args == ("", "") for request in requests):
            raise InputError("a request has an empty context and an empty continuation; there is nothing to score")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            if not context or not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"a request has {len(context)} tokens of context and {len(continuation)} of continuation; there "
                    f"must be some of each, and no more to score than max_length = {self.max_length}"
                )
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """hf's generations, where there is a context and room for it."""
        for context, options in (request.args for request in requests):
            wanted = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            if wanted >= self.max_length:
                raise InputError(
                    f"max_gen_toks = {wanted} leaves no room for a context in max_length = {self.max_length}; "
                    "--gen_kwargs max_gen_toks=N asks for fewer"
                )
            if not context and not self.tok_encode(context):
                raise InputError("a request has an empty context, and its tokenizer puts nothing before a text")
        return super().generate_until(requests, disable_tqdm=disable_tqdm)


class Rearranged(PreTrainedModel, GenerationMixin):
    """Another order or an edit as a model that transformers can call and generate with.

    Generation computes every text anew, without a cache, so that any order and edit is exact.
    """

    def __init__(self, opened: Model, program: Program | None) -> None:
        super().__init__(PreTrainedConfig())
        self.module, self.opened, self.program = opened.module, opened, program
        config = opened.checkpoint.config
        self.config = config if isinstance(config, PreTrainedConfig) else PreTrainedConfig()
        self.generation_config = getattr(opened.module, "generation_config", None) or GenerationConfig()
        self.name_or_path = getattr(opened.module, "name_or_path", "")
        self.logits_dtype = _other_dtype(opened)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what is tied was tied when the checkpoint was loaded."""

    def forward(
        self, input_ids: Int[Tensor, "row token"], attention_mask: Int[Tensor, "row token"] | None = None,
        logits_to_keep: int = 0, return_dict: bool = True,
    ) -> CausalLMOutput:  # fmt: skip
        """Logits of the last ``logits_to_keep`` positions, 0 for all; a row may be padded on either side."""
        if attention_mask is None or bool(attention_mask.all()):
            states = self.states(input_ids)
        else:
            # Every row's own tokens go to its front, where no real position sees a pad.
            order = attention_mask.argsort(dim=1, descending=True, stable=True)
            ids = (input_ids * attention_mask).gather(1, order)
            moved = self.states(ids)
            states = torch.empty_like(moved).scatter_(1, order[..., None].expand_as(moved), moved)
        logits = self.opened.read(states[:, -logits_to_keep:])
        return CausalLMOutput(logits=logits if self.logits_dtype is None else logits.to(self.logits_dtype))

    def states(self, ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token d"]:
        """The last states h_S."""
        if self.program is None:
            return self.opened.clean(ids).outputs[-1]
        rows, tokens = ids.shape
        clean = Clean.of(self.opened, Batch(ids, (tokens,) * rows, tuple(range(rows))))
        ((_, (states,)),) = [(n, list(s)) for n, s in run_programs(clean, [self.program])]
        return states

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own generation, without a cache."""
        return super().generate(*args, **{**kwargs, "use_cache": False})  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """All tokens so far; the last logits are enough."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": 1}


def _other_dtype(opened: Model) -> torch.dtype | None:
    """The dtype in which a model gives its logits, where it is not the one that its head computes them in."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=opened.device)
    given, computed = opened.logits(ids).dtype, opened.read(opened.clean(ids).outputs[-1]).dtype
    return given if given != computed else None


def _is_hfs(opened: Model, program: Program | None) -> bool:
    """Whether what is to be run is what hf runs: the checkpoint's own forward, called as ``module(ids).logits``.

    hf's call keeps a cache. Where one layer runs at several depths its keys and values can then fall
    into one place; such a model is run without.
    """
    if program is not None or not opened.is_native or not isinstance(opened.module, PreTrainedModel):
        return False
    ids = torch.arange(8, device=opened.device)[None] % max(1, opened.readout.vocab)
    plain = opened.logits(ids)
    as_hf = {"use_cache": True} if getattr(opened.module.config, "use_cache", False) else {}
    with undisturbed(opened.module):
        try:
            cached = getattr(opened.module(ids, **as_hf), "logits", None)
        except RuntimeError:
            cached = torch.full_like(plain, torch.inf)
    if cached is None:
        return False
    away = float((cached.float() - plain.float()).abs().max())
    if away <= tolerance(plain.dtype) * float(plain.abs().max()):
        return True
    message = f"called as hf does, with a cache, this model's logits move by {away:.2g}; it is run without"
    warnings.warn(message, DepthsigWarning, stacklevel=2)
    return False


def _check_types(arguments: dict[str, Any]) -> None:
    known = inspect.signature(HFLM.__init__).parameters
    for name, value in arguments.items():
        kinds = _BOOL if name == "allow_pickle" else TAKEN.get(name)
        if name in REFUSED and name in known:
            if value != known[name].default:
                raise InputError(f"model_args: {name}={value!r} is not done by the model depthsig; {REFUSED[name]}")
        elif kinds is None or (name not in known and name != "allow_pickle"):
            raise InputError(f"model_args: {name!r} is unknown to the model depthsig; there are {', '.join(_names())}")
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(k.__name__ for k in kinds if k is not type(None))
            raise InputError(f"model_args: {name}={value!r} is no {wanted}")


def _names() -> list[str]:
    known = inspect.signature(HFLM.__init__).parameters
    return ["pretrained", "order", "iterations", "edit", "allow_pickle", *(n for n in TAKEN if n in known)]


def _check_values(arguments: dict[str, Any]) -> None:
    size = arguments.get("batch_size", 1)
    if not re.fullmatch(r"[1-9]\d*|auto(:\d+(\.\d+)?)?", str(size)):
        raise InputError(f"model_args: batch_size={size!r} is no number, auto or auto:N")
    if arguments.get("backend", "default") not in ("default", "causal"):
        raise InputError(f"model_args: backend={arguments['backend']!r}; only causal language models are run")
    for name in ("softmax_dtype", "mixed_precision_dtype"):
        if arguments.get(name) is not None:
            _torch_dtype(name, arguments[name])
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise InputError("model_args: enable_thinking=True needs think_end_token, where the answer begins")


def _check_live(arguments: dict[str, Any]) -> None:
    for name in ("subfolder", "gguf_file", "parallelize"):
        if arguments.get(name):
            raise InputError(f"model_args: {name} goes with a checkpoint; a live model is used as it is")


def _torch_dtype(name: str, value: str | torch.dtype) -> str | torch.dtype:
    """What hf's own reading of a dtype gives: ``auto``, or torch's dtype of that name."""
    found = value if value == "auto" and name == "dtype" else getattr(torch, str(value).removeprefix("torch."), None)
    if found == "auto" or isinstance(found, torch.dtype):
        return found
    raise InputError(f"model_args: {name}={value!r} is no dtype of torch; float32, bfloat16 and float16 are")


def _device(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(device)


def _source(pretrained: Any, subfolder: str | None, gguf_file: str | None) -> str:
    """What hf names in three arguments, as one path; a hub id as it stands."""
    place = Path(str(pretrained)).expanduser()
    if not place.exists():
        for name, value in (("subfolder", subfolder), ("gguf_file", gguf_file)):
            if value:
                raise InputError(f"{name}={value!r}: {str(pretrained)!r} is no folder here; download it and give that")
        return str(pretrained)
    return str((place / (subfolder or "") / (gguf_file or "")).absolute())


def _with_commas(text: Any) -> Any:
    """lm-eval's own commas part arguments; these were written otherwise."""
    return text.replace("|", ",").replace(";", ",") if isinstance(text, str) else text


def main() -> None:
    """lm-evaluation-harness' own command, with the model ``depthsig`` registered."""
    from lm_eval.__main__ import cli_evaluate  # start-up time

    try:
        cli_evaluate()
    except DepthsigError as error:
        print(f"depthsig: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    # Run as a script this file is another module than depthsig.harness; one registration is enough.
    main()
