"""A small image of this very Python with cw, and a private Docker that runs it.

    with Docker(directory) as docker:         # dockerd of its own, up in two seconds, gone without a trace
        docker.environment                    # by which `docker` finds it
        docker.load(make_root(other), "lab/cw")

No registry is asked: the image is a directory with what is installed here. Needs root, and Debian's package docker.io.
"""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

HOW_TO_GET_DOCKER = "Docker is not installed here: apt-get install docker.io"
SBIN = ":/usr/sbin:/sbin"
ROOT = Path(__file__).parent.parent

PACKAGES = ("bluelet", "cloudpickle", "cryptography", "cffi", "_cffi_backend", "xxhash")
PROGRAMS = ("bash", "sh", "ls", "cat", "sleep", "env", "id")
UNUSED = (
    "test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3", "pydoc_data", "config-*", "*-packages",
    "__pycache__", "_test*",
)  # fmt: skip


def is_docker_installed():
    return bool(shutil.which("docker") and shutil.which("dockerd", path=os.environ["PATH"] + SBIN))


def make_root(directory):
    """Fill a directory with the root of an image: this Python as `python3` with cw and what it needs, and a shell."""
    directory = Path(directory)
    names = sysconfig.get_paths()
    version = Path(names["stdlib"]).name
    library = directory / "opt/python/lib" / version
    for source in dict.fromkeys((names["platstdlib"], names["stdlib"])):
        shutil.copytree(source, library, ignore=shutil.ignore_patterns(*UNUSED), dirs_exist_ok=True)
    (directory / "opt/python/bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), directory / "opt/python/bin/python3")
    site = library / "site-packages"
    site.mkdir()
    for name in PACKAGES:
        found = Path(importlib.import_module(name).__file__)
        if found.name.startswith("__init__."):
            shutil.copytree(found.parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, site)
    shutil.copytree(ROOT / "cw", site / "cw")
    for name in (
        "usr/bin",
        "usr/lib",
        "lib64",
        "tmp",
        "var/tmp",
        "etc",
        "proc",
        "sys",
        "dev",
        "root",
        "home",
    ):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (directory / name).symlink_to(f"usr/{name}")
    (directory / "tmp").chmod(0o1777)
    (directory / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    programs = [shutil.which(name, path="/bin:/usr/bin") for name in PROGRAMS]
    for path in programs:
        shutil.copy(path, directory / "usr/bin")
    (directory / "usr/bin/python3").symlink_to("/opt/python/bin/python3")
    for path in _libraries([*programs, sys.executable, *map(str, directory.rglob("*.so*"))]):
        target = Path(directory, path.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return directory


def _libraries(binaries):
    """Return the paths of the shared libraries that these programs and libraries load, with the loader itself."""
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    return set(re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", shown, re.MULTILINE))


class Docker:
    """A Docker of its own: daemon, images and containers lie below a directory."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.environment = {
            "DOCKER_HOST": f"unix://{self.directory}/socket",
            "DOCKER_CONFIG": str(self.directory),
        }

    def __enter__(self):
        path = self.directory
        # (Its mounts go with it: with the last process that sees them.)
        command = ["unshare", "--mount", "dockerd", f"--host=unix://{path}/socket",
                   f"--data-root={path}/data", f"--exec-root={path}/exec", f"--pidfile={path}/pid",
                   "--bridge=none", "--iptables=false", "--ip6tables=false"]  # fmt: skip
        with open(path / "log", "wb") as log:
            self._daemon = subprocess.Popen(
                command,
                env={**os.environ, "PATH": os.environ["PATH"] + SBIN},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while self._call("version").returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                said = (path / "log").read_text()[-2000:]
                if re.search("operation not permitted|permission denied", said, re.IGNORECASE):
                    pytest.skip(f"this machine lets no Docker run: {said}")
                raise RuntimeError(f"dockerd does not come up: {said}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)  # it ends its containers and containerd, too
            try:
                self._daemon.wait(20)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()

    def _call(self, *arguments, **more):
        environment = {**os.environ, **self.environment}
        return subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, **more)

    def run(self, *arguments, **more):
        """Run one of Docker's commands; return its output."""
        process = self._call(*arguments, timeout=60, **more)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def load(self, root, name):
        """Make an image of a directory."""
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            self.run("import", "-", name, stdin=tar.stdout)

    def containers(self):
        """Return the names of the containers that there are."""
        return self.run("ps", "-a", "--format", "{{.Names}}").split()
