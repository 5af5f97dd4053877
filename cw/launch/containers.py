"""Containers for workers: the commands of Docker and Apptainer, and what they need to know of the node they run on.

on the login node:  command() ---> docker run OPTIONS "${container[@]}" ARGS IMAGE python3 -m cw.worker ...
on the node:        on_node() ---> lines of shell, which fill ${container[@]}

In a container a worker finds what it finds without one: the credential (read-only, under the same name), the user's ids
and groups, home and working directory, the batch system's scratch directory (TMPDIR), the CPUs and GPUs of its job. For
Apptainer most of that is so by itself.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from cw import credential, guard, userdir
from cw.launch.plan import Plan
from cw.location import VARIABLE
from cw.machine import batch_job, gpus

LIFELINE = ["--lifeline-fd=0"]
"""Option of a worker in Docker. Its container is no child of the batch job: it would go on for ever when all of the
job's processes are killed. But the standard input that `docker run -i` passes on ends then."""


def command(plan: Plan, worker: Sequence[str]) -> str:
    """Return the command of a worker in the container that the plan wants, for a shell that has run `on_node`; the
    worker's own arguments may follow it."""
    # Of the image: the Python here may not be there.
    program = ["python3", "-m", "cw.worker"]
    if plan.docker_image:
        before, after = ["docker", "run", *_docker(plan)], [*plan.docker_args, plan.docker_image]
        program += LIFELINE
    else:
        before, after = ["apptainer", "exec", *_apptainer(plan)], [*plan.apptainer_args, plan.apptainer_image]
    return f'{shlex.join(before)} "${{container[@]}}" {shlex.join([*after, *program, *worker])}'


def on_node(plan: Plan, devices: str) -> str:
    """Return lines of shell that look at the node; nothing for workers without a container. `devices`: what the shell
    expands to the job's GPUs as the machine counts them, or to nothing. (CUDA's variable may count those of the job.)
    """
    return (
        _FOR_DOCKER.replace("DEVICES_OF_JOB", devices)
        if plan.docker_image
        else _FOR_APPTAINER
        if plan.apptainer_image
        else ""
    )


def _settings(plan: Plan) -> dict[str, str]:
    return {
        "CW_HOME": userdir.home_directory(),
        "CW_CREDENTIAL": credential.credential_file(),
        "CW_CLUSTER": plan.sought_cluster,
    }


def _private_directories() -> list[str]:
    """Return the directories of address file and credential."""
    return sorted({userdir.home_directory(), os.path.dirname(credential.credential_file())})


def _docker(plan: Plan) -> list[str]:
    """Return options of `docker run`. The user's ids are kept, since the credential must belong to the user inside,
    too; the machine's process ids are, since workers are known by them."""
    options = ["--rm", "-i", "--network=host", "--pid=host", f"--user={os.getuid()}:{os.getgid()}"]
    options += [f"--group-add={group}" for group in os.getgroups() if group != os.getgid()]
    options += [f"--volume={directory}:{directory}" for directory in _work_directories()]
    options += [f"--volume={directory}:{directory}:ro" for directory in _private_directories()]
    options += [f"--env={name}={value}" for name, value in _settings(plan).items()]
    passed = (
        "HOME",
        VARIABLE,
        "CW_MASTER",
        guard.DEPTH,
        *batch_job.VARIABLES,
        gpus.CUDA,
        gpus.ROCR,
        gpus.HIP,
    )
    return [*options, *(f"--env={name}" for name in passed)]  # if they are set


def _apptainer(plan: Plan) -> list[str]:
    options = [f"--bind={directory}:{directory}:ro" for directory in _private_directories()]
    return [*options, *(f"--env={name}={value}" for name, value in _settings(plan).items())]


def _work_directories() -> list[str]:
    """Return the user's home directory, and the present one if it is elsewhere: there jobs look for their files."""
    found: list[str] = []
    for directory in (os.path.expanduser("~"), os.getcwd()):
        is_inside = any(os.path.commonpath([directory, other]) == other for other in found)
        if os.path.isabs(directory) and directory != "/" and not is_inside:
            found.append(directory)
    return found


_FOR_DOCKER = """\
# What the container does not have by itself: the scratch directory, the CPUs of this step, and its GPUs.
container=(--cpuset-cpus="$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)")
[ ! -d "$TMPDIR" ] || container+=(--volume="$TMPDIR:$TMPDIR" --env=TMPDIR)
if [ -e /dev/nvidiactl ] && [ -n "$CUDA_VISIBLE_DEVICES" ]; then
    devices=DEVICES_OF_JOB
    devices=${devices:-$CUDA_VISIBLE_DEVICES}
    container+=(--gpus "\\"device=$devices\\"")
    devices=(${devices//,/ }) # which the container counts from 0 on
    CUDA_VISIBLE_DEVICES=$(seq -s , 0 $((${#devices[@]} - 1)))
fi
[ ! -e /dev/kfd ] || [ -z "$ROCR_VISIBLE_DEVICES$HIP_VISIBLE_DEVICES" ] ||
    container+=(--device=/dev/kfd --device=/dev/dri)
exec <> <(:)  # a pipe that nobody writes to: the container's worker ends when this shell and docker are gone
"""

_FOR_APPTAINER = """\
# What the container does not have by itself: the scratch directory, and the drivers of GPUs.
container=()
[ ! -d "$TMPDIR" ] || container+=(--bind="$TMPDIR:$TMPDIR")
[ ! -e /dev/nvidiactl ] || [ -z "$CUDA_VISIBLE_DEVICES" ] || container+=(--nv)
[ ! -e /dev/kfd ] || [ -z "$ROCR_VISIBLE_DEVICES$HIP_VISIBLE_DEVICES" ] || container+=(--rocm)
"""
