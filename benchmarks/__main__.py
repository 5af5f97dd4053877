"""`python -m benchmarks`: see the package's docstring."""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks import harness, table
from benchmarks.systems import SYSTEMS

WORKLOADS = (
    "noop",
    "chunks",
    "short_maps",
    "graphs",
    "joblib_calls",
    "grid_search",
    "roundtrip",
    "sleeps",
    "closure",
    "captured",
    "methods",
    "instances",
    "global_table",
    "arrays",
    "bulk",
    "million",
    "many_workers",
    "startup",
    "memory",
    "thousand_workers",
    "joining",
    "mixed",
    "stored",
    "short_stored",
    "million_stored",
    "large_stored",
    "encrypted",
    "machines",
    "share",
)
HERE = Path(__file__).resolve().parent.parent
TOLERATED = 1.10  # factor by which this checkout may be worse than another one before --against reports it


@dataclass(frozen=True)
class Entry:
    """A system in a workload, and for cw the checkout that it comes from."""

    system: str
    label: str
    checkout: Path = HERE


def main() -> int:
    arguments = parse_arguments()
    if arguments.list:
        print(list_workloads())
        return 0
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # so that trials are ended
    use_own_scripts()
    harness.adopt_orphans()
    for checkout in filter(None, (HERE, arguments.against)):
        compileall.compile_dir(checkout / "cw", quiet=2)  # as pip does with what it installs, the peers too
    entries = find_entries(arguments)
    print(machine())
    print(table.heading("this" if arguments.against else "cw"), flush=True)
    worse: list[str] = []
    for name in arguments.only or WORKLOADS:
        worse += run_workload(name, entries, arguments)
    if arguments.against:
        print(f"\nWorse by more than {TOLERATED - 1:.0%}: {'; '.join(worse) or 'nothing'}.")
    return 1 if worse else 0


def use_own_scripts() -> None:
    """Put the directory of this Python's scripts first: some peers start theirs by name."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), path])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=benchmarks.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", help="see --list")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help="see --list")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="number of rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help="do less of everything, to see that it runs")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of cw to compare with")
    parser.add_argument("--list", action="store_true", help="list the workloads and the systems")
    return parser.parse_args()


def list_workloads() -> str:
    lines = []
    for name in WORKLOADS:
        workload = import_workload(name)
        summary = (workload.__doc__ or "").partition("\n")[0]
        lines += [f"{name}: {summary}", f"    {' '.join(workload.SYSTEMS)}"]
    return "\n".join(lines)


def import_workload(name: str) -> ModuleType:
    return import_module(f"benchmarks.{name}")


# --- entries ---------------------------------------------------------------------------------------


def find_entries(arguments: argparse.Namespace) -> list[Entry]:
    """Return the requested entries that are installed; prints the others on stdout."""
    wanted = arguments.systems or list(SYSTEMS)
    if arguments.against:
        checkouts = {"this": HERE, "other": arguments.against.resolve()}
        return [
            Entry(name, f"{SYSTEMS[name].label} ({which})", checkout)
            for name in wanted
            if "cw" in SYSTEMS[name].modules
            for which, checkout in checkouts.items()
        ]
    entries = []
    for name in wanted:
        system = SYSTEMS[name]
        if reason := system.missing():
            print(f"{system.label} is left out: {reason}.\n")
        else:
            version = cw_version(HERE) if "cw" in system.modules else system.version()
            entries.append(Entry(name, f"{system.label} {version}".strip()))
    return entries


def cw_version(checkout: Path) -> str:
    program = "import cw; print(cw.__version__)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True)
    return answer.stdout.strip()


def baseline_of(entry: Entry, entries: list[Entry], against: bool) -> Entry | None:
    """Return the entry to compare with: cw, or this checkout's form of the same system."""
    if against:
        first = next(other for other in entries if other.system == entry.system)
    else:
        first = next((other for other in entries if "cw" in SYSTEMS[other.system].modules), entry)
    return None if first == entry else first


# --- running ---------------------------------------------------------------------------------------


def run_workload(name: str, entries: list[Entry], arguments: argparse.Namespace) -> list[str]:
    """Print the workload's rows; returns those in which this checkout is worse than tolerated."""
    workload = import_workload(name)
    taking_part = [entry for system in workload.SYSTEMS for entry in entries if entry.system == system]
    series = {entry: table.Series(entry.label) for entry in taking_part}
    for number in range(arguments.repeat):
        # Each round starts with another system, so that none always follows the same one.
        start = number % max(1, len(taking_part))
        for entry in taking_part[start:] + taking_part[:start]:
            outcome = run_entry(name, entry, workload.LIMIT, arguments.quick)
            series[entry].outcomes.append(outcome)
    compared = []
    for entry in taking_part:
        baseline = baseline_of(entry, taking_part, bool(arguments.against))
        compared.append((series[entry], series[baseline] if baseline else None))
    if lines := table.rows(name, workload.FIGURES, compared):
        print(lines, flush=True)
    if not arguments.against:
        return []
    return [
        f"{name}, {SYSTEMS[entry.system].label}, {what}"
        for entry, (other, this) in zip(taking_part, compared, strict=True)
        if this
        for what in table.regressions(this, other, workload.FIGURES, TOLERATED)
    ]


def run_entry(workload: str, entry: Entry, limit: float, quick: bool) -> harness.Outcome:
    start = time.monotonic()
    outcome = harness.run_trial(workload, entry.system, limit, entry.checkout, quick)
    figures = "; ".join(f"{name} {table.number(x)}" for name, x in outcome.figures.items() if name != "n")
    note = f"; left {outcome.left_behind} processes behind" if outcome.left_behind else ""
    tell(f"{workload}, {entry.label}: {outcome.failure or figures}{note} ({time.monotonic() - start:.0f} s)")
    if outcome.failure:
        tell("    " + "\n    ".join(outcome.log.splitlines()[-40:]))
    return outcome


def machine() -> str:
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}\n"
    )


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
