"""detinf.engines."""
