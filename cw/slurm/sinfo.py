"""Size of the nodes on which the workers' jobs would run, as sinfo lists them, and the options that concern it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence

from cw.launch.launcher import LaunchError
from cw.launch.piece_sizes import NodeShape, NodeSlots, slots_of_node
from cw.launch.plan import Plan
from cw.slurm import squeue

_LAYOUT = frozenset(
    "--nodes -N --nodelist -w --ntasks-per-node --ntasks-per-core --ntasks-per-socket --ntasks-per-gpu --gpus -G "
    "--gpus-per-task --gpus-per-socket --licenses -L --distribution -m --spread-job --use-min-nodes --contiguous "
    "--extra-node-info -B --sockets-per-node --cores-per-socket --threads-per-core --hint".split()
)
"""Options of sbatch that say how all tasks lie on nodes, or what they share: with one of them, the workers are one
job unless the user gives the size of a piece."""

_CHOOSING = frozenset("--constraint -C --exclude -x --gres --gpus-per-node --mem --tmp --mincpus".split())
"""Options that some nodes may not satisfy."""

_MEGABYTES = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def look_at_nodes(plan: Plan) -> NodeSlots | None:
    """Return the number of the plan's slots for which a node has room. None: Slurm does not say, or the user's options
    say how the tasks lie on nodes."""
    options = plan.system_options("worker")
    if plan.is_isolated or any(has_option(options, name) for name in _LAYOUT) or not squeue.is_there():
        return None
    partition = plan.partition or value_of(options, "--partition", "-p")
    try:
        is_chosen = bool(plan.constraint or plan.exclude or plan.reservation)
        shape = _shape(partition, is_chosen or any(has_option(options, name) for name in _CHOOSING))
        if shape is None:
            return None
        is_by_partition = shape.is_whole and not value_of(plan.worker_options, "--partition", "-p")
        is_for_all = (
            is_by_partition or has_option(plan.batch_options, "--exclusive") or _allocates_whole_nodes()
        )
        is_whole = is_for_all or shape.is_whole or has_option(options, "--exclusive")
    except LaunchError:
        return None  # sbatch will say what is wrong
    cpus = value_of(options, "--cpus-per-task", "-c")
    memory = plan.mem_per_cpu or value_of(options, "--mem-per-cpu", "")
    slots = slots_of_node(shape, int(cpus) if cpus.isdigit() else 1, _megabytes(memory))
    return NodeSlots(slots, is_whole, is_for_all)


def has_option(options: Sequence[str], name: str) -> bool:
    """True if this option is among those for sbatch, in any of its forms."""
    if name.startswith("--"):
        return any(option.partition("=")[0] == name for option in options)
    return any(option.startswith(name) and option[1:2] != "-" for option in options)


def value_of(options: Sequence[str], long: str, short: str) -> str:
    """Return the value of an option for sbatch, or ''. The last one counts."""
    found = ""
    for number, option in enumerate(options):
        name, is_joined, value = option.partition("=")
        following = "".join(options[number + 1 : number + 2])
        if name == long:
            found = value if is_joined else following
        elif short and option[1:2] != "-" and option.startswith(short):
            found = option[len(short) :] or following
    return found


def _shape(partition: str, is_chosen: bool) -> NodeShape | None:
    """Return the shape of most nodes of a partition ('': the default one). With `is_chosen` it may be any of them, so
    return the smallest."""
    partition = partition or os.environ.get("SBATCH_PARTITION", "")
    chosen = ["-p", partition] if partition else []
    output = squeue.call("sinfo", "-h", "-e", *chosen, "-o", "%P|%D|%c|%m|%B|%h")
    rows = [line.split("|") for line in output.splitlines()]
    rows = [row for row in rows if len(row) == 6 and row[1].isdigit() and int(row[1])]
    defaults = [row for row in rows if row[0].endswith("*")]
    counts: Counter[NodeShape] = Counter()
    for _, nodes, cpus, memory, most, sharing in (not partition and defaults) or rows:
        number = _number(cpus)
        number = min(number, _number(most) or number)
        counts[NodeShape(number, _number(memory), sharing == "EXCLUSIVE")] += int(nodes)
    if is_chosen:
        return min(counts, default=None)
    return max(counts, key=lambda shape: (counts[shape], -shape.cpus), default=None)


def _allocates_whole_nodes() -> bool:
    return bool(re.search(r"^SelectType\s*=\s*select/linear", squeue.config(), re.MULTILINE))


def _number(text: str) -> int:
    digits = text.rstrip("+")
    return int(digits) if digits.isdigit() else 0


def _megabytes(size: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", size.strip(), re.IGNORECASE)
    return int(int(match[1]) * _MEGABYTES[match[2].upper()]) if match else 0
