"""Error counters of the NPUs as they stood when the engine started: recorded, never compared, never hashed.

Beside a divergence they tell a bad chip from a bad set-up. Formats, none of them seen on a device:

- ``npu-smi info -t ecc -i N``: ``key : count`` lines, in the npu-smi command reference of Atlas A2;
- ``npu-smi info -t hccs -i N -c 0``: ``key : [count of each link]`` lines, in npu-smi's source
  (``print_npu_hccs_lane_error_info`` in CANN's driver). HCCS joins the NPUs of a server; what ``hccn_tool`` counts is
  of the network between servers, which no replica of one node uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

LINE = re.compile(r"[ \t]*(\S[^:\n]*?)[ \t]*:[ \t]*(\S[^\n]*?)[ \t]*")
COUNTER = re.compile(r"(err(or)?|retry|pages)\b.*\b(count|cnt)$", re.IGNORECASE)
HEALTH = re.compile(r"hccs (health status|first error lane)", re.IGNORECASE)
LONGEST = 200
"""Characters of a value that are kept: seven links take less."""


def parse(text: str) -> dict[str, str]:
    """Return error counters, and the health of HCCS, by their own names; columns are one space apart.

    The values stay texts: a count may be larger than what every JSON reader keeps.
    """
    pairs = (LINE.fullmatch(line) for line in text.splitlines())
    return {
        pair[1]: " ".join(pair[2].strip("[]").split())[:LONGEST]
        for pair in pairs
        if pair and (COUNTER.search(pair[1]) or HEALTH.fullmatch(pair[1]))
    }


def read(identifiers: Iterable[int], ask: Callable[[list[str]], str | None]) -> dict[str, dict[str, str]]:
    """Return the counters by NPU; what a device, a driver or a container does not tell is left out.

    Args:
        identifiers: of the NPUs.
        ask: runs npu-smi with these arguments.
    """
    found = {}
    for identifier in identifiers:
        of_one = ["-i", str(identifier)]
        found[str(identifier)] = {
            **parse(ask(["info", "-t", "ecc", *of_one]) or ""),
            **parse(ask(["info", "-t", "hccs", *of_one, "-c", "0"]) or ""),
        }
    return found
