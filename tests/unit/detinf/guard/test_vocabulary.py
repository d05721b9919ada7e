"""Which token ids exist: from any config.json, a vocabulary or a refusal."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.guard.canonical import encode
from detinf.guard.errors import RefusedError
from detinf.guard.model_shape import KEYS, model_shape
from detinf.guard.vocabulary import check_heads, read_vocabulary


def model(folder: Path, config: Any, generation: Any = None, tokenizer: Any = None) -> Path:
    files = {"config.json": config, "generation_config.json": generation, "tokenizer_config.json": tokenizer}
    for name, content in files.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def tokens(**special: Any) -> dict[str, Any]:
    return {"added_tokens_decoder": {identifier: {"special": value} for identifier, value in special.items()}}


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "vocabulary"),
    [
        ({"vocab_size": 9}, None, None, (9, [])),
        (
            {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": [3, 2], "pad_token_id": 0},
            None,
            None,
            (9, [0, 1, 2, 3]),
        ),
        ({"vocab_size": 9, "eos_token_id": 2}, {"eos_token_id": [2, 4]}, None, (9, [2, 4])),
        ({"text_config": {"vocab_size": 9, "eos_token_id": 5}, "eos_token_id": 2}, None, None, (9, [2, 5])),
        (
            {"vocab_size": 9},
            None,
            {"added_tokens_decoder": {"7": {"special": True}, "6": {"special": False}}},
            (9, [7]),
        ),
        (
            {"vocab_size": 9, "eos_token_id": [-1, 8, 9]},
            None,
            {"added_tokens_decoder": {"10": {"special": True}}},
            (9, [8]),
        ),
        ({"vocab_size": 9, "eos_token_id": True, "pad_token_id": "1", "bos_token_id": None}, None, None, (9, [])),
        ({"vocab_size": 9}, None, {"added_tokens_decoder": {"\u00b2": {"special": True}}}, (9, [])),
        ({"vocab_size": 9}, None, {"added_tokens_decoder": {"1" * 5000: {"special": True}}}, (9, [])),
        ({"vocab_size": 9}, None, {"added_tokens_decoder": [1, 2]}, (9, [])),
    ],
)
def test_vocabulary_is_what_the_models_files_say(
    tmp_path: Path, config: Any, generation: Any, tokenizer: Any, vocabulary: tuple[int, list[int]]
) -> None:
    seen, digest = read_vocabulary(model(tmp_path, config, generation, tokenizer))
    assert (seen["size"], seen["specialIds"]) == vocabulary
    assert digest == "sha256:" + hashlib.sha256((tmp_path / "config.json").read_bytes()).hexdigest()


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "vocab_size": st.integers(1, 99) | ANY,
        "text_config": st.fixed_dictionaries({}, optional={"vocab_size": st.integers(1, 99) | ANY, "pad_token_id": ANY})
        | ANY,
        "eos_token_id": st.lists(st.integers(-1, 99)) | ANY,
        **{key: ANY for key in KEYS if key != "vocab_size"},
    },
)
TOKENIZER = st.fixed_dictionaries(
    {
        "added_tokens_decoder": st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"special": st.just(True)}))
        | ANY
    }
)


@settings(deadline=None)
@given(CONFIG | ANY, st.none() | CONFIG | ANY, st.none() | TOKENIZER | ANY)
def test_any_models_files_give_a_vocabulary_or_a_refusal(config: Any, generation: Any, tokenizer: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = model(Path(name), {} if config is None else config, generation, tokenizer)
        try:
            seen, _ = read_vocabulary(folder)
        except RefusedError:
            return
        encode(model_shape(folder))
    assert seen["size"] > 0
    assert seen["specialIds"] == sorted({item for item in seen["specialIds"] if 0 <= item < seen["size"]})
    assert all(type(item) is int for item in seen["specialIds"])


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_for_a_config_are_refused_or_a_vocabulary(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_bytes(data)
        with pytest.raises(RefusedError, match="restore the model's files"):
            read_vocabulary(Path(name))


@pytest.mark.parametrize("config", [{"num_attention_heads": 14}, {"text_config": {"num_attention_heads": 14}}])
def test_heads_that_cannot_be_shared_are_refused_with_the_arithmetic(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = model(tmp_path, config)
    check_heads(folder, 7)
    with pytest.raises(RefusedError, match="14 attention heads over 4 NPUs are 3 each and 2 left over") as error:
        check_heads(folder, 4)
    assert "spec.parallelism.tensor to a divisor of 14" in str(error.value)


@pytest.mark.parametrize("heads", [None, "14", True, 0, -2])
def test_heads_that_nobody_can_read_stand_in_nobodys_way(tmp_path: Path, heads: Any) -> None:
    check_heads(model(tmp_path, {"num_attention_heads": heads}), 4)
    check_heads(model(tmp_path, {"num_attention_heads": 14}), 0)
