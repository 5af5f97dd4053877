"""A private, throw-away Slurm on this one machine: real munged, slurmctld and some slurmd, all on loopback.

    with Sandbox(nodes=3, cpus=2) as slurm:       # up in less than a second, gone without a trace
        subprocess.run(["sbatch", ...], env={**os.environ, **slurm.environment})
        slurm.crash("n2")                         # SIGKILL to its slurmd, steps and tasks

Needs Debian's packages slurm-wlm and munge, no root, no cgroups, no files outside its own directory.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

SBIN = ":/usr/sbin:/sbin"  # the daemons lie there; a user's PATH may lack it
HOW_TO_GET_IT = "Slurm is not installed here: apt-get install slurm-wlm munge"

CONF = """\
ClusterName=sandbox
SlurmctldHost=localhost
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={d}/run/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool/%n
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmdPidFile={d}/run/slurmd.%n.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd.%n.log
{communication}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Nodes may claim more CPUs than there are; one that comes back is used again.
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
# What takes minutes on a real cluster takes seconds here. (A requeued job waits for cred_expire, too.)
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
KillWait=3
SlurmdTimeout=10
MessageTimeout=5
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed():
    return all(
        shutil.which(name, path=os.environ["PATH"] + SBIN) for name in ("sbatch", "slurmctld", "munged")
    )


class Sandbox:
    """A private Slurm. `settings`: more lines for slurm.conf, above the ones here. `gpus`: devices of each node, which
    are device nodes without hardware (`can_make_devices`)."""

    def __init__(self, nodes=3, cpus=2, memory=4000, settings=(), gpus=0):
        if not is_installed():
            raise RuntimeError(HOW_TO_GET_IT)
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        # A short path: UNIX sockets lie below it.
        self.directory = Path(tempfile.mkdtemp(prefix="cw-slurm-", dir="/tmp"))
        self.conf = self.directory / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf)}
        for name in ("run", "state", "spool", "log"):
            (self.directory / name).mkdir()
        self.directory.chmod(0o755)
        (self.directory / "run/munge.key").touch(0o600)
        (self.directory / "run/munge.key").write_bytes(os.urandom(128))
        # slurmd asks for a cgroup version even where cgroups are not used, and fails where there are none.
        (self.directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._port, *ports = _free_ports(nodes + 1)
        lines = [
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}"
            + (f" Gres=gpu:{gpus}" if gpus else "")
            for name, port in zip(self.nodes, ports, strict=True)
        ]
        user = pwd.getpwuid(os.getuid()).pw_name
        head = CONF.format(d=self.directory, port=self._port, user=user, communication=_communication())
        if gpus:
            head += "GresTypes=gpu\n"
            names = [self.directory / f"device{number}" for number in range(gpus)]
            for name in names:
                _make_device(name)
            (self.directory / "gres.conf").write_text("".join(f"Name=gpu File={name}\n" for name in names))
        self.conf.write_text("\n".join([head, *lines, *settings, ""]))

    def __enter__(self):
        try:
            self._spawn("munged")
            self._wait_for((self.directory / "run/munge.sock").exists)
            self._spawn("slurmctld")  # first: a slurmd that finds it deaf sleeps for a second
            self._wait_for(self._is_controller_listening)
            for name in self.nodes:
                self._spawn(name)
            self._wait_for(lambda: self.states() == dict.fromkeys(self.nodes, "idle"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        _end(self._pids(), signal.SIGTERM, 0.5)
        for _ in range(2):  # a second time for what was just being started
            _end(self._pids(), signal.SIGKILL, 5)
        shutil.rmtree(self.directory)

    def run(self, *command, **more):
        """Run one of Slurm's programs; return its output."""
        process = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            **more,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def states(self):
        """Return the state of each node, by name."""
        found = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%N %t"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
        )
        return dict(line.split() for line in found.stdout.splitlines())

    def queue(self, form="%i|%T|%j"):
        """Return the jobs that have not ended, a list of fields for each."""
        lines = self.run("squeue", "-h", "-o", form).splitlines()
        return [line.split("|") for line in lines]

    def crash(self, name):
        """Send SIGKILL to a node (its daemon, steps and tasks), or to slurmctld."""
        _end(self._pids(name), signal.SIGKILL, 5)

    def boot(self, name):
        """Start that daemon again."""
        self._spawn(name)
        if name == "slurmctld":
            self._wait_for(self._is_controller_listening)
            self._wait_for(self.states)

    def _spawn(self, name):
        run, log = self.directory / "run", self.directory / "log"
        command = {
            "munged": [
                "munged", "--foreground", "--force", f"--socket={run}/munge.sock", f"--key-file={run}/munge.key",
                f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log", f"--seed-file={run}/munged.seed",
            ],
            "slurmctld": ["slurmctld", "-D", "-f", str(self.conf)],
        }.get(name, ["slurmd", "-N", name, "-D", "-f", str(self.conf)])  # fmt: skip
        environment = {**os.environ, **self.environment, "PATH": os.environ["PATH"] + SBIN}
        with open(log / f"{name}.out", "ab") as out:
            process = subprocess.Popen(
                [shutil.which(command[0], path=environment["PATH"]), *command[1:]],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        process.returncode = 0  # it is ended by its pid: Popen shall not warn

    def _is_controller_listening(self):
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self._port)) == 0

    def _wait_for(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"{path.name}: {path.read_text(errors='replace')[-800:]}"
                    for path in self.directory.glob("log/*")
                )
                raise RuntimeError(f"the sandbox does not come up: {self.states()}\n{logs}")
            time.sleep(0.03)

    def _pids(self, name=None):
        """Pids of all of the cluster (or of one node, or slurmctld), with what they have started.

        Pids that were noted would miss the steps, which outlive slurmd. So: our SLURM_CONF in the environment, and
        either one of Slurm's programs or what only a task has there (a test runner has neither); then all below them.
        """
        wanted, found, parent = os.fsencode(f"SLURM_CONF={self.conf}"), set(), {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                parent[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                files = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue  # it is gone, or another user's
            task = [entry[16:] for entry in environment if entry.startswith(b"SLURMD_NODENAME=")]
            is_slurms = program.startswith(("slurm", "munged", "srun", "salloc", "sbatch"))
            is_there = (
                name is None
                or name.encode() in [*task, *map(os.path.basename, arguments[:3])]
                or f"{self.directory}/log/slurmd.{name}.log" in files
            )
            if wanted in environment and (is_slurms or task) and is_there:
                found.add(pid)
        while more := {pid for pid, above in parent.items() if above in found} - found:
            found |= more
        return found - {os.getpid()}


def can_make_devices():
    """True if this user may make device nodes, for which Slurm sets the variables of GPUs."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            _make_device(Path(directory, "device"))
        except OSError:
            return False
    return True


def _make_device(path):
    """Make a device like /dev/zero."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def _end(pids, number, seconds):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + seconds
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(pid):
    try:
        os.waitpid(pid, os.WNOHANG)  # one of our children
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _free_ports(count):
    """Return free ports of loopback, below those that the kernel assigns to clients."""
    held = []
    while len(held) < count:
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", random.randrange(20000, 32000)))
            held.append(sock)
        except OSError:
            sock.close()
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def _communication():
    """Loopback alone, where this machine's own name means that. IPv6 where there is some: with IPv4 alone, Slurm's
    look-ups fail on a machine that has no other interface."""
    found = []
    try:
        if socket.gethostbyname(socket.gethostname()) == "127.0.0.1":
            found += ["NoInAddrAny", "NoCtldInAddrAny"]
    except OSError:
        pass
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        found.append("EnableIPv6")
    except OSError:
        pass
    return "CommunicationParameters=" + ",".join(found) if found else ""
