"""The canonical encoding and the fingerprint: golden vectors, since other bytes would be another identity for all."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from detinf.documents import Plan as PlanDocument
from detinf.guard import identity as identity_module
from detinf.guard.canonical import MAX_INTEGER, CanonicalError, digest, encode, hex_of, short
from detinf.guard.devices import Devices
from detinf.guard.identity import fingerprint, identity, instruction_sets, placement
from detinf.guard.packages import Installed
from detinf.guard.plan import Plan

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN["encodings"], ids=lambda case: case["name"])
def test_golden_bytes(case: Any) -> None:
    data = bytes.fromhex(case["bytes"])
    assert encode(case["value"]) == data
    assert digest(case["value"]) == case["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()


def test_golden_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = GOLDEN["fingerprint"]
    major, minor = vector["python"].split(".")
    monkeypatch.setattr(identity_module, "sys", SimpleNamespace(version_info=(int(major), int(minor))))
    plan = Plan("sha256:of the file, which is not hashed again", vector["plan"])
    tree = Devices(tuple(vector["devices"].pop("physical_ids")), **vector["devices"])
    tier_n = identity(
        plan, tree, model_config=vector["modelConfig"], packages=Installed(vector["packages"], vector["builds"])
    )
    assert tier_n == vector["tierN"]
    assert fingerprint(tier_n) == vector["digest"]


def test_parts_of_a_digest_are_names() -> None:
    whole = digest({"a": 1})
    assert whole == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert short(whole) == "015abd7f5c"
    assert hex_of(whole) == whole[len("sha256:") :]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "is a float"),
        ({"a": [0.1]}, r"\$\.a\[0\]"),
        ({1: 2}, "is not a string"),
        (2**53, "carry it as a string"),
        (-(2**53), "carry it as a string"),
        (float("nan"), "is a float"),
        (-0.0, "is a float"),
        ({"a": {1, 2}}, "set has no JSON form"),
        ([b"a"], r"\$\[0\]: bytes has no JSON form"),
        ({"a": ["\ud800"]}, r"\$\.a\[0\]: '\\ud800' holds half a surrogate pair"),
        ({"\udfff": 1}, r"\$ \(a key\): '\\udfff' holds half"),
    ],
)
def test_value_without_a_canonical_form_is_refused_with_its_path(value: Any, words: str) -> None:
    with pytest.raises(CanonicalError, match=words):
        encode(value)


def test_value_without_a_bottom_in_sight_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(CanonicalError, match="nested too deeply"):
        encode(value)


def typed(value: Any) -> Any:
    """Return a value that compares as JSON does: True is not 1, and the order of keys says nothing."""
    if isinstance(value, dict):
        return ("object", frozenset((key, typed(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(typed(item) for item in value))
    return (type(value).__name__, value)


def shuffled(value: Any, order: random.Random) -> Any:
    """Return the same JSON value, its keys written in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, order)) for key, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(JSON)
def test_encoding_is_read_back_and_encodes_again_to_the_same_bytes(value: Any) -> None:
    data = encode(value)
    assert typed(json.loads(data)) == typed(value)
    assert encode(json.loads(data)) == data


@settings(deadline=None)
@given(JSON, st.randoms(use_true_random=False))
def test_order_of_keys_and_tuples_for_lists_change_no_byte(value: Any, order: random.Random) -> None:
    assert encode(shuffled(value, order)) == encode(value)
    if isinstance(value, list):
        assert encode(tuple(value)) == encode(value)


@settings(deadline=None)
@given(JSON, JSON)
def test_two_values_share_bytes_only_if_they_are_one_value(first: Any, second: Any) -> None:
    assert (encode(first) == encode(second)) == (typed(first) == typed(second))


@settings(deadline=None)
@given(JSON, st.floats())
def test_float_is_refused_wherever_it_is(value: Any, number: float) -> None:
    for holder in ([value, number], {"a": {"b": [value, [number]]}}):
        with pytest.raises(CanonicalError, match="is a float"):
            encode(holder)


def filled(annotation: Any) -> Any:
    """Return a value for a field of the plan: every field of it has one, whichever are added later."""
    origin, inner = (
        typing.get_origin(annotation),
        [item for item in typing.get_args(annotation) if item is not NoneType],
    )
    if origin is typing.Literal:
        return inner[0]
    if origin is list:
        return [filled(inner[0])]
    if origin is dict:
        return {"key": filled(inner[1])}
    if origin is not None:
        return filled(inner[0])
    if issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        return {field.alias or name: filled(field.annotation) for name, field in fields.items()}
    return {str: "text", int: 7, bool: True}[annotation]


def others(value: Any) -> Iterator[Any]:
    """Yield the value with one change each: every leaf another, and every key or item left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield {name: kept for name, kept in value.items() if name != key}
            for other in others(item):
                yield value | {key: other}
    elif isinstance(value, list):
        yield value[1:]
        for other in others(value[0]):
            yield [other, *value[1:]]
    elif isinstance(value, Installed):
        yield from (dataclasses.replace(value, versions=other) for other in others(value.versions))
        yield from (dataclasses.replace(value, builds=other) for other in others(value.builds))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    else:
        yield f"{value}!"


PLAN = Plan("sha256:0", filled(PlanDocument))
TREE = Devices(tuple(range(8)), "910B3", 64, "25.5.1", "7.8.0.6.201", "HCCS", bus_ids=("0000:C1:00.0",))
REST = {
    "model_config": "sha256:c",
    "packages": Installed({"vllm": "0.23.0", "torch": "2.10.0"}, {"vllm": "sha256:r", "torch": "sha256:s"}),
    "variables": {"LCCL_PARALLEL": "1", "PATH": "/usr/bin"},
    "files": {"kernels": "sha256:f"},
    "toolkit": {"cann": "9.1.0"},
    "model_files": "sha256:m",
    "argument_files": {"/t.jinja": "sha256:t"},
}


def made(plan: Plan = PLAN, tree: Devices = TREE, **rest: Any) -> str:
    return fingerprint(identity(plan, tree, **(REST | rest)))


def test_every_field_of_the_plan_changes_the_fingerprint() -> None:
    plans = [document for document in others(PLAN.document) if "topology" in document]  # without it nothing starts
    assert len(plans) > 80  # two for each field, nested ones included
    assert len({made(plan=Plan("sha256:0", document)) for document in plans} | {made()}) == len(plans) + 1


def test_everything_that_the_guard_reads_beside_the_plan_changes_the_fingerprint() -> None:
    inputs = set(inspect.signature(identity).parameters) - {"plan", "devices"}
    assert inputs == set(REST)
    read = [{name: other} for name, value in REST.items() for other in others(value)]
    assert len({made(**change) for change in read} | {made()}) == len(read) + 1


NEVER_HASHED = {"bus_ids", "unhealthy", "listed", "silent"}
"""Of the device tree: where a device is, that it is sick, and what npu-smi does not tell, whereupon nothing starts."""


def test_every_item_of_the_device_tree_is_hashed_or_known_to_be_where_and_not_what() -> None:
    for item in dataclasses.fields(Devices):
        value = getattr(TREE, item.name)
        change = value[1:] if item.name == "physical_ids" else ("other",) if isinstance(value, tuple) else f"{value}!"
        differs = made(tree=dataclasses.replace(TREE, **{item.name: change})) != made()
        assert differs == (item.name not in NEVER_HASHED), item.name


def test_interpreter_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made()
    monkeypatch.setattr(identity_module, "python_version", lambda: "3.99")
    assert made() != before


def test_where_it_runs_is_recorded_and_not_hashed() -> None:
    moved = dataclasses.replace(TREE, physical_ids=tuple(range(8, 16)), bus_ids=("x",))
    assert made(tree=moved) == made()
    assert placement(moved, "node-b") == {
        "node": "node-b",
        "physicalIds": list(range(8, 16)),
        "busIds": ["x"],
        "driver": "25.5.1",
        "firmware": "7.8.0.6.201",
    }


def test_processor_is_identity_only_where_it_does_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["avx2"]
    monkeypatch.setattr(identity_module, "instruction_sets", lambda: found)
    with_processor, with_npus = made(tree=Devices(())), made()
    found.append("avx512f")
    assert made(tree=Devices(())) != with_processor
    assert made() == with_npus


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx avx2 fma sse\n\nprocessor\t: 1\nflags\t\t: fpu avx\n",
            ["avx", "avx2", "fma"],
        ),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm sve\n", ["asimd", "sve"]),
        ("vmx flags\t: avx\nmodel name\t: avx2\n", []),
        ("flags", []),
    ],
)
def test_instruction_sets_are_those_that_choose_a_kernel(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert instruction_sets(tmp_path / "cpuinfo") == found
    assert instruction_sets(tmp_path / "missing") == []
