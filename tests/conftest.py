"""Fixtures that every test level shares."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The one fake, of our own port, see fakes/cluster_api.py; what looks at the API server from outside; and the simulated
# engine in virtual time.
sys.path[:0] = [str(HERE / "fakes"), str(HERE / "observers"), str(HERE / "virtual")]
