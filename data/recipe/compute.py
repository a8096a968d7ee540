"""What a run costs: parameters, and the floating-point operations of its matrix products.

Only matrix products count, at two operations a multiply-add; norms, softmax, rotations and
element-wise updates do not. A looped model is counted as it runs, every iteration of a layer anew,
and a grown one with the layers it had at each step.
"""

from __future__ import annotations

from .model import Shape
from .recipe import Recipe

NEWTON_SCHULZ_STEPS = 5


def layer_flops(shape: Shape) -> int:
    """Forward operations of one layer for one token: 2 (4 d² + 3 d h) + 4 T d.

    The last term is attention's scores and values over the whole context T: what the causal mask
    hides is computed all the same.

    >>> layer_flops(Shape())
    466944
    """
    d, h = shape.width, shape.hidden
    return 2 * (4 * d * d + 3 * d * h) + 4 * shape.context * d


def training_flops(recipe: Recipe) -> int:
    """Forward and backward of a whole run: 3 x tokens a step x Σ over steps of (layers x layer + 2 V d).

    The backward pass costs twice the forward. ``layers`` are those that are executed.
    """
    shape = recipe.shape
    looped = len(shape.order) if shape.order else 0
    executed = sum(looped or stored_layers(recipe, step) for step in range(recipe.steps))
    head = 2 * shape.vocab * shape.width
    return 3 * recipe.tokens_per_step * (executed * layer_flops(shape) + recipe.steps * head)


def optimizer_flops(recipe: Recipe) -> int:
    """Muon's orthogonalisations over a whole run, every stored matrix once a step.

    An r x c matrix (r <= c) takes 4 r² c + 2 r³ operations in each of five Newton-Schulz steps.
    """
    d, h = recipe.shape.width, recipe.shape.hidden
    small, large = min(d, h), max(d, h)
    layer = 4 * 6 * d**3 + 3 * (4 * small * small * large + 2 * small**3)
    return NEWTON_SCHULZ_STEPS * layer * sum(stored_layers(recipe, step) for step in range(recipe.steps))


def stored_layers(recipe: Recipe, step: int) -> int:
    """Layers that the model has while ``step`` is trained."""
    if not recipe.growth:
        return recipe.shape.layers
    return recipe.block * (1 + sum(g <= step for g in recipe.growth))
