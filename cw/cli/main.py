"""`cw`, and `cw COMMAND ...`: from the typed word to the program that does it.

    cw                  the commands, and the state of the user's cluster    (cw.cli.main)
    cw local            a cluster on this machine, in the foreground         (cw.cli.local)
    cw ssh              a cluster on lab machines, by ssh                (cw.ssh.cli)
    cw status           the state of the cluster that a program would find   (cw.cli.status)
    cw top              the same, live: in a terminal or a browser           (cw.cli.top)
    cw run              a whole script that outlives the terminal            (cw.cli.run)
    cw runs             runs that go on without their scripts                (cw.detached.cli)
    cw report           a page about what a store has                        (cw.cli.report)
    cw master, ...      the same as python -m cw.master, ...

A program is loaded when its command is typed: `cw --help` loads none.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, NoReturn

from cw import program
from cw.version import VERSION


class Command(NamedTuple):
    """One command: the module whose `main` it runs, and what `cw` says about it."""

    module: str
    arguments: str
    text: str


COMMANDS = {
    "local": Command("cw.cli.local", "[-n SLOTS]", "a cluster on this machine, until Ctrl-C"),
    "slurm": Command("cw.slurm.cli", "start|status|scale|stop", "a cluster in Slurm"),
    "ssh": Command("cw.ssh.cli", "start|status|stop|restart", "a cluster on machines that ssh reaches"),
    "master": Command("cw.master.cli", "", "a cluster by hand: its master, on one machine"),
    "worker": Command("cw.worker.cli", "HOST [-n SLOTS]", "... and a worker, on each machine"),
    "run": Command(
        "cw.cli.run", "[--detach] SCRIPT", "a script that outlives this terminal, here or in Slurm"
    ),
    "status": Command("cw.cli.status", "[HOST] [--json]", "the state of the cluster that your programs find"),
    "top": Command("cw.cli.top", "[HOST] [--web]", "... while it runs: progress, workers, failures"),
    "runs": Command("cw.detached.cli", "[VERB NAME]", "runs that go on without their scripts"),
    "results": Command("cw.results", "STORE", "the results in a store"),
    "report": Command("cw.cli.report", "STORE -o FILE", "a page about a run: what a store has, as HTML"),
    "credential": Command("cw.credential", "", "the file that lets machines into your clusters"),
}


def main() -> NoReturn:
    """Run the command in `sys.argv`, and end the process."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        program.run_command(f"cw {name}", lambda: _run(COMMANDS[name]), arguments)
    program.run("cw", lambda: _answer(name))


def _run(command: Command) -> int | None:
    import importlib

    status: int | None = importlib.import_module(command.module).main()
    return status


def _answer(name: str) -> None:
    """Answer `cw` without a command, or with an option of its own."""
    if name in ("-h", "--help"):
        print(help_text())
    elif name == "--version":
        print(f"cw {VERSION}")
    elif not name:
        from cw.cli import status

        print(f"{help_text()}\n\n{status.sentence()}")
    else:
        raise program.UsageError(f"there is no command {name!r}: give one of {', '.join(COMMANDS)}")


def help_text() -> str:
    """Return the list of commands, a line for each."""
    usages = {f"cw {name} {command.arguments}".rstrip(): command.text for name, command in COMMANDS.items()}
    width = max(map(len, usages))
    lines = [f"  {usage:{width}}  {text}" for usage, text in usages.items()]
    return "\n".join(
        ["cw runs a Python loop on hundreds of cores.", "", *lines, "", "`cw COMMAND --help` says more."]
    )
