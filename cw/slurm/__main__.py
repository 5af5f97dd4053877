"""`python -m cw.slurm`."""

from cw import program
from cw.slurm.cli import main

if __name__ == "__main__":
    program.run("cw.slurm", main)
