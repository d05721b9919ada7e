"""detinf.topology."""
