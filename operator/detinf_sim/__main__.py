"""``python -m detinf_sim``."""

import sys

from detinf_sim.cli import main

sys.exit(main())
