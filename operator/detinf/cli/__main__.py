"""``python -m detinf.cli``."""

from detinf.cli.main import main

main()
