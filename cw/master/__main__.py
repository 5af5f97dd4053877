"""`python -m cw.master`."""

from cw import program
from cw.master.master import main

if __name__ == "__main__":
    program.run("cw.master", main)
