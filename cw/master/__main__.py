"""`python -m cw.master`."""

from cw import program
from cw.master.cli import main

if __name__ == "__main__":
    program.run("cw.master", main)
