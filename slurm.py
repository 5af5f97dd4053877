#!/usr/bin/env python3
"""Starts and stops a cluster in Slurm: `./slurm.py start -n 32`. Same as `python -m cw.slurm`."""

import sys

try:
    from cw import program
    from cw.slurm.cli import main
except ImportError as error:
    sys.exit(f"slurm.py: {error}: start it with the Python in which cw is installed, or `python -m cw.slurm`")

if __name__ == "__main__":
    program.run("slurm.py", main)
