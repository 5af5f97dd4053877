"""Hostfiles: the machines of a job that uses several, as `mpirun` reads them from a file."""

from __future__ import annotations

import re


def read(path: str) -> tuple[str, ...]:
    """Return the hosts that a file names, each once: one a line, as 'node1', 'node1 slots=4' or 'node1:4'. Raises
    ValueError for a file that cannot be read, or names none."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except OSError as error:
        raise ValueError(f"{path!r} cannot be read: {error.strerror}") from None
    hosts = dict.fromkeys(re.sub(r"(?<=[^:]):\d+$", "", words[0]) for words in lines if words)
    if not hosts:
        raise ValueError(f"{path!r} names no host: give one a line")
    return tuple(hosts)
