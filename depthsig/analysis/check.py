"""The certificates alone."""

from __future__ import annotations

from typing import Any

from depthsig.analysis.analyze import default_prompts
from depthsig.engine.certificates import Certificate, certify
from depthsig.engine.model import Model, check_vocabulary, load
from depthsig.prompts import load_prompts, tokenize


def check(
    model: Any, prompts: Any = None, *, n: int | None = 20, max_tokens: int = 256, seed: int = 0,
    **options: Any,
) -> list[Certificate]:  # fmt: skip
    """All certificates of a model on up to four of the prompts; nothing is raised for a failure.

    Args:
        model, prompts, options: as for :func:`depthsig.analyze`.
    """
    opened = model if isinstance(model, Model) else load(model, **options)
    if prompts is None:
        prompts = default_prompts(opened)
    ready = tokenize(
        load_prompts(prompts, n=n, seed=seed), opened.tokenizer,
        max_tokens=max_tokens, model_max=opened.checkpoint.model_max,
    )  # fmt: skip
    for prompt in ready:
        check_vocabulary(opened, prompt.ids)
    return certify(opened, [p.ids for p in ready])
