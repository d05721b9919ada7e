"""``python -m detinf.probe``: first the port, then everything else."""

import sys

from detinf.probe.port import held, parser

options = parser().parse_args()
with held(options.host, options.port) as listener:
    from detinf.probe.app import main

    sys.exit(main(options, listener))
