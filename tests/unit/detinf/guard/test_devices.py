"""The device tree: the documented formats are read, and what cannot be read is unknown."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.guard import boards, counters, npu_smi
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


def test_info_table_of_two_dies_to_a_module_gives_its_chips() -> None:
    assert [
        (chip.npu, chip.name, chip.health, chip.bus, chip.hbm_mb) for chip in parse_info(sample("npu-smi-info-a3.txt"))
    ] == [
        (0, "Ascend910", "OK", "0000:9D:00.0", 65536),
        (5, "Ascend910", "Warning", "0000:A7:00.0", 65536),
    ]


@pytest.mark.parametrize("name", [path.name for path in SAMPLES.iterdir() if not path.name.startswith("npu-smi-info")])
def test_output_of_another_command_gives_no_chip(name: str) -> None:
    assert parse_info(sample(name)) == []


def test_board_gives_its_values() -> None:
    board = parse_keys(sample("npu-smi-board.txt"))
    assert len(board) == 19
    assert (board["Firmware Version"], board["PCIe Bus Info"]) == ("7.8.0.6.201", "0000:C1:00.0")
    assert (board["Subsystem Device ID"], board["Chip Count"]) == ("0x3003", "1")
    assert parse_keys(sample("npu-smi-info-l.txt"))["Total Count"] == "8"


def test_error_counters_are_kept_as_they_were_printed_and_nothing_else_is() -> None:
    assert counters.parse(sample("npu-smi-ecc.txt")) == {
        "HBM Single Bit Error Count": "0",
        "HBM Double Bit Error Count": "2",
        "HBM Single Bit Aggregate Total Err Cnt": "4294967295",
        "HBM Double Bit Aggregate Total Err Cnt": "0",
        "HBM Single Bit Isolated Pages Count": "0",
        "HBM Double Bit Isolated Pages Count": "3",
        "HBM Single Bit Next-Isolated Pages Count": "0",
        "HBM Double Bit Next-Isolated Pages Count": "0",
    }
    assert counters.parse(sample("npu-smi-hccs.txt")) == {
        "hccs health status": "OK",
        "hccs retry count": "0 0 7 0 0 0 0",
        "hccs error count": "0 0 0 0 0 18446744073709551615 0",
        "hccs first error lane": "NA",
    }
    for name in ("npu-smi-board.txt", "npu-smi-info.txt", "npu-smi-info-l.txt", "npu-smi-topo.txt"):
        assert counters.parse(sample(name)) == {}


def test_npu_that_tells_no_counters_has_none() -> None:
    answers = {"0": sample("npu-smi-ecc.txt"), "1": "This device does not support querying ecc.", "2": None}
    found = counters.read([0, 1, 2], lambda arguments: answers[arguments[4]] if "ecc" in arguments else None)
    assert (len(found["0"]), found["1"], found["2"]) == (8, {}, {})


def test_board_and_chip_tell_which_npu_it_is_and_what_the_driver_does_not_tell_is_left_out() -> None:
    answers = {
        ("0",): sample("npu-smi-board.txt"),
        ("0", "0"): sample("npu-smi-board-chip.txt"),
        ("1",): sample("npu-smi-board.txt").replace("2102XXXXXXXXXXXX", "NA"),
        ("2",): "This device does not support querying board.",
    }
    found = boards.read([0, 1, 2, 3], lambda arguments: answers.get(tuple(arguments[4::2])))
    assert found == {
        "0": {
            "Serial Number": "2102XXXXXXXXXXXX",
            "PCIe Bus Info": "0000:C1:00.0",
            "Slot ID": "0",
            "VDie ID": "1A2B3C4D 20E0B5A1 00000000 00000000 0A180000",
        },
        "1": {"PCIe Bus Info": "0000:C1:00.0", "Slot ID": "0"},
        "2": {},
        "3": {},
    }
    assert boards.parse("\tDie ID                         : V1,010A88C4 00A1A210") == {"Die ID": "V1,010A88C4 00A1A210"}
    for name in ("npu-smi-ecc.txt", "npu-smi-hccs.txt", "npu-smi-info.txt", "npu-smi-topo.txt"):
        assert boards.parse(sample(name)) == {}


def test_files_of_the_driver_give_their_values() -> None:
    version = parse_assignments(sample("version.info"))
    assert (version["Version"], version["package_version"]) == ("25.3.rc1", "25.3.rc1")
    assert version["compatible_version_fw"] == "[7.0.0,8.9.9]"
    assert parse_assignments(sample("ascend_install.info"))["Driver_Install_Path_Param"] == "/usr/local/Ascend"
    assert parse_assignments(sample("ascend_toolkit_install.info"))["version"] == "8.3.RC2"
    assert parse_assignments(sample("hccn.conf"))["address_0"] == "192.168.101.1"


@pytest.mark.parametrize(
    ("version", "driver"),
    [
        ("Version=1\npackage_version=2\n", "2"),
        ("Version=1\n", "1"),
        ("Version=1\npackage_version=\n", "1"),
        ("Version=\n", None),
        ("nothing", None),
    ],
)
def test_driver_is_the_packages_version_before_the_files_own(tmp_path: Path, version: str, driver: str | None) -> None:
    write_tree(tmp_path)
    ask = simulated(tmp_path, range(1))
    (tmp_path / "usr/local/Ascend/driver/version.info").write_text(version)
    assert observe(tmp_path, ask).driver == driver


def test_link_matrix_gives_kinds_and_a_torn_one_is_unknown() -> None:
    text = sample("npu-smi-topo.txt")
    assert parse_links(text) == {"HCCS"}
    assert parse_links(text.replace("X          HCCS", "X          SYS ", 1)) == {"HCCS", "SYS"}
    assert parse_links(sample("npu-smi-topo-pcie.txt")) == {"SYS"}
    assert parse_links(sample("npu-smi-topo-a3.txt")) == {"SIO", "HCCS_SW"}
    for rows in range(9):
        assert parse_links("".join(text.splitlines(keepends=True)[:rows])) is None
    assert parse_links("This device does not support querying topo.") is None


def test_mixed_links_are_unknown_and_not_the_first_that_was_read(tmp_path: Path) -> None:
    write_tree(tmp_path)
    ask = simulated(tmp_path, range(8))
    mixed = sample("npu-smi-topo.txt").replace("X          HCCS", "X          PXB ", 1)
    seen = observe(tmp_path, lambda arguments: mixed if "topo" in arguments else ask(arguments))
    assert seen.link is None
    with pytest.raises(RefusedError, match="link is unknown, the plan says 'HCCS'"):
        check(WHOLE, seen)


@pytest.mark.parametrize(
    ("told", "other", "item"),
    [("910B3  ", "910B4  ", "chip"), ("/ 65536", "/ 32768", "hbm_gib"), ("7.8.0.6.201", "7.8.0.6.202", "firmware")],
)
def test_one_npu_of_another_kind_makes_the_kind_unknown(tmp_path: Path, told: str, other: str, item: str) -> None:
    write_tree(tmp_path)
    ask = simulated(tmp_path, range(8))

    def one_other(arguments: list[str]) -> str | None:
        text = ask(arguments) or ""
        return text.replace(told, other, 1) if arguments == ["info"] or arguments[-1] == "3" else text

    seen = observe(tmp_path, one_other)
    assert getattr(observe(tmp_path, ask), item) is not None
    assert getattr(seen, item) is None
    with pytest.raises(RefusedError, match="is unknown, the plan says"):
        check(WHOLE, seen)


def test_number_longer_than_any_device_has_is_no_number() -> None:
    text = sample("npu-smi-info.txt")
    assert [chip.npu for chip in parse_info(text.replace("| 0     910B3", f"| {'1' * 5000} 910B3"))] == [5]
    assert parse_info(text.replace("/ 65536", f"/ {'6' * 5000}"))[0].hbm_mb != 65536


LINES = sorted({line for path in SAMPLES.iterdir() for line in path.read_text(encoding="utf-8").splitlines()})
DAMAGED = st.lists(
    st.one_of(
        st.sampled_from(LINES),
        st.text(alphabet=st.characters(codec="utf-8"), max_size=80),
        st.builds(
            lambda line, start, end, other: line[:start] + other + line[end:],
            st.sampled_from(LINES),
            *[st.integers(0, 110)] * 2,
            st.text(max_size=9),
        ),
        st.builds(
            lambda line, digits: line.replace("0", digits, 1),
            st.sampled_from(LINES),
            st.sampled_from(["9" * 5000, "\u0663", "\u00b2", "-1", ""]),
        ),
    ),
    max_size=30,
).map("\n".join)


@settings(deadline=None)
@given(DAMAGED)
def test_any_output_is_read_or_unknown_and_never_a_crash(text: str) -> None:
    for chip in parse_info(text):
        assert (type(chip.npu), type(chip.name), type(chip.health), type(chip.bus)) == (int, str, str, str)
        assert chip.hbm_mb is None or type(chip.hbm_mb) is int
    for pairs in (parse_keys(text), parse_assignments(text)):
        assert all(key and type(key) is type(value) is str for key, value in pairs.items())
    links = parse_links(text)
    assert links is None or all(type(link) is str for link in links)
    for name, value in counters.parse(text).items():
        assert "\n" not in name + value
        assert len(value) <= counters.LONGEST
    for name, value in boards.parse(text).items():
        assert name in boards.TELLING
        assert 0 < len(value) <= boards.LONGEST


@settings(deadline=None)
@given(DAMAGED, st.binary(max_size=200))
def test_any_device_tree_is_read_or_unknown_and_never_a_crash(text: str, version: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "usr/local/Ascend/driver").mkdir(parents=True)
        (root / "usr/local/Ascend/driver/version.info").write_bytes(version)
        (root / "dev").mkdir()
        for device in ("davinci0", "davinci12", "davinci_manager", "davinci", "davinci1x", "davinci" + "9" * 60):
            (root / "dev" / device).touch()
        seen = observe(root, lambda _arguments: text)
    assert seen.physical_ids == (0, 12)
    with contextlib.suppress(RefusedError):
        check(WHOLE, seen)


@settings(deadline=None)
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
    with pytest.raises(RefusedError, match="told of no NPU"):
        check({"devices": 8}, seen)


NPU_SMI_CASES = {
    # What npu-smi is; which line says so.
    "missing": (None, "devices: npu-smi: not on PATH; have Ascend Docker Runtime mount it, or the profile's hostPaths"),
    "of another user": ("", "devices: npu-smi: it cannot be run: Permission denied; have Ascend Docker Runtime"),
    "of another machine": ("\x7fELF\0", "devices: npu-smi: it cannot be run: Exec format error; have Ascend"),
    "fails": ("exit 3", "devices: npu-smi info ended with exit code 3; run it on the node"),
    "fails with words": (
        "echo 'dcmi module initialize failed. ret is -8005' >&2; exit 255",
        "devices: npu-smi info ended with exit code 255: dcmi module initialize failed. ret is -8005; run it",
    ),
    "fails with words among its output": ("echo; echo no device; exit 1", "ended with exit code 1: no device; run it"),
    "crashes": ("echo half; kill -11 $$", "devices: npu-smi info ended with signal 11: half; run it on the node"),
    "hangs": (
        "exec sleep 600",
        "devices: npu-smi info did not end within 1 s; run it on the node, and look at the driver",
    ),
    "hangs behind a script": ("sleep 600; true", "devices: npu-smi info did not end within 1 s"),
    "prints something else": ("echo ' hello '", "devices: npu-smi info printed no table of NPUs, but 'hello'; have an"),
    "prints nothing": ("true", "devices: npu-smi info printed no table of NPUs, but ''"),
}


@pytest.mark.parametrize("case", NPU_SMI_CASES)
def test_npu_smi_that_tells_nothing_is_named_with_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    source, words = NPU_SMI_CASES[case]
    write_npu_smi(tmp_path, monkeypatch, source)
    # Long enough for the others to end by themselves: only the one that hangs is cut off.
    monkeypatch.setattr(npu_smi, "TIMEOUT_SECONDS", 1 if "hangs" in case else 60)
    (tmp_path / "dev").mkdir()
    for identifier in range(2):
        (tmp_path / f"dev/davinci{identifier}").touch()
    with pytest.raises(RefusedError) as refused:
        check({"devices": 2}, observe(tmp_path))
    line = str(refused.value)
    assert words in line
    assert "\n" not in line
    assert "told of no NPU" in line
    assert "drain the node" not in line  # nobody knows that an NPU is bad


def write_npu_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str | None) -> None:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    if source is not None:
        binary = source.startswith("\x7f")
        (folder / "npu-smi").write_text(source if binary else f"#!/bin/sh\n{source}\n", encoding="latin-1")
        (folder / "npu-smi").chmod(0o755 if source else 0o644)


def test_npu_smi_that_hangs_or_is_missing_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npu_smi(tmp_path, monkeypatch, f"echo asked >> {tmp_path}/times; exec sleep 600")
    monkeypatch.setattr(npu_smi, "TIMEOUT_SECONDS", 1)
    ask = npu_smi.NpuSmi()
    assert counters.read(range(8), ask) == {str(identifier): {} for identifier in range(8)}
    assert boards.read(range(8), ask) == {str(identifier): {} for identifier in range(8)}
    assert (tmp_path / "times").read_text() == "asked\n"
    assert len(ask.problems) == 1


def test_question_that_npu_smi_does_not_answer_is_named_where_the_plan_asks_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = sample("npu-smi-info.txt")
    (tmp_path / "info").write_text(info)
    write_npu_smi(tmp_path, monkeypatch, f'[ "$*" = info ] && exec cat {tmp_path}/info; echo "no $3" >&2; exit 4')
    (tmp_path / "dev").mkdir()
    for identifier in (0, 5):
        (tmp_path / f"dev/davinci{identifier}").touch()
    seen = observe(tmp_path)
    with pytest.raises(RefusedError) as refused:
        check({"devices": 2, "link": "HCCS"}, seen)
    assert "npu-smi info -t topo ended with exit code 4: no topo; " in str(refused.value)
    with pytest.raises(RefusedError) as refused:
        check({"devices": 3}, seen)
    assert "topo" not in str(refused.value)


def test_npu_smi_that_prints_bytes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npu_smi(tmp_path, monkeypatch, "printf 'a\\377 : %s' \"$*\"")
    assert npu_smi.NpuSmi()(["info", "-t", "topo"]) == "a\ufffd : info -t topo"


def test_plan_without_devices_asks_for_none() -> None:
    check({"devices": 0}, Devices(()))
    with pytest.raises(RefusedError, match="the plan says 0"):
        check({"devices": 0}, Devices((0,)))


def test_one_device_has_no_link_to_be_wrong() -> None:
    check({"devices": 1, "link": "HCCS"}, Devices((3,), link="-"))
