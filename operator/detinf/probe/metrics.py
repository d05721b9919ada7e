"""What one look at an engine's ``/metrics`` says, as far as the witnesses W1, W2, W3 and W6 and evidence need it.

Names as in vLLM 0.23 to 0.33, where a profile does not say otherwise. Values are summed over data-parallel engines: a
witness that counts steps then sees more of them than one engine made, which only lowers what it can prove. Histogram
edges are read and not assumed: vLLM lets them be overridden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
# No part of a sample spans lines (the format escapes a line's end in a label's value): each line is read once, whatever
# stands on it. Labels that could begin on every line and end on none would be read once for each.
_LABELS = r'\{(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*\}'
_SAMPLE = re.compile(rf"^({_NAME})({_LABELS})?[ \t]+(\S+)", re.MULTILINE)
_EDGE = re.compile(r'[{,]le="([^"]*)"')

NAMES = {
    "steps": "vllm:iteration_tokens_total",
    "generated": "vllm:generation_tokens",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "prompts": "vllm:prompt_tokens",
    "preemptions": "vllm:num_preemptions",
    "prefixCacheQueries": "vllm:prefix_cache_queries",
    "prefixCacheHits": "vllm:prefix_cache_hits",
    "corrupted": "vllm:corrupted_requests",
    "drafts": "vllm:spec_decode_num_drafts",
    "finished": "vllm:request_success",
}
"""The engine's series by the keys of a profile's ``metrics``; counters without ``_total``, as vLLM registers them."""
FIELDS = {"prefixCacheQueries": "cache_queries", "prefixCacheHits": "cache_hits"}
GAUGES = ("running", "waiting")
_ENDED = re.compile(r'[{,]finished_reason="(?:abort|error)"')
"""Requests that nobody got an answer to (vLLM 0.23 to 0.33, ``FinishReason``)."""


@dataclass(frozen=True)
class Series:
    """Which samples of a page are read."""

    fields: Mapping[str, str]
    """Field of a snapshot by the sample's name."""
    bucket: str

    @classmethod
    def named(cls, names: Mapping[str, str] | None = None) -> Series:
        """Return the samples of an engine whose series have these names; what is not named is called as in vLLM."""
        known = NAMES | {key: name for key, name in (names or {}).items() if key in NAMES}
        fields = {"process_start_time_seconds": "started"}
        for key, name in known.items():
            suffix = "_count" if key == "steps" else "" if key in GAUGES else "_total"
            fields[name + suffix] = FIELDS.get(key, key)
        return cls(fields, known["steps"] + "_bucket")


VLLM = Series.named()


@dataclass(frozen=True)
class Snapshot:
    """One look; counters since the start of the process. None: the page has no such series."""

    steps: float
    """Steps that emitted something."""
    generated: float
    """Tokens generated."""
    running: float
    waiting: float
    started: float | None
    """``process_start_time_seconds``; vLLM with several API servers has none."""
    prompts: float | None = None
    """Tokens of prompts whose first token was emitted, cached ones included."""
    preemptions: float | None = None
    cache_queries: float | None = None
    """Prompt tokens looked up in the prefix cache; stays 0 where it is off."""
    cache_hits: float | None = None
    corrupted: float | None = None
    """Requests with NaN in their logits."""
    drafts: float | None = None
    """Speculative drafts; None without speculative decoding."""
    edges: Mapping[float, float] | None = None
    """Upper edge, inclusive, to how many steps emitted and read at most that many tokens (``iteration_tokens``)."""
    finished: float | None = None
    """Requests that were answered, without those that were aborted or failed."""


def parse_metrics(text: str, series: Series = VLLM) -> Snapshot | None:
    """Return the snapshot of a metrics page, or None where the witness' own series are missing or no numbers."""
    sums: dict[str, float] = {}
    edges: dict[float, list[float]] = {}
    for name, labels, written in _SAMPLE.findall(text):
        key = series.fields.get(name)
        if key is None and name != series.bucket:
            continue
        value = _number(written)
        if value is None:
            return None
        if key == "finished" and _ENDED.search(labels):
            continue
        if key is not None:
            sums[key] = sums.get(key, 0.0) + value
        elif found := _EDGE.search(labels):
            edge = _number(found[1], infinite=True)
            if edge is not None:
                edges.setdefault(edge, []).append(value)
    if not {"steps", "generated"} <= sums.keys():
        return None
    # An edge that one engine has and another has not says nothing about their sum.
    whole = len(edges.get(math.inf, ()))
    summed = {edge: sum(values) for edge, values in sorted(edges.items()) if len(values) == whole}
    return Snapshot(
        steps=sums.pop("steps"),
        generated=sums.pop("generated"),
        running=sums.pop("running", 0.0),
        waiting=sums.pop("waiting", 0.0),
        started=sums.pop("started", None),
        edges=summed or None,
        **sums,
    )


def _number(written: str, *, infinite: bool = False) -> float | None:
    try:
        value = float(written)
    except ValueError:
        return None
    return value if math.isfinite(value) or (infinite and value == math.inf) else None
