"""The command `cw`, which is `python -m cw` too: one word for each thing that a user starts or looks at."""
