"""The session of a client: its jobs on their way to the master, and their results on the way back."""
