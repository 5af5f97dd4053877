"""`python -m cw.worker`."""

from cw import program
from cw.worker.cli import main

if __name__ == "__main__":
    program.run("cw.worker", main)
