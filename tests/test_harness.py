"""The lm-evaluation-harness model on a local task, offline: native, in another order, and edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import build, byte_tokenizer

pytest.importorskip("lm_eval")

import depthsig
from depthsig import harness
from depthsig.engine.edits import Patch, Repeat, Skip
from depthsig.errors import InputError
from depthsig.harness import DepthsigLM, parse_edit
from depthsig.prompts import builtin_prompts

pytestmark = pytest.mark.extra

TOKENIZER = byte_tokenizer()


def _request(*args) -> SimpleNamespace:
    """As the harness makes them, for the model's own methods."""
    return SimpleNamespace(args=args, task_name="")


def _task(folder: Path, kind: str) -> Path:
    """A task of the harness's own kind, on a local file."""
    items = [{"question": p.text, "answer": p.answer} for p in builtin_prompts("lookup", 16)]
    choices = sorted({i["answer"] for i in items})
    lines = [json.dumps({**i, "choices": choices, "gold": choices.index(i["answer"])}) for i in items]
    (folder / "items.jsonl").write_text("\n".join(lines))
    common = f"""task: local_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "items.jsonl"}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
target_delimiter: ""
num_fewshot: 0
"""
    if kind == "choice":
        more = "output_type: multiple_choice\ndoc_to_target: gold\ndoc_to_choice: choices\n"
        more += "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    else:
        more = "output_type: generate_until\ndoc_to_target: answer\n"
        more += "generation_kwargs: {until: ['>', ';'], max_gen_toks: 1, do_sample: false}\n"
        more += "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    (folder / f"{kind}.yaml").write_text(common + more)
    return folder


def _score(tmp_path: Path, kind: str, metric: str, **arguments) -> float:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(_task(tmp_path, kind)), include_defaults=False)
    given = ",".join(f"{k}={v}" for k, v in {"pretrained": "family-midas", "batch_size": 8, **arguments}.items())
    found = simple_evaluate(
        model="depthsig", model_args=given, tasks=[f"local_{kind}"], task_manager=manager, bootstrap_iters=0,
        log_samples=False, verbosity="ERROR",
    )  # fmt: skip
    return found["results"][f"local_{kind}"][f"{metric},none"]


def _accuracy_by_hand(edit=None, order: str | None = None) -> float:
    """How often the gold letter has the highest logit of all letters that are answers."""
    model = depthsig.load("family-midas", order=order)
    prompts = builtin_prompts("lookup", 16)
    letters = sorted({p.answer for p in prompts})
    ids = [model.tokenizer(letter).input_ids[0] for letter in letters]
    right = 0
    for prompt in prompts:
        tokens = model.tokenizer(prompt.text).input_ids
        (run,) = model.run([tokens], [edit])
        right += letters[int(run.logits[0][-1, ids].argmax())] == prompt.answer
    return right / 16


@pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")  # the order undoes the grown label
def test_a_local_task_under_orders_and_edits(tmp_path: Path) -> None:
    assert _score(tmp_path, "choice", "acc") == _accuracy_by_hand()
    order = "0:4,4:8x2,8:16"
    assert _score(tmp_path, "choice", "acc", order=order.replace(",", "|")) == _accuracy_by_hand(order=order)
    assert _score(tmp_path, "choice", "acc", edit="Skip(2)") == _accuracy_by_hand(Skip(2))


def test_generation(tmp_path: Path) -> None:
    model = depthsig.load("family-midas")
    right = 0
    for prompt in builtin_prompts("lookup", 16):
        ids = torch.tensor([model.tokenizer(prompt.text).input_ids])
        right += model.tokenizer.decode([int(model.logits(ids)[0, -1].argmax())]) == prompt.answer
    assert _score(tmp_path, "generate", "exact_match") == right / 16 > 0


def test_generation_stops_where_it_is_told() -> None:
    lm = DepthsigLM("family-midas")
    text = builtin_prompts("lookup", 1)[0].text
    (free,) = lm.generate_until([_request(text, {"max_gen_toks": 6})], disable_tqdm=True)
    stop = free[2]
    (cut,) = lm.generate_until([_request(text, {"max_gen_toks": 6, "until": [stop]})], disable_tqdm=True)
    assert cut == free[: free.index(stop)]
    with pytest.raises(InputError, match="max_gen_toks = 256 leaves no room"):
        lm.generate_until([_request(text, {"until": [stop]})], disable_tqdm=True)


def test_log_likelihoods_are_the_models() -> None:
    module = build("llama")
    lm = DepthsigLM(module, tokenizer=TOKENIZER, batch_size=2, edit="Repeat(1,3,times=2)")
    model = depthsig.load(module, TOKENIZER)
    pairs = [("one two ", "three"), ("a", "b"), ("", "start"), ("longer context here", " and more")]
    found = lm.loglikelihood([_request(*p) for p in pairs], disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        ids = TOKENIZER(context + continuation).input_ids
        ids = ids if context else [TOKENIZER.bos_token_id, *ids]
        (run,) = model.run([ids], [Repeat(1, 3)])
        logs = run.logits[0].double().log_softmax(-1)
        first = len(ids) - len(TOKENIZER(continuation).input_ids)
        first -= len(context) - len(context.rstrip())
        wanted = sum(float(logs[t - 1, ids[t]]) for t in range(first, len(ids)))
        assert value == pytest.approx(wanted, rel=1e-4)
        assert greedy == all(int(logs[t - 1].argmax()) == ids[t] for t in range(first, len(ids)))
    (rolling,) = lm.loglikelihood_rolling([_request("some words to score")], disable_tqdm=True)
    ids = [TOKENIZER.bos_token_id, *TOKENIZER("some words to score").input_ids]
    (run,) = model.run([ids], [Repeat(1, 3)])
    logs = run.logits[0].double().log_softmax(-1)
    assert rolling == pytest.approx(sum(float(logs[t - 1, ids[t]]) for t in range(1, len(ids))), rel=1e-4)


def test_edits_of_passes_are_those_of_the_engine() -> None:
    """Texts of different lengths, padded on either side; the source of a patch is each text's own."""
    module = build("llama")
    order = "0:1,1:3x3,3:4"
    texts = ["some words to score", "ab", "longer context here and more"]
    ids = [[TOKENIZER.bos_token_id, *TOKENIZER(text).input_ids] for text in texts]
    model = depthsig.load(module, TOKENIZER, order=order)
    for written, edit in (
        ("Skip(layer=1|passes='1:')", Skip(layer=1, passes="1:")),
        ("Patch(layer=2;source=0;passes=2)+Skip(0|part='attn')", Patch(layer=2, source=0, passes=2) + Skip(0, "attn")),
    ):
        lm = DepthsigLM(module, tokenizer=TOKENIZER, batch_size=3, edit=written, order=order.replace(",", "|"))
        runs = model.run(ids, [edit])[0].logits
        for left in (False, True):
            longest = max(map(len, ids))
            pads = [[0] * (longest - len(one)) for one in ids]
            rows = torch.tensor([pad + one if left else one + pad for one, pad in zip(ids, pads, strict=True)])
            mask = torch.tensor([
                [0] * len(pad) + [1] * len(one) if left else [1] * len(one) + [0] * len(pad)
                for one, pad in zip(ids, pads, strict=True)
            ])  # fmt: skip
            found = lm.model(rows, attention_mask=mask).logits
            for row, real, wanted in zip(found, mask.bool(), runs, strict=True):
                assert torch.allclose(row[real], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text", ["Skip", "Skip(5", "print(1)", "Skip(__import__('os'))", "Skip(1)*2", "Repeat(4,8,a=2)"]
)
def test_only_edits_are_read(text: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        parse_edit(text)


def _without_bos():
    found = byte_tokenizer()
    found.bos_token = None
    return found


def test_bad_arguments() -> None:
    module = build("llama")
    for options in ({"edit": "Skip(9)"}, {"edit": "Skip(layer=1,passes=1)"}, {"order": "0:99"}, {"no_such": 1}):
        with pytest.raises(InputError):
            DepthsigLM(module, tokenizer=TOKENIZER, **options)
    with pytest.raises(InputError, match="needs its tokenizer="):
        DepthsigLM(module)
    with pytest.raises(InputError, match="prefix_token_id=N"):
        DepthsigLM(module, tokenizer=_without_bos())


def test_an_error_is_one_line(monkeypatch, capsys) -> None:
    def fails() -> None:
        DepthsigLM("no-such-checkpoint")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails)
    with pytest.raises(SystemExit) as stopped:
        harness.main()
    written = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and len(written.splitlines()) == 1 and "'no-such-checkpoint'" in written


@pytest.mark.slow
def test_the_harness_own_command(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "depthsig.harness", "run", "--model", "depthsig", "--model_args",
        "pretrained=family-midas,order=0:16", "--tasks", "local_choice", "--include_path",
        str(_task(tmp_path, "choice")), "--limit", "4", "--output_path", str(tmp_path / "result"),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "local_choice" in done.stdout
