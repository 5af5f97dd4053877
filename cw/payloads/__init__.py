"""What travels inside messages: calls, results, errors and surroundings, to bytes and back."""
