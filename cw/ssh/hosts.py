"""Names of machines, as a user gives them: `lab1`, `lab2:8`, `user@lab3`, and files of them.

'user@lab3:8' ---> Host('user@lab3', 8): what ssh takes, and the number of slots there
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MOST_SLOTS = 65535

_TARGET = re.compile(r"(?:[\w.][\w.\\+-]*@)?[\w.][\w.-]*")
_IPV6 = re.compile(r"((?:[\w.][\w.\\+-]*@)?)\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](.*)")


class Host(NamedTuple):
    """One machine."""

    target: str
    """Its name as ssh takes it: 'lab1', 'user@lab3'."""
    slots: int = 0
    """Number of slots; 0: one for each usable CPU there."""

    def __str__(self) -> str:
        name = re.sub(r"([^@]*:.*)$", r"[\1]", self.target)
        return f"{name}:{self.slots}" if self.slots else name


def parse(text: str) -> Host:
    """Parse `'[USER@]HOST[:SLOTS]'`; an IPv6 address stands in brackets. Raises ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"a machine is named by a text such as 'lab1' or 'lab2:8', not by {text!r}")
    text = text.strip()
    if text.startswith("-") or "@-" in text:
        raise ValueError(
            f"{text!r} is no name of a machine: ssh would take what begins with '-' for an option"
        )
    if found := _IPV6.fullmatch(text):
        target, rest = found[1] + found[2], found[3]
    else:
        target, colon, slots = text.partition(":")
        rest = colon + slots
        if not _TARGET.fullmatch(target):
            raise ValueError(f"{text!r} is no name of a machine: give HOST, USER@HOST or HOST:SLOTS")
    if not rest:
        return Host(target)
    number = rest[1:]
    if rest[0] != ":" or not re.fullmatch("[0-9]{1,5}", number) or not 0 < int(number) <= MOST_SLOTS:
        raise ValueError(f"{number!r} in {text!r} is no number of slots: give HOST:SLOTS, such as {target}:8")
    return Host(target, int(number))


def parse_all(texts: Iterable[str]) -> list[Host]:
    """Parse several, each named once. Raises ValueError."""
    if isinstance(texts, str):
        raise TypeError(f"machines are a list of names: [{texts!r}], not {texts!r}")
    found = [parse(text) for text in texts]
    targets = [host.target for host in found]
    for target in targets:
        if targets.count(target) > 1:
            raise ValueError(
                f"{target} is named twice: name each machine once, with all its slots ({target}:8)"
            )
    return found


def read_file(path: str) -> list[str]:
    """Return the names in a file: one or more on each line; `#` begins a comment. Raises ValueError."""
    try:
        with open(path) as file:
            return [word for line in file for word in line.partition("#")[0].split()]
    except OSError as error:
        raise ValueError(f"cannot read the machines in {path}: {error.strerror}") from None


def merge(noted: Sequence[Host], given: Sequence[Host]) -> list[Host]:
    """Return the noted machines, with the slots that are given now, then the new ones."""
    slots = {host.target: host for host in given}
    before = {host.target for host in noted}
    return [slots.get(host.target, host) for host in noted] + [h for h in given if h.target not in before]
