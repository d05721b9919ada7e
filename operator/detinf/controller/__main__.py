"""``python -m detinf.controller``."""

import sys

from detinf.controller.app import main

sys.exit(main())
