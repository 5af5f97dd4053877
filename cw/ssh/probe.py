"""The first look at a machine: its Pythons, and which of them has this cw. What is sent is plain shell.

script() ---> `ssh HOST sh` ---> parse() ---> Look ---> choose(): the Python, or the sentence that says what is wrong
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any, NamedTuple

from cw.version import VERSION

MARK = "cw:"
"""Beginning of our lines in the output. A user's start-up files may write others."""

# Runs with any Python, also an old one. (The directory in which it starts may have a folder `cw`: it is left out.)
_LOOK = """\
import sys; sys.path.pop(0); import json
try:
    from cw.version import VERSION
except Exception:
    VERSION = ""
version = "%d.%d" % sys.version_info[:2]
print("cw: python " + json.dumps([sys.executable, list(sys.version_info[:2]), VERSION]))
sys.exit([version, VERSION] != sys.argv[1:])
"""


class Python(NamedTuple):
    """A Python of the machine."""

    path: str
    version: tuple[int, int]
    cw: str
    """Version of its cw; '': it has none."""


class Look(NamedTuple):
    """What the machine has shown."""

    node: str = ""
    """The machine's own name for itself."""
    client: str = ""
    """Our address, as its ssh server sees it; '': not known."""
    pythons: tuple[Python, ...] = ()


class Choice(NamedTuple):
    """The Python to use, or what is wrong."""

    python: str = ""
    problem: str = ""
    can_install: bool = False
    """True if `--install` would mend it, with `python`."""


def directory_of_venv(minor: int) -> str:
    """Return the directory of the private environment that `--install` makes, in the user's home directory there."""
    return f".cw/machines/$(uname -n)/venv-3.{minor}"


def script(python: str = "", minor: int = sys.version_info[1]) -> str:
    """Return the shell script that looks at a machine. `python`: the only one to look at, as the user named it."""
    candidates = shlex.quote(python) if python else " ".join(
        [
            f'"$HOME/{directory_of_venv(minor)}/bin/python"',
            shlex.quote(sys.executable or "python3"),
            *(f"python3.{minor} python3 python {{home}}/.local/bin/python3.{minor}".format(home='"$HOME"').split()),
            f'"$HOME"/.pyenv/versions/3.{minor}.*/bin/python',
            *(f'"$HOME"/{name}/bin/python' for name in ("venv", ".venv", "miniforge3", "miniconda3", "anaconda3")),
            f"/opt/conda/bin/python /usr/local/bin/python3.{minor}",
        ]
    )  # fmt: skip
    return f"""\
echo "{MARK} node $(uname -n)"
echo "{MARK} client ${{SSH_CONNECTION%% *}}"
for python in {candidates}; do
    command -v "$python" >/dev/null 2>&1 || continue
    "$python" -c {shlex.quote(_LOOK)} 3.{minor} {VERSION} </dev/null 2>/dev/null && break
done
exit 0
"""


def parse(output: str) -> Look:
    """Read what the script has written."""
    found = Look()
    pythons: list[Python] = []
    for line in output.splitlines():
        mark, _, rest = line.partition(" ")
        name, _, value = rest.partition(" ")
        if mark != MARK:
            continue
        if name == "python":
            try:
                path, (major, minor), version = json.loads(value)
            except (ValueError, TypeError):
                continue
            python = Python(path, (major, minor), version)
            pythons += [python] if python not in pythons else []
        elif name == "node":
            found = found._replace(node=value.strip())
        elif name == "client":
            found = found._replace(client=value.strip())
    return found._replace(pythons=tuple(pythons))


def choose(look: Look, version: tuple[int, int] = sys.version_info[:2], cw: str = VERSION) -> Choice:
    """Choose the machine's Python: the client's version, with the client's cw."""
    if not look.pythons:
        return Choice(
            problem=f"no Python is found there: install Python {_text(version)}, or name it (--python PATH)"
        )
    fitting = [python for python in look.pythons if python.version == version]
    if not fitting:
        there = ", ".join(f"{_text(python.version)} ({python.path})" for python in look.pythons[:3])
        return Choice(
            problem=f"its Python is {there}, this one is {_text(version)}, and jobs need the same: install Python "
            f"{_text(version)} there, or name it (--python PATH)"
        )
    for python in fitting:
        if python.cw == cw:
            return Choice(python.path)
    other = next((python.cw for python in fitting if python.cw), "")
    what = (
        f"its cw is {other}, this one is {cw}" if other else f"there is no cw for its Python {_text(version)}"
    )
    return Choice(fitting[0].path, what, can_install=True)


def _text(version: tuple[Any, ...]) -> str:
    return ".".join(map(str, version))
