"""What a results folder or a checkpoint says is shown: control characters in it are seen, and obeyed by nothing."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_pages
import page_signatures
import pandas as pd
import pytest
import torch
from families import build
from made_signatures import three_arms

import depthsig
from depthsig import report
from depthsig.cli.main import main
from depthsig.errors import DepthsigWarning, InputError, visible
from depthsig.prompts.files import read_prompts
from depthsig.report.page.lens_page import read as read_lens
from depthsig.report.page.page_data import page_data
from depthsig.signature import Comparison, Signature
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.repeated import Repeated
from depthsig.signature.replications.replication import Replication
from depthsig.signature.storage import write_record
from depthsig.untrusted import made_visible

SIGNS = "\x1b\x07\x00\x0d\x7f\x9b\u202a\u202e\u2066\u2069"
EVIL = f"\x1b[31mred{SIGNS[1:]}end"


def is_harmless(text: str) -> bool:
    return not any(sign in text for sign in SIGNS) and "\\x1b[31mred" in text


def test_what_is_obeyed_becomes_visible_and_the_rest_stays() -> None:
    assert visible(SIGNS) == r"\x1b\x07\x00\x0d\x7f\x9b\u202a\u202e\u2066\u2069" and visible("\ud800") == r"\ud800"
    plain = {"a": ["é 你 \u200d 🙂\n\t", 1, None, {"b": 0.5}], "c": True}
    assert made_visible(plain) is plain
    assert made_visible({EVIL: (EVIL, [EVIL])}) == {visible(EVIL): (visible(EVIL), [visible(EVIL)])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result whose every text says more than it should; its tokens too, which are data."""
    folder = page_signatures.made().save(tmp_path / "a", figures=False)
    record = json.loads((folder / "signature.json").read_text(encoding="utf-8"))
    record["checkpoint"] |= {"name": EVIL, "family": EVIL, "id": EVIL}
    record |= {"warnings": [EVIL], "device": EVIL, EVIL: EVIL}
    record["certificates"] = [{"name": EVIL, "value": 0.0, "tolerance": 1.0, "note": EVIL, "passed": False}]
    record["options"]["prompts"] = EVIL
    write_record(folder / "signature.json", record)
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    row = dict.fromkeys(scores, "") | {"score": "late_share", "metric": "skip.output_l2", "part": "layer"}
    row |= {"scope": "current", "agg": "mean", "value": 0.5, "n_prompts": 6, "note": EVIL.replace("\r", "")}
    pd.DataFrame([row]).to_csv(folder / "scores.csv", index=False)
    tokens = page_signatures.tokens(EVIL)
    replace(page_signatures.made(), tokens_table=tokens).tokens_table.to_parquet(folder / "tokens.parquet", index=False)
    record["rows"] |= {"scores.csv": 1, "tokens.parquet": len(tokens)}
    write_record(folder / "signature.json", record)
    return folder


def test_a_signature_of_somebody_elses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Signature.load(folder)
    said = [repr(found), found._repr_html_(), str(found.info), "".join(found.scores["note"])]
    assert all(map(is_harmless, said))
    assert is_harmless(found.to_card().replace(r"\\x1b\[", r"\x1b["))
    assert found.tokens_table["input_token"].iloc[0] == "in" + EVIL
    assert main(["card", str(folder)]) == 0
    assert not any(sign in capsys.readouterr().out for sign in SIGNS)
    page = report.build(folder).read_text(encoding="utf-8")
    assert is_harmless(page)
    words = page_data(found)["tokens"]["lens.tokens"]
    assert all(map(is_harmless, [*words["words"], *words["prompts"][0]["read"]]))


def test_findings_are_written_again_with_the_page(folder: Path) -> None:
    wanted = json.loads(json.dumps(Signature.load(folder).findings()))
    assert isinstance(wanted, list) and wanted
    for spoil in (lambda file: file.write_bytes(b"{dam\x1baged"), Path.unlink):
        spoil(folder / "findings.json")
        report.build(folder)
        assert json.loads((folder / "findings.json").read_text(encoding="utf-8")) == wanted
    blocks = folder.parent / "blocks"
    blocks.mkdir()
    made_pages.blocks().write(blocks)
    (blocks / "findings.json").write_text("somebody's own", encoding="utf-8")
    report.build(blocks)
    assert (blocks / "findings.json").read_text(encoding="utf-8") == "somebody's own"


def test_what_was_read_is_written_and_read_as_the_same(folder: Path, tmp_path: Path) -> None:
    for signature in (Signature.load(folder), page_signatures.made()):
        first = Signature.load(signature.save(tmp_path / "first", figures=False))
        again = Signature.load(first.save(tmp_path / "again", figures=False))
        assert first.info == again.info
        assert {**signature.info, "rows": 0} == {**first.info, "rows": 0} or "rows" not in signature.info
        for table in ("profiles", "scores", "prompts", "samples_table", "tokens_table"):
            pd.testing.assert_frame_equal(getattr(first, table), getattr(again, table))
            pd.testing.assert_frame_equal(getattr(signature, table), getattr(first, table))


def _with_evil(path: Path, **entries: Any) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    write_record(path, {**record, **entries})


def test_other_records(tmp_path: Path) -> None:
    compared = depthsig.compare(three_arms(), resamples=30).save(tmp_path / "compare")
    _with_evil(compared / "compare.json", warnings=[EVIL], roles_from=EVIL)
    assert is_harmless(str(Comparison.load(compared).info))
    assert is_harmless(report.build(compared).read_text(encoding="utf-8"))

    named = depthsig.compare(three_arms(looped=EVIL), resamples=30)
    assert is_harmless(str(named.info["models"]) and repr(named.info["models"]).replace("\\\\", "\\"))
    assert is_harmless(report.build(named.save(tmp_path / "named")).read_text(encoding="utf-8"))

    blocks = tmp_path / "blocks"
    blocks.mkdir()
    made_pages.blocks().write(blocks)
    _with_evil(blocks / "blocks.json", checkpoint=EVIL, notes=[EVIL])
    assert is_harmless(str(SavedBlocks.load(blocks).info["notes"][0]))
    assert is_harmless(report.build(blocks).read_text(encoding="utf-8"))

    lens = tmp_path / "lens"
    lens.mkdir()
    write_record(lens / "lens.json", {**made_pages.lens(), "checkpoint": {"id": EVIL}, "loss": EVIL})
    assert is_harmless(read_lens(lens)["loss"])
    assert is_harmless(report.build(lens).read_text(encoding="utf-8"))

    replicated = made_pages.replication().save(tmp_path / "replicate")
    paper = {"id": EVIL, "title": EVIL, "authors": EVIL, "year": 2026}
    _with_evil(replicated / "replicate.json", paper=paper, warnings=[EVIL], roles_from=EVIL, versions={EVIL: EVIL})
    found = Replication.load(replicated)
    assert all(map(is_harmless, [str(found.info["paper"]["title"]), repr(found), found.latex()]))
    assert is_harmless(report.build(replicated).read_text(encoding="utf-8"))

    study, repeats = made_pages.one_span(), tmp_path / "repeat"
    repeats.mkdir()
    study.runs.to_csv(repeats / "repeat.csv", index=False)
    study.ranking.to_csv(repeats / "ranking.csv", index=False)
    write_record(repeats / "repeat.json", {**study.info, "checkpoint": {"id": EVIL}, "tasks": [EVIL]})
    assert is_harmless(Repeated.load(repeats).info["tasks"][0])
    assert is_harmless(report.build(repeats).read_text(encoding="utf-8"))


def test_a_checkpoint_that_calls_itself_something(tmp_path: Path) -> None:
    module = build("gpt2")
    module.config._name_or_path = EVIL
    model = depthsig.load(module)
    measured = depthsig.analyze(model, [[3, 4, 5]], metrics="lens.kl", progress=False)
    assert all(
        is_harmless(text) for text in (str(model), repr(model), repr(measured), measured.info["checkpoint"]["name"])
    )
    assert is_harmless(report.save(measured, tmp_path / "a").read_text(encoding="utf-8"))
    assert is_harmless(depthsig.find_blocks(model).checkpoint)


def test_errors_and_warnings_quote_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{EVIL.replace(chr(0), '')}.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    with pytest.warns(DepthsigWarning) as said:
        read_prompts(file, 1)
    assert is_harmless(str(said[0].message))
    file.write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_prompts(file)
    assert is_harmless(str(refused.value))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {"model_type": EVIL, "architectures": [EVIL], "_name_or_path": EVIL, "quantization_config": EVIL}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save({}, folder / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["plan", str(folder)]) == 2
    assert not any(sign in capsys.readouterr().err for sign in SIGNS)
