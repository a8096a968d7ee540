"""Examples in the help of each command. All of them run as they stand, without a network, one after the other."""

from __future__ import annotations

_QUICK = "depthsig analyze family-midas --quick"
EXAMPLES: dict[str, tuple[str, ...]] = {
    "analyze": (
        _QUICK,
        "depthsig analyze --config depthsig-results/family-midas/run.toml --metrics lens,residual -n 4",
    ),
    "plan": ("depthsig plan family-midas", "depthsig plan family-midas --order 0:4,4:8x2,8:24"),
    "find-blocks": ("depthsig find-blocks family-midas -n 4 --max-tokens 64",),
    "check": ("depthsig check family-midas -n 4",),
    "compare": (
        _QUICK,
        "depthsig analyze family-midas --quick --order 0:4,4:8x2,8:24 --out looped",
        "depthsig compare depthsig-results/family-midas looped",
    ),
    "report": (_QUICK, "depthsig report depthsig-results/family-midas"),
    "figures": (_QUICK, "depthsig figures depthsig-results/family-midas --format svg"),
    "export": ("depthsig export family-midas --order 0:4,4:8x2,8:24 --out looped-midas",),
    "repeat": ("depthsig repeat family-midas --span 4:8 --times 1,2 --task lookup -n 8",),
    "replicate": ("depthsig replicate 2512.08819 --quick --only E7",),
    "rerun": (_QUICK, "depthsig rerun depthsig-results/family-midas"),
    "sweep": ("depthsig sweep midas-orders",),
    "stability": ("depthsig stability family-looped -n 4 --max-tokens 24 --no-control",),
    "fit-lens": ("depthsig fit-lens family-midas --prompts lookup -n 24 --steps 2",),
    "models": ("depthsig models",),
    "prompts": ("depthsig prompts",),
    "presets": ("depthsig presets",),
    "metrics": ("depthsig metrics", "depthsig metrics --json"),
    "cache": ("depthsig cache",),
    "card": (_QUICK, "depthsig card depthsig-results/family-midas"),
    "log": (_QUICK, "depthsig log depthsig-results/family-midas --to tensorboard"),
}


def example(command: str) -> str:
    """The example that shows a command itself, not what has to be there for it; empty for an unknown one."""
    return next((line for line in EXAMPLES.get(command, ()) if line.split()[1] == command), "")
