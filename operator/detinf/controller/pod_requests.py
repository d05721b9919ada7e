"""What a pod takes of its node: requests by the formula of kube-scheduler, and ports of the node.

The formula is ``PodRequests`` of k8s.io/component-helpers (resource/helpers.go): containers and native sidecars run
together; an init container runs alone with the sidecars before it; what the pod as a whole asks for, and the overhead
of its RuntimeClass, come on top. A container that was resized, or is to be, holds the most of what it had and gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from detinf.controller import pods
from detinf.controller.builders.quantity import parse
from detinf.controller.pods import Pod

Amounts = dict[str, Fraction]
Port = tuple[str, str, int]
"""Address, protocol and number; the address is ``0.0.0.0`` for all of a node's."""

CPU = "cpu"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing is bound here
MILLI = 1000


def requested(pod: Pod) -> dict[str, int]:
    """Return what a pod asks of a node by resource name: thousandths of a CPU, and whole units of everything else.

    Args:
        pod: ``spec``, and ``status`` where it runs. Requests that a template leaves out are its limits, as the API
            server fills them in.

    Raises:
        ValueError: for an amount that is no quantity.
    """
    spec, status = pod["spec"], pod.get("status") or {}
    listed = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    statuses = {item["name"]: item for item in listed}
    resizes = pods.condition(pod, "PodResizePending").get("reason") != "Infeasible"
    total: Amounts = {}
    for container in spec.get("containers") or []:
        _add(total, _held(container, statuses.get(container["name"]), resizes=resizes))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            amounts = _held(container, statuses.get(container["name"]), resizes=resizes)
            _add(total, amounts)
            _add(sidecars, amounts)
        else:
            amounts = _asked(container)
            _add(amounts, sidecars)
            _raise(peak, amounts)
    _raise(total, peak)
    if whole := (spec.get("resources") or {}).get("requests"):
        held = _held(spec, status, resizes=resizes)
        total |= {name: held.get(name, Fraction(0)) for name in whole}
    _add(total, _amounts(spec.get("overhead")))
    return {name: in_units(name, amount) for name, amount in total.items()}


def allocatable(node: Mapping[str, Any]) -> dict[str, int]:
    """Return what a node has for pods, in the units of ``requested``."""
    amounts = _amounts((node.get("status") or {}).get("allocatable"))
    return {name: in_units(name, amount) for name, amount in amounts.items()}


def in_units(name: str, amount: Fraction) -> int:
    """Return an amount as kube-scheduler counts it: rounded up."""
    return math.ceil(amount * MILLI if name == CPU else amount)


def host_ports(pod: Pod) -> set[Port]:
    """Return the node's ports that a pod takes."""
    spec = pod["spec"]
    sidecars = [item for item in spec.get("initContainers") or [] if item.get("restartPolicy") == "Always"]
    return {
        (port.get("hostIP") or EVERY_ADDRESS, port.get("protocol") or "TCP", int(port["hostPort"]))
        for container in [*sidecars, *(spec.get("containers") or [])]
        for port in container.get("ports") or []
        if port.get("hostPort")
    }


def clash(wanted: set[Port], taken: set[Port]) -> bool:
    """Return whether one of the wanted ports is taken, on its address or on all."""
    return any(
        (protocol, number) == (other_protocol, other_number) and (address == other or EVERY_ADDRESS in {address, other})
        for address, protocol, number in wanted
        for other, other_protocol, other_number in taken
    )


def _amounts(listed: Mapping[str, Any] | None) -> Amounts:
    return {name: parse(value) for name, value in (listed or {}).items()}


def _asked(what: Mapping[str, Any]) -> Amounts:
    """Return the requests of a container, or of a pod as a whole."""
    resources = what.get("resources") or {}
    return _amounts(resources.get("limits")) | _amounts(resources.get("requests"))


def _held(what: Mapping[str, Any], status: Mapping[str, Any] | None, *, resizes: bool) -> Amounts:
    """Return what a container, or a pod as a whole, holds: its requests, unless a resize is under way."""
    asked = _asked(what)
    actual = (status or {}).get("resources")
    if actual is None:
        return asked
    held = asked if resizes else {}
    _raise(held, _amounts(actual.get("requests")))
    _raise(held, _amounts((status or {}).get("allocatedResources")))
    return held


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


def _raise(total: Amounts, other: Amounts) -> None:
    for name, amount in other.items():
        total[name] = max(total.get(name, amount), amount)
