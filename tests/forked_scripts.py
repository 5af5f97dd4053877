"""Scripts that start at once: forked from a process that has loaded what they import.

    with ScriptTemplate() as template:
        done = template.run(path)         # done.returncode, done.stdout, done.stderr

A script finds `__main__`, `sys.argv`, `sys.path`, directory and environment as if it were started by itself, and ends
as a process does. With a `pipe_runner.Template`, its `ForkedRunner`s come from there. A test in which the start of the
interpreter matters (-m, -c, signals, which modules are loaded) starts a process of its own.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import types

import pipe_runner

TESTS = os.path.dirname(os.path.abspath(__file__))
LIMIT = 60.0


class ScriptTemplate:
    """While it is open, `run` can be used."""

    def __init__(self, runners=None):
        self._runners = runners

    def __enter__(self):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(LIMIT)
        path = os.pathsep.join([TESTS, pipe_runner.ROOT])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                cwd="/",
            )
        return self

    def __exit__(self, *_):
        self._control.close()
        self._process.wait()

    def run(self, path, **environment):
        """Run the script at `path` to its end, in its directory."""
        request = {"path": str(path), "environment": {**os.environ, **environment}}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            fds = [out.fileno(), err.fileno()]
            if self._runners is not None:
                fds.append(self._runners.control.fileno())
            socket.send_fds(self._control, [json.dumps(request).encode()], fds)
            pid = int(self._control.recv(100))
            try:
                status = os.waitstatus_to_exitcode(int(self._control.recv(100)))
            except TimeoutError:
                os.kill(pid, 9)
                self._control.recv(100)
                raise
            return subprocess.CompletedProcess([str(path)], status, _text(out), _text(err))


def _text(file):
    file.seek(0)
    return file.read().decode()


def main():
    import cw.client.functions
    import cw.client.objects
    import cw.payloads.chunks
    import cw.payloads.environment
    import cw.payloads.serialize  # noqa: F401

    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, fds, _, _ = socket.recv_fds(control, 2**18, 3)
        if not data:
            return
        pid = os.fork()
        if not pid:
            break
        for fd in fds:
            os.close(fd)
        control.send(b"%d" % pid)
        control.send(b"%d" % os.waitpid(pid, 0)[1])
    # The forked process, which becomes the script.
    control.close()
    out, err, *runners = fds
    for fd, number in ((out, 1), (err, 2)):
        os.dup2(fd, number)
        os.close(fd)
    if runners:
        pipe_runner.ForkedRunner.template = types.SimpleNamespace(control=socket.socket(fileno=runners[0]))
    _become(**json.loads(data))


def _become(path, environment):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(os.path.dirname(path))
    sys.argv = [path]
    sys.path[0] = os.path.dirname(path)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = path
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, vars(module))


if __name__ == "__main__":
    main()
