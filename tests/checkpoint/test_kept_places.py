"""What TransformerLens says is asked for once, and a model is the same with it and without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from families import build

from depthsig import kept
from depthsig.checkpoint.anatomy import components
from depthsig.checkpoint.anatomy.adapter import find_anatomy


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere", "granite"])
def test_the_second_time_it_is_not_asked(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path))
    module = build(family)
    first = find_anatomy(module, module.config)
    if family in ("cohere", "granite", "gemma2"):  # which do something to their logits: a function is not kept
        assert kept.kinds() == []
        return
    assert [(kind.name, kind.entries) for kind in kept.kinds()] == [("places", 1)]
    asked = components._told_by_transformer_lens(module, module.config)
    monkeypatch.setattr(components, "_told_by_transformer_lens", lambda *_: pytest.fail("asked again"))
    assert components._kept(components._key(module, module.config)) == asked
    again = find_anatomy(module, module.config)
    assert again == first and again.known
    assert again.readout.transform is first.readout.transform is None


def test_another_config_is_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path))
    module = build("llama")
    key = components._key(module, module.config)
    module.config.attention_bias = True
    assert components._key(module, module.config) != key is not None
    assert components._key(module, object()) is None


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"norms": 3}', b'{"norms": [3]}', b'{"strange": []}', b"3"])
def test_an_entry_that_says_nothing_is_asked_for_anew(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path))
    kept.write("places", "key", data)
    assert components._kept("key") is None


def test_a_damaged_entry_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path))
    module = build("llama")
    find_anatomy(module, module.config)
    (path,) = tmp_path.glob("places/*")
    path.write_bytes(path.read_bytes()[:-5])
    assert find_anatomy(module, module.config).known and "transformer_lens" in sys.modules
