"""Every variable is the plan's, the guard's, unrecorded by name or part of the fingerprint: there is no fifth kind."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from attesting_engine import Stage, run
from hypothesis import given
from hypothesis import strategies as st

from detinf.api.types import EnvironmentVariable
from detinf.engines.catalogue import PROFILES, read, shipped
from detinf.engines.profile import Profile
from detinf.engines.refusals import refused_variables
from detinf.guard import variables
from detinf.guard.canonical import digest
from detinf.guard.variables import OWN, recorded, unrecorded
from detinf.probe.attested import Attested

PLANNED = {"VLLM_BATCH_INVARIANT": "1"}
PATTERNS = ["VLLM_LOGGING_LEVEL", "HOME=/tmp", "KUBERNETES_PORT_*"]
NAMES = st.binary(min_size=1, max_size=4).filter(lambda data: not {0, ord("=")} & set(data))
VALUES = st.binary(max_size=6).filter(lambda data: 0 not in data)
ENVIRONMENTS = st.dictionaries(NAMES, VALUES, max_size=4).map(
    lambda found: {os.fsdecode(name): os.fsdecode(value) for name, value in found.items()}
)
"""As a process can have them: bytes, which Python shows as text."""
each_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_two_environments_that_differ_are_recorded_differently(first: dict[str, str], second: dict[str, str]) -> None:
    seen = [recorded(environment, {}) for environment in (first, second)]
    assert (seen[0] == seen[1]) == (first == second)
    assert digest(seen[0]).startswith("sha256:")


def test_variable_of_each_kind_is_where_it_belongs() -> None:
    environment = {
        "VLLM_BATCH_INVARIANT": "0",
        "DETINF_BOOT": "f" * 32,
        "POD_NAME": "a-0",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "HOME": "/tmp",
        "KUBERNETES_PORT_443_TCP": "tcp://10.0.0.1:443",
        "LCCL_PARALLEL": "1",
        "PATH": "/usr/bin",
        "KUBERNETES": "1",
        "DETINF_OTHER": "1",
    }
    assert recorded(environment, PLANNED, PATTERNS) == {
        "LCCL_PARALLEL": "1",
        "PATH": "/usr/bin",
        "KUBERNETES": "1",
        "DETINF_OTHER": "1",
    }
    assert recorded({"HOME": "/elsewhere"}, PLANNED, PATTERNS) == {"HOME": "/elsewhere"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "hf_abc"),
        ("VLLM_API_KEY", "abc"),
        ("aws_secret_access", "abc"),
        ("HTTPS_PROXY", "http://user:word@proxy:3128"),
        ("LS_COLORS", "x" * 5000),
        ("LATIN", "\udce9"),
        ("DIGEST_LIKE", "sha256:" + "0" * 64),
    ],
)
def test_value_that_may_be_secret_long_or_no_text_is_recorded_by_digest(name: str, value: str) -> None:
    seen = recorded({name: value}, {})
    assert list(seen) == [name]
    assert seen[name].startswith("sha256:")
    assert seen[name] != value
    assert value not in json.dumps(seen)
    assert recorded({name: value + "1"}, {}) != seen
    assert recorded({name + "_TOKEN": value}, {})[name + "_TOKEN"] != seen[name]


def test_name_that_is_no_text_is_recorded_and_is_no_others() -> None:
    assert recorded({"\udce9": "1"}, {}) == {"=e9": "1"}


@each_profile
def test_what_admission_takes_changes_nothing_or_is_seen_and_what_it_refuses_is_seen_or_each_pods_own(
    profile: Profile,
) -> None:
    """One rule with one source: ``engine.env`` and a container's variables are held against the same lists."""
    allowed = {item.name for item in profile.allowed_variables}
    told = {item.name for item in profile.allowed_variables if item.recorded}
    by_pod = {name for group in profile.unrecorded_variables for name in group.names}
    fields = {item.name for item in profile.pod_variables if item.value is None}
    constant = {f"{item.name}={item.value}" for item in profile.pod_variables if item.value is not None}
    assert set(profile.unrecorded) == (allowed - told) | by_pod | fields | constant
    locked = {name.rstrip("*") + "X" * name.endswith("*") for group in profile.locked_variables for name in group.names}
    for name in sorted(allowed | locked | fields | {name.rstrip("*") for name in by_pod} | {"LCCL_PARALLEL", "NEW"}):
        refused = refused_variables([EnvironmentVariable(name=name, value="1")], profile)
        seen = name in recorded({name: "1"}, {}, profile.unrecorded)
        assert bool(refused) != (name in allowed), name
        mine = name in fields or name in OWN or any(unrecorded(name, "1", [item]) for item in by_pod)
        assert seen == ((bool(refused) or name in told) and not mine), name


def test_site_names_what_each_pod_has_of_its_own_and_that_is_another_plan() -> None:
    entry = {
        "names": ["OTEL_RESOURCE_ATTRIBUTES"],
        "reason": "the pod's name, which a webhook writes",
        "source": 'document "our webhook" | it names the pod',
    }
    site = {"inherits": "vllm-ascend-0.23", "name": "site", "unrecordedVariables": [entry]}
    profile = read({**shipped(), "site": site})["site"]
    assert set(profile.unrecorded) - set(PROFILES["vllm-ascend-0.23"].unrecorded) == {"OTEL_RESOURCE_ATTRIBUTES"}
    assert recorded({"OTEL_RESOURCE_ATTRIBUTES": "pod=a-0"}, {}, profile.unrecorded) == {}


def test_what_each_pod_has_of_its_own_is_refused_by_admission_with_its_reason() -> None:
    (problem,) = refused_variables([EnvironmentVariable(name="HOSTNAME", value="x")], PROFILES["vllm-ascend-0.23"])
    assert "each pod has its own: the pod's name" in str(problem.remedy)


@pytest.mark.parametrize(
    ("name", "value"), [("LCCL_PARALLEL", "1"), ("LD_PRELOAD", ""), ("PATH_OF_NOBODY", "x"), ("VLLM_PORT", "tcp://x")]
)
def test_variable_of_the_container_changes_the_attested_fingerprint(place: Any, name: str, value: str) -> None:
    before = place.lifetime()
    place.environment[name] = value
    seen = place.lifetime()
    assert seen.fingerprint != before.fingerprint
    assert seen.fingerprint == seen.expected_fingerprint
    assert seen.identity["environment"][name] == value
    place.environment["POD_NAME"] = "another"
    assert place.lifetime().fingerprint == seen.fingerprint


@pytest.mark.parametrize("name", ["HCCL_ALGO", "VLLM_BATCH_INVARIANT", "OF_NOBODY", "NO_TEXT_\udce9"])
def test_bytes_that_are_no_text_stop_nothing_and_are_told(place: Any, name: str) -> None:
    place.environment[name] = "ring\udce9"
    seen = place.lifetime()
    recorded_name = variables.name_written(name)
    if name in {"HCCL_ALGO", "VLLM_BATCH_INVARIANT"}:
        assert seen.overridden == {"container": {name: "ring\\xe9"}}
    else:
        assert seen.identity["environment"][recorded_name].startswith("sha256:")


def test_variable_that_is_unrecorded_changes_nothing(place: Any) -> None:
    place.write_plan(lambda plan: plan["environment"]["unrecorded"].extend(["KUBERNETES_PORT_*", "A=1"]))
    before = place.lifetime()
    place.environment |= {"HOSTNAME": "a-0", "KUBERNETES_PORT_443_TCP": "x", "A": "1", "NODE_NAME": "n"}
    assert place.lifetime().fingerprint == before.fingerprint
    place.environment["A"] = "2"
    assert place.lifetime().fingerprint != before.fingerprint


def test_variable_that_is_set_between_guard_and_engine_ends_the_engine_and_is_named(stage: Stage) -> None:
    engine = stage.environment["PYTHONPATH"]
    stage.place.write_launcher(f'export LCCL_PARALLEL=1\nexec {stage.place.python} -S {engine}/serve.py "$@"')
    outcome = run(stage)
    assert not outcome.served
    assert "api-server: environment: LCCL_PARALLEL is '1', expected unset; remove whatever sets it" in outcome.words


def test_variable_that_a_worker_sets_by_itself_is_recorded_and_not_compared_between_ranks(stage: Stage) -> None:
    stage.wrong = {"environment": {"1": {"VLLM_DIST_IDENT": "4711"}}}
    seen: dict[str, Any] = {}

    def note(stage: Stage) -> None:
        for process in ("worker-0", "worker-1"):
            path = stage.folder / "shared" / f"attestation-{process}.json"
            seen[process] = json.loads(path.read_bytes())["observed"]

    assert isinstance(run(stage, note).attested, Attested)
    assert seen["worker-1"]["environment.VLLM_DIST_IDENT"] == '"4711"'
    assert "environment.VLLM_DIST_IDENT" not in seen["worker-0"]


def test_recorded_environments_that_differ_are_told_by_name() -> None:
    assert variables.problems({"A": "1"}, {"B": "2"}) == [
        f"environment: {words}; remove whatever sets it between the guard and the engine"
        for words in ("A is unset, expected '1'", "B is '2', expected unset")
    ]
