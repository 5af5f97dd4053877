"""What the README's first screen promises. (test_docs.py runs its snippets, as those of the other pages.)"""

import json
import os
import re
import sys
import textwrap
from pathlib import Path

import pages
import pytest
from pages import ROOT

import cw
from cw.launch import batch_signs

README = ROOT / "README.md"

FIRST = pages.snippets(README)[0].text
ONE_LINE = pages.snippet_with(README, 'ClusterExecutor(host="node7")').text
ARTICLE = pages.snippet_with(README, "master.local").text
FIRST_COMMAND = pages.command_with(README, "stdlib_sweep")
TEST_COMMAND = pages.command_with(README, "pytest")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pages.cluster(tmp_path_factory.mktemp("home")) as home:
        yield home


def run(program, directory, **environment):
    (directory / "script.py").write_text(program)
    return pages.run([sys.executable, "script.py"], directory, **environment)


def test_the_first_program_needs_no_cluster(tmp_path, monkeypatch):
    for variable in [name for name in os.environ if name.startswith(batch_signs.PREFIXES)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    # (The machine of the tests may have this directory, and other tests a master at the usual port.)
    laptop = "from cw.launch import batch_signs\nbatch_signs.DIRECTORIES = ()\n"
    laptop += "from cw.net import address\naddress.PORT = 1\n"
    assert run(laptop + FIRST, tmp_path) == "".join(f"{seed**2}\n" for seed in range(10))


def test_one_line_moves_the_first_program_to_a_cluster_started_by_hand(home, tmp_path):
    lines = FIRST.splitlines(keepends=True)
    (number,) = (i for i, line in enumerate(lines) if line.startswith("    with "))
    lines[number] = textwrap.indent(ONE_LINE.replace("node7", "127.0.0.1"), "    ")
    assert run("".join(lines), tmp_path, CW_HOME=home) == "".join(f"{seed**2}\n" for seed in range(10))


def test_the_commands_that_start_a_cluster_are_those_of_the_page_about_machines():
    text = pages.read(README)
    for line in pages.snippet_with(ROOT / "docs" / "machines.md", "cw.worker node7", "sh").text.splitlines():
        assert f"`{line}`" in text


def test_the_articles_program_runs_word_for_word(home, tmp_path):
    """It ends right after its last line: its callback must come all the same."""
    port = json.loads(Path(home, "address-default.json").read_text())["port"]
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
    output = run(stage + ARTICLE, tmp_path, CW_HOME=home)
    assert sorted(re.findall(r"\d|[a-z]+", output)) == ["1", "1", "completed", "started"]


def test_the_test_command_is_what_ci_runs():
    assert f'TEST_COMMAND="{TEST_COMMAND}"\n' in (ROOT / ".ci" / "run").read_text()


def test_ci_names_tests_that_are_there():
    script = (ROOT / ".ci" / "run").read_text()
    names = " ".join(re.findall(r'^(?:QUICK|NEWEST|BETWEEN)="([^"]*)"', script, re.MULTILINE)).split()
    assert len(names) > 20
    assert [name for name in names if not (ROOT / "tests" / f"test_{name}.py").exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_first_command_sets_everything_up_and_prints_the_ranking(tmp_path):
    pages.copy_clone(tmp_path)
    printed = pages.run(["bash", "-c", FIRST_COMMAND], tmp_path, timeout=280, PYTHONPATH="")
    assert "complexity  lines  function" in printed and "speed-up" in printed
    for command in pages.snippet_with(README, "pip install .\n", "sh").text.splitlines():
        pages.run(
            ["bash", "-c", f". .venv/bin/activate && {command} -q"], tmp_path, timeout=280, PYTHONPATH=""
        )


def test_it_is_short():
    """What takes longer to say has a page in docs/."""
    words = re.sub(r"^```.*?^```$|\]\(.*?\)", "", pages.read(README), flags=re.MULTILINE | re.DOTALL).split()
    assert len(words) < 750


def test_the_version_is_the_newest_of_the_changelog():
    assert re.search(r"^## (\S+)", pages.read(ROOT / "CHANGELOG.md"), re.MULTILINE)[1] == cw.__version__
