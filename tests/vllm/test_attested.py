"""Guard and plug-in around the real engine: every process of it attests, and one that is wrong does not serve."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from guarded import guarded  # tools/vllm_cpu, found through conftest

from detinf.documents import Attestation
from detinf.guard.layout import BOOT_HEADER, REFUSED_EXIT_CODE
from detinf.probe.attested import Attested

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

PROCESSES = ["guard", "api-server", "engine-core", "worker-0"]


def test_every_process_of_the_real_engine_attests_and_answers_carry_the_fingerprint(
    kit: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with guarded(kit, tiny_model, tmp_path) as running:
        running.until(running.healthy)
        assert running.process.poll() is None, running.output()
        attested = running.attested()
        assert isinstance(attested, Attested), attested
        found = {
            name: Attestation.parse((tmp_path / "shared" / f"attestation-{name}.json").read_bytes())
            for name in PROCESSES
        }
        assert {item.fingerprint for item in found.values()} == {attested.fingerprint}
        assert found["engine-core"].checks == ["environment", "configuration", "vocabulary", "kv-cache"]
        for name in PROCESSES[1:]:
            observed = found[name].observed
            assert observed is not None
            assert observed["cache_config.enable_prefix_caching"] == "false"
            assert observed["model_config.dtype"] == '"torch.float32"'
        body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 2}
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{running.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
            assert json.loads(answer.read())["system_fingerprint"] == attested.fingerprint
            assert answer.headers[BOOT_HEADER] == attested.boot


def other_configuration(plan: dict[str, Any]) -> None:
    # As if the engine had it on: what is in effect is another than the plan's.
    plan["attestation"]["configuration"]["cache_config.enable_prefix_caching"] = "true"


def test_real_engine_with_another_effective_configuration_ends_before_it_serves(
    kit: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with guarded(kit, tiny_model, tmp_path, other_configuration) as running:
        running.until(running.healthy)
        assert running.process.poll() == REFUSED_EXIT_CODE, running.output()
        words = "worker-0: configuration: cache_config.enable_prefix_caching is false in effect, the plan says true"
        assert words in (tmp_path / "log").read_text()
        assert isinstance(running.attested(), list)
