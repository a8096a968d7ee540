"""What completes an option in the shell: names that are looked up without anything heavy."""

from __future__ import annotations

from collections.abc import Iterable

from depthsig.terms import ABLATIONS, PARTS, POSITIONS, SCOPES


def checkpoints(incomplete: str) -> list[str]:
    """Checkpoints that are installed."""
    from depthsig.prompts.shipped import shipped_checkpoints  # start-up time

    return _beginning(incomplete, shipped_checkpoints())


def prompt_sets(incomplete: str) -> list[str]:
    """Built-in prompts."""
    from depthsig.prompts import BUILTIN  # start-up time

    return _beginning(incomplete, BUILTIN)


def tasks(incomplete: str) -> list[str]:
    """Built-in prompts, several with commas."""
    from depthsig.prompts import BUILTIN  # start-up time

    return _listed(incomplete, BUILTIN)


def presets(incomplete: str) -> list[str]:
    """Settings of papers."""
    from depthsig.commands.presets import presets as known  # start-up time

    return _beginning(incomplete, known())


def metrics(incomplete: str) -> list[str]:
    """Groups and ids of metrics, several with commas."""
    from depthsig.metrics import all_metrics  # start-up time

    entries = all_metrics().values()
    return _listed(incomplete, dict.fromkeys([*(g for e in entries for g in e.groups), *(e.id for e in entries)]))


def parts(incomplete: str) -> list[str]:
    """What is taken away, several with commas."""
    return _listed(incomplete, PARTS)


def scopes(incomplete: str) -> list[str]:
    """Where it is taken away, several with commas."""
    return _listed(incomplete, SCOPES)


def formats(incomplete: str) -> list[str]:
    """Kinds of figure files, several with commas."""
    return _listed(incomplete, ("png", "svg", "pdf"))


def positions(incomplete: str) -> list[str]:
    """Where it is measured."""
    return _beginning(incomplete, POSITIONS)


def ablations(incomplete: str) -> list[str]:
    """What stands in the place of what is taken away."""
    return _beginning(incomplete, ABLATIONS)


def aggregations(incomplete: str) -> list[str]:
    """How prompts are summed up."""
    return _beginning(incomplete, ("mean", "max", "both"))


def dtypes(incomplete: str) -> list[str]:
    """Numbers that a model computes with."""
    return _beginning(incomplete, ("float32", "bfloat16", "float16", "auto"))


def lens_kinds(incomplete: str) -> list[str]:
    """Kinds of lenses that can be fitted."""
    return _beginning(incomplete, ("tuned", "jacobian"))


def lens_targets(incomplete: str) -> list[str]:
    """What Jacobians are taken of."""
    return _beginning(incomplete, ("end", "pass"))


def papers(incomplete: str) -> list[str]:
    """Papers whose claims can be put to the test."""
    from depthsig.replication.criteria import criteria  # start-up time

    return _beginning(incomplete, criteria().papers)


def experiments(incomplete: str) -> list[str]:
    """Experiments of those papers, several with commas."""
    from depthsig.replication.criteria import criteria  # start-up time

    return _listed(incomplete, criteria().experiments)


def kept_kinds(incomplete: str) -> list[str]:
    """Kinds of what is kept between runs."""
    from depthsig import kept  # start-up time

    return _beginning(incomplete, (one.name for one in kept.kinds()))


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def _listed(incomplete: str, known: Iterable[str]) -> list[str]:
    """Whole values whose last piece is completed; what is listed already is not offered again."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in known if name.startswith(last) and name not in taken]
