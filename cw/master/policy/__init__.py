"""The master's policy: state machines that decide what runs where. No socket, no thread, no clock."""
