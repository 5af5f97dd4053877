"""What the README says is so: every program and every command in it is run."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cw

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [text for language, text in BLOCKS if language == "sh"]

# What the shorter programs take for granted: a cluster that is found, and the names of those before them.
PRELUDE = """\
import cw
def square(number):
    return number * number
executor = cw.ClusterExecutor()
thread = cw.client.ClientThread()
thread.start()
"""
EPILOGUE = """
executor.shutdown()
thread.stop()
"""


def program_with(text):
    """The one program of the README with this text in it."""
    (found,) = (program for program in PROGRAMS if text in program)
    return found


def command_with(text):
    (found,) = (line for block in COMMANDS for line in block.splitlines() if text in line)
    return found


FIRST = PROGRAMS[0]
ONE_LINE = program_with('ClusterExecutor(host="node7")')
ARTICLE = program_with("master.local")
ORDINARY = [program for program in PROGRAMS if program not in (ONE_LINE, ARTICLE)]
MASTER, WORKER = command_with("cw.master"), command_with("cw.worker")
FIRST_COMMAND, TEST_COMMAND = command_with("stdlib_sweep"), command_with("pytest")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """For child processes: `python` is this one, with this cw."""
    programs = tmp_path_factory.mktemp("programs")
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(program, directory, environment, **more):
    """Run a program's text in a fresh directory; returns what it prints."""
    script = directory / "script.py"
    script.write_text(program)
    return run_command([sys.executable, str(script)], directory, environment, **more)


def run_command(command, directory, environment, timeout=60, **more):
    process = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def without_lines(program, text):
    return "".join(line for line in program.splitlines(keepends=True) if text not in line)


# --- the programs -----------------------------------------------------------------------------


@pytest.mark.parametrize("program", ORDINARY, ids=lambda program: re.sub(r"\W+", "-", program.strip())[:40])
def test_a_program_runs_and_prints_what_it_says(program, cluster, tmp_path, environment):
    if "import cw\n" not in program:
        program = PRELUDE + program + EPILOGUE
        environment = {**environment, "CW_MASTER": cluster.master}
    printed = run(program, tmp_path, environment).splitlines()
    promised = re.findall(r"^# prints: (.*)$", program, re.MULTILINE)
    assert not promised or printed == promised


def test_the_first_program_prints_the_results(tmp_path, environment):
    assert run(FIRST, tmp_path, environment) == "".join(f"{seed**2}\n" for seed in range(10))


def test_one_line_moves_the_first_program_to_a_cluster_started_by_hand(tmp_path, environment):
    lines = FIRST.splitlines(keepends=True)
    (number,) = (i for i, line in enumerate(lines) if line.startswith("    with "))
    lines[number] = ONE_LINE.replace("node7", "127.0.0.1")
    with (
        subprocess.Popen(
            MASTER.replace("node7", "127.0.0.1").split(), env={**os.environ, **environment}
        ) as master,
        subprocess.Popen(
            WORKER.replace("node7", "127.0.0.1").split(), env={**os.environ, **environment}
        ) as worker,
    ):
        try:
            printed = run("".join(lines), tmp_path, environment)
        finally:
            worker.terminate()
            worker.wait(20)
            master.terminate()
    assert printed == "".join(f"{seed**2}\n" for seed in range(10))
    assert (master.returncode, worker.returncode) == (0, 0)


def test_the_articles_program_runs_word_for_word(cluster, tmp_path, environment):
    """It ends right after its last line: its callback must come all the same."""
    port = int(cluster.master.rpartition(":")[2])
    stage = f"""\
import socket
import cw, cw.net.address
cw.net.address.PORT = {port}
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: look_up(
    "127.0.0.1" if host == "master.local" else host, *rest, **more)
def expensive_func(number):
    return number
arg = 1
"""
    assert ARTICLE == textwrap.dedent("""\
        def my_callback(jobid, result):
            print(jobid, 'completed')
        thread = cw.client.ClientThread(my_callback, host='master.local')
        thread.start()
        jobid = thread.submit(expensive_func, arg)
        print(jobid, 'started')
    """)
    # Two threads print, each its words one by one.
    output = run(stage + ARTICLE, tmp_path, environment)
    assert sorted(re.findall(r"\d|[a-z]+", output)) == ["1", "1", "completed", "started"]


# --- the commands -----------------------------------------------------------------------------


def test_the_local_cluster_of_the_shell(tmp_path, environment):
    (block,) = (block for block in COMMANDS if "cw.mp" in block)
    start, status, stop = block.splitlines()
    script = f"set -e\n{start}\n{status}\npython {tmp_path / 'used.py'}\n{stop}\n"
    (tmp_path / "used.py").write_text(
        "import cw\nwith cw.ClusterExecutor() as e: print(e.submit(pow, 2, 10).result())"
    )
    printed = run_command(["bash", "-c", script], tmp_path, environment)
    assert "slots: 2\n" in printed and printed.endswith("\n1024\n")


@pytest.mark.parametrize("module", ["master", "worker"])
def test_the_table_of_options_is_that_of_the_program(module, environment):
    text = run_command([sys.executable, "-m", f"cw.{module}", "--help"], ROOT, environment).replace(
        "python -m", ""
    )
    table = re.search(rf"^\| `python -m cw\.{module}` \| \|\n((?:\|.*\n)+)", README, re.MULTILINE).group(1)
    described = set(re.findall(r"^\| `(-+[\w-]+)", table, re.MULTILINE))
    assert described | {"-h", "--help", "--version", "-v", "--verbose"} == set(
        re.findall(r"(?<!\w)--?[a-z][\w-]*", text)
    )


def test_the_options_of_slurm_are_known_to_the_program(environment):
    text = run_command([sys.executable, "-m", "cw.slurm", "--help"], ROOT, environment)
    table = re.search(r"^\| `python -m cw\.slurm start` \| \|\n((?:\|.*\n)+)", README, re.MULTILINE).group(1)
    named = set(
        re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    )
    assert named <= set(re.findall(r"(?<!\w)--?[A-Za-z][\w-]*", text)) and "--renew" in named


def test_the_test_command_is_what_ci_runs():
    assert f'TEST_COMMAND="{TEST_COMMAND}"\n' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_first_command_sets_everything_up_and_prints_the_ranking(tmp_path, environment):
    names = ["cw", "examples", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    printed = run_command(["bash", "-c", FIRST_COMMAND], tmp_path, environment, timeout=280, PYTHONPATH="")
    assert "complexity  lines  function" in printed and "speed-up" in printed


def test_the_benchmarks_know_what_they_can_run(environment):
    assert "noop" in run_command([sys.executable, "-m", "benchmarks", "--list"], ROOT, environment)


def test_every_command_of_the_readme_is_known_here():
    """Who adds one adds a test."""
    tested = {MASTER, WORKER, FIRST_COMMAND, TEST_COMMAND, command_with("benchmarks")}
    others = [line for block in COMMANDS for line in block.splitlines() if line not in tested]
    assert all(re.search(r"cw\.(mp|credential|results|slurm)|slurm\.py", line) for line in others), others


def test_the_commands_about_the_credential(tmp_path, environment):
    run_command(
        [sys.executable, "-c", "from cw import credential; credential.load_or_make()"], tmp_path, environment
    )
    (block,) = [block for block in COMMANDS if "cw.credential --new" in block]
    show, copy, new = [shlex.split(line, comments=True) for line in block.splitlines()]
    shown = run_command([sys.executable, *show[1:]], tmp_path, environment)
    assert "credential.pem" in shown and "SHA-256" in shown
    assert run_command([sys.executable, *copy[1:]], tmp_path, environment).startswith("ssh node8 ")
    assert run_command([sys.executable, *new[1:]], tmp_path, environment).splitlines()[1] not in shown


def test_the_commands_that_show_a_store(tmp_path, environment):
    (block,) = [block for block in COMMANDS if "cw.results" in block]
    run(program_with("failed=True"), tmp_path, environment)
    summary, failed, table = (
        run_command(["bash", "-c", line], tmp_path, environment) for line in block.splitlines()
    )
    assert re.search(r"^simulate +2 +1 +", summary, re.MULTILINE)
    assert "simulate(0) -> ZeroDivisionError: division by zero\n" in failed and failed.count("\n") == 1
    assert table == "" and (tmp_path / "sweep.csv").read_text().count("\n") == 4


# --- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ClientThread", "ClusterExecutor"])
def test_the_signature_is_that_of_the_class(name):
    (written,) = re.findall(rf"^`{name}(\(.+\))`", README, re.MULTILINE)
    signature = inspect.signature(getattr(cw, name))
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    assert written == str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_the_list_of_modules_is_complete():
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", README, re.MULTILINE)
    paths = [path.relative_to(ROOT / "cw") for path in (ROOT / "cw").rglob("*.py")]
    special = ("__init__.py", "__main__.py")
    assert sorted(listed) == sorted(
        str(path) for path in paths if len(path.parts) == 1 or path.name not in special
    )


def test_the_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= headings


def test_the_exceptions_of_the_table_are_public():
    for name in re.findall(r"`cw\.([A-Z]\w+)`", README):
        assert hasattr(cw, name), name
