"""The metrics page, under vLLM's names (0.23 to 0.33)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from detinf_sim.counters import EDGES
from detinf_sim.scheduler import SimEngine

GAUGES: dict[str, Callable[[SimEngine], float]] = {
    "num_requests_running": lambda engine: len(engine.running),
    "num_requests_waiting": lambda engine: len(engine.waiting),
    "kv_cache_usage_perc": lambda engine: engine.pool.used / engine.pool.blocks,
}
COUNTERS: dict[str, Callable[[SimEngine], int]] = {
    "num_preemptions": lambda engine: engine.counters.preemptions,
    "prompt_tokens": lambda engine: engine.counters.prompt_tokens,
    "generation_tokens": lambda engine: engine.counters.generation_tokens,
    "prefix_cache_queries": lambda engine: engine.counters.prefix_queries,
    "prefix_cache_hits": lambda engine: engine.counters.prefix_hits,
    "corrupted_requests": lambda engine: engine.counters.corrupted,
}
DRAFT_COUNTERS: dict[str, Callable[[SimEngine], int]] = {
    "spec_decode_num_drafts": lambda engine: engine.counters.drafts,
    "spec_decode_num_draft_tokens": lambda engine: engine.counters.draft_tokens,
    "spec_decode_num_accepted_tokens": lambda engine: engine.counters.accepted_tokens,
}
REASONS = ("stop", "length", "abort", "error")
"""Of ``request_success_total``. The simulator, as vLLM 0.32, books no abort when a client disconnects."""


def render(
    *engines: SimEngine, model: str, started: float | None, adapters: Sequence[str] = (), max_loras: int = 1
) -> str:
    """Return the page in Prometheus' text format.

    Args:
        engines: the data-parallel ranks.
        model: the served name.
        started: seconds since the epoch; None with several API servers, whose pages say nothing of it (measured).
        adapters: the LoRA adapters that are served.
        max_loras: ``--max-loras``.
    """
    lines: list[str] = []
    if started is not None:
        lines += ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started:.2f}"]
    labelled = [(f'engine="{number}",model_name="{model}"', engine) for number, engine in enumerate(engines)]
    for name, gauge in GAUGES.items():
        lines.append(f"# TYPE vllm:{name} gauge")
        lines += [f"vllm:{name}{{{labels}}} {gauge(engine)}" for labels, engine in labelled]
    drafts = DRAFT_COUNTERS if engines[0].limits.speculative_tokens else {}
    for name, counter in (COUNTERS | drafts).items():
        lines.append(f"# TYPE vllm:{name} counter")
        lines += [f"vllm:{name}_total{{{labels}}} {counter(engine)}" for labels, engine in labelled]
    lines.append("# TYPE vllm:request_success counter")
    lines += [
        f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {engine.counters.finished.get(reason, 0)}'
        for labels, engine in labelled
        for reason in REASONS
    ]
    lines.append("# TYPE vllm:iteration_tokens_total histogram")
    for labels, engine in labelled:
        counters = engine.counters
        below = zip([f"{edge}.0" for edge in EDGES], counters.buckets, strict=True)
        lines += [
            f'vllm:iteration_tokens_total_bucket{{{labels},le="{edge}"}} {count}'
            for edge, count in [*below, ("+Inf", counters.iterations)]
        ]
        lines += [
            f"vllm:iteration_tokens_total_count{{{labels}}} {counters.iterations}",
            f"vllm:iteration_tokens_total_sum{{{labels}}} {counters.iteration_tokens}",
        ]
    lines.append("# TYPE vllm:cache_config_info gauge")
    for number, engine in enumerate(engines):
        limits = engine.limits
        config = f'block_size="{limits.block_size}",enable_prefix_caching="{limits.prefix_caching}"'
        config = f'{config},num_gpu_blocks="{engine.pool.blocks}"'
        lines.append(f'vllm:cache_config_info{{{config},engine="{number}"}} 1')
    if adapters:
        lines += _loras(engines, max_loras)
    return "\n".join(lines) + "\n"


def _loras(engines: Sequence[SimEngine], max_loras: int) -> list[str]:
    def names(queues: str) -> str:
        found = Counter(
            sequence.request.adapter
            for engine in engines
            for sequence in getattr(engine, queues)
            if sequence.request.adapter
        )
        return ",".join(sorted(found))

    labels = f'max_lora="{max_loras}",running_lora_adapters="{names("running")}"'
    labels = f'{labels},waiting_lora_adapters="{names("waiting")}"'
    return ["# TYPE vllm:lora_requests_info gauge", f"vllm:lora_requests_info{{{labels}}} 1"]
