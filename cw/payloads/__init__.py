"""Payloads of messages: calls, results, errors and environments, to bytes and back."""
