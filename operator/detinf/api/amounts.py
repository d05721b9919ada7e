"""What the API server refuses of a container's resources, told of the spec before a pod is made of it.

The rules are those of ``ValidateContainerResourceRequirements`` (Kubernetes 1.36, pkg/apis/core/validation): amounts of
extended resources and huge pages are whole, and equal in requests and limits, and huge pages come with a processor or
memory. A name without a domain is one that Kubernetes knows. That a request is at most its limit, the schema says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fractions import Fraction

from detinf.api.reading import Problem
from detinf.api.types import ResourceAmounts

PLAIN = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = re.compile(r"hugepages-([0-9]+[KMGT]i)")
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
WHERE = "spec.engine.resources"


def is_indivisible(name: str) -> bool:
    """Return whether requests and limits of a resource must be equal: extended resources, and huge pages."""
    return bool(HUGE_PAGES.fullmatch(name)) or ("/" in name and "kubernetes.io/" not in name)


def problems(asked: ResourceAmounts) -> list[Problem]:
    """Return what no pod can ask for."""
    found = []
    for field, amounts in (("requests", asked.requests), ("limits", asked.limits)):
        for name, value in amounts.items():
            remedy = _name_problem(name) or (_amount_problem(name, value) if is_indivisible(name) else None)
            if remedy is not None:
                found.append(Problem(f"{WHERE}.{field}[{name}]", repr(value), remedy))
    for name, value in asked.requests.items():
        other = asked.limits.get(name)
        if is_indivisible(name) and other is not None and _amount(value) != _amount(other):
            remedy = f"limits has {other!r}, and {name} is not shared: have both equal, or remove one of them"
            found.append(Problem(f"{WHERE}.requests[{name}]", repr(value), remedy))
    everything = {**asked.requests, **asked.limits}
    pages = next((name for name in everything if HUGE_PAGES.fullmatch(name)), None)
    if pages is not None and asked.requests and not everything.keys() & {"cpu", "memory"}:
        remedy = "a container with huge pages asks for a processor or memory, too: add cpu or memory to requests"
        found.append(Problem(f"{WHERE}.requests[{pages}]", repr(everything[pages]), remedy))
    return found


def completed(requests: Mapping[str, str], limits: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return requests and limits with what is not shared in both, as Kubernetes itself does it from limits alone."""
    whole = {name: value for name, value in requests.items() if is_indivisible(name)}
    return {name: value for name, value in limits.items() if is_indivisible(name)} | dict(requests), whole | dict(
        limits
    )


def _name_problem(name: str) -> str | None:
    if "/" in name:
        if name.startswith("requests."):
            return "a name that begins with requests. is a quota's and no container's; remove that part"
        return None
    if name in PLAIN or HUGE_PAGES.fullmatch(name):
        return None
    near = [known for known in PLAIN if name in known] or difflib.get_close_matches(name, PLAIN, 1, 0.7)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}a container has {', '.join(PLAIN)}, hugepages-SIZE and what a device plug-in names DOMAIN/NAME"


def _amount(value: int | str) -> Fraction:
    """Return the amount of a quantity that the schema lets in; 0 of what got past an older one."""
    match = AMOUNT.fullmatch(str(value))
    if match is None:
        return Fraction(0)
    suffix = match[2] or ""
    if suffix.endswith("i"):
        binary: int = 1024 ** " KMGTPE".index(suffix[0])
        return Fraction(match[1]) * binary
    scale: Fraction = Fraction(1000) ** ("m kMGTPE".index(suffix or " ") - 1)
    return Fraction(match[1]) * scale


def _amount_problem(name: str, value: int | str) -> str | None:
    amount = _amount(value)
    pages = HUGE_PAGES.fullmatch(name)
    if pages is not None and (amount == 0 or (amount / _amount(pages[1])).denominator != 1):
        return f"use a multiple of {pages[1]}, the size of a page"
    return "use a whole number: it is not divided" if amount.denominator != 1 else None
