"""The harness model beside lm-eval's own ``hf`` on the same checkpoints: the same defaults, arguments and numbers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from families import build, byte_tokenizer, looped_model
from smollm2 import gguf
from transformers import LlamaConfig

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from depthsig.engine.program import Program
from depthsig.errors import DepthsigWarning, InputError
from depthsig.harness import REFUSED, TAKEN, DepthsigLM, Rearranged

pytestmark = pytest.mark.extra

CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if think %}?{% endif %}"
PAIRS = [
    ("one two ", "three"), ("", "start here"), ("<s>already", "x"), ("long " * 20, "tail of it"), ("a", " b c"),
    ("a", " b d"), ("q  ", "  r"), ("one two three", "!"), ("one two three", "?"), ("a ", ""),
]  # fmt: skip
TEXTS = [("some words",), ("word " * 30,), ("<s>x",)]
GENERATIONS = [
    ("one two", {"until": ["a"], "max_gen_toks": 6}),
    ("long " * 20, {"until": [" ", "\n"], "max_gen_toks": 9, "do_sample": False}),
    ("a b", {"until": "zz", "max_gen_toks": 7}),
    ("<s>c", {"until": [], "max_gen_toks": 8, "num_beams": 2}),
    ("one two", {"until": ["a"], "max_gen_toks": 6, "do_sample": True, "temperature": 0.7, "top_k": 5}),
]
LIMIT = 40


def tokenizer(bos: bool):
    found = byte_tokenizer(bos=bos)
    found.eos_token, found.chat_template = "<p>", CHAT
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A family's tiny checkpoint with a tokenizer that adds a beginning of text, or not."""
    made: dict[str, str] = {}

    def make(name: str, bos: bool = False, dtype: torch.dtype = torch.float32, **options) -> str:
        key = f"{name}-{bos}-{dtype}"
        if key not in made:
            place = tmp_path_factory.mktemp(name)
            build(name, dtype=dtype).save_pretrained(place, **options)
            tokenizer(bos).save_pretrained(place)
            made[key] = str(place)
        return made[key]

    return make


def _requests(kind: str, arguments) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def _scores(lm, count: int = len(PAIRS)) -> list[float]:
    found = lm.loglikelihood(_requests("loglikelihood", PAIRS[:count]), disable_tqdm=True)
    rolling = lm.loglikelihood_rolling(_requests("loglikelihood_rolling", TEXTS[:count]), disable_tqdm=True)
    return [value for value, _ in found] + [float(greedy) for _, greedy in found] + rolling


def _texts(lm, requests=GENERATIONS) -> list[str]:
    torch.manual_seed(3)
    return lm.generate_until(_requests("generate_until", requests), disable_tqdm=True)


def _same(hf, ours, tolerance: float = 1e-5) -> None:
    assert _scores(ours) == pytest.approx(_scores(hf), abs=tolerance)
    assert _texts(ours) == _texts(hf)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("name", "bos"), [("llama", True), ("llama", False), ("gemma2", True), ("gpt2", False)])
def test_scores_and_texts_are_hfs(folder, name: str, bos: bool, batch_size: int) -> None:
    given = {"pretrained": folder(name, bos), "device": "cpu", "batch_size": batch_size}
    _same(HFLM(**given, max_length=LIMIT), DepthsigLM(**given, max_length=LIMIT))


def test_every_default_is_hfs(folder) -> None:
    place = folder("llama", True, torch.bfloat16)
    hf, ours = HFLM(place, device="cpu"), DepthsigLM(place)
    assert ours.model.dtype == hf.model.dtype == torch.bfloat16
    for name in (
        "batch_size", "max_batch_size", "batch_schedule", "max_length", "max_gen_toks", "add_bos_token",
        "prefix_token_id", "eot_token_id", "tokenizer_name", "truncation", "logits_cache", "softmax_dtype",
        "mixed_precision_dtype", "think_end_token", "enable_thinking", "chat_template_args", "backend", "revision",
        "vocab_size", "rank", "world_size",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(hf, name), name
    assert str(ours.tokenizer.pad_token) == str(hf.tokenizer.pad_token)
    assert ours.get_model_info() == hf.get_model_info()
    _same(hf, ours, tolerance=0)


OTHERS = {
    "backend": ["causal"], "revision": ["other"], "subfolder": ["inside"], "tokenizer": ["GPT2", "object"],
    "truncation": [True], "logits_cache": [False], "max_length": [20], "device": ["cpu"],
    "dtype": ["bfloat16", None, torch.float64], "softmax_dtype": ["float64"], "mixed_precision_dtype": ["bfloat16"],
    "batch_size": [2], "max_batch_size": [1], "trust_remote_code": [True, None],
    "use_fast_tokenizer": [False], "add_bos_token": [True, False], "prefix_token_id": [7], "parallelize": [True, None],
    "gguf_file": [None], "think_end_token": [66, "66", "a"], "enable_thinking": [False],
    "chat_template_args": [{"think": True}],
}  # fmt: skip
SLOW = [pytest.param("batch_size", size, marks=pytest.mark.slow) for size in ("auto", "auto:2")]


def test_every_argument_of_hf_is_taken_or_refused() -> None:
    parameters = inspect.signature(HFLM.__init__).parameters
    known = {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {"self", "pretrained"}
    assert known == {*TAKEN, *REFUSED} and not {*TAKEN} & {*REFUSED}
    assert {*OTHERS} == {*TAKEN}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in OTHERS.items() for v in values] + SLOW)
def test_an_argument_means_what_it_means_to_hf(folder, name: str, value) -> None:
    place = folder("llama", True)
    given = {"pretrained": place, "device": "cpu", "batch_size": 3, "max_length": LIMIT, "max_batch_size": 2}
    if name == "subfolder":
        given["pretrained"], value = str(Path(place).parent), Path(place).name
    if name == "tokenizer":
        value = folder("gpt2") if value == "GPT2" else tokenizer(False)
    given[name] = value
    hf, ours = HFLM(**given), DepthsigLM(**given)
    few = [(context, {"until": ["a"], "max_gen_toks": 4}) for context in ("one two", "long " * 20, "<s>c")]
    assert _scores(ours) == pytest.approx(_scores(hf), abs=1e-5) and _texts(ours, few) == _texts(hf, few)
    turns = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(turns) == hf.apply_chat_template(turns)
    assert ours.chat_template(True) == hf.chat_template(True) == CHAT


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_done_is_refused_by_name(folder, name: str) -> None:
    default = inspect.signature(HFLM.__init__).parameters[name].default
    DepthsigLM(folder("llama", True), **{name: default})
    with pytest.raises(InputError, match=name):
        DepthsigLM(folder("llama", True), **{name: "x"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_implementation": "eager"}, "'attn_implementation' is unknown"),
        ({"max_gen_toks": 5}, "'max_gen_toks' is unknown"),
        ({"trust_remote_code": "no"}, "trust_remote_code='no' is no bool"),
        ({"allow_pickle": "no"}, "allow_pickle='no' is no bool"),
        ({"max_length": "long"}, "max_length='long' is no int"),
        ({"max_length": True}, "max_length=True is no int"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dtype": "floaty"}, "dtype='floaty'"),
        ({"softmax_dtype": "auto"}, "softmax_dtype='auto'"),
        ({"backend": "seq2seq"}, "backend='seq2seq'"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"device": "tpu"}, "tpu"),
        ({"enable_thinking": True}, "think_end_token"),
        ({"tokenizer": "/no/such/tokenizer"}, "the tokenizer '/no/such/tokenizer'"),
        ({"subfolder": "nowhere"}, "nowhere"),
        ({"gguf_file": "none.gguf"}, "none.gguf"),
    ],
)
def test_wrong_values_are_refused_in_one_line(folder, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        DepthsigLM(folder("llama", True), **options)
    assert "\n" not in str(e.value)


def test_requests_that_cannot_be_answered_are_refused_in_one_line(folder) -> None:
    lm = DepthsigLM(folder("gpt2"), max_length=10)
    for pair, message in (
        (("", ""), "nothing to score"),
        (("a", ""), "0 of continuation"),
        (("a", "b" * 11), "max_length = 10"),
    ):
        with pytest.raises(InputError, match=message):
            lm.loglikelihood(_requests("loglikelihood", [pair]), disable_tqdm=True)
    for context, wanted, message in (("a", 10, "no room"), ("", 3, "empty context")):
        with pytest.raises(InputError, match=message):
            lm.generate_until(_requests("generate_until", [(context, {"max_gen_toks": wanted})]), disable_tqdm=True)
    with pytest.raises(InputError, match="outside the model's vocabulary"):
        small = build("llama")
        small.resize_token_embeddings(40)
        DepthsigLM(small, tokenizer=tokenizer(True)).loglikelihood(_requests("loglikelihood", PAIRS))


def test_a_limit_inside_the_config_is_hfs() -> None:
    module = build("llama")
    module.config.text_config = LlamaConfig(max_position_embeddings=77)
    hf, ours = HFLM(module, tokenizer=tokenizer(True)), DepthsigLM(module, tokenizer=tokenizer(True))
    assert ours.max_length == hf.max_length == 77


TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_target: gold\ndoc_to_choice: choices\n"
    "metric_list: [{metric: acc}]\n",
    "score": "output_type: loglikelihood\ndoc_to_target: answer\nmetric_list: [{metric: perplexity}]\n",
    "rolling": 'output_type: loglikelihood_rolling\ndoc_to_target: "{{question}}"\n'
    "metric_list: [{metric: word_perplexity}]\n",
    "text": "output_type: generate_until\ndoc_to_target: answer\n"
    "generation_kwargs: {until: ['>'], max_gen_toks: 6, do_sample: false}\nmetric_list: [{metric: exact_match}]\n",
}


@pytest.mark.parametrize("chat", [False, True])
def test_a_local_task_gives_hfs_results(folder, tmp_path: Path, chat: bool) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [("where is it " * 5, "a"), ("", "b"), ("who", "a"), ("the cat ", "c"), ("x" * 60, "b")]
    lines = [{"question": q, "answer": a, "choices": ["a", " b", "cc"], "gold": i % 3} for i, (q, a) in enumerate(rows)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for kind, more in TASKS.items():
        (tmp_path / f"{kind}.yaml").write_text(
            f"task: local_{kind}\ndataset_path: json\ntest_split: test\nnum_fewshot: 0\n"
            f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'items.jsonl'}}}}}\n"
            f'doc_to_text: "{"" if kind == "rolling" else "{{question}}"}"\n{more}'
        )
    hf, ours = (
        simple_evaluate(
            model=model, model_args=f"pretrained={folder('llama', True)},max_length={LIMIT},device=cpu", batch_size=3,
            tasks=[f"local_{kind}" for kind in TASKS], apply_chat_template=chat, bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        )
        for model in ("hf", "depthsig")
    )  # fmt: skip
    for kind in TASKS:
        answers = [[sample["resps"] for sample in found["samples"][f"local_{kind}"]] for found in (hf, ours)]
        assert answers[0] == answers[1] and len(answers[0]) == 5
    assert ours["results"] == hf["results"] and len(hf["results"]) == 4


@pytest.mark.parametrize(
    ("name", "bos", "given", "batch_size"),
    [
        ("llama", True, {"order": "0|2;1|3"}, 1),
        ("llama", True, {"edit": "Swap(1|2)"}, 3),
        ("gpt2", False, {"edit": "Swap(1,2)"}, 2),
    ],
)
def test_another_order_is_hf_with_its_layers_moved(folder, name: str, bos: bool, given: dict, batch_size: int) -> None:
    """Whatever the batch: what stands beside a text, before it or behind it, changes nothing."""
    common = {"pretrained": folder(name, bos), "device": "cpu", "max_length": LIMIT}
    hf, ours = HFLM(**common, batch_size=3), DepthsigLM(**common, batch_size=batch_size, **given)
    holder, attribute = (hf.model.model, "layers") if name == "llama" else (hf.model.transformer, "h")
    layers = getattr(holder, attribute)
    setattr(holder, attribute, torch.nn.ModuleList([layers[i] for i in (0, 2, 1, 3)]))
    assert _scores(ours) == pytest.approx(_scores(hf), rel=1e-4, abs=1e-4)
    assert _texts(ours) == _texts(hf)


def test_a_cache_that_a_loop_spoils_is_left_out() -> None:
    """hf's call would let a layer that runs at several depths see its other passes."""
    module = looped_model()
    with pytest.warns(DepthsigWarning, match="with a cache"):
        ours = DepthsigLM(module, tokenizer=tokenizer(True), batch_size=3)
    ids = ours.tok_encode("one two")
    with torch.no_grad():
        logits = module(torch.tensor([ids[:-1]]), use_cache=False).logits
    wanted = float(logits[0, -1].log_softmax(-1)[ids[-1]])
    (found,) = ours.loglikelihood(_requests("loglikelihood", [("one tw", "o")]), disable_tqdm=True)
    assert found[0] == pytest.approx(wanted, abs=1e-4)
    _texts(ours)


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"mixed_precision_dtype": "bfloat16"}])
def test_an_edit_that_changes_nothing_gives_hfs_numbers(folder, options: dict) -> None:
    """In half precision too: what is edited is compared with what is not, in the same arithmetic."""
    given = {"pretrained": folder("llama", True), "batch_size": 3, "max_length": LIMIT, **options}
    hf, ours = HFLM(**given, device="cpu"), DepthsigLM(**given)
    ours._model = Rearranged(ours.opened, Program.clean(4))
    assert _scores(ours) == pytest.approx(_scores(hf), abs=1e-5)


def test_pickles_are_loaded_only_where_allowed(folder, tmp_path: Path) -> None:
    build("llama").config.save_pretrained(tmp_path)
    tokenizer(True).save_pretrained(tmp_path)
    torch.save(build("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        DepthsigLM(str(tmp_path))
    lm = DepthsigLM(str(tmp_path), allow_pickle=True)
    assert _scores(lm) == pytest.approx(_scores(DepthsigLM(folder("llama", True))))


def test_code_of_a_checkpoint_or_a_tokenizer_runs_only_where_trusted(folder, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    tokenizer(True).save_pretrained(own)
    ran = tmp_path / "ran"
    (own / "mine.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Mine(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings = json.loads((own / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    (own / "tokenizer_config.json").write_text(json.dumps(settings))
    for flag in (False, None):
        with pytest.raises(InputError, match="tokenizer"):
            DepthsigLM(folder("llama"), tokenizer=str(own), trust_remote_code=flag)
    assert not ran.exists()
    DepthsigLM(folder("llama"), tokenizer=str(own), trust_remote_code=True)
    assert ran.exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_gguf_file_is_hfs() -> None:
    file = gguf()
    hf = _scores(HFLM(str(file.parent), gguf_file=file.name, device="cpu", batch_size=2), 2)
    for given in ({"pretrained": str(file)}, {"pretrained": str(file.parent), "gguf_file": file.name}):
        assert _scores(DepthsigLM(**given, batch_size=2), 2) == pytest.approx(hf, abs=1e-5)
