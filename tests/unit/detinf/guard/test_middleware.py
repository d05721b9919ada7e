"""The boot in every HTTP answer, and nothing else touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from detinf.guard.middleware import RequestFilter

BOOT = "b" * 32
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END = {"type": "http.response.body", "body": b"y"}


async def answers(scope: dict[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what reaches the server when an application sends these messages."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def app(seen: Any, seen_receive: Any, seen_send: Any) -> None:
        assert seen is scope
        assert seen_receive is receive
        assert (seen_send is send) == (scope["type"] != "http")
        for message in copy.deepcopy(messages):
            await seen_send(message)

    await RequestFilter(app)(scope, receive, send)
    return sent


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETINF_BOOT", BOOT)


async def test_plain_answer_gets_the_boot_behind_its_own_headers() -> None:
    headers = [(b"content-type", b"text/plain"), (b"x-detinf-boot", BOOT.encode())]
    assert await answers({"type": "http"}, [START, END]) == [{**START, "headers": headers}, END]


async def test_answer_without_headers_gets_the_boot() -> None:
    sent = await answers({"type": "http"}, [{"type": "http.response.start", "status": 204}, END])
    assert sent == [{"type": "http.response.start", "status": 204, "headers": [(b"x-detinf-boot", BOOT.encode())]}, END]


async def test_stream_gets_the_boot_once_and_its_parts_are_untouched() -> None:
    parts = [{"type": "http.response.body", "body": part, "more_body": True} for part in (b"a", b"b", b"")]
    sent = await answers({"type": "http"}, [START, *parts, END])
    assert sent[0]["headers"].count((b"x-detinf-boot", BOOT.encode())) == 1
    assert sent[1:] == [*parts, END]


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("websocket", [{"type": "websocket.accept"}, {"type": "websocket.send", "text": "x"}]),
        ("lifespan", [{"type": "lifespan.startup.complete"}]),
    ],
)
async def test_other_scopes_pass_untouched(kind: str, messages: list[dict[str, Any]]) -> None:
    assert await answers({"type": kind}, messages) == messages


async def test_error_of_the_application_is_its_own() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise KeyError("of the application")

    with pytest.raises(KeyError, match="of the application"):
        await RequestFilter(app)({"type": "http"}, app, app)  # type: ignore[arg-type]
