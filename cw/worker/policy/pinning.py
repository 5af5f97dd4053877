"""Choice of the CPUs to which a runner is bound (`--pin`): of one NUMA node if it has room, hardware threads together.

    count, free CPUs, the CPUs that the runner had  --choose-->  CPUs, or () if there are too few

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence


class Pinning:
    """Chooses CPUs of a machine, which is described as by `cw.machine.topology.Topology`."""

    def __init__(self, node_by_cpu: Mapping[int, int], core_by_cpu: Mapping[int, int]) -> None:
        self._node_by_cpu = node_by_cpu
        self._core_by_cpu = core_by_cpu

    def choose(self, count: int, free: Collection[int], before: Sequence[int] = ()) -> tuple[int, ...]:
        """Return this many of the free CPUs, in order; () if there are not enough.

        The same as before, if they are free; otherwise of the node that the runner has its memory on; otherwise of the
        node with the least room that suffices, which leaves the others for larger jobs; otherwise of as few nodes as
        possible. On a node, CPUs of idle cores come first, all of one core together.
        """
        if count > len(free):
            return ()
        if len(before) == count and set(before) <= set(free):
            return tuple(before)
        nodes = self._node_by_cpu
        by_node: dict[int, list[int]] = defaultdict(list)
        for cpu in sorted(free):
            by_node[nodes[cpu]].append(cpu)
        roomy = [node for node, cpus in by_node.items() if len(cpus) >= count]
        home = Counter(nodes[cpu] for cpu in before)
        if roomy:
            order = [min(roomy, key=lambda node: (-home[node], len(by_node[node]), node))]
        else:
            order = sorted(by_node, key=lambda node: (-len(by_node[node]), -home[node], node))
        chosen = [cpu for node in order for cpu in self._by_core(by_node[node])]
        return tuple(sorted(chosen[:count]))

    def _by_core(self, cpus: Sequence[int]) -> list[int]:
        """Sort free CPUs so that those of cores of which most is free come first, and those of one core together."""
        cores = self._core_by_cpu
        room = Counter(cores[cpu] for cpu in cpus)
        return sorted(cpus, key=lambda cpu: (-room[cores[cpu]], cores[cpu], cpu))
