"""``detinf try``: a healthy and a faulty engine on this machine, and a verdict on each."""

from __future__ import annotations

from rich.console import Console

from detinf.api.types import Promise
from detinf.cli.check import Outcome, check, propose_for_check
from detinf.cli.show import show
from detinf.documents import Verdict
from detinf.probe.client import EngineClient
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server

WIDTHS = [2, 8, 16]
VOCABULARY = 32_000
FAULT = "F01"


async def run_trial(console: Console) -> bool:
    """Tell the story; return whether both verdicts are what they have to be."""
    model = HashModel(VOCABULARY, b"detinf try")
    async with running_server(Settings(model=model, served_name="sim")) as (url, server):
        console.print(
            f"[bold]A simulated vLLM serves on {url}.[/] It is healthy: an answer depends on its request alone.\n"
            f"[dim]$ detinf probe check --url {url} --widths 2,8,16[/]"
        )
        healthy = await one_check(console, url)
        show(console, healthy)
        server.active.switch([FAULT])
        console.print(
            "\n[bold]Now it has a fault[/] of the kind that real kernels have: from 9 requests in a batch on, another "
            "order of additions, and logprobs that differ in their last bits. Its health check is still green.\n"
            f"[dim]$ detinf probe check --url {url} --widths 2,8,16[/]"
        )
        faulty = await one_check(console, url)
        show(console, faulty)
        struck = server.active.struck.get(FAULT, 0)
    failing = {(item.relation, item.condition) for item in faulty.rounds if item.verdict is Verdict.FAIL}
    good = healthy.verdict is Verdict.PASS and failing == {("S03", "width=16")} and struck > 0
    if good:
        console.print(
            "\nThe fault needs company to show, so asking one request at a time would never find it, and no token "
            "changed, so comparing texts would not either. In a cluster this probe runs beside every engine without "
            "pause, gates each start, and takes a replica that diverges out of service: [bold]make demo[/]."
        )
    else:
        console.print(f"\n[bold red]This is not as it should be: {healthy.verdict}, then failing {failing}.[/]")
    return good


async def one_check(console: Console, url: str) -> Outcome:
    """Check the server once."""
    references = propose_for_check(VOCABULARY, WIDTHS)
    outcome = Outcome()
    async with EngineClient(url, "sim", boot=None) as client:
        with console.status("asking") as status:
            async for item in check(client, references, WIDTHS, Promise.TOKENS_AND_LOGPROBS, status.update):
                outcome.rounds.append(item)
    return outcome
