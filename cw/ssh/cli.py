"""`cw ssh`: start, status, stop, restart."""

from __future__ import annotations

import sys
from argparse import Action, BooleanOptionalAction
from typing import Any

from cw import advice, program
from cw.errors import StartRefused
from cw.net import address
from cw.ssh import cluster, ending, hosts
from cw.ssh.cluster import SshCluster
from cw.ssh.plan import Options

_WITH_VALUE = {"-o": "OPTION", "-F": "FILE", "-i": "FILE", "-J": "HOST", "-l": "USER", "-p": "PORT"}
"""Options of ssh that are passed on; those without a value follow."""

_FLAGS = ("-4", "-6")


class PassOn(Action):
    """Collects an option of ssh, with its value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        given = [option, *([values] if isinstance(values, str) else [])]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *given])


def main() -> int:
    """Run `cw ssh`; returns the exit status."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    try:
        return {"start": _start, "restart": _restart, "status": _status, "stop": _stop}[options.verb](options)
    except StartRefused as error:
        raise program.UserError(str(error)) from None
    except (ValueError, OSError) as error:
        if isinstance(error, program.UserError):
            raise
        raise program.UsageError(str(error)) from None


def _named(options: Any) -> list[str]:
    return [*options.machines, *(hosts.read_file(options.hosts) if options.hosts else [])]


def _start(options: Any) -> int:
    given = Options(
        _named(options),
        options.name,
        options.master,
        options.tunnel,
        options.install,
        options.python,
        options.port,
        options.workdir,
        options.ssh_options,
        options.Xworkers,
        options.Xmaster,
    )
    name = options.name or address.cluster_name()
    try:
        return _print_started(cluster.start_saying(given, _say), name)
    except KeyboardInterrupt:
        print(
            f"\nwhat has begun stays; `{advice.command('ssh', 'stop', name=name)}` ends it", file=sys.stderr
        )
        raise


def _restart(options: Any) -> int:
    name = options.name or address.cluster_name()
    given = Options(name=name, install=options.install)
    return _print_started(cluster.restart(given, _named(options), options.grace, _say), name)


def _say(line: str) -> None:
    print(line, flush=True)


def _print_started(started: SshCluster, name: str) -> int:
    up = [outcome for outcome in started.outcomes if not outcome.problem]
    count = program.count(len(started.outcomes), "machine")
    how_many = f"{len(up)} of {count}" if len(up) < len(started.outcomes) else count
    print(f"{program.count(started.slots, 'slot')} on {how_many}; the master answers at {started.master}")
    stop = advice.command("ssh", "stop", name=name)
    find = "" if name == address.cluster_name() else f" with CW_CLUSTER={name}"
    print(f"your programs on this machine find the cluster{find}, until `{stop}`")
    return 0 if len(up) == len(started.outcomes) else 1


def _status(options: Any) -> int:
    found = cluster.status(options.name)
    if found is None:
        print(cluster.there_is_none(options.name or address.cluster_name()))
        return 1
    start = advice.command("ssh", "start", name=found.name)
    print(f"master: {found.master or f'does not answer (`{start}` starts it again)'}")
    for machine in found.machines:
        jobs = f", {program.count(machine.jobs, 'job')}" if machine.jobs else ""
        print(f"{machine.target}: {machine.problem or program.count(machine.slots, 'slot') + jobs}")
    print(f"jobs: {found.running:,} running, {found.waiting:,} waiting")
    print(f"logs: {found.logs}")
    missing = [machine for machine in found.machines if machine.problem]
    if found.master and missing:
        print(f"`{start}` starts what is missing")
    return 1 if missing or not found.master else 0


def _stop(options: Any) -> int:
    name = options.name or address.cluster_name()
    names = _named(options)
    lines = cluster.stop(name, names, options.grace, options.uninstall)
    if not lines:
        print(f"there is no cluster {name!r} of cw ssh")
        return 0
    print("\n".join(lines))
    if not names:
        print(ending.describe(len(lines), name))
    return 0


def _parse_arguments() -> Any:
    parser = program.argument_parser("cw.ssh", "A cluster on machines that ssh reaches, each with a worker.")
    verbs = parser.add_subparsers(dest="verb", metavar="start | status | stop | restart")
    texts = {
        "start": "start a cluster, or what is missing of it",
        "status": "show which machines are there",
        "stop": "end it; nothing of it stays on the machines",
        "restart": "end workers and start others in their place, as after an update",
    }
    for verb, text in texts.items():
        sub = verbs.add_parser(
            verb, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        sub.add_argument("--name", metavar="NAME", type=program.converted_by(address.check_cluster_name),
                         help="name of the cluster (default: CW_CLUSTER, or 'default')")  # fmt: skip
        if verb == "status":
            continue
        sub.add_argument("machines", nargs="*", metavar="[USER@]HOST[:SLOTS]",
                         help="a machine, with one slot for each usable CPU unless you say otherwise; none: those of "
                         "the last start")  # fmt: skip
        sub.add_argument("--hosts", metavar="FILE", help="a file with more of them, one or more on each line")
        if verb in ("start", "restart"):
            sub.add_argument("--install", action="store_true", help="where there is no cw of this version, make a "
                             "private environment with it and what it needs, in ~/.cw there (pip)")  # fmt: skip
        if verb in ("stop", "restart"):
            sub.add_argument("--grace", metavar="SECONDS", default=0.0,
                             type=program.converted_by(program.parse_seconds),
                             help="let running jobs go on for this long (default: 0)")  # fmt: skip
    _add_start(verbs.choices["start"])
    verbs.choices["stop"].add_argument("--uninstall", action="store_true",
                                       help="remove the environments that --install has made, too")  # fmt: skip
    options = parser.parse_args()
    if not options.verb:
        raise program.UsageError(
            f"say what to do: start, status, stop or restart (`{advice.command('ssh', '--help')}` shows more)"
        )
    return options


def _add_start(parser: Any) -> None:
    """Add the options of `start`. One that is not given is as at the last start."""
    parser.add_argument(
        "--master", metavar="HOST", help="run the master on this one of the machines (default: here)"
    )
    parser.add_argument("--tunnel", action=BooleanOptionalAction, default=None,
                        help="let workers reach the master by ssh alone: forwarded ports, kept up by a process "
                        "here")  # fmt: skip
    parser.add_argument("--port", type=program.converted_by(address.check_port),
                        help="the master's port (default: a free one)")  # fmt: skip
    parser.add_argument(
        "--python", metavar="PATH", help="the Python there (default: one like this is looked for)"
    )
    parser.add_argument("--workdir", metavar="DIR", help="directory there in which jobs run (default: yours, where "
                        "the machine has the same home directory; otherwise one of the cluster)")  # fmt: skip
    for name in ("workers", "master"):
        parser.add_argument(f"--X{name}", action="append", metavar="ARG",
                            help=f"argument for the {name}, such as --X{name}=-v; may be repeated")  # fmt: skip
    group = parser.add_argument_group("options of ssh, which are passed on")
    for option, value in _WITH_VALUE.items():
        group.add_argument(option, metavar=value, dest="ssh_options", action=PassOn)
    for option in _FLAGS:
        group.add_argument(option, nargs=0, dest="ssh_options", action=PassOn)


if __name__ == "__main__":
    sys.exit(program.run("cw.ssh", main))
