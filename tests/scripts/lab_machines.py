"""In namespaces of its own (see test_ssh.py): three lab machines with sshd, and a user who has what he types."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ssh_lab as lab
from ssh_lab import wait_until

import cw

SILENCE = 2


def say(text):
    print(f"{time.monotonic() - BEGAN:5.1f} s: {text}", flush=True)


BEGAN = time.monotonic()


class User:
    """Types commands here."""

    def __init__(self, room):
        self.room = room
        os.environ |= {
            "HOME": str(room.here),
            "CW_HOME": str(room.here / ".cw"),
            "TMPDIR": str(room.directory),
        }
        os.environ.pop("CW_CREDENTIAL", None)
        os.chdir(room.here)
        sys.path.insert(0, str(room.here))

    def cw(self, *words, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "cw", *words], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout

    def slots(self, name=None):
        found = cw.ssh.status(name)
        return {machine.target: machine.slots for machine in found.machines}


def whereabouts(number):
    time.sleep(0.1)
    return number, os.uname().nodename, os.getcwd(), os.environ["CW_CREDENTIAL"]


def slow(number):
    time.sleep(0.4)
    return number


def other_python():
    """Another minor version of Python on this machine, or None."""
    for path in [*Path.home().glob(".pyenv/versions/3.*/bin/python3"), *Path("/usr/bin").glob("python3*")]:
        asked = subprocess.run(
            [path, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True
        )
        if asked.stdout.strip().isdigit() and int(asked.stdout) != sys.version_info[1]:
            return path
    return None


def one_refuses_the_key_one_has_another_python_one_no_cw(user, third):
    keys = (third.home / ".ssh/authorized_keys").read_text()
    third.let_in("")
    limits = [f"--Xworkers=--silence={SILENCE}", f"--Xmaster=--silence={SILENCE}"]
    shown = user.cw(
        "ssh", "start", "lab1:2", "lab3", "lab2:3", "-F", str(user.room.config), *limits, status=1
    )
    first, second, *rest = shown.splitlines()
    assert first.startswith("lab1: 2 slots; jobs run in "), shown
    assert second.startswith("lab3: not started: ") and "Permission denied" in second, shown
    assert f"ssh -F {user.room.config} lab3" in second, shown
    assert rest[0].startswith("lab2: 3 slots; ") and rest[1].startswith("5 slots on 2 of 3 machines"), shown
    third.let_in(keys)
    say("two machines are up, one refuses the key")
    if python := OTHER_PYTHON:
        (third.bin / "python3").symlink_to(python)
        shown = user.cw("ssh", "start", status=1)
        assert re.search(r"lab3: not started: its Python is 3\.\d+ .*, this one is 3\.\d+", shown), shown
        assert "lab1: 2 slots already" in shown
        say("one has another Python")
    minor = sys.version_info[1]
    (third.bin / f"python3.{minor}").symlink_to(sys._base_executable)
    shown = user.cw("ssh", "start", status=1)
    assert f"lab3: not started: there is no cw for its Python 3.{minor}" in shown and "--install" in shown, (
        shown
    )
    say("one has no cw")


def it_is_installed(user, third):
    wheels = third.directory / "wheels"
    wheels.mkdir()
    names = ["bluelet", "cloudpickle", "cryptography", "cffi", "pycparser", "xxhash"]
    subprocess.run([sys.executable, str(lab.ROOT / "tests/wheels.py"), str(wheels), *names], check=True)
    (third.home / ".config/pip").mkdir(parents=True)
    (third.home / ".config/pip/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
    shown = user.cw("ssh", "start", "--install", "lab3:1")
    assert "lab3: 1 slot; jobs run in " in shown and "6 slots on 3 machines" in shown, shown
    say("cw is installed there")


def jobs_run_on_all(user):
    found = list(cw.map(whereabouts, range(60)))
    assert [number for number, *_ in found] == list(range(60))
    by_machine = {machine: rest for _, machine, *rest in found}
    assert sorted(by_machine) == ["lab1", "lab2", "lab3"], by_machine
    for machine in user.room.machines:
        directory, credential = by_machine[machine.name]
        place = machine.home / ".cw/machines" / machine.name
        assert Path(directory).parent.parent == Path(credential).parent.parent == place
        assert (
            os.stat(credential).st_mode & 0o777 == 0o600
            and os.stat(Path(credential).parent).st_mode & 0o777 == 0o700
        )
        assert (
            Path(credential).read_bytes() == (user.room.here / ".cw/ssh-default/credential.pem").read_bytes()
        )
        for pid in machine.processes():
            assert "PRIVATE" not in " ".join(words_of(pid))
    say("jobs run on all three")


def read_there(number):
    import mylab

    time.sleep(0.1)
    with open("params.toml") as file:
        return mylab.NAME, file.read(), os.uname().nodename


def own_modules_and_data_travel(user):
    for text in ("1", "2"):
        (user.room.here / "mylab.py").write_text(f"NAME = 'mylab {text}'\n")
        (user.room.here / "params.toml").write_text(text)
        with cw.ClusterExecutor(modules=["mylab"], files=["params.toml"]) as executor:
            found = set(executor.map(read_there, range(24)))
        assert found == {(f"mylab {text}", text, f"lab{number}") for number in (1, 2, 3)}, found
    say("own modules and data travel, also edited ones")


def one_is_cut_and_comes_back(user, second):
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(slow, number) for number in range(40)]
        futures[0].result(20)
        second.cut()
        wait_until(lambda: user.slots()["lab2"] == 0)
        shown = user.cw("ssh", "status", status=1)
        assert re.search(r"lab2: lost at ", shown) and "lab1: 2 slots" in shown, shown
        assert [future.result(60) for future in futures] == list(range(40))
    second.plug_in()
    wait_until(lambda: user.slots()["lab2"] == 3)
    say("one was cut off, and is back")


def what_is_missing_is_repaired(user, first, others):
    before = {machine.name: machine.worker() for machine in others}
    first.crash()
    wait_until(lambda: user.slots()["lab1"] == 0)
    assert "lab1: lost at " in user.cw("ssh", "status", status=1)
    shown = user.cw("ssh", "start")
    assert shown.splitlines()[0].startswith("lab1: 2 slots; "), shown
    assert "lab2: 3 slots already" in shown
    assert {machine.name: machine.worker() for machine in others} == before
    say("what was missing is repaired")


def only_ssh_gets_through(user):
    options = {"master": "lab1", "tunnel": True, "ssh_options": ["-F", str(user.room.config)]}
    with cw.ssh.allocate(["lab1:1", "lab2:2"], **options) as cluster:
        assert cluster.slots == 3 and not any(outcome.problem for outcome in cluster.outcomes)
        assert cluster.master.startswith("127.0.0.1:")
        (name,) = {path.name[4:] for path in (user.room.here / ".cw").glob("ssh-block-*") if path.is_dir()}
        for turn in range(2):
            assert {machine for _, machine, *_ in cw.map(whereabouts, range(20))} == {"lab1", "lab2"}, turn
            if not turn:
                (tunnel,) = tunnels = tunnels_to("lab2")
                os.kill(int(tunnel), signal.SIGKILL)
                wait_until(lambda former=tunnels: tunnels_to("lab2") not in ([], former), 60)
                wait_until(lambda: user.slots(name)["lab2"] == 2, 60)
    say("a cluster for a block, whose tunnels are kept up")


def tunnels_to(target):
    return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_tunnel(pid, target)]


def is_tunnel(pid, target):
    words = words_of(pid)
    return words[0] == "ssh" and "-N" in words and target in words


def words_of(pid):
    """The command line of a process; one empty word if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return [""]


def main(directory):
    room = lab.Lab(directory)
    user = User(room)
    first, second, third = room.machines
    own = first.home / ".cw"
    own.mkdir(0o700)
    (own / "credential.pem").write_text("the machine's own")
    one_refuses_the_key_one_has_another_python_one_no_cw(user, third)
    it_is_installed(user, third)
    jobs_run_on_all(user)
    own_modules_and_data_travel(user)
    one_is_cut_and_comes_back(user, second)
    what_is_missing_is_repaired(user, first, [second, third])
    only_ssh_gets_through(user)
    shown = user.cw("ssh", "stop", "--uninstall")
    assert "the cluster 'default' is stopped: nothing of it is left on 3 machines" in shown, shown
    assert (own / "credential.pem").read_text() == "the machine's own"
    shutil.rmtree(own)
    shutil.rmtree(third.home / ".config")
    for machine in room.machines:
        assert machine.files() == [] and machine.processes() == [], (machine.name, machine.files())
    left = [str(path) for path in (room.here / ".cw").rglob("*") if path.suffix != ".lock"]
    assert not left, left
    say("nothing is left anywhere")


OTHER_PYTHON = other_python()

if __name__ == "__main__":
    main(sys.argv[1])
