"""The device tree: what the container really has, against what the plan says.

Formats are those of npu-smi 25.x and of the driver's own files. The parsers key on headers and values, tolerate other
columns and spacing, and return None for what they cannot read: unknown is never fine where the plan asks for it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard.errors import RefusedError

NPU_SMI = "npu-smi"
TIMEOUT_SECONDS = 60
FIRST_SLICE = 100
"""Numbers of slices (vNPUs) begin here, for the driver and in a container's ``/dev`` (``VDAVINCI_VDEV_OFFSET``)."""


@dataclass(frozen=True)
class Devices:
    """What was read; None where it could not be read."""

    physical_ids: tuple[int, ...]
    chip: str | None = None
    hbm_gib: int | None = None
    driver: str | None = None
    firmware: str | None = None
    link: str | None = None
    unhealthy: tuple[str, ...] = ()
    bus_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chip:
    """One row pair of ``npu-smi info``."""

    npu: int
    name: str
    health: str
    bus: str
    hbm_mb: int | None


def parse_info(text: str) -> list[Chip]:
    """Return the chips of ``npu-smi info``; an empty list where there are none to be read."""
    chips = []
    first: tuple[int, str, str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.strip().startswith("|") or len(cells) < 3:
            first = None
            continue
        head = re.fullmatch(r"([0-9]{1,9})\s+(\S*[A-Za-z]\S*)", cells[0])
        if head:
            first = (int(head[1]), head[2], cells[1])
        elif first and re.fullmatch(r"[\d\s]+", cells[0]) and ":" in cells[1]:
            # The last "used / total" pair of the second row is the HBM.
            totals = re.findall(r"[0-9]\s*/\s*([0-9]{1,9})\b", cells[2])
            chips.append(Chip(*first, cells[1], int(totals[-1]) if totals else None))
            first = None
    return chips


def parse_keys(text: str) -> dict[str, str]:
    """Return ``key : value`` lines, as ``npu-smi info -t board`` prints them."""
    pairs = (line.partition(" : ") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon and key.strip()}


def parse_assignments(text: str) -> dict[str, str]:
    """Return ``key=value`` lines, as ``version.info`` and ``ascend_install.info`` hold them."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and key.strip()}


def parse_links(text: str) -> set[str] | None:
    """Return the kinds of link between pairs in ``npu-smi info -t topo``; None where there is no matrix."""
    columns = 0
    kinds: set[str] = set()
    rows = 0
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if not columns and all(re.fullmatch(r"NPU\d+", word) for word in words[:1]) and "X" not in words:
            columns = sum(1 for word in words if re.fullmatch(r"NPU\d+", word))
        elif columns and re.fullmatch(r"NPU\d+", words[0]) and len(words) > columns:
            rows += 1
            kinds.update(word for word in words[1 : columns + 1] if word != "X")
    return kinds if columns and rows == columns else None


def read_assignments(path: Path) -> dict[str, str]:
    """Return the ``key=value`` lines of a file; none where it is missing or not ours to read."""
    try:
        return parse_assignments(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def cann_version(environment: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """Return the version of the CANN toolkit that set-up scripts have chosen; None where there is none to be read.

    Args:
        environment: of the engine, after the scripts.
        root: where absolute paths begin.
    """
    homes = (environment.get(name, "").strip("/") for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"))
    paths = (path for home in homes if home for path in root.glob(f"{home}/*-linux/ascend_toolkit_install.info"))
    version: str | None = _one({read_assignments(path).get("version") or None for path in paths})
    return version


def _one(values: set[Any]) -> Any:
    """Return the one value that all devices share, or None."""
    return next(iter(values)) if len(values) == 1 else None


def run_npu_smi(arguments: list[str]) -> str | None:
    """Return what npu-smi prints, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            [NPU_SMI, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def observe(root: Path = Path("/"), ask: Callable[[list[str]], str | None] = run_npu_smi) -> Devices:
    """Read the device tree of this container.

    Args:
        root: where ``dev`` and ``usr`` are.
        ask: runs npu-smi with these arguments.
    """
    names = (re.fullmatch(r"davinci([0-9]{1,9})", path.name) for path in (root / "dev").glob("davinci*"))
    ids = tuple(sorted(int(name[1]) for name in names if name))
    if not ids:
        return Devices(())
    chips = parse_info(ask(["info"]) or "")
    boards = [parse_keys(ask(["info", "-t", "board", "-i", str(identifier)]) or "") for identifier in ids]
    links = parse_links(ask(["info", "-t", "topo"]) or "")
    driver = read_assignments(root / "usr/local/Ascend/driver/version.info")
    memory = _one({chip.hbm_mb for chip in chips})
    seen = {chip.npu for chip in chips}
    unhealthy = [f"NPU {chip.npu} is {chip.health}" for chip in chips if chip.health != "OK"]
    unhealthy += [f"NPU {identifier} is not listed by npu-smi info" for identifier in ids if identifier not in seen]
    return Devices(
        physical_ids=ids,
        chip=_one({chip.name for chip in chips}),
        hbm_gib=memory // 1024 if memory else None,
        driver=driver.get("package_version") or driver.get("Version") or None,
        firmware=_one({board.get("Firmware Version") for board in boards}),
        link=("-" if not links else _one(links)) if links is not None else None,
        unhealthy=tuple(unhealthy),
        bus_ids=tuple(chip.bus for chip in chips),
    )


def check(topology: dict[str, Any], devices: Devices) -> None:
    """Hold the device tree against the plan's topology.

    Raises:
        RefusedError: naming each item that differs, with both values.
    """
    wanted = topology["devices"]
    found = []
    if len(devices.physical_ids) != wanted:
        found.append(
            f"devices: {len(devices.physical_ids)} NPUs in /dev, the plan says {wanted}; "
            "request whole NPUs of one node (spec.parallelism.tensor, spec.scheduling.resourceName)"
        )
    elif wanted:
        found += [f"devices: {problem}; drain the node and repair or replace the NPU" for problem in devices.unhealthy]
    found += [
        f"devices: /dev/davinci{identifier} is a slice of an NPU, on which collectives do not work; request whole NPUs "
        "(spec.scheduling.resourceName)"
        for identifier in devices.physical_ids
        if identifier >= FIRST_SLICE
    ]
    items = (
        ("chip", "chip", devices.chip),
        ("hbmGiB", "hbmGiB", devices.hbm_gib),
        ("driver version", "driverVersion", devices.driver),
        ("firmware version", "firmwareVersion", devices.firmware),
        # One device has no pair, and so no link to be wrong.
        ("link", "link", topology.get("link") if wanted == 1 else devices.link),
    )
    for words, key, value in items:
        expected = topology.get(key)
        if wanted and expected is not None and value != expected:
            shown = "unknown" if value is None else repr(value)
            found.append(f"devices: {words} is {shown}, the plan says {expected!r}; use a node of that kind")
    if found:
        raise RefusedError(*found)
