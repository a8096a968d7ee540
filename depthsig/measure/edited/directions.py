"""Random directions for ablations of the same norm: the same for a prompt, step and part, whatever else is run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.prompts import TokenPrompt
from depthsig.terms import PARTS, Part


def random_directions(
    prompts: Sequence[TokenPrompt], tokens: int, width: int, *, step: int, part: Part, seed: int
) -> Float[ndarray, "prompt token d"]:
    """Unit vectors, uniform on the sphere, one for every token; zero behind a prompt's last token.

    Normal numbers of a generator seeded by ``seed``, step, part and the prompt's tokens: a prompt has its own
    directions in any batch, and the same ones in every scope and cut.

    Args:
        tokens: how many each row has room for. width: of the residual stream.
    """
    found = np.zeros((len(prompts), tokens, width), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        words = np.frombuffer(bytes.fromhex(prompt.tokens_sha256)[:16], dtype="<u4").tolist()
        rng = np.random.default_rng([seed, step, PARTS.index(part), *words])
        drawn = rng.standard_normal((prompt.n_tokens, width))
        found[row, : prompt.n_tokens] = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return found
