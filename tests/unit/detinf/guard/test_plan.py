"""Whatever stands in a plan's place is refused in one line, or is a plan that every check can be asked about."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from detinf.api.types import Spec
from detinf.documents import PlanTopology
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import build_plan
from detinf.guard import devices, environment, files, identity, manifest, model_files, packages, templates
from detinf.guard.errors import RefusedError
from detinf.guard.expectations import check_configuration, check_symbols
from detinf.guard.plan import Plan, check_command, read_plan

ROOT = Path(__file__).resolve().parents[4]
SPEC = Spec.model_validate(yaml.safe_load((ROOT / "examples" / "vllm-ascend.yaml").read_text())["spec"])
WHOLE = json.loads(
    build_plan(SPEC, PROFILES["vllm-ascend-0.23"], "image", PlanTopology(devices=8, link="HCCS")).canonical()
)
"""A plan that uses nearly every field that there is."""

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key and item."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


PLACES = sorted(places(WHOLE), key=str)


def with_other(path: tuple[Any, ...], other: Any) -> Any:
    document = copy.deepcopy(WHOLE)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = other
    return document


def ask_every_check(plan: Plan, folder: Path) -> None:
    """Ask what the guard and the plug-in ask of a plan; a refusal is an answer."""
    for name in dir(Plan):
        getattr(plan, name)
    questions = (
        lambda: check_command(plan, ["vllm", "serve", plan.model_path, *plan.arguments]),
        lambda: environment.engine_environment(plan, {}, {}, "/guard"),
        lambda: devices.check(plan.topology, devices.Devices(())),
        lambda: files.digests(plan.files, {"ASCEND_OPP_PATH": "/opp"}, folder),
        lambda: packages.check_packages(plan.packages, packages.Installed(), {}),
        lambda: identity.identity(plan, devices.Devices(()), model_config="", packages=packages.Installed()),
        lambda: manifest.check(folder, plan.manifest_digest),
        lambda: templates.check(folder, plan.arguments, {}),
        lambda: model_files.named(plan.arguments, folder, folder),
        lambda: check_symbols(plan.symbols, {}),
        lambda: check_configuration(plan.configuration, object()),
    )
    for ask in questions:
        with contextlib.suppress(RefusedError):
            ask()


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), ANY_JSON)
@example(("attestation", "symbols"), 7)
@example(("attestation", "symbols"), {"name": "torch.sum", "values": ["1"]})
@example(("attestation", "worker"), [])
@example(("attestation", "failureLines"), "a line")
@example(("model", "path"), "/models/\0")
@example(("model", "manifestDigest"), 7)
@example(("environment", "scripts"), ["/\0"])
@example(("environment", "unset"), None)
@example(("topology", "hbmGiB"), [])
def test_plan_with_anything_in_it_is_refused_or_can_be_asked(tmp_path: Path, path: tuple[Any, ...], other: Any) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(with_other(path, other)))
    (tmp_path / "config.json").write_text('{"vocab_size": 9}')
    refused: list[str] = []
    try:
        ask_every_check(read_plan(tmp_path / "plan.json"), tmp_path)
    except RefusedError as error:
        refused.append(str(error))
    assert [words for words in refused if not words.startswith("plan: ") or "\n" in words] == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_bytes_for_a_plan_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(data)
    with pytest.raises(RefusedError, match=r"^plan: "):
        read_plan(tmp_path / "plan.json")


def test_whole_plan_is_read_and_can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(WHOLE))
    (tmp_path / "config.json").write_text('{"vocab_size": 9}')
    plan = read_plan(tmp_path / "plan.json")
    assert plan.symbols
    assert plan.configuration
    assert plan.failure_lines
    ask_every_check(plan, tmp_path)
