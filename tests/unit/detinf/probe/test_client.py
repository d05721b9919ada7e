"""The client's connections."""

from __future__ import annotations

import asyncio

import pytest

from detinf.documents import Reference
from detinf.probe import client
from detinf.probe.reasons import InconclusiveError, Reason

REFERENCE = Reference(name="a", prompt_ids=[1, 2, 3], max_tokens=2, temperature_milli=0, seed=0)


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, and close the connection just when its next request comes, as a server does that was patient enough."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()
    await reader.read(1)
    writer.close()


async def test_idle_connection_that_the_engine_closes_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEEP_ALIVE_SECONDS", 0.01)
    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with client.EngineClient(f"http://127.0.0.1:{port}", "m", boot=None) as engine:
            first = await engine.ask(REFERENCE)
            await asyncio.sleep(0.05)  # longer than the client keeps a connection
            second = await engine.ask(REFERENCE)
    # Both were answered, with nothing that could be read; a lost request is Reason.TRANSPORT.
    answers = [answer.reason for answer in (first, second) if isinstance(answer, InconclusiveError)]
    assert answers == [Reason.SHAPE, Reason.SHAPE]
