"""Programs and scripts that start at once: forked from a process that has loaded what they import.

    template = Template("cw.master.cli", "cw.worker.cli")
    process = template.start(["-m", "cw.master"], out, err, cwd, environment)    # pid, poll(), wait(), kill()
    done = run_script(template, path)                                            # returncode, stdout, stderr

What is started finds `__main__`, `sys.argv`, `sys.path`, directory and environment as if it were started by itself, and
ends as a process does. A test in which the start of the interpreter matters (its options, PYTHONPATH, which modules are
loaded) starts a process of its own.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types

import pipe_runner

TESTS = os.path.dirname(os.path.abspath(__file__))
LIMIT = 60.0

opened = []
"""Templates whose process runs. It is no child of a test."""


class Template:
    """A process that has imported these modules. It runs from the first use to `close`."""

    def __init__(self, *modules):
        self._modules = modules
        self.process = None

    def start(self, command, out, err, cwd, environment, control_of_runners=None):
        """`command`: -m with a module, or the path of a script; and arguments."""
        self._open()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(LIMIT)
        fds = [theirs.fileno(), out.fileno(), err.fileno()]
        if control_of_runners is not None:
            fds.append(control_of_runners.fileno())
        with theirs:
            request = {"command": list(map(str, command)), "cwd": str(cwd), "environment": environment}
            socket.send_fds(self._control, [json.dumps(request).encode()], fds)
        return Process(ours)

    def suits(self, environment):
        """Would a Python of this environment begin as the template has begun?"""
        self._open()
        return _of_python(environment) == self._began_with

    def _open(self):
        if self.process is not None:
            return
        environment = {**os.environ, "PYTHONPATH": pipe_runner.ROOT, "PYTHONUNBUFFERED": "1"}
        self._began_with = _of_python(environment)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        opened.append(self)

    def close(self):
        if self.process is not None:
            self._control.close()
            self.process.wait()
            self.process = None
            opened.remove(self)


def _of_python(environment):
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


def close_all():
    for template in list(opened):
        template.close()


class Process:
    """What was started, with what the tests use of `subprocess.Popen`."""

    def __init__(self, status):
        self._status = status  # the socket on which it comes
        self.pid = int(status.recv(100))
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self._status.setblocking(False)
            try:
                self._take()
            except BlockingIOError:
                pass
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self._status.settimeout(LIMIT)
            self._take()
        return self.returncode

    def _take(self):
        self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(100)))
        self._status.close()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_script(template, path, runners=None, **environment):
    """Run a script to its end, in its directory. It finds the helpers of the tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, pipe_runner.ROOT]), **environment}
    control = None if runners is None else runners.control
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = template.start([path], out, err, path.parent, environment, control)
        try:
            status = process.wait()
        finally:
            process.kill()
        return subprocess.CompletedProcess([path], status, _text(out), _text(err))


def _text(file):
    file.seek(0)
    return file.read().decode()


# --- in the process of a template -----------------------------------------------------------------


def main():
    fd, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    control = socket.socket(fileno=int(fd))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(control, 2**18, 4)
        if not data:
            return
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _fork_and_report(socket.socket(fileno=fds[0]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd, number in zip(fds[1:], (1, 2), strict=False):
        os.dup2(fd, number)
        os.close(fd)
    for fd in fds[3:]:
        pipe_runner.ForkedRunner.template = types.SimpleNamespace(control=socket.socket(fileno=fd))
    _become(**json.loads(data))


def _fork_and_report(status):
    """Returns in a child; its parent reports its pid and its exit status, and is over."""
    pid = os.fork()
    if pid:
        status.send(b"%d" % pid)
        status.send(b"%d" % os.waitpid(pid, 0)[1])
        os._exit(0)
    status.close()


def _become(command, cwd, environment):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if command[0] == "-m":
        del sys.path[0]
        sys.argv = command[1:]
        runpy.run_module(command[1], None, "__main__", True)
        return
    sys.argv = command
    sys.path[:1] = [os.path.dirname(command[0]), TESTS]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = command[0]
    with open(command[0], "rb") as file:
        code = compile(file.read(), command[0], "exec", dont_inherit=True)
    exec(code, vars(module))


if __name__ == "__main__":
    main()
