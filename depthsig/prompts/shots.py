"""Solved examples before a prompt, in its own format: few-shot prompts.

Which prompts are asked does not depend on how many examples there are, and the examples of K shots are the last K of
those of more, so that accuracies at several K are paired item by item. No example is ever a prompt that is measured:
of generated prompts, examples come from the training split, whose keys no measured item asks for; of prompts that end
(gsm8k, files, lists), from those that are left when the measured ones are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depthsig.errors import InputError, shown
from depthsig.prompts.primitives import SEPARATOR, items
from depthsig.prompts.prompt import Prompt

MOST_SHOTS = 8
BLANK_LINE = "\n\n"
"""Between examples of text, as question and answer are a line or more each."""


def check_shots(shots: int) -> None:
    """Refuse what is no number of examples.

    Raises:
        InputError: for anything but 0 to :data:`MOST_SHOTS`.
    """
    if isinstance(shots, bool) or not isinstance(shots, int) or not 0 <= shots <= MOST_SHOTS:
        raise InputError(f"--shots is {shown(shots)}; it is a whole number from 0 to {MOST_SHOTS}")


def before_generated(task: str, prompts: Sequence[Prompt], shots: int, seed: int) -> list[Prompt]:
    """Generated prompts with ``shots`` training items of their task before each, a line an item.

    >>> from depthsig.prompts.primitives import generate
    >>> before_generated("addition", generate("addition", 1, seed=0), 1, seed=0)[0].text.count("\\n")
    1
    """
    check_shots(shots)
    stream, found = items(task, seed, split="train"), []
    for prompt in prompts:
        # As many are drawn for every number of shots, so that the next prompt's are the same, too.
        examples: list[Prompt] = []
        while len(examples) < MOST_SHOTS:
            one = next(stream).prompt
            if one.text not in {prompt.text, *(e.text for e in examples)}:
                examples.append(one)
        found.append(_before(prompt, examples[:shots], SEPARATOR))
    return found


def before_others(prompts: Sequence[Prompt], rest: Sequence[Prompt], shots: int, seed: int, name: str) -> list[Prompt]:
    """Prompts with ``shots`` of the others, with their answers, before each, a blank line between them.

    Args:
        prompts: those that are measured. rest: the others, of which those take part that have an answer and another
            text than any that is measured.
        name: of the set, for the message.

    Raises:
        InputError: for prompts without answers, or too few others.
    """
    check_shots(shots)
    if not any(p.answer for p in prompts):
        raise InputError(
            f"--shots {shots}: {shown(name)} has no answers to show; the generated prompts, gsm8k and files with "
            "`text` and `answer` do"
        )
    asked = {p.text.strip() for p in prompts}
    others = {p.text.strip(): p for p in rest if p.answer and p.text.strip() not in asked}
    pool = list(others.values())
    if len(pool) < shots:
        raise InputError(
            f"--shots {shots}: {shown(name)} has {len(pool)} prompts with answers beside the {len(prompts)} that are "
            "measured, which are no examples for one another; measure fewer (-n), or show fewer"
        )
    found = []
    for index, prompt in enumerate(prompts):
        rng = np.random.default_rng([seed, index])
        chosen = rng.choice(len(pool), size=min(MOST_SHOTS, len(pool)), replace=False)
        found.append(_before(prompt, [pool[i] for i in chosen[:shots]], BLANK_LINE))
    return found


def _before(prompt: Prompt, examples: Sequence[Prompt], between: str) -> Prompt:
    """The first example stands next to the prompt, each more before the others."""
    if prompt.ids is not None:
        raise InputError("--shots puts text before a prompt, and a prompt is given as token ids; give it as text")
    return replace(prompt, text="".join(one.full + between for one in reversed(examples)) + prompt.text)
