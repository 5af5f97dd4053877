"""The commands of workers in containers, and what the shell makes of them on a node."""

import os
import shlex
import subprocess

import pytest

from cw.launch import containers, shell_lines
from cw.launch.plan import Plan, ScriptRequest

DOCKER = Plan("x", 1, docker_image="im", docker_args=["-e", "A=b c"])
APPTAINER = Plan("x", 1, apptainer_image="im", apptainer_args=["--odd"])


@pytest.mark.parametrize(("plan", "program"), [(DOCKER, "docker"), (APPTAINER, "apptainer")])
def test_in_a_container_the_workers_are_the_images(plan, program):
    words = shlex.split(shell_lines.worker_command(ScriptRequest("workers", plan, "t0", "/logs")))
    assert words[0] == program
    own = [*plan.docker_args, *plan.apptainer_args, "im", "python3", "-m", "cw.worker"]
    assert words[words.index("im") - len(own) + 4 :][: len(own)] == own


def test_without_a_container_the_script_has_no_lines_for_one():
    assert containers.on_node(Plan("x", 1), "") == ""
    assert "${container" not in shell_lines.worker_command(
        ScriptRequest("workers", Plan("x", 1), "t0", "/logs")
    )


def test_home_and_working_directory_reach_into_docker_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "project").mkdir()

    def mounted():
        words = shlex.split(containers.command(DOCKER, []))
        return [word for word in words if word.startswith("--volume=") and not word.endswith(":ro")]

    home = f"--volume={tmp_path}:{tmp_path}"
    for place, more in ((tmp_path / "project", []), ("/", []), ("/usr", ["--volume=/usr:/usr"])):
        monkeypatch.chdir(place)
        assert mounted() == [home, *more]


def options(plan, *devices, **environment):
    """The options that the lines for the node find, there being only these files in /dev; and CUDA's variable after."""
    lines = containers.on_node(plan, "$MACHINES")
    for name in ("nvidiactl", "kfd"):
        lines = lines.replace(f"-e /dev/{name} ", "-e / " if name in devices else "-e /none ")
    script = lines + """printf '%s\\n' "$CUDA_VISIBLE_DEVICES" "${container[@]}\""""
    names = "TMPDIR", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
    kept = {name: value for name, value in os.environ.items() if name not in names}
    printed = subprocess.check_output(["bash", "-c", script], text=True, env={**kept, **environment})
    visible, *found = printed.splitlines()
    return visible, [option for option in found if option and not option.startswith("--cpuset-cpus=")]


def test_the_gpus_of_the_job_reach_into_the_container():
    nvidia, amd = {"CUDA_VISIBLE_DEVICES": "0,1"}, {"ROCR_VISIBLE_DEVICES": "1"}
    # The batch system may count the job's devices from 0 on; Docker counts the machine's, and in a container its own.
    assert options(DOCKER, "nvidiactl", **nvidia, MACHINES="2,3") == (
        "0,1",
        ["--gpus", '"device=2,3"'],
    )
    assert options(DOCKER, "nvidiactl", CUDA_VISIBLE_DEVICES="3") == ("0", ["--gpus", '"device=3"'])
    assert options(DOCKER, "kfd", **amd) == ("", ["--device=/dev/kfd", "--device=/dev/dri"])
    assert options(DOCKER, **nvidia) == ("0,1", [])
    assert options(DOCKER, "nvidiactl", "kfd") == ("", [])
    assert options(APPTAINER, "nvidiactl", **nvidia) == ("0,1", ["--nv"])
    assert options(APPTAINER, "kfd", **amd) == ("", ["--rocm"])
    assert options(APPTAINER, "nvidiactl", "kfd") == ("", [])


def test_the_scratch_directory_of_the_node_reaches_into_the_container_if_there_is_one(tmp_path):
    place = f"{tmp_path}:{tmp_path}"
    assert options(DOCKER, TMPDIR=str(tmp_path))[1] == [f"--volume={place}", "--env=TMPDIR"]
    assert options(APPTAINER, TMPDIR=str(tmp_path))[1] == [f"--bind={place}"]
    assert options(DOCKER, TMPDIR="/no/such")[1] == options(APPTAINER)[1] == []
