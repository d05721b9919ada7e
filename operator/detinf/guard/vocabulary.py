"""Which token ids exist, and over how many ranks the model can be split, from its own files."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

from detinf.guard.errors import RefusedError
from detinf.guard.model_files import no_file, unreadable

MOST_TOKENS = 2**31 - 1
"""What token ids are counted in: 32 bits."""


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        if stat.S_IFMT(path.stat().st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
            raise no_file(path)
        data = path.read_bytes()
        parsed = json.loads(data)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise unreadable(path, error) from error
        raise RefusedError(
            f"model: {path}: {error.strerror}; spec.model.source must be the folder that holds config.json"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"model: {path} is no JSON ({error}); restore the model's files") from error
    if not isinstance(parsed, dict):
        raise RefusedError(f"model: {path} is no object; restore the model's files")
    return parsed, data


def read_config(model: Path) -> dict[str, Any]:
    """Return the model's config.json.

    Raises:
        RefusedError: where it is missing or no JSON object.
    """
    return _read(model / "config.json")[0]


def read_vocabulary(model: Path) -> tuple[dict[str, Any], str]:
    """Return ({"size", "specialIds"}, sha256 of config.json).

    Raises:
        RefusedError: where config.json is missing or does not say ``vocab_size``.
    """
    config, data = _read(model / "config.json")
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST_TOKENS:
        raise RefusedError(
            f"model: {model / 'config.json'}: vocab_size is {size!r:.60}, expected a number of token ids up to "
            f"{MOST_TOKENS}; "
            "restore the model's files"
        )
    special: set[int] = set()
    sources = [config]
    if isinstance(text, dict):
        sources.append(text)
    generation = model / "generation_config.json"
    if generation.is_symlink() or generation.exists():
        sources.append(_read(generation)[0])
    for source in sources:
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = source.get(key)
            items = value if isinstance(value, list) else [value]
            special.update(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    tokenizer = model / "tokenizer_config.json"
    if tokenizer.is_symlink() or tokenizer.exists():
        added = _read(tokenizer)[0].get("added_tokens_decoder")
        for identifier, token in added.items() if isinstance(added, dict) else ():
            if isinstance(token, dict) and token.get("special") is True and re.fullmatch("[0-9]{1,18}", identifier):
                special.add(int(identifier))
    inside = sorted(item for item in special if 0 <= item < size)
    return {"size": size, "specialIds": inside}, "sha256:" + hashlib.sha256(data).hexdigest()


def check_heads(model: Path, ranks: int) -> None:
    """Refuse a number of ranks that cannot share the model's attention heads evenly.

    vLLM ends too, after minutes of start-up (``vllm/config/model.py``, *must be divisible by tensor parallel size*).

    Raises:
        RefusedError: with the arithmetic.
    """
    config = read_config(model)
    text = config.get("text_config")
    heads = config.get("num_attention_heads", text.get("num_attention_heads") if isinstance(text, dict) else None)
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or ranks < 1 or heads % ranks == 0:
        return
    raise RefusedError(
        f"model: {heads} attention heads over {ranks} NPUs are {heads // ranks} each and {heads % ranks} left over; "
        f"set spec.parallelism.tensor to a divisor of {heads}"
    )
