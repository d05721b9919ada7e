"""Write a tiny Qwen3 model: ``make_model.py DIRECTORY``, run by the Python that ``install.py`` made.

2.5 million random bfloat16 weights and a byte-level tokenizer without merges: it says nothing sensible, but every
layer of the real architecture takes part. The same seed gives the same bytes, so that the model of two machines, or
of two replicas, is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

SEED = 20_260_101
VOCABULARY = 272
END = "<|end|>"
ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}


def write_tokenizer(target: Path) -> int:
    """Write a tokenizer of the 256 bytes and special tokens; return the number of the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, END, *(f"<|spare{index}|>" for index in range(VOCABULARY - len(alphabet) - 1))]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[len(alphabet) :])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        chat_template="{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: ",
    )
    fast.save_pretrained(target)
    return words.index(END)


def write_model(target: Path) -> None:
    """Write model and tokenizer into an empty folder."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    end = write_tokenizer(target)
    torch.manual_seed(SEED)
    config = Qwen3Config(**ARCHITECTURE, eos_token_id=end, bos_token_id=None)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(target)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def main() -> int:
    """Write the model whole or not at all; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    target: Path = parser.parse_args().target
    os.environ["HF_HUB_OFFLINE"] = "1"
    draft = target.with_name(target.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write_model(draft)
    for path in [draft, *draft.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)
    print(json.dumps(digests(target), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
