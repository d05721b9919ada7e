"""Which NPUs these are: recorded, never compared, never hashed, since a replica on any of a kind is the same engine.

Beside a divergence they tell which one to drain, and whether it is the one that diverged before. Formats, none of them
seen on a device, in the npu-smi command reference of Atlas A2:

- ``npu-smi info -t board -i N``: ``key : value`` lines, with the board's serial number, bus id and slot; in a container
  some driver releases print NA for a serial number;
- ``npu-smi info -t board -i N -c 0``: the same of its first chip, with ``VDie ID`` (``Die ID`` on small modules), the
  identity of the chip that npu-exporter shows as ``vdie_id``. NPUs of Atlas A2 have one chip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detinf.guard.devices import parse_keys

TELLING = ("Serial Number", "PCIe Bus Info", "Slot ID", "VDie ID", "Die ID")
"""What tells one NPU from another, by npu-smi's own names."""
LONGEST = 200
"""Characters of a value that are kept."""


def parse(text: str) -> dict[str, str]:
    """Return what tells an NPU from others; what the driver does not tell (``NA``) is left out."""
    keys = parse_keys(text)
    told = {name: keys.get(name, "")[:LONGEST] for name in TELLING}
    return {name: value for name, value in told.items() if value and value.upper() != "NA"}


def read(identifiers: Iterable[int], ask: Callable[[list[str]], str | None]) -> dict[str, dict[str, str]]:
    """Return by NPU what tells it from others; nothing is an error.

    Args:
        identifiers: of the NPUs.
        ask: runs npu-smi with these arguments.
    """
    found = {}
    for identifier in identifiers:
        of_one = ["info", "-t", "board", "-i", str(identifier)]
        found[str(identifier)] = parse(ask(of_one) or "") | parse(ask([*of_one, "-c", "0"]) or "")
    return found
