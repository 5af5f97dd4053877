"""CPUs by NUMA node and core."""

import os

from cw.machine.topology import find_topology


def test_nodes_and_cores_are_those_of_the_kernels_files(tmp_path):
    for node, cpus in enumerate(("0-1,4-5\n", "2-3,6-7\n")):
        (tmp_path / f"node/node{node}").mkdir(parents=True)
        (tmp_path / f"node/node{node}/cpulist").write_text(cpus)
    (tmp_path / "node/possible").write_text("0-1\n")
    for cpu in range(8):
        directory = tmp_path / f"cpu/cpu{cpu}/topology"
        directory.mkdir(parents=True)
        (directory / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    found = find_topology({0, 2, 4, 6, 7}, str(tmp_path))
    assert found.node_by_cpu == {0: 0, 4: 0, 2: 1, 6: 1, 7: 1}
    assert found.core_by_cpu == {0: 0, 4: 0, 2: 2, 6: 2, 7: 3}


def test_without_files_all_cpus_are_of_one_node(tmp_path):
    assert find_topology({3, 5}, str(tmp_path)) == ({3: 0, 5: 0}, {3: 3, 5: 5})


def test_this_machine_has_each_usable_cpu():
    usable = os.sched_getaffinity(0)
    found = find_topology(usable)
    assert found.node_by_cpu.keys() == found.core_by_cpu.keys() == usable
