"""``python -m detinf.probe``."""

import sys

from detinf.probe.app import main

sys.exit(main())
