"""`--install`: a private environment on a machine, with the client's own cw and the same versions of what it needs.

This file is sent to the machine as it is, and runs there without cw: it uses the standard library only.

stdin: [size of this file] this file [one line of JSON: directory, requirements] [a tar of the package cw]
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

START = "import sys; input = sys.stdin.buffer; exec(input.read(int(input.readline())))"
"""What Python runs there: it reads this file from its input."""


class _Failure(Exception):
    """A step has failed; the text says which, and why."""


def main() -> None:
    """Make the environment, and write its Python's path; or one line that says why not, with exit status 1."""
    os.umask(0o077)
    order = json.loads(sys.stdin.buffer.readline())
    directory = os.path.expanduser("~/" + order["directory"].replace("$(uname -n)", os.uname().nodename))
    python = os.path.join(directory, "bin", "python")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    try:
        _run("no environment can be made there", sys.executable, "-m", "venv", "--without-pip", directory)
        pip = [
            "install",
            "--no-input",
            "-q",
            "--no-compile",
            "--disable-pip-version-check",
            *order["requirements"],
        ]
        _run("pip cannot install there what cw needs", *_pip(python), *pip)
        packages = glob.glob(os.path.join(directory, "lib", "python*", "site-packages"))[0]
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
            archive.extractall(packages)  # noqa: S202  (it is the client's own)
    except _Failure as failure:
        shutil.rmtree(directory, ignore_errors=True)
        sys.exit(str(failure))
    print("cw: installed " + python)


def _pip(python: str) -> list[str]:
    """Return the command of a pip that installs into the environment: this Python's own is there already, and fast."""
    version = re.search(r"^pip (\d+)\.(\d+)", _call(sys.executable, "-m", "pip", "--version")[1])
    if version and (int(version[1]), int(version[2])) >= (22, 3):
        return [sys.executable, "-m", "pip", "--python", python]
    _run("there is no pip (Debian: apt install python3-venv)", python, "-m", "ensurepip")
    return [python, "-m", "pip"]


def _run(problem: str, *command: str) -> None:
    """Run a command. Raises _Failure with the line that says why it has failed."""
    status, told = _call(*command)
    if status:
        lines = told.strip().splitlines() or ["it says nothing"]
        raise _Failure(f"{problem}: {([line for line in lines if line.startswith('ERROR')] or lines)[-1]}")


def _call(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    main()
