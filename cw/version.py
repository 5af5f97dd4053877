"""The version of cw: in a module of its own, so that asking for it imports nothing else."""

VERSION = "0.2.0"
