"""`cw run`: runs a whole script in a job of Slurm or on this machine, with its output and exit status kept.

cw run --detach crunch.py 7      ends at once; `cw runs` shows its state, its output, its exit status
cw run crunch.py 7               stays: prints what it prints, ends as it ends
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from cw import advice, program
from cw.errors import ConnectionError, DetachError
from cw.launch.launcher import LaunchError
from cw.launch.options import ClusterOptions
from cw.launch.plan import Plan
from cw.runs import names, onlooker
from cw.runs.folder import RunFolder
from cw.scripts import places, status
from cw.scripts.folder import ScriptFolder
from cw.scripts.script import Script, named_after
from cw.slurm import starting
from cw.slurm.submitted import State

_FOR_SLURM = {
    "time": ("LIMIT", "time limit of the job in Slurm, in sbatch's form: 30 (minutes), 2:00:00"),
    "partition": ("NAME", "partition of Slurm"),
    "account": ("NAME", "account that is charged"),
    "qos": ("NAME", "quality of service"),
    "constraint": ("FEATURES", "only nodes with these features"),
    "reservation": ("NAME", "reservation to use"),
    "exclude": ("NODES", "not on these nodes"),
    "profile": ("NAME", "take options from [profiles.NAME] in ~/.cw/slurm.toml, too"),
    "setup": ("LINE", "line of shell that runs in the job first: 'module load gcc'; may be repeated"),
    "X": ("ARG", "argument of sbatch, such as --X --cpus-per-task=4; may be repeated"),
}
"""Options for a job of Slurm: what stands for the value, and the help."""

_REPEATED = ("setup", "X")


def main() -> int:
    """Run `cw run`; returns the exit status: that of the script, or with --detach 0."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    try:
        words = _words(options)
        plan = _plan(options)
        name = _claim(options, words)
    except ValueError as error:
        if isinstance(error, program.UserError):
            raise
        raise program.UsageError(str(error)) from None
    folder = ScriptFolder(name)
    script = _script(name, words, options)
    if options.slot:
        return _run_in_slot(folder, script, options.detach)
    _start(folder, script, plan)
    if options.detach:
        _print_ways_back(folder)
        return 0
    return _stay(folder)


def _parse_arguments() -> Any:
    parser = program.argument_parser(
        "cw.cli.run",
        "Runs a script of Python in a job of Slurm, if your cluster is there, or else on this machine, out of reach of "
        "this terminal's end. What it prints and its exit status are kept for "
        f"`{advice.command('runs', 'list')}`. Its stdin is empty.",
        usage="%(prog)s [OPTIONS] SCRIPT [ARG ...]\n       %(prog)s [OPTIONS] -m MODULE [ARG ...]",
    )
    add = parser.add_argument
    add("--detach", action="store_true", help="end at once, and let the script go on; otherwise print what it prints, "
        "and end with its exit status. Ctrl-C interrupts the script, once more ends it; it outlives the end of this "
        "terminal")  # fmt: skip
    add("--name", help="name of the run (default: the script's, with a number if that is in use)")
    add("--here", action="store_true", help="on this machine, wherever your cluster is")
    add("--slurm", action="store_true", help="in a job of Slurm, wherever your cluster is")
    add(
        "--slot",
        action="store_true",
        help="in a slot of your cluster, whose machines share this home directory",
    )
    for name, (metavar, text) in _FOR_SLURM.items():
        repeated: dict[str, Any] = {"action": "append", "default": []} if name in _REPEATED else {}
        add(f"--{name}", metavar=metavar, help=text, **repeated)
    add("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="a module in place of a script")
    add("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help=argparse.SUPPRESS)
    return parser.parse_args(_joined(sys.argv[1:]))


def _joined(arguments: list[str]) -> list[str]:
    """Join options with their values up to the script, so that `--X --time=1:00` works as it stands."""
    joined: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument.removeprefix("--") in ("name", *_FOR_SLURM) and argument.startswith("--"):
            argument = "=".join([argument, *[value for value in [next(given, None)] if value is not None]])
        joined.append(argument)
        if argument == "-m" or not argument.startswith("-"):
            break
    return [*joined, *given]


def _words(options: Any) -> list[str]:
    """Return the arguments of Python. Raises UsageError."""
    if options.module is not None:
        if not options.module:
            raise program.UsageError("-m needs the name of a module")
        return ["-m", *options.module]
    words: list[str] = options.script
    if not words:
        raise program.UsageError("run which script? give its path, or -m and a module")
    if words[0].startswith("-"):
        known = advice.command("run", "--help")
        raise program.UsageError(f"{words[0]} is no option of this command: `{known}` shows what there is")
    if not os.path.exists(words[0]):
        raise program.UserError(f"there is no script {words[0]} in {os.getcwd()}")
    return words


def _plan(options: Any) -> Plan | None:
    """Return the options of the script's job in Slurm; None: it runs on this machine. Raises ValueError."""
    if options.here + options.slurm + options.slot > 1:
        raise program.UsageError("--here, --slurm and --slot: give one of them")
    given = {name: getattr(options, name) for name in _FOR_SLURM if getattr(options, name)}
    if not options.slurm and (options.here or options.slot or not places.is_cluster_in_slurm()):
        if given:
            raise program.UsageError(
                f"--{next(iter(given))} is for a job of Slurm, and this script has none: give --slurm, too"
            )
        return None
    State.system.check_present()
    given["batch_options"] = given.pop("X", [])
    plan = starting.make_plan(ClusterOptions(1, **given))
    State.system.check_options(plan.batch_options)
    return plan


def _claim(options: Any, words: list[str]) -> str:
    """Return the name of the run, whose folder is made. Raises RunError, ValueError."""
    is_taken = _is_live if options.name else _is_kept
    return names.claim(options.name, named_after(words), is_taken, is_script=True)[0]


def _is_live(path: str) -> bool:
    """True if the run in this folder has not ended."""
    return not status.look(path).is_over if status.is_script(path) else onlooker.is_live(RunFolder(path))


def _is_kept(path: str) -> bool:
    """True if the run in this folder has not ended, or if its output is not to be given up for one without a name."""
    return (
        not status.is_script(path) or _is_live(path) or ScriptFolder(os.path.basename(path)).script().is_kept
    )


def _script(name: str, words: list[str], options: Any) -> Script:
    """Return what runs."""
    is_kept = options.detach or options.name is not None
    # As the shell names it, with its links: that is what the script would see.
    directory = os.environ.get("PWD", "")
    if not (os.path.isabs(directory) and os.path.isdir(directory) and os.path.samefile(directory, ".")):
        directory = os.getcwd()
    return Script(name, words, sys.executable, directory, time.time(), os.uname().nodename, is_kept)


def _start(folder: ScriptFolder, script: Script, plan: Plan | None) -> None:
    """Start the host. If it does not begin, nothing is left. Raises LaunchError."""
    try:
        folder.write(script)
        if plan is None:
            places.start_here(folder)
        else:
            places.submit(folder, script, plan)
    except LaunchError:
        names.forget(script.name)
        raise


def _run_in_slot(folder: ScriptFolder, script: Script, is_detached: bool) -> int:
    """Run the script in a slot of the cluster; returns its exit status, or 0 if it is detached."""
    from cw.scripts import hand_in  # a client, which takes longer to load

    try:
        hand_in.check_cluster()
        folder.write(script)
        with hand_in.begin(folder, script) as executor:
            if not is_detached:
                return _stay(folder)
            hand_in.detach(folder, executor)
    except (ConnectionError, DetachError, LaunchError) as error:
        names.forget(script.name)
        raise program.UserError(str(error)) from None
    _print_ways_back(folder)
    return 0


def _print_ways_back(folder: ScriptFolder) -> None:
    found, name = status.look(folder.path), folder.name
    print(found.sentence())
    verbs = ("status", "output", "wait", "cancel")
    print("later: " + ", ".join(f"`{names.command(verb, name)}`" for verb in verbs))


def _stay(folder: ScriptFolder) -> int:
    """Print what the script prints until it has ended; returns its exit status."""
    interrupts = 0

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            print("\ninterrupts the script; Ctrl-C again ends it", file=sys.stderr, flush=True)
            status.interrupt(folder.path)
        else:
            status.cancel(folder.path)

    signal.signal(signal.SIGINT, on_interrupt)
    found = status.look(folder.path)
    if found.phase == "waits":
        print(
            f"{found.sentence()}; {folder.file('output')} will have what it prints",
            file=sys.stderr,
            flush=True,
        )

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    try:
        found = status.follow(folder.path, write)
    except BrokenPipeError:
        back = names.command("output", folder.name)
        print(f"the script goes on: `{back}` shows what it prints", file=sys.stderr)
        raise
    if found.how:
        print(f"cw run: {found.sentence()}", file=sys.stderr)
    assert found.exit_status is not None
    return found.exit_status
