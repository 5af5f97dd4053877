"""`cw slurm` (also `python -m cw.slurm`, `./slurm.py`): start, stop, status, scale."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections import Counter
from collections.abc import Callable
from typing import Any

from cw import advice, guard, program
from cw.errors import StartRefused
from cw.launch import shell_lines
from cw.launch.options import ClusterOptions, split_line
from cw.launch.plan import Plan
from cw.net import address
from cw.slurm import cluster, ending, hosting, kinds, pieces, profiles, starting, unused
from cw.slurm.elastic import KindStatus
from cw.slurm.job_lines import job_lines
from cw.slurm.submitted import BatchJob, State


def main() -> int:
    """Run `python -m cw.slurm start|stop|status|scale`; returns the exit status."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    if options.name:
        address.check_cluster_name(options.name)
    try:
        return _VERBS[options.verb](options)
    except ValueError as error:
        if isinstance(error, program.UserError):
            raise
        raise program.UsageError(str(error)) from None


def _cluster_options(options: Any) -> dict[str, Any]:
    """Return the arguments of ClusterOptions that the options give."""
    given = {field: value for field, value in vars(options).items() if field in ClusterOptions._fields}
    is_counted = not options.nodes and options.max is None
    given["nworkers"] = options.nworkers or (1 if is_counted else None)
    for field in ("docker_args", "apptainer_args"):
        given[field] = [word for text in given[field] for word in split_line(text)]
    given |= {"master": not options.without_master, "workers": not options.without_workers}
    given |= {"master_options": options.Xmaster, "worker_options": options.Xworkers}
    return given | {"batch_options": options.X}


def _run_start(options: Any) -> int:
    given = _cluster_options(options)
    master, workers = given["master"], given["workers"]
    plan = starting.make_plan(ClusterOptions(**given))
    if options.dry_run:
        _print_scripts(starting.with_nodes(plan), master, workers)
        return 0
    try:
        guard.check_start("cw slurm start")
        started = starting.start_plan(
            plan, master, workers, lambda text: print(text, file=sys.stderr, flush=True)
        )
    except StartRefused as error:
        raise program.UserError(str(error)) from None
    except KeyboardInterrupt:
        stop = advice.command("slurm", "stop", name=plan.name)
        print(f"\nits jobs stay in the queue; `{stop}` takes them out", file=sys.stderr)
        raise
    if started.master:
        print(f"the master answers at {started.master}")
    if workers and plan.is_elastic:
        print(f"elastic: {kinds.in_numbers(starting.with_nodes(plan))}, as jobs come and go")
    if workers and started.slots:
        print(
            f"{started.connected} of {program.count(started.slots, 'slot is', 'slots are')} up"
            + (f"; {started.pending}" if started.pending else "")
        )
    print(f"logs: {started.logs}")
    return 0


def _print_scripts(plan: Plan, master: bool, workers: bool) -> None:
    state = State(plan.name)
    state.plans, state.token = {"master": plan, "workers": plan}, "TOKEN"
    state.logs = os.path.join(os.path.dirname(state.file()), "logs")
    roles = (("master", master and not plan.has_local_master), ("workers", workers))
    hosted = hosting.slots_of_master(plan, master, workers)
    beside = hosting.sizes_beside(plan, hosted) or [kinds.size_of(plan)] * plan.is_elastic
    scripts = []
    for role, is_chosen in roles:
        sizes = beside if role == "workers" else [hosted]
        for size, count in Counter(sizes).items() if is_chosen else []:
            job = BatchJob(role, 0, "", "", size, 0.0, stays=role == "master")
            script = state.script(job).as_shell()
            if count > 1:
                script = f"for piece in {{1..{count}}}; do\n{script}sleep {pieces.PAUSE_SECONDS}; done\n"
            scripts.append(script)
    for origin in profiles.origins(plan.profile):
        print(f"# {origin}")
    print(f"# What is started in this way is not known to stop and status: {State.system.cancel_program} ends its "
          "jobs,\n# and none follows one that ends (--renew).\n"
          f"(umask 077; mkdir -p {shlex.quote(state.logs)})\n")  # fmt: skip
    if master and plan.has_local_master:
        log = shlex.quote(os.path.join(state.logs, "master.log"))
        print(f"# The master, a process on this machine; `kill $!` ends it.\n(unset CW_MASTER; export CW_CLUSTER="
              f"{plan.name}; exec {shell_lines.master_command(plan)}) >>{log} 2>&1 &\n")  # fmt: skip
    print("\n".join(scripts), end="")


def _run_stop(options: Any) -> int:
    try:
        roles = not options.without_master, not options.without_workers
        report = cluster.stop(*roles, name=options.name, grace=options.grace)
        print(
            report or f"no {'cluster' if all(roles) else 'such part of a cluster'} of that name is in Slurm"
        )
    except KeyboardInterrupt:
        name = options.name or address.cluster_name()
        stop = advice.command("slurm", "stop", "--grace", "0", name=name)
        print(
            f"\nits workers start nothing more, but its jobs stay: `{stop}` ends them at once",
            file=sys.stderr,
        )
        raise
    return 0


def _run_scale(options: Any) -> int:
    limits = {"min": options.min, "max": options.max, "kind": options.kind}
    print(cluster.scale(options.nworkers, options.name, **limits))
    return 0


def _run_add(options: Any) -> int:
    print(cluster.add(**{**_cluster_options(options), "kind": options.kind}))
    return 0


def _run_resume(options: Any) -> int:
    print(cluster.resume(options.name, options.kind))
    return 0


def _run_status(options: Any) -> int:
    return print_status(options.name)


def print_status(name: str | None = None) -> int:
    """Print the status of the cluster of this name; returns the exit status, 1 if its master does not answer."""
    found = cluster.status(name)
    if found is None:
        name = name or address.cluster_name()
        print("; ".join(filter(None, [f"no cluster {name!r} is in Slurm", unused.last_end(name)])))
        return 1
    print(f"cluster: {found.name}")
    master = found.master or "does not answer"
    if found.local:
        master += f" ({found.local})"
    elif not found.master and not any(job.is_active for job in found.jobs if job.role == "master"):
        master += f": `{advice.command('slurm', 'start', '-W', name=found.name)}` starts another"
    print(f"master: {master}")
    print(f"slots connected: {found.slots}")
    print(
        f"jobs: {program.count(found.running, 'runs', 'run')}, {program.count(found.waiting, 'waits', 'wait')}"
    )
    for line in job_lines(found.jobs):
        print(line)
    for kind in found.kinds:
        _print_kind(kind)
    if found.problem:
        print(f"Slurm does not answer: {found.problem}")
    elif found.jobs:
        print(
            f"(Slurm's answer is {found.age:.0f} s old; it is asked once in {State.system.list_seconds:.0f} s)"
        )
    for text in found.problems:
        print(f"problem: {text}")
    print(f"logs: {found.logs}")
    return 0 if found.master else 1


def _print_kind(kind: KindStatus) -> None:
    """Print the status of one kind of pieces of an elastic cluster."""
    print(
        f"elastic, {kind.kind}: {program.count(kind.wanted, 'slot')} wanted of {kind.least} to {kind.most}; "
        f"{kind.waiting} wait in the queue, {kind.starting} start, {kind.running} run"
    )
    if kind.problem:
        print(f"  {kind.problem}")
    for line in kind.log.splitlines() if kind.problem else []:
        print(f"  | {line}")
    for refused in kind.refused:
        print(f"  jobs that no pieces can run: {refused}")


_VERBS: dict[str, Callable[[Any], int]] = {
    "start": _run_start, "stop": _run_stop, "status": _run_status, "scale": _run_scale,
    "add": _run_add, "resume": _run_resume,
}  # fmt: skip


_OPTIONS = {
    "stop": {"verb", "verbose", "name", "grace", "without_master", "without_workers"},
    "status": {"verb", "verbose", "name"},
    "scale": {"verb", "verbose", "name", "nworkers", "min", "max", "kind"},
    "resume": {"verb", "verbose", "name", "kind"},
}
"""Options of some verbs."""

_NOT_TAKEN = {
    "start": {"grace", "kind"},
    "add": {
        "grace",
        "dry_run",
        "without_master",
        "without_workers",
        "local_master",
        "nworkers",
        "isolated",
    },
}
"""Options that others do not take."""


def _parse_arguments() -> Any:
    parser = program.argument_parser(
        "cw.slurm",
        "Starts and stops a cluster in Slurm: one job for the master, others for the workers.",
        epilog="An ARG of cw.master or cw.worker goes to it, any other to sbatch: --Xworkers --exclusive",
    )
    parser.add_argument("verb", choices=list(_VERBS), metavar="VERB", help="start: submit a master and workers, and "
        "wait until the master answers. status: show the jobs, their nodes and time left, the slots, the logs. scale: "
        "change the number of slots to N, or the limits of an elastic cluster. add: pieces of another kind. resume: go "
        "on after a pause. stop: let running jobs end, then cancel all.")  # fmt: skip
    add = parser.add_argument
    add("-n", "--nworkers", type=program.converted_by(_parse_wanted), metavar="N",
        help="number of slots (start: default 1)")  # fmt: skip
    _add_pieces(parser)
    add("-M", "--without-master", action="store_true", help="start: only workers, for a master that runs already. "
        "stop: only the workers")  # fmt: skip
    add("-W", "--without-workers", action="store_true", help="start, stop: only the master")
    add("-i", "--isolated", action=BooleanOptionalAction, help="one slot per node")
    add("--renew", action=BooleanOptionalAction, help="let a new job follow each one that ends, until stop")
    add("--name", help="name of the cluster, if it is a second one (default: CW_CLUSTER, or 'default')")
    add(
        "--local-master",
        action=BooleanOptionalAction,
        help="run the master on this machine, the workers in Slurm",
    )
    _add_options_of_sbatch(parser)
    add("-d", "--docker-image", metavar="IMAGE", help="run the workers in this Docker image, which has cw")
    add(
        "--docker-args",
        action="append",
        default=[],
        metavar="ARG",
        help="arguments of docker run: '-v /a:/a'",
    )
    add("--apptainer-image", metavar="IMAGE", help="run the workers in this Apptainer image, which has cw")
    add("--apptainer-args", action="append", default=[], metavar="ARG", help="arguments of apptainer exec")
    add("--grace", type=program.converted_by(program.parse_seconds), metavar="SECONDS", default=ending.DRAIN_SECONDS,
        help="stop: let running jobs go on for this long (default: %(default)g)")  # fmt: skip
    add("--dry-run", action="store_true", help="start: print the batch scripts, submit nothing")
    options = parser.parse_args(_joined(sys.argv[1:]))
    _check_are_for_verb(parser, options)
    return options


def _check_are_for_verb(parser: Any, options: Any) -> None:
    """End with an error if an option is not for the verb, or if one is missing."""
    taken = _OPTIONS.get(options.verb, vars(options).keys() - _NOT_TAKEN.get(options.verb, set()))
    for dest, value in vars(options).items():
        if dest not in taken and value != parser.get_default(dest):
            parser.error(f"--{dest.replace('_', '-')} is not for {options.verb}")
    if options.nworkers == 0 and options.verb != "scale":
        parser.error("-n 0 is no number of slots: give 1 or more")
    if options.verb == "scale" and options.nworkers is options.min is options.max is None:
        parser.error("scale to how many slots? give -n N, or --min and --max")
    if options.verb == "add" and (options.kind is None or options.max is None):
        parser.error("add which pieces, and how many slots of them? give --kind NAME and --max N")


def _add_pieces(parser: Any) -> None:
    """Add the options of the workers' jobs, of which each has a piece of the slots."""
    count = program.converted_by(_parse_slots)
    add = parser.add_argument
    add("--piece", type=count, metavar="K", help="number of slots of each of the workers' jobs, of which the last may "
        "have fewer (default: those of one node; more where that would be over 64 jobs)")  # fmt: skip
    add("--nodes", type=count, metavar="M", help="in place of -n: all CPUs of M nodes. add: nodes of each piece, which "
        "runs one job at a time, with options(nodes=M)")  # fmt: skip
    limit = program.converted_by(_parse_limit)
    add("--max", type=limit, metavar="N", help="in place of -n: an elastic cluster, whose pieces come when jobs wait, "
        "up to N slots, and end when they are idle")  # fmt: skip
    add("--min", type=limit, metavar="N", help="with --max: slots that are always there (default: 0)")
    add("--backlog", type=count, metavar="N", help="with --max: most pieces that wait in the queue at a time "
        "(default: 4)")  # fmt: skip
    add("--gpus", type=count, metavar="G", help="GPUs of each piece (its slots are as many, without --piece); add: "
        "with --nodes, of each node")  # fmt: skip
    add("--kind", metavar="NAME", help="add: the name of these pieces. scale, resume: the kind that is meant")
    add("--idle", type=program.converted_by(program.parse_seconds), metavar="SECONDS", help="end a worker, and its job "
        "in Slurm, when it has had nothing to do for this long; 0: never (default: 120 with --max, 600 with "
        "--renew, else never)")  # fmt: skip


def _add_options_of_sbatch(parser: ArgumentParser) -> None:
    """Add what is said to sbatch, for both jobs or one."""
    add = parser.add_argument
    add("--profile", metavar="NAME", help="take options from [profiles.NAME] in ~/.cw/slurm.toml, too")
    add("--time", metavar="LIMIT", help="time limit of the jobs, in sbatch's form: 30 (minutes), 2:00:00")
    add("--mem-per-cpu", metavar="SIZE", help="memory of each slot, such as 4G")
    add("--partition", metavar="NAME", help="partition of Slurm")
    add("--account", metavar="NAME", help="account that is charged")
    add("--qos", metavar="NAME", help="quality of service")
    add("--constraint", metavar="FEATURES", help="only nodes with these features")
    add("--reservation", metavar="NAME", help="reservation to use")
    add("--exclude", metavar="NODES", help="no job gets one of these nodes")
    for name, whose in (("", "both jobs"), ("master", "the master's job"), ("workers", "the workers' job")):
        add(f"--X{name}", action="append", default=[], metavar="ARG",
            help=f"argument of sbatch for {whose}; may be repeated")  # fmt: skip
    add("--setup", action="append", default=[], metavar="LINE",
        help="line of shell that runs in both jobs first: 'module load gcc'; may be repeated")  # fmt: skip


def _joined(arguments: list[str]) -> list[str]:
    """Join options for other programs with their values, so that `--Xworkers --time=1:00` works as it stands."""
    joined: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in ("--X", "--Xmaster", "--Xworkers", "--setup", "--docker-args", "--apptainer-args"):
            argument = "=".join([argument, *[value for value in [next(given, None)] if value is not None]])
        joined.append(argument)
    return joined


def _parse_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number of slots: give 0 or more")
    return int(text)


def _parse_wanted(text: str) -> int:
    return 0 if text == "0" else _parse_slots(text)  # (what `scale` says to 0 depends on the cluster)


def _parse_slots(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number of slots: give 1 or more")
    return int(text)
