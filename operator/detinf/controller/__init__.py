"""The controller: gather -> decide -> carry out, level-triggered, with no memory but the cluster.

``decide`` and what it composes (``qualification``, ``quarantine``, ``rollout``, ``status``) are pure; ``gather`` and
``carry_out`` are the only I/O; ``app`` is the only place that knows kopf.
"""
