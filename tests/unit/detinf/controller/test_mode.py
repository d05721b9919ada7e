"""Whether a divergence is acted on follows from what engines attest; it is told, and not known before one has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet import Fleet
from journeys import NAME, NAMESPACE, change
from model_configs import CONFIGS
from steps import condition, events, fleet_with, reconcile, settle, status

from detinf.api import names
from detinf.api.crd import COLUMNS
from detinf.guard.model_shape import shape_of

POD = ("Pod", NAMESPACE, "a-1-0")
VALIDATED = shape_of(CONFIGS["Qwen3-8B"])
OTHER = shape_of(CONFIGS["Qwen3-8B"] | {"num_hidden_layers": 40})


def on_npus(model: dict[str, Any] | None, **spec: Any) -> Fleet:
    """Return a resource whose engines run NPU kernels, and attest that model."""
    fleet = fleet_with(engine={"profile": "vllm-ascend-0.23", "image": "image:1"}, **spec)
    fleet.model = model
    return fleet


def told_to_probes(fleet: Fleet) -> str | None:
    """Return the mode that the probes are told."""
    data = fleet.api.objects["ConfigMap", NAMESPACE, names.settings_name(NAME)]["data"]
    mode: str | None = json.loads(data["probe-settings.json"]).get("mode")
    return mode


async def test_before_any_report_the_mode_is_unknown_and_divergences_are_acted_on() -> None:
    fleet = on_npus(VALIDATED)
    await reconcile(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Unknown", None)
    assert "whether they will be is not known yet: an engine has to attest" in condition(fleet, "SpecValid")["message"]


async def test_validated_model_and_chip_are_enforced_and_say_no_word_of_it() -> None:
    fleet = on_npus(VALIDATED)
    await settle(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Enforce", None)
    assert condition(fleet, "SpecValid")["message"] == "the resource can be carried out"
    fleet.answers["a-1-0"] = 1
    await settle(fleet)
    assert "ReplicaIsolated" in events(fleet)


@pytest.mark.parametrize("topology", [{}, {"chip": "910B3"}])
async def test_other_model_is_observed_whatever_is_declared_and_ready_says_so(topology: dict[str, str]) -> None:
    fleet = on_npus(OTHER, topology=topology)
    await settle(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Observe", "Observe")
    words = "divergences are reported and not acted on: nobody validated this model (qwen3) on 910B3"
    assert words in condition(fleet, "SpecValid")["message"]
    assert condition(fleet, "Ready")["status"] == "True"
    assert words in condition(fleet, "Ready")["message"]
    fleet.answers["a-1-0"] = 1
    await settle(fleet)
    assert fleet.api.objects[POD]["metadata"]["labels"][names.LABEL_SERVING] == "true"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"


async def test_other_chip_than_the_validated_ones_is_observed() -> None:
    fleet = on_npus(VALIDATED)
    for pod in ("a-0-0", "a-1-0"):
        fleet.hardware[pod] = {"chip": "910C"}
    await settle(fleet)
    assert status(fleet)["mode"] == "Observe"
    assert "nobody validated Qwen3-8B on 910C" in condition(fleet, "SpecValid")["message"]


async def test_gate_that_failed_before_it_was_known_is_not_replaced_where_divergences_are_observed() -> None:
    fleet = on_npus(OTHER)
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.restart("a-1-0")
    uid = fleet.api.objects[POD]["metadata"]["uid"]
    await settle(fleet)
    assert fleet.api.objects[POD]["metadata"]["uid"] == uid
    assert "divergences are only reported" in condition(fleet, "OutputsInvariant")["message"]


async def test_what_was_known_of_a_revision_holds_while_nobody_reports_and_not_for_another_one() -> None:
    fleet = on_npus(OTHER)
    await settle(fleet)
    fleet.probeless |= {"a-0-0", "a-1-0"}
    await settle(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Observe", "Observe")
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "another"}}
    change(fleet, model={"source": source})
    fleet.api.objects[names.KIND, NAMESPACE, NAME]["metadata"]["generation"] = 2
    await reconcile(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Unknown", None)


async def test_owners_word_is_known_at_once() -> None:
    fleet = on_npus(OTHER, probe={"mode": "Enforce"})
    await reconcile(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Enforce", None)
    await settle(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Enforce", None)


async def test_probes_of_an_earlier_release_leave_it_unknown_and_enforced() -> None:
    fleet = on_npus(None)
    await settle(fleet)
    assert (status(fleet)["mode"], told_to_probes(fleet)) == ("Unknown", None)


def test_the_mode_is_a_column_of_kubectl_get() -> None:
    (column,) = (item for item in COLUMNS if item["name"] == "Mode")
    assert (column["jsonPath"], "priority" in column) == (".status.mode", False)
