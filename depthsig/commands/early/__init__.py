"""What a command can know to be wrong before a model is loaded."""

from depthsig.commands.early.refusing import Asked, asked_of, check_order_given, ensure_new, refuse_early

__all__ = ["Asked", "asked_of", "check_order_given", "ensure_new", "refuse_early"]
