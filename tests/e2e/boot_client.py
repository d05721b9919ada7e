"""In the cluster: ask through the Service, and watch which boots their probes call ready. Writes /tmp/seen.json.

Runs with nothing but Python. ``POD_IPS`` are the replicas' addresses, which a container restart does not change.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from pathlib import Path

HOST, PODS = os.environ["TARGET_HOST"], os.environ["POD_IPS"].split(",")
BODY = json.dumps({"model": "demo", "prompt": [5, 6, 7], "max_tokens": 4, "seed": 1})
lock = threading.Lock()
seen: dict[str, dict[str, float]] = {
    "ready": {},
    "unready": {},
    "answered": {},
    "counts": {"answers": 0, "failed": 0},
}


def watch(address: str) -> None:
    """Note when each boot was first seen to be ready, and when it was last asked and was not yet.

    What is seen is seen late: an answer that comes before the sight of a ready boot proves nothing. One that comes
    before a question to which the boot then says that it is not ready yet proves that it answered too early.
    """
    while True:
        asked = time.time()
        try:
            connection = http.client.HTTPConnection(address, 9400, timeout=5)
            connection.request("GET", "/v1/report")
            report = json.loads(connection.getresponse().read())
            with lock:
                if report["ready"]:
                    seen["ready"].setdefault(report["boot"], time.time())
                elif report.get("boot", "") not in seen["ready"]:
                    seen["unready"][report.get("boot", "")] = asked
            connection.close()
        except (OSError, ValueError, http.client.HTTPException):
            pass
        time.sleep(0.02)


for pod in PODS:
    threading.Thread(target=watch, args=(pod,), daemon=True).start()
while True:
    try:
        service = http.client.HTTPConnection(HOST, 8000, timeout=30)
        service.request("POST", "/v1/completions", BODY, {"Content-Type": "application/json"})
        response = service.getresponse()
        response.read()
        boot = response.headers.get("X-Detinf-Boot", "none")
        service.close()
        with lock:
            seen["answered"].setdefault(boot, time.time())
            seen["counts"]["answers"] += 1
    except (OSError, http.client.HTTPException):
        with lock:
            seen["counts"]["failed"] += 1
    with lock:
        draft = Path("/tmp/seen.draft")
        draft.write_text(json.dumps(seen), encoding="utf-8")
        draft.rename("/tmp/seen.json")
    time.sleep(0.01)
