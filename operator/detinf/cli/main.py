"""``detinf``: the commands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import detinf
from detinf.api.types import Promise
from detinf.cli import explain
from detinf.cli.check import CannotCheckError, Outcome, check, find_model, find_vocabulary, propose_for_check
from detinf.cli.show import as_json, show
from detinf.documents import Verdict
from detinf.guard import manifest
from detinf.guard.errors import RefusedError
from detinf.probe.client import EngineClient

EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Deterministic inference, attested and measured.")
probe = typer.Typer(no_args_is_help=True, help="Check engines.")
app.add_typer(probe, name="probe")
app.add_typer(explain.profile, name="profile")
app.command("explain")(explain.explain_command)


def _version(value: bool) -> None:
    if value:
        print(f"detinf {detinf.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Deterministic inference, attested and measured."""
    del version  # its callback has done it


def parse_widths(text: str) -> list[int]:
    """Return the widths of ``2,8,16``.

    Raises:
        typer.BadParameter: where an item is no number from 2 to 256.
    """
    widths = []
    for item in text.split(","):
        if not item.strip().isdigit() or not 2 <= int(item) <= 256:
            raise typer.BadParameter(f"{item.strip()!r} is no width; give numbers from 2 to 256, such as 2,8,16")
        widths.append(int(item))
    return sorted(set(widths))


@probe.command("check")
def probe_check(
    url: Annotated[str, typer.Option(help="Base URL of a server with vLLM's API.")],
    model: Annotated[str | None, typer.Option(help="Served model name; the first listed when absent.")] = None,
    widths: Annotated[str, typer.Option(help="Batch widths to prove, ascending.")] = "2,8,16",
    promise: Annotated[Promise, typer.Option(help="What has to be equal.")] = Promise.TOKENS_AND_LOGPROBS,
    vocabulary_size: Annotated[int | None, typer.Option(min=32, help="Found by bisection when absent.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check whether a server's answers depend on their batch. Exit code: 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 2 usage."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} is no URL; give it as http://HOST:PORT", param_hint="--url")
    console = Console(stderr=json)
    try:
        outcome = asyncio.run(run_check(console, url, model, parse_widths(widths), promise, vocabulary_size))
    except CannotCheckError as error:
        console.print(f"[bold red]cannot check {url}:[/] {error}", highlight=False)
        raise typer.Exit(EXIT_CODES[Verdict.INCONCLUSIVE]) from error
    if json:
        print(as_json(outcome))
    else:
        show(console, outcome)
    raise typer.Exit(EXIT_CODES[outcome.verdict])


async def run_check(
    console: Console, url: str, model: str | None, widths: list[int], promise: Promise, vocabulary_size: int | None
) -> Outcome:
    """Run the check with progress on the console."""
    outcome = Outcome()
    async with EngineClient(url, model or "", boot=None) as client:
        with console.status("looking at the server") as status:
            client.model = model or await find_model(client)
            size = vocabulary_size or await find_vocabulary(client)
            async for item in check(client, propose_for_check(size, widths), widths, promise, status.update):
                outcome.rounds.append(item)
    return outcome


@app.command("manifest")
def manifest_command(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder that holds config.json.")],
    files: Annotated[bool, typer.Option("--files", help="Print each file's digest, too.")] = False,
) -> None:
    """Print the digest of a model's files, for spec.model.manifestDigest."""
    try:
        found = manifest.manifest(folder)
    except RefusedError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    if "config.json" not in found:
        raise typer.BadParameter(f"{folder} has no config.json; name the folder of one model", param_hint="FOLDER")
    for name, digest in sorted(found.items()) if files else ():
        print(f"{digest}  {name}")
    print(manifest.canonical_digest(found))


@app.command("try")
def try_command() -> None:
    """Check a healthy and a faulty simulated engine: a minute, nothing but Python."""
    from detinf.cli.trial import run_trial

    raise typer.Exit(0 if asyncio.run(run_trial(Console())) else 1)


def main() -> None:
    """Run the command line."""
    app()
