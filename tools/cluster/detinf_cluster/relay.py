"""Two halves of a forwarder: a loopback port outside, a unix socket between, the API server's address inside.

A unix socket is a file, so it crosses network namespaces; nothing else of the cluster's network is on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    await asyncio.gather(_pump(reader, other[1]), _pump(other[0], writer))


async def listen_inside(path: Path, host: str, port: int) -> None:
    """Accept on a unix socket, and connect to an address of this network namespace."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await _join(reader, writer, other)

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served
    server = await asyncio.start_unix_server(accept, str(path))
    async with server:
        await server.serve_forever()


async def listen_outside(descriptor: int, path: Path) -> None:
    """Accept on a socket that listens already, and connect to a unix socket."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_unix_connection(str(path))
        except OSError:
            writer.close()
            return
        await _join(reader, writer, other)

    server = await asyncio.start_server(accept, sock=socket.socket(fileno=descriptor))
    async with server:
        await server.serve_forever()
