"""Each example is run as a reader would run it: a process of its own, a real cluster."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cw

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, directory: Path, *arguments: str) -> str:
    """Run an example in another directory, with this very cw; returns what it prints."""
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr
    return process.stdout


def test_square_gets_every_square_under_the_id_of_its_job(tmp_path):
    lines = run("square.py", tmp_path).splitlines()
    number_by_job = dict(
        re.fullmatch(r"job (\d+) squares (\d)", line).groups() for line in lines if "squares" in line
    )
    square_by_job = dict(
        re.fullmatch(r"job (\d+) is done: the square is (\d+)", line).groups()
        for line in lines
        if "done" in line
    )
    assert len(lines) == 20 and sorted(number_by_job.values()) == list("0123456789")
    assert square_by_job == {job: str(int(number) ** 2) for job, number in number_by_job.items()}


def test_with_block_has_all_results_at_its_end(tmp_path):
    first, *lines = run("with_block.py", tmp_path).splitlines()
    assert re.fullmatch(r"2 slots at 127\.0\.0\.1:\d+", first)
    expected = [f"the square of {number} is {number**2}, says {os.uname().nodename}" for number in range(10)]
    assert [line.partition(": ")[2] for line in lines] == expected


def test_callbacks_tie_each_result_to_its_own_text(tmp_path):
    assert sorted(run("callbacks.py", tmp_path).splitlines()) == [
        "broken: a piece failed with AttributeError: 'NoneType' object has no attribute 'split'",
        "fox: 9 words, most often 'the'",
        "sea: 8 words, most often 'sea'",
    ]


@pytest.mark.slow
def test_futures_come_as_they_are_done_and_add_up_to_pi(tmp_path):
    lines = run("futures.py", tmp_path).splitlines()
    found = [re.fullmatch(r"seed +(\d+): pi is about (3\.1\d+)", line).groups() for line in lines]
    assert sorted(int(seed) for seed, _ in found) == list(range(20))
    assert found[-1][1] == "3.1423"  # the seeds are fixed, so the sum is


def test_on_slurm_is_on_this_machine_where_there_is_no_slurm(tmp_path):
    assert run("on_slurm.py", tmp_path) == "4 slots\n9592 primes below 100000\nthis machine: 50 jobs\n"


@pytest.mark.slow
def test_stdlib_sweep_ranks_functions_and_measures_its_speed_up(tmp_path):
    output = run("stdlib_sweep.py", tmp_path, "--limit", "60", "--loop")
    rows = re.findall(r"^ +(\d+) +(\d+)  (\S+)\(\)  \((\S+):(\d+)\)$", output, re.MULTILINE)
    complexities = [int(row[0]) for row in rows]
    assert len(rows) == 10 and complexities == sorted(complexities, reverse=True) and complexities[-1] > 1
    assert re.search(
        r"^60 modules, \d+ lines, \d+ functions, \d+% of them with a docstring", output, re.MULTILINE
    )
    times = dict(
        re.findall(r"^(on the clock|in the jobs|speed-up|plain loop) +([\d.]+)", output, re.MULTILINE)
    )
    assert float(times["speed-up"]) == pytest.approx(
        float(times["in the jobs"]) / float(times["on the clock"]), abs=0.1
    )
    assert 0 < float(times["in the jobs"]) and 0 < float(times["plain loop"])


@pytest.mark.slow
def test_sweep_goes_on_where_it_was_and_plots_what_came_out(tmp_path):
    pytest.importorskip("matplotlib")
    outputs = []
    for _ in range(2):
        outputs.append(run("sweep.py", tmp_path, "--forests", "1"))
        assert len(cw.results(tmp_path / "sweep.cw").filter(function="burn", failed=False)) == 3 * 37
        stored = sum(path.stat().st_size for path in (tmp_path / "sweep.cw").iterdir())
    assert outputs[0] == outputs[1]  # what is random comes from the seeds
    assert stored < 100_000  # nothing was computed twice
    assert re.search(r"^0\.500( +0\.\d\d){3}", outputs[0], re.MULTILINE)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_explained_tested_and_uses_public_names_only(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert f'run("{path.name}"' in Path(__file__).read_text()
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cw"
    }
    imported = {
        ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert names and names <= set(cw.__all__)
    assert {line for line in imported if re.search(r"\bcw\b", line)} == {"import cw"}
