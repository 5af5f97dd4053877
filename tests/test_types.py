"""What type checkers say of a user's program: tests/typed_program.py has it in its comments."""

import json
import os
import re
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

import cw
from cw.client.options import DetachedLoopArguments, MapArguments

PROGRAM = Path(__file__).with_name("typed_program.py")
ROOT = Path(cw.__file__).parents[1]


def promised():
    """What each line of the program is said to be."""
    lines = enumerate(PROGRAM.read_text().splitlines(), 1)
    return {number: line.rpartition("  # ")[2] for number, line in lines if "  # " in line}


def plain(kind):
    """A type, its names without those of their modules, and literals and named tuples as what they are."""
    kind = re.sub(r"tuple\[[^][]*, fallback=([\w.]+)\]", r"\1", kind)
    kind = re.sub(r"Literal\['\w*'\]\?", "str", re.sub(r"Literal\[\d+\]\?", "int", kind))
    return re.sub(r"(?:\w+\.)+(?=\w)", "", kind)


def by_mypy(directory):
    settings = directory / "mypy.ini"
    settings.write_text(
        "[mypy]\nstrict = true\n[mypy-cloudpickle.*,bluelet.*,tqdm.*]\nignore_missing_imports = true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", directory / "cache",
         "--no-error-summary", PROGRAM],
        capture_output=True, text=True, timeout=240, cwd=directory, env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    assert not done.stderr
    for line in done.stdout.splitlines():
        path, number, level, said = re.fullmatch(r"(.+?):(\d+): (\w+): (.*)", line).groups()
        assert path.endswith(PROGRAM.name), line
        yield int(number), level, said


def by_pyright(directory):
    (directory / "pyrightconfig.json").write_text(
        json.dumps({"include": [PROGRAM.name], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"})
    )
    shutil.copy(PROGRAM, directory)
    done = subprocess.run(
        ["pyright", "--outputjson", "--pythonpath", sys.executable, "--project", "."],
        capture_output=True, text=True, timeout=240, cwd=directory,
    )  # fmt: skip
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        yield found["range"]["start"]["line"] + 1, found["severity"], found["message"]


@pytest.mark.slow  # mypy reads all of cw: ten seconds; pyright needs node
@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_a_type_checker_sees_what_the_program_says(check, tmp_path):
    if check is by_pyright and shutil.which("pyright") is None:
        pytest.skip("pyright is not installed")
    found = {}
    for number, level, said in check(tmp_path):
        revealed = re.search(r'Revealed type is "(.*)"|Type of ".*" is "(.*)"', said)
        if level == "error":
            found[number] = "error"
        elif revealed:
            found[number] = plain(revealed[1] or revealed[2])
    assert found == promised()


def test_the_keywords_of_map_are_the_same_for_type_checkers_and_at_run_time():
    def keywords(function):
        return {
            p.name: p.annotation for p in signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY
        }

    assert keywords(cw.ClusterExecutor.map).keys() == MapArguments.__annotations__.keys()
    assert keywords(cw.map).keys() == DetachedLoopArguments.__annotations__.keys()
