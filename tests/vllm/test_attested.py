"""Guard and plug-in around the real engine: every process of it attests, and one that is wrong does not serve."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from detinf.documents import Attestation
from detinf.guard.layout import BOOT_HEADER, REFUSED_EXIT_CODE
from detinf.probe.attested import Attested

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

PROCESSES = ["guard", "api-server", "engine-core", "worker-0"]


def said(url: str, body: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    """Return what the engine answers, and the boot that it names."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read()), answer.headers[BOOT_HEADER]


@pytest.mark.parametrize("engine", ["stock"], indirect=True)
def test_every_process_of_the_real_engine_attests_and_answers_carry_the_fingerprint(engine: Any) -> None:
    attested = engine.guarded.attested()
    assert isinstance(attested, Attested), attested
    found = {
        name: Attestation.parse((engine.guarded.folder / "shared" / f"attestation-{name}.json").read_bytes())
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
    answer, boot = said(f"{engine.url}/v1/completions", body)
    assert answer["system_fingerprint"] == attested.fingerprint
    assert boot == attested.boot


@pytest.mark.parametrize("engine", ["stock"], indirect=True)
def test_snapshot_that_its_own_library_downloaded_is_what_the_real_engine_serves(engine: Any, tiny_model: Any) -> None:
    assert engine.hub is not None
    files = {path.name for path in tiny_model.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= files
    assert sorted(engine.hub.served) == sorted(files)  # each once, by the guard; the engine asked for none
    path = engine.guarded.folder / "shared" / "attestation-guard.json"
    assert "download" in Attestation.parse(path.read_bytes()).checks
    assert f"/models--detinf--tiny/snapshots/{engine.hub.revision}" in engine.guarded.model
    (served,) = said(f"{engine.url}/v1/models")[0]["data"]
    assert served["root"] == engine.guarded.model


def test_real_engine_with_another_effective_configuration_ends_before_it_serves(refused: Any) -> None:
    refused.until(refused.healthy)
    assert refused.process.poll() == REFUSED_EXIT_CODE, refused.output()
    words = "worker-0: configuration: cache_config.enable_prefix_caching is false in effect, the plan says true"
    assert words in (refused.folder / "log").read_text()
    assert isinstance(refused.attested(), list)
