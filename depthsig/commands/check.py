"""The certificates alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.early import Asked
from depthsig.commands.opening import Given, ready_prompts
from depthsig.engine.certificates import Certificate, certify
from depthsig.measure.request import check_least
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress

if TYPE_CHECKING:
    import torch


def check(
    model: Any, prompts: Any = None, *, tokenizer: Any = None, n: int | None = 20, max_tokens: int = 256,
    order: str | None = None, loop: str | None = None, grown: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False, stream: bool = False,
    seed: int = 0, progress: bool | Progress | None = None,
) -> list[Certificate]:  # fmt: skip
    """All certificates of a model on up to four of the prompts; nothing is raised for one that fails.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        prompts: as for :func:`depthsig.analyze`.
        tokenizer: for a live model.
        n: of the first n prompts; None for all.
        max_tokens: cut prompts after this many tokens.
        order, loop, grown, iterations: what runs, and its labels, as for :func:`depthsig.analyze`.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle, stream: as for :func:`depthsig.analyze`.
        seed: of generated prompts, and of a random initial state.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: for what cannot be loaded, or prompts that cannot be used.
        CertificateError: where the model computes NaN or infinity: there is nothing to prove then.
    """
    check_arguments(check, locals())
    check_least("n", n, 1)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)
    given = Given(model, tokenizer, loading, PlanOptions(order, loop, grown, iterations), forward)
    opened = given.open(seed, Progress.of(progress), Asked(prompts, n, seed))
    ready = ready_prompts(prompts, opened, n=n, n_named=n, max_tokens=max_tokens, seed=seed)
    return certify(opened, [p.ids for p in ready.tokens])
