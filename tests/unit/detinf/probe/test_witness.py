"""W2: the worked examples of the specification, and everything that must not prove a width."""

from __future__ import annotations

import pytest

from detinf.probe.witness import Snapshot, decode_width, parse_metrics

PAGE = """\
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 3
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 40
vllm:iteration_tokens_total_count{engine="1",model_name="m"} 2
vllm:generation_tokens_total{engine="0",model_name="m"} 500.0
vllm:num_requests_running{engine="0",model_name="m"} 3
vllm:num_requests_waiting{engine="0",model_name="m"} 1
process_start_time_seconds 1.7955e+09
"""


def at(steps: float, generated: float) -> Snapshot:
    return Snapshot(steps, generated, 0, 0, 1.0)


@pytest.mark.parametrize(
    ("steps", "own", "generated", "wanted", "proven", "width"),
    [
        (33, 496, 512, 16, True, 15),  # 16 x 31 / 33 = 15.0, the worked example
        (33, 62, 64, 2, True, 2),
        (512, 496, 512, 16, False, 1),  # serialised: one request after the other
        (41, 496, 512, 16, False, 12),  # split in two: 12.1 < 12.8
        (38, 496, 512, 16, True, 13),
        (19, 496, 512, 16, False, 1),  # too few steps
        (33, 496, 100, 16, False, 1),  # the engine generated less than we received: another counter
        (-5, 496, 512, 16, False, 1),  # the counter was reset
        (60, 496, 2000, 16, False, 8),  # other people's steps only lower it
    ],
)
def test_width_is_proven_only_by_arithmetic(
    steps: int, own: int, generated: int, wanted: int, proven: bool, width: int
) -> None:
    seen, witness = decode_width(at(10, 10), at(10 + steps, 10 + generated), own_decode_tokens=own, wanted=wanted)
    assert (seen, witness.width, witness.kind) == (proven, width, "W2")


def test_page_is_summed_over_engines() -> None:
    assert parse_metrics(PAGE) == Snapshot(42.0, 500.0, 3.0, 1.0, 1.7955e9)


@pytest.mark.parametrize(
    "page",
    ["", "nothing here", PAGE.replace("vllm:iteration_tokens_total_count", "other"), PAGE.replace("500.0", "many")],
)
def test_page_without_the_series_proves_nothing(page: str) -> None:
    assert parse_metrics(page) is None
