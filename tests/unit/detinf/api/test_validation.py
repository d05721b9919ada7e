"""What the schema cannot know is said in one sentence: the field, its value, the remedy."""

from typing import Any

import pytest

from detinf.api.validation import KnownProfile, Rules, validate

RULES = Rules(
    profiles={"simulated": KnownProfile("sim:1", uses_devices=True), "vllm-cpu-0.32": KnownProfile(None, False)},
    host_path_prefixes=("/var/lib/detinf/models", "/data/"),
)
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
HUB = {"repository": "Qwen/Qwen3-8B", "revision": "0123456789abcdef" * 2 + "01234567", "cacheClaimName": "cache"}


def resource(**spec: Any) -> dict[str, Any]:
    return {"spec": {"model": {"source": CLAIM}, "engine": {"profile": "simulated"}} | spec}


def sentences(manifest: dict[str, Any], rules: Rules = RULES) -> list[str]:
    return [str(problem) for problem in validate(manifest, rules)[1]]


def test_a_valid_resource_has_no_problem_and_its_defaults() -> None:
    spec, problems = validate(resource(), RULES)
    assert problems == []
    assert spec is not None
    assert (spec.engine.max_num_seqs, spec.replicas, spec.model.dtype) == (32, 1, "bfloat16")


def test_a_field_of_a_newer_schema_is_ignored() -> None:
    assert sentences(resource(addedLater={"a": 1})) == []


def test_an_unknown_profile_is_refused_with_those_that_exist() -> None:
    expected = (
        "spec.engine.profile is 'vllm-ascend-0.23': this release cannot attest that engine; "
        "use one of simulated, vllm-cpu-0.32"
    )
    assert sentences(resource(engine={"profile": "vllm-ascend-0.23"})) == [expected]


def test_no_profile_and_no_default_is_refused_with_both_remedies() -> None:
    assert sentences(resource(engine={})) == [
        "spec.engine.profile is not set: name one of simulated, vllm-cpu-0.32, or set the chart's engine.defaultProfile"
    ]


def test_the_charts_default_profile_stands_in() -> None:
    rules = Rules(profiles=RULES.profiles, default_profile="simulated")
    assert sentences(resource(engine={}), rules) == []


def test_a_profile_without_a_published_image_needs_one() -> None:
    manifest = resource(engine={"profile": "vllm-cpu-0.32"})
    expected = (
        "spec.engine.image is not set: profile vllm-cpu-0.32 has no published image; "
        "name one here or in the chart's engine.images"
    )
    assert sentences(manifest) == [expected]
    with_chart = Rules(profiles=RULES.profiles, profile_images={"vllm-cpu-0.32": "cpu:1"})
    assert sentences(manifest, with_chart) == []
    assert sentences(resource(engine={"profile": "vllm-cpu-0.32", "image": "cpu:2"})) == []


def test_devices_for_a_profile_without_them_are_refused_item_by_item() -> None:
    engine = {"profile": "vllm-cpu-0.32", "image": "cpu:1"}
    found = sentences(resource(engine=engine, parallelism={"tensor": 2}, topology={"chip": "910B3", "hbmGiB": 64}))
    assert found == [
        "spec.parallelism.tensor is 2: profile vllm-cpu-0.32 uses no NPUs; use 1",
        "spec.topology.chip is '910B3': profile vllm-cpu-0.32 uses no NPUs, so nothing could verify it; remove it",
        "spec.topology.hbmGiB is 64: profile vllm-cpu-0.32 uses no NPUs, so nothing could verify it; remove it",
    ]


@pytest.mark.parametrize(
    "path",
    ["/var/lib/detinf/models/a", "/var/lib/detinf/models", "/data/x", "/data/x/y/", "/var/lib/detinf/models/..a"],
)
def test_a_folder_under_an_allowed_prefix_is_taken(path: str) -> None:
    assert sentences(resource(model={"source": {"hostPath": {"path": path}}})) == []


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/detinf/models-of-others/a",
        "/var/lib/detinf",
        "/database",
        "/etc",
        "/",
        "/var/lib/detinf/models/../../../../etc",
        "/data/./../etc",
        "data/x",
    ],
)
def test_a_folder_outside_every_allowed_prefix_is_refused(path: str) -> None:
    found = sentences(resource(model={"source": {"hostPath": {"path": path}}}))
    assert len(found) == 1
    assert found[0].startswith(f"spec.model.source.hostPath.path is {path!r}: use ")


@pytest.mark.parametrize("prefixes", [(), ("/",), ("",)])
def test_without_a_real_prefix_no_folder_is_taken(prefixes: tuple[str, ...]) -> None:
    rules = Rules(profiles=RULES.profiles, host_path_prefixes=prefixes)
    found = sentences(resource(model={"source": {"hostPath": {"path": "/data/x"}}}), rules)
    assert len(found) == 1
    assert "models.hostPathPrefixes" in found[0]


@pytest.mark.parametrize("source", [{}, {**CLAIM, "hostPath": {"path": "/data/x"}}, {**CLAIM, "huggingFace": HUB}])
def test_a_source_that_got_past_the_schema_is_refused(source: dict[str, Any]) -> None:
    found = sentences(resource(model={"source": source}))
    assert len(found) == 1
    assert "set exactly one of persistentVolumeClaim, hostPath, huggingFace and modelScope" in found[0]


@pytest.mark.parametrize("hub", ["huggingFace", "modelScope"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"repository": "Qwen/Qwen2.5-0.5B_x"}, None),
        ({"revision": "main"}, "revision is 'main': use a full commit, 40 hexadecimal digits in lower case"),
        ({"revision": "0" * 39}, "use a full commit"),
        ({"revision": "A" * 40}, "use a full commit"),
        ({"revision": "0" * 40 + "\n"}, "use a full commit"),
        ({"repository": "Qwen3-8B"}, "repository is 'Qwen3-8B': use OWNER/NAME"),
        ({"repository": "../.."}, "use OWNER/NAME"),
        ({"repository": "a/b/c"}, "use OWNER/NAME"),
        ({"repository": "a/b--c"}, "use OWNER/NAME"),
        ({"repository": "a/b.git"}, "use OWNER/NAME"),
    ],
)
def test_a_hubs_source_that_got_past_the_schema_is_held_to_a_commit(
    hub: str, change: dict[str, str], words: str | None
) -> None:
    found = sentences(resource(model={"source": {hub: HUB | change}}))
    assert len(found) == (words is not None)
    assert all(item.startswith(f"spec.model.source.{hub}.") and str(words) in item for item in found)


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        ({}, "spec "),
        ({"spec": None}, "spec "),
        ({"spec": "text"}, "spec "),
        ({"spec": {}}, "spec.model "),
        ({"spec": {"model": {"source": CLAIM, "dtype": "auto"}}}, "spec.model.dtype "),
        ({"spec": {"model": {"source": CLAIM}, "replicas": "many"}}, "spec.replicas "),
        ({"spec": {"model": {"source": CLAIM}, "scheduling": {"tolerations": [7]}}}, "spec.scheduling.tolerations[0] "),
    ],
)
def test_a_resource_that_cannot_be_read_is_one_problem_and_no_exception(manifest: dict[str, Any], field: str) -> None:
    spec, problems = validate(manifest, RULES)
    assert spec is None
    assert len(problems) == 1
    assert str(problems[0]).startswith(field)
    assert "apply again" in str(problems[0])
