"""What the probe reads in its event loop takes it no longer, by the byte, where there is more of it.

Each reader is given texts of one piece, over and over: a hundred times as much may take a thousand times as long, where
what grows with the square takes ten thousand times. No absolute time is looked at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detinf.documents import AskedAgain, Attestation, Baseline, Plan, ProbeSettings, References, unseal
from detinf.documents.base import DocumentError
from detinf.guard.trace import own_of
from detinf.probe.metrics import parse_metrics
from detinf.probe.observation import parse_completion
from detinf.probe.podinfo import annotation, unquoted
from detinf.probe.reasons import InconclusiveError

SMALL, LARGE, RATIO = 200, 20_000, 1000

PIECES = (
    "a{",
    "a{\n",
    'a{b="',
    'a{b="\n',
    'a{""',
    'a{"\n',
    'a{,le="\n',
    'a{b="c",',
    'a{b="c"} ',
    "a ",
    "a\t\n",
    "a",
    "1",
    ".",
    "\\",
    '\\"',
    '"',
    '""',
    " ",
    "\n",
    ",",
    '{"a":',
    '{"a":[',
    "[",
    "[]",
    "{}",
    "[1,",
    '"\\u0041',
    "\\u0041",
    "\\x41",
    "-",
    "detinf-",
    "detinf-0123456789abcdef-",
    "detinf-0123456789abcdef-1",
    "=",
    'a="b"\n',
    "\ufffd",
    "\r",
    "# TYPE a\n",
    "vllm:generation_tokens_total{",
    'vllm:iteration_tokens_total_bucket{le="1"} 1\n',
    "vllm:generation_tokens_total 1\n",
)
WRAPPED = {
    "as it is": "{}",
    "a list": '{{"choices": [{}',
    "a text": '{{"choices": "{}"}}',
    "quoted": '"{}"',
    "a value": "vllm:generation_tokens_total {}",
    "labels": "vllm:generation_tokens_total{{{}}} 1",
}


READERS: dict[str, Callable[[str], object]] = {
    "metrics": parse_metrics,
    "answer": lambda text: parse_completion(text.encode(), tokens=4, top=20),
    "quoted": unquoted,
    "request id": own_of,
    "sealed": unseal,
    **{kind.KIND: kind.parse for kind in (AskedAgain, Attestation, Baseline, Plan, ProbeSettings, References)},
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """Return the least processor time of a few readings."""
    taken = []
    for _ in range(3 if len(text) == SMALL else 1):
        begin = time.process_time()
        with contextlib.suppress(ValueError, DocumentError, InconclusiveError):
            read(text)
        taken.append(time.process_time() - begin)
    return min(taken)


@pytest.mark.parametrize("reader", READERS)
def test_a_hundred_times_as_much_takes_no_thousand_times_as_long(reader: str) -> None:
    for wrapped in WRAPPED.values():
        for piece in PIECES:
            small, large = (wrapped.format((piece * size)[:size]) for size in (SMALL, LARGE))
            least = max(seconds(READERS[reader], small), 2e-6)
            assert seconds(READERS[reader], large) < RATIO * least, f"{piece!r} over and over, as {wrapped!r}"


def test_annotations_are_read_once_however_many_there_are(tmp_path: Path) -> None:
    def read(text: str) -> object:
        (tmp_path / "annotations").write_text(text, encoding="utf-8")
        return annotation(tmp_path, "key")

    line = 'key.of.another="a value"\n'
    small, large = (line * (size // len(line)) for size in (SMALL, LARGE))
    assert seconds(read, large) < RATIO * max(seconds(read, small), 2e-6)
