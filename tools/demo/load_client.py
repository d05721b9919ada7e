"""A user: one stream of requests through the Service, each on a new connection, each answer compared bit by bit.

Runs in a pod with nothing but Python. Writes what it saw to /tmp/seen.json after each request.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

BODY = {
    "prompt": [11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
    "max_tokens": 24,
    "min_tokens": 24,
    "ignore_eos": True,
    "temperature": 1.0,
    "seed": 7,
    "logprobs": 1,
    "return_token_ids": True,
}
SEEN = Path("/tmp/seen.json")  # noqa: S108 - the pod's own emptyDir


def ask(host: str, port: int, model: str) -> tuple[str, str]:
    """Return (boot, digest of ids and logprobs) of one answer.

    Raises:
        OSError: where no connection comes about.
        ValueError: for any answer but 200 with a completion.
    """
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        body = json.dumps(BODY | {"model": model})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {text[:200]!r}")
        choice = json.loads(text)["choices"][0]
        answer = json.dumps([choice["token_ids"], choice["logprobs"]["token_logprobs"]])
        return response.headers.get("X-Detinf-Boot", ""), hashlib.sha256(answer.encode()).hexdigest()[:12]
    finally:
        connection.close()


def main() -> int:
    """Send requests until SIGTERM."""
    host, port, model = os.environ["TARGET_HOST"], int(os.environ["TARGET_PORT"]), os.environ["TARGET_MODEL"]
    pause = float(os.environ["PAUSE_SECONDS"])
    running = True

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    seen: dict[str, Any] = {"answers": 0, "failed": 0, "first": None, "different": 0, "errors": [], "boots": {}}
    while running:
        try:
            boot, digest = ask(host, port, model)
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            seen["failed"] += 1
            seen["errors"] = [*seen["errors"], f"{time.time():.0f} {type(error).__name__}: {error}"][-5:]
            time.sleep(0.2)
        else:
            seen["answers"] += 1
            seen["first"] = seen["first"] or digest
            different = digest != seen["first"]
            seen["different"] += different
            of_boot = seen["boots"].setdefault(boot, {"answers": 0, "different": 0, "last": 0})
            of_boot["answers"] += 1
            of_boot["different"] += different
            of_boot["last"] = int(time.time())
        seen["now"] = int(time.time())
        draft = SEEN.with_suffix(".draft")
        draft.write_text(json.dumps(seen), encoding="utf-8")
        draft.rename(SEEN)
        time.sleep(pause)  # a user who reads; nothing is waited for
    return 0


if __name__ == "__main__":
    sys.exit(main())
