"""Which nodes a pod may be on; tests/cluster/test_place.py holds the same against the real kube-scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from detinf.controller.node_rules import has_labels, is_cordoned, spelled, tolerates, tolerations_of, untolerated

Json = dict[str, Any]
NODE: Json = {"metadata": {"name": "a", "labels": {"chip": "910B3", "gen": "10", "empty": ""}}}


def affinity(*terms: Json) -> Json:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def labels(key: str, operator: str, *values: str) -> Json:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def named(operator: str, *values: str) -> Json:
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "matches"),
    [
        ({}, True),
        ({"nodeSelector": {"chip": "910B3", "gen": "10"}}, True),
        ({"nodeSelector": {"chip": "910B3", "gen": "9"}}, False),
        ({"nodeSelector": {"empty": ""}}, True),
        ({"nodeSelector": {"absent": ""}}, False),
        (affinity(labels("chip", "In", "910A3", "910B3")), True),
        (affinity(labels("absent", "In", "")), False),
        (affinity(labels("chip", "NotIn", "910A3")), True),
        (affinity(labels("chip", "NotIn", "910B3")), False),
        (affinity(labels("absent", "NotIn", "x")), True),
        (affinity(labels("chip", "Exists")), True),
        (affinity(labels("absent", "Exists")), False),
        (affinity(labels("chip", "DoesNotExist")), False),
        (affinity(labels("absent", "DoesNotExist")), True),
        (affinity(labels("gen", "Gt", "9")), True),
        (affinity(labels("gen", "Gt", "10")), False),
        (affinity(labels("gen", "Lt", "11")), True),
        (affinity(labels("gen", "Lt", "10")), False),
        (affinity(labels("gen", "Lt", str(2**63 - 1))), True),
        (affinity(labels("gen", "Lt", str(2**63))), False),
        (affinity(labels("gen", "Lt", "11", "12")), False),
        (affinity(labels("chip", "Gt", "1")), False),
        (affinity(labels("absent", "Lt", "1")), False),
        (affinity(labels("chip", "Near", "910B3")), False),
        (affinity(named("In", "a")), True),
        (affinity(named("NotIn", "a")), False),
        (affinity(named("NotIn", "b")), True),
        (affinity(named("In", "a", "b")), False),
        (affinity(named("Exists")), False),
        (affinity(labels("chip", "Exists") | named("In", "b")), False),
        (affinity({}), False),
        (affinity(), False),
        (affinity(labels("absent", "Exists"), labels("chip", "Exists")), True),
        (affinity(labels("chip", "Exists")) | {"nodeSelector": {"absent": "x"}}, False),
        ({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}}, True),
        ({"affinity": None, "nodeSelector": None}, True),
    ],
)
def test_node_is_one_of_those_asked_for_or_not(spec: Json, matches: bool) -> None:
    assert has_labels(spec, NODE) is matches


def taint(effect: str = "NoSchedule", key: str = "npu", value: str | None = "yes") -> Json:
    return {"key": key, "effect": effect} | ({"value": value} if value is not None else {})


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "npu", "operator": "Exists"}, True),
        ({"key": "npu", "operator": "Equal", "value": "yes"}, True),
        ({"key": "npu", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "npu", "value": "yes", "effect": ""}, True),
        ({"key": "npu", "value": "yes", "effect": "NoExecute"}, False),
        ({"key": "npu", "value": "no"}, False),
        ({"key": "npu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "npu", "operator": "Gt", "value": "0"}, False),
    ],
)
def test_taint_is_tolerated_by_key_value_and_effect(toleration: Json, tolerated: bool) -> None:
    assert tolerates([toleration], taint()) is tolerated
    assert tolerates([{"key": "x", "operator": "Exists"}, toleration], taint()) is tolerated
    assert not tolerates([], taint())


def test_taint_without_a_value_is_tolerated_without_one() -> None:
    assert tolerates([{"key": "npu"}], taint(value=None))
    assert tolerates([{"key": "npu", "value": ""}], taint(value=""))
    assert spelled(taint(value=None)) == "npu:NoSchedule"
    assert spelled(taint()) == "npu=yes:NoSchedule"


def test_first_taint_that_keeps_the_pod_away_is_named_and_one_that_only_prefers_is_none() -> None:
    node = {"spec": {"taints": [taint("PreferNoSchedule", "a"), taint("NoExecute", "b"), taint("NoSchedule", "c")]}}
    assert untolerated(node, []) == taint("NoExecute", "b")
    assert untolerated(node, [{"key": "b", "operator": "Exists"}]) == taint("NoSchedule", "c")
    assert untolerated(node, [{"operator": "Exists"}]) is None
    assert untolerated({}, []) is None


@pytest.mark.parametrize("key", ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"])
def test_every_pod_waits_a_while_for_a_node_that_comes_back_unless_it_says_otherwise(key: str) -> None:
    passing = {"spec": {"taints": [taint("NoExecute", key, None)]}}
    assert untolerated(passing, tolerations_of({})) is None
    assert untolerated(passing, tolerations_of({"tolerations": [{"key": "npu", "operator": "Exists"}]})) is None
    assert untolerated(passing, tolerations_of({"tolerations": [{"key": key, "value": "x"}]})) is not None
    assert untolerated({"spec": {"taints": [taint("NoSchedule", key, None)]}}, tolerations_of({})) is not None


def test_cordoned_node_is_one_for_pods_that_tolerate_it() -> None:
    cordoned = {"spec": {"unschedulable": True}}
    assert is_cordoned(cordoned, [])
    assert not is_cordoned(cordoned, [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert is_cordoned(cordoned, [{"operator": "Exists", "effect": "NoExecute"}])
    assert not is_cordoned({"spec": {}}, [])
