"""Listening for everybody: over IPv4, IPv6 or both, whatever the cluster has.

``::`` takes both where the kernel has IPv6: what comes over IPv4 has a mapped address (``::ffff:10.0.0.1``). vLLM binds
a plain socket of that family (``create_server_socket`` in ``vllm/entrypoints/openai/api_server.py``), and a new network
namespace has ``net.ipv6.bindv6only=0``, so that it takes both there too. A kernel without IPv6 has no such socket.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

EVERY = "::"
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - a pod serves on its own addresses
BACKLOG = 128


def has_both() -> bool:
    """Return whether a plain socket that is bound to ``::`` takes IPv4 too."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind((EVERY, 0))
            return not tried.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False


def possible(host: str) -> str:
    """Return a host to be bound: ``0.0.0.0`` in the place of ``::`` where that does not take both."""
    return EVERY_IPV4 if host == EVERY and not has_both() else host


def served_possibly(command: Sequence[str]) -> list[str]:
    """Return an engine's command line with ``--host`` as this kernel can do it."""
    found = list(command)
    for place in range(1, len(found)):
        if found[place - 1] == "--host":
            found[place] = possible(found[place])
    return found


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens; on ``::``, for both families.

    Raises:
        OSError: where the address is taken, or is none of this machine.
    """
    host = possible(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        yield listener
