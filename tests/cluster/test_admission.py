"""The chart's admission policy on the real API server: it says what the controller would say, at once."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rendered_chart import manifests, settings

from detinf.api import names, validation
from detinf.controller.settings import parse

pytestmark = pytest.mark.cluster

Ask = Callable[..., tuple[int, dict[str, Any]]]
FACT = {
    "field": "spec.promise",
    "values": ["Tokens"],
    "reason": "this site promises logprobs",
    "source": "document the site's rules | words",
    "remedy": "use TokensAndLogprobs",
}
CHARTS: dict[str, dict[str, Any]] = {
    "plain": {"engine": {"defaultProfile": "simulated"}, "models": {"hostPathPrefixes": ["/data/", "/mnt/models"]}},
    "site": {
        "engine": {
            "images": {"vllm-cpu-0.32": "cpu:1"},
            "profiles": [
                {"name": "strict", "inherits": "vllm-ascend-0.23", "refused": [FACT], "remove": ["spec.model.dtype"]},
                {"name": "no-image", "inherits": "simulated", "image": None},
            ],
        },
        "topology": {"nodeLabels": {"chip": "site.example/chip", "serverClass": "", "driver": "site.example/driver"}},
    },
}
"""Values of the chart, each installed for one namespace."""


def spec(**parts: Any) -> dict[str, Any]:
    return {"model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}}} | parts


def host(path: str) -> dict[str, Any]:
    return {"model": {"source": {"hostPath": {"path": path}}}}


def engine(profile: str, **more: Any) -> dict[str, Any]:
    return {"engine": {"profile": profile, **more}}


A2 = {"chip": "910B3", "serverClass": "module-910b-8", "driverVersion": "25.5.1"}
CPU = engine("vllm-cpu-0.32", image="cpu:1")
CASES: list[tuple[str, dict[str, Any]]] = [
    # Taken.
    ("plain", spec()),
    ("plain", spec(**engine("vllm-ascend-0.26rc"), topology=A2, parallelism={"tensor": 8})),
    ("plain", spec(**CPU)),
    *(("plain", host(path)) for path in ("/data", "/data/m", "/data/m/", "/mnt/models/a/b")),
    ("plain", spec(topology=A2, scheduling={"nodeSelector": {"accelerator-type": "module-910b-8", "other": "x"}})),
    (
        "plain",
        spec(
            topology={"driverVersion": "25.5.1", "drift": "Warn"},
            scheduling={"nodeSelector": {"huawei.com/driver.version": "24.1"}},
        ),
    ),
    ("site", spec(**engine("strict"), promise="TokensAndLogprobs")),
    ("site", spec(**engine("vllm-cpu-0.32"))),
    ("site", spec(**engine("no-image", image="a:1"))),
    ("site", spec(**engine("strict"), topology=A2, scheduling={"nodeSelector": {"accelerator-type": "another"}})),
    # Refused.
    ("plain", spec(**engine("vllm-ascend-0.18"))),
    ("plain", spec(**engine("vllm-cpu-0.32"))),
    ("plain", spec(**engine("strict"))),
    *(("plain", host(path)) for path in ("/etc", "/datalake", "/mnt", "/mnt/modelsx", "/data.old/m")),
    ("plain", spec(**CPU, parallelism={"tensor": 2})),
    ("plain", spec(**CPU, topology={**A2, "hbmGiB": 64, "firmwareVersion": "7.8.0.6.201"})),
    ("plain", spec(parallelism={"tensor": 16})),
    ("plain", spec(parallelism={"tensor": 16}, topology={"serverClass": "module-910b-16"})),
    ("plain", {"model": {**host("/data")["model"], "dtype": "float32"}, **engine("vllm-ascend-0.23")}),
    ("plain", spec(**engine("vllm-ascend-0.26rc"), topology={"chip": "310P3", "serverClass": "card"})),
    ("plain", spec(topology=A2, scheduling={"nodeSelector": {"accelerator-type": "module-910b-16"}})),
    (
        "plain",
        spec(
            topology=A2,
            scheduling={"nodeSelector": dict.fromkeys(("huawei.com/driver.version", names.LABEL_NAME), "24.1")},
        ),
    ),
    ("site", spec()),
    ("site", spec(**engine("no-image"))),
    ("site", spec(**engine("strict"), promise="Tokens")),
    ("site", spec(**engine("strict"), topology=A2, scheduling={"nodeSelector": {"site.example/chip": "910B4"}})),
    ("site", host("/data") | engine("strict")),
    # Several at once.
    ("plain", host("/etc") | engine("vllm-cpu-0.32") | {"parallelism": {"tensor": 4}, "topology": {"chip": "910B3"}}),
    ("site", host("/etc") | engine("strict") | {"promise": "Tokens", "topology": {"chip": "910A"}}),
    ("site", host("/etc")),
]


@pytest.fixture(scope="module")
def namespaces(ask: Ask, definition: str, administrator: Callable[..., str]) -> Iterator[dict[str, str]]:
    """A namespace for each set of values, with the policy in effect; and one without any."""
    assert definition
    made: list[dict[str, Any]] = []
    places = {name: f"admission-{name}" for name in (*CHARTS, "none")}
    for namespace in places.values():
        administrator("create", "namespace", namespace)
    for name, values in CHARTS.items():
        watched = values | {"watchNamespace": places[name]}
        made += manifests(watched, "--show-only", "templates/admission-policy.yaml", namespace=places[name])
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    administrator("apply", "--server-side", "--validate=strict", "-f", "-", given=given)
    limit = time.monotonic() + 60
    for name in CHARTS:
        while create(ask, places[name], spec(**engine("none-such")))[0] == 201:
            assert time.monotonic() < limit, "the policy is not in effect"
            time.sleep(0.1)
    yield places
    administrator("delete", "-f", "-", given=given)
    administrator("delete", "namespace", *places.values(), "--wait=false")


def create(ask: Ask, namespace: str, asked: dict[str, Any], query: str = "?dryRun=All") -> tuple[int, str]:
    """Create a resource, or only try to; return the status and what is said."""
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "a"}, "spec": asked}
    status, answer = ask("POST", f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}{query}", body)
    return status, str(answer.get("message"))


def of_controller(chart: str, asked: dict[str, Any]) -> str:
    """Return what the controller says of a resource under these values of the chart; nothing where it is valid."""
    rules = parse(settings(CHARTS[chart])).rules()
    _, problems = validation.validate({"metadata": {"name": "a"}, "spec": copy.deepcopy(asked)}, rules)
    return "; ".join(map(str, problems))


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).translate(str.maketrans("", "", '{}"'))[:90]


@pytest.mark.parametrize(("chart", "asked"), CASES, ids=name_of)
def test_policy_says_of_a_resource_what_the_controller_says(
    ask: Ask, namespaces: dict[str, str], chart: str, asked: dict[str, Any]
) -> None:
    status, said = create(ask, namespaces[chart], asked)
    expected = of_controller(chart, asked)
    if not expected:
        assert status == 201, said
        return
    assert status == 422
    assert said.partition("denied request: ")[2] == expected


def test_table_has_cases_of_both_kinds_and_each_problem_with_its_field() -> None:
    said = [of_controller(chart, asked) for chart, asked in CASES]
    assert said.count("") >= 12
    for words in (
        *("spec.engine.profile is not set", "cannot attest that engine", "spec.engine.image is not set"),
        *("uses no NPUs; use 1", "nothing could verify it", "by HCCS, and 16 are 8 more", "joined by PCIe"),
        *("spec.model.dtype is 'float32'", "this site promises logprobs", "a node has one of the two"),
        *("under an allowed prefix (none)", "under an allowed prefix (/data/, /mnt/models)"),
    ):
        assert any(words in sentence for sentence in said), words


def warnings(ask: Ask, chart: str, *, misspelled: bool = False) -> str:
    """Return what the API server's type checker says of what the policy reads of a resource.

    It looks at validations alone, and our policy reads in a variable: here that is a validation, of a policy which is
    bound to nothing.
    """
    policy, _ = manifests(CHARTS[chart], "--show-only", "templates/admission-policy.yaml")
    variables = {item["name"]: item for item in policy["spec"]["variables"]}
    read = variables.pop("problems")["expression"]
    del variables["newProblems"]
    if misspelled:
        read = read.replace("serverClass", "serverClas")
    checked = policy["spec"] | {
        "variables": list(variables.values()),
        "validations": [{"expression": f"({read}).size() > 0"}],
    }
    name = f"checked-{chart}-{misspelled}".lower()
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    body = {key: policy[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": name}, "spec": checked}
    status, answer = ask("POST", path, body)
    assert status == 201, answer
    limit = time.monotonic() + 60
    while "observedGeneration" not in (answer := ask("GET", f"{path}/{name}")[1]).get("status", {}):
        assert time.monotonic() < limit
        time.sleep(0.1)
    ask("DELETE", f"{path}/{name}")
    return " ".join(item["warning"] for item in answer["status"]["typeChecking"].get("expressionWarnings", []))


def test_policy_reads_nothing_that_a_resource_cannot_have(ask: Ask, definition: str) -> None:
    """A field that is misspelled would never be there, and its rule would never refuse."""
    assert definition
    limit = time.monotonic() + 120
    while "undefined field 'serverClas'" not in warnings(ask, "plain", misspelled=True):
        # The controller manager looks twice a minute which kinds there are, and checks nothing of others.
        assert time.monotonic() < limit
        time.sleep(1)
    assert [warnings(ask, chart) for chart in CHARTS] == ["", ""]


@pytest.fixture
def invalid(ask: Ask, namespaces: dict[str, str], administrator: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Return kubectl beside a resource that the policy would refuse for two reasons, and that was stored before it."""
    body = host("/etc") | engine("none-such")
    place = namespaces["site"]
    binding = f"validatingadmissionpolicybinding/detinf.{place}.detinf.io"
    stored = administrator("get", binding, "-o", "json")
    administrator("delete", binding)
    limit = time.monotonic() + 60
    while (answer := create(ask, place, body, ""))[0] != 201:
        assert time.monotonic() < limit, answer
        time.sleep(0.1)
    kept = {key: json.loads(stored)[key] for key in ("apiVersion", "kind", "spec")}
    kept["metadata"] = {"name": binding.partition("/")[2]}
    administrator("create", "-f", "-", given=json.dumps(kept))
    while create(ask, place, body)[0] != 422:
        assert time.monotonic() < limit
        time.sleep(0.1)

    def kubectl(*arguments: str, **options: Any) -> str:
        return administrator("--namespace", place, *arguments, **options)

    yield kubectl
    kubectl("delete", "detinf/a", "--ignore-not-found", "--wait=true")


def patch(kubectl: Callable[..., str], change: dict[str, Any], *more: str, fails: bool = False) -> str:
    return kubectl("patch", "detinf", "a", "--type=merge", "-p", json.dumps(change), *more, fails=fails)


def test_resource_that_was_invalid_before_can_be_labelled_told_about_scaled_and_deleted(
    invalid: Callable[..., str],
) -> None:
    invalid("label", "detinf", "a", "team=rl")
    patch(invalid, {"status": {"replicas": 1}}, "--subresource=status")
    patch(invalid, {"metadata": {"finalizers": ["example.org/held"]}})
    invalid("scale", "detinf/a", "--replicas=0")
    invalid("delete", "detinf/a", "--wait=false")
    patch(invalid, {"metadata": {"finalizers": None}})
    invalid("wait", "--for=delete", "detinf/a", "--timeout=30s")


def test_resource_that_was_invalid_before_is_mended_one_thing_after_the_other(invalid: Callable[..., str]) -> None:
    # Something else changes, and what is wrong stays as it was.
    patch(invalid, {"spec": {"replicas": 2}})
    # Another mistake is a new one, and the only one that is told.
    words = patch(invalid, {"spec": {"engine": {"profile": "other"}}}, fails=True)
    assert "spec.engine.profile is 'other'" in words
    assert "hostPath" not in words
    patch(invalid, {"spec": {"engine": {"profile": "strict"}}})
    source = {"hostPath": None, "persistentVolumeClaim": {"claimName": "models"}}
    patch(invalid, {"spec": {"model": {"source": source}}})
    # What is right by now does not go wrong again.
    assert "'/etc'" in patch(
        invalid,
        {"spec": {"model": {"source": {"hostPath": {"path": "/etc"}, "persistentVolumeClaim": None}}}},
        fails=True,
    )


def test_policy_for_one_namespace_leaves_the_others_alone(ask: Ask, namespaces: dict[str, str]) -> None:
    status, said = create(ask, namespaces["none"], spec(**engine("none-such")))
    assert status == 201, said


def test_kubectl_says_it_in_a_dry_run_of_the_server(
    administrator: Callable[..., str], namespaces: dict[str, str]
) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": "a"}, "spec": host("/etc")}
    command = ("--namespace", namespaces["plain"], "apply", "--dry-run=server", "-f", "-")
    said = administrator(*command, given=json.dumps(body), fails=True)
    assert (
        "spec.model.source.hostPath.path is '/etc': use a folder under an allowed prefix (/data/, /mnt/models)" in said
    )
