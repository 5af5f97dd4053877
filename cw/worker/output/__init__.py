"""Output of jobs, from the runners' pipes to the client and the log."""
