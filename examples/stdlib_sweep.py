"""Which functions of Python's standard library are the most tangled? A sweep over all its modules.

Each job parses one file and measures its functions: their cyclomatic complexity (the number of paths through them:
1, and 1 more for each branch), their length, and whether they have a docstring. The sweep runs on a cluster on this
machine, with one slot for each usable CPU. Each job also measures its own CPU time. The sum of these times, divided by
the elapsed time, is the speed-up. With --loop, the same calls are made once more in a plain loop. The library's own
tests, half of its code, are included only with --tests.
"""

import argparse
import ast
import os
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import cw

LIBRARY = Path(sysconfig.get_path("stdlib"))
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LEFT_OUT = {"site-packages", "dist-packages"}
TESTS = {"test", "tests", "idle_test"}
BEST = 10


class Function(NamedTuple):
    """One function of one module."""

    complexity: int
    lines: int
    name: str
    place: str


class Module(NamedTuple):
    """Measures of one module."""

    lines: int
    functions: int
    documented: int
    worst: list  # its most complex functions, the worst first
    error: str


def measure_timed(path):
    """Run `measure` on a worker; also returns its CPU time and its elapsed time (seconds)."""
    cpu, clock = time.process_time(), time.perf_counter()
    module = measure(path)
    return module, time.process_time() - cpu, time.perf_counter() - clock


def measure(path):
    """Parse the file and measure its functions."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # some of the test suite's files are broken on purpose
        return Module(source.count(b"\n"), 0, 0, [], f"{path.relative_to(LIBRARY)}: {error}")
    module = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    functions = []
    documented = 0
    for owner, node in walk_functions(tree, ""):
        lines = node.end_lineno - node.lineno + 1
        functions.append(
            Function(complexity(node), lines, f"{owner}{node.name}()", f"{module}:{node.lineno}")
        )
        documented += ast.get_docstring(node, clean=False) is not None
    functions.sort(reverse=True)
    return Module(source.count(b"\n"), len(functions), documented, functions[:BEST], "")


def walk_functions(node, owner):
    """Yield all functions below a node, each with the names of the classes and functions around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield owner, child
        inner = f"{owner}{child.name}." if isinstance(child, (*FUNCTIONS, ast.ClassDef)) else owner
        yield from walk_functions(child, inner)


def complexity(function):
    """Return the number of linearly independent paths through a function (McCabe)."""
    number = 1
    for node in ast.walk(function):
        if isinstance(node, BRANCHES):
            number += 1
        elif isinstance(node, ast.BoolOp):
            number += len(node.values) - 1
        elif isinstance(node, ast.Match):
            number += len(node.cases)
    return number


def find_modules(limit, with_tests):
    """Return the library's source files, the largest first, so that no slot has a long job at the end."""
    left_out = LEFT_OUT if with_tests else LEFT_OUT | TESTS
    paths = [path for path in LIBRARY.rglob("*.py") if left_out.isdisjoint(path.relative_to(LIBRARY).parts)]
    paths.sort(key=lambda path: (-path.stat().st_size, path))
    return paths[:: max(1, len(paths) // limit)][:limit] if limit else paths


def report(modules):
    """Print the ranking."""
    ranking = sorted((function for module in modules for function in module.worst), reverse=True)[:BEST]
    print(f"{'complexity':>10}  {'lines':>5}  function")
    for function in ranking:
        print(f"{function.complexity:10}  {function.lines:5}  {function.name}  ({function.place})")
    lines, functions, documented = (sum(module[i] for module in modules) for i in range(3))
    broken = sum(bool(module.error) for module in modules)
    print(f"\n{len(modules)} modules, {lines} lines, {functions} functions, ", end="")
    print(f"{documented / max(1, functions):.0%} of them with a docstring", end="")
    print(f"; {broken} files do not parse" if broken else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-n",
        "--slots",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="number of slots (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only N files (default: all)")
    parser.add_argument("--tests", action="store_true", help="include the library's own tests")
    parser.add_argument("--loop", action="store_true", help="also run a plain loop, for comparison")
    options = parser.parse_args()
    paths = find_modules(options.limit, options.tests)
    print(f"Python's standard library in {LIBRARY}, on {options.slots} slots:\n")

    begin = time.perf_counter()
    with cw.mp.allocate(options.slots), cw.ClusterExecutor() as executor:
        ready = time.perf_counter()
        results = list(executor.map(measure_timed, paths))
        done = time.perf_counter()
    end = time.perf_counter()
    modules, cpu_times, clock_times = zip(*results, strict=True)
    report(modules)

    total, work = end - begin, sum(cpu_times)
    steps = f"start {ready - begin:.2f} s, sweep {done - ready:.2f} s, end {end - done:.2f} s"
    print(f"\non the clock {total:7.2f} s  ({steps})")
    print(f"in the jobs  {work:7.2f} s  of CPU time")
    print(f"speed-up     {work / total:7.2f}    on {options.slots} slots, start and end included")
    if (waited := 1 - work / sum(clock_times)) > 0.2:
        print(f"The jobs waited for a CPU {waited:.0%} of their time: other programs use this machine, too.")
    if options.loop:
        begin = time.perf_counter()
        assert list(modules) == [measure(path) for path in paths], "the workers and the plain loop disagree"
        print(f"plain loop   {time.perf_counter() - begin:7.2f} s")


if __name__ == "__main__":
    main()
