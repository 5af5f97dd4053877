"""Batch scripts of a cluster in Slurm, and the options with which they are submitted.

    Plan --> master_script(), worker_script() --> sbatch (or the screen: --dry-run)

    the workers' job:   batch script --> srun --> on each node: bash --> the worker, or a container with it
    the master's job:   batch script --> sidecar (cw.slurm.sidecar), then the master in the script's place

Each node has one worker, with as many slots as Slurm has put tasks there. `srun` starts it alone, with all resources of
the job on that node. Everything is plain shell, so that a user can read it, change it and submit it by hand.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

from cw import credential, guard, program, userdir
from cw.launch.batch_system import Script
from cw.launch.launcher import LaunchError
from cw.location import VARIABLE
from cw.net import address

NOTICE = int(signal.SIGWINCH)
"""Signal to drain. It goes to all processes of the workers' steps and is meant for the workers alone: by default other
programs ignore it. Given by number, since Slurm knows no name for it. (SIGURG would do, but Docker's client does not
pass it on.)"""

NOTICE_SECONDS = 65
"""Time before the end of an allocation at which Slurm should send it (seconds); at most a fifth of a short one. It may
arrive a minute early. (A worker that knows its end starts to drain at that time by itself.)"""

PROGRAM_OPTIONS = {
    "master": frozenset({"--host", "--port", "--silence", "--client-grace"}),
    "worker": frozenset({"--grace", "--lifetime", "--max-jobs", "--silence", "--reconnect-timeout"}),
}
"""Options of cw's programs among those that a user gives for a job. All others are sbatch's."""

_OURS = frozenset(
    "--job-name -J --array -a --output -o --chdir -D --parsable --wait -W --wrap --ntasks -n --test-only".split()
)
"""Options of sbatch that cw sets itself, because its scripts and programs rely on them."""

RECONNECT_SECONDS = 3600
"""Time that workers look for a master whose job has ended (seconds). Shorter: too short for another one that waits in
the queue. Longer: workers without a master hold their allocation."""


class Plan(NamedTuple):
    """The cluster that a user asked for."""

    name: str
    slots: int
    is_isolated: bool = False
    time: str = ""
    partition: str = ""
    mem_per_cpu: str = ""
    master_options: Sequence[str] = ()
    worker_options: Sequence[str] = ()
    docker_image: str = ""
    docker_args: Sequence[str] = ()
    apptainer_image: str = ""
    apptainer_args: Sequence[str] = ()
    is_renewed: bool = False
    has_local_master: bool = False
    verbose: bool = False
    of_cluster: str = ""
    """Name of the cluster whose master the workers are for, if it is another one."""


def split_options(role: str, options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the options for the job of 'master' or 'worker' into (sbatch's, those of cw's program).

    Raises LaunchError if one of the program's lacks its value.
    """
    own: list[str] = []
    others: list[str] = []
    given = iter(options)
    for option in given:
        name, is_joined, value = option.partition("=")
        if name not in PROGRAM_OPTIONS[role]:
            others.append(option)
            continue
        if not is_joined:
            value = next(given, "")
        if not value:
            raise LaunchError(f"the {role}'s option {name} lacks its value: give {name}=VALUE")
        own += [option] if is_joined else [option, value]
    return others, own


def seconds_of(limit: str) -> float | None:
    """Return a time limit of sbatch in seconds, or None: 'M', 'M:S', 'H:M:S', 'D-H', 'D-H:M', 'D-H:M:S'."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not match:
        return None
    days, *parts = match.groups()
    first, second, third = (int(part or 0) for part in parts)
    if days is not None or parts[2] is not None:
        return ((int(days or 0) * 24 + first) * 60 + second) * 60 + third
    return first * 60 + second


def job_name(cluster: str, role: str, token: str) -> str:
    """Return the name of the job of a cluster's master or workers. Name and id together distinguish our jobs from all
    others, even from one with the same id from a controller that has lost its memory."""
    return f"cw-{cluster}-{role}-{token}"


def master_script(plan: Plan, token: str, logs: str, dependency: str = "") -> Script:
    """Return the batch script of the master's job."""
    options, own = split_options("master", plan.master_options)
    arguments = [*_common(plan, "master", token, logs, dependency), "--ntasks=1", *options]
    lines = [
        *_head(plan, f'The master of the cw cluster "{plan.name}".'),
        f'export {VARIABLE}="slurm/$SLURM_CLUSTER_NAME/$SLURM_JOB_ID"',
        *([_sidecar("renew", plan, token, "master")] if plan.is_renewed else []),
        f"{_sidecar('tend', plan, token)} --parent $$ &",  # this shell becomes the master
        f"exec {shlex.join(program.command('cw.master', *_verbose(plan), *own))}",
    ]
    return Script(arguments, "\n".join(lines) + "\n")


def worker_script(
    plan: Plan, token: str, logs: str, kill_wait: float, dependency: str = "", master: str = ""
) -> Script:
    """Return the batch script of the workers' job. `kill_wait`: seconds from SIGTERM to SIGKILL. `master`: its address,
    if this cluster has none."""
    options, own = split_options("worker", plan.worker_options)
    size = [f"--ntasks={plan.slots}"]
    if plan.is_isolated:
        size += [f"--nodes={plan.slots}", "--ntasks-per-node=1"]
    seconds = seconds_of(plan.time)
    notice = NOTICE_SECONDS if seconds is None else max(1, min(NOTICE_SECONDS, int(seconds / 5)))
    arguments = [
        *_common(plan, "workers", token, logs, dependency), *size, f"--signal={NOTICE}@{notice}",
        *([f"--mem-per-cpu={plan.mem_per_cpu}"] if plan.mem_per_cpu else []), *options,
    ]  # fmt: skip
    command = shlex.join([*_container(plan), *_worker_command(plan)])
    # Jobs that still run after the grace time are stopped step by step, within 3 s.
    grace = f"{max(0.0, min(20.0, kill_wait * 2 / 3, kill_wait - 4)):g}"
    limits = shlex.join(
        ["--grace", grace, "--reconnect-timeout", str(RECONNECT_SECONDS), *_verbose(plan), *own]
    )
    lines = [
        *_head(
            plan, f'Workers of the cw cluster "{plan.name}": one a node, with as many slots as tasks there.'
        ),
        *([f"export CW_MASTER={shlex.quote(master)}"] if master else []),
        *([_sidecar("renew", plan, token, "workers")] if plan.is_renewed else []),
        f"export CW_LOGS={shlex.quote(logs)}",
        _PREPARE,
        "srun --nodes=$SLURM_JOB_NUM_NODES --ntasks=$SLURM_JOB_NUM_NODES --ntasks-per-node=1 --mem=0 \\",
        "    --cpu-bind=none --no-kill --kill-on-bad-exit=0 --input=none bash -c "
        + shlex.quote(_ON_NODE.replace("NOTICE", str(NOTICE)).replace("WORKER", f"{command} {limits}")),
        _FINISH,
    ]
    return Script(arguments, "\n".join(lines) + "\n")


# Slurm 22.05 does not give the end of the job in the environment. The script asks once, not each node.
_PREPARE = """\
export CW_UNTIL=$SLURM_JOB_END_TIME
[ -n "$CW_UNTIL" ] || CW_UNTIL=$(SLURM_TIME_FORMAT=%s scontrol -o show job "$SLURM_JOB_ID" |
    sed -n 's/.* EndTime=\\([0-9][0-9]*\\) .*/\\1/p')
# Tasks on each node, in order, from a form such as 2(x4),1. (In a step the variable is the step's.)
export CW_SLOTS=$(sed 's/,/\\n/g' <<<"$SLURM_TASKS_PER_NODE" |
    awk -F '[(x)]' '{ for (i = NF > 1 ? $3 : 1; i > 0; i--) printf "%d ", $1 }')
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_NODE SLURM_MEM_PER_GPU SLURM_NTASKS_PER_NODE SLURM_EXPORT_ENV
trap 'is_over=1' TERM  # it goes to the workers too: wait until they have ended"""

# The steps of a preempted job get SIGTERM at once, the script only after the grace time.
_FINISH = """\
status=$?
# Workers that got SIGTERM have left. A job that ends by itself is not requeued: wait for what Slurm wants of it.
for ((i = 0; status == 143 && !is_over && i < 600; i++)); do sleep 1; done
exit $status"""

_ON_NODE = """\
exec >>"$CW_LOGS/workers-$SLURM_JOB_ID-$SLURMD_NODENAME.log" 2>&1
export CW_LOCATION="slurm/$SLURM_CLUSTER_NAME/$SLURM_JOB_ID/$SLURM_STEP_ID/$SLURMD_NODENAME"
place="Slurm job $SLURM_JOB_ID, step $SLURM_STEP_ID, node $SLURMD_NODENAME"
slots=($CW_SLOTS)
echo "$(date "+%F %T") a worker in $place; slots: ${slots[SLURM_NODEID]}"
trap 'is_told=1' TERM  # and say how it ended
WORKER -n "${slots[SLURM_NODEID]}" ${CW_UNTIL:+--until "$CW_UNTIL"} --notice NOTICE
status=$?
how="exit status $status"
[ $status -le 128 ] || how="signal $((status - 128))"
[ $status -eq 0 ] || echo "$(date "+%F %T") the worker in $place died: $how"
[ $status -ne 0 ] || [ -z "$is_told" ] || status=143
exit $status"""


def _common(plan: Plan, role: str, token: str, logs: str, dependency: str) -> list[str]:
    escaped = logs.replace("%", "%%")
    arguments = [
        f"--job-name={job_name(plan.name, role, token)}", f"--output={escaped}/{role}-%j.log", "--open-mode=append",
        f"--chdir={logs}", "--export=ALL", "--requeue", "--no-kill",
    ]  # fmt: skip
    given = (("time", plan.time), ("partition", plan.partition), ("dependency", dependency))
    return arguments + [f"--{option}={value}" for option, value in given if value]


def _head(plan: Plan, what: str) -> list[str]:
    settings = {"CW_CLUSTER": plan.of_cluster or plan.name, "CW_HOME": userdir.home_directory()}
    if os.environ.get("CW_CREDENTIAL"):
        settings["CW_CREDENTIAL"] = credential.credential_file()
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return ["#!/bin/bash", f"# {what}", "unset CW_MASTER", f"export {exports}"]


def _sidecar(verb: str, plan: Plan, token: str, *arguments: str) -> str:
    return shlex.join(program.command("cw.slurm.sidecar", verb, plan.name, token, *arguments))


def _verbose(plan: Plan) -> list[str]:
    return ["-v"] if plan.verbose else []


def _worker_command(plan: Plan) -> list[str]:
    if plan.docker_image or plan.apptainer_image:
        return ["python3", "-m", "cw.worker"]  # of the image
    return program.command("cw.worker")


def _container(plan: Plan) -> list[str]:
    """Return the command that runs a worker in its container. It keeps the user's ids, since the credential must belong
    to the user inside, too. The directories of address file and credential have the same names inside, read-only."""
    where = userdir.home_directory()
    key = credential.credential_file()
    directories = sorted({where, os.path.dirname(key)})
    settings = {"CW_HOME": where, "CW_CREDENTIAL": key, "CW_CLUSTER": plan.of_cluster or plan.name}
    if plan.docker_image:
        options = ["--rm", "--network=host", f"--user={os.getuid()}:{os.getgid()}"]
        options += [f"--volume={directory}:{directory}:ro" for directory in directories]
        options += [f"--env={name}={value}" for name, value in settings.items()]
        options += [f"--env={name}" for name in (VARIABLE, "CW_MASTER", guard.DEPTH)]  # if they are set
        return ["docker", "run", *options, *plan.docker_args, plan.docker_image]
    if plan.apptainer_image:
        options = [f"--bind={directory}:{directory}:ro" for directory in directories]
        options += [f"--env={name}={value}" for name, value in settings.items()]
        return ["apptainer", "exec", *options, *plan.apptainer_args, plan.apptainer_image]
    return []


def check(plan: Plan) -> Plan:
    """Return the plan. Raises ValueError for invalid options."""
    address.check_cluster_name(plan.name)
    for option in (
        *split_options("master", plan.master_options)[0],
        *split_options("worker", plan.worker_options)[0],
    ):
        if option.partition("=")[0] in _OURS or (option[1:2] != "-" and option[:2] in _OURS):
            raise ValueError(f"{option}: that is said to sbatch by cw itself; leave it out")
    if plan.docker_image and plan.apptainer_image:
        raise ValueError("a Docker image and an Apptainer image: give one of them")
    if (plan.docker_args and not plan.docker_image) or (plan.apptainer_args and not plan.apptainer_image):
        raise ValueError("arguments for a container, but no image: give the image too")
    return plan


def load_plan(noted: dict[str, Any]) -> Plan:
    """Make a plan from its `_asdict`, as read from JSON."""
    return Plan(**noted)
