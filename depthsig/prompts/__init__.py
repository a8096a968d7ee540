"""Prompts: built-in, from files or as given; their token ids, answer spans and positions."""

from depthsig.prompts.builtin import BUILTIN, builtin_prompts, load_prompts
from depthsig.prompts.files import as_lines, read_prompts
from depthsig.prompts.prompt import Prompt, TokenPrompt
from depthsig.prompts.rewording import reword
from depthsig.prompts.shipped import data_path, shipped_checkpoints
from depthsig.prompts.tokens import as_prompt, tokenize

__all__ = [
    "BUILTIN", "Prompt", "TokenPrompt", "as_lines", "as_prompt", "builtin_prompts", "data_path", "load_prompts",
    "read_prompts", "reword", "shipped_checkpoints", "tokenize",
]  # fmt: skip
