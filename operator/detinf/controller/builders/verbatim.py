"""Text that the kubelet is to pass on as it is: in a container's command and variables it replaces ``$(NAME)``.

Its rule (Kubernetes 1.36.3, ``third_party/forked/golang/expansion/expand.go``): ``$(NAME)`` is the value of a variable
of the container that has that name, else itself; ``$$`` is ``$``; any other ``$`` is itself. So a text with each ``$``
doubled is passed on as it was, whatever stands behind it.
"""

from __future__ import annotations


def verbatim(text: str) -> str:
    """Return what the kubelet makes this text of."""
    return text.replace("$", "$$")


def passed_on(text: str) -> str:
    """Return what the kubelet makes of a text that ``verbatim`` returned."""
    return text.replace("$$", "$")
