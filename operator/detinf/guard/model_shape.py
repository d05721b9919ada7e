"""What kind of model it is, by its own config.json: what is validated is known by that, and by no folder's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detinf.guard.canonical import MAX_INTEGER
from detinf.guard.vocabulary import read_config

KEYS = (
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "hidden_act",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "moe_intermediate_size",
    "num_experts",
    "num_experts_per_tok",
    "num_local_experts",
    "n_routed_experts",
    "attention_bias",
    "use_sliding_window",
    "quantization_config",
    "rope_scaling",
)
"""Members of config.json that choose kernels, or the shapes that they run at (transformers, ``Qwen3Config`` and
``Qwen3MoeConfig``; names of experts also as Mixtral and DeepSeek have them)."""

LONGEST = 64
"""Characters of a text that is told."""


def model_shape(model: Path) -> dict[str, str | int | bool]:
    """Return those of ``KEYS`` that config.json has; what is null or false is as if it were not there.

    A list is told as its items joined by commas, and an object by the kind that it names: the quantisation's method,
    the type of rope's scaling.

    Raises:
        RefusedError: where config.json cannot be read.
    """
    return shape_of(read_config(model))


def shape_of(config: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """Return the shape that a config.json describes; what it says of its text model counts where it says no more."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    return dict(_told(config, inner))


def _told(config: Mapping[str, Any], inner: Mapping[str, Any]) -> Iterator[tuple[str, str | int | bool]]:
    for key in KEYS:
        value = config.get(key)
        value = inner.get(key) if value is None else value
        if isinstance(value, dict):
            kinds = (value.get(name) for name in ("quant_method", "rope_type", "type"))
            value = next((kind for kind in kinds if isinstance(kind, str)), "given")
            if key == "rope_scaling" and value == "default":
                continue
        if isinstance(value, list):
            value = ",".join(str(item)[:LONGEST] for item in value[:LONGEST])
        if value is None or value is False:
            continue
        if value is True or (isinstance(value, int) and abs(value) <= MAX_INTEGER):
            yield key, value
        else:
            yield key, str(value)[:LONGEST].encode(errors="backslashreplace").decode()
