"""The command `cw`, also `python -m cw`: one word for each thing that a user starts or looks at."""
