"""Verdicts for people."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from detinf.cli.check import Outcome
from detinf.documents import Verdict
from detinf.probe.observation import value_of_bits
from detinf.probe.verdict import Round

COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}

MEANING = {
    "S01": "the same request, alone, again",
    "S02": "the same request, against its baseline",
    "S03": "the same requests, in one batch",
}

SENTENCES = {
    Verdict.PASS: "PASS: every answer is the same bits, alone and in company, and the company was proven.",
    Verdict.FAIL: "FAIL: this engine's answers depend on something that they must not depend on.",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE: nothing different was seen, but the tests had no force; this is no PASS.",
}


def table(outcome: Outcome) -> Table:
    """Return the rounds as a table; solo rounds are counted in one row."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "asked", "verdict", "proof or reason"):
        result.add_column(column, overflow="fold")
    rows: dict[tuple[str, str], list[Round]] = {}
    for item in outcome.rounds:
        rows.setdefault((item.relation, item.condition), []).append(item)
    for (relation, condition), rounds in rows.items():
        worst = next((item for item in rounds if item.verdict is not Verdict.PASS), rounds[-1])
        count = (
            f"{len(rounds)} requests" if condition == "solo" else condition.replace(">=", " from ").replace("=", " ")
        )
        detail = worst.detail if worst.verdict is Verdict.PASS else f"{worst.reason}: {worst.detail}"
        colour = COLOURS[worst.verdict]
        result.add_row(f"{relation} {MEANING[relation]}", count, f"[bold {colour}]{worst.verdict}[/]", detail)
    return result


def first_difference(outcome: Outcome) -> str | None:
    """Return the first difference in words, or None."""
    finding = next((item.finding for item in outcome.rounds if item.finding), None)
    if finding is None:
        return None
    difference, position = finding.difference, finding.difference.position
    where = f"request {finding.asked.reference.name}, output position {position} ({difference.phase})"
    lines = [f"First difference: {where}, observable {difference.observable}."]
    expected, observed = finding.asked.expected, finding.observed
    if position < len(expected.token_ids):
        for words, item in (("alone", expected), ("here ", observed)):
            bits = item.logprob_bits[position]
            value = value_of_bits(bits)
            lines.append(f"  {words}: token {item.token_ids[position]:>6}   logprob {value!r:>22}   bits 0x{bits:08x}")
    lines.append(
        f"{difference.differing_positions} of {len(expected.token_ids)} positions differ, "
        f"by up to {difference.max_ulps} units in the last place."
    )
    if difference.observable == "logprob":
        lines.append("Every token is the same: a comparison of texts would have seen nothing.")
    return "\n".join(lines)


def show(console: Console, outcome: Outcome) -> None:
    """Print the table, one sentence, and the first difference."""
    console.print(table(outcome))
    console.print(f"[bold {COLOURS[outcome.verdict]}]{SENTENCES[outcome.verdict]}[/]")
    if (words := first_difference(outcome)) is not None:
        console.print(words, highlight=False)


def as_json(outcome: Outcome) -> str:
    """Return the outcome for programs."""
    rounds = [
        {
            "relation": item.relation,
            "condition": item.condition,
            "verdict": str(item.verdict),
            "reason": str(item.reason),
            "detail": item.detail,
            "observable": str(item.finding.difference.observable) if item.finding else None,
        }
        for item in outcome.rounds
    ]
    return json.dumps({"verdict": str(outcome.verdict), "rounds": rounds}, indent=1)
