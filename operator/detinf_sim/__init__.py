"""The simulated engine: vLLM's command line and HTTP API, a deterministic model, and faults on demand.

It stands in for an engine where a test is about faults that no healthy engine shows, or about speed. Its core
(``model``, ``scheduler``, ``faults``) is pure and runs in virtual time; ``server`` is a shell around it.
"""
