"""Process in which jobs run, one after the other, and may die."""
