"""What is read of a metrics page, and what is not believed."""

from __future__ import annotations

import math

import pytest

from detinf.probe.metrics import Series, parse_metrics

PAGE = """\
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="a}b\\"c"} 3
vllm:iteration_tokens_total_bucket{engine="0",le="6.0",model_name="a}b\\"c"} 30
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="a}b\\"c"} 40
vllm:iteration_tokens_total_bucket{engine="1",le="1.0"} 1
vllm:iteration_tokens_total_bucket{engine="1",le="+Inf"} 2
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 40
vllm:iteration_tokens_total_count{engine="1",model_name="m"} 2
vllm:iteration_tokens_total_created{engine="0"} 1.7e9
vllm:generation_tokens_total{engine="0",model_name="m"} 500.0
vllm:num_requests_running{engine="0",model_name="m"} 3
vllm:num_requests_waiting{engine="0",model_name="m"} 1
vllm:prompt_tokens_total{engine="0"} 70
vllm:num_preemptions_total{engine="0"} 2
vllm:prefix_cache_queries_total{engine="0"} 60
vllm:prefix_cache_hits_total{engine="0"} 20
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 4
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 30
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 500
vllm:request_success_total{engine="0",finished_reason="error",model_name="m"} 600
vllm:request_success_total{engine="0",finished_reason="repetition",model_name="m"} 1
vllm:request_success_total{finished_reason="length",engine="1"} 7
process_start_time_seconds 1.7955e+09
"""


def test_page_is_summed_over_engines() -> None:
    snapshot = parse_metrics(PAGE)
    assert snapshot is not None
    assert (snapshot.steps, snapshot.generated, snapshot.running, snapshot.waiting) == (42, 500, 3, 1)
    assert (snapshot.started, snapshot.prompts, snapshot.preemptions) == (1.7955e9, 70, 2)
    assert (snapshot.cache_queries, snapshot.cache_hits, snapshot.corrupted, snapshot.drafts) == (60, 20, None, None)


def test_requests_that_nobody_got_an_answer_to_are_not_counted_as_answered() -> None:
    snapshot = parse_metrics(PAGE)
    assert snapshot is not None
    assert snapshot.finished == 42
    without = parse_metrics("\n".join(line for line in PAGE.splitlines() if "request_success" not in line))
    assert without is not None
    assert without.finished is None


def test_edges_are_read_and_one_that_not_every_engine_has_is_left_out() -> None:
    snapshot = parse_metrics(PAGE)
    assert snapshot is not None
    assert snapshot.edges == {1.0: 4, math.inf: 42}


def test_page_of_several_api_servers_has_no_start() -> None:
    snapshot = parse_metrics(PAGE.replace("process_start_time_seconds 1.7955e+09\n", ""))
    assert snapshot is not None
    assert snapshot.started is None


def test_page_without_a_histogram_has_no_edges() -> None:
    lines = [line for line in PAGE.splitlines() if "_bucket" not in line]
    snapshot = parse_metrics("\n".join(lines))
    assert snapshot is not None
    assert snapshot.edges is None


@pytest.mark.parametrize(
    "page",
    [
        "",
        "nothing here",
        PAGE.replace("vllm:iteration_tokens_total_count", "other"),
        PAGE.replace("500.0", "many"),
        PAGE.replace("500.0", "NaN"),
        PAGE.replace("500.0", "+Inf"),
        PAGE.replace("} 30\n", "} ?\n"),
    ],
)
def test_page_without_the_series_or_with_no_numbers_proves_nothing(page: str) -> None:
    assert parse_metrics(page) is None


def test_series_that_a_profile_names_otherwise_are_read_under_that_name() -> None:
    page = PAGE.replace("vllm:iteration_tokens_total", "other:step_tokens").replace(
        "vllm:prefix_cache_queries_total", "other_lookups_total"
    )
    assert parse_metrics(page) is None
    series = Series.named({"steps": "other:step_tokens", "prefixCacheQueries": "other_lookups", "unheard": "of"})
    assert parse_metrics(page, series) == parse_metrics(PAGE)
