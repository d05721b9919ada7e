"""detinf.probe."""
