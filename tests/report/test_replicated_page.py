"""The page and the figures of a replication, from one that was made up: known answers, hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import made_pages
import numpy as np
import pandas as pd
import pytest
from page_signatures import EVIL

from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.replication.criteria import criteria
from depthsig.report import draw
from depthsig.report.page.replicated_page import command, replication_data, save
from depthsig.report.page.replicated_words import experiment_in_words, replicated_in_short, would_help
from depthsig.report.replication_figures import panels_of, replication_figures, standardised
from depthsig.signature.replications.replication import OUTCOMES, TABLES, Replication


@pytest.fixture(scope="module")
def made() -> Replication:
    return made_pages.replication()


@pytest.fixture(scope="module")
def folder(made: Replication, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("replicated") / "r"
    save(made, at)
    return at


def changed(found: Replication, claim: str, **values: Any) -> Replication:
    """With other values in the first row of a claim."""
    table = found.replication.copy()
    row = table.index[table["claim"] == claim][0]
    for name, value in values.items():
        table.loc[row, name] = value
    return replace(found, replication=table)


def test_it_survives_its_folder(made: Replication, folder: Path) -> None:
    again = Replication.load(folder)
    assert again.info == made.info and again.sentences() == made.sentences()
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(made, name))


def test_the_page_escapes_every_name_and_fetches_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert EVIL not in page and "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_every_experiment_has_its_paragraph_and_every_claim_its_criterion(made: Replication, folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<h2 id="experiment-(\w+)">(.*?)(?=<h2)', page, re.S))
    assert list(sections) == [e["id"].lower() for e in made.info["experiments"]]
    for claim in made.info["claims"]:
        section = unescape(sections[claim["experiment"].lower()])
        for wanted in (f"<b>{claim['id']}.</b>", claim["criterion"], claim["control"]):
            assert wanted in section, (claim["id"], wanted)
        assert claim["source"] in section
    for one in made.info["experiments"]:
        assert one["about"] in unescape(sections[one["id"].lower()])
    rows = sum(section.count('<div class="verdict ') for section in sections.values())
    assert rows == len(made.replication)
    for place in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{place}"' in page, place


def test_every_picture_says_what_it_shows(made: Replication, folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(alts) == len(list((folder / "figures").iterdir())) > 10
    assert all(len(alt) > 40 for alt in alts)
    counts = made.replication["verdict"].value_counts()
    assert f"{counts['supported']} supported: E1.effect looped, " in alts[0]
    assert re.search(r"over phases apart, farthest apart at phases apart \d: highest baseline \([45]\.", "".join(alts))


def test_what_is_not_measurable_says_what_would_help(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'class="verdict not-measurable"' in page
    assert "no network has the role grown. Name one: --roles grown=CHECKPOINT, or a results folder of it." in page
    assert would_help("needs a checkpoint: it cannot be told from tables").startswith("Give checkpoints")
    assert would_help("no network has the role looped/all; x") == (
        "Name one: --roles looped=CHECKPOINT, or a results folder of it."
    )
    assert would_help("the moon is full") == ""


def test_it_is_drawn_again_as_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / "report.html").read_bytes()
    table = (folder / "replication.csv").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0 and str(folder / "report.html") in capsys.readouterr().out
    assert (folder / "report.html").read_bytes() == page and (folder / "replication.csv").read_bytes() == table
    assert {p.name for p in draw(folder, "svg")} >= {"claims.svg", "E1.svg", "E8.svg"}


def test_one_axis_for_all_claims(made: Replication) -> None:
    table = standardised(made)
    known = table["verdict"].map({"supported": 2.0, "contradicted": -3.0, "undecided": 0.5})
    np.testing.assert_allclose(table["value"], known, rtol=1e-9)  # below is claimed of some of them
    np.testing.assert_allclose(table["high"] - table["low"], known * 0 + 2)
    clear = (table["low"] > 0) | (table["high"] < 0)
    assert (clear == table["verdict"].isin(["supported", "contradicted"])).all()
    none = changed(made, "E1.effect", ci_low=np.nan, ci_high=np.nan)
    assert np.isnan(standardised(none)["value"].iloc[0])
    point = changed(made, "E1.effect", ci_low=0.2, ci_high=0.2)
    assert np.isnan(standardised(point)["value"].iloc[0])  # an interval of no width is no unit


def test_verdicts_differ_in_more_than_colour(made: Replication) -> None:
    ax = made.plot("claims")
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "") and len(line.get_xdata()) == 1]
    verdicts = [v for v in made.replication["verdict"] if v != "not measurable"]
    looks = {
        (v, line.get_marker(), line.get_markerfacecolor() == "white") for v, line in zip(verdicts, marks, strict=True)
    }
    assert looks == {("supported", "o", False), ("contradicted", "X", False), ("undecided", "o", True)}
    assert [t.get_text() for t in ax.texts] == list(made.replication["verdict"])
    rows = replication_data(made)["metrics"]["claims"]["forest"]
    assert [one["part"] for one in rows][:3] == ["all roles", "looped", "grown"]
    assert {row["verdict"] for row in rows[0]["rows"]} == set(OUTCOMES) - {"not measurable"}


def test_claims_share_a_panel_where_they_show_the_same(made: Replication) -> None:
    (seven,) = panels_of(made, "E7")
    assert len(seven.claims) > 1 and seven.axis == "phases apart"
    assert len(seven.rows) == len(seven.rows.drop_duplicates(["network", "x"])) == 6
    curves = made.curves.copy()
    curves.loc[curves["claim"] == seven.claims[1], "value"] += 1.0
    assert len(panels_of(replace(made, curves=curves), "E7")) == 2
    assert [p.shows for p in panels_of(made, "E8")] == ["repeat_best", "repeat_change"]


def test_roles_have_colours_and_their_networks_lines() -> None:
    made = made_pages.replication()
    info = {**made.info, "networks": [{**n, "role": "looped"} for n in made.info["networks"]]}
    lines = replace(made, info=info).plot("E7").lines
    assert len({line.get_color() for line in lines}) == 1 and len({str(line.get_linestyle()) for line in lines}) > 1
    assert len({line.get_color() for line in made.plot("E7").lines}) == 3


def test_figures_by_name(made: Replication) -> None:
    for drawn in replication_figures(made):
        assert len(made.rows(drawn.name)) and made.plot(drawn.name) is not None
    ax = made.plot("E8").figure.add_subplot()
    assert made.plot("E7", ax) is ax and made.plot("E8.best", ax) is ax
    with pytest.raises(InputError, match=r"E8 has 2 panels.*draw one of E8\.best, E8\.gain"):
        made.plot("E8", ax)
    with pytest.raises(InputError, match=r"no figure 'E8\.bst' \(did you mean 'E8\.best'\?\); there are claims, E1"):
        made.rows("E8.bst")


def test_the_first_box_counts_and_names_the_clearest(made: Replication) -> None:
    table = made.replication
    counts = table["verdict"].value_counts()
    first, against, holds, *_, rest = replicated_in_short(made)
    said = f"{counts['supported']} supported, {counts['contradicted']} contradicted, {counts['undecided']} undecided"
    assert first.answer == f"{said} and {counts['not measurable']} not measurable"
    assert (against.look, holds.look) == ("fail", "pass") and "(--quick)" in rest.text
    assert rest.answer == "1 looped, 1 midas and 1 baseline"
    clear = changed(made, "E8.best", estimate=7.0, ci_low=6.9, ci_high=7.1, verdict="supported")
    assert "+7 [+6.9, +7.1] (E8.best)" in replicated_in_short(clear)[2].text
    none = replace(made, replication=table.head(0))
    assert [a.answer for a in replicated_in_short(none)] == ["Nothing was judged"]
    open_only = replace(made, replication=table[table["verdict"] == "undecided"])
    assert len(replicated_in_short(open_only)) == 2


def test_roles_that_disagree_are_told(made: Replication) -> None:
    one = {"id": "E1", "title": "", "about": ""}
    assert experiment_in_words(made, one).endswith("Roles disagree on E1.effect and E1.late.")
    same = changed(made, "E1.effect", verdict="undecided")
    assert experiment_in_words(same, one).endswith("Roles disagree on E1.late.")


def test_the_command_that_makes_it_again(made: Replication) -> None:
    said = command(made.info)
    assert said.startswith("depthsig replicate 2602.16490 --roles ") and "midas=a folder,baseline=b+c" in said
    assert said.endswith("--quick --seed 3 --allow-pickle")
    family = {**made.info, "roles_from": "the reference family", "options": {"only": ["E4", "E8"], "seed": 0}}
    assert command({**family, "loading": {}}) == "depthsig replicate 2602.16490 --only E4,E8"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("replicate.json", '{"schema": "depthsig-replicate/1"}', "created"),
        ("replicate.json", '{"schema": "depthsig-replicate/9"}', "schema"),
        ("curves.csv", "claim\nx\n", "curves.csv"),
        ("replication.csv", "experiment,claim,criterion,role,estimate,ci_low,ci_high,verdict,note\n"
         "E1,E1.zzz,c,looped,1,0,2,supported,\n", "E1.zzz"),
        ("replication.csv", "experiment,claim,criterion,role,estimate,ci_low,ci_high,verdict,note\n"
         "E1,E1.late,c,looped,1,0,2,maybe,\n", "maybe"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_refused_in_one_line(
    made: Replication, tmp_path: Path, file: str, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made.save(tmp_path / "r")
    (tmp_path / "r" / file).write_text(text)
    for given in (["report"], ["figures", "--format", "svg"]):
        assert main([given[0], str(tmp_path / "r"), *given[1:]]) == 2
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1


def test_every_paper_has_its_page(tmp_path: Path) -> None:
    for paper in criteria().papers:
        page = save(made_pages.replication(paper), tmp_path / paper).read_text(encoding="utf-8")
        assert f"arXiv:{paper}" in page
