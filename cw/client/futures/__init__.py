"""Futures of calls, and how their errors are shown."""
