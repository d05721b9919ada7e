"""The canonical encoding and the fingerprint: golden vectors, since other bytes would be another identity for all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.guard.canonical import MAX_INTEGER, CanonicalError, digest, encode, hex_of, short
from detinf.guard.devices import Devices
from detinf.guard.identity import fingerprint, identity, placement
from detinf.guard.middleware import BootHeader
from detinf.guard.plan import Plan

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": 1, "a": [True, None, "ü"]}, '{"a":[true,null,"ü"],"b":1}'),
        ({"z": {"y": 1, "x": 2}}, '{"z":{"x":2,"y":1}}'),
        ([], "[]"),
    ],
)
def test_golden_bytes(value: Any, data: str) -> None:
    assert encode(value) == data.encode()


def test_golden_digest() -> None:
    assert digest({"a": 1}) == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert short(digest({"a": 1})) == "015abd7f5c"
    assert len(hex_of(digest({"a": 1}))) == 64


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "is a float"),
        ({"a": [0.1]}, r"\$\.a\[0\]"),
        ({1: 2}, "is not a string"),
        (2**53, "carry it as a string"),
        ({"a": {1, 2}}, "set has no JSON form"),
    ],
)
def test_value_without_a_canonical_form_is_refused_with_its_path(value: Any, words: str) -> None:
    with pytest.raises(CanonicalError, match=words):
        encode(value)


@given(JSON)
def test_encoding_is_read_back_and_encodes_again_to_the_same_bytes(value: Any) -> None:
    data = encode(value)
    assert json.loads(data) == value
    assert encode(json.loads(data)) == data


PLAN = Plan("sha256:0", {"image": "i", "topology": {"devices": 8}})
TREE = Devices(tuple(range(8)), "910B3", 64, "25.5.1", "7.8.0.6.201", "HCCS")


def made(plan: Plan = PLAN, tree: Devices = TREE, config: str = "sha256:c", **packages: str) -> str:
    return fingerprint(identity(plan, tree, model_config=config, packages=packages or {"vllm": "0.23.0"}))


def test_what_can_change_a_number_changes_the_fingerprint() -> None:
    others = {
        made(plan=Plan("sha256:0", {"image": "j", "topology": {"devices": 8}})),
        made(config="sha256:d"),
        made(vllm="0.23.1"),
        *(
            made(tree=Devices(ids, *values))
            for ids, values in (
                (range(7), ("910B3", 64, "25.5.1", "7.8.0.6.201", "HCCS")),
                (range(8), ("910B4", 64, "25.5.1", "7.8.0.6.201", "HCCS")),
                (range(8), ("910B3", 32, "25.5.1", "7.8.0.6.201", "HCCS")),
                (range(8), ("910B3", 64, "25.5.2", "7.8.0.6.201", "HCCS")),
                (range(8), ("910B3", 64, "25.5.1", "7.8.0.6.202", "HCCS")),
                (range(8), ("910B3", 64, "25.5.1", "7.8.0.6.201", "SYS")),
            )
        ),
    }
    assert len(others | {made()}) == 10


def test_where_it_runs_is_recorded_and_not_hashed() -> None:
    moved = Devices(tuple(range(8, 16)), "910B3", 64, "25.5.1", "7.8.0.6.201", "HCCS", bus_ids=("x",))
    assert made(tree=moved) == made()
    assert placement(moved, "node-b") == {"node": "node-b", "physicalIds": list(range(8, 16)), "busIds": ["x"]}


async def test_middleware_adds_the_boot_to_http_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETINF_BOOT", "b" * 32)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b"y"})
        else:
            await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    wrapped = BootHeader(app)
    await wrapped({"type": "http"}, receive, send)
    await wrapped({"type": "websocket"}, receive, send)
    assert sent[0]["headers"] == [(b"a", b"1"), (b"x-detinf-boot", b"b" * 32)]
    assert [message.get("body") for message in sent[1:3]] == [b"x", b"y"]
    assert sent[3] == {"type": "websocket.accept"}
