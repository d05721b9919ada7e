"""A download site on loopback, and the tool's own command."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools" / "cluster")]

from download_site import Site, handler  # noqa: E402 - found through the line above
from tool_environment import Command, environment, release_environment  # noqa: E402 - as above


@pytest.fixture
def site() -> Iterator[Site]:
    """The site, running."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    site.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def from_site(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site, where releases come from; and an empty cache."""
    for name, value in release_environment(site, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    return site


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``python -m detinf_cluster`` with an empty cache of its own."""

    def run(
        *arguments: str, prefix: tuple[str, ...] = (), first: str = "", **changed: str | None
    ) -> subprocess.CompletedProcess[str]:
        code = f"{first}\nimport runpy; runpy.run_module('detinf_cluster', run_name='__main__', alter_sys=True)"
        program = [sys.executable, "-c", code] if first else [sys.executable, "-m", "detinf_cluster"]
        return subprocess.run(
            [*prefix, *program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(**({"DETINF_CACHE": str(tmp_path / "cache")} | changed)),
        )

    return run
