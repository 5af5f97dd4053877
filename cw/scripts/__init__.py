"""Whole scripts that run somewhere else, with their output and exit status kept: `cw run`."""
