"""Calibration prompts: which they are, that none is measured, what is recorded, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import PROMPTS, build, byte_tokenizer

import depthsig
from depthsig.cli.main import main
from depthsig.commands.analysis.record import identity
from depthsig.commands.analyze import Job
from depthsig.commands.calibration.calibration_tokens import split
from depthsig.commands.opening import Given, ReadyPrompts
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.request import Request
from depthsig.progress import Progress
from depthsig.prompts import load_prompts

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts were cut")

TOKENIZER = byte_tokenizer()
TEXTS = [f"{text} {number}" for number in range(2) for text in PROMPTS if len(text) > 5]


def ready(prompts: Any, **options: Any) -> ReadyPrompts:
    asked = {"metrics": "truncation.recoverable", "max_tokens": 100, **options}
    job = Job(Given(build("llama"), TOKENIZER), prompts, Request(**asked))
    return job.prepare(Progress(False)).prompts


def calibrated(prompts: Any, **options: Any) -> ReadyPrompts:
    found = ready(prompts, **options).calibration
    assert found is not None
    return found


def test_by_default_they_are_the_next_ones_of_the_measured_set() -> None:
    found = calibrated("gsm8k", n=7)
    texts = [p.full for p in load_prompts("gsm8k", n=14)[7:]]
    assert found.name == "gsm8k" and not found.objects and [p.text for p in found.tokens] == texts
    assert [p.index for p in found.tokens] == list(range(7))
    assert len(calibrated("gsm8k", n=2).tokens) == 5, "a fifth of one prompt cannot be held out"


def test_of_generated_sets_too_and_none_stands_twice() -> None:
    found, job = calibrated("lookup", n=6, max_tokens=256), ready("lookup", n=6, max_tokens=256)
    hashes = [p.sha256 for p in found.tokens]
    assert len(set(hashes)) == len(hashes) == 6 and not set(hashes) & {p.sha256 for p in job.tokens}


def test_beside_prompts_of_ones_own_they_are_gsm8k() -> None:
    found = calibrated(TEXTS)
    assert found.name == "gsm8k" and len(found.tokens) == len(TEXTS)
    assert found.tokens[0].text == load_prompts("gsm8k", n=1)[0].full
    assert all(len(p.ids) <= 100 for p in found.tokens)


def test_of_a_file_all_are_used_but_the_measured_ones(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_text("\n".join([*TEXTS, TEXTS[0]]), encoding="utf-8")
    with pytest.warns(DepthsigWarning, match=r"4 of 11 calibration prompts are among the measured ones"):
        found = ready(TEXTS[:3], calibration=str(path)).calibration
    assert found is not None and [p.text for p in found.tokens] == TEXTS[3:] and found.name == str(path)


def test_the_same_tokens_after_the_cut_are_the_same_prompt() -> None:
    long = "the very same beginning of two prompts, cut before they differ"
    with pytest.raises(InputError, match="takes two prompts or more that are not measured"):
        ready([f"{long} a", f"{long} b"], calibration=[f"{long} c", f"{long} d", "another"], max_tokens=40)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_they_are_measured_at_the_same_kind_of_positions(positions: str) -> None:
    texts: list[Any] = [{"text": f"{i}+{i}=", "answer": f"{2 * i};"} for i in range(10, 20)]
    found = calibrated(texts[:4], calibration=texts[4:], positions=positions)
    # "10+10=20;" is nine tokens, the answer the last three.
    assert {p.positions for p in found.tokens} == {{"all": tuple(range(1, 9)), "answer": (5, 6, 7)}[positions]}


def test_what_runs_nothing_that_is_fitted_takes_none() -> None:
    assert ready(TEXTS, metrics="truncation.prefix,truncation.suffix").calibration is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the measured ones": ({"calibration": TEXTS}, "given has 0 beside the 10 that are measured; give --calibration"),
    "one prompt": ({"calibration": ["only one"]}, "given has 1 beside the 10"),
    "no answers": ({"prompts": [{"text": "1+1=", "answer": "2;"}], "calibration": ["no answer", "none here"],
                    "positions": "answer"}, r"calibration prompts \(given\)"),
    "no file": ({"calibration": "nowhere.txt"}, "nowhere.txt"),
    "nothing to predict": ({"positions": "last"}, "the last position has none: give --positions all or answer"),
    "nothing is fitted": ({"metrics": "lens", "calibration": "gsm8k"}, "add truncation to --metrics"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_calibrated_is_refused_in_one_line(case: str) -> None:
    options, said = REFUSED[case]
    asked = {"prompts": TEXTS, "metrics": "truncation", "progress": False, **options}
    with pytest.raises(InputError, match=said) as refused:
        depthsig.analyze(build("llama"), tokenizer=TOKENIZER, **asked)
    assert "\n" not in str(refused.value)


def test_a_built_in_set_that_is_measured_whole_has_none_left() -> None:
    with pytest.raises(InputError, match="gsm8k has 0 beside the 200 that are measured"):
        Job(Given(build("llama"), TOKENIZER), "gsm8k", Request(metrics="truncation", n=200)).prepare(Progress(False))


def test_prompts_without_a_tokenizer_need_calibration_without_one() -> None:
    ids = [[5, 6, 7, 8], [9, 10, 11, 12]]
    with pytest.raises(InputError, match=r"calibration prompts \(gsm8k\): this checkpoint has no tokenizer"):
        depthsig.analyze(build("llama"), ids, metrics="truncation", progress=False)
    with pytest.warns(DepthsigWarning, match="width 32 are fitted to 8 calibration tokens only"):
        found = depthsig.analyze(
            build("llama"), ids, metrics="truncation.affine", calibration=[[1, 2, 3, 4, 5, 6], [2] * 6], progress=False
        )
    assert found.profile("truncation.affine")["value"].notna().all()


def test_one_prompt_of_two_tokens_is_no_loss_and_no_mistake() -> None:
    found = depthsig.analyze(
        build("llama"), ["ab", "a longer one"], tokenizer=TOKENIZER, metrics="truncation", calibration=TEXTS,
        progress=False,
    )  # fmt: skip
    rows = found.profile("truncation.affine")
    assert (rows["n_prompts"] == 1).all() and rows["value"].notna().all() and rows["ci_low"].isna().all()


def test_a_fifth_is_held_out() -> None:
    prompts = calibrated(TEXTS, calibration=[f"{text}!" for text in TEXTS]).tokens
    assert (
        len(split(prompts, 0)) == 2 and split(prompts, 0) <= set(range(10)) and split(prompts, 0) == split(prompts, 0)
    )
    assert len(split(prompts[:2], 0)) == 1


def test_other_calibration_prompts_make_another_result() -> None:
    job = Job(Given(build("llama"), TOKENIZER), TEXTS, Request(metrics="truncation", max_tokens=32))
    one = job.prepare(Progress(False))
    known = [identity(one.model, one.prompts.tokens, one.request, calibration) for calibration in (
        one.prompts.calibrating, one.prompts.calibrating[1:])]  # fmt: skip
    differ = [name for name in known[0] if known[0][name] != known[1][name]]
    assert differ == ["calibration prompts"]


def test_what_was_fitted_is_recorded_and_read_again(checkpoint: Path, tmp_path: Path) -> None:
    measured, other, out = tmp_path / "measured.txt", tmp_path / "other.txt", tmp_path / "out"
    measured.write_text("\n".join(TEXTS[:5]), encoding="utf-8")
    other.write_text("\n".join(TEXTS[5:]), encoding="utf-8")
    asked = ["analyze", str(checkpoint), "--prompts", str(measured), "--calibration", str(other), "--metrics",
             "lens.target_nll,truncation", "--quick", "--out", str(out), "--no-progress"]  # fmt: skip
    assert main(asked) == 0
    found = depthsig.Signature.load(out)
    record = found.info["calibration"]
    assert record["prompts"] == str(other) and record["n"] == 5 and record["held_out"] == 1
    assert len(record["temperature"]) == len(record["ridge"]) == 3 and len(record["sha256"]) == 5
    assert found.info["timings"]["calibration_s"] > 0
    assert "calibration = " in (out / "run.toml").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"<tr><th>Calibration</th><td>{other}, 5 prompts" in page and "3 of 4 steps, read out, lose" in page
    assert f"--calibration {other}" in page
    curves = found.profiles[found.profiles["metric"].str.startswith("truncation.")]
    assert set(curves.groupby("metric").size()) == {4} and len(set(curves["metric"])) == 6
    assert np.allclose(found.profile("truncation.prefix")["value"], found.profile("lens.target_nll")["value"][1:])
