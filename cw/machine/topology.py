"""CPUs of this machine by NUMA node and core, as the kernel lists them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

from cw.named_tuple import NamedTuple

ROOT = "/sys/devices/system"


class Topology(NamedTuple):
    """Where each CPU is."""

    node_by_cpu: dict[int, int]
    core_by_cpu: dict[int, int]
    """The core of a CPU: the least of the CPUs (hardware threads) that it has."""


def find_topology(cpus: Iterable[int], root: str = ROOT) -> Topology:
    """Return the topology of these CPUs. What the kernel does not say: all are of one node, each is a core."""
    cpus = sorted(cpus)
    nodes = dict.fromkeys(cpus, 0)
    with contextlib.suppress(OSError):
        for name in os.listdir(os.path.join(root, "node")):
            if match := re.fullmatch(r"node(\d+)", name):
                for cpu in _read(os.path.join(root, "node", name, "cpulist")):
                    if cpu in nodes:
                        nodes[cpu] = int(match[1])
    cores = {}
    for cpu in cpus:
        siblings = _read(os.path.join(root, f"cpu/cpu{cpu}/topology/thread_siblings_list"))
        cores[cpu] = min([cpu, *siblings])
    return Topology(nodes, cores)


def _read(path: str) -> list[int]:
    """Return the numbers in a file such as '0-3,8-11'; none if it cannot be read."""
    found: list[int] = []
    with contextlib.suppress(OSError), open(path) as file:
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", file.read()):
            found += range(int(first), int(last or first) + 1)
    return found
