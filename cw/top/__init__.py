"""`cw top`: a cluster in a terminal, and as plain text."""
