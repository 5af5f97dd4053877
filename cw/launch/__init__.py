"""What starts clusters, in whatever place: processes known for certain, the wait until one is ready."""
