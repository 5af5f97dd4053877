"""The worker of one machine: its slots, and the runners in them. It runs no user code."""
