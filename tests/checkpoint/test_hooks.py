"""The model is left as it was found, wherever it is left."""

from __future__ import annotations

import contextvars

import torch

from depthsig.checkpoint.hooks import undisturbed


def test_a_model_may_be_left_in_another_context() -> None:
    """As a notebook's cells or a generator's turns have it: what was set in one context cannot be reset by another."""
    module = torch.nn.Linear(2, 2).train()
    entered = undisturbed(module)
    contextvars.copy_context().run(entered.__enter__)
    assert not module.training and not torch.is_grad_enabled()
    contextvars.copy_context().run(entered.__exit__, None, None, None)
    assert module.training and torch.is_grad_enabled()
    with undisturbed(module):
        assert not module.training
        with undisturbed(module):
            assert not module.training
        assert not module.training and not torch.is_grad_enabled()
    assert module.training
