"""Lines of batch scripts that are the same in all batch systems: exports, and the commands of cw's programs.

head             first lines: the script's purpose, and the environment of its programs
setup            the user's own lines; the first that fails ends the job
sidecar          a program beside the job                              (cw.slurm.sidecar)
master_command, worker_command     the programs themselves; the worker in a container, if one is wanted
                                   (cw.launch.containers)

Everything is plain shell, so that a user can read it, change it and submit it by hand.
"""

from __future__ import annotations

import os
import shlex

from cw import credential, program, userdir
from cw.launch import containers
from cw.launch.plan import Plan, ScriptRequest

RECONNECT_SECONDS = 3600
"""Time that workers look for a master whose job has ended (seconds). Shorter: too short for another one that waits in
the queue. Longer: workers without a master hold their allocation."""

ORPHAN_LOOK_SECONDS = 120
"""Time between two looks for the master, once for each Slurm job (seconds). Longer: workers without one stay longer.
Shorter: more processes are started for nothing."""

HANDED_OVER = ".handed-over-"
"""Beginning of the name of a file among the logs; the job's id follows. The script of a master's job with workers
goes on without its master, in whose place another one is."""

IS_IMPOSSIBLE = 3
"""Exit status of `renew` where jobs cannot be submitted."""


def head(plan: Plan, what: str) -> list[str]:
    """Return the first lines of a script; `what` describes it."""
    settings = {"CW_CLUSTER": plan.sought_cluster, "CW_HOME": userdir.home_directory()}
    if os.environ.get("CW_CREDENTIAL"):
        settings["CW_CREDENTIAL"] = credential.credential_file()
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    foreign = [f"export CW_MASTER={shlex.quote(plan.foreign_master)}"] if plan.foreign_master else []
    return ["#!/bin/bash", f"# {what}", "unset CW_MASTER", f"export {exports}", *foreign]


def setup(plan: Plan) -> list[str]:
    """Return the user's own lines, which run in the script's shell. The first that fails ends the job; SETUP_FAILED and
    its text are then the last line of the job's log. (It may also call `exit`: the trap sees that, too.)"""
    if not plan.setup:
        return []
    lines = [f'CW_SETUP={shlex.quote(line)}; eval "$CW_SETUP" || exit' for line in plan.setup]
    return [_SETUP_TRAP, *lines, "trap - EXIT; unset -f setup_ended; unset CW_SETUP"]


SETUP_FAILED = "cw: a line of --setup failed"
"""Beginning of a log's line, by which launchers know it."""

_SETUP_TRAP = f"""\
setup_ended() {{
    local status=$?
    echo "{SETUP_FAILED} (exit status $status): $CW_SETUP"
    exit $((status ? status : 1))
}}
trap setup_ended EXIT"""


def sidecar(verb: str, request: ScriptRequest, *arguments: str) -> str:
    """Return the command of a program beside the job."""
    name, token = request.plan.name, request.token
    return shlex.join(program.command("cw.slurm.sidecar", verb, name, token, *arguments))


def renewal(request: ScriptRequest) -> list[str]:
    """Return the commands that submit the job that will follow this one, if that is wanted. If it cannot be submitted
    now, that is tried again meanwhile; where it never can, the job ends at once, and `start` says why."""
    if not request.plan.is_renewed:
        return []
    renew = sidecar("renew", request, request.role)
    return [
        f"{renew}; status=$?",
        f"[ $status -ne {IS_IMPOSSIBLE} ] || exit 1",
        f"[ $status -eq 0 ] || {renew} --again &",
    ]


def end_of_orphans(request: ScriptRequest) -> list[str]:
    """Return the command that ends the job of workers some minutes after they have lost their master for good. It reads
    from a pipe that nobody writes to, and ends with the script, which holds the other end."""
    if request.plan.foreign_master:  # which its user may start again when he likes
        return []
    look = f"{sidecar('orphan', request)} </dev/null"
    return [f"exec {{alive}}> >(while read -rt {ORPHAN_LOOK_SECONDS}; [ $? -gt 128 ]; do {look}; done)"]


def end_of_renewal(request: ScriptRequest) -> list[str]:
    """Return the command that takes back the job that would follow this one, if there is one."""
    return [sidecar("retire", request, request.role)] if request.plan.is_renewed else []


def master_command(plan: Plan) -> str:
    """Return the command of the master."""
    return shlex.join(program.command("cw.master", *_verbose(plan), *plan.program_options("master")))


def worker_command(request: ScriptRequest) -> str:
    """Return the command of a worker, in its container if one is wanted: the script has then run `containers.on_node`
    before. It adds the worker's slots and its end."""
    plan, kill_wait = request.plan, request.kill_wait
    # Jobs that still run after the grace time are stopped step by step, within 3 s.
    grace = f"{max(0.0, min(20.0, kill_wait * 2 / 3, kill_wait - 4)):g}"
    limits = ["--grace", grace, "--reconnect-timeout", str(RECONNECT_SECONDS)]
    if plan.idle:
        limits += ["--idle", f"{plan.idle:g}"]
    arguments = [*limits, *_verbose(plan), *plan.program_options("worker")]
    if plan.docker_image or plan.apptainer_image:
        return containers.command(plan, arguments)
    return shlex.join(program.command("cw.worker", *arguments))


def _verbose(plan: Plan) -> list[str]:
    return ["-v"] if plan.verbose else []
