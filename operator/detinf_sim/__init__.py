"""The simulated engine: vLLM's interface, a deterministic model, and faults on demand."""
