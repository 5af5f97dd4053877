"""Size of the nodes, as a real Slurm lists them, and the options of sbatch that concern it."""

import os

import pytest
import sandbox

from cw.launch.piece_sizes import NodeSlots
from cw.launch.plan import Plan
from cw.slurm import sinfo

if os.environ.get("CI") != "true":
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)

PARTITIONS = [
    "PartitionName=whole Nodes=n1,n2 OverSubscribe=EXCLUSIVE",
    "PartitionName=few Nodes=n3 MaxCPUsPerNode=3",
    "PartitionName=none",
]


@pytest.fixture(scope="module")
def slurm():
    with sandbox.Sandbox(nodes=4, cpus=8, memory=4000, settings=PARTITIONS) as slurm:
        yield slurm


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, NodeSlots(8, False)),
        ({"partition": "whole"}, NodeSlots(8, True, True)),
        ({"worker_options": ["--partition", "whole"]}, NodeSlots(8, True)),  # the master's job is elsewhere
        ({"batch_options": ["--exclusive"]}, NodeSlots(8, True, True)),
        ({"partition": "few"}, NodeSlots(3, False)),
        ({"worker_options": ["-pfew"]}, NodeSlots(3, False)),
        ({"worker_options": ["--partition", "few,whole"]}, NodeSlots(8, True)),  # most of its nodes
        ({"worker_options": ["--partition", "few,whole", "--mem=2G"]}, NodeSlots(3, False)),  # any of them
        ({"worker_options": ["-c", "3"]}, NodeSlots(2, False)),
        ({"worker_options": ["--cpus-per-task=4", "--exclusive"]}, NodeSlots(2, True)),
        ({"mem_per_cpu": "1G"}, NodeSlots(3, False)),  # 4000 MB have room for 3 times 1024
        ({"worker_options": ["--mem-per-cpu=2000"]}, NodeSlots(2, False)),
        # What the user says of the places of the slots is not cut to pieces.
        ({"worker_options": ["--nodes=2"]}, None),
        ({"worker_options": ["-N2"]}, None),
        ({"worker_options": ["--gpus-per-task=1"]}, None),
        ({"is_isolated": True}, None),
        ({"partition": "none"}, None),
        ({"partition": "nowhere"}, None),
    ],
)
def test_a_node_has_room_for_slots(slurm, monkeypatch, changes, found):
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    assert sinfo.look_at_nodes(Plan("x", 4, **changes)) == found


def test_without_slurm_nothing_is_known(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert sinfo.look_at_nodes(Plan("x", 4)) is None


@pytest.mark.parametrize(
    "options", [["--time=3"], ["--time", "3"], ["-t3"], ["-t", "3"], ["-t", "1", "--nice", "--time=3"]]
)
def test_an_option_has_its_value_in_any_of_its_forms(options):
    assert sinfo.value_of(options, "--time", "-t") == "3"
    assert sinfo.value_of(options, "--partition", "-p") == ""
    assert sinfo.has_option(options, "--time") or sinfo.has_option(options, "-t")
    assert not sinfo.has_option(options, "--tim") and not sinfo.has_option(options, "-n")
