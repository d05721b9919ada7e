"""Engines: what is known of each release is data (profiles); plans are derived from it."""
