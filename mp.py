#!/usr/bin/env python3
"""Starts and stops a cluster of processes on this machine: `./mp.py start -n 4`. Same as `python -m cw.mp`."""

import sys

try:
    from cw import program
    from cw.mp import main
except ImportError as error:
    sys.exit(f"mp.py: {error}: start it with the Python in which cw is installed, or `python -m cw.mp`")

if __name__ == "__main__":
    program.run("mp.py", main)
