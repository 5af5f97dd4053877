"""Maps: many calls of one function, their batches and their results."""
