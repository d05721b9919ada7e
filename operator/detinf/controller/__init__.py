"""detinf.controller."""
