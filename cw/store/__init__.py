"""Results on disk: what each call came to, found again by a key that says which calls are the same."""
