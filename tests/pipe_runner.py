"""A runner at the end of two pipes, for tests of what travels: it runs the calls that it is sent, and answers.

    with PipeRunner() as runner:
        assert runner.call(function, 1, key=2) == 3      # raises what the function raises over there

It is another process, with another `__main__`. It takes one call at a time and forgets nothing. A `ForkedRunner` starts
sooner, from a template that has loaded what runners need.
"""

import io
import os
import signal
import socket
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PipeRunner:
    def __init__(self, environment=None):
        from cw.client.functions.functions import FunctionTable
        from cw.client.session.objects import ObjectTable

        self.objects = ObjectTable(lambda: b"")
        self.functions = FunctionTable(self.objects)
        self.sent = 0
        self.sent_bytes = 0  # of objects
        self._start()
        if environment is not None:
            self._exchange(b"environment", environment)

    def _start(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
            cwd="/",
        )
        self._to, self._from = self.process.stdin, self.process.stdout

    def call(self, function, *args, **kwargs):
        return self._run(*self.functions.call(function, args, kwargs))

    def _run(self, number, payload):
        for fresh in range(self.sent + 1, number + 1):
            self.sent = fresh
            content = self.objects.get(fresh).payload
            self.sent_bytes += len(content)
            self._exchange(b"object", fresh.to_bytes(4, "little"), content)
        return self._exchange(b"call", number.to_bytes(4, "little"), payload)

    def map(self, function, items, mode=1):
        """Make calls that travel together."""
        from cw.payloads.chunks import Chunk

        prepared = self.functions.freeze(function, mode)
        chunk = Chunk(function, prepared.inline_state)
        for item in items:
            chunk.add((item,))
        return self._run(
            self.functions.number_of(function, prepared, chunk.names, chunk.codes), chunk.payload()
        )

    def bytes_of(self, function, *args):
        """Return the size (bytes) of the objects that are sent for this call."""
        before = self.sent_bytes
        self.call(function, *args)
        return self.sent_bytes - before

    def _exchange(self, *parts):
        from cw.payloads import serialize

        _write(self._to, *parts)
        kind, payload = _read(self._from)
        if kind == b"error":
            raise serialize.load_error(payload, "the job")
        return serialize.load_result(payload)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class ForkedRunner(PipeRunner):
    """A PipeRunner forked from a template process that `Template` keeps."""

    template = None

    def _start(self):
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(ForkedRunner.template.control, [b"+"], [theirs.fileno(), 2])
        self._socket = ours
        self._to, self._from = ours.makefile("wb"), ours.makefile("rb")

    def __exit__(self, *_):
        self._to.close()
        self._socket.shutdown(socket.SHUT_WR)
        self._from.read()  # until it has ended
        self._from.close()
        self._socket.close()


class Template:
    """Template process of `ForkedRunner`, which needs it open."""

    def __enter__(self):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": ROOT},
                cwd="/",
            )
        ForkedRunner.template = self
        return self

    def __exit__(self, *_):
        ForkedRunner.template = None
        self.control.close()
        self._process.wait()


def _write(file, *parts):
    file.write(struct.pack("<I", len(parts)))
    for part in parts:
        file.write(struct.pack("<Q", len(part)))
        file.write(part)
    file.flush()


def _read(file):
    head = file.read(4)
    if not head:
        raise EOFError
    return [file.read(struct.unpack("<Q", file.read(8))[0]) for _ in range(struct.unpack("<I", head)[0])]


def fork_runners(control):
    """Fork runners until nobody wants more; in each of them, return its connection."""
    import cw.runner.script  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            sys.exit()
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection, stderr = fds
    os.dup2(stderr, 2)
    os.dup2(stderr, 1)  # what jobs print
    return connection


def serve(source, answers):
    from cw.payloads import environment, serialize
    from cw.runner.script import Script

    objects = {}
    script = Script(objects.__getitem__)
    while True:
        try:
            kind, *parts = _read(source)
        except EOFError:
            return
        try:
            value = None
            if kind == b"environment":
                environment.apply_environment(environment.load_environment(parts[0]))
            elif kind == b"object":
                objects[int.from_bytes(parts[0], "little")] = parts[1]
            else:
                function, args, kwargs = script.prepare(int.from_bytes(parts[0], "little"), parts[1])
                value = function(*args, **kwargs)
            answer = b"result", serialize.dump_result(value)
        except BaseException as error:
            script.explain(error)
            answer = b"error", serialize.dump_error(error, {"host": "here", "pid": os.getpid()})
        _write(answers, *answer)


def main():
    if len(sys.argv) > 1:
        connection = fork_runners(socket.socket(fileno=int(sys.argv[1])))
        serve(os.fdopen(connection, "rb"), io.FileIO(os.dup(connection), "wb"))
        return
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what jobs print
    serve(source, answers)


if __name__ == "__main__":
    main()
