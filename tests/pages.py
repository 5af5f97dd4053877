"""README.md and the pages in docs/, as the tests read them: snippets, commands, tables, links."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import wait_until
from programs import LIMIT, Program

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A block of code on a page."""

    language: str
    text: str
    line: int
    """Line at which its text begins, from 1."""

    @property
    def promised(self) -> list[str]:
        """Return the lines that it promises to print."""
        return re.findall(r"^# prints: (.*)$", self.text, re.MULTILINE)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def snippets(path: Path, language: str = "python") -> list[Snippet]:
    text = read(path)
    return [
        Snippet(language, textwrap.dedent(found[3]), text.count("\n", 0, found.start(3)) + 1)
        for found in _BLOCK.finditer(text)
        if found[2] == language
    ]


def commands(path: Path) -> list[str]:
    """Return all lines of the blocks of shell commands."""
    return [line for snippet in snippets(path, "sh") for line in snippet.text.splitlines() if line.strip()]


def snippet_with(path: Path, text: str, language: str = "python") -> Snippet:
    """Return the only snippet of the page with this text."""
    (found,) = (snippet for snippet in snippets(path, language) if text in snippet.text)
    return found


def command_with(path: Path, text: str) -> str:
    (found,) = (line for line in commands(path) if text in line)
    return found


def program(found: list[Snippet]) -> str:
    """Make one program of these snippets, each at its line on its page, with a mark printed before it.

    A traceback names lines of the page.
    """
    lines: list[str] = []
    for snippet in found:
        lines += [""] * (snippet.line - 2 - len(lines)) + [f"print('@ {snippet.line}', flush=True)"]
        lines += snippet.text.splitlines()
    return "\n".join(lines) + "\n"


def printed_by_line(output: str) -> dict[int, list[str]]:
    """Return the output of a `program`, by the line at which the snippet begins."""
    _, *parts = re.split(r"^@ (\d+)\n", output, flags=re.MULTILINE)
    return {int(line): text.splitlines() for line, text in zip(parts[::2], parts[1::2], strict=True)}


@contextlib.contextmanager
def _programs() -> Iterator[Path]:
    """Make a directory with `python` and `cw`: this Python, and this cw."""
    with tempfile.TemporaryDirectory() as directory:
        programs = Path(directory)
        for name, more in ("python", ""), ("cw", " -m cw"):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{more} "$@"\n')
            (programs / name).chmod(0o755)
        yield programs


def run(command: list[str], directory: Path, timeout: float = 60, **environment: str) -> str:
    """Run a command with this cw and this Python (as `python` and `cw`, too); returns what it prints."""
    with _programs() as programs:
        process = subprocess.run(
            command,
            cwd=directory,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def slug(title: str) -> str:
    """Return the anchor that GitHub and MkDocs make of a heading."""
    title = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.*)$", _BLOCK.sub("", read(path)), re.MULTILINE)}


def links(path: Path) -> list[str]:
    """Return the targets of all links and pictures of a page, except those to other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", read(path)))
    return [target for target in found if not re.match(r"\w+:", target)]


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[str]:
    """Start a cluster by the commands of "Several machines", on this one; yields the CW_HOME of its clients."""
    home = str(directory / "cw")
    lines = [
        command_with(ROOT / "docs" / "machines.md", text).replace("node7", "127.0.0.1").split()[1:]
        for text in ("python -m cw.master", "python -m cw.worker")
    ]
    # (At any port: other tests have the usual one meanwhile. So the worker begins when the right one is known.)
    with Program(*lines[0], "--port", "0", CW_HOME=home) as master:
        wait_until((directory / "cw" / "address-default.json").exists, LIMIT, lambda: master.err)
        with Program(*lines[1], CW_HOME=home) as worker:
            worker.wait_for_event("worker.joined")
            yield home
            assert (worker.end(), master.end()) == (0, 0)


def copy_clone(directory: Path) -> None:
    """Copy the files of a clone that are needed to install cw, run its examples and build its pages."""
    directory.mkdir(exist_ok=True)
    for name in ("cw", "docs", "examples"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, directory)
