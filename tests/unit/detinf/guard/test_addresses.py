"""What listens is reached over IPv4, over IPv6 and over both: real sockets in network namespaces of either kind."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from detinf.controller import process
from detinf.controller.exported import Exported
from detinf.controller.health import Health
from detinf.guard import addresses
from detinf.guard.addresses import listening, possible, served_possibly
from detinf.probe import port
from published import VLLM, source

NETWORKS = {
    # What the pod's network has, and over which addresses it has to be reached.
    "IPv4 alone": ("ip addr add 10.0.0.1/32 dev lo; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", "10.0.0.1"),
    "IPv6 alone": ("ip -6 addr add fd00::1/128 dev lo nodad", "fd00::1"),
    "both": ("ip addr add 10.0.0.1/32 dev lo; ip -6 addr add fd00::1/128 dev lo nodad", "10.0.0.1 fd00::1"),
}
REACH = """
import socket, sys
from detinf.guard.addresses import listening
with listening("::", 0) as ours, socket.socket(socket.AF_INET6) as theirs:
    theirs.bind(("::", 0))  # as vLLM does
    theirs.listen()
    for listener in (ours, theirs):
        for address in sys.argv[1:] + ["127.0.0.1"]:
            socket.create_connection((address, listener.getsockname()[1]), timeout=10).close()
            listener.accept()[0].close()
print("reached")
"""


@pytest.mark.parametrize("network", NETWORKS)
def test_everybody_is_reached_on_every_kind_of_network(network: str) -> None:
    prepared, wanted = NETWORKS[network]
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("NOT TESTED: networks of other kinds need root and iproute2")
    script = f'ip link set lo up; {prepared}; exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script, sys.executable, "-c", REACH, *wanted.split()],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path("operator").resolve())},
    )
    assert done.stdout == "reached\n", done


class Without(socket.socket):
    """A socket of a kernel without IPv6."""

    def __init__(self, family: int = -1, *others: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *others, **named)


class Apart(socket.socket):
    """A socket of a namespace with bindv6only=1."""

    def getsockopt(self, *_option: Any) -> Any:
        return 1


@pytest.mark.parametrize("kind", [Without, Apart])
def test_kernel_that_cannot_do_both_is_given_ipv4(monkeypatch: pytest.MonkeyPatch, kind: type[socket.socket]) -> None:
    monkeypatch.setattr(addresses.socket, "socket", kind)
    assert possible("::") == "0.0.0.0"
    with listening("::", 0) as listener:
        assert listener.family == socket.AF_INET
    command = ["vllm", "serve", "/m", "--host", "::", "--port", "8000"]
    assert served_possibly(command) == [*command[:4], "0.0.0.0", *command[5:]]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_host_that_can_be_bound_is_left_as_it_is(host: str) -> None:
    assert possible(host) == host


def test_port_that_is_taken_is_an_error_at_once() -> None:
    with listening("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"), listening(*first.getsockname()):
        pass


@pytest.mark.parametrize("both", [True, False], ids=["both families", "a kernel without IPv6"])
def test_guard_gives_the_engine_a_host_that_its_kernel_can_bind(place: Any, *, both: bool) -> None:
    place.command = ["::" if word == "0.0.0.0" else word for word in place.command]
    if not both:
        place.break_check("addresses", "            tried.bind((EVERY, 0))\n", "            raise OSError\n")
    with place.started() as process:
        argv = place.wait_for_engine(process)["argv"]
    assert argv[argv.index("--host") + 1] == ("::" if both else "0.0.0.0")


async def test_controller_answers_both_families(unused_tcp_port: int) -> None:
    health = Health(Exported())
    async with health.served("::", unused_tcp_port), aiohttp.ClientSession() as session:
        for host in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{host}:{unused_tcp_port}/healthz") as response:
                assert response.status in {200, 503}


def test_probe_and_controller_listen_for_everybody_unless_they_are_told() -> None:
    assert port.parser().parse_args([]).host == "::"
    assert process.parser().parse_args([]).host == "::"


def test_vllm_binds_a_plain_socket_of_the_hosts_family() -> None:
    text = (source(VLLM) / "vllm/entrypoints/openai/api_server.py").read_text(encoding="utf-8")
    body = text.partition("def create_server_socket(")[2].partition("\ndef ")[0]
    assert "is_valid_ipv6_address(addr[0])" in body
    assert "sock.bind(addr)" in body
    assert "IPV6_V6ONLY" not in body
