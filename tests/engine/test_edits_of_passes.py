"""Edits of a layer in some passes, and patches between passes, against plain hooks that count calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from families import PROMPTS, build, byte_tokenizer, disturb
from hypothesis import given, settings
from hypothesis import strategies as st
from looped_cases import CASES, Case, x_transformer
from torch import Tensor, nn

import depthsig
from depthsig.engine.edits import ContributionEdit, Patch, Replace, Skip, Swap, compile_edit, parse_edit
from depthsig.engine.program import Change, Program
from depthsig.errors import InputError
from depthsig.plan.plan import build_plan

TOKENIZER = byte_tokenizer(left=True)
TEXTS = [PROMPTS[i] for i in (3, 1, 4)]  # of different lengths, so that a batch is padded

Act = Callable[[Tensor], Tensor]
"""What is put in the place of a tensor [prompt, token, d]."""


class Plain:
    """One forward of one prompt with plain hooks; they count the layers' calls and know nothing else."""

    def __init__(
        self, layers: Sequence[nn.Module], run: Callable[[Tensor], Any], ids: Sequence[int], *,
        entering: Mapping[int, Act] | None = None, inside: Mapping[int, Act] | None = None,
        leaving: Mapping[int, Callable[[Tensor, Tensor], Tensor]] | None = None, parts: Sequence[nn.Module] = (),
    ) -> None:  # fmt: skip
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        entering, leaving, inside = entering or {}, leaving or {}, inside or {}

        def enter(module: nn.Module, args: tuple, kwargs: dict) -> Any:
            at, hidden = len(self.inputs), args[0] if args else kwargs["hidden_states"]
            self.inputs.append(entering[at](hidden) if at in entering else hidden.clone())
            if at not in entering:
                return None
            new = self.inputs[at].clone()
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        def leave(module: nn.Module, args: tuple, output: Any) -> Any:
            at, out = len(self.outputs), output[0] if isinstance(output, tuple) else output
            out = leaving[at](self.inputs[at], out) if at in leaving else out
            self.outputs.append(out.clone())
            return (out, *output[1:]) if isinstance(output, tuple) else out

        def within(module: nn.Module, args: tuple, output: Any) -> Any:
            if len(self.outputs) not in inside:
                return None
            tensor = output[0] if isinstance(output, tuple) else output
            new = inside[len(self.outputs)](tensor.view(1, -1, tensor.shape[-1])).reshape(tensor.shape)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        once = {id(m): m for m in layers}.values()
        handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in once]
        handles += [m.register_forward_hook(leave) for m in once]
        handles += [m.register_forward_hook(within) for m in {id(p): p for p in parts}.values()]
        with torch.no_grad():
            result = run(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        result = getattr(result, "logits", result["logits"] if isinstance(result, dict) else result)
        self.logits = next(t for t in result if t is not None)[0] if isinstance(result, tuple) else result[0]


def removed(before: Tensor, after: Tensor) -> Tensor:
    return torch.cat([after[:, :1], before[:, 1:]], dim=1)


def put(value: Tensor) -> Act:
    return lambda old: torch.cat([old[:, :1], value.expand_as(old)[:, 1:]], dim=1)


def close(found: Tensor, wanted: Tensor, share: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert float((found.float() - wanted.float()).abs().max()) <= share * float(wanted.float().abs().max())


def ids_of(text: str) -> list[int]:
    found: list[int] = TOKENIZER(text).input_ids
    return found


def runs_of(case: Case) -> tuple[int, list[int]]:
    """The layer of most passes, in the middle of a loop if there is one, and its steps, told by hand."""
    layer = max(set(case.order), key=lambda one: (case.order.count(one), one))
    return layer, [step for step, one in enumerate(case.order) if one == layer]


@pytest.fixture(scope="module", params=list(CASES))
def loaded(request: pytest.FixtureRequest) -> tuple[Case, nn.Module, depthsig.Model]:
    case = CASES[request.param]
    module = case.build()
    return case, module, depthsig.load(module, TOKENIZER)


def plain(loaded: tuple[Case, nn.Module, Any], text: str, **hooks: Any) -> Plain:
    case, module, _ = loaded
    return Plain(case.layers(module), lambda ids: case.call(module, ids), ids_of(text), **hooks)


def test_a_layer_is_skipped_in_the_passes_that_are_told(loaded) -> None:
    case, _, model = loaded
    layer, steps = runs_of(case)
    passes = {"all": steps, **{k: [s] for k, s in enumerate(steps)}, **{f"{k}:": steps[k:] for k in range(len(steps))}}
    runs = model.run(TEXTS, [Skip(layer=layer, passes=told) for told in passes])
    for run, told in zip(runs, passes.values(), strict=True):
        for text, found in zip(TEXTS, run.logits, strict=True):
            close(found, plain(loaded, text, leaving=dict.fromkeys(told, removed)).logits)
    clean = plain(loaded, TEXTS[0]).logits
    assert all(float((run.logits[0] - clean).abs().max()) > 1e-3 for run in runs)


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_a_part_is_skipped_in_the_passes_that_are_told(loaded, part: str) -> None:
    case, _, model = loaded
    layer, steps = runs_of(case)
    subs = [getattr(one, part) for one in model.anatomy.layers]
    if getattr(model.layer_at(steps[0]), part) is None:
        with pytest.raises(InputError, match="not known here"):
            model.run(TEXTS[:1], [Skip(layer=layer, part=part)])
        return
    modules = [sub.module for sub in subs if sub is not None]
    (run,) = model.run(TEXTS, [Skip(layer=layer, part=part, passes=f"{len(steps) - 2}:")])
    for text, found in zip(TEXTS, run.logits, strict=True):
        quiet = dict.fromkeys(steps[-2:], put(torch.zeros(1)))
        close(found, plain(loaded, text, inside=quiet, parts=modules).logits)


def test_a_state_is_patched_from_one_pass_into_another(loaded) -> None:
    """Forwards and backwards, at what enters and what leaves, at all positions and at some."""
    case, _, model = loaded
    layer, steps = runs_of(case)
    if len(steps) == 1:
        with pytest.raises(InputError, match=r"there is no pass 1; layer . runs once, in pass 0"):
            model.run(TEXTS[:1], [Patch(layer=layer, source=1, passes=0)])
        return
    last = len(steps) - 1
    edits = [
        Patch(layer=layer, source=0, passes=last), Patch(layer=layer, source=last, passes=0),
        Patch(layer=layer, source=0, passes=last, where="output"), Patch(layer=layer, source=0, passes="1:"),
        Patch(steps[-1], source=0), Patch(layer=layer, source=last, passes=0) + Skip(0),
    ]  # fmt: skip
    runs = model.run(TEXTS, edits)
    for i, text in enumerate(TEXTS):
        clean = plain(loaded, text)
        first, end = clean.inputs[steps[0]], clean.inputs[steps[-1]]
        wanted = [
            {"entering": {steps[-1]: put(first)}}, {"entering": {steps[0]: put(end)}},
            {"leaving": {steps[-1]: lambda b, a, v=clean.outputs[steps[0]]: put(v)(a)}},
            {"entering": dict.fromkeys(steps[1:], put(first))}, {"entering": {steps[-1]: put(clean.inputs[0])}},
            {"entering": {steps[0]: put(end)}, "leaving": {0: removed}},
        ]  # fmt: skip
        for run, hooks in zip(runs, wanted, strict=True):
            close(run.logits[i], plain(loaded, text, **hooks).logits)
    (some,) = model.run(TEXTS, [Patch(layer=layer, source=0, passes=last, positions=[1, 3])])
    for text, found in zip(TEXTS, some.logits, strict=True):
        value = plain(loaded, text).inputs[steps[0]]

        def at_two(old: Tensor, value: Tensor = value) -> Tensor:
            new = old.clone()
            new[:, [p for p in (1, 3) if p < old.shape[1]]] = value[:, [p for p in (1, 3) if p < old.shape[1]]]
            return new

        close(found, plain(loaded, text, entering={steps[-1]: at_two}).logits)


def test_a_patch_of_a_pass_into_itself_changes_nothing(loaded) -> None:
    case, _, model = loaded
    layer, steps = runs_of(case)
    runs = model.run(TEXTS, [None, Patch(layer=layer, source=0, passes=0), Patch(steps[-1], source=steps[-1])])
    for run in runs[1:]:
        for found, clean in zip(run.logits, runs[0].logits, strict=True):
            close(found, clean, 1e-6)


@dataclass(frozen=True, kw_only=True)
class _Constant(ContributionEdit):
    """A user's own: the whole update is one vector, times a number."""

    vector: Tensor
    times: float = 1.0

    def change(self) -> Change:
        return Change("layer", value=self.vector * self.times)


def test_an_edit_of_ones_own_goes_across_passes_as_ours_do(loaded) -> None:
    case, _, model = loaded
    layer, steps = runs_of(case)
    vector = torch.randn(32)
    own, at_a_step, replaced = model.run(
        TEXTS,
        [
            _Constant(layer=layer, passes="1:" if len(steps) > 1 else "all", vector=vector, times=0.5),
            _Constant(steps[0], vector=vector), Replace(layer=layer, passes=len(steps) - 1, value=vector),
        ],
    )  # fmt: skip
    for i, text in enumerate(TEXTS):
        later = steps[1:] or steps
        for run, where, value in ((own, later, 0.5 * vector), (at_a_step, steps[:1], vector)):
            added = {s: lambda before, after, v=value: put(before + v)(after) for s in where}
            close(run.logits[i], plain(loaded, text, leaving=added).logits)
        close(replaced.logits[i], plain(loaded, text, entering={steps[-1]: put(vector)}).logits)


def test_in_half_precision() -> None:
    """bfloat16, prompt by prompt: a batch is padded, and rounds otherwise."""
    case = CASES["ouro"]
    module = case.build().to(torch.bfloat16)
    loaded = (case, module, depthsig.load(module, TOKENIZER))
    for text in TEXTS:
        for edit, hooks in (
            (Skip(layer=1, passes="2:"), {"leaving": dict.fromkeys((7, 10), removed)}),
            (Patch(layer=1, source=0, passes=2), {"entering": {7: put(plain(loaded, text).inputs[1])}}),
        ):
            (run,) = loaded[2].run([text], [edit])
            assert run.logits[0].dtype == torch.bfloat16
            close(run.logits[0], plain(loaded, text, **hooks).logits)


def test_loops_that_an_order_makes() -> None:
    """Held against the layers put into a list as often as they run: each is called where it stands."""
    order = [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11]
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    module = disturb(hf.LlamaForCausalLM(config).eval(), 0)
    model = depthsig.load(module, TOKENIZER, order="0:4,4:8x3,8:12")
    edits = [
        Skip(layer=5, passes="all"), Skip(layer=5, passes="1:"), Skip(layer=6, part="attn", passes=1),
        Patch(layer=4, source=0, passes=2), Patch(layer=7, source=2, passes=0, where="output"), Skip(layer=2),
        Skip(layer=5, passes="1:") + Swap(0, 1),
    ]  # fmt: skip
    runs = model.run(TEXTS, edits)
    layers = list(module.model.layers)
    for i, text in enumerate(TEXTS):

        def run(*, order: list[int] = order, text: str = text, **hooks: Any) -> Plain:
            module.model.layers, module.config.num_hidden_layers = nn.ModuleList([layers[k] for k in order]), len(order)
            try:
                return Plain(layers, lambda ids: module(ids, use_cache=False), ids_of(text), **hooks)
            finally:
                module.model.layers, module.config.num_hidden_layers = nn.ModuleList(layers), 12

        clean, attn = run(), [layer.self_attn for layer in layers]
        wanted = [
            run(leaving=dict.fromkeys((5, 9, 13), removed)), run(leaving=dict.fromkeys((9, 13), removed)),
            run(inside={10: put(torch.zeros(1))}, parts=attn), run(entering={12: put(clean.inputs[4])}),
            run(leaving={7: lambda b, a, v=clean.outputs[15]: put(v)(a)}), run(leaving={2: removed}),
            run(order=[1, 0, *order[2:]], leaving=dict.fromkeys((9, 13), removed)),
        ]  # fmt: skip
        for found, plainly in zip(runs, wanted, strict=True):
            close(found.logits[i], plainly.logits)


def test_branches_of_x_transformers() -> None:
    """Whose steps are branches: a norm is where each ends."""
    pytest.importorskip("x_transformers")
    module = x_transformer()
    model = depthsig.load(module, TOKENIZER)
    assert model.plan.layers == (0, 1, 2, 3) * 3
    kept, patched = model.run(
        TEXTS, [Skip(layer=2, passes="1:"), Patch(layer=3, source=0, passes=1, where="output")]
    )  # fmt: skip
    for i, text in enumerate(TEXTS):

        def run(leaving: Mapping[int, Any], text: str = text) -> tuple[Tensor, list[Tensor]]:
            entered: list[Tensor] = []
            left: list[Tensor] = []

            def enter(m: nn.Module, args: tuple) -> None:
                entered.append(args[0].clone())

            def leave(m: nn.Module, args: tuple, output: Tensor) -> Tensor:
                at = len(left)
                left.append(leaving[at](entered[at], output) if at in leaving else output)
                return left[-1]

            handles = [norms[0].register_forward_pre_hook(enter) for norms, _, _ in module.attn_layers.layers]
            handles += [norms[2].register_forward_hook(leave) for norms, _, _ in module.attn_layers.layers]
            with torch.no_grad():
                logits = module(torch.tensor([ids_of(text)]), looped_steps=3)[0]
            for handle in handles:
                handle.remove()
            return logits, left

        close(kept.logits[i], run(dict.fromkeys((6, 10), removed))[0])
        value = run({})[1][3]
        close(patched.logits[i], run({7: lambda before, after, v=value: put(v)(after)})[0])


# --- what is told, and what is refused ---

PLAN = build_plan([0, 1, 2, 1, 2, 1, 2, 3, 5], 6)


def touched(program: Program) -> dict[int, tuple[Change, ...]]:
    return {op.step: op.changes for op in program.ops if op.changes}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(0, 4), st.integers(0, 4),
    st.sampled_from(["all", "one", "from"]), st.sampled_from(["layer", "attn", "mlp"]),
)  # fmt: skip
def test_it_is_the_sum_of_edits_of_single_steps(layers: list[int], layer: int, k: int, kind: str, part: str) -> None:
    plan = build_plan(layers, 5)
    steps = [step for step, one in enumerate(layers) if one == layer]
    passes: Any = {"all": "all", "one": k, "from": f"{k}:"}[kind]
    wanted = {"all": steps, "one": steps[k : k + 1], "from": steps[k:]}[kind]
    edit = parse_edit(f"Skip(layer={layer}, part={part!r}, passes={passes!r})")
    assert edit == Skip(layer=layer, part=part, passes=passes)
    if not wanted:
        with pytest.raises(InputError, match="runs"):
            compile_edit(edit, plan)
        return
    single = sum([Skip(s, part) for s in wanted[1:]], Skip(wanted[0], part))
    found, plainly = touched(compile_edit(edit, plan)), touched(compile_edit(single, plan))
    assert found.keys() == plainly.keys() == set(wanted)
    assert all([c.where for c in found[s]] == [c.where for c in plainly[s]] == [part] for s in wanted)


@pytest.mark.parametrize(
    ("edit", "printed"),
    [
        (Skip(5), "skip 5"), (Skip(5, "attn", [1, 2]), "skip 5.attn at 1,2"),
        (Skip(layer=5), "skip layer 5, all passes"),
        (Skip(layer=5, part="mlp", passes=2), "skip layer 5.mlp, pass 2"),
        (Replace(layer=5, passes="2:", value=torch.zeros(1)), "replace input of layer 5, from pass 2 on"),
        (Patch(3, source=1, positions=[4]), "patch input of 3 from 1 at 4"),
        (Patch(layer=5, source=0, passes=2, where="output"), "patch output of layer 5, pass 2 from pass 0"),
        (Skip(layer=1, passes=1) + Skip(0), "skip layer 1, pass 1 + skip 0"),
    ],
)  # fmt: skip
def test_how_it_is_printed(edit: Any, printed: str) -> None:
    assert str(edit) == printed
    assert compile_edit(edit, build_plan([0, 1, 2, 3, 4, 5] * 4, 6)).name == printed


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Skip(layer=9), "layer 9 is out of range; layers are 0..5"),
        (lambda: Skip(layer=-1), "layer -1 is out of range"),
        (lambda: Skip(layer=10**5000), "is out of range; layers are 0..5"),
        (lambda: Skip(layer=4), "layer 4 runs at no step of this plan"),
        (lambda: Skip(layer=1, passes=3), "there is no pass 3; layer 1 runs in 3 passes, 0..2"),
        (lambda: Skip(layer=1, passes="3:"), "there is no pass 3; layer 1 runs in 3 passes, 0..2"),
        (lambda: Skip(layer=1, passes=-1), "there is no pass -1"),
        (lambda: Skip(layer=0, passes=2), "there is no pass 2; layer 0 runs once, in pass 0"),
        (lambda: Skip(layer=1, passes=10**5000), "there is no pass <a number of 16610 bits>"),
        (lambda: Skip(10**5000), "step <a number of 16610 bits> is out of range; steps are 0..8"),
        (lambda: Swap(0, 10**5000), "reaches step <a number of 16610 bits>; steps are 0..8"),
        (lambda: Skip(layer=1, passes=torch.tensor([1, 2])), "it is 'all', k"),
        (lambda: Skip(layer=1, passes="01:"), "passes is '01:'"),
        (lambda: Skip(3, layer=1), "step = 3 and layer = 1 exclude each other"),
        (lambda: Skip(), "step is None, and so is layer"),
        (lambda: Skip(3, passes=1), "passes = 1 goes with layer="),
        (lambda: Skip(layer=1, passes="some"), "passes is 'some'; it is 'all', k"),
        (lambda: Skip(layer=1, passes=":2"), "passes is ':2'"), (lambda: Skip(layer=1, passes=""), "passes is ''"),
        (lambda: Skip(layer=1, passes="١:"), "passes is '١:'"), (lambda: Skip(layer=1, passes=True), "passes is True"),
        (lambda: Skip(layer=1, passes=[1]), "passes is"), (lambda: Skip(layer=1, passes=1.0), "passes is 1.0"),
        (lambda: Skip(layer="x"), "layer is 'x'; it is a whole number"),
        (lambda: Skip(layer=1, positions=[0]), "position 0 is never edited"),
        (lambda: Skip(layer=1, passes="1:") + Skip(5), "contradict each other"),
        (lambda: Patch(layer=1, source=3, passes=0), "there is no pass 3"),
        (lambda: Patch(3, source=9), "source 9 is out of range; steps are 0..8"),
        (lambda: Patch(3, source=-1), "source -1 is out of range"), (lambda: Patch(10, source=1), "step 10 is out of"),
        (lambda: Patch(3, source=1, where="middle"), "where is 'middle'"),
        (lambda: Patch(3, source=1, positions=[0]), "position 0 is never edited"),
        (lambda: Patch(3, source="x"), "source is 'x'; it is a whole number"),
        (lambda: Patch(3, source=1) + Replace(3, torch.zeros(1)), "contradict each other"),
        (lambda: Replace(layer=1), "value is None; it is a tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        compile_edit(make(), PLAN, [True] * 9)
    message = str(refused.value)
    assert said in message and "\n" not in message and len(message) < 500


def test_a_layer_that_counts_as_another_says_so() -> None:
    model = depthsig.load(CASES["tied"].build(), TOKENIZER)
    with pytest.raises(InputError, match="layer 3 has all its weights from layer 0 and counts as it"):
        model.run(TEXTS[:1], [Skip(layer=3)])


def test_the_last_state_can_be_patched() -> None:
    module = build("llama")
    model = depthsig.load(module, TOKENIZER)
    (run,) = model.run(TEXTS, [Patch(4, source=2)])
    for text, found in zip(TEXTS, run.logits, strict=True):
        clean = Plain(module.model.layers, lambda ids: module(ids, use_cache=False), ids_of(text))
        state = put(clean.inputs[2])(clean.outputs[3])
        with torch.no_grad():
            close(found, module.lm_head(module.model.norm(state))[0])


def test_a_pass_may_be_a_number_of_an_array() -> None:
    told = [compile_edit(Skip(layer=1, passes=kind(1)), PLAN) for kind in (int, np.int64, torch.tensor)]
    where = [[op.step for op in program.ops if op.changes] for program in told]
    assert where[0] == where[1] == where[2] and len(where[0]) == 1


def test_an_edit_of_a_layer_does_not_know_its_steps_by_itself() -> None:
    with pytest.raises(InputError, match="which steps these are depends on the plan"):
        _ = Skip(layer=2).at
