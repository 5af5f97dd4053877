"""Sentences for a user who waits: why, what to do, and that the wait is over. Each one is a line of the log."""
