"""Orders, spans and counts written in any way: read as they are meant, or one line that says what is wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from fuzzing import held, settings
from hypothesis import given
from hypothesis import strategies as st

from depthsig.commands.repeats.tasks import parse_damping, parse_times
from depthsig.comparison.roles import split_roles
from depthsig.engine.edits import compile_edit, parse_edit
from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError
from depthsig.plan.order import MAX_ITERATIONS, MAX_STEPS, parse_iterations, parse_order, parse_span
from depthsig.plan.plan import build_plan, find_loops

COUNTS: Counter[str] = Counter()
LOOPED = build_plan(parse_order("0:4,4:8x4,8:12", 12), 12)
GRAMMARS = {
    "order": lambda text: build_plan(parse_order(text, 12), 12, text),
    "loop": lambda text: parse_span(text, 12, option="--loop"),
    "grown": lambda text: parse_span(text, 12, option="--grown", grown=True),
    "iterations": parse_iterations, "memory": parse_memory, "times": parse_times, "damping": parse_damping,
    "roles": split_roles, "edit": lambda text: compile_edit(parse_edit(text), LOOPED),
}  # fmt: skip
VALID = [
    "0:4,4:8x4,8:12", "Loop(4-4x4-4)", "3", "4:8", "4:12/4", "H_cycles=3,L_cycles=2", "4GiB", "1,2,3", "0.5,1",
    "looped=a+b,grown=c", "Skip(5)+Repeat(4,8,times=2)",
    "Skip(layer=5,passes='2:')+Patch(layer=5,source=0,passes=1)",
]  # fmt: skip
PIECES = st.one_of(
    st.sampled_from([":", ",", "x", "/", "-", "=", "Loop(", ")", "(", " ", "1", "4", "12", "+", "[", "GiB", "e400"]),
    st.sampled_from(["999999999", "9" * 400, "9" * 5000, "\u0663", "\uff14", "\u00b2", "\u212a", "\0", "nan"]),
    st.text(max_size=3),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfuzzed grammars: {dict(sorted(COUNTS.items()))}")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A valid text with pieces put in or taken out, or pieces alone."""
    text = list(draw(st.sampled_from([*VALID, ""])))
    for piece in draw(st.lists(PIECES, max_size=3)):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = [piece]
    return "".join(text)


def check(text: str) -> None:
    for name, read in GRAMMARS.items():
        held(COUNTS, name, lambda read=read: read(text))
        if name != "roles" and not text.isascii():
            with pytest.raises(InputError):
                read(text)


def test_grammars() -> None:
    settings(400)(given(texts())(check))()
    assert all(COUNTS[name] for name in ("order", "loop", "grown", "iterations", "memory", "times", "damping"))


@pytest.mark.slow
@pytest.mark.long
def test_grammars_at_length() -> None:
    settings(6000)(given(texts())(check))()


@pytest.mark.parametrize(
    "given", [10**5000, -(10**5000), float("nan"), float("inf"), [10**5000], object()], ids="abcdef"
)
@pytest.mark.parametrize("read", [parse_iterations, parse_memory, parse_times, parse_damping], ids=lambda f: f.__name__)
def test_numbers_from_python(read, given) -> None:
    with pytest.raises((InputError, TypeError)) as refused:
        read(given)
    assert len(str(refused.value)) < 500


def test_counts_without_end_take_no_memory() -> None:
    for order in ("0:4x999999999", f"0:1x{MAX_STEPS + 1}", "Loop(4-4x999999999-4)", f"0:12x{'9' * 400}"):
        with pytest.raises(InputError):
            parse_order(order, 12)
    with pytest.raises(InputError):
        parse_iterations(MAX_ITERATIONS + 1)


LONGEST = [f"0:12x{MAX_STEPS // 12}", "5x4096", ",".join(["0,0,1"] * 1365), ",".join(["0:3x2,5"] * 585)]


@pytest.mark.parametrize("order", LONGEST, ids=lambda order: order[:12])
def test_the_longest_orders_are_understood_in_seconds(order: str) -> None:
    started = time.process_time()
    plan = build_plan(parse_order(order, 12), 12, order)
    assert len(plan) > 4000 and time.process_time() - started < 20


def test_loops_around_loops_are_the_longest_that_hold_an_inner_one() -> None:
    """Held against every block size at every start, one after the other."""

    def plainly(layers: tuple[int, ...]) -> list[tuple[int, int, int]]:
        inner, best = find_loops(layers), []
        for start in range(len(layers)):
            for size in range(2, (len(layers) - start) // 2 + 1):
                block, count = layers[start : start + size], 1
                while layers[start + count * size : start + (count + 1) * size] == block:
                    count += 1
                end = start + count * size
                holds = any(start <= i.start and i.end <= end and i.end - i.start <= size for i in inner)
                if count > 1 and holds and len(set(block)) < size:
                    best.append((start - end, start, size))
        return [(start, start - length, size) for length, start, size in sorted(best)[:1]]

    @settings(150)
    @given(
        st.lists(
            st.lists(st.integers(0, 2), min_size=1, max_size=3).flatmap(
                lambda block: st.integers(1, 3).map(lambda n: block * n)
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(1, 3),
    )
    def check_one(pieces: list[list[int]], times: int) -> None:
        layers = tuple([layer for piece in pieces for layer in piece] * times)
        inner = find_loops(layers)
        found = [(s.start, s.end, s.size) for s in build_plan(layers, 3).spans]
        for one in inner:
            found.remove((one.start, one.end, one.size))
        assert found == plainly(layers)

    check_one()
