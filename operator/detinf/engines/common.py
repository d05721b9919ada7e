"""What every engine with vLLM's command line is given."""

from __future__ import annotations

from detinf.engines.profile import Argument, Variable

ARGUMENTS = (
    Argument("--dtype", "`auto` follows the model's repository, which may change", "{dtype}"),
    Argument("--max-model-len", "bounds what one request may hold of the KV cache", "{max_model_len}"),
    Argument("--max-num-seqs", "bounds the width of a step, and so what the gate has to prove", "{max_num_seqs}"),
    Argument("--tensor-parallel-size", "another number of ranks adds in another order", "{tensor}"),
    Argument("--seed", "the engine's own generator starts from the same state in every boot", "0"),
    Argument("--generation-config", "no sampling defaults from the model's repository", "vllm"),
    Argument("--max-logprobs", "the probe compares the 20 most probable tokens at most", "20"),
    Argument("--logprobs-mode", "logprobs as the model gives them, before sampling parameters", "raw_logprobs"),
    Argument("--no-enable-prefix-caching", "a cached prefix is computed in another batch than a fresh one"),
    Argument("--no-enable-chunked-prefill", "where a prompt is cut depends on who else is served"),
    Argument(
        "--max-num-batched-tokens",
        "at least --max-model-len, as an uncut prompt needs, and at least --max-num-seqs",
        "{max_num_batched_tokens}",
    ),
    Argument("--no-async-scheduling", "a step that starts before the last one ended races with it"),
    Argument("--block-size", "the size of a KV block decides how attention is split", "128"),
)

POD_VARIABLES = (
    Variable("HOME", "/tmp", "the root file system is read-only; caches go to the pod's own folder"),  # noqa: S108 - an emptyDir
    Variable("TMPDIR", "/tmp", "as HOME"),  # noqa: S108 - an emptyDir
    Variable("USER", "detinf", "torch asks for the user's name, and the user of the pod has none in the image"),
    Variable("PYTHONUNBUFFERED", "1", "the last lines of a crash must reach the log"),
    Variable("PYTHONDONTWRITEBYTECODE", "1", "the root file system is read-only"),
)
