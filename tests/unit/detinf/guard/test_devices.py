"""The device tree: the documented formats are read, and what cannot be read is unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.guard.devices import Devices, check, observe, parse_assignments, parse_info, parse_keys, parse_links
from detinf.guard.errors import RefusedError

ROOT = Path(__file__).resolve().parents[4]
SAMPLES = ROOT / "tests" / "fixtures" / "ascend"
sys.path.insert(0, str(ROOT / "tools" / "cluster"))

from detinf_cluster.npu import write_tree  # noqa: E402 - found through the line above

WHOLE = {
    "devices": 8,
    "chip": "910B3",
    "hbmGiB": 64,
    "driverVersion": "25.5.1",
    "firmwareVersion": "7.8.0.6.201",
    "link": "HCCS",
}


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def test_info_table_gives_chips_and_no_processes() -> None:
    chips = parse_info(sample("npu-smi-info.txt"))
    assert [(chip.npu, chip.name, chip.health, chip.bus, chip.hbm_mb) for chip in chips] == [
        (0, "910B3", "OK", "0000:C1:00.0", 65536),
        (5, "910B3", "Warning", "0000:C6:00.0", 65536),
    ]


def test_board_and_version_files_give_their_values() -> None:
    board = parse_keys(sample("npu-smi-board.txt"))
    assert (board["Firmware Version"], board["PCIe Bus Info"]) == ("7.8.0.6.201", "0000:C1:00.0")
    version = parse_assignments(sample("version.info"))
    assert (version["package_version"], version["compatible_version_fw"]) == ("25.3.rc1", "[7.0.0,8.9.9]")


def test_link_matrix_gives_kinds_and_a_torn_one_is_unknown() -> None:
    text = sample("npu-smi-topo.txt")
    assert parse_links(text) == {"HCCS"}
    assert parse_links(text.replace("HCCS       HCCS       X", "SYS        HCCS       X")) == {"HCCS", "SYS"}
    assert parse_links("\n".join(text.splitlines()[:3])) is None
    assert parse_links("This device does not support querying topo.") is None


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400))
def test_any_text_is_read_or_unknown_and_never_a_crash(text: str) -> None:
    parse_info(text)
    parse_keys(text)
    parse_assignments(text)
    parse_links(text)


@given(st.data())
def test_torn_info_table_never_invents_a_chip(data: st.DataObject) -> None:
    whole = sample("npu-smi-info.txt")
    torn = whole[: data.draw(st.integers(0, len(whole)))]
    assert {chip.npu for chip in parse_info(torn)} <= {0, 5}


def simulated(tree: Path, ids: range) -> Any:
    """Return what runs the simulated npu-smi as if in a container with these devices."""
    source = (tree / "usr/local/bin/npu-smi").read_text(encoding="utf-8")
    source = source.replace("/usr/local/dcmi", str(tree / "usr/local/dcmi")).replace(
        'Path("/dev")', f'Path("{tree}/dev")'
    )
    (tree / "dev").mkdir()
    for identifier in ids:
        (tree / "dev" / f"davinci{identifier}").touch()
    (tree / "dev" / "davinci_manager").touch()

    def ask(arguments: list[str]) -> str | None:
        done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    return ask


def test_simulated_tree_is_what_the_parsers_expect_of_a_node(tmp_path: Path) -> None:
    write_tree(tmp_path)
    seen = observe(tmp_path, simulated(tmp_path, range(8)))
    assert seen.physical_ids == tuple(range(8))
    assert (seen.chip, seen.hbm_gib, seen.driver, seen.firmware, seen.link) == (
        "910B3",
        64,
        "25.5.1",
        "7.8.0.6.201",
        "HCCS",
    )
    check(WHOLE, seen)


@pytest.mark.parametrize(
    ("tree", "ids", "words"),
    [
        ({}, range(7), "7 NPUs in /dev, the plan says 8"),
        ({"chip": "910B4"}, range(8), "chip is '910B4', the plan says '910B3'"),
        ({"hbm_gib": 32}, range(8), "hbmGiB is 32, the plan says 64"),
        ({"driver": "25.3.1"}, range(8), "driver version is '25.3.1', the plan says '25.5.1'"),
        ({"firmware": "7.1"}, range(8), "firmware version is '7.1'"),
        ({"link": "SYS"}, range(8), "link is 'SYS', the plan says 'HCCS'"),
    ],
)
def test_other_tree_than_the_plan_is_refused_with_both_values(
    tmp_path: Path, tree: dict[str, Any], ids: range, words: str
) -> None:
    write_tree(tmp_path, **tree)
    with pytest.raises(RefusedError, match=words):
        check(WHOLE, observe(tmp_path, simulated(tmp_path, ids)))


def test_sick_device_is_refused_by_name(tmp_path: Path) -> None:
    write_tree(tmp_path)
    facts = tmp_path / "usr/local/dcmi/simulated.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"health": {"3": "Alarm"}}))
    with pytest.raises(RefusedError, match="NPU 3 is Alarm"):
        check(WHOLE, observe(tmp_path, simulated(tmp_path, range(8))))


def test_npu_smi_that_fails_is_unknown_and_unknown_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path)
    simulated(tmp_path, range(8))
    seen = observe(tmp_path, lambda _arguments: None)
    assert (seen.chip, seen.firmware, seen.link) == (None, None, None)
    with pytest.raises(RefusedError, match="chip is unknown"):
        check(WHOLE, seen)
    with pytest.raises(RefusedError, match="NPU 0 is not listed"):
        check({"devices": 8}, seen)


def test_plan_without_devices_asks_for_none() -> None:
    check({"devices": 0}, Devices(()))
    with pytest.raises(RefusedError, match="the plan says 0"):
        check({"devices": 0}, Devices((0,)))


def test_one_device_has_no_link_to_be_wrong() -> None:
    check({"devices": 1, "link": "HCCS"}, Devices((3,), link="-"))
