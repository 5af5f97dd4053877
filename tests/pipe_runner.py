"""A runner at the end of two pipes, for tests of what travels: it calls what it is sent and answers.

    with PipeRunner() as runner:
        assert runner.call(function, 1, key=2) == 3      # raises what the function raises over there

It is another process, with another `__main__`. It takes one call at a time and forgets nothing.
"""

import os
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PipeRunner:
    def __init__(self, environment=None):
        from cw.client.functions import FunctionTable
        from cw.client.objects import ObjectTable

        self.objects = ObjectTable(lambda: b"")
        self.functions = FunctionTable(self.objects)
        self.sent = 0
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
            cwd="/",
        )
        if environment is not None:
            self._exchange(b"environment", environment)

    def call(self, function, *args, **kwargs):
        return self._run(*self.functions.call(function, args, kwargs))

    def _run(self, number, payload):
        for fresh in range(self.sent + 1, number + 1):
            self._exchange(b"object", fresh.to_bytes(4, "little"), self.objects.get(fresh).payload)
            self.sent = fresh
        return self._exchange(b"call", number.to_bytes(4, "little"), payload)

    def map(self, function, items, mode=1):
        """Calls that travel together."""
        from cw.payloads.chunks import Chunk

        prepared = self.functions.freeze(function, mode)
        chunk = Chunk([(item,) for item in items], function, None if prepared.is_bare else prepared.state)
        return self._run(self.functions.number_of(function, prepared, chunk.names, chunk.codes), chunk.payload())

    def _exchange(self, *parts):
        from cw.payloads import serialize

        _write(self.process.stdin, *parts)
        kind, payload = _read(self.process.stdout)
        if kind == b"error":
            raise serialize.load_error(payload, "the job")
        return serialize.load_result(payload)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


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


def main():
    from cw.payloads import environment, serialize
    from cw.runner.script import Script

    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what jobs print
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


if __name__ == "__main__":
    main()
