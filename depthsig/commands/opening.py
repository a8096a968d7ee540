"""The one place that opens models and readies prompts, for every command and function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from depthsig.checkpoint.fingerprint import check_unchanged
from depthsig.checkpoint.hooks import refuse_autocast
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.streaming.unstreamable import refuse_all_at_once
from depthsig.commands.early import Asked, refuse_early
from depthsig.errors import DepthsigWarning, InputError
from depthsig.model import Model, open_model
from depthsig.plan.declared import PlanOptions
from depthsig.progress import Progress
from depthsig.prompts import BUILTIN, Prompt, TokenPrompt, as_lines, load_prompts, tokenize
from depthsig.prompts import reword as reworded
from depthsig.signature.folders.kinds import GIVEN
from depthsig.terms import Positions

_NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Given:
    """A model as a function was given it: what to open, and how.

    Attributes:
        model: a :class:`Model`, or anything that :func:`depthsig.load` takes.
        forward: for live models with another way of being called.
    """

    model: Any
    tokenizer: Any = None
    loading: LoadOptions = field(default_factory=LoadOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)
    forward: Callable[[nn.Module, Tensor], Any] | None = None

    def open(self, seed: int, show: Progress, asked: Asked | None = None) -> Model:
        """The model, loaded if it is not yet, with the declared order and labels.

        Args:
            asked: what is asked of it, as far as that can be held against a checkpoint before its weights are read.

        Raises:
            InputError: for what cannot be loaded, for options that a loaded model cannot follow, for weights that were
                changed since they were loaded, and within ``torch.autocast``.
        """
        refuse_early(self.model, self.loading, self.plan, asked)
        model = self._opened(seed, show)
        refuse_autocast(model.module)
        if asked is not None and model.is_streamed:
            refuse_all_at_once(asked.at_once)
        return model

    def _opened(self, seed: int, show: Progress) -> Model:
        if not isinstance(self.model, Model):
            return open_model(
                self.model, self.tokenizer, self.loading, self.plan, forward=self.forward, seed=seed, progress=show
            )
        given = [*self.loading.given(), *["forward"] * (self.forward is not None)]
        if given:
            raise InputError(f"{given[0]!r} goes with a checkpoint, not with a loaded model")
        checkpoint = self.model.checkpoint
        check_unchanged(checkpoint.module, checkpoint.weights, checkpoint.source)
        declared = self.plan.given()
        return self.model.relabelled(**declared) if declared else self.model  # type: ignore[arg-type]

    def record(self, model: Model) -> dict[str, Any]:
        """What a result keeps of it, so that it can be made again.

        ``source`` is None, with the reason in ``why``, where no command could open it.
        """
        why = ""
        if model.loading is None:
            why = "the model was given as an object"
        elif model.checkpoint.given_tokenizer:
            why = "the tokenizer was given as an object"
        elif isinstance(model.loading.device_map, dict):
            why = "the device map was given as an object"
        loading = None if model.loading is None else model.loading.record()
        plan = model.declared.explicit_options().given()
        return {"source": None if why else model.checkpoint.source, "why": why, "loading": loading, "plan": plan}


@dataclass(frozen=True)
class ReadyPrompts:
    """Prompts as a model sees them.

    Attributes:
        name: the name or the file that was given; ``given`` where they came as objects.
        objects: whether they came as objects.
        calibration: other prompts that readouts are fitted on, where any is.
        lines: of those that came as objects, all that were given, as a ``.jsonl`` file has them; else "".
        first: how many of them were asked for; None: all.
    """

    tokens: list[TokenPrompt]
    name: str
    objects: bool
    calibration: ReadyPrompts | None = None
    lines: str = ""
    first: int | None = None

    @property
    def kept(self) -> dict[str, str]:
        """What came as objects, by the file that keeps it beside a result."""
        both = zip(GIVEN, (self, self.calibration), strict=True)
        return {name: one.lines for name, one in both if one is not None and one.lines}

    @property
    def calibrating(self) -> list[TokenPrompt]:
        """The calibration prompts, if there are any."""
        return [] if self.calibration is None else self.calibration.tokens


def ready_prompts(
    prompts: Any, model: Model, *, n: int | None = None, n_named: int | None = None, max_tokens: int = 256,
    chat_template: bool = False, positions: Positions | str = "all", seed: int = 0, shots: int = 0,
    reword: int | None = None,
) -> ReadyPrompts:  # fmt: skip
    """Prompts by a name, from a file or as given, tokenised and held against the model's vocabulary.

    Args:
        prompts: a name, a file, or a list of strings, dicts or token ids; None: what the checkpoint
            names, else ``gsm8k``.
        n: the first n of a list; None for all. n_named: the same, of a name or a file.
        shots: so many solved examples before each; those that then do not fit are left out, as a cut would take the
            question.
        reword: put them in other words, by this seed.

    Raises:
        InputError: for prompts that are not there, or cannot be used, or none of which fits with its examples.
    """
    prompts = default_prompts(model) if prompts is None else prompts
    named = isinstance(prompts, (str, Path))
    given = prompts if named else load_prompts(prompts, n=None, seed=seed)
    texts = load_prompts(given, n=n_named if named else n, seed=seed, shots=shots)
    if reword is not None:
        texts = reworded(texts, reword)
    if shots:
        texts = _that_fit(texts, model, shots, max_tokens, chat_template)
    tokens = token_prompts(texts, model, max_tokens=max_tokens, chat_template=chat_template, positions=positions)
    if named:
        return ReadyPrompts(tokens, str(prompts), False, first=n_named)
    return ReadyPrompts(tokens, "given", True, lines=as_lines(given), first=n)


def _that_fit(texts: Sequence[Prompt], model: Model, shots: int, max_tokens: int, chat_template: bool) -> list[Prompt]:
    limit = longest(model, max_tokens)
    whole = token_prompts(texts, model, max_tokens=None, chat_template=chat_template)
    fits = [len(one.ids) <= limit for one in whole]
    if not any(fits):
        raise InputError(too_long(shots, limit, min(len(one.ids) for one in whole), model))
    if not all(fits):
        lost = fits.count(False)
        warnings.warn(
            f"{lost} of {len(texts)} prompts are left out: with {shots} examples they are longer than {limit} tokens",
            DepthsigWarning,
            stacklevel=3,
        )
    return [text for text, fit in zip(texts, fits, strict=True) if fit]


def longest(model: Model, max_tokens: int) -> int:
    """How many tokens a prompt may have."""
    return min(max_tokens, model.checkpoint.model_max or max_tokens)


def too_long(shots: int, limit: int, least: int, model: Model) -> str:
    """Why no prompt fits with its examples, and what would."""
    reaches = model.checkpoint.model_max
    further = " or a larger --max-tokens" if reaches is None or reaches > limit else ""
    return (
        f"--shots {shots}: no prompt fits with its examples in {limit} tokens (the shortest has {least}); "
        f"fewer shots{further} would do"
    )


def token_prompts(
    texts: Sequence[Any], model: Model, *, max_tokens: int | None = 256, chat_template: bool = False,
    positions: Positions | str = "all",
) -> list[TokenPrompt]:  # fmt: skip
    """Loaded prompts as token ids that the model has.

    Args:
        max_tokens: cut after so many tokens, or at the model's own limit; None: whole, whatever it allows.

    Raises:
        InputError: for text that cannot be tokenised, or ids outside the vocabulary.
    """
    ready = tokenize(
        texts, model.tokenizer, max_tokens=_NO_LIMIT if max_tokens is None else max_tokens,
        model_max=None if max_tokens is None else model.checkpoint.model_max, chat_template=chat_template,
        positions=positions,
    )  # fmt: skip
    for prompt in ready:
        model.check_vocabulary(prompt.ids)
    return ready


def default_prompts(model: Model) -> str:
    """The built-in prompts that a checkpoint names, else ``gsm8k``.

    Raises:
        InputError: for any other name: a checkpoint is untrusted, and must not have a file read.
    """
    name = model.checkpoint.declared.get("prompts", "gsm8k")
    if not isinstance(name, str) or name not in BUILTIN:
        raise InputError(
            f"the config's \"depthsig\" entry 'prompts' is {name!r}; it may be one of {', '.join(BUILTIN)} "
            "(--prompts takes files, too)"
        )
    return name
