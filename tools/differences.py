"""What can differ between two engines, and who notices: the rows of ``docs/reference/what-can-differ.md``.

The tests change each one in a running stand-in (``tests/unit/detinf/guard/test_what_can_differ.py``); a row of a layer
beyond the guard names the tests that do. What may differ is read from the profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Profile
from detinf.guard.variables import OWN

FINGERPRINT, REFUSED, OVERRIDDEN = "another fingerprint", "refused", "the plan is put over it, and it is told"
Noticed = Literal["another fingerprint", "refused", "the plan is put over it, and it is told"]


@dataclass(frozen=True)
class Row:
    """One thing that differs."""

    key: str
    """By which the test knows what changes it."""
    what: str
    layer: str
    noticed: Noticed
    words: str = ""
    """Of the refusal; else what the attestation's identity has another value of."""


@dataclass(frozen=True)
class Beyond:
    """One thing that no guard can see, or not alone, and who does."""

    what: str
    layer: str
    noticed: str
    tests: tuple[str, ...]
    """``FILE::FUNCTION``."""


START = "guard, before the engine starts"
RUNNING = "guard, on the engine that runs"
INSIDE = "plug-in, in the engine's process"

ROWS = (
    Row("variable", "a variable that the plan does not know: image, webhook", START, FINGERPRINT, "environment"),
    Row("preload", "a library that is loaded before all others (`LD_PRELOAD`)", START, FINGERPRINT, "environment"),
    Row("search-path", "where programs and libraries are found (`PATH`)", START, FINGERPRINT, "environment"),
    Row("secret", "a token", START, FINGERPRINT, "environment"),
    Row("pod-value", "a variable of the pod with another value than ours (`HOME`)", START, FINGERPRINT, "environment"),
    Row("planned-variable", "a variable that the plan sets", START, OVERRIDDEN),
    Row("unset-variable", "a variable that the plan unsets", START, OVERRIDDEN),
    Row("script-variable", "a variable that a set-up script exports", START, FINGERPRINT, "environment"),
    Row("script-planned", "a variable of the plan that a set-up script exports", START, OVERRIDDEN),
    Row("script-fails", "a set-up script that fails half-way", START, REFUSED, "it returned 1"),
    Row("plan", "the image, or anything else of the plan", START, FINGERPRINT, "plan"),
    Row("argument", "an argument of the command line", START, REFUSED, "the plan says"),
    Row("added-argument", "an argument behind the plan's", START, REFUSED, "is not in the plan"),
    Row("package", "the version of a package", START, FINGERPRINT, "packages"),
    Row("promised-package", "the version of a package that the profile names", START, REFUSED, "the profile is for"),
    Row(
        "prompt-package",
        "a package that makes prompts or says which token may come next (jinja2, xgrammar)",
        START,
        FINGERPRINT,
        "packages",
    ),
    Row("build", "the build of a package: its RECORD", START, FINGERPRINT, "builds"),
    Row("module", "the module that is imported, and its metadata", START, REFUSED, "is imported from"),
    Row("python", "the interpreter's version", START, FINGERPRINT, "python"),
    Row("toolkit", "CANN's version", START, FINGERPRINT, "toolkit"),
    Row("promised-toolkit", "CANN's version where the profile names one", START, REFUSED, "the profile is for"),
    Row("library", "the bytes of an operator library", START, FINGERPRINT, "files"),
    Row("no-library", "an operator library that is not there", START, REFUSED, "no file at"),
    Row("devices", "the number of NPUs", START, REFUSED, "the plan says 2"),
    Row("chip", "the kind of NPU", START, FINGERPRINT, "hardware"),
    Row("memory", "the memory of an NPU", START, FINGERPRINT, "hardware"),
    Row("driver", "the driver", START, FINGERPRINT, "hardware"),
    Row("firmware", "the firmware", START, FINGERPRINT, "hardware"),
    Row("link", "how NPUs are joined", START, FINGERPRINT, "hardware"),
    Row("declared-driver", "any of these where `spec.topology` declares it", START, REFUSED, "driver version is"),
    Row("sick", "an NPU that is not well", START, REFUSED, "is Alarm"),
    Row("processor", "the instruction sets of the processor, without NPUs", START, FINGERPRINT, "hardware"),
    Row("model-config", "the model's config.json", START, FINGERPRINT, "modelConfig"),
    Row("tokenizer", "the tokenizer, or any other small file of the model", START, FINGERPRINT, "modelFiles"),
    Row("chat-template", "the model's chat template", START, FINGERPRINT, "modelFiles"),
    Row("generation-config", "the model's generation configuration", START, FINGERPRINT, "modelFiles"),
    Row("weights-size", "the weights, by name and size", START, FINGERPRINT, "modelFiles"),
    Row("named-file", "a file that an argument names (`--chat-template`)", START, FINGERPRINT, "argumentFiles"),
    Row("weights", "the weights, with `spec.model.manifestDigest`", START, REFUSED, "the plan says sha256:"),
    Row("clock", "the clock, in a chat template", START, REFUSED, "reads the clock"),
    Row("launcher", "a variable that is set between guard and engine", INSIDE, REFUSED, "api-server: environment: "),
    Row("launcher-planned", "a variable of the plan that is set there", INSIDE, REFUSED, "the plan says '0'"),
    Row(
        "worker-variable",
        "a variable of the plan in one process of the engine",
        INSIDE,
        REFUSED,
        "worker-1: environment",
    ),
    Row("configuration", "the effective configuration", INSIDE, REFUSED, "configuration: "),
    Row("symbol", "a kernel that is not the batch-invariant one", INSIDE, REFUSED, "symbol: "),
    Row("kv-cache", "how many requests fit, so that none is preempted", INSIDE, REFUSED, "kv-cache: "),
    Row("vocabulary", "the vocabulary in the engine and in config.json", INSIDE, REFUSED, "vocabulary: "),
    Row("changing-model", "the model's tokenizer while weights are loaded", INSIDE, REFUSED, "api-server: model: "),
    Row("changing-template", "a file that an argument names, meanwhile", INSIDE, REFUSED, "api-server: model: "),
    Row("changing-device", "the hardware while the engine starts", RUNNING, FINGERPRINT, "hardware"),
)

SETS = "tests/unit/detinf/guard/test_attested_sets.py"
FLOWS = "tests/unit/detinf/controller/test_flows.py"
IMAGES = "tests/unit/detinf/controller/test_images.py"
LIFETIME = "tests/simulation/test_probe_lifetime.py"
BEYOND = (
    Beyond(
        "two replicas of one plan with different fingerprints, other than in their hardware",
        "controller",
        "`IdentityDrift`: the later one does not serve, and what differs is named",
        (f"{FLOWS}::test_replica_with_another_variable_than_the_first_of_its_plan_never_serves_and_names_it",),
    ),
    Beyond(
        "two replicas with different hardware that nobody declared",
        "controller",
        "`TopologyDrift`: the later one does not serve, and what differs is named",
        (f"{FLOWS}::test_replica_with_other_hardware_than_the_first_baselines_never_serves",),
    ),
    Beyond(
        "the image behind a tag, whatever the fingerprint says",
        "controller",
        "the later replica does not serve, and both images are named",
        (f"{IMAGES}::test_replica_of_another_image_with_the_same_fingerprint_does_not_serve",),
    ),
    Beyond(
        "ranks of one engine that found different symbols or configurations",
        "probe",
        "not attested",
        (f"{SETS}::test_set_that_is_not_complete_and_right_is_not_attested_unless_the_one_check_is_broken",),
    ),
    Beyond(
        "an engine that was started around the guard, or whose plug-in raised",
        "probe",
        "not attested",
        ("tests/unit/detinf/guard/test_fail_closed.py::test_engine_that_was_started_around_the_guard_is_not_attested",),
    ),
    Beyond(
        "what the others ask meanwhile: width, prefills among decodes, samplers",
        "probe",
        "the answers differ: the gate does not pass",
        (
            f"{LIFETIME}::test_fault_at_the_gate_never_serves",
            f"{LIFETIME}::test_gate_sees_a_fault_that_only_a_mixed_step_shows",
        ),
    ),
    Beyond(
        "a request that is known to change its neighbours' answers, or that nobody has looked at",
        "guard's middleware",
        "refused by route or field, with the reason",
        (
            "tests/unit/detinf/guard/test_requests.py::test_routes_are_served_or_refused",
            "tests/unit/detinf/guard/test_requests.py::test_fields_are_refused_by_name_value_reason_and_remedy",
        ),
    ),
    Beyond(
        "what nobody reads: a chip that computes wrongly, a file of the image that was edited in place, weights of the "
        "same size without a manifest, the kernel",
        "probe",
        "the answers differ from the baseline: evidence",
        (f"{LIFETIME}::test_fault_while_serving_becomes_evidence",),
    ),
)


def may_differ(profile: Profile) -> list[tuple[str, str]]:
    """Return (names, reason) of what a profile leaves out of the fingerprint."""
    groups = [(", ".join(f"`{name}`" for name in group.names), group.reason) for group in profile.unrecorded_variables]
    fields = [(f"`{item.name}`", item.reason) for item in profile.pod_variables if item.value is None]
    constant = [
        (f"`{item.name}={item.value}`", item.reason) for item in profile.pod_variables if item.value is not None
    ]
    allowed: dict[str, list[str]] = {}
    for item in profile.allowed_variables:
        if item.recorded:
            continue
        allowed.setdefault(item.reason, []).append(f"`{item.name}`")
    return [*groups, *fields, *constant, *((", ".join(names), reason) for reason, names in allowed.items())]


def render() -> str:
    """Return the document."""
    lines = [
        "# What can differ between two engines, and who notices",
        "",
        "Every input that can change a bit, and the layer that holds it. Generated from `tools/differences.py` and the",
        "profiles (`make generate`). `tests/unit/detinf/guard/test_what_can_differ.py` changes each row of the first",
        "table by itself in a running stand-in, and sees what stands there; a row without a change fails. Two engines",
        "of one fingerprint agree in all of it.",
        "",
        "| What differs | Who notices | How |",
        "|---|---|---|",
    ]
    for row in ROWS:
        how = row.noticed
        how += f": `{row.words.strip()}`" if row.noticed == REFUSED else f" (`{row.words}`)" if row.words else ""
        lines.append(f"| {row.what} | {row.layer} | {how} |")
    lines += [
        "",
        "What the guard of one engine cannot see, or not alone, is held by others:",
        "",
        "| What differs | Who notices | How | Shown by |",
        "|---|---|---|---|",
    ]
    for item in BEYOND:
        tests = ", ".join(f"`{test.rpartition('/')[2].partition('::')[0]}`" for test in item.tests)
        lines.append(f"| {item.what} | {item.layer} | {item.noticed} | {tests} |")
    lines += [
        "",
        "## What may differ",
        "",
        "Variables outside the fingerprint (`environment.unrecorded` of the plan), with profile `vllm-ascend-0.23`.",
        "Every other variable of an engine is the plan's, or is recorded. A site adds its own with",
        "`unrecordedVariables` of a profile in `engine.profiles`, which makes another plan.",
        "",
        "| Variables | Why |",
        "|---|---|",
    ]
    names = ", ".join(f"`{name}`" for name in sorted(OWN))
    lines.append(f"| {names} | the guard's words to the engine, and the pod's names |")
    lines += [f"| {names} | {reason} |" for names, reason in may_differ(PROFILES["vllm-ascend-0.23"])]
    return "\n".join([*lines, ""])
