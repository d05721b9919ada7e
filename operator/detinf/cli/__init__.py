"""The command line: ``detinf``."""
