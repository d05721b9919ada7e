"""Fixtures that every test level shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

HERE = Path(__file__).resolve().parent
# The one fake, of our own port, see fakes/cluster_api.py; what looks at the API server from outside; the simulated
# engine in virtual time; what stands in for the model hubs, which other people's libraries talk to; a bad way to the
# API server.
sys.path[:0] = [str(HERE / name) for name in ("fakes", "observers", "virtual", "stand_ins", "faults")]

# The same examples in every run, and no limit on the time of one: a red run means a change of the code. Other examples:
# DETINF_HYPOTHESIS=other.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("other", deadline=None)
settings.load_profile(os.environ.get("DETINF_HYPOTHESIS", "same"))
