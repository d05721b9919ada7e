"""The controller's command line, before it asks a cluster anything: settings are good, or it says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def started(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the words of a controller that ends by itself."""
    command = [sys.executable, "-m", "detinf.controller", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_good_settings_are_told_as_such(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("probeImage: probe:1\nprofiles: [{name: site, inherits: simulated}]\n", encoding="utf-8")
    assert started("--check", "--config", str(config)) == (0, "detinf controller: the settings are good\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("probeImage: p\nprofiles: [{name: x, inherits: nobody}]", "profiles: profile x: inherits 'nobody'"),
        ("probeImage: [", "is no YAML"),
        ("- probeImage", "is no mapping"),
        ("probeImage: p\nhostPathPrefixes: [/]", "hostPathPrefixes"),
    ],
)
def test_settings_that_are_refused_end_it_with_the_reason(tmp_path: Path, content: str, words: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content, encoding="utf-8")
    code, told = started("--config", str(config))
    assert code == 2
    assert told.startswith("detinf controller: ")
    assert words in told
    assert "Traceback" not in told


def test_check_of_settings_that_are_refused_says_the_same(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("probeImage: p\ndefaultProfile: x", encoding="utf-8")
    assert started("--check", "--config", str(config)) == started("--config", str(config))


def test_settings_that_are_missing_end_it_with_the_reason(tmp_path: Path) -> None:
    code, told = started("--config", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml: No such file or directory; mount the chart's settings there" in told


def test_lease_whose_times_leave_a_gap_ends_it_with_the_reason(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("probeImage: probe:1\n", encoding="utf-8")
    code, told = started("--config", str(config), "--lease-namespace", "ns", "--lease-duration", "10")
    assert code == 2
    assert "a lease of 10 s with a deadline of 10.0 s" in told
