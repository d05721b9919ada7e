"""Deterministic inference on Kubernetes: pinned, attested and measured, never assumed."""

__version__ = "0.1.0"
