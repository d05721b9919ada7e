"""Why a pod is as it is: nothing of it is left out, and everything has a reason and a source."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from detinf.api.unknown import unknown_fields
from detinf.api.validation import validate
from detinf.cli.main import app
from detinf.controller.builders import plan_for
from detinf.controller.builders.pod import pod_spec
from detinf.controller.explain import Section, explain
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan
from detinf.engines.admission import RELEASES, Decision, admission
from detinf.engines.catalogue import PROFILES

ROOT = Path(__file__).resolve().parents[4]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
RESOURCES = [*EXAMPLES]
SETTINGS = OperatorSettings(
    probe_image="probe:1",
    default_profile="simulated",
    profile_images={"vllm-cpu-0.32": "cpu:1"},
    host_path_prefixes=("/var/lib/detinf/models",),
)
run = CliRunner().invoke
each_resource = pytest.mark.parametrize("path", RESOURCES, ids=[path.stem for path in RESOURCES])


def sections(path: Path) -> tuple[dict[str, Any], Plan, list[Section]]:
    resource = yaml.safe_load(path.read_text(encoding="utf-8"))
    resource["metadata"] |= {"namespace": "a", "uid": "b"}
    spec, problems = validate(resource, SETTINGS.rules())
    assert problems == []
    assert spec is not None
    plan = plan_for(spec, SETTINGS)
    return pod_spec(resource, spec, plan, SETTINGS), plan, explain(resource, spec, SETTINGS)


@each_resource
def test_everything_of_the_pod_is_explained(path: Path) -> None:
    pod, plan, found = sections(path)
    said = {section.title: [row.what for row in section.rows] for section in found}
    (engine,) = pod["containers"]
    plan_words = " ".join(said["Arguments of vllm serve"] + said["Arguments beside the plan"])
    assert plan_words == " ".join(engine["command"][engine["command"].index("serve") + 2 :])
    assert [what.partition("=")[0] for what in said["Variables of the pod"]] == [item["name"] for item in engine["env"]]
    assert [what.partition("=")[0] for what in said["Variables of the engine"]] == [*plan.environment.set_variables]
    assert said["Variables that must not be there"] == plan.environment.unset
    assert [what.partition(" ")[0] for what in said["Volumes"]] == [item["name"] for item in pod["volumes"]]
    labels = [what.removeprefix("node label ") for what in said.get("Placement", []) if what.startswith("node label")]
    assert labels == [f"{key}={value}" for key, value in pod.get("nodeSelector", {}).items()]


MISSPELLED = [
    # The text in examples/minimal.yaml, what it becomes, the words.
    ("spec:", "spec:\n  enigne: {}", "spec.enigne is no field: did you mean engine?"),
    ("spec:", "spec:\n  model.x: 1", "spec.model.x is no field: did you mean model?"),
    ("spec:", "spec:\n  Replicas: 2", "spec.Replicas is no field: did you mean replicas?"),
    ("spec:", "spec:\n  zzz: 1", "spec.zzz is no field: there is engine, model, parallelism"),
    (
        "spec:",
        "spec:\n  engine: {env: [{name: A, vlaue: b}]}",
        "spec.engine.env[0].vlaue is no field: did you mean value?",
    ),
    (
        "spec:",
        "spec:\n  engine: {resources: {request: {}}}",
        "spec.engine.resources.request is no field: did you mean req",
    ),
    ("spec:", "sepc: {}\nspec:", "sepc is no field: did you mean spec?"),
    ("metadata:", "metadata:\n  nmae: x", "metadata.nmae is no field: did you mean name?"),
    ("kind: DeterministicInference", "kind: Deployment", "kind is 'Deployment': it must be DeterministicInference"),
    ("/v1alpha1", "/v1", "apiVersion is 'detinf.io/v1': it must be detinf.io/v1alpha1"),
]


@pytest.mark.parametrize(("text", "other", "words"), MISSPELLED, ids=[words for _, _, words in MISSPELLED])
def test_field_that_there_is_not_is_named_with_the_nearest(tmp_path: Path, text: str, other: str, words: str) -> None:
    file = tmp_path / "a.yaml"
    whole = (ROOT / "examples/minimal.yaml").read_text(encoding="utf-8")
    assert text in whole
    file.write_text(whole.replace(text, other, 1))
    done = run(app, ["explain", "-f", str(file), "--profile", "simulated"])
    assert done.exit_code == 1
    assert f"refused {words}" in done.output


def test_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    whole = (ROOT / "examples/minimal.yaml").read_text(encoding="utf-8")
    file.write_text(whole + "  replicas: 1\n  replicas: 2\n")
    done = run(app, ["explain", "-f", str(file)])
    assert done.exit_code == 2
    assert "'replicas' is there twice" in " ".join(done.output.replace("│", " ").split())


@each_resource
def test_known_fields_are_known_and_maps_take_any_key(path: Path) -> None:
    assert unknown_fields(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@each_resource
def test_everything_has_a_reason_and_a_source(path: Path) -> None:
    _, _, found = sections(path)
    rows = [row for section in found for row in section.rows]
    assert len(rows) > 40
    assert [row.what for row in rows if not row.why or not row.source] == []


@each_resource
def test_the_command_explains_an_example(path: Path) -> None:
    config = ["--profile", "simulated", "--image", "some:1"]
    result = run(app, ["explain", "-f", str(path), *config, "--json"])
    assert result.exit_code == 0, result.output
    titles = [section["title"] for section in json.loads(result.stdout)]
    assert {"Engine", "Arguments of vllm serve", "Volumes"} <= set(titles)
    assert "--no-enable-prefix-caching" in run(app, ["explain", "-f", str(path), *config]).output


def test_no_line_is_cut_however_narrow_the_terminal() -> None:
    file = ROOT / "examples" / "vllm-ascend.yaml"
    output = run(app, ["explain", "-f", str(file)], env={"COLUMNS": "40"}).output
    for section in sections(file)[2]:
        for row in section.rows:
            assert {row.what, f"    {row.why}", f"    from: {row.source}"} <= set(output.splitlines()), row


def test_whether_divergences_are_acted_on_is_told_with_its_reason(tmp_path: Path) -> None:
    resource = yaml.safe_load((ROOT / "examples" / "vllm-ascend.yaml").read_text(encoding="utf-8"))
    row = sections(ROOT / "examples" / "vllm-ascend.yaml")[2][0].rows[2]
    assert row.what == "probe mode by what is attested"
    assert "(Qwen3-1.7B, Qwen3-8B, Qwen3-30B-A3B, Qwen3-235B-A22B), else Observe" in row.why
    resource["spec"]["probe"] = {"mode": "Observe"}
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(resource), encoding="utf-8")
    row = sections(file)[2][0].rows[2]
    assert (row.what, row.why) == ("probe mode Observe", "spec.probe.mode is Observe")


def test_an_engine_without_an_image_is_refused() -> None:
    result = run(app, ["explain", "-f", str(ROOT / "examples" / "vllm-cpu.yaml")], env={"COLUMNS": "300"})
    assert (result.exit_code, "spec.engine.image is not set" in result.output) == (1, True)
    assert "--profile and --image stand for it" in result.output


def test_the_charts_settings_are_taken(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("probeImage: p:1\ndefaultProfile: simulated\nprofileImages: {simulated: 'mine:1'}\n", "utf-8")
    result = run(app, ["explain", "-f", str(ROOT / "examples" / "minimal.yaml"), "--config", str(config)])
    assert result.exit_code == 0
    assert "image mine:1" in result.output


def test_a_resource_that_is_refused_says_why(tmp_path: Path) -> None:
    resource = yaml.safe_load((ROOT / "examples" / "vllm-ascend.yaml").read_text(encoding="utf-8"))
    resource["spec"]["engine"]["extraArgs"] = ["--enable-prefix-caching"]
    file = tmp_path / "resource.yaml"
    file.write_text(yaml.safe_dump(resource), encoding="utf-8")
    result = run(app, ["explain", "-f", str(file)], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert "refused spec.engine.extraArgs[0] is '--enable-prefix-caching'" in result.output


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", "holds no resource"), ("a: {", "give a file"), ("{metadata: {}}", "metadata.name is missing")],
)
def test_a_file_that_is_no_resource_is_a_usage_error(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "resource.yaml"
    file.write_text(content, encoding="utf-8")
    result = run(app, ["explain", "-f", str(file)], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    assert words in result.output


def test_profiles_are_listed_and_shown_with_what_they_know() -> None:
    listed = run(app, ["profile", "list"], env={"COLUMNS": "200"}).output
    assert all(name in listed for name in PROFILES)
    shown = run(app, ["profile", "show", "vllm-ascend-0.23"], env={"COLUMNS": "300"}).output
    profile = PROFILES["vllm-ascend-0.23"]
    for fact in (*profile.symbols, *profile.gaps):
        assert fact.name in shown
        assert fact.reason in shown
    assert run(app, ["profile", "show", "vllm"]).exit_code == 2


@pytest.mark.parametrize(
    ("version", "decision", "profile"),
    [
        ("0.23.0", Decision.SUPPORTED, "vllm-ascend-0.23"),
        ("0.23.0.post1", Decision.SUPPORTED, "vllm-ascend-0.23"),
        ("0.26.0rc1", Decision.PRE_RELEASE, "vllm-ascend-0.26rc"),
        ("0.23.0rc1", Decision.NO_PROFILE, None),
        ("0.23.1", Decision.NO_PROFILE, None),
        ("0.27.1rc1", Decision.PRE_RELEASE, "vllm-ascend-0.27rc"),
        ("0.28.0rc1", Decision.PRE_RELEASE, "vllm-ascend-0.28rc"),
        ("0.29.0rc1", Decision.PRE_RELEASE, "vllm-ascend-0.29rc"),
        ("0.30.0rc2", Decision.PRE_RELEASE, "vllm-ascend-0.30rc"),
        ("v0.30.0rc2", Decision.PRE_RELEASE, "vllm-ascend-0.30rc"),
        ("0.30.0rc1", Decision.NO_PROFILE, None),
        ("0.26.0rc2", Decision.NO_PROFILE, None),
        ("0.31.0", Decision.NO_PROFILE, None),
        ("latest", Decision.NO_PROFILE, None),
        ("0.23.0.post1-a3", Decision.NO_PROFILE, None),
        ("0.20.2rc1", Decision.DEGRADED, None),
        ("0.18.0", Decision.DEGRADED, None),
        ("0.13.0", Decision.REFUSED, None),
        ("0.7.3.post1", Decision.REFUSED, None),
    ],
)
def test_a_release_is_admitted_as_the_table_says(version: str, decision: Decision, profile: str | None) -> None:
    entry = admission(version)
    assert (entry.decision, entry.profile) == (decision, profile)
    result = run(app, ["profile", "check", version], env={"COLUMNS": "300"})
    assert result.exit_code == (0 if profile else 1)
    assert entry.reason in result.output


@pytest.mark.parametrize(
    ("version", "profile"),
    [
        ("0.31.0", "vllm-ascend-0.30rc"),
        ("0.30.0rc1", "vllm-ascend-0.29rc"),
        ("0.26.0rc2", "vllm-ascend-0.26rc"),
        ("0.26.0", "vllm-ascend-0.26rc"),
        ("0.25.1rc1", "vllm-ascend-0.23"),
        ("0.21.0rc1", "vllm-ascend-0.23"),
        ("1.0.0", "vllm-ascend-0.30rc"),
    ],
)
def test_a_release_without_a_profile_is_told_the_nearest_one(version: str, profile: str) -> None:
    assert f"; the nearest profile is {profile}\n" in run(
        app, ["profile", "check", version], env={"COLUMNS": "400"}
    ).output.replace(" \n", "\n")


def test_what_is_no_version_has_no_nearest_profile() -> None:
    result = run(app, ["profile", "check", "main"], env={"COLUMNS": "400"})
    assert result.exit_code == 1
    assert "no version of vLLM-Ascend" in result.output
    assert "nearest" not in result.output


def test_admission_and_profiles_name_the_same_versions() -> None:
    admitted = {entry.profile: set(entry.versions) for entry in RELEASES if entry.profile}
    named = {
        name: set(profile.packages["vllm-ascend"])
        for name, profile in PROFILES.items()
        if "vllm-ascend" in profile.packages
    }
    assert admitted == named
