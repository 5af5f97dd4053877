"""What this machine gives this process: memory, GPUs, cores: found in files and variables, no driver is called."""
