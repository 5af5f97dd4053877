"""Functions as they travel: their forms, what they reach, and what has changed since."""
