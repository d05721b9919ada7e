"""``python -m detinf.controller``."""

import sys

from detinf.controller.process import main

sys.exit(main())
