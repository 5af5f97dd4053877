"""Commands that messages advise: rendered in one place, and each works when it is typed."""

import argparse
import ast
import importlib
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

import cw
from cw import advice
from cw.cli.main import COMMANDS

PACKAGE = Path(cw.__file__).parent

WRITTEN_OUT = {
    "advice", "program",  # they render them, and the name of a program that was typed
    "top.tables", "top.views",  # tables without a clock or an environment; on the screen of somebody who typed `cw top`
    "web.door", "web.places",  # what was typed in another terminal
    "cli.main", "net.protocol",  # the list of commands; a page for developers
}  # fmt: skip


@pytest.fixture
def on_the_path(tmp_path, monkeypatch):
    """Put a program `cw` beside this Python, on the PATH."""
    for name in ("python", "cw"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CW_CLUSTER", raising=False)


def test_the_cluster_is_named_unless_it_is_the_one_that_programs_find(on_the_path, monkeypatch):
    assert advice.command("slurm", "stop", name="default") == "cw slurm stop"
    assert advice.command("slurm", "stop", name="second") == "cw slurm stop --name second"
    monkeypatch.setenv("CW_CLUSTER", "second")
    assert advice.command("slurm", "stop", name="second") == "cw slurm stop --name second"  # in any shell
    assert advice.command("slurm", "stop", name="default") == "cw slurm stop --name default"
    assert advice.command("local") == "cw local"


def test_another_program_named_cw_is_not_meant(on_the_path, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cw").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/elsewhere:{tmp_path}")
    assert advice.command("local") == f"{tmp_path}/python -m cw local"
    monkeypatch.setenv("PATH", "/nowhere")
    assert advice.command("results", "a b") == f"{tmp_path}/python -m cw results 'a b'"
    assert advice.module("mp", "stop") == f"{tmp_path}/python -m cw.mp stop"
    assert advice.elsewhere("worker", "h:1") == "python -m cw.worker h:1"


def advised():
    """All calls that render a command: (function, words), with values that are not written there as '7'."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "advice." in text else ():
            function = node.func if isinstance(node, ast.Call) else None
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "advice":
                words = [
                    getattr(word, "value", "7") if isinstance(word, ast.Constant) else "7"
                    for word in node.args
                ]
                named = [keyword.arg for keyword in node.keywords]
                yield pytest.param(function.attr, words, "name" in named, id=f"{path.stem}-{'-'.join(words)}")


@pytest.mark.parametrize(("function", "words", "is_named"), list(advised()))
def test_what_is_advised_is_a_command_that_the_real_program_takes(function, words, is_named, monkeypatch):
    more = {"name": "second"} if is_named else {}
    typed = shlex.split(getattr(advice, function)(*words, **more))
    if function == "command":
        name = typed[typed.index(words[0]) :][0]
        module, arguments = COMMANDS[name].module, typed[typed.index(words[0]) + 1 :]
    else:
        program = typed[typed.index("-m") + 1]
        module, arguments = f"{program}.cli", typed[typed.index("-m") + 2 :]
        if importlib.util.find_spec(program).submodule_search_locations is None:
            module = program
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    loaded = importlib.import_module(module)

    class Taken(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *more):
        parse(self, *more)
        raise Taken

    if "--help" in words:
        with pytest.raises(SystemExit, match="^0$"):
            loaded.main()
        return
    if module == "cw.slurm.cli":  # it checks more itself
        loaded._parse_arguments()
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(Taken):
        loaded.main()


def test_no_other_module_writes_a_command_out():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if module in WRITTEN_OUT:
            continue
        tree = ast.parse(path.read_text())
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
            if is_text and re.search(r"`cw [a-z]|-m cw[. ]", node.value):
                found.append(f"{module}:{node.lineno}: {node.value}")
    assert not found, "\n".join(found) + f"{os.linesep}render it by cw.advice"
