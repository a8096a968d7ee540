"""The exceptions depthsig raises for its users, each with the exit code of the command line.

A message is one line: what was wrong, what was found, and what would work.
"""

from __future__ import annotations


class DepthsigError(Exception):
    """Base of every error that depthsig raises on purpose."""

    exit_code = 1


class InputError(DepthsigError, ValueError):
    """Bad input or usage: a checkpoint, prompt file, option or edit that cannot be used as given."""

    exit_code = 2


class UnsupportedModelError(InputError):
    """A kind of model that cannot be analysed exactly, refused by name."""


class CertificateError(DepthsigError):
    """A certificate failed: the numbers could not be trusted, so none are given."""

    exit_code = 3


class DepthsigWarning(UserWarning):
    """Something the user should know that does not stop the analysis."""
