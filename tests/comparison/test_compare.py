"""Comparing signatures: against plain code of its own, known answers, refusals, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_signatures import CLAIMS, claim, late, periodic, signature, skip_only
from plain_convergence import plain_distance, plain_relative

import depthsig
from depthsig.comparison.roles import folders, split_roles
from depthsig.errors import InputError
from depthsig.statistics.convergence import (
    verdict,
)
from depthsig.statistics.resampling import bootstrap_indices

# ---------------------------------------------------------------- the whole comparison, recomputed plainly


def plain_late_share(profile: np.ndarray) -> float:
    n = len(profile)
    total = sum(profile)
    part = sum(v * min(1, max(0, s + 1 - 2 * n / 3)) for s, v in enumerate(profile))
    return part / total


def test_everything_against_plain_resampling() -> None:
    """Two looped seeds, one grown, one baseline, of different depth: claims and distances, drawn by hand."""
    rng = np.random.default_rng(3)
    values = [
        {
            ("skip.output_l2", "layer", "current", "step"): rng.random((6, s)) + 0.1,
            ("lens.kl", "", "", "depth"): rng.random((6, s + 1)) + 0.1,
            ("contribution.cosine", "mlp", "", "step"): rng.standard_normal((6, s)),
        }
        for s in (9, 12, 9, 6)
    ]
    made = [signature(v, s, name=f"m{i}") for i, (v, s) in enumerate(zip(values, (9, 12, 9, 6), strict=True))]
    looped, grown, base = made[:2], made[2], made[3]
    roles = {"looped": looped, "grown": grown, "baseline": base}
    found = depthsig.compare(made, roles=roles, resamples=40, seed=4)

    drawn = [range(6), *bootstrap_indices(6, 40, 4)]
    own = int(np.random.SeedSequence([4, 0]).generate_state(1)[0])
    seeds = [[0, 1], *bootstrap_indices(2, 40, own)]

    def resampled(number: int, key: tuple[str, str, str, str], rows: Any) -> np.ndarray:
        return values[number][key][list(rows)].mean(0)

    late_rows, convergence, kl = [], [], []
    skip = ("skip.output_l2", "layer", "current", "step")
    for rows, chosen in zip(drawn, seeds, strict=True):
        shares = [plain_late_share(resampled(i, skip, rows)) for i in range(4)]
        late_rows.append(np.mean([shares[i] for i in chosen]) - shares[3])

        def mean_distance(a: int, b: int, rows: Any = rows) -> float:
            keys = list(values[0])
            return np.mean([plain_distance(resampled(a, k, rows), resampled(b, k, rows), k[3]) for k in keys])

        ab, ac = (np.mean([mean_distance(i, j) for i in chosen]) for j in (2, 3))
        convergence.append(ab - min(ac, mean_distance(2, 3)))
        lens = ("lens.kl", "", "", "depth")
        kl.append(plain_distance(resampled(0, lens, rows), resampled(3, lens, rows), "depth"))

    for name, expected in (("late", late_rows), ("convergence", convergence)):
        row = claim(found, name)
        numbers = [row["estimate"], row["ci_low"], row["ci_high"]]
        assert numbers == pytest.approx([expected[0], *np.percentile(expected[1:], [2.5, 97.5])], rel=1e-9), name
        assert row["verdict"] == verdict(row["ci_low"], row["ci_high"], above=name == "late")
    table = found.distances.query("level == 'model' and a == 'm0' and b == 'm3' and metric == 'lens.kl'").iloc[0]
    numbers = [table["distance"], table["ci_low"], table["ci_high"]]
    assert numbers == pytest.approx([kl[0], *np.percentile(kl[1:], [2.5, 97.5])], rel=1e-9)
    assert found.distance_matrix("lens.kl").loc["m3", "m0"] == table["distance"]
    assert "1 to 2 an arm" in claim(found, "late")["note"]
    assert found.info["profiles"]["compared"] == [
        "contribution.cosine (mlp)",
        "lens.kl",
        "skip.output_l2 (layer, current)",
    ]
    curve = found.profiles.query("model == 'm1' and metric == 'lens.kl'")["value"]
    assert np.allclose(curve, plain_relative(values[1]["lens.kl", "", "", "depth"].mean(0), "depth"))


# ---------------------------------------------------------------- known answers


def test_the_same_twice_is_no_distance_and_nothing_decided() -> None:
    values = periodic(12, 1.0, 0)
    one = signature(values, 12, name="one", span=(0, 4, 3, "loop"))
    other = signature(values, 12, name="other")
    found = depthsig.compare([one, other])
    assert found.info["roles"] == {"looped": ["one"], "baseline": ["other"]} and "guessed" in found.info["roles_from"]
    assert (found.distances[["distance", "ci_low", "ci_high"]] == 0).all(axis=None)
    assert set(found.claims["verdict"]) == {"undecided"} and set(found.claims["claim"]) == {"late", "recurrence"}
    assert (found.claims[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)
    assert any("hold the same numbers" in w for w in found.info["warnings"])


def test_late_reliance_is_supported_or_contradicted_at_any_depth() -> None:
    strong, even = (
        signature(skip_only(late(12, 0.6), 1), 12, name="a"),
        signature(skip_only(late(24, 1 / 3), 2), 24, name="c"),
    )
    up = claim(depthsig.compare([strong, even], roles={"looped": strong, "baseline": even}), "late")
    assert up["verdict"] == "supported"
    # The last third has 0.6 where the two thirds before have 0.2 a step each.
    assert up["estimate"] == pytest.approx(0.6 * 4 / (0.6 * 4 + 0.2 * 8) - 1 / 3, abs=0.01)
    down = claim(depthsig.compare([strong, even], roles={"grown": even, "baseline": strong}), "late", "grown")
    assert down["verdict"] == "contradicted" and down["estimate"] == pytest.approx(-up["estimate"])
    assert "about these checkpoints" in up["note"]


def test_scores_of_late_reliance_that_disagree_are_said_to() -> None:
    # More in the last third, and a centre further in front: the middle of the other is full.
    front = np.array([2.0, 2.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.2, 1.2, 1.2, 1.2])
    middle = np.array([0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.5, 1.5, 0.4, 0.4, 0.4, 0.4])
    a, c = signature(skip_only(front, 1), 12, name="a"), signature(skip_only(middle, 2), 12, name="c")
    said = claim(depthsig.compare([a, c], roles={"looped": a, "baseline": c}), "late")
    assert said["verdict"] == "supported"
    assert said["note"].startswith("the scores disagree: depth_score.output.relative differs by -")
    # As much in the last third: one score is undecided, another is not.
    same = signature(skip_only(np.r_[front[:8][::-1], front[8:]], 4, 12), 12, name="s")
    left_open = claim(depthsig.compare([same, a], roles={"looped": a, "baseline": same}), "late")
    assert left_open["verdict"] == "undecided"
    assert left_open["note"].startswith("the scores disagree: depth_score.output.relative differs by -")
    alike = claim(depthsig.compare([a, a_late := signature(skip_only(late(12, 0.9), 3), 12, name="b")],
                                   roles={"looped": a_late, "baseline": a}), "late")  # fmt: skip
    assert alike["verdict"] == "supported" and "disagree" not in alike["note"]


def test_depth_scores_in_steps_are_flagged_between_depths() -> None:
    a, c = signature(skip_only(late(12, 0.6)), 12, name="a"), signature(skip_only(late(24, 0.6)), 24, name="c")
    rows = depthsig.compare([a, c]).late.set_index("score")
    assert "relative score" in rows.loc["depth_score.output", "note"] and not rows.loc["late_share", "note"]
    own = depthsig.compare([a, c]).scores.query("model == 'a' and score == 'late_share'").iloc[0]
    assert own["value"] == pytest.approx(rows.loc["late_share", "value_a"])


def test_recurrence_needs_a_period_and_a_difference() -> None:
    span = (0, 4, 6, "grown")
    a = signature(periodic(24, 1.0, 1), 24, name="a", span=span)
    flat = signature(periodic(24, 0.0, 2), 24, name="flat")
    found = depthsig.compare([a, flat], roles={"grown": a, "baseline": flat})
    row = claim(found, "recurrence", "grown")
    assert row["verdict"] == "supported" and "no re-initialised control in a" in row["note"]
    members = found.recurrence.query("c == 'baseline'")
    assert len(members) == 9 and members.iloc[0]["metric"] == "mean"
    assert members.iloc[0]["difference"] == pytest.approx(members.iloc[1:]["difference"].mean())
    assert row["estimate"] == pytest.approx(members.iloc[0]["difference"])
    # The other way round: the baseline recurs with the block of a model that does not.
    labelled = replace(flat, info={**flat.info, "spans": a.info["spans"]})
    reverse = claim(depthsig.compare([labelled, a], roles={"grown": labelled, "baseline": a}), "recurrence", "grown")
    assert reverse["verdict"] == "contradicted" and reverse["estimate"] == pytest.approx(-row["estimate"])
    # Two without a period: however clear the difference, there is nothing that recurs.
    noise = signature(periodic(24, 0.0, 5), 24, name="noise", span=span)
    for first, second in ((noise, flat), (labelled, noise)):
        row = claim(
            depthsig.compare([first, second], roles={"grown": first, "baseline": second}), "recurrence", "grown"
        )
        assert row["verdict"] != "supported" and "no period of the block" in row["note"]


def test_recurrence_is_not_testable_without_span_or_steps() -> None:
    a = signature(periodic(24, 1.0, 1), 24, name="a", span=(0, 4, 6, "loop"))
    short, plain = signature(periodic(12, 0.0, 2), 12, name="short"), signature(periodic(24, 0.0, 2), 24, name="plain")
    row = claim(depthsig.compare([a, short]), "recurrence")
    assert row["verdict"] == "undecided" and np.isnan(row["estimate"]) and "fewer steps" in row["note"]
    row = claim(depthsig.compare([plain, short], roles={"looped": plain, "baseline": short}), "recurrence")
    assert row["verdict"] == "undecided" and "no span" in row["note"]
    two = signature(periodic(8, 1.0, 1), 8, name="two", span=(0, 4, 2, "loop"))
    row = claim(depthsig.compare([two, plain], roles={"looped": two, "baseline": plain}), "recurrence")
    assert row["verdict"] == "undecided" and "no profile of the family is testable" in row["note"]


def test_recurrence_is_read_from_samples_where_tables_hold_worst_cases() -> None:
    looped = signature(periodic(12, 1.0, 0), 12, name="looped", span=(0, 4, 3, "loop"))
    base = signature(periodic(12, 0.0, 1), 12, name="baseline")
    roles = {"looped": looped, "baseline": base}
    expected = claim(depthsig.compare([looped, base], roles=roles, resamples=50), "recurrence")
    worst = replace(
        looped, profiles=looped.profiles.assign(agg="max", value=1.0), matrices=looped.matrices.assign(agg="max")
    )
    found = claim(
        depthsig.compare([worst, base], roles={"looped": worst, "baseline": base}, resamples=50), "recurrence"
    )
    assert found["estimate"] == pytest.approx(expected["estimate"])
    assert found["verdict"] == expected["verdict"] and "p = " in found["note"]


def test_recurrence_says_why_it_is_not_testable() -> None:
    looped = signature(periodic(12, 1.0, 0), 12, name="looped", span=(0, 4, 2, "loop"))
    base = signature(periodic(12, 0.0, 1), 12, name="baseline")
    found = claim(depthsig.compare([looped, base], roles={"looped": looped, "baseline": base}), "recurrence")
    assert found["verdict"] == "undecided" and "2 blocks; a period needs 3" in found["note"]


def test_the_control_stands_beside_the_claim() -> None:
    span = (0, 4, 6, "loop")
    control = signature(periodic(24, 1.0, 7), 24, name="fresh", span=span)
    a = replace(signature(periodic(24, 1.0, 1), 24, name="a", span=span), control=control)
    c = signature(periodic(24, 0.0, 2), 24, name="c")
    found = depthsig.compare([a, c])
    note = claim(found, "recurrence")["note"]
    assert "re-initialised control: strength" in note and "the control recurs too" in note
    rows = found.recurrence.query("c == 'control'")
    assert len(rows) == 9 and rows.iloc[0]["p_c"] < 0.05
    # Its prompts pair by hash, in whatever order they lie.
    order = np.arange(12)[::-1]
    shuffled = {k: v[order] for k, v in periodic(24, 1.0, 7).items()}
    other = signature(shuffled, 24, name="fresh", span=span, texts=[f"prompt {i}" for i in order])
    again = depthsig.compare([replace(a, control=other), c]).recurrence.query("c == 'control'")
    assert np.allclose(again["difference"], rows["difference"]) and np.allclose(again["ci_low"], rows["ci_low"])


def test_convergence_is_judged_by_shape() -> None:
    bump, ramp = np.r_[1.0, 5, 1, 1, 1, 1], np.arange(1.0, 13)
    a, b = signature(skip_only(bump, 1), 6, name="a"), signature(skip_only(3 * bump, 2), 6, name="b")
    c = signature(skip_only(ramp, 3), 12, name="c")
    near = claim(depthsig.compare([a, b, c], roles={"looped": a, "grown": b, "baseline": c}), "convergence")
    assert (
        near["verdict"] == "supported" and near["estimate"] < -0.3 and (near["b"], near["c"]) == ("grown", "baseline")
    )
    far = claim(depthsig.compare([a, b, c], roles={"looped": a, "grown": c, "baseline": b}), "convergence")
    assert far["verdict"] == "contradicted"


def test_seeds_are_resampled_too() -> None:
    """One seed decides, three that disagree do not; three networks an arm need no caveat."""
    shares = (0.6, 0.2, 0.42)
    arms = [signature(skip_only(late(12, s), i), 12, name=f"a{i}") for i, s in enumerate(shares)]
    base = [signature(skip_only(late(12, 1 / 3), 10 + i), 12, name=f"c{i}") for i in range(3)]
    one = depthsig.compare([arms[0], base[0]], roles={"looped": arms[0], "baseline": base[0]})
    assert claim(one, "late")["verdict"] == "supported"
    all_of_them = depthsig.compare([*arms, *base], roles={"looped": arms, "baseline": base})
    row = claim(all_of_them, "late")
    assert row["verdict"] == "undecided" and row["ci_high"] - row["ci_low"] > 0.1 and "checkpoints" not in row["note"]
    role = all_of_them.late.query("level == 'role' and score == 'late_share'").iloc[0]
    assert role["difference"] == pytest.approx(row["estimate"])


# ---------------------------------------------------------------- prompts and options


def test_prompts_are_paired_by_hash_whatever_their_order() -> None:
    a, c = skip_only(late(12, 0.5), 1), skip_only(late(12, 0.4), 2)
    straight = depthsig.compare([signature(a, 12, name="a"), signature(c, 12, name="c")])
    order = np.random.default_rng(0).permutation(12)
    shuffled = {k: v[order] for k, v in c.items()}
    other = signature(shuffled, 12, name="c", texts=[f"prompt {i}" for i in order])
    crossed = depthsig.compare([signature(a, 12, name="a"), other])
    assert np.allclose(straight.distances["ci_low"], crossed.distances["ci_low"])
    assert crossed.info["prompts"] == {"n": 12, "same_tokens": True}


def test_prompts_that_only_some_have_are_left_out_and_said() -> None:
    a = signature(skip_only(late(12, 0.5), 1), 12, name="a")
    texts = [f"prompt {i}" for i in range(4, 16)]
    values = skip_only(late(12, 0.4), 2)
    found = depthsig.compare([a, signature(values, 12, name="c", texts=texts)])
    assert found.info["prompts"]["n"] == 8 and "only the 8 prompts" in found.info["warnings"][0]
    only = {k: v[:8] for k, v in values.items()}
    own = {k: v[4:] for k, v in skip_only(late(12, 0.5), 1).items()}
    by_hand = depthsig.compare([signature(own, 12, name="a"), signature(only, 12, name="c")])
    assert np.allclose(found.distances["distance"], by_hand.distances["distance"])
    with pytest.raises(InputError, match="no prompt in common"):
        depthsig.compare([a, signature(values, 12, name="c", texts=[f"other {i}" for i in range(12)])])


def test_other_tokens_pair_by_text_and_few_prompts_decide_nothing() -> None:
    a, c = skip_only(late(12, 0.9), 1), skip_only(late(12, 0.2), 2)
    found = depthsig.compare([signature(a, 12, name="a"), signature(c, 12, name="c", tokens="other")])
    assert not found.info["prompts"]["same_tokens"] and "tokens differ on 12 of 12" in found.info["warnings"][0]
    a, c = ({k: v[:4] for k, v in x.items()} for x in (a, c))
    one, two = signature(a, 12, name="a"), signature(c, 12, name="c")
    few = depthsig.compare([one, two], roles={"looped": one, "baseline": two})
    row = claim(few, "late")
    assert row["verdict"] == "undecided" and row["estimate"] > 0.5 and np.isnan(row["ci_low"])
    assert any("too few for intervals" in w for w in few.info["warnings"])


def test_a_text_that_comes_twice_pairs_in_order() -> None:
    texts = ["same"] * 6 + [f"t{i}" for i in range(6)]
    a = signature(skip_only(late(12, 0.5), 1), 12, name="a", texts=texts)
    found = depthsig.compare([a, signature(skip_only(late(12, 0.4), 2), 12, name="c", texts=texts)])
    assert found.info["prompts"]["n"] == 12


@pytest.mark.parametrize(
    "option", [{"positions": "last"}, {"ablation": "mean"}, {"keep_first": True}, {"chat_template": True}]
)
def test_signatures_measured_otherwise_are_refused(option: dict[str, Any]) -> None:
    a = signature(skip_only(late(12, 0.5)), 12, name="a")
    c = signature(skip_only(late(12, 0.4)), 12, name="c", options=option)
    (name,) = option
    with pytest.raises(InputError, match=f"differ in --{name.replace('_', '-')}"):
        depthsig.compare([a, c])


def test_profiles_that_not_all_have_are_named() -> None:
    values = skip_only(late(12, 0.5), 1)
    more = {
        **values, ("lens.kl", "", "", "depth"): np.ones((12, 13)),
        ("skip.kl", "layer", "current", "step"): np.ones((12, 12)),
        ("order.swap_next.kl", "", "", "step"): np.ones((12, 12)),
    }  # fmt: skip
    zero = {**values, ("skip.kl", "layer", "current", "step"): np.zeros((12, 12))}
    found = depthsig.compare([signature(more, 12, name="more"), signature(zero, 12, name="zero")])
    left = found.info["profiles"]["left_out"]
    assert found.info["profiles"]["compared"] == ["skip.output_l2 (layer, current)"]
    assert left["lens.kl"] == "not measured in zero" and "zero throughout" in left["skip.kl (layer, current)"]
    assert "several steps" in left["order.swap_next.kl"]
    lens = {("lens.kl", "", "", "depth"): np.ones((12, 13))}
    with pytest.raises(InputError, match="no profile is there in all"):
        depthsig.compare([signature(values, 12, name="a"), signature(lens, 12, name="c")])


# ---------------------------------------------------------------- who is who


def test_roles_are_read_and_refused() -> None:
    assert split_roles("looped=a+b,grown=c=d,e,baseline=f") == {"looped": "a+b", "grown": "c=d,e", "baseline": "f"}
    for text in ("", "a,b", "looped", "x=1,looped=a", "looped="):
        with pytest.raises(InputError):
            split_roles(text)
    with pytest.raises(InputError, match="twice"):
        split_roles("looped=a,looped=b")
    made = [signature(skip_only(late(12, 0.5), i), 12, name=f"m{i}") for i in range(3)]
    for roles, says in (
        ({"teacher": made[0]}, "unknown roles"), ({}, "unknown roles: none"), ({"looped": []}, "nobody"),
        ({"looped": "m9"}, "not among the compared"), ({"looped": "m0", "baseline": "m0"}, "more than once"),
        ({"looped": "m0+m0"}, "more than once"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            depthsig.compare(made, roles=roles)
    copy = replace(made[0], info={**made[0].info, "checkpoint": {"name": "copy"}})
    with pytest.raises(InputError, match="copies of one signature"):
        depthsig.compare([*made, copy], roles={"looped": [made[0], copy], "baseline": made[1]})


def test_a_plus_may_belong_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a+b").mkdir()
    assert folders("a+b+c") == ["a+b", "c"] and folders("x+y") == ["x", "y"]


def test_roles_are_not_guessed_where_there_is_a_choice() -> None:
    span = (0, 4, 3, "loop")
    loops = [signature(skip_only(late(12, 0.5), i), 12, name=f"l{i}", span=span) for i in range(2)]
    base = signature(skip_only(late(12, 0.4), 5), 12, name="base")
    found = depthsig.compare([*loops, base])
    assert found.claims.empty and not found.info["roles"] and "looped = l0, l1" in found.info["roles_from"]
    assert list(found.claims.columns) == CLAIMS and len(found.distances) and len(found.late)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    a = signature(skip_only(late(12, 0.5)), 12, name="a")
    for items, says in (
        ([], "two signatures or more"), ([a], "two signatures or more"), ([a, a], "given twice"),
        ([a, tmp_path / "none"], "no folder"), ([a, tmp_path], "no signature.json"),
        ([a, replace(a, samples_table=a.samples_table.iloc[:0])], "no per-prompt samples"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            depthsig.compare(items)
    a.save(tmp_path / "a", figures=False)
    with pytest.raises(InputError, match="given twice"):
        depthsig.compare([tmp_path / "a", tmp_path / "x" / ".." / "a"])
    wrong = replace(a, info={**a.info, "plan": a.info["plan"][:5]})
    with pytest.raises(InputError, match="do not fit its 5 steps"):
        depthsig.compare([a, wrong])


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    for place, seed in (("x/sig", 1), ("y/sig", 2), ("z/other", 3)):
        signature(skip_only(late(12, 0.5), seed), 12).save(tmp_path / place, figures=False)
    made = signature(skip_only(late(12, 0.5), 4), 12, name="other")
    found = depthsig.compare([tmp_path / "x/sig", tmp_path / "y/sig", tmp_path / "z/other", made])
    assert found.models == ["x/sig", "y/sig", "other", "other (2)"]
