"""detinf.cli."""
