"""Processes that the kernel has killed for lack of memory: its counters, of control groups or the whole machine."""

from __future__ import annotations

from cw.machine import groups as control_groups

_FILES = {1: "memory.oom_control", 2: "memory.events"}
VMSTAT = "/proc/vmstat"


class OomKills:
    """Counter of the kills since the last question."""

    def __init__(
        self,
        groups: str = control_groups.GROUPS,
        root: str = control_groups.ROOT,
        vmstat: str = VMSTAT,
    ) -> None:
        self._files = groups, root, vmstat
        self._seen = self._count()

    def are_new(self) -> bool:
        """True if a process was killed since the last question."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        """Return the number so far: of this process's own group, if it counts them; otherwise the machine's."""
        groups, root, vmstat = self._files
        for version, directory in control_groups.directories("memory", groups, root):
            words = control_groups.words(directory, _FILES[version])
            if "oom_kill" in words:
                return int(words[words.index("oom_kill") + 1])
        words = control_groups.words("", vmstat)
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
