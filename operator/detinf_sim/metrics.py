"""The metrics page, under vLLM's names."""

from __future__ import annotations

from detinf_sim.scheduler import EDGES, SimEngine


def render(engine: SimEngine, *, model: str, started: float) -> str:
    """Return the page in Prometheus' text format."""
    labels = f'engine="0",model_name="{model}"'
    counters = engine.counters
    lines = [
        "# TYPE process_start_time_seconds gauge",
        f"process_start_time_seconds {started:.2f}",
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{{{labels}}} {len(engine.running)}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{{{labels}}} {len(engine.waiting)}",
    ]
    for name, value in (
        ("num_preemptions", 0),
        ("prompt_tokens", counters.prompt_tokens),
        ("generation_tokens", counters.generation_tokens),
        ("prefix_cache_queries", 0),
        ("prefix_cache_hits", 0),
    ):
        lines += [f"# TYPE vllm:{name} counter", f"vllm:{name}_total{{{labels}}} {value}"]
    lines.append("# TYPE vllm:request_success counter")
    lines += [
        f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count}'
        for reason, count in sorted(counters.finished.items())
    ]
    lines.append("# TYPE vllm:iteration_tokens_total histogram")
    for edge, below in zip(EDGES, counters.buckets, strict=True):
        lines.append(f'vllm:iteration_tokens_total_bucket{{{labels},le="{edge}.0"}} {below}')
    lines += [
        f'vllm:iteration_tokens_total_bucket{{{labels},le="+Inf"}} {counters.iterations}',
        f"vllm:iteration_tokens_total_count{{{labels}}} {counters.iterations}",
        f"vllm:iteration_tokens_total_sum{{{labels}}} {counters.iteration_tokens}",
        "# TYPE vllm:cache_config_info gauge",
        f'vllm:cache_config_info{{{labels},block_size="128",enable_prefix_caching="False"}} 1',
    ]
    return "\n".join(lines) + "\n"
