"""The chart's settings: what is unknown or impossible is refused with the value to correct."""

from typing import Any

import pytest

from detinf.controller.settings import OperatorSettings, SettingsError, parse

SMALLEST = {"probeImage": "probe:1"}


def test_the_smallest_file_gives_the_defaults_of_the_settings() -> None:
    assert parse(SMALLEST) == OperatorSettings(probe_image="probe:1")


def test_the_file_as_the_chart_writes_it_is_read_whole() -> None:
    settings = parse(
        {
            "probeImage": "probe:1",
            "imagePullPolicy": "Never",
            "imagePullSecrets": [{"name": "mirror"}],
            "defaultProfile": "simulated",
            "profileImages": {"vllm-cpu-0.32": "cpu:1"},
            "hostPathPrefixes": ["/data"],
            "soloIntervalSeconds": 5,
            "widthIntervalSeconds": 6,
            "staleAfterSeconds": 7,
            "gateTimeoutSeconds": 8,
        }
    )
    assert settings == OperatorSettings(
        probe_image="probe:1",
        image_pull_policy="Never",
        image_pull_secrets=("mirror",),
        default_profile="simulated",
        profile_images={"vllm-cpu-0.32": "cpu:1"},
        host_path_prefixes=("/data",),
        solo_interval_seconds=5,
        width_interval_seconds=6,
        stale_after_seconds=7,
        gate_timeout_seconds=8,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probeImage": ""}, ["probeImage", "''"]),
        ({"probeImages": "x"}, ["probeImages", "the settings are probeImage, "]),
        ({"imagePullPolicy": "Sometimes"}, ["imagePullPolicy", "'Sometimes'", "IfNotPresent"]),
        ({"soloIntervalSeconds": 0}, ["soloIntervalSeconds", "got 0"]),
        ({"defaultProfile": "vllm-ascend-0.18"}, ["'vllm-ascend-0.18'", "simulated, vllm-ascend-0.23"]),
        ({"profileImages": {"simulatd": "a:1"}}, ["'simulatd'", "engine.images"]),
        ({"hostPathPrefixes": ["data"]}, ["hostPathPrefixes", "'data'", "models.hostPathPrefixes"]),
        ({"hostPathPrefixes": ["/data/.."]}, ["hostPathPrefixes", "'/data/..'"]),
        ({"hostPathPrefixes": ["/"]}, ["hostPathPrefixes", "'/'", "not the whole node"]),
    ],
)
def test_an_impossible_value_is_refused_with_field_value_and_remedy(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(SMALLEST | change)
    assert [word for word in words if word not in str(raised.value)] == []
