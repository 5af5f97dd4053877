"""Control groups of this process: the directories in which the kernel says what they may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

GROUPS = "/proc/self/cgroup"
ROOT = "/sys/fs/cgroup"


def directories(controller: str, groups: str = GROUPS, root: str = ROOT) -> Iterator[tuple[int, str]]:
    """Yield (version, directory) of the groups that this process is in for a controller such as "cpu", and of all
    groups above them. (In a container, the root is its own group.)"""
    try:
        with open(groups) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for line in lines:
        if len(line) < 3:
            continue
        _, controllers, path = line
        if not controllers:
            for directory in _along(root, path):
                yield 2, directory
        elif controller in controllers.split(","):
            for name in dict.fromkeys((controllers, controller)):
                for directory in _along(os.path.join(root, name), path):
                    yield 1, directory


def words(directory: str, *names: str) -> list[str]:
    """Return the words in these files of a directory; those that cannot be read have none."""
    found: list[str] = []
    for name in names:
        with contextlib.suppress(OSError), open(os.path.join(directory, name)) as file:
            found += file.read().split()
    return found


def _along(root: str, path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield os.path.join(root, *parts[:count])
