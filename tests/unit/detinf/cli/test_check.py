"""``detinf probe check``: exit codes and words."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import typer

from detinf.cli.main import parse_widths
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detinf.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path("operator").resolve()), "COLUMNS": "200", "NO_COLOR": "1"},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("faults", "code", "verdict", "words"),
    [
        ([], 0, "PASS", "the company was proven"),
        (["F22"], 1, "FAIL", "bits 0x"),
        (["serialise"], 3, "INCONCLUSIVE", "NotBatched"),
    ],
)
async def test_exit_code_is_the_verdict(faults: list[str], code: int, verdict: str, words: str) -> None:
    settings = Settings(model=HashModel(700, b"cli"), served_name="sim", step_seconds=0.0005, faults=faults)
    async with running_server(settings) as (url, _):
        seen, out, _ = await run("probe", "check", "--url", url, "--widths", "2,8")
        assert seen == code, out
        assert f"{verdict}:" in out
        assert words in out


async def test_json_is_for_programs() -> None:
    async with running_server(Settings(model=HashModel(700, b"cli"), step_seconds=0.0005)) as (url, _):
        code, out, _ = await run("probe", "check", "--url", url, "--widths", "2", "--json", "--vocabulary-size", "700")
        parsed = json.loads(out)
        assert (code, parsed["verdict"]) == (0, "PASS")
        assert parsed["rounds"][-1]["condition"] == "width=2"


async def test_server_that_is_not_there_is_named() -> None:
    async with running_server(Settings(model=HashModel(700, b"cli"))) as (url, _):
        pass
    code, out, _ = await run("probe", "check", "--url", url)
    assert code == 3
    assert url in out
    assert "is a server with vLLM's API running there?" in out


async def test_url_without_a_scheme_is_a_usage_error() -> None:
    code, _, err = await run("probe", "check", "--url", "localhost:8000")
    assert code == 2
    assert "http://HOST:PORT" in err


@pytest.mark.parametrize(("text", "widths"), [("2,8,16", [2, 8, 16]), ("16, 2,2", [2, 16])])
def test_widths_are_sorted_and_unique(text: str, widths: list[int]) -> None:
    assert parse_widths(text) == widths


@pytest.mark.parametrize("text", ["", "1", "2,x", "-2", "1000"])
def test_impossible_width_is_refused_by_name(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no width"):
        parse_widths(text)
