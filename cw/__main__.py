"""`python -m cw`: same as the command `cw`."""

from cw.cli.main import main

if __name__ == "__main__":
    main()
