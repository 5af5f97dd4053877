"""Detached runs: the steward, which holds the calls of a run in place of its script."""
