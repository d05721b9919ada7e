"""The resource: its types, the names and labels derived from it, and its conditions."""
