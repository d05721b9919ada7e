"""The probe's command line, and its port, which is open before anything large is imported.

While nobody listens there the kubelet takes the engine for unready. A probe that starts again needs most of a second
for its imports; a connection that is made meanwhile waits for its answer instead of being refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detinf.guard import layout
from detinf.guard.addresses import EVERY


def parser() -> argparse.ArgumentParser:
    """Return the command line; its defaults are a pod's paths."""
    top = argparse.ArgumentParser(prog="detinf.probe", description="The probe beside an engine.")
    top.add_argument("--plan", type=Path, default=Path(layout.PLAN_PATH))
    top.add_argument("--settings", type=Path, default=Path(layout.SETTINGS_PATH))
    top.add_argument("--delivery-dir", type=Path, default=Path(layout.DELIVERY_DIR))
    top.add_argument("--shared-dir", type=Path, default=Path(layout.SHARED_DIR))
    top.add_argument("--state-dir", type=Path, default=Path(layout.STATE_DIR))
    top.add_argument("--podinfo-dir", type=Path, default=Path(layout.PODINFO_DIR))
    top.add_argument("--engine-url", default=f"http://127.0.0.1:{layout.ENGINE_PORT}")
    top.add_argument("--host", default=EVERY)  # the kubelet and the controller come from outside
    top.add_argument("--port", type=int, default=layout.PROBE_PORT)
    return top
