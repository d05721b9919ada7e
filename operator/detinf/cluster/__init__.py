"""The cluster as the controller sees it: one narrow port, and its adapter over ``kubernetes.aio``."""
