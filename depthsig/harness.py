"""lm-evaluation-harness under any execution order or edit (extra ``eval``).

``python -m depthsig.harness --model depthsig --model_args pretrained=DIR,order=0:4|4:8x2|8:12 …``
is lm-eval's own command with one more model, ``depthsig``. Its ``model_args``: ``pretrained`` (what
``depthsig.load`` takes), ``order``, ``iterations``, ``edit`` (an expression such as
``Skip(5)+Repeat(4,8,times=2)``), ``dtype``, ``device``, ``revision``, ``trust_remote_code``,
``max_length``, ``batch_size`` and ``max_gen_toks``. The harness splits ``model_args`` at commas,
so an order's own are written ``|`` or ``;`` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.loading import LoadOptions
from depthsig.engine.batch import batches
from depthsig.engine.edits import Edit, compile_edit, parse_edit
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.errors import InputError
from depthsig.model import Model, open_model
from depthsig.plan.declared import PlanOptions


@register_model("depthsig")
class DepthsigLM(TemplateLM):  # type: ignore[misc]
    """A model that runs its layers in any order, or with an edit, for lm-evaluation-harness."""

    def __init__(
        self, pretrained: Any, order: str | None = None, iterations: Any = None, edit: str | Edit | None = None,
        batch_size: int | str = 8, max_length: int | str | None = None, max_gen_toks: int | str = 64,
        device: str | None = None, dtype: str | None = None, revision: str | None = None,
        trust_remote_code: bool = False, tokenizer: Any = None, add_bos_token: bool = False, **ignored: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        unknown = sorted(set(ignored) - {"max_batch_size"})
        if unknown:
            raise InputError(f"model_args: {unknown[0]!r} is unknown to the model depthsig")
        if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
            device = "auto"  # the harness names a GPU whether there is one or not
        loading = LoadOptions(dtype, device, revision=revision, trust_remote_code=trust_remote_code)
        plan = PlanOptions(order.replace("|", ",").replace(";", ",") if order else None, iterations=iterations)
        self.model: Model = open_model(pretrained, tokenizer, loading, plan)
        if self.model.tokenizer is None:
            raise InputError("this checkpoint has no tokenizer, which the harness needs")
        self.tokenizer = self.model.tokenizer
        wanted = parse_edit(edit) if isinstance(edit, str) else edit
        self.program = compile_edit(wanted, len(self.model.plan), self.model.has_parts)
        self.edited = wanted is not None
        self.batch_size = 8 if str(batch_size).startswith("auto") else int(batch_size)
        self.max_length = int(max_length) if max_length else (self.model.checkpoint.model_max or 2048)
        self.max_gen_toks, self.add_bos_token = int(max_gen_toks), bool(add_bos_token)

    @property
    def eot_token_id(self) -> int:
        """The end of text; where a tokenizer has none, its beginning, or token 0."""
        found = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        return int(next((i for i in found if i is not None), 0))

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.tokenizer.bos_token_id
        return int(bos) if bos is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """Part of the harness's cache keys."""
        return self.model.checkpoint.name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, as the tokenizer gives them; special ones only where asked for or ``add_bos_token``."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer(string, add_special_tokens=special, verbose=False).input_ids)

    @torch.no_grad()
    def last_states(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Float[Tensor, "token d"]]]:
        """For every row of ids its number and last states h_S, in batches of similar length."""
        tokens = self.batch_size * max(map(len, rows), default=1)
        for batch in batches(list(rows), self.model.device, max_tokens=tokens, batch_size=self.batch_size):
            if self.edited:
                clean = Clean.of(self.model, batch, parts=False)
                ((_, (states,)),) = [(n, list(s)) for n, s in run_programs(clean, [self.program])]
            else:
                states = self.model.clean(batch.ids).outputs[-1]
            for place, number in enumerate(batch.rows):
                yield number, states[place, : batch.lengths[place]]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        rows = [(context + continuation)[-(self.max_length + 1) :][:-1] for _, context, continuation in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        shown = tqdm(self.last_states(rows), total=len(rows), disable=disable_tqdm, desc="loglikelihood")
        for number, states in shown:
            key, _, continuation = requests[number]
            goal = torch.tensor(continuation, device=states.device)
            with undisturbed(self.model.module):
                logits = self.model.readout(states[-len(goal) :]).float()
            logs = logits.log_softmax(-1).gather(1, goal[-len(logits) :, None])
            greedy = bool((logits.argmax(-1) == goal[-len(logits) :]).all())
            found[number] = (float(logs.sum()), greedy)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[number])
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's length with as much context as fits."""
        results = []
        for (text,) in [request.args for request in requests]:
            windows = get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False), self.prefix_token_id, self.max_length, context_len=1
            )
            pieces: list[Any] = [(None, *make_disjoint_window(window)) for window in windows]
            total = sum(value for value, _ in self._loglikelihood_tokens(pieces, disable_tqdm=True))
            results.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop string; without a cache, so that any order and edit is exact."""
        results = []
        for request in tqdm(requests, disable=disable_tqdm, desc="generate_until"):
            context, options = request.args
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            if options.get("do_sample") or float(options.get("temperature") or 0.0) > 0:
                raise InputError("the model depthsig decodes greedily; set do_sample: false and temperature: 0")
            results.append(self._generate(context, stops, int(options.get("max_gen_toks", self.max_gen_toks))))
            self.cache_hook.add_partial("generate_until", request.args, results[-1])
        return results

    def _generate(self, context: str, stops: Sequence[str], limit: int) -> str:
        ids = self.tok_encode(context) or [self.prefix_token_id]
        start = len(ids)
        for _ in range(limit):
            ((_, states),) = list(self.last_states([ids[-self.max_length :]]))
            token = int(self.model.read(states[-1:]).argmax())
            if token == self.tokenizer.eos_token_id:
                break
            ids = [*ids, token]
            text = self.tokenizer.decode(ids[start:])
            cut = [text.index(stop) for stop in stops if stop and stop in text]
            if cut:
                return text[: min(cut)]
        return self.tokenizer.decode(ids[start:])


def main() -> None:
    """lm-evaluation-harness' own command, with the model ``depthsig`` registered."""
    from lm_eval.__main__ import cli_evaluate  # start-up time

    cli_evaluate()


if __name__ == "__main__":
    # Run as a script this file is another module than depthsig.harness; one registration is enough.
    main()
