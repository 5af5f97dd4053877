"""Results on disk: the outcome of each call, found again by a key that is the same for the same call."""
