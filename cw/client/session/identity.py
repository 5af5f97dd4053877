"""The identity of a session: who knows it is the session's owner, and may take it over from another process."""

from __future__ import annotations

import secrets
import sys

from cw import nested
from cw.named_tuple import NamedTuple
from cw.observer.reporter import program_name


class Identity(NamedTuple):
    """What a session says of itself to each master."""

    ident: str
    """Id of the session."""
    secret: str
    python: tuple[int, int]
    """Version of Python of its jobs."""
    program: str
    """Name of its script; ''."""
    parent: int
    """Dispatch number of the job that it is in; 0: it is in none."""


def new_identity() -> Identity:
    """Make the identity of a session that begins in this process."""
    version = sys.version_info[:2]
    return Identity(secrets.token_hex(16), secrets.token_hex(16), version, program_name(), nested.job())
