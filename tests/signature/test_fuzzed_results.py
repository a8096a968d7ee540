"""Damaged results folders: refused in one line, or they load and everything that reads one works."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import made_pages
import pytest
from families import build, byte_tokenizer
from fuzzing import damage, held, places, settings
from hypothesis import given
from hypothesis import strategies as st

import depthsig
from depthsig import Comparison, Signature
from depthsig.report.gallery import figures_for
from depthsig.report.page import compared_page, replicated_page
from depthsig.report.page.html import render
from depthsig.report.replication_figures import replication_figures
from depthsig.signature.provenance import again
from depthsig.signature.reading import check_record
from depthsig.signature.records import SignatureRecord, as_record
from depthsig.signature.replications.replication import Replication
from depthsig.signature.replications.replication_record import ReplicationRecord
from depthsig.signature.tested import choose_span
from depthsig.tables.periods import period_scores

COUNTS: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfuzzed results: {dict(sorted(COUNTS.items()))}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A looped signature with its control, tokens and a metric of one's own; a grown one; what compares them."""
    root = tmp_path_factory.mktemp("results")

    @depthsig.metric("mine.size", axis="depth", label="size $h$")
    def size(h):
        return h.norm(dim=-1)

    asked = {
        "metrics": ["lens.kl", "lens.tokens", "skip.output_l2", "late_share", "mine.size"],
        "scopes": ["current"], "tokenizer": byte_tokenizer(),
    }  # fmt: skip
    prompts = ["some words", "and more of them", "the last"]
    for name, labels in {"looped": {"order": "0:1,1:3x3,3", "control": True}, "grown": {"grown": "0:4/2"}}.items():
        depthsig.analyze(build("llama"), prompts, **asked, **labels).save(root / name, figures=False)
    depthsig.compare([root / "looped", root / "grown"], resamples=20, out=root / "comparison")
    depthsig.metrics.forget("mine.size")
    made_pages.replication("2505.13898").save(root / "replication")
    return root


def check(folders: Path, work: Path, data: st.DataObject) -> None:
    """Damage one file of a copy, and read it in every way."""
    name = data.draw(st.sampled_from(["looped", "looped", "grown", "comparison", "replication"]))
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folders / name, work)
    files = sorted(p for p in work.rglob("*") if p.suffix in (".json", ".csv", ".parquet"))
    records = [p for p in files if p.suffix == ".json"]
    damage(data, data.draw(st.sampled_from(files + 6 * records)))
    if name == "comparison":
        found = held(COUNTS, "comparison", lambda: Comparison.load(work))
        if found is not None:
            held(COUNTS, "its page", lambda: (found.sentences(), repr(found), compared_page.render(found, [])))
            held(COUNTS, "its figures", lambda: list(compared_page.figures_for(found)))
        return
    if name == "replication":
        replicated = held(COUNTS, "replication", lambda: Replication.load(work))
        if replicated is not None:
            said = (replicated.sentences, replicated.latex, replicated.verdicts, replicated._repr_html_)
            held(COUNTS, "what it says", lambda: [one() for one in said])
            held(COUNTS, "its section", lambda: replicated_page.render(replicated, []))
            held(COUNTS, "its drawings", lambda: list(replication_figures(replicated)))
        return
    signature = held(COUNTS, "signature", lambda: Signature.load(work))
    if signature is None:
        return
    held(COUNTS, "page", lambda: (repr(signature), signature._repr_html_(), render(signature, [])))
    if data.draw(st.integers(0, 2)) == 0:
        held(COUNTS, "figures", lambda: list(figures_for(signature)))
    if data.draw(st.integers(0, 9)) == 0:
        held(COUNTS, "periods", lambda: period_scores(signature))
        good = Signature.load(folders / "grown")
        held(COUNTS, "compared", lambda: depthsig.compare([signature, good], resamples=20))


def test_damaged_folders(folders: Path, tmp_path: Path) -> None:
    settings(20)(given(st.data())(lambda data: check(folders, tmp_path / "copy", data)))()
    assert COUNTS["signature refused"] > 2 and COUNTS["page"] == COUNTS["signature"] > 2


@pytest.mark.slow
@pytest.mark.long
def test_many_damaged_folders(folders: Path, tmp_path: Path) -> None:
    settings(500)(given(st.data())(lambda data: check(folders, tmp_path / "copy", data)))()


def test_every_field_of_a_record_may_be_anything(folders: Path) -> None:
    """Every field in turn: gone, and of other types. What is not refused, everything that reads a record can read."""
    record = json.loads((folders / "looped" / "signature.json").read_text(encoding="utf-8"))
    good = Signature.load(folders / "looped")
    kinds = {tuple("*" if isinstance(key, int) else key for key in place): place for place in places(record)}
    for *way, last in kinds.values():
        for junk in (None, "x", 10**400, ["x"], ...):
            changed = json.loads(json.dumps(record))
            inner = changed
            for key in way:
                inner = inner[key]
            inner[last] = junk
            if junk is ...:
                del inner[last]
            if held(COUNTS, "record", lambda info=changed: check_record(as_record(info, SignatureRecord)) or True):
                read = replace(good, info=changed)
                held(
                    COUNTS,
                    "what reads it",
                    lambda one=read: (again(one.info), choose_span(one.info), one.plan, repr(one)),
                )
    assert COUNTS["record refused"] > 300 and COUNTS["what reads it"] == COUNTS["record"]


def test_every_field_of_a_replications_record_may_be_anything(folders: Path) -> None:
    record = json.loads((folders / "replication" / "replicate.json").read_text(encoding="utf-8"))
    good = Replication.load(folders / "replication")
    kinds = {tuple("*" if isinstance(key, int) else key for key in place): place for place in places(record)}
    before = COUNTS["its record refused"]
    for *way, last in kinds.values():
        for junk in (None, "x", 10**400, ["x"], ...):
            changed = json.loads(json.dumps(record))
            inner = changed
            for key in way:
                inner = inner[key]
            inner[last] = junk
            if junk is ...:
                del inner[last]
            if held(COUNTS, "its record", lambda info=changed: as_record(info, ReplicationRecord)):
                held(COUNTS, "what reads it", lambda info=changed: (repr(good), replicated_page.command(info)))
    assert COUNTS["its record refused"] - before > 50
