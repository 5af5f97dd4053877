"""A room of lab machines on this one: real sshd, each in namespaces of its own, with a home, a host key and Pythons of
its own. They share the rest of the file system, and a network of virtual cards.

    here 10.77.0.1 ---.---- lab1 10.77.0.11
                      |---- lab2 10.77.0.12         python -m ssh_lab (in namespaces) runs a scenario
                      '---- lab3 10.77.0.13

Needs Debian's package openssh-server, and root (an sshd without it serves one user, and cannot make namespaces).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cw

ROOT = Path(cw.__file__).parent.parent
NAMESPACES = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
HOW_TO_GET_IT = "there is no sshd here: apt-get install openssh-server"

SSHD = "/usr/sbin/sshd"
SSHD_CONFIG = """\
Port 22
HostKey {home}/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv PATH={bin} PYTHONPATH={pythonpath} CW_LOG_EVENTS=1
"""
# A machine's own: its user's home, and what only it has.
MACHINE = """\
set -e
hostname {name}
mount --make-rprivate /
mount --bind {passwd} /etc/passwd
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs {here}
mkdir -m 755 /run/sshd
{hide}
exec {sshd} -D -e -f {config}
"""
SSH_CONFIG = """\
Host {name}
    HostName {address}
    User root
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    StrictHostKeyChecking yes
    GlobalKnownHostsFile /dev/null
"""


def why_not():
    """Nothing, or the reason why there is no lab."""
    if os.geteuid():
        return "lab machines need root"
    for program in ("unshare", "nsenter", "ip", "ssh"):
        if not shutil.which(program):
            return f"there is no {program} here"
    if not Path(SSHD).exists():
        return HOW_TO_GET_IT
    tried = subprocess.run(
        [*NAMESPACES, "ip", "link", "add", "v1", "type", "bridge"], capture_output=True, text=True
    )
    return tried.returncode and f"no namespaces for us here: {tried.stderr.strip()}"


def ip(*arguments, inside=None):
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    subprocess.run([*enter, "ip", *map(str, arguments)], check=True)


def key(path, comment):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True
    )
    return Path(f"{path}.pub").read_text()


class Machine:
    """One lab machine. `has_cw`: its user's Python is this one, with cw. Otherwise `bin` is all that it has."""

    def __init__(self, lab, number, has_cw):
        self.name = f"lab{number}"
        self.address = f"10.77.0.1{number}"
        self.card = f"v{number}"
        self.directory = lab.directory / self.name
        self.home = self.directory / "home"
        self.bin = self.directory / "bin"
        for path in (self.home / ".ssh", self.bin):
            path.mkdir(parents=True)
        host_key = key(self.home / "host_key", self.name)
        lab.known.write_text(lab.known.read_text() + f"{self.address} {host_key}")
        self.let_in(lab.public_key)
        passwd = self.directory / "passwd"
        lines = Path("/etc/passwd").read_text().splitlines()
        passwd.write_text("\n".join(f"root:x:0:0::{self.home}:/bin/sh" if line.startswith("root:") else line
                                    for line in lines) + "\n")  # fmt: skip
        config = self.directory / "sshd_config"
        search = [path for path in sys.path if path.endswith("site-packages")]
        config.write_text(
            SSHD_CONFIG.format(
                home=self.home,
                bin=f"{self.bin}:/usr/bin:/bin" if has_cw else self.bin,
                pythonpath=os.pathsep.join([str(ROOT), *search]) if has_cw else "/nonexistent",
            )
        )
        if not has_cw:
            for program in ("sh", "uname", "env", "cat"):
                (self.bin / program).symlink_to(shutil.which(program))
        # (Where this Python has cw installed, the machine must not find it at the same path.)
        hide = "" if has_cw or sys.prefix == sys.base_prefix else f"mount -t tmpfs tmpfs {sys.prefix}"
        script = MACHINE.format(
            name=self.name, here=lab.here, passwd=passwd, hide=hide, sshd=SSHD, config=config
        )
        with open(self.directory / "sshd.log", "w") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--uts", "--mount", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        pid = self.process.pid
        # (Its script names sshd, too, also before the namespaces are there.)
        wait_until(lambda: b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0])
        ip("link", "add", self.card, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", self.card, "master", "lab")
        ip("link", "set", self.card, "up")
        ip("addr", "add", f"{self.address}/24", "dev", "eth0", inside=pid)
        ip("link", "set", "eth0", "up", inside=pid)
        ip("link", "set", "lo", "up", inside=pid)

    def let_in(self, public_key):
        (self.home / ".ssh/authorized_keys").write_text(public_key)

    def cut(self):
        """Pull its cable."""
        ip("link", "set", self.card, "down")

    def plug_in(self):
        ip("link", "set", self.card, "up")

    def worker(self):
        """The pid of the worker of the cluster 'default'."""
        (notes,) = self.home.glob(f".cw/machines/{self.name}/default-*/notes.json")
        return json.loads(notes.read_text())["processes"]["worker"][0]

    def processes(self):
        """The pids of what runs there beside sshd."""
        mine = os.stat(f"/proc/{self.process.pid}/ns/net").st_ino
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_text()
                is_mine = os.stat(f"/proc/{pid}/ns/net").st_ino == mine
                if is_mine and line and "sshd" not in line:
                    found.append(int(pid))
            except OSError:  # it has ended
                continue
        return found

    def crash(self):
        """Kill all that runs there beside sshd, as a reset does."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def files(self):
        """What is in its home, beside what was there."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*")
                      if path.parts[len(self.home.parts)] not in (".ssh", "host_key", "host_key.pub"))  # fmt: skip


class Lab:
    """Three machines; the third has neither Python nor cw."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.here = self.directory / "here"
        """What no other machine sees."""
        self.here.mkdir()
        self.known = self.directory / "known_hosts"
        self.known.touch()
        self.public_key = key(self.directory / "key", "user")
        ip("link", "set", "lo", "up")
        ip("link", "add", "lab", "type", "bridge")
        ip("addr", "add", "10.77.0.1/24", "dev", "lab")
        ip("link", "set", "lab", "up")
        self.machines = [Machine(self, number, has_cw=number < 3) for number in (1, 2, 3)]
        self.config = self.directory / "config"
        self.config.write_text(
            "".join(
                SSH_CONFIG.format(
                    name=m.name, address=m.address, key=self.directory / "key", known=self.known
                )
                for m in self.machines
            )
        )


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
