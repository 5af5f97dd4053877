"""A terminal of its own for a program: Ctrl-C is typed, and the terminal can go away, as when ssh is cut."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import termios
import threading

from conftest import wait_until
from programs import LIMIT, ROOT


class Terminal:
    """A Python process whose stdin, stdout and stderr are a terminal. At the end of the block it is killed."""

    def __init__(self, *arguments, cwd, **environment):
        self._descriptor, inner = os.openpty()
        self.text = ""
        """What it has written."""
        self._is_gone = False
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inner)
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        with contextlib.suppress(OSError):  # the program has ended
            while not self._is_gone:
                if poller.poll(20):  # (a thread in `read` would keep the terminal)
                    self.text += (
                        os.read(self._descriptor, 4096).decode(errors="replace").replace("\r\n", "\n")
                    )

    def type(self, text):
        os.write(self._descriptor, text.encode())

    def wait_for(self, text, count=1):
        wait_until(lambda: self.text.count(text) >= count, LIMIT, lambda: self.text)

    def hang_up(self):
        """Let the terminal go away: the program gets SIGHUP, and nothing that it writes arrives."""
        if not self._is_gone:
            self._is_gone = True
            self._reader.join()
            os.close(self._descriptor)

    def wait(self):
        """Wait for its end; return its exit status."""
        wait_until(lambda: self.process.poll() is not None, LIMIT, lambda: self.text)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.hang_up()
