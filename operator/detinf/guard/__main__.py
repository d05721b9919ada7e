"""``python -m detinf.guard``."""

import sys

from detinf.guard.cli import main

sys.exit(main(sys.argv[1:]))
