"""Profiles are files: read strictly, inherited from, and added to by a site."""

import copy
from typing import Any

import pytest
import yaml

from detinf.engines import catalogue
from detinf.engines.catalogue import PROFILES, SHIPPED, Loader, ProfileError, read, resolve, with_site
from detinf.engines.inheritance import merge

PRE_RELEASES = tuple(f"vllm-ascend-0.{minor}rc" for minor in (26, 27, 28, 29, 30))


def test_an_abstract_profile_is_no_engine() -> None:
    assert "base" in SHIPPED
    assert set(PROFILES) == {"simulated", "vllm-ascend-0.23", *PRE_RELEASES, "vllm-cpu-0.32"}


def test_a_fact_that_is_known_is_replaced_in_its_place_and_another_one_follows() -> None:
    parent = {"arguments": [{"flag": "--a", "value": "1"}, {"flag": "--b"}], "image": "one"}
    child = {"arguments": [{"flag": "--c"}, {"flag": "--a", "value": "2"}], "image": "two"}
    assert merge(parent, child) == {
        "arguments": [{"flag": "--a", "value": "2"}, {"flag": "--b"}, {"flag": "--c"}],
        "image": "two",
    }


def test_what_is_removed_is_left_out() -> None:
    assert merge({"unset": [{"name": "A"}, {"name": "B"}]}, {"remove": ["A"]}) == {"unset": [{"name": "B"}]}


def test_a_pre_release_has_all_of_its_family_but_what_is_gone() -> None:
    old, new = PROFILES["vllm-ascend-0.23"], PROFILES["vllm-ascend-0.26rc"]
    assert (old.pre_release, new.pre_release) == (False, True)
    assert {item.name for item in old.unset} - {item.name for item in new.unset} == {
        "VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE",
        "VLLM_ASCEND_FLASHCOMM2_PARALLEL_SIZE",
    }
    assert {item.name for item in old.symbols} - {item.name for item in new.symbols} == {
        "vllm_ascend.ascend_config._ASCEND_CONFIG.ascend_compilation_config.fuse_allreduce_rms"
    }


def test_a_vllm_ascend_engine_is_not_ready_without_its_own_processes() -> None:
    for name in ("vllm-ascend-0.23", *PRE_RELEASES):
        assert PROFILES[name].pre_release == (name != "vllm-ascend-0.23")
        assert PROFILES[name].processes == ("guard", "api-server", "engine-core")
        assert PROFILES[name].worker


def test_what_proves_nothing_in_a_release_is_not_attested_there() -> None:
    """From 0.28.0rc1 on no RMSNorm calls the norm that batch invariance replaces."""
    for name in ("vllm-ascend-0.23", *PRE_RELEASES):
        profile, late = PROFILES[name], name >= "vllm-ascend-0.28rc"
        assert ("torch_npu.npu_add_rms_norm" in {item.name for item in profile.symbols}) == (not late), name
        assert ("rms-norm" in {item.name for item in profile.gaps}) == late, name


def test_mixed_batches_are_closed_from_the_release_on_that_computes_them_apart() -> None:
    for name in ("vllm-ascend-0.23", *PRE_RELEASES):
        (gap,) = (item for item in PROFILES[name].gaps if item.name == "mixed-batches")
        assert (gap.closure is not None) == (name >= "vllm-ascend-0.27rc"), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inherits": "vllm-ascend-0.2"}, ["inherits 'vllm-ascend-0.2'", "simulated"]),
        ({"inherits": "mine"}, ["inherits 'mine'", "none of"]),
        ({"usesDevices": None}, ["mine", "usesDevices"]),
        ({"argumens": []}, ["argumens", "Extra inputs"]),
        ({"processes": []}, ["processes", "at least 1"]),
        (
            {"variables": [{"name": "A", "value": "1", "reason": "no source here"}]},
            ["variables.9.source", "Field required"],
        ),
        (
            {"variables": [{"name": "A", "value": "1", "reason": "short", "source": "vllm a | b"}]},
            ["variables.9.reason"],
        ),
        ({"variables": [{"name": "A", "value": "1", "reason": "long enough", "source": "somewhere"}]}, ["source"]),
        ({"podVariables": [{"name": "A", "reason": "long enough"}]}, ["exactly one of value and field"]),
        ({"podVariables": [{"name": "HCCL_ALGO", "value": "x", "reason": "long enough"}]}, ["HCCL_ALGO", "twice"]),
        ({"allowedFlags": [{"flag": "--dtype", "reason": "long enough"}]}, ["--dtype", "locked too"]),
        ({"allowedFlags": [{"flag": "--enable-lora", "reason": "long enough"}]}, ["--enable-lora", "locked too"]),
        ({"allowedVariables": [{"name": "HCCL_ALGO", "reason": "long enough"}]}, ["HCCL_ALGO", "locked too"]),
        ({"allowedVariables": [{"name": "VLLM_API_KEY", "reason": "long enough"}]}, ["VLLM_API_KEY", "locked too"]),
    ],
)
def test_a_profile_that_is_none_is_refused_by_name(change: dict[str, Any], words: list[str]) -> None:
    site = {"name": "mine", "inherits": "simulated"} | change
    with pytest.raises(ProfileError) as error:
        with_site([site])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_site_adds_a_profile_and_changes_one_of_ours_and_nothing_else() -> None:
    variable = {"name": "HCCL_SOCKET_IFNAME", "value": "bond0", "reason": "our interface", "source": "document Us | x"}
    profiles = with_site(
        [
            {"name": "vllm-ascend-0.23", "inherits": "vllm-ascend-0.23", "variables": [variable]},
            {"name": "mine", "inherits": "vllm-ascend-0.23", "image": "registry.example/mine:1"},
        ]
    )
    values = {item.name: item.value for item in profiles["vllm-ascend-0.23"].variables}
    assert values["HCCL_SOCKET_IFNAME"] == "bond0"
    assert values["HCCL_DETERMINISTIC"] == "strict"
    assert profiles["mine"].image == "registry.example/mine:1"
    assert {item.name: item.value for item in profiles["mine"].variables}["HCCL_SOCKET_IFNAME"] == "bond0"
    assert profiles["simulated"] == PROFILES["simulated"]
    assert {item.name: item.value for item in PROFILES["vllm-ascend-0.23"].variables}["HCCL_SOCKET_IFNAME"] == "eth0"


def test_a_profile_without_a_name_is_refused() -> None:
    with pytest.raises(ProfileError, match="without a name"):
        with_site([{"inherits": "simulated"}])


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(ProfileError, match="line 2: name stands twice"):
        yaml.load("a: 1\nb: {name: x, name: y}\n", Loader)  # noqa: S506 - a safe loader


def test_reading_changes_nothing_that_was_written() -> None:
    before = copy.deepcopy(SHIPPED)
    read(SHIPPED)
    resolve(SHIPPED, "vllm-ascend-0.26rc")
    assert before == catalogue.SHIPPED
