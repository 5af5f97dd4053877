"""The GPUs that a process may use."""

import os

import pytest

from cw.machine.gpus import CUDA, HIP, ROCR, names_in, usable_gpus


@pytest.fixture
def machine(tmp_path):
    """Makes a machine's root with these files."""

    def make(*names, **contents):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(contents.get(path.name, ""))
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("none", ()),
        ("0,1", ("0", "1")),
        (" 3 , 1 ", ("3", "1")),
        ("1,1", ("1",)),
        ("0,-1,1", ("0",)),  # CUDA ignores what follows an invalid one
        ("GPU-8932f937-d72c,GPU-1234", ("GPU-8932f937-d72c", "GPU-1234")),
        ("MIG-GPU-8932f937/1/0,MIG-c7384736", ("MIG-GPU-8932f937/1/0", "MIG-c7384736")),
    ],
)
def test_the_names_in_a_variable(text, names):
    assert names_in(text) == names


def test_a_variable_decides_before_the_driver(machine):
    root = machine("dev/nvidia0", "dev/nvidia1")
    assert usable_gpus({}, root) == (("0", "1"), CUDA, "NVIDIA's driver")
    assert usable_gpus({CUDA: "1"}, root) == (("1",), CUDA, CUDA)
    assert usable_gpus({CUDA: "", "SLURM_JOB_GPUS": "0"}, root) == ((), CUDA, CUDA)
    assert usable_gpus({"SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "1"}, root) == (
        ("1",),
        CUDA,
        "SLURM_STEP_GPUS",
    )


def test_a_slurm_job_without_gpus_gets_none_of_the_nodes(machine):
    assert usable_gpus({"SLURM_JOB_ID": "7"}, machine("dev/nvidia0")) == ((), CUDA, "Slurm")


def test_devices_without_number_are_no_gpus(machine):
    root = machine("dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-modeset")
    assert usable_gpus({}, root) == ((), CUDA, "no driver")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any file")
def test_devices_of_others_do_not_count(machine):
    root = machine("dev/nvidia0", "dev/nvidia1")
    os.chmod(f"{root}/dev/nvidia0", 0)
    assert usable_gpus({}, root).names == ("0",)


def test_files_that_are_made_at_first_use_are_not_awaited(machine):
    listed = "proc/driver/nvidia/gpus/0000:01:00.0", "proc/driver/nvidia/gpus/0000:02:00.0"
    assert usable_gpus({}, machine(*listed)).names == ()  # a container sees the list, and has no device
    assert usable_gpus({}, machine(*listed, "usr/bin/nvidia-modprobe")).names == ("0", "1")


def test_devices_of_amd(machine):
    nodes = "sys/class/kfd/kfd/topology/nodes"
    root = machine(
        "dev/dri/renderD128", f"{nodes}/1/properties", properties="simd_count 304\ndrm_render_minor 128\n"
    )
    machine(f"{nodes}/0/properties", properties="cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\n")
    machine(
        f"{nodes}/2/properties", properties="simd_count 304\ndrm_render_minor 129\n"
    )  # another container's
    assert usable_gpus({}, root) == (("0",), ROCR, "AMD's driver")
    assert usable_gpus({HIP: "0", CUDA: "5"}, root) == (("0",), HIP, HIP)
    assert usable_gpus({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "3"}, root) == (("3",), ROCR, "SLURM_JOB_GPUS")
