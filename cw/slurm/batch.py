"""Batch scripts of a cluster in Slurm, and the options with which they are submitted.

    ScriptRequest --> master_script(), worker_script() --> sbatch (or the screen: --dry-run)

    the workers' job:   batch script --> srun --> on each node: bash --> the worker, or a container with it
    the master's job:   batch script --> sidecar (cw.slurm.sidecar), then the master in the script's place
    a whole script:     batch script --> its host in the script's place            (cw.scripts.host)
    with workers, too:  batch script --> the master, its sidecar, and the workers as above     (cw.slurm.hosting)

Each node has one worker, with as many slots as Slurm has put tasks there. `srun` starts it alone, with all resources of
the job on that node. Everything is plain shell, so that a user can read it, change it and submit it by hand.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Sequence

from cw.launch import containers, shell_lines
from cw.launch.batch_system import Script
from cw.launch.plan import Plan, ProgramRequest, ScriptRequest
from cw.location import VARIABLE
from cw.slurm import inside, several_nodes

NOTICE = int(signal.SIGWINCH)
"""Signal to drain. It goes to all processes of the workers' steps and is meant for the workers alone: by default other
programs ignore it. Given by number, since Slurm knows no name for it. (SIGURG would do, but Docker's client does not
pass it on.)"""

NOTICE_SECONDS = 65
"""Time before the end of an allocation at which Slurm should send it (seconds); at most a fifth of a short one. It may
arrive a minute early. (A worker that knows its end starts to drain by itself, some seconds before.)"""

IDLE_STATUS = 88
"""Exit status of a worker that ends because it had nothing to do: no other job follows its own."""

_OURS = frozenset(
    "--job-name -J --array -a --output -o --chdir -D --parsable --wait -W --wrap --ntasks -n --test-only".split()
)
"""Options of sbatch that cw sets itself, because its scripts and programs rely on them."""


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


def check_options(options: Sequence[str]) -> None:
    """Raise ValueError if one of these is an option of sbatch that cw sets itself."""
    for option in options:
        if option.partition("=")[0] in _OURS or (option[1:2] != "-" and option[:2] in _OURS):
            raise ValueError(f"{option}: that is said to sbatch by cw itself; leave it out")


def master_script(request: ScriptRequest) -> Script:
    """Return the batch script of the master's job."""
    plan = request.plan
    options = plan.system_options("master")
    lines = [
        *shell_lines.head(plan, f'The master of the cw cluster "{plan.name}".'),
        f'export {VARIABLE}="slurm/$SLURM_CLUSTER_NAME/$SLURM_JOB_ID"',
        *shell_lines.setup(plan),
        *shell_lines.renewal(request),
        f"{shell_lines.sidecar('watch', request)} --parent $$ &",  # this shell becomes the master
        f"exec {shell_lines.master_command(plan)}",
    ]
    return _script(request, ["--ntasks=1", *options], lines)


def worker_script(request: ScriptRequest) -> Script:
    """Return the batch script of the workers' job."""
    plan = request.plan
    which = "one a node, with as many slots as tasks there" if plan.job_nodes == 1 else "one for all nodes"
    what = f'Workers of the cw cluster "{plan.name}": {which}.'
    lines = [
        *shell_lines.head(plan, what),
        *shell_lines.setup(plan),
        *shell_lines.renewal(request),
        *_workers(request),
        "status=$?",
        *_if_all_were_idle(shell_lines.end_of_renewal(request)),
        _FINISH,
    ]
    return _script(request, _arguments(request), lines)


def host_script(request: ScriptRequest) -> Script:
    """Return the batch script of a master's job that has workers, too."""
    plan = request.plan
    lines = [
        *shell_lines.head(plan, f'The master of the cw cluster "{plan.name}", and workers: one a node.'),
        f'export {VARIABLE}="slurm/$SLURM_CLUSTER_NAME/$SLURM_JOB_ID"',
        *shell_lines.setup(plan),
        *shell_lines.renewal(request),
        f"rm -f {shlex.quote(request.logs)}/{shell_lines.HANDED_OVER}$SLURM_JOB_ID  # of a job that was requeued",
        f"{shell_lines.master_command(plan)} & master=$!",
        f"{shell_lines.sidecar('watch', request)} --parent $master &",
        *_workers(request),
        _HOST.replace("MARK", shell_lines.HANDED_OVER),
        _FINISH,
    ]
    return _script(request, _arguments(request), lines)


def program_script(request: ProgramRequest) -> Script:
    """Return the batch script of a job of one program."""
    plan = request.plan
    lines = [
        *shell_lines.head(plan, request.what),
        *shell_lines.setup(plan),
        _UNTIL,
        f"exec {shlex.join(request.command)}",
    ]
    asked = [*_given(plan), "--ntasks=1", *plan.batch_options]
    common = [
        f"--job-name={request.job_name}", f"--output={request.directory.replace('%', '%%')}/host.log",
        "--open-mode=append", f"--chdir={request.directory}", "--export=ALL", "--no-requeue",
    ]  # fmt: skip
    what = f"the job of the script, with {shlex.join(asked)}"
    return Script("sbatch", [*common, *asked], "\n".join(lines) + "\n", what)


def _given(plan: Plan) -> list[str]:
    """Return the options of sbatch that the user has given by options of cw."""
    given = (("time", plan.time), ("partition", plan.partition), ("account", plan.account), ("qos", plan.qos),
             ("constraint", plan.constraint), ("reservation", plan.reservation), ("exclude", plan.exclude))  # fmt: skip
    return [f"--{option}={value}" for option, value in given if value]


def _arguments(request: ScriptRequest) -> list[str]:
    """Return the options of sbatch for a job with workers."""
    plan = request.plan
    size, has_several = [f"--ntasks={plan.slots}"], plan.job_nodes > 1
    if plan.is_isolated:
        size += [f"--nodes={plan.slots}", "--ntasks-per-node=1"]
    elif has_several:
        size = [f"--ntasks-per-node={plan.node_slots}"] if plan.node_slots else []
    elif plan.slots <= plan.node_slots:
        size.append("--nodes=1")
    seconds = seconds_of(plan.time)
    notice = NOTICE_SECONDS if seconds is None else max(1, min(NOTICE_SECONDS, int(seconds / 5)))
    return [
        *size, f"--signal={NOTICE}@{notice}", *([f"--mem-per-cpu={plan.mem_per_cpu}"] if plan.mem_per_cpu else []),
        *([f"--gres=gpu:{plan.gpus}"] if plan.gpus else []), *plan.system_options("worker"),
        *([f"--nodes={plan.job_nodes}"] if has_several else []),  # also if the user names another number
    ]  # fmt: skip


def _workers(request: ScriptRequest) -> list[str]:
    """Return the lines that start the workers; the last is their `srun`."""
    plan = request.plan
    has_several = plan.job_nodes > 1
    in_container = containers.on_node(plan, "${SLURM_STEP_GPUS:-$SLURM_JOB_GPUS}")
    on_node = _ON_NODE.replace("RESTORE", in_container + inside.RESTORE).replace("NOTICE", str(NOTICE))
    on_node = on_node.replace("IDLE", str(IDLE_STATUS))
    on_nodes = '-n "${slots[SLURM_NODEID]}"', "slots: ${slots[SLURM_NODEID]}"
    option, has = several_nodes.WORKER if has_several else on_nodes
    on_node = on_node.replace("OPTION", option).replace("HAS", has)
    on_node = on_node.replace("WORKER", shell_lines.worker_command(request))
    step = several_nodes.STEP if has_several else "--nodes=$SLURM_JOB_NUM_NODES --ntasks=$SLURM_JOB_NUM_NODES"
    return [
        f"export CW_LOGS={shlex.quote(request.logs)}",
        *shell_lines.end_of_orphans(request),
        inside.SAVE,
        _UNTIL,
        _PREPARE,
        inside.GPUS,
        *([several_nodes.HOSTFILE] if has_several else []),
        f"srun {step} --ntasks-per-node=1 --mem=0 \\",
        "    --cpu-bind=none --no-kill --kill-on-bad-exit=0 --input=none $CW_GPUS bash -c "
        + shlex.quote(on_node)
        + (" &" if request.has_workers else ""),
    ]


def _if_all_were_idle(commands: Sequence[str]) -> list[str]:
    """Return commands for the batch script, if there are any, under the condition that its workers on all nodes have
    ended because they had nothing to do."""
    marks = '"$CW_LOGS"/.idle-$SLURM_JOB_ID-*'
    condition = f'[ "$(ls {marks} 2>/dev/null | wc -l)" -lt "$SLURM_JOB_NUM_NODES" ]'
    return [f"{condition} || {command}" for command in commands]


# Slurm 22.05 does not give the end of the job in the environment. The script asks once, not each node.
_UNTIL = """\
export CW_UNTIL=$SLURM_JOB_END_TIME
[ -n "$CW_UNTIL" ] || CW_UNTIL=$(SLURM_TIME_FORMAT=%s scontrol -o show job "$SLURM_JOB_ID" |
    sed -n 's/.* EndTime=\\([0-9][0-9]*\\) .*/\\1/p')"""

_PREPARE = """\
rm -f "$CW_LOGS"/.idle-$SLURM_JOB_ID-*  # of a job that was requeued
# Tasks on each node, in order, from a form such as 2(x4),1. (In a step the variable is the step's.)
export CW_SLOTS=$(sed 's/,/\\n/g' <<<"$SLURM_TASKS_PER_NODE" |
    awk -F '[(x)]' '{ for (i = NF > 1 ? $3 : 1; i > 0; i--) printf "%d ", $1 }')
export CW_MEM="${SLURM_MEM_PER_NODE:-0} ${SLURM_MEM_PER_CPU:-0}"
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_NODE SLURM_MEM_PER_GPU SLURM_NTASKS_PER_NODE SLURM_EXPORT_ENV
trap 'is_over=1' TERM  # it goes to the workers too: wait until they have ended"""

_HOST = """\
workers=$!
# The job ends with its master, unless a follower's master is there for its workers. (A signal interrupts `wait`.)
until wait $master; status=$?; ! kill -0 $master 2>/dev/null; do :; done
[ -n "$is_over" ] || [ -e "$CW_LOGS/MARK$SLURM_JOB_ID" ] || exit $status
until wait $workers; status=$?; ! kill -0 $workers 2>/dev/null; do :; done"""

# The steps of a preempted job get SIGTERM at once, the script only after the grace time.
_FINISH = """\
# Workers that got SIGTERM have left. A job that ends by itself is not requeued: wait for what Slurm wants of it.
for ((i = 0; status == 143 && !is_over && i < 600; i++)); do sleep 1; done
exit $status"""

_ON_NODE = """\
exec >>"$CW_LOGS/workers-$SLURM_JOB_ID-$SLURMD_NODENAME.log" 2>&1
export CW_LOCATION="slurm/$SLURM_CLUSTER_NAME/$SLURM_JOB_ID/$SLURM_STEP_ID/$SLURMD_NODENAME"
place="Slurm job $SLURM_JOB_ID, step $SLURM_STEP_ID, node $SLURMD_NODENAME"
slots=($CW_SLOTS)
mem=($CW_MEM)
export CW_NODE_MEMORY=$((mem[0] ? mem[0] : mem[1] * SLURM_CPUS_ON_NODE))
echo "$(date "+%F %T") a worker in $place; HAS"
RESTORE
trap 'is_reported=1' TERM  # and say how it ended
WORKER OPTION ${CW_UNTIL:+--until "$CW_UNTIL"} --notice NOTICE --idle-status IDLE
status=$?
[ $status -ne IDLE ] || { : >"$CW_LOGS/.idle-$SLURM_JOB_ID-$SLURMD_NODENAME"; status=0; }
how="exit status $status"
[ $status -le 128 ] || how="signal $((status - 128))"
[ $status -eq 0 ] || echo "$(date "+%F %T") the worker in $place died: $how"
[ $status -ne 0 ] || [ -z "$is_reported" ] || status=143
exit $status"""


def _script(request: ScriptRequest, arguments: Sequence[str], lines: Sequence[str]) -> Script:
    plan = request.plan
    common = [
        f"--job-name={request.job_name}", f"--output={request.logs.replace('%', '%%')}/{request.role}-%j.log",
        "--open-mode=append", f"--chdir={request.logs}", "--export=ALL", "--requeue",
        *(["--no-kill"] if plan.job_nodes == 1 else []),  # jobs on several nodes need them all
    ]  # fmt: skip
    asked = [*_given(plan), *([f"--dependency=afterany:{request.follows}"] if request.follows else [])]
    asked += [*arguments, *([f"--begin=now+{request.delay}"] if request.delay else [])]
    what = f"the job of the {request.role}, with {shlex.join(asked)}"
    return Script("sbatch", [*common, *asked], "\n".join(lines) + "\n", what)
