"""``python -m detinf.probe``: first the port, then everything else."""

import sys

from detinf.guard.addresses import listening
from detinf.probe.port import parser

options = parser().parse_args()
with listening(options.host, options.port) as listener:
    from detinf.probe.app import main

    sys.exit(main(options, listener))
