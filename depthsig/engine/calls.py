"""A layer's call as the model's own forward makes it, kept so that it can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from depthsig.checkpoint.hooks import answered, first_tensor, hidden_of, with_first, with_hidden
from depthsig.errors import UnsupportedModelError


@dataclass(frozen=True)
class RowSpec:
    """How one argument grows with the rows of a batch: ``factor`` entries a row along ``dim``."""

    dim: int
    factor: int


@dataclass(frozen=True)
class LayerCall:
    """One step's module with the arguments of a batch, all but the residual stream.

    ``rows`` tells which of the ``leaves`` grow with the batch, so that a call can be made for
    any selection of the batch's prompts, each any number of times; empty until it was found out
    (:func:`row_specs`).
    """

    module: nn.Module
    leaves: tuple[Any, ...]
    structure: Any
    rows: tuple[RowSpec | None, ...] = ()

    @classmethod
    def capture(cls, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> LayerCall:
        """Keep a call seen by a pre-hook."""
        leaves, structure = tree_flatten(with_hidden(args, kwargs, None))
        return cls(module, tuple(leaves), structure)

    def __call__(
        self, hidden: Float[Tensor, "row token d"], prompts: Int[Tensor, "row"] | None = None
    ) -> Float[Tensor, "row token d"]:
        """Run the layer on ``hidden``; row i gets the arguments of prompt ``prompts[i]``."""
        leaves = list(self.leaves)
        if prompts is not None:
            leaves = [self._select(leaf, spec, prompts) for leaf, spec in zip(leaves, self.rows, strict=True)]
        args, kwargs = tree_unflatten(leaves, self.structure)
        args, kwargs = with_hidden(args, kwargs, hidden)
        output = first_tensor(self.module(*args, **kwargs))
        assert output is not None, "a layer returned no tensor"
        return output

    @staticmethod
    def _select(leaf: Any, spec: RowSpec | None, prompts: Int[Tensor, "row"]) -> Any:
        if spec is None or not isinstance(leaf, Tensor):
            return leaf
        index = prompts.to(leaf.device)
        if spec.factor > 1:
            inside = torch.arange(spec.factor, device=leaf.device)
            index = (index[:, None] * spec.factor + inside).flatten()
        return leaf.index_select(spec.dim, index)


def passing_through(layers: Sequence[nn.Module], outputs: Sequence[Any]) -> AbstractContextManager[None]:
    """Let the layers return their input unchanged, so that a forward only shows its arguments.

    Args:
        outputs: for every layer, an output of its own, whose form is kept; None for one that does not run.
    """
    forms = {id(module): output for module, output in zip(layers, outputs, strict=True)}

    def stand(module: nn.Module, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        hidden = hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        return with_first(forms[id(module)], hidden)

    return answered(layers, stand)


def row_specs(two: Sequence[LayerCall], three: Sequence[LayerCall]) -> list[tuple[RowSpec | None, ...]]:
    """For every call, how its arguments grow with the batch: seen with two rows and with three.

    Masks, rotary tables and ALiBi biases grow in their own ways; nothing is inferred from names.
    """
    return [
        tuple(_row_spec(a, b) for a, b in zip(x.leaves, y.leaves, strict=True)) for x, y in zip(two, three, strict=True)
    ]


def _row_spec(two: Any, three: Any) -> RowSpec | None:
    if not (isinstance(two, Tensor) and isinstance(three, Tensor)) or two.shape == three.shape:
        return None
    for dim, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)):
        if a != b and a % 2 == 0 and a // 2 * 3 == b:
            return RowSpec(dim, a // 2)
    raise UnsupportedModelError(
        "an argument of a layer grows with the batch in a way that cannot be followed "
        f"({tuple(two.shape)} for two rows, {tuple(three.shape)} for three)"
    )
