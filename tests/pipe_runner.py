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

        self.functions = FunctionTable()
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
        from cw.payloads import serialize

        number, payload = self.functions.number_of(function)
        if payload is not None:
            self._exchange(b"function", number.to_bytes(4, "little"), payload)
        call = serialize.dump_call(args, kwargs, function)
        return self._exchange(b"call", number.to_bytes(4, "little"), call)

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

    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what jobs print
    functions = {}
    while True:
        try:
            kind, *parts = _read(source)
        except EOFError:
            return
        try:
            value = None
            if kind == b"environment":
                environment.apply_environment(environment.load_environment(parts[0]))
            elif kind == b"function":
                functions[parts[0]] = serialize.load_function(parts[1])
            else:
                args, kwargs = serialize.load_call(parts[1])
                value = functions[parts[0]](*args, **kwargs)
            answer = b"result", serialize.dump_result(value)
        except BaseException as error:
            answer = b"error", serialize.dump_error(error, {"host": "here", "pid": os.getpid()})
        _write(answers, *answer)


if __name__ == "__main__":
    main()
