"""Fixtures that every test level shares."""

from __future__ import annotations

import sys
from pathlib import Path

# The one fake, of our own port; see tests/fakes/cluster_api.py.
sys.path.insert(0, str(Path(__file__).resolve().parent / "fakes"))
