"""The version of cw, in a module of its own, so that reading it imports no other."""

VERSION = "0.2.0"
