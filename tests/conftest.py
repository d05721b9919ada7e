"""Fixtures that every test level shares."""
