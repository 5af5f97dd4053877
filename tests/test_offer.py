"""What a worker offers, by its options."""

import argparse

import pytest

from cw import program
from cw.cpus import usable_cpus
from cw.machine import memory
from cw.worker import offer


def made(*arguments, slots=1, **environ):
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", dest="slots", type=int, default=slots)
    parser.add_argument("--idle", type=float, default=0.0)
    offer.add_options(parser)
    return offer.make_offer(parser.parse_args(arguments), environ)


def test_a_worker_that_may_end_says_so():
    assert (made().capacity.ends_idle, made("--idle=5").capacity.ends_idle) == (False, True)


def test_a_worker_without_options_offers_what_the_machine_has():
    capacity = made(slots=1).capacity
    assert (capacity.slots, capacity.cpus, capacity.resources, capacity.tags) == (1, usable_cpus(), (), ())
    assert capacity.memory == memory.usable_memory({}).size > 0


def test_slots_have_a_cpu_each():
    assert made(slots=usable_cpus() + 3).capacity.cpus == usable_cpus() + 3


def test_options_say_what_is_there():
    arguments = (
        "--cpus=16 --memory=64GB --gpus=1,GPU-8932 --resources=licence=3,disk=2 --tags fast,avx512".split()
    )
    found = made(*arguments)
    assert found.capacity.to_wire() == {
        "slots": 1, "cpus": 16, "memory": 64 * 10**9, "gpus": ("1", "GPU-8932"),
        "resources": (("disk", 2), ("licence", 3)), "tags": ("avx512", "fast"), "ends_idle": False, "nodes": 1,
    }  # fmt: skip
    assert found.text == (
        "1 slot, 16 CPUs, 64GB of memory (--memory), GPUs 1,GPU-8932 (--gpus), resources disk=2,licence=3, "
        "tags avx512,fast"
    )


def test_a_hostfile_names_the_nodes_of_one_job_at_a_time(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("n1\nn1\nn2\n")
    found = made("--hostfile", str(file), "--cpus=4")
    assert (found.capacity.slots, found.capacity.nodes, found.hostfile) == (1, 2, str(file))
    assert found.text.startswith("1 slot on 2 nodes with 4 CPUs each, ")
    with pytest.raises(program.UsageError, match=r"^-n 3 and a --hostfile with 2 hosts: .*; leave out -n$"):
        made("--hostfile", str(file), slots=3)
    file.write_text("n1\n")
    assert made("--hostfile", str(file), slots=3).capacity.nodes == 1


@pytest.mark.parametrize(
    ("text", "visible", "names"),
    [
        ("2", None, ("0", "1")),
        ("2", "3,5,7", ("3", "5")),
        ("2", "3", ("0", "1")),
        ("0", "3", ()),
        ("3,", "1", ("3",)),
    ],
)
def test_gpus_by_number_are_the_first_that_are_visible(text, visible, names):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert made("--gpus", text, **environ).capacity.gpus == names


def test_slurm_bounds_the_cpus():
    assert made(SLURM_CPUS_ON_NODE="1").capacity.cpus == 1
    assert made(SLURM_CPUS_ON_NODE="100000").capacity.cpus == usable_cpus()


@pytest.mark.parametrize(
    "arguments",
    ["--cpus 0", "--cpus many", "--memory 64XB", "--gpus -1", "--gpus 0,-1", "--gpus 99999", "--resources licence",
     "--resources licence=0", "--resources =3", "--tags a,,b", "--tags -a b"],
)  # fmt: skip
def test_an_option_that_is_wrong_ends_the_program(arguments, capsys):
    with pytest.raises(SystemExit):
        made(*arguments.split())


def test_fewer_cpus_than_slots_are_refused():
    with pytest.raises(program.UsageError, match="--cpus 2 for 4 slots"):
        made("--cpus=2", slots=4)
