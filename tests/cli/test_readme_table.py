"""Every row of README's table of commands is run, on a small model of as many layers as its numbers speak of."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import byte_tokenizer, disturb
from sources import ROOT

from depthsig import analyze
from depthsig.cli.main import main

LITTLE = "--prompts lookup -n 2 --max-tokens 64 --metrics settling_depth --no-control"
"""Of a score, which has no figure of its own."""
LESS = {
    "analyze": LITTLE, "fit-lens": "--prompts lookup -n 12 --steps 1", "repeat": "-n 2",
    "check": "--prompts lookup -n 2", "find-blocks": "--prompts lookup -n 2",
    "stability": "--prompts lookup -n 2 --max-tokens 64 --probes 1 --counts 1,2",
}  # fmt: skip
"""Options that keep a command short; those of the row come after them, and win."""
LONG = "--metrics skip,local,order,repeat,erasure,attribution"


def rows() -> list[tuple[str, str]]:
    """What is typed in each row: whole commands, and options of ``analyze``."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| what you have |")[1].split("\n\n")[0]
    found = []
    for row in table.splitlines()[2:]:
        need, cell = re.fullmatch(r"\| (.*?) \| (.*) \|", row).groups()
        typed = re.findall(r"`((?:depthsig |python -m |--|\"Loop)[^`]+)`", cell)
        assert typed, f"nothing is typed in {row!r}"
        found += [(need, one) for one in typed]
    return found


ROWS = rows()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the rows name: a model of 24 layers, prompts, a metric, and results of four models."""
    folder = tmp_path_factory.mktemp("table")
    for name, layers in (("deep", 24), ("twelve", 12)):
        torch.manual_seed(0)
        config = hf.LlamaConfig(
            vocab_size=272, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        disturb(hf.AutoModelForCausalLM.from_config(config).eval()).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    (folder / "prompts.txt").write_text("The capital of France is Paris.\nTwo and two are four.\n")
    (folder / "mine.py").write_text(
        "import depthsig\n\n@depthsig.metric('mine.name', axis='depth', label='mean', formula='mean(h)')\n"
        "def mean(h):\n    return h.mean(-1)\n"
    )
    (folder / "few.yaml").write_text(
        "checkpoints: [deep, twelve]\nprompts: [lookup]\nn: 2\nmax_tokens: 64\nmetrics: [lens.kl]\ncontrol: false\n"
    )
    asked = f"{LITTLE} --metrics lens.kl --order 0:4,4:8x2,8:24 --out {folder / 'a'}"
    assert main(shlex.split(f"analyze {folder / 'deep'} {asked}")) == 0
    for name, options in {"b": {"order": "0:4,4:8x3,8:24"}, "c": {"grown": "4:20/4"}, "d": {}}.items():
        found = analyze(folder / "deep", "lookup", n=2, max_tokens=64, metrics="lens.kl", control=False, **options)
        found.save(folder / name, figures=False)
    return folder


def filled(typed: str) -> list[str]:
    """A row's command, with what is in the folder in the place of its words in capitals."""
    if typed.startswith("depthsig compare DIR"):
        strict = " --strict" if "--strict" in typed else ""
        return shlex.split(f"compare a b c d --roles looped=a+b,grown=c,baseline=d{strict}")
    if typed.startswith("depthsig replicate"):
        return shlex.split(
            "replicate 2512.08819 --quick --only E7 --roles midas=c,looped=a,baseline=b --out replicated"
        )
    command = typed.replace("--iterations N", "--order 0:4,4:8x4,8:12 --iterations 2")
    if command.startswith('"Loop'):
        command = f"depthsig analyze twelve --order {command}"
    if command.startswith("--lens"):
        command += " --metrics tuned"
    if re.search("maintained|gain|stability", command):
        command += " --order 0:4,4:8x2,8:24"
    if not command.startswith("depthsig "):
        command = f"depthsig analyze CHECKPOINT {command}"
    for word, value in {
        "CHECKPOINT": "deep", "NAME": "deep", "FILE.py": "mine.py", "FILE.yaml": "few.yaml",
        "FILE": "prompts.txt",
        "--out DIR": "--out exported", "DIR": "a",
    }.items():  # fmt: skip
        command = re.sub(rf"(?<![A-Z]){re.escape(word)}(?![A-Z])", value, command)
    _, name, *rest = shlex.split(command)
    less = [] if "--config" in rest else shlex.split(LESS.get(name, ""))
    if "jacobian" in rest:
        less = less[: less.index("--steps")]  # of a tuned lens
    if "--shots" in rest:
        less = ["128" if word == "64" else word for word in less]
    place = 1 if rest and not rest[0].startswith("-") else 0
    return [name, *rest[:place], *less, *rest[place:]]


@pytest.mark.parametrize(
    "typed", [pytest.param(typed, marks=[pytest.mark.slow] * (typed == LONG)) for _, typed in ROWS]
)
def test_rows_run(typed: str, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    if typed.startswith("python -m depthsig.harness"):
        pytest.skip("run with its tasks in tests/test_harness.py")
    if "--ray" in typed:
        pytest.importorskip("ray", reason="extra ray")
    assert main(filled(typed)) == 0, filled(typed)


def test_the_table_is_read_whole() -> None:
    assert len({need for need, _ in ROWS}) > 20 and LONG in {typed for _, typed in ROWS}
    assert filled("--grown 4:20/4") == ["analyze", "deep", *LITTLE.split(), "--grown", "4:20/4"]
    assert filled("depthsig export CHECKPOINT --order 0:4,4:8x2,8:24 --out DIR")[-2:] == ["--out", "exported"]
