"""detinf.slo."""
