"""The memory that a process may use."""

import os

import pytest

from cw.machine import batch_job, memory

GIB = 2**30


def usable(tmp_path, environ=(), groups="", **files):
    """`files`: contents by path below the groups' root, with __ for /."""
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "root" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / path.name.replace("memory_", "memory.")).write_text(text)
    return memory.usable_memory(dict(environ), str(tmp_path / "groups"), str(tmp_path / "root"), 64 * GIB)


def test_a_machine_without_limits_gives_all_it_has(tmp_path):
    assert usable(tmp_path, groups="0::/a\n", a__memory_max="max\n") == (64 * GIB, "the machine")


def test_the_least_limit_along_the_groups_counts(tmp_path):
    files = {"a__memory_max": f"{4 * GIB}\n", "a__b__memory_max": f"{8 * GIB}\n"}
    assert usable(tmp_path, groups="0::/a/b\n", **files) == (4 * GIB, "its control group")


def test_the_groups_of_older_systems(tmp_path):
    no_limit = "9223372036854771712\n"
    files = {"memory__x__memory_limit_in_bytes": f"{2 * GIB}\n", "memory__memory_limit_in_bytes": no_limit}
    groups = "4:cpu,cpuacct:/x\n2:memory:/x\n"
    assert usable(tmp_path, groups=groups, **files) == (2 * GIB, "its control group")


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({"SLURM_MEM_PER_NODE": "3000"}, 3000 * 2**20),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, 2000 * 2**20),
        ({batch_job.FOR_WORKERS: "1000"}, 1000 * 2**20),
        ({"SLURM_MEM_PER_NODE": "0"}, 64 * GIB),  # all that the node has
        ({"SLURM_MEM_PER_CPU": "many", "SLURM_CPUS_ON_NODE": "4"}, 64 * GIB),
        ({"SLURM_MEM_PER_NODE": "1000000"}, 64 * GIB),  # more than there is
    ],
)
def test_what_slurm_gives_is_a_limit_too(environ, size, tmp_path):
    assert usable(tmp_path, environ).size == size


def test_a_system_without_groups_has_what_the_kernel_says(tmp_path):
    nowhere = str(tmp_path / "none")
    found = memory.usable_memory({}, nowhere, nowhere)
    assert found.size == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
