#!/usr/bin/env python3
"""Starts and stops a cluster in Slurm: `./slurm.py start -n 32`. The same as `python -m cw.slurm`."""

from cw import program, slurm

if __name__ == "__main__":
    program.run("slurm.py", slurm.main)
